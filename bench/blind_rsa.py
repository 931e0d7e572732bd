"""Rows of the alignment by blind RSA beside OpenSSL's private operations alone and beside our mode ``open``.

No peer offers this alignment. What is compared is the least that one built on OpenSSL could take: the private
operations of both sides, without blinding, hashing, comparing and network, on all cores at once.
"""

from collections.abc import Callable, Sequence

import openssl_rsa
from alignments import HIDDEN_ONE, Files, Homes, Mode, blind_rsa, bytes_per_item, ours
from intersections import Cost
from openssl_rsa import Rate
from rows import Row, against, at_most, limited, say

FULL = 1_000_000  # ids a side, for which the limits hold
MOST_RELAYED = 100_000  # ids a side: bytes per id are the same for more
SECONDS_GOAL = {2048: 150.0, 3072: 450.0}
CACHED_GOAL = 80.0
TIMES_OPEN = 1.2


def fresh_key(files: Files, count: int, *, quick: bool) -> list[Row]:
    """Measure hidden_one at 2048 bits, the same openly, and the bytes of hidden_one."""
    hidden, openly = HIDDEN_ONE, blind_rsa("open", 2048)
    (cost, baseline), other = (
        _beside_openssl(files, hidden, 2048, count, quick=quick),
        _run(files, openly, count),
    )
    found = against_openssl(_title(hidden, count), cost, baseline, 2 * count)
    found += _limit(_title(hidden, count), cost, SECONDS_GOAL[2048], count)
    found.append(
        at_most(
            f"{hidden.title} beside {openly.title}, {count:,} ids a side",
            "s",
            cost.seconds,
            other.seconds,
            openly.title,
            times=TIMES_OPEN if count >= FULL else None,
        )
    )
    few = min(count, MOST_RELAYED)
    say(f"bytes of {hidden.title}, {few:,} ids a side …")
    note = f"counted by a relay at {few:,} ids"
    return [
        *found,
        limited(
            f"{hidden.title}, bytes on the wire",
            "B/item",
            bytes_per_item(files, hidden, few),
            None,
            note=note,
        ),
    ]


def cached_tags(files: Files, count: int, *, quick: bool) -> list[Row]:
    """Measure the second run of hidden_one on the same data, with the tags that the first has kept."""
    mode = blind_rsa("hidden_one", 2048, reuse_key=True)
    homes = Homes(files, mode, count)
    say(f"{mode.title}, {count:,} ids a side, keeping tags …")
    first, _ = homes.run()
    say(f"  {first.seconds:.1f} s; again, with the tags kept …")
    cost, baseline = _around(lambda: homes.run(fresh=True)[0], 2048, quick=quick)
    title = f"{mode.title}, tags cached, {count:,} ids a side"
    took = f"{first.seconds:.1f} s and {first.core_seconds:.1f} core-s"
    kept = f"of the client's ids only; the first run, which keeps the tags, took {took}"
    return against_openssl(title, cost, baseline, count, note=kept) + _limit(title, cost, CACHED_GOAL, count)


def longer_key(files: Files, count: int, *, quick: bool) -> list[Row]:
    """Measure hidden_one at 3072 bits."""
    mode = blind_rsa("hidden_one", 3072)
    cost, baseline = _beside_openssl(files, mode, 3072, count, quick=quick)
    title = _title(mode, count)
    return against_openssl(title, cost, baseline, 2 * count) + _limit(title, cost, SECONDS_GOAL[3072], count)


def three_primes(files: Files, count: int, *, quick: bool) -> list[Row]:
    """Measure hidden_one at 3072 bits with a key of three primes."""
    mode = blind_rsa("hidden_one", 3072, primes=3)
    cost, baseline = _beside_openssl(files, mode, 3072, count, quick=quick)
    return against_openssl(_title(mode, count), cost, baseline, 2 * count, note="the peer with two primes")


def against_openssl(title: str, cost: Cost, baseline: Rate, operations: int, *, note: str = "") -> list[Row]:
    """Compare a run with its private operations alone, made by OpenSSL.

    Args:
        title: what was run.
        cost: what the run has cost.
        baseline: measured in the same run.
        operations: private operations of both parties together.
        note: what else the reader must know.
    """
    scaled = (
        f"the peer's {operations:,} operations scaled from {baseline.a_second:,.0f} a second on all cores"
    )
    told = "; ".join(filter(None, (scaled, note)))
    name = openssl_rsa.NAME
    return [
        against(title, "s", cost.seconds, operations / baseline.a_second, name, note=told),
        against(title, "core-s", cost.core_seconds, operations / baseline.a_core_second, name, note=told),
    ]


def _limit(title: str, cost: Cost, goal: float, count: int) -> list[Row]:
    return [limited(title, "s", cost.seconds, goal)] if count == FULL else []


def _title(mode: Mode, count: int) -> str:
    return f"{mode.title}, {count:,} ids a side"


def _run(files: Files, mode: Mode, count: int) -> Cost:
    say(f"{_title(mode, count)} …")
    cost = ours(files, mode, count)
    say(f"  {cost.seconds:.1f} s, {cost.core_seconds:.1f} core-s")
    return cost


def _beside_openssl(files: Files, mode: Mode, bits: int, count: int, *, quick: bool) -> tuple[Cost, Rate]:
    return _around(lambda: _run(files, mode, count), bits, quick=quick)


def _around(work: Callable[[], Cost], bits: int, *, quick: bool) -> tuple[Cost, Rate]:
    """Measure OpenSSL before and after some work of ours, so that a machine that slows down slows both."""
    seconds = 0.5 if quick else 4.0
    before = openssl_rsa.measure(bits, seconds)
    cost = work()
    return cost, openssl_rsa.mean([before, openssl_rsa.measure(bits, seconds)])


PARTS: dict[str, Callable[..., Sequence[Row]]] = {
    "rsa-2048": fresh_key,
    "rsa-cached": cached_tags,
    "rsa-3072": longer_key,
    "rsa-three": three_primes,
}
"""Part of the benchmark → what measures it; each takes (files, count, quick=…)."""
