import os

import numpy as np
import pytest

from veilsum.arith import ring
from veilsum.errors import CheatingDetected, ProtocolError
from veilsum.mpc.engine import Link
from veilsum.mpc.engines import agree
from veilsum.mpc.rss4 import RSS4
from veilsum.mpc.shares import Product
from veilsum.mpc.wire import DryWire
from veilsum.testing.computing import MemoryWire, outcomes_of, rss4, together, wires

EDGES = [0, 1, -1, 2, -2, 2**18, -(2**18), 2**61, -(2**61), 2**61 - 1, 1 - 2**61, 2**60 + 12345, 2**17 - 1]
LINKS = {"deep": 1e-9, "usual": 1e-4, "flat": 1e-1}


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 64, shape, dtype=np.uint64)


def signed(count, bound=2**61, seed=0):
    drawn = np.random.default_rng(seed).integers(-bound, bound, count)
    edges = np.array([edge for edge in EDGES if abs(edge) <= bound])
    return np.concatenate([edges, drawn]).astype(np.int64)


def dealt(engine, values, owner=0):
    values = np.asarray(values).view(np.uint64)
    return engine.deal(values if engine.me == owner else None, owner, values.shape)


def run(program, *, seed=0, round_trip=1e-4):
    """Run at all four parties; return what all of them got."""
    link = Link(round_trip=round_trip, bandwidth=1e7)
    first, *others = together(program, lambda wire: rss4(wire, seed, link), 4)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert np.array_equal(mine, theirs)
    return first


@pytest.mark.parametrize("owner", range(4))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (65,), (3, 4, 5)])
def test_what_is_dealt_is_opened(owner, shape):
    values = uniform(*shape)
    assert np.array_equal(*run(lambda e: e.open(dealt(e, values, owner))), values)


def test_components_add_up_and_belong_to_their_holders():
    values = uniform(9)
    shares = together(lambda e: [dealt(e, values, owner).parts for owner in range(4)], rss4, 4)
    for owner in range(4):
        components = {}
        for party in range(4):
            for at, component in enumerate(RSS4.held(party)):
                assert party in RSS4.holders(component)
                part = shares[party][owner][at]
                assert np.array_equal(components.setdefault(component, part), part)
        assert np.array_equal(sum(components.values()), values)


def test_products_sums_and_public_numbers():
    x, y, a, b = uniform(70, seed=1), uniform(70, seed=2), uniform(7, 9, seed=3), uniform(9, 5, seed=4)

    def program(e):
        sx, sy, sa, sb = (dealt(e, v, owner) for owner, v in enumerate((x, y, a, b)))
        return e.open(
            e.multiply(sx, sy),
            e.matmul(sa, sb),
            e.matmul(sb.T, sa.T),
            e.multiply(sa, sx[:9]),
            e.plus(sx.scaled(3) - sy, 5),
            e.multiply(sx, e.constant(y)),
            e.reduce(e.times(sx, sx) - e.times(sy, sy) + e.unfinished(sx)),
            *e.reduce_all([e.times(sx, sy), e.times_matrix(sa, sb)]),
        )

    got = run(program)
    sums = x * np.uint64(3) - y + np.uint64(5), x * y, x * x - y * y + x
    expected = [x * y, a @ b, b.T @ a.T, a * x[:9], *sums, x * y, a @ b]
    for value, wanted in zip(got, expected, strict=True):
        assert np.array_equal(value, wanted)


def test_matrix_products_broadcast_over_leading_axes():
    a, b = uniform(2, 3, 4, seed=1), uniform(4, 5, seed=2)
    got = run(lambda e: e.open(e.matmul(dealt(e, a), dealt(e, b, 3))))
    assert np.array_equal(got[0], a @ b)


@pytest.mark.parametrize("drop", [1, 7, 18, 40, 61])
def test_truncation_gives_an_integer_beside_the_quotient_up_to_the_edges(drop):
    z = signed(3000, seed=drop)

    def program(e):
        x, one = dealt(e, z, 1), e.constant(np.ones(z.size, np.uint64))
        product = e.times(x, one)
        assert isinstance(product, Product)
        return e.open(e.truncate(x, drop), e.reduce(product, drop), e.reduce(e.unfinished(x), drop))

    for got in run(program, seed=drop):
        beside = got.view(np.int64) - (z >> drop)
        exact = z & ((1 << drop) - 1) == 0
        assert set(np.unique(beside)) <= {0, 1}
        assert not beside[exact].any()


