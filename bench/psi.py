"""Measure alignments beside SPU's ECDH, openmined.psi and OpenSSL's private operations, on the same files.

Ours is ``veilsum run`` at two parties, two processes over mutual TLS, timed from start to exit. SPU is two
processes over brpc without TLS, timed inside its call; openmined.psi is one process without a network, and
never runs on more than 100,000 ids: its cost is scaled by the number of ids. Blind RSA has no such peer: see
``blind_rsa.py``. A full run takes more than half an hour; ``--part`` takes it in pieces of less than ten
minutes, of which ``docs/fill_measured.py`` puts the documents together.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import blind_rsa
import environments
import game
import intersections
from alignments import DH_OPEN, HIDDEN_ONE, HIDDEN_UNION, MEMORY, Files, Mode, bytes_per_item, ours
from intersections import Cost, IntersectionFailed
from rows import Row, against, at_most, emit, limited, say

IDLE, QUICK, QUICK_RSA, FULL, MOST_FOR_OPENMINED = 200, 20_000, 4_000, 1_000_000, 100_000
SPU, OPENMINED = "SPU ECDH, Curve25519", "openmined.psi, P-256"
SECONDS_GOAL, BYTES_GOAL = 17.0, 76.0  # for a million ids a side; at any size
TIMES_OPEN = 3.0  # what hidden_union may take
MEMORY_AT = (100_000, 1_000_000, 10_000_000)
RSA_MEMORY_AT = MEMORY_AT[:2]  # ten million private operations a side take too long
KERNELS = ("x25519 multiply", "RSA-2048 private", "RSA-3072 private")  # the rows that belong here

Measured = tuple[Cost, int] | None


class Peers:
    """The peers, and why one could not be measured."""

    def __init__(self) -> None:
        self.spu, self.openmined = environments.prepare("spu"), environments.prepare("openmined")
        self.problems = {SPU: self.spu.problem, OPENMINED: self.openmined.problem}

    def attempt(self, name: str, measure: Callable[[], tuple[Cost, int]]) -> Measured:
        """Measure a peer; one that fails is told of in its rows."""
        if self.problems[name]:
            return None
        say(f"  {name} …")
        try:
            return measure()
        except (IntersectionFailed, OSError, ValueError, KeyError) as error:
            self.problems[name] = str(error)
            say(f"  {name}: {error}")
            return None


def speed(files: Files, peers: Peers, count: int, repetitions: int) -> list[Row]:
    """Compare seconds and core-seconds, taking turns."""
    ids = files.ids(count)
    few = min(count, MOST_FOR_OPENMINED)
    fewer = ids if few == count else files.ids(few)
    found: dict[str, list[Cost]] = {"ours": [], SPU: [], OPENMINED: []}
    for _ in range(repetitions):
        say(f"{count:,} ids a side, ours …")
        found["ours"].append(ours(files, DH_OPEN, count))
        spu = peers.attempt(SPU, lambda: intersections.spu(peers.spu, files.fresh(), ids, count))
        other = peers.attempt(OPENMINED, lambda: intersections.openmined(peers.openmined, fewer, few))
        for name, measured in ((SPU, spu), (OPENMINED, other)):
            if measured is not None:
                found[name].append(measured[0])
    wall = {name: _median([cost.seconds for cost in costs]) for name, costs in found.items()}
    cores = {name: _median([cost.core_seconds for cost in costs]) for name, costs in found.items()}
    at_few = cores[OPENMINED]
    cores[OPENMINED] = None if at_few is None else at_few * count / few
    idle = ours(files, DH_OPEN, IDLE).core_seconds
    title = f"DH, {count:,} ids a side"
    scaled = f"the peer at {few:,}, scaled per id" if few != count else "the peer without a network"
    plain = "ours whole commands over TLS; the peer its call alone, without TLS"
    goal = 1.0 if count >= FULL else None
    rows = [
        against(title, "s", wall["ours"], wall[SPU], SPU, goal=goal, note=peers.problems[SPU] or plain),
        against(
            title, "core-s", cores["ours"], cores[SPU], SPU, goal=goal, note=peers.problems[SPU] or plain
        ),
        against(
            title,
            "core-s",
            cores["ours"],
            cores[OPENMINED],
            OPENMINED,
            goal=goal,
            note=peers.problems[OPENMINED] or scaled,
        ),
        limited(f"DH, {IDLE:,} ids a side", "core-s", idle, None, note="start and end of our two commands"),
    ]
    if count == FULL:
        rows.append(limited(title, "s", wall["ours"], SECONDS_GOAL))
    return rows


def traffic(files: Files, peers: Peers, count: int) -> list[Row]:
    """Compare the bytes that crossed a counting relay, everything above TCP, per id of one side."""
    ids = files.ids(count)
    say(f"bytes of {count:,} ids a side, ours …")
    mine = bytes_per_item(files, DH_OPEN, count)
    spu = peers.attempt(SPU, lambda: intersections.spu(peers.spu, files.fresh(), ids, count, relayed=True))
    note = peers.problems[SPU] or f"counted by a relay at {count:,} ids; ours with TLS, the peer without"
    peer = None if spu is None else spu[1] / count
    return [
        against("DH, bytes on the wire", "B/item", mine, peer, SPU, note=note),
        limited("DH, bytes on the wire", "B/item", mine, BYTES_GOAL),
    ]


def union(files: Files, count: int, repetitions: int) -> list[Row]:
    """Compare hidden_union with our own open alignment, taking turns, and count its bytes."""
    found: tuple[list[Cost], list[Cost]] = [], []
    for _ in range(repetitions):
        for mode, costs in zip((HIDDEN_UNION, DH_OPEN), found, strict=True):
            say(f"{mode.title}, {count:,} ids a side …")
            costs.append(ours(files, mode, count))
    few = min(count, MOST_FOR_OPENMINED)
    say(f"bytes of {HIDDEN_UNION.title}, {few:,} ids a side …")
    size = bytes_per_item(files, HIDDEN_UNION, few)
    title, times = f"{HIDDEN_UNION.title}, {count:,} ids a side", TIMES_OPEN if count >= FULL else None
    (mine, other), name = found, "our DH open"
    wall = [_median([cost.seconds for cost in costs]) for costs in (mine, other)]
    cores = [_median([cost.core_seconds for cost in costs]) for costs in (mine, other)]
    return [
        at_most(title, "s", wall[0], wall[1], name, times=times),
        at_most(title, "core-s", cores[0], cores[1], name, times=times),
        limited(
            f"{HIDDEN_UNION.title}, bytes on the wire",
            "B/item",
            size,
            None,
            note=f"counted by a relay at {few:,} ids",
        ),
    ]


def memory(files: Files, mode: Mode, counts: Sequence[int]) -> list[Row]:
    """Report the peak memory of the larger of our processes beside the budget that it was given."""
    rows = []
    for count in counts:
        say(f"memory of {mode.title} at {count:,} ids a side …")
        cost = files.costs.get((mode, count)) or ours(files, mode, count)
        note = f"{cost.seconds:.1f} s; the budget is {MEMORY} MiB"
        name = f"{mode.title}, peak memory at {count:,} ids"
        rows.append(limited(name, "MiB", cost.peak, 1.1 * MEMORY, note=note))
    return rows


def kernels(*, quick: bool) -> list[Row]:
    """Take the rows of scalar multiplication and of private operations from the benchmark of kernels."""
    program = Path(__file__).with_name("kernels.py")
    say("kernels …")
    done = subprocess.run(
        [sys.executable, str(program), *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [limited("kernels", "op/s", None, None, note="bench/kernels.py failed")]
    rows = json.loads(done.stdout)["rows"]
    return [Row(**row) for row in rows if row["name"].startswith(KERNELS)]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


class Bench:
    """The parts of the benchmark; what they need is made when the first of them needs it.

    Args:
        count: ids a side, in place of the usual number.
    """

    def __init__(self, folder: Path, *, quick: bool, count: int | None = None) -> None:
        self.files = Files(folder)
        self._quick = quick
        self._count = count or (QUICK if quick else FULL)
        self._rsa_count = count or (QUICK_RSA if quick else FULL)
        self.versions: dict[str, str] = {}
        one_size = quick or count is not None
        sizes = (self._count,) if one_size else MEMORY_AT
        rsa_sizes = (self._rsa_count,) if one_size else RSA_MEMORY_AT
        self.parts: dict[str, Callable[[], Sequence[Row]]] = {
            "dh": self._dh,
            "union": lambda: union(self.files, self._count, 1 if quick else 2),
            **{name: functools.partial(self._rsa, name) for name in blind_rsa.PARTS},
            "memory-dh": lambda: memory(self.files, DH_OPEN, sizes),
            "memory-union": lambda: memory(self.files, HIDDEN_UNION, sizes),
            "memory-rsa": lambda: memory(self.files, HIDDEN_ONE, rsa_sizes),
            "game": lambda: game.rows(quick=quick),
            "kernels": lambda: kernels(quick=quick),
        }

    def _dh(self) -> list[Row]:
        peers = Peers()
        self.versions |= peers.spu.versions | peers.openmined.versions
        found = speed(self.files, peers, self._count, 1 if self._quick else 2)
        return found + traffic(self.files, peers, min(self._count, MOST_FOR_OPENMINED))

    def _rsa(self, name: str) -> Sequence[Row]:
        return blind_rsa.PARTS[name](self.files, self._rsa_count, quick=self._quick)


def chosen(parts: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Return the parts asked for, each by its name or by what its name begins with; all if none is.

    Raises:
        ValueError: there is no such part.
    """
    for word in asked:
        if not any(_asks_for(word, part) for part in parts):
            raise ValueError(f"there is no part {word!r}; there are {', '.join(parts)}")
    return [part for part in parts if not asked or any(_asks_for(word, part) for word in asked)]


def _asks_for(word: str, part: str) -> bool:
    return part == word or part.startswith(f"{word}-")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK:,} ids a side, {QUICK_RSA:,} for RSA: a minute"
    )
    parser.add_argument(
        "--n",
        type=int,
        help=f"ids a side, {FULL:,} by default; memory is measured at several sizes unless this is given",
    )
    parser.add_argument(
        "--part", action="append", default=[], help="one of the parts, such as dh, rsa-2048 or all of rsa"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), quick=bool(arguments.quick), count=arguments.n)
        try:
            parts = chosen(list(bench.parts), arguments.part)
        except ValueError as error:
            parser.error(str(error))
        rows = [row for part in parts for row in bench.parts[part]()]
    emit("psi", rows, bench.versions)


if __name__ == "__main__":
    main()
