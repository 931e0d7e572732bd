"""Three parties against plain arithmetic: every operation of the interface, at the edges of its range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import ring
from veilsum.errors import ProtocolError
from veilsum.mpc.engine import HEADROOM, Link
from veilsum.mpc.shares import Arith
from veilsum.testing.computing import rss3, together, wires

EDGE = 1 << HEADROOM
LINKS = [Link(round_trip=1e-9), Link(round_trip=1e-4, bandwidth=1e7), Link(round_trip=10.0)]
RNG = np.random.default_rng(7)


def ints(*shape, low=-EDGE, high=EDGE):
    return RNG.integers(low, high, shape, dtype=np.int64).view(np.uint64)


def edges():
    powers = [s * ((1 << e) + d) for e in range(HEADROOM) for s in (-1, 1) for d in (-1, 0, 1)]
    return np.array([*powers, EDGE - 1, 1 - EDGE, 0], np.int64).view(np.uint64)


def run(program, values, link=None):
    """Play a program on values dealt by parties in turn; the parties' results must be the same."""

    def whole(engine):
        shares = [
            engine.deal(value if engine.me == at % 3 else None, at % 3, value.shape)
            for at, value in enumerate(values)
        ]
        result = program(engine, *shares)
        engine.verify()
        return engine.open(result)[0] if isinstance(result, Arith) else engine.reveal_bits(result)

    first, *others = together(whole, lambda wire: rss3(wire, 5, link))
    for other in others:
        assert np.array_equal(first, other)
    return first


@given(shape=st.sampled_from([(1,), (63,), (64,), (5, 13), (2, 3, 4)]), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_products_and_sums(shape, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 1 << 64, shape, dtype=np.uint64) for _ in range(2))
    assert np.array_equal(run(lambda e, a, b: e.multiply(a, b), [x, y]), x * y)
    assert np.array_equal(run(lambda e, a, b: e.plus(a - b, 7), [x, y]), x - y + np.uint64(7))
    assert np.array_equal(run(lambda e, a, b: e.multiply(a[:1], b), [x, y]), x[:1] * y)


def test_a_single_number():
    x = np.array(6 << 18, np.uint64)
    assert run(lambda e, a: e.multiply(a, a), [x]) == 36 << 36
    assert run(lambda e, a: e.multiply(a, a, 36), [x]) - 36 <= 1
    assert run(lambda e, a: e.select(e.flip(e.msb(a)), a), [x]) == x


@pytest.mark.parametrize(
    "shapes", [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((1, 70), (70, 1))]
)
def test_matrix_products(shapes):
    a, b = (RNG.integers(0, 1 << 64, shape, dtype=np.uint64) for shape in shapes)
    assert np.array_equal(run(lambda e, x, y: e.matmul(x, y), [a, b]), a @ b)


@pytest.mark.parametrize("drop", [1, 18, 40, 61])
def test_truncation_never_wraps(drop):
    z = np.concatenate([edges(), ints(3000), ints(200, low=EDGE - 9), ints(200, high=9 - EDGE)])
    exact = z.view(np.int64) >> drop
    one = np.ones_like(z)
    for program in (lambda e, x, _: e.truncate(x, drop), lambda e, x, o: e.multiply(x, o, drop)):
        off = run(program, [z, one]).view(np.int64) - exact
        assert set(np.unique(off)) <= {0, 1}


def test_truncation_rounds_without_bias():
    z = np.full(40_000, (5 << 18) + (1 << 16), np.uint64)  # 5.25
    got = run(lambda e, x: e.truncate(x, 18), [z]).view(np.int64)
    assert abs(got.mean() - 5.25) < 0.02
    whole = run(lambda e, x: e.truncate(x, 18), [np.full(4000, 3 << 18, np.uint64)])
    assert (whole == 3).all()