def test_products_are_truncated_without_wraps():
    rng = np.random.default_rng(3)
    x, y = rng.integers(-(2**30), 2**30, 4000), rng.integers(-(2**31), 2**31, 4000)
    x[:4], y[:4] = [2**30, -(2**30), 2**30, 0], [2**31, 2**31, -(2**31), 2**31]
    got = run(lambda e: e.open(e.multiply(dealt(e, x), dealt(e, y, 2), 18)))[0]
    assert set(np.unique(got.view(np.int64) - ((x * y) >> 18))) <= {0, 1}


def test_truncation_is_unbiased():
    z = np.full(40_000, 3 * 2**10 + 256)  # a quarter above

    def program(e):
        x, known = dealt(e, z), e.constant(z.view(np.uint64))
        return e.open(e.truncate(x, 10), e.truncate(known, 10), e.reduce(e.unfinished(known), 10))

    for got in run(program):
        up = float((got == 4).mean())
        assert abs(up - 0.25) < 5 * (0.25 * 0.75 / z.size) ** 0.5


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("width", [2, 3, 17, 62, 64])
def test_signs(link, width):
    z = signed(200, min(2**61, 2 ** (width - 1) - 1))
    got = run(lambda e: [e.reveal_bits(e.msb(dealt(e, z, 2), width))], round_trip=LINKS[link])[0]
    assert np.array_equal(got, ring.plane(z.view(np.uint64), 63)[None])


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("width", [1, 2, 13, 64])
def test_bits_of_integers_and_back(link, width):
    x = uniform(130)

    def program(e):
        bits = e.decompose(dealt(e, x, 3), width)
        return [e.reveal_bits(bits), *e.open(e.compose(bits))]

    planes, integers = run(program, round_trip=LINKS[link])
    assert np.array_equal(planes, ring.planes(x, width))
    assert np.array_equal(integers, x & np.uint64((1 << width) - 1))


def test_bitwise_operations():
    x, y, z = (uniform(100, seed=seed) for seed in range(3))

    def program(e):
        a, b, c = (e.decompose(dealt(e, v, owner), 5) for owner, v in enumerate((x, y, z)))
        return [
            e.reveal_bits(e.conjunction(a, b))[:, :1],
            e.reveal_bits(e.majority(a, b, c))[:, :1],
            e.reveal_bits(e.flip(a ^ b))[:, :1],
        ]

    both, most, same = run(program)
    a, b, c = (ring.planes(v, 5)[:, :1] for v in (x, y, z))
    assert np.array_equal(both, a & b)
    assert np.array_equal(most, (a & b) ^ (b & c) ^ (a & c))
    assert np.array_equal(same, ~(a ^ b))


def test_selection_by_a_bit():
    z, x = signed(500), uniform(500 + len(EDGES))

    def program(e):
        bit = e.msb(dealt(e, z, 1))
        value = dealt(e, x, 2)
        return e.open(e.select(bit, value), e.select(e.flip(bit), value))

    negative, positive = run(program)
    assert np.array_equal(negative, np.where(z < 0, x, 0))
    assert np.array_equal(positive, np.where(z >= 0, x, 0))


