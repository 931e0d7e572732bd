"""Our alignments: ``veilsum run`` at two parties, two processes over mutual TLS, timed from start to exit."""

import datetime as dt
import sys
from pathlib import Path
from typing import NamedTuple

import intersections
from intersections import Cost
from processes import free_port
from relay import Relay
from veilsum.node.homes import make_homes

MEMORY = 512  # MiB: the budget that `veilsum run` is given
NAMES = ("first", "second")
_RUN = "import sys; from veilsum.cli.main import main; sys.exit(main())"

DATA = """\
[data.customers]
source = "{source}"
ids = {{ columns = ["id"], kind = "text", case = "keep", duplicates = "refuse" }}
"""
JOB = """\
kind = "hidden_psi"
purpose = "benchmark"
expires = {expires}
[parties]
{parties}
[data]
first = "customers"
second = "customers"
[params]
{params}
"""


class Mode(NamedTuple):
    """One construction of an alignment with its parameters.

    Attributes:
        title: what rows call it.
        parties: the roles of the job, as TOML.
        params: what is not as by default, as TOML.
        fact: the fact that counts the ids in common, at whoever learns it.
    """

    title: str
    parties: str
    params: tuple[str, ...]
    fact: str = "matches"

    def job(self) -> str:
        """Return the job file, good for two days."""
        expires = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2)
        return JOB.format(expires=expires, parties=self.parties, params="\n".join(self.params))


DH_OPEN = Mode("DH", 'member = ["first", "second"]\ncollector = "first"', ())
HIDDEN_UNION = Mode(
    "hidden_union", 'member = ["first", "second"]', ('mode = "hidden_union"',), "ids in common"
)


def blind_rsa(mode: str, bits: int, *, primes: int = 2, reuse_key: bool = False) -> Mode:
    """Return blind RSA in a mode, with a key of so many bits; ``second`` is told what matches."""
    params = [f'mode = "{mode}"', f"key_bits = {bits}"]
    if primes != 2:
        params.append(f"primes = {primes}")
    if reuse_key:
        params.append("reuse_key = true")
    title = f"blind RSA-{bits}{' of three primes' * (primes == 3)} {mode}"
    return Mode(title, 'signer = "first"\nclient = "second"', tuple(params))


HIDDEN_ONE = blind_rsa("hidden_one", 2048)


class Files:
    """The files of ids, made once for each size, and empty folders for runs.

    Attributes:
        costs: what the latest run of a mode on so many ids a side has cost.
    """

    def __init__(self, folder: Path) -> None:
        self.costs: dict[tuple[Mode, int], Cost] = {}
        self._folder = folder
        self._runs = 0

    def ids(self, count: int) -> tuple[Path, Path]:
        """Return two files of so many ids."""
        folder = self._folder / str(count)
        paths = folder / "first.csv", folder / "second.csv"
        if not folder.exists():
            folder.mkdir()
            paths = intersections.write_ids(folder, count)
        return paths

    def fresh(self) -> Path:
        """Return an empty folder."""
        self._runs += 1
        folder = self._folder / f"run{self._runs}"
        folder.mkdir()
        return folder


class Homes:
    """Two parties that can run a job, and run it again."""

    def __init__(self, files: Files, mode: Mode, count: int, *, relayed: bool = False) -> None:
        self._mode, self._count = mode, count
        self._real = free_port() if relayed else None
        listen = f'listen = "127.0.0.1:{self._real}"\n' if relayed else ""
        folder = files.fresh()
        data = [DATA.format(source=path) for path in files.ids(count)]
        federation = make_homes(folder, {"first": listen + data[0], "second": data[1]})
        addresses = [member.address for member in federation.members.values()]
        self._port = int(addresses[0].rpartition(":")[2])
        job = folder / "job.toml"
        job.write_text(mode.job())
        verb = [sys.executable, "-c", _RUN, "run", str(job), "--json", "--memory", str(MEMORY)]
        self._commands = [[*verb, "--as", name, "--home", str(folder / name)] for name in NAMES]

    def run(self, *, fresh: bool = False) -> tuple[Cost, int]:
        """Run both commands; return what they cost together, and the relayed bytes.

        Raises:
            IntersectionFailed: a command failed, or a wrong number of matches was found.
        """
        commands = [[*command, *(["--fresh"] if fresh else [])] for command in self._commands]
        if self._real is None:
            (cost, answers), size = intersections.together(commands), 0
        else:
            with Relay(self._real, port=self._port) as relay:
                cost, answers = intersections.together(commands)
            size = relay.size
        facts = [fact for answer in answers for fact in answer.get("facts", [])]
        found = [int(fact["value"]) for fact in facts if fact["name"] == self._mode.fact]
        intersections.check(f"veilsum, {self._mode.title}", found, self._count)
        return cost, size


def ours(files: Files, mode: Mode, count: int) -> Cost:
    """Run one alignment and return the cost of the whole commands."""
    cost = files.costs[mode, count] = Homes(files, mode, count).run()[0]
    return cost


def bytes_per_item(files: Files, mode: Mode, count: int) -> float:
    """Run one alignment through a relay; return the bytes above TCP per id of one side."""
    return Homes(files, mode, count, relayed=True).run()[1] / count
