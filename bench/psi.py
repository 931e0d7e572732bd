"""Measure the open alignment by Diffie-Hellman beside SPU's ECDH and openmined.psi, on the same two files.

Ours is ``veilsum run`` at two parties, two processes over mutual TLS, timed from start to exit. SPU is two
processes over brpc without TLS, timed inside its call; openmined.psi is one process without a network, and
never runs on more than 100,000 ids: its cost is scaled by the number of ids.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import environments
import intersections
from intersections import Cost, IntersectionFailed
from rows import Row, against, emit, limited, say

IDLE, QUICK, FULL, MOST_FOR_OPENMINED = 200, 20_000, 1_000_000, 100_000
SPU, OPENMINED = "SPU ECDH, Curve25519", "openmined.psi, P-256"
SECONDS_GOAL, BYTES_GOAL = 17.0, 76.0  # for a million ids a side; at any size

Measured = tuple[Cost, int] | None


class Bench:
    """The contenders, their files, and what could not be measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.spu, self.openmined = environments.prepare("spu"), environments.prepare("openmined")
        self.problems = {SPU: self.spu.problem, OPENMINED: self.openmined.problem}
        self._runs = 0

    def ids(self, count: int) -> tuple[Path, Path]:
        """Return two files of so many ids."""
        folder = self._folder / str(count)
        folder.mkdir(exist_ok=True)
        return intersections.write_ids(folder, count)

    def fresh(self) -> Path:
        """Return an empty folder."""
        self._runs += 1
        folder = self._folder / f"run{self._runs}"
        folder.mkdir()
        return folder

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


def speed(bench: Bench, count: int, repetitions: int) -> list[Row]:
    """Compare seconds and core-seconds, taking turns."""
    ids = bench.ids(count)
    few = min(count, MOST_FOR_OPENMINED)
    fewer = ids if few == count else bench.ids(few)
    found: dict[str, list[Cost]] = {"ours": [], SPU: [], OPENMINED: []}
    for _ in range(repetitions):
        say(f"{count:,} ids a side, ours …")
        found["ours"].append(intersections.ours(bench.fresh(), ids, count)[0])
        spu = bench.attempt(SPU, lambda: intersections.spu(bench.spu, bench.fresh(), ids, count))
        other = bench.attempt(OPENMINED, lambda: intersections.openmined(bench.openmined, fewer, few))
        for name, measured in ((SPU, spu), (OPENMINED, other)):
            if measured is not None:
                found[name].append(measured[0])
    wall = {name: _median([cost.seconds for cost in costs]) for name, costs in found.items()}
    cores = {name: _median([cost.core_seconds for cost in costs]) for name, costs in found.items()}
    at_few = cores[OPENMINED]
    cores[OPENMINED] = None if at_few is None else at_few * count / few
    idle = intersections.ours(bench.fresh(), bench.ids(IDLE), IDLE)[0].core_seconds
    title = f"DH, {count:,} ids a side"
    scaled = f"the peer at {few:,}, scaled per id" if few != count else "the peer without a network"
    plain = "ours whole commands over TLS; the peer its call alone, without TLS"
    goal = 1.0 if count >= FULL else None
    rows = [
        against(title, "s", wall["ours"], wall[SPU], SPU, goal=goal, note=bench.problems[SPU] or plain),
        against(
            title, "core-s", cores["ours"], cores[SPU], SPU, goal=goal, note=bench.problems[SPU] or plain
        ),
        against(
            title,
            "core-s",
            cores["ours"],
            cores[OPENMINED],
            OPENMINED,
            goal=goal,
            note=bench.problems[OPENMINED] or scaled,
        ),
        limited(f"DH, {IDLE:,} ids a side", "core-s", idle, None, note="start and end of our two commands"),
    ]
    if count == FULL:
        rows.append(limited(title, "s", wall["ours"], SECONDS_GOAL))
    return rows


def traffic(bench: Bench, count: int) -> list[Row]:
    """Compare the bytes that crossed a counting relay, everything above TCP, per id of one side."""
    ids = bench.ids(count)
    say(f"bytes of {count:,} ids a side, ours …")
    _, mine = intersections.ours(bench.fresh(), ids, count, relayed=True)
    spu = bench.attempt(SPU, lambda: intersections.spu(bench.spu, bench.fresh(), ids, count, relayed=True))
    note = bench.problems[SPU] or f"counted by a relay at {count:,} ids; ours with TLS, the peer without"
    peer = None if spu is None else spu[1] / count
    return [
        against("DH, bytes on the wire", "B/item", mine / count, peer, SPU, note=note),
        limited("DH, bytes on the wire", "B/item", mine / count, BYTES_GOAL),
    ]


def memory(bench: Bench, counts: list[int]) -> list[Row]:
    """Report the peak memory of the larger of our processes beside the budget that it was given."""
    rows = []
    for count in counts:
        say(f"memory at {count:,} ids a side …")
        cost, _ = intersections.ours(bench.fresh(), bench.ids(count), count)
        limit = 1.1 * intersections.MEMORY
        note = f"{cost.seconds:.1f} s; the budget is {intersections.MEMORY} MiB"
        rows.append(limited(f"DH, peak memory at {count:,} ids", "MiB", cost.peak, limit, note=note))
    return rows


def kernels(*, quick: bool) -> list[Row]:
    """Take the rows of scalar multiplication from the benchmark of kernels."""
    program = Path(__file__).with_name("kernels.py")
    say("scalar multiplications …")
    done = subprocess.run(
        [sys.executable, str(program), *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [limited("x25519 multiply", "op/s", None, None, note="bench/kernels.py failed")]
    rows = json.loads(done.stdout)["rows"]
    return [Row(**row) for row in rows if row["name"].startswith("x25519 multiply")]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} ids a side: under a minute")
    parser.add_argument("--n", type=int, help=f"ids a side, {FULL:,} by default")
    arguments = parser.parse_args()
    quick = bool(arguments.quick)
    count = arguments.n or (QUICK if quick else FULL)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        rows = speed(bench, count, 1 if quick else 2)
        rows += traffic(bench, min(count, MOST_FOR_OPENMINED))
        rows += memory(bench, [count] if quick else [100_000, 1_000_000, 10_000_000])
        rows += kernels(quick=quick)
    emit("psi", rows, bench.spu.versions | bench.openmined.versions)


if __name__ == "__main__":
    main()