def test_random_bits_and_integers_are_uniform():
    bits, integers = run(
        lambda e: [e.reveal_bits(e.random_bits((6400,), 2)), *e.open(e.random_integers((6400,), 3))]
    )
    ones = np.unpackbits(bits.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.03
    assert chi_square(np.bincount(integers.astype(int), minlength=8)) < 40


def chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def test_rows_are_shuffled_together():
    x, y = uniform(50, seed=1), uniform(50, 2, 3, seed=2)
    a, b = run(lambda e: e.open(*e.shuffle(dealt(e, x), dealt(e, y, 1))))
    order = [list(x).index(value) for value in a]
    assert sorted(order) == list(range(50))
    assert order != list(range(50))
    assert np.array_equal(b, y[order])


def test_every_order_is_as_likely():
    x = np.arange(3, dtype=np.uint64)
    rows = run(lambda e: e.open(*(e.shuffle(e.constant(x))[0] for _ in range(400))))
    seen = np.unique([tuple(map(int, row)) for row in rows], axis=0, return_counts=True)[1]
    assert seen.size == 6
    assert chi_square(seen) < 25


@pytest.mark.parametrize("party", range(4))
def test_no_party_alone_knows_the_order(party):
    # the order depends on the key that this party lacks
    x = np.arange(40, dtype=np.uint64)

    def order(other):
        def make(wire):
            keys = [bytes([component]) * 16 for component in range(4)]
            keys[party] = bytes([other]) * 16
            return RSS4(wire, [keys[component] for component in RSS4.held(wire.me)])

        return together(lambda e: e.open(*e.shuffle(e.constant(x)))[0], make, 4)[0]

    assert not np.array_equal(order(100), order(101))


# -- costs


COSTS = {
    "times": (lambda e, x, b: e.multiply(x, x), 48, 1),
    "matrices": (lambda e, x, b: e.matmul(x.reshape(64, 16), x.reshape(16, 64)), 48 * 4, 1),
    "times, truncated": (lambda e, x, b: e.multiply(x, x, 18), 48 + 6 * 18 / 8, 3),
    "truncate": (lambda e, x, b: e.truncate(x, 18), 16 + 6 * 18 / 8, 2),
    "conjunction": (lambda e, x, b: e.conjunction(b, b), 6 / 8, 1),
    "select": (lambda e, x, b: e.select(b, x), 64, 2),
    "compose": (lambda e, x, b: e.compose(b), 48, 2),
    "shuffle": (lambda e, x, b: e.shuffle(x), 96, 4),
    "deal": (lambda e, x, b: dealt(e, np.zeros(1024, np.int64), 1), 16, 1),
    "verify": (lambda e, x, b: e.verify(), 1248 / 1024, 4),
    "open": (lambda e, x, b: e.open(x), 32 + 1600 / 1024, 5),
}


@pytest.mark.parametrize("what", COSTS)
def test_costs_are_as_documented_and_do_not_depend_on_values(what):
    step, each, rounds = COSTS[what]

    def program(e, value):
        x, bit = e.constant(np.full(1024, value, np.uint64)), e.random_bits((1024,))
        before = (e.wire.total.sent, e.wire.total.rounds)
        step(e, x, bit)
        return e.wire.total.sent - before[0], e.wire.total.rounds - before[1]

    for value in (0, 2**40 + 1):
        spent = together(lambda e, value=value: program(e, value), rss4, 4)
        assert sum(sent for sent, _ in spent) == each * 1024
        assert {taken for _, taken in spent} == {rounds}


def test_a_rehearsal_counts_what_is_said():
    def program(e):
        x = dealt(e, np.arange(70))
        e.open(e.shuffle(e.select(e.msb(x), e.multiply(x, x, 5)))[0])
        e.verify()
        return e.wire.total.sent, e.wire.total.received, e.wire.total.rounds

    spent = together(program, rss4, 4)
    assert [program(rss4(DryWire(party, 4))) for party in range(4)] == spent


def test_parties_agree_on_keys_and_start():
    def make(wire):
        return RSS4(wire, agree(wire, [RSS4.holders(c) for c in RSS4.held(wire.me)], os.urandom))

    x = uniform(5)
    for got in together(lambda e: e.open(dealt(e, x, 2)), make, 4):
        assert np.array_equal(got[0], x)


def test_load_is_even():
    def program(e):
        x = e.constant(uniform(640))
        for _ in range(4):
            e.multiply(x, x)
            e.msb(x)
        return e.wire.total.sent, e.wire.total.received

    spent = np.array(together(program, rss4, 4))
    assert spent.max() < 1.35 * spent.mean()


# -- privacy


class Listening(MemoryWire):
    """Keeps what arrives."""

    def __init__(self, wire):
        super().__init__(wire.me, wire._queues)
        self.heard = []

    def _exchange(self, send, receive):
        super()._exchange(send, receive)
        self.heard.append([(peer, array.reshape(-1).copy()) for peer, array in receive.items()])


def private(e):
    """Do everything once on fixed values, 64 of them so that no bit of a plane is padding."""
    x, y = dealt(e, np.full(64, 3)), dealt(e, np.arange(64), 1)
    e.multiply(x, y)
    e.matmul(x.reshape(8, 8), y.reshape(8, 8), 8)
    t = e.truncate(y, 8)
    bit = e.msb(y, 8)
    r = e.select(bit, x)
    e.compose(bit)
    s = e.shuffle(x, y)
    return [x.parts[..., :], t.parts, r.parts, *(share.parts for share in s)]


def test_what_a_party_receives_and_holds_looks_uniform_whatever_the_values():
    seen = {}
    for seed in range(60):
        ends = [Listening(wire) for wire in wires(4)]
        outputs = outcomes_of(private, lambda wire, seed=seed: rss4(wire, seed), ends)
        for end, output in zip(ends, outputs, strict=True):
            for number, arrays in enumerate(end.heard):
                for peer, array in arrays:
                    seen.setdefault((end.me, number, peer), []).append(array)
            for number, parts in enumerate(output[1:]):
                for component, part in zip(RSS4.held(end.me), parts, strict=True):
                    seen.setdefault((end.me, "held", number, component), []).append(part.reshape(-1))
    assert len(seen) > 100
    for where, arrays in seen.items():
        counts = np.bincount(np.concatenate(arrays).view(np.uint8), minlength=256)
        # 255 degrees of freedom: beyond 400 once in 10^8
        assert chi_square(counts) < 400, where


def test_check_values_look_uniform_at_other_parties():
    tags = []
    for seed in range(100):
        ends = [Listening(wire) for wire in wires(4)]

        def program(e):
            e.multiply(e.constant(np.ones(3, np.uint64)), e.constant(np.ones(3, np.uint64)))
            e.verify()

        assert outcomes_of(program, lambda wire, seed=seed: rss4(wire, seed), ends) == [None] * 4
        commitments, shown = ends[seed % 4].heard[1:3]
        tags += [array[:4] for _, array in commitments] + [array for _, array in shown]
    assert chi_square(np.bincount(np.concatenate(tags).view(np.uint8), minlength=256)) < 400


# -- setting up


@pytest.mark.parametrize("maker", range(4))
def test_a_key_that_its_maker_gave_out_in_two_versions_is_found_before_anything_is_opened(maker):
    component = (maker + 1) % 4
    deceived = next(party for party in RSS4.holders(component) if party != maker)

    def make(wire):
        keys = [bytes([c]) * 16 for c in range(4)]
        if wire.me == deceived:
            keys[component] = b"another key here"
        return RSS4(wire, [keys[c] for c in RSS4.held(wire.me)])

    for program in (lambda e: e.verify(), lambda e: e.open(e.constant(uniform(3)))):
        outcomes = outcomes_of(program, make, wires(4))
        assert all(isinstance(outcome, CheatingDetected) for outcome in outcomes)


def test_a_liar_cannot_compute_how_two_versions_of_a_key_change_the_check_values():
    # of what parties 0 and 1 compare about 2, only they and 3 have the key, whatever 2 gave them for 3
    def tag(me, peer, key):
        keys = [bytes([c]) * 16 for c in range(4)]
        keys[3] = key
        engine = RSS4(wires(4)[me], [keys[c] for c in RSS4.held(me)])
        return engine._joint._tag(2, peer)

    assert np.array_equal(tag(0, 1, b"sixteen bytes  a"), tag(1, 0, b"sixteen bytes  a"))
    assert not np.array_equal(tag(0, 1, b"sixteen bytes  a"), tag(1, 0, b"sixteen bytes  b"))


def test_a_party_that_runs_another_program_is_found():
    def program(e):
        if e.me == 2:
            e.random_bits((5,))
        e.verify()

    outcomes = outcomes_of(program, rss4, wires(4))
    assert all(isinstance(outcome, ProtocolError) for outcome in outcomes)
    assert all(outcome.remedy for outcome in outcomes)