@pytest.mark.parametrize("link", LINKS)
def test_bits(link):
    z = np.concatenate([edges(), ints(100)])
    assert np.array_equal(run(lambda e, x: e.msb(x), [z], link), ring.plane(z, 63)[None])
    small = ints(130, low=-(1 << 20), high=1 << 20)
    for width in (22, 33):
        assert np.array_equal(
            run(lambda e, x, w=width: e.msb(x, w), [small], link), ring.plane(small, 63)[None]
        )
    for width in (1, 2, 3, 9, 64):
        got = run(lambda e, x, w=width: e.decompose(x, w), [z], link)
        assert np.array_equal(got, ring.planes(z, width))
    got = run(lambda e, x: e.compose(e.decompose(x, 11)), [z], link)
    assert np.array_equal(got, z % 2048)
    got = run(lambda e, x: e.select(e.flip(e.msb(x)), x), [z], link)
    assert np.array_equal(got, np.where(z.view(np.int64) >= 0, z, 0))
    inverse = run(lambda e, x: e.flip(e.msb(x)) ^ e.msb(x), [z], link)
    assert np.array_equal(inverse[0] & ring.plane(np.ones_like(z), 0), ring.plane(np.ones_like(z), 0))


def test_joint_randomness():
    got = run(lambda e: e.random_integers((4000,), 6), [])
    counts = np.bincount(got.astype(int), minlength=64)
    assert len(counts) == 64
    assert ((counts - 62.5) ** 2 / 62.5).sum() < 120  # chi-square, 63 degrees: p < 1e-5
    x, y = ints(50, 3), np.arange(50, dtype=np.uint64)

    def mixed(engine, a, b):
        return Arith.joined([one.reshape(50, -1) for one in engine.shuffle(a, b)], axis=1)

    got = run(mixed, [x, y])
    order = got[:, 3].astype(int)
    assert sorted(order) == list(range(50))
    assert not np.array_equal(order, np.arange(50))
    assert np.array_equal(got[:, :3], x[order])


def test_what_a_party_holds_is_uniform():
    """Chi-square over the bytes of every component of results whose values never change."""
    zeros = np.zeros(4096, np.uint64)

    def parts(engine):
        x = engine.deal(zeros if engine.me == 0 else None, 0, zeros.shape)
        positive = engine.flip(engine.msb(x))
        shares = [engine.multiply(x, x), engine.truncate(x, 18), engine.select(positive, x)]
        return [*(share.parts for share in shares), positive.parts]

    # what party 0 deals lies in its own components: the third is zero; later shares are uniform
    for held in together(parts):
        for array in held:
            for component in array:
                found = np.bincount(component.view(np.uint8).reshape(-1), minlength=256)
                expected = component.nbytes / 256
                assert ((found - expected) ** 2 / expected).sum() < 390  # 255 degrees: p < 1e-7


def test_what_is_said_depends_on_shapes_only():
    def program(values):
        def whole(engine):
            x = engine.deal(values if engine.me == 0 else None, 0, values.shape)
            y = engine.multiply(x, x, 18)
            engine.select(engine.msb(y), x)
            engine.open(*engine.shuffle(engine.compose(engine.decompose(y, 8))))
            return engine.wire.total

        return together(whole)

    assert program(np.zeros(77, np.uint64)) == program(ints(77, low=-1000, high=1000))


def test_bytes_and_rounds_are_what_the_table_says():
    n = 64 * 50

    def program(engine):
        x = engine.deal(np.ones(n, np.uint64) if engine.me == 0 else None, 0, (n,))
        bit, said = engine.msb(x), {}

        def count(name, work):
            before = engine.wire.total + type(engine.wire.total)()
            work()
            said[name] = engine.wire.total - before

        count("product", lambda: engine.multiply(x, x))
        count("divided", lambda: engine.multiply(x, x, 18))
        count("conjunction", lambda: engine.conjunction(bit, bit))
        count("select", lambda: engine.select(bit, x))
        count("open", lambda: engine.open(x))
        return said

    said = together(program)
    for name, size, rounds in [
        ("product", 24, 1),
        ("divided", 26.5, 3),
        ("conjunction", 3 / 8, 1),
        ("select", 40, 2),
        ("open", 24, 1),
    ]:
        assert sum(one[name].sent for one in said) == n * size
        assert {one[name].rounds for one in said} == {rounds}


def test_a_party_that_runs_another_program_is_noticed():
    def program(engine):
        x = engine.deal(np.ones(9, np.uint64) if engine.me == 0 else None, 0, (9,))
        if engine.me == 2:
            engine.random_bits((9,))
        engine.verify()
        return x

    with pytest.raises(ProtocolError, match="drawn other random numbers"):
        together(program)


def test_shares_of_different_kinds_are_not_mixed():
    def program(engine):
        x = engine.constant(np.ones(3, np.uint64))
        return x + engine.times(x, x)

    with pytest.raises(TypeError, match="not shares of one kind"):
        program(rss3(wires(3)[0]))
