"""What a kind of job is: what it asks for, says beforehand, plays, and leaves behind."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from veilsum.jobs import Job, Leak
from veilsum.net.messages import Message
from veilsum.net.session import Session
from veilsum.node.config import PartyConfig
from veilsum.node.signing_keys import SigningKeys
from veilsum.node.summary import AnyChart, Fact
from veilsum.parties import Federation, PartyId, RunId
from veilsum.store.files import Scratch

Amounts = Mapping[str, Mapping[str, float]]
"""What leaves a party: data set (or model) → unit of the exposure ledger → how much."""


class Brought(Protocol):
    """What one party brings to a run: opened and looked at before any peer is met."""

    def check(self) -> None:
        """Read everything once.

        Raises:
            DataError, ConfigError, JobMismatch: it does not fit the job.
        """

    def amounts(self) -> Amounts:
        """Return what the run may reveal of it, for the exposure ledger."""

    def fingerprints(self, salt: bytes) -> dict[str, bytes]:
        """Return, by name, 32 bytes that change with the content, and say nothing without the salt."""

    def close(self) -> None:
        """Give everything back."""


class Inputs(NamedTuple):
    """What one party brings to a run, and where its results go.

    Attributes:
        brought: what the kind's ``open`` gave.
        scratch: room for tables.
        folder: where results go.
        signing: gives the keys with which it signs a peer's ids, where keys outlast a run.
        least: the fewest rows of a peer with which this party takes part.
    """

    brought: Any
    scratch: Scratch
    folder: Path
    signing: Callable[[PartyId], SigningKeys] | None = None
    least: int = 1


class Finished(NamedTuple):
    """What one party has afterwards.

    Attributes:
        files: names in its result folder.
        charts: pictures for the report.
        spent: what was really revealed, where that is known only now: it replaces what was reserved.
    """

    facts: tuple[Fact, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]
    files: dict[str, str]
    algorithms: dict[str, Any]
    charts: tuple[AnyChart, ...] = ()
    spent: Amounts = MappingProxyType({})


class Kind(NamedTuple):
    """One kind of job.

    Attributes:
        name: as ``kind`` in the job file.
        prefix: of its artefacts' ids.
        params: the type of ``[params]``.
        messages: the protocol's closed set of message types.
        adversary: whom it withstands, in a sentence.
        mode: says the choices that decide what leaks, in the user's words.
        bringers: the parties that bring data; raises ConfigError where the job does not fit the protocol.
        leaks: who will have learnt what.
        open: opens what a party brings to a job, within some MiB of memory; None if nothing.
        play: runs all of a party's roles and writes its results.
        about: what else `veilsum explain` says, as (title, text); costs are for some rows of each owner.
        cautions: what about a job deserves a second look, each one sentence.
    """

    name: str
    prefix: str
    params: type[msgspec.Struct]
    messages: tuple[type[Message], ...]
    adversary: str
    mode: Callable[[Any], str]
    bringers: Callable[[Job, Any], tuple[PartyId, ...]]
    leaks: Callable[[Job, Any], tuple[Leak, ...]]
    open: Callable[[PartyConfig, Job, Any, int], Brought | None]
    play: Callable[[Session, Any, Inputs], Awaitable[Finished]]
    about: Callable[[Job, Any, PartyConfig, int], tuple[tuple[str, str], ...]] = lambda *_: ()
    cautions: Callable[[Job, Any, Federation], tuple[str, ...]] = lambda *_: ()


def artefact_id(prefix: str, run: RunId) -> str:
    """Return the id of a run's artefact, the same at every party."""
    return f"{prefix}-{run[:8]}"
