"""Measure computing on secret shares beside SPU's ABY3, and beside PyTorch in clear, on the same arrays.

Ours is three processes over mutual TLS (four against one that cheats); SPU is three over brpc without TLS.
Contenders stay up and take turns; every one deals its inputs and warms up before its clock starts.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from contenders import SPU, TORCH, Contender, Contenders, Cost
from mpc_inputs import FULL, QUICK
from processes import ProcessFailed
from psi import chosen
from rows import Row, against, emit, limited, say

ENGINE, MALICIOUS = "rss3", "rss4"
TITLES = {
    "products": "products",
    "matmul": "matrix product",
    "relu": "ReLU, 64 bits",
    "relu-narrow": "ReLU, within ±2^13",
    "logistic": "logistic regression, an epoch in batches of 128",
    "mlp-inference": "MLP 784-128-128-10, inference",
    "mlp-training": "MLP 784-128-128-10, training in batches of 128",
    "lenet": "LeNet-like network, inference",
}
GOALS = {"relu": 5.0, "matmul": 3.0, "mlp-training": 4.0, "lenet": 5.0}
MATMUL_GOAL_AMX, TRAINING_GATE = 5.0, 2.0
MOST_BYTES_A_PRODUCT = 32.0
MALICIOUS_RELU, MALICIOUS_GOAL, ANCHOR = 100_000, 0.22, 0.440
TRUNCATIONS, QUICK_TRUNCATIONS, AT_ONCE = 1_000_000_000, 10_000_000, 50_000_000
WIDTHS, EPOCHS, DIGITS_BATCH, DIGITS_RATE = (64, 128, 128, 10), 12, 64, 0.3
SEEDS, POINTS = 5, 0.2
FAR = 0.05  # how far a contender's results may lie from those in clear
MOST_RUNS, QUICK_RUNS, PATIENCE = 7, 2, 15.0  # runs of each, and seconds of all runs of a work together


def race(
    contenders: Contenders, work: str, sizes: dict[str, int], *, quick: bool, profile: bool
) -> tuple[Cost, dict[str, Cost]]:
    """Let all contenders do a work in turns; return what it costs us, and each peer that does it."""
    mine = contenders.ours(ENGINE)
    runners: dict[str, Contender] = {"ours": mine}
    say(f"{work}, ours …")
    first = mine.prepare(work, sizes)
    if profile:
        tell(work, first[0]["steps"])
        mine.order("profile")
    for name in (SPU, TORCH):
        with_peer = contenders.peer(name)
        if with_peer is None:
            continue
        say(f"{work}, {name} …")
        try:
            with_peer.prepare("relu" if name == SPU and work == "relu-narrow" else work, sizes)
            runners[name] = with_peer
        except ProcessFailed as error:
            contenders.fail(name, error)
    spent = 0.0
    for _ in range(QUICK_RUNS if quick else MOST_RUNS):
        for name, runner in list(runners.items()):
            try:
                spent += runner.go()
            except ProcessFailed as error:
                if name == "ours":
                    raise
                contenders.fail(name, error)
                del runners[name]
        if spent > PATIENCE:
            break
    costs = {name: runner.cost() for name, runner in runners.items()}
    check(work, costs)
    return costs.pop("ours"), costs


def tell(work: str, steps: dict[str, tuple[int, int]]) -> None:
    """Say what party 0 sent, in how many rounds, in which part of a work."""
    for step, (sent, rounds) in steps.items():
        say(f"  {work}, {step}: {sent:,} B, {rounds:,} rounds")


def check(work: str, costs: dict[str, Cost]) -> None:
    """Compare everybody's results with those in clear, or with each other's.

    Raises:
        ProcessFailed: somebody has computed something else.
    """
    right = costs[TORCH if TORCH in costs else "ours"].digest
    say("  " + ", ".join(f"{name} {cost.digest:.6g}" for name, cost in costs.items()))
    for name, cost in costs.items():
        if abs(cost.digest - right) > FAR * abs(right):
            raise ProcessFailed(f"{name} finds {cost.digest:.6g} for {work}, in clear it is {right:.6g}")


def speed(contenders: Contenders, work: str, *, quick: bool, profile: bool) -> list[Row]:
    """Compare seconds, core-seconds and bytes of a work."""
    sizes = dict((QUICK if quick else FULL)[work])
    ours, peers = race(contenders, work, sizes, quick=quick, profile=profile)
    spu, clear = peers.get(SPU), peers.get(TORCH)
    title = f"{TITLES[work]}, {', '.join(f'{count:,} {_UNITS[size]}' for size, count in sizes.items())}"
    goal = None if quick else GOALS.get(work)
    if goal and work == "matmul" and _has_amx():
        goal = MATMUL_GOAL_AMX
    problem = contenders.problems.get(SPU, "")
    plain = "" if clear is None else f"; in clear {clear.wall * 1e3:.3g} ms"
    note = problem or f"{ours.rounds:,} rounds of ours{plain}"
    if work == "relu-narrow":
        note += "; the peer, which knows no ranges, on 64 bits"
    wall = against(
        title, "ms", ours.wall * 1e3, None if spu is None else spu.wall * 1e3, SPU, goal=goal, note=note
    )
    sent = None if ours.sent is None else ours.sent / 2**20
    peer_sent = None if spu is None or spu.sent is None else spu.sent / 2**20
    rows = [
        wall,
        against(title, "core-s", ours.cpu, None if spu is None else spu.cpu, SPU, note=problem or _ALL),
        against(
            title, "MiB", sent, peer_sent, SPU, note=problem or "sent by all parties, without TLS and headers"
        ),
    ]
    if work == "mlp-training" and goal:
        gate = against(f"{title}: the gate", "ms", wall.ours, wall.peer, SPU, goal=TRAINING_GATE)
        rows.insert(1, gate)
    if work == "products" and ours.sent is not None:
        rows.append(limited(title, "B/item", ours.sent / sizes["n"], MOST_BYTES_A_PRODUCT, note=_ALL))
    return rows


_ALL = "of all parties together"
_UNITS = {"n": "wide", "rows": "rows", "features": "features"}


def malicious(contenders: Contenders, *, quick: bool, profile: bool) -> list[Row]:
    """Measure ReLU against one party that cheats; no peer that can be installed does that."""
    count = MALICIOUS_RELU // 10 if quick else MALICIOUS_RELU
    say(f"ReLU by {MALICIOUS} …")
    mine = contenders.ours(MALICIOUS)
    first = mine.prepare("relu", {"n": count})
    if profile:
        tell("relu", first[0]["steps"])
    for _ in range(MOST_RUNS):
        mine.go()
    cost = mine.cost()
    title = f"ReLU against one that cheats (4 parties), 64 bits, {count:,} wide"
    note = (
        f"{cost.rounds:,} rounds; with the check of everything that was said; the goal is half of the "
        f"{ANCHOR:g} s that MP-SPDZ's rep4-ring took on another day: no peer that pip installs "
        "withstands one that cheats, and SPU does not"
    )
    sent = None if cost.sent is None else cost.sent / 2**20
    return [
        limited(title, "s", cost.wall, None if quick else MALICIOUS_GOAL, note=note),
        limited(title, "core-s", cost.cpu, None, note=_ALL),
        limited(title, "MiB", sent, None, note="sent by all parties, without TLS and headers"),
    ]


def truncation(contenders: Contenders, *, quick: bool) -> list[Row]:
    """Count the quotients that are wrong at the edge of the range."""
    total = QUICK_TRUNCATIONS if quick else TRUNCATIONS
    mine, wrong = contenders.ours(ENGINE), 0
    for at in range(0, total, AT_ONCE):
        say(f"truncations, {at:,} of {total:,} …")
        wrong += mine.order("truncate", count=min(AT_ONCE, total - at), seed=at)[0]["wrong"]
    note = "off by more than one unit of the last place; half of products, half of shares"
    return [
        limited(f"wrong truncations of {total:,} at |z| just below 2^61", "elements", wrong, 0, note=note)
    ]


def accuracy(contenders: Contenders, folder: Path, *, quick: bool) -> list[Row]:
    """Compare what a network on shares and one in clear learn of scikit-learn's digits."""
    clear = contenders.peer(TORCH)
    seeds, epochs = (1, 3) if quick else (SEEDS, EPOCHS)
    title = f"MLP {'-'.join(map(str, WIDTHS))} on scikit-learn's digits, accuracy beside PyTorch's"
    if clear is None:
        return [limited(title, "points", None, POINTS, note=contenders.problems[TORCH])]
    mine = contenders.ours(ENGINE)
    found: tuple[list[float], list[float]] = [], []
    seconds = []
    for seed in range(seeds):
        say(f"digits, seed {seed} …")
        file = str(folder / f"digits-{seed}.npz")
        both: dict[str, Any] = {"file": file, "widths": WIDTHS, "rate": DIGITS_RATE}
        told = clear.order("digits", **both, seed=seed, epochs=epochs, batch=DIGITS_BATCH)[0]
        answers = mine.order("digits", **both)
        for right, points in zip((answers[0]["right"], told["right"]), found, strict=True):
            points.append(100 * right / told["tests"])
        seconds.append(max(answer["wall"] for answer in answers))
    ours, theirs = mean(found[0]), mean(found[1])
    note = (
        f"difference of the means over {seeds} seeds: ours {ours:.2f} %, in clear {theirs:.2f} %; "
        f"{epochs} epochs in batches of {DIGITS_BATCH}, {told['tests']} rows for tests; "
        f"{mean(seconds):.1f} s a training of ours"
    )
    return [limited(title, "points", abs(ours - theirs), POINTS, note=note)]


def _has_amx() -> bool:
    try:
        return "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def parts(
    contenders: Contenders, folder: Path, *, quick: bool, profile: bool
) -> dict[str, Callable[[], Sequence[Row]]]:
    """Return the parts of the benchmark by name."""
    return {
        **{work: functools.partial(speed, contenders, work, quick=quick, profile=profile) for work in FULL},
        "malicious": lambda: malicious(contenders, quick=quick, profile=profile),
        "truncation": lambda: truncation(contenders, quick=quick),
        "accuracy": lambda: accuracy(contenders, folder, quick=quick),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small works: a minute")
    parser.add_argument("--profile", action="store_true", help="say where our time, bytes and rounds go")
    parser.add_argument(
        "--part", action="append", default=[], help="one of the parts, such as relu-narrow or all of mlp"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, Contenders(Path(temporary)) as contenders:
        made = parts(contenders, Path(temporary), quick=arguments.quick, profile=arguments.profile)
        try:
            asked = chosen(list(made), arguments.part)
        except ValueError as error:
            parser.error(str(error))
        rows = [row for part in asked for row in made[part]()]
        emit("mpc", rows, contenders.versions)


if __name__ == "__main__":
    main()
