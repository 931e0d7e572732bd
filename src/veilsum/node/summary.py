"""What a run leaves for people: ``result.json``, from which terminals, reports and consoles draw."""

from typing import Any

import msgspec

from veilsum.jobs import Leak


class Fact(msgspec.Struct, frozen=True):
    """One line of a result table: a name, a value and its unit."""

    name: str
    value: int | float | str
    unit: str = ""


class StepTime(msgspec.Struct, frozen=True):
    """What one step of the protocol's table took at this party; bytes are payload to and from all peers."""

    number: int
    step: str
    seconds: float
    sent: int
    received: int


class Curve(msgspec.Struct, frozen=True, kw_only=True, tag="curve"):
    """Lines over a common, ascending x: series → one value per position."""

    title: str
    x_name: str
    x: tuple[float, ...]
    series: dict[str, tuple[float, ...]]
    unit: str = ""


class Bars(msgspec.Struct, frozen=True, kw_only=True, tag="bars"):
    """Bars: series → one value per group."""

    title: str
    groups: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    unit: str = ""


class Grid(msgspec.Struct, frozen=True, kw_only=True, tag="grid"):
    """Counts of a truth (rows) and an answer (columns): a confusion matrix."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


AnyChart = Curve | Bars | Grid


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One party's view of one finished run: the content of ``result.json``.

    Attributes:
        artefact: id such as ``align-3f2a``, the same at every party of the run.
        parties: role → its parties.
        mode: the choices that decide what leaks, as the user would say them (``open, X25519``).
        adversary: whom the protocol withstands, in one sentence.
        facts: what this party learnt, as lines of a table.
        leaks: the leak table of the job, all roles.
        warnings: what the user should look at, each one sentence.
        files: name → file of this folder (results of this party only).
        algorithms: parameters and code paths in use.
        charts: pictures of the result.
    """

    artefact: str
    kind: str
    mode: str
    adversary: str
    purpose: str
    run: str
    attempt: int
    party: str
    roles: tuple[str, ...]
    parties: dict[str, tuple[str, ...]]
    started: float
    seconds: float
    steps: tuple[StepTime, ...]
    facts: tuple[Fact, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...] = ()
    files: dict[str, str] = {}
    algorithms: dict[str, Any] = {}
    charts: tuple[AnyChart, ...] = ()

    @property
    def sent(self) -> int:
        """Payload bytes sent to all peers."""
        return sum(step.sent for step in self.steps)

    @property
    def received(self) -> int:
        """Payload bytes received from all peers."""
        return sum(step.received for step in self.steps)
