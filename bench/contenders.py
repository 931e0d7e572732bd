"""Those who compute in ``mpc.py``: processes that all get the same orders and answer each with one line."""

import contextlib
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from environments import PROGRAMS, prepare
from mpc_party import names
from processes import ProcessFailed, Talker, free_port
from rows import say
from transport import make_identity
from veilsum.mpc.engines import ENGINES

SPU, TORCH = "SPU ABY3", "PyTorch in clear"
HERE = Path(__file__).parent


class Cost(NamedTuple):
    """What a work costs a contender.

    Attributes:
        wall: seconds, of the slowest party, the median of several runs.
        cpu: core-seconds of all parties together, likewise.
        sent: bytes by all parties.
        rounds: None where they are not counted.
        digest: sum of the magnitudes of all results.
    """

    wall: float
    cpu: float
    sent: int | None
    rounds: int | None
    digest: float


class Contender:
    """All processes of one contender."""

    def __init__(self, talkers: Sequence[Talker]) -> None:
        self._talkers = talkers
        self._runs: list[list[dict[str, Any]]] = []
        self._first: list[dict[str, Any]] = []
        for talker in talkers:
            talker.answer()

    def order(self, name: str, **details: Any) -> list[dict[str, Any]]:
        """Give all processes one order; return their answers.

        Raises:
            ProcessFailed: one ended or is silent.
        """
        for talker in self._talkers:
            talker.ask(order=name, **details)
        return [talker.answer() for talker in self._talkers]

    def prepare(self, work: str, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
        """Get ready for a work, with a first run that does not count."""
        self._runs, self._first = [], self.order("prepare", work=work, sizes=sizes)
        return self._first

    def go(self) -> float:
        """Run it once for the clock; return the seconds."""
        self._runs.append(self.order("go"))
        return max(float(answer["wall"]) for answer in self._runs[-1])

    def cost(self) -> Cost:
        """Return what the runs since `prepare` cost."""
        sent = [answer["sent"] for answer in self._first]
        return Cost(
            statistics.median(max(answer["wall"] for answer in run) for run in self._runs),
            statistics.median(sum(answer["cpu"] for answer in run) for run in self._runs),
            None if None in sent else sum(sent),
            self._first[0].get("rounds"),
            self._first[0]["digest"],
        )


class Contenders:
    """Starts contenders when they are first asked for, and ends them all.

    Args:
        folder: of the identities.

    Attributes:
        problems: by name, why a peer cannot be had.
        versions: of the peers that were asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._made: dict[str, Contender | None] = {}
        self.problems: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def ours(self, engine: str) -> Contender:
        """Return our computing parties on an engine.

        Raises:
            ProcessFailed: they do not stand.
        """
        made = self._made.get(engine)
        if made is None:
            count = ENGINES[engine].parties
            for name in names(count):
                make_identity(self._folder, name)
            ports = ",".join(str(free_port()) for _ in range(count))
            program = [sys.executable, str(HERE / "mpc_party.py"), engine]
            rest = [str(self._folder), ports]
            made = self._start([[*program, str(number), *rest] for number in range(count)], os.environ)
            self._made[engine] = made
        return made

    def peer(self, name: str) -> Contender | None:
        """Return a peer, None if it cannot be had."""
        if name not in self._made:
            environment = prepare("spu" if name == SPU else "torch")
            self.versions |= environment.versions
            self._made[name] = None
            self.problems[name] = environment.problem
            if environment.python is not None:
                try:
                    self._made[name] = self._start(_commands(name, environment.python), environment.variables)
                except ProcessFailed as error:
                    self.fail(name, error)
        return self._made[name]

    def fail(self, name: str, error: Exception) -> None:
        """Remember that a peer is out of the race."""
        self.problems[name] = str(error)
        self._made[name] = None
        say(f"  {name}: {error}")

    def _start(self, commands: Sequence[Sequence[str]], variables: Mapping[str, str]) -> Contender:
        talkers = []
        for command in commands:
            talker = Talker(command, variables)
            self._stack.callback(talker.close, kill=True)
            talkers.append(talker)
        return Contender(talkers)


def _commands(name: str, python: Path) -> list[list[str]]:
    if name == TORCH:
        return [[str(python), str(PROGRAMS / "torch_mlp.py")]]
    addresses = ",".join(f"127.0.0.1:{free_port()}" for _ in range(3))
    program = [str(python), str(PROGRAMS / "spu_mpc.py")]
    return [[*program, str(rank), addresses] for rank in range(3)]
