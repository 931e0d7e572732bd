"""Adders of every cut give what integers give, in the rounds and with the conjunctions that are foretold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilsum.arith import ring
from veilsum.mpc import adders
from veilsum.mpc.engine import Link
from veilsum.mpc.plain import Plain
from veilsum.mpc.shares import Bits
from veilsum.testing.computing import rss3, together

SIZES = (1, 2, 4, 8, 16, 32, 64)
LINKS = [
    Link(round_trip=1e-9),
    Link(round_trip=1e-5, bandwidth=1e9),
    Link(round_trip=1e-4, bandwidth=1e6),
    Link(round_trip=10),
]


class Counting(Plain):
    """Counts conjunctions by planes and by calls, which are rounds."""

    def __init__(self, link=None):
        super().__init__(0, link)
        self.rounds = self.gates = 0

    def conjunction(self, x, y):
        assert x.planes == y.planes
        self.rounds, self.gates = self.rounds + 1, self.gates + x.planes
        return super().conjunction(x, y)

    def majority(self, u, v, c):
        self.rounds, self.gates = self.rounds + 1, self.gates + u.planes
        return super().majority(u, v, c)


def starts(planes, size):
    count = -(-planes // size)
    low = planes - (count - 1) * size
    return [0, *(low + size * block for block in range(count - 1))]


def bits(values, width):
    return Bits(ring.planes(values, width)[None], values.shape)


def numbers(planes, seed=0, count=70):
    rng = np.random.default_rng((planes, seed))
    values = rng.integers(0, 1 << 64, (2, count), dtype=np.uint64)
    values[:, 0], values[:, 1], values[0, 2], values[1, 2] = 0, ~np.uint64(0), ~np.uint64(0), 1
    values[1, 3:9] = ~values[0, 3:9]  # the carry runs through all bits, or through none
    values[1, 3:6] += np.uint64(1)
    return values & np.uint64((1 << planes) - 1)


def clear(found, width=None):
    values = ring.from_planes(np.ascontiguousarray(found.parts[0]), found.size)
    return values if width is None else values & np.uint64((1 << width) - 1)


def exact(u, v, planes):
    """Return sums of integers: (carry, sum)."""
    sums = [int(a) + int(b) for a, b in zip(u, v, strict=True)]
    return [s >> planes for s in sums], [s & ((1 << planes) - 1) for s in sums]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("planes", [1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 44, 63])
def test_every_cut_carries_and_adds(monkeypatch, planes, size):
    u, v = numbers(planes)
    carried, summed = exact(u, v, planes)
    monkeypatch.setattr(adders, "blocks", lambda _, m, *__, **___: starts(m, min(size, m)))
    engine = Counting()
    assert clear(adders.carry(engine, bits(u, planes), bits(v, planes))).tolist() == carried
    assert (engine.rounds, engine.gates) == adders.cost(planes, min(size, planes), whole=False)
    engine = Counting()
    found = adders.add(engine, bits(u, planes), bits(v, planes))
    assert found.planes == planes
    assert clear(found).tolist() == summed
    if planes > 1:
        expected = adders.cost(planes - 1, min(size, planes - 1), whole=True)
        assert (engine.rounds, engine.gates) == expected


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("planes", [1, 6, 24, 63, 64])
def test_links_choose_cuts_but_not_sums(link, planes):
    u, v = numbers(planes, 1)
    carried, summed = exact(u, v, planes)

    def shared(engine):
        shares = [
            engine.decompose(engine.deal(w if engine.me == 0 else None, 0, w.shape), planes) for w in (u, v)
        ]
        both = [adders.carry(engine, *shares), adders.add(engine, *shares)]
        return [engine.reveal_bits(one) for one in both]

    for carry, total in together(shared, lambda wire: rss3(wire, 3, link)):
        assert clear(Bits(carry[None], u.shape)).tolist() == carried
        assert clear(Bits(total[None], u.shape)).tolist() == summed


@given(st.integers(1, 64), st.integers(1, 5000), st.sampled_from(LINKS), st.booleans())
def test_cuts_are_the_fastest_of_the_link(planes, plane_words, link, whole):
    found = adders.blocks(link, planes, plane_words, whole=whole)
    assert found[0] == 0
    assert found == sorted(set(found))
    assert found[-1] < planes

    def seconds(size):
        rounds, gates = adders.cost(planes, size, whole=whole)
        return link.seconds(rounds, 8 * gates * plane_words)

    sizes = [size for size in SIZES if size < 2 * planes]
    assert found in [starts(planes, s) for s in sizes if seconds(s) == min(map(seconds, sizes))]


def test_slow_links_take_few_rounds_and_fast_ones_few_bytes():
    few = adders.blocks(Link(round_trip=10.0), 63, 100, whole=False)
    many = adders.blocks(Link(round_trip=1e-9), 63, 100, whole=False)
    assert len(many) == 1 < len(few)
    assert adders.cost(63, 63, whole=False) == (63, 63)
