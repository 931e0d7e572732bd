"""Sharing from outside and putting together again, for every engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilsum.crypto.prg import Prg
from veilsum.errors import CheatingDetected
from veilsum.mpc import inputs
from veilsum.mpc.engines import ENGINES
from veilsum.testing.computing import together, wires

ALL = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
RNG = np.random.default_rng(11)


def ring(*shape):
    return np.asarray(RNG.integers(0, 1 << 64, shape, dtype=np.uint64))


def keys_of(engine, seed=0):
    return [bytes([seed + at] * 16) for at in range(engine.components - 1)]


def shares_of(engine, values, seed=0):
    """Return every party's share, as each makes it from what an owner gives it."""
    keys, last = keys_of(engine, seed), inputs.components(engine, values, keys_of(engine, seed))[-1]
    given_keys = [
        {c: keys[c] for c in engine.held(party) if c < len(keys)} for party in range(engine.parties)
    ]
    return [
        inputs.held(
            engine, party, values.shape, mine, last if engine.components - 1 in engine.held(party) else None
        )
        for party, mine in enumerate(given_keys)
    ]


def parts_of(shares):
    return {party: share.parts.copy() for party, share in enumerate(shares)}


@ALL
@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (0, 4), (40_000,)])
def test_there_and_back(engine, shape):
    values = ring(*shape)
    shares = shares_of(engine, values)
    assert all(share.parts.shape == (len(engine.held(0)), *shape) for share in shares)
    assert np.array_equal(inputs.together(engine, parts_of(shares)), values)


@ALL
def test_components_add_up_and_all_but_the_last_come_from_keys(engine):
    values = ring(6, 7)
    made = inputs.components(engine, values, keys_of(engine))
    assert len(made) == engine.components
    assert np.array_equal(np.add.reduce(made), values)
    for key, one in zip(keys_of(engine), made, strict=False):
        assert np.array_equal(one, Prg(key).words(6, 7))
    assert values.flags.writeable  # its owner's own


@ALL
def test_holders_of_a_component_hold_the_same(engine):
    shares = shares_of(engine, ring(9))
    by_component = {}
    for party, share in enumerate(shares):
        for component, part in zip(engine.held(party), share.parts, strict=True):
            by_component.setdefault(component, []).append(part)
    assert sorted(by_component) == list(range(engine.components))
    for component, held in by_component.items():
        assert len(held) == len(engine.holders(component))
        assert all(np.array_equal(held[0], other) for other in held[1:])


@ALL
def test_what_engines_make_of_it(engine):
    """An engine's own operations take such shares as theirs."""
    x, y = ring(4, 5), ring(4, 5)
    xs, ys = shares_of(engine, x), shares_of(engine, y, 50)

    def program(one):
        product = one.multiply(xs[one.me], ys[one.me])
        one.verify()
        return one.open(product)[0]

    keys = [bytes([200 + c] * 16) for c in range(engine.components)]

    def make(wire):
        return engine(wire, [keys[c] for c in engine.held(wire.me)])

    for opened in together(program, make, engine.parties, ends=wires(engine.parties)):
        assert np.array_equal(opened, x * y)


@ALL
def test_digests_are_of_all_inputs_in_order(engine):
    first, second = shares_of(engine, ring(3)), shares_of(engine, ring(2, 2), 9)
    mine = inputs.digests(engine, 0, [first[0], second[0]])
    assert list(mine) == list(engine.held(0))
    assert all(len(one) == 32 for one in mine.values())
    assert mine != inputs.digests(engine, 0, [second[0], first[0]])
    for other in range(1, engine.parties):
        theirs = inputs.digests(engine, other, [first[other], second[other]])
        assert all(theirs[c] == mine[c] for c in set(mine) & set(theirs))
        inputs.compare(engine, 0, mine, {other: theirs})


@ALL
def test_digests_of_views(engine):
    """Wherever the words lie in memory."""
    shares = shares_of(engine, ring(6, 8))
    flipped = [share.permuted(1, 0) for share in shares]
    copies = [type(share)(np.ascontiguousarray(share.parts)) for share in flipped]
    assert inputs.digests(engine, 1, flipped[1:2]) == inputs.digests(engine, 1, copies[1:2])


@ALL
def test_any_difference_of_any_two_is_named(engine):
    shares = shares_of(engine, ring(8))
    said = {party: inputs.digests(engine, party, [share]) for party, share in enumerate(shares)}
    for me in range(engine.parties):
        others = {party: one for party, one in said.items() if party != me}
        inputs.compare(engine, me, said[me], others)
        for peer, theirs in others.items():
            for component in set(engine.held(me)) & set(engine.held(peer)):
                for lie in (bytes(32), b"", theirs[component][:31]):
                    lies = others | {peer: theirs | {component: lie}}
                    with pytest.raises(CheatingDetected, match=f"computing party {peer}"):
                        inputs.compare(engine, me, said[me], lies)
                missing = others | {peer: {c: d for c, d in theirs.items() if c != component}}
                with pytest.raises(CheatingDetected):
                    inputs.compare(engine, me, said[me], missing)


@given(party=st.integers(0, 3), at=st.integers(0, 2), word=st.integers(0, 7), bit=st.integers(0, 63))
@ALL
def test_any_bit_of_a_result_is_compared(engine, party, at, word, bit):
    """A receiver hears every component from two parties or three: one that lies is noticed."""
    party, at = party % engine.parties, at % len(engine.held(0))
    parts = parts_of(shares_of(engine, ring(8)))
    parts[party][at, word] ^= np.uint64(1 << bit)
    with pytest.raises(CheatingDetected, match="gave different parts of a result"):
        inputs.together(engine, parts)


@ALL
def test_one_share_says_nothing(engine):
    """What one party holds of two different inputs is, but for the last component, the same."""
    zeros, other = shares_of(engine, np.zeros(50, np.uint64)), shares_of(engine, ring(50))
    for party, (one, two) in enumerate(zip(zeros, other, strict=True)):
        for component, a, b in zip(engine.held(party), one.parts, two.parts, strict=True):
            assert np.array_equal(a, b) == (component < engine.components - 1)
            assert len(np.unique(b)) == 50
