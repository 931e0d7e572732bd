"""Fixed-point numbers: what is encoded comes back, bounds hold, what could leave the ring is refused."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpc.twins import ULP, both, on_grid
from veilsum.errors import ConfigError, DataError
from veilsum.mpc import fixed
from veilsum.mpc.fixed import Fixed, checked, decode, encode, width_of
from veilsum.mpc.plain import Plain
from veilsum.testing.computing import rss3, together

F = 18
LIMIT = 2.0**43
PRODUCTS = 2.0**25


def made(engine, values, bound=None):
    values = on_grid(values)
    return fixed.deal(engine, values, 0, values.shape, np.abs(values).max() if bound is None else bound)


def opened(number):
    (values,) = fixed.reveal(number)
    return values


# -- between numbers and ring elements


@given(st.lists(st.floats(-(2.0**43), 2.0**43), max_size=20))
def test_numbers_come_back_to_half_a_unit(values):
    back = decode(encode(values, F), F)
    assert np.all(np.abs(back - np.array(values)) <= ULP / 2)
    assert np.array_equal(encode(back, F), encode(values, F))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**44, -(2.0**44), 1e308])
def test_what_cannot_be_encoded_is_refused(value):
    with pytest.raises(DataError, match=r"finite|too large"):
        encode([0.0, value], F)


@given(st.floats(0, LIMIT), st.floats(-1, 1))
def test_widths_hold_every_number(bound, part):
    value = int(np.round(bound * part * 2**F))
    assert abs(value) < 2 ** (width_of(bound, F) - 1)
    assert 2 <= width_of(bound, F) <= 64


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0001, -3.1])
def test_data_beyond_the_declared_range_is_refused_at_its_owner(value):
    assert np.array_equal(checked([3.0, -3.0], 3.0), [3, -3])
    with pytest.raises(DataError, match=r"1 of 2 values") as told:
        checked([0.0, value], 3.0)
    assert str(value) not in str(told.value)
    with pytest.raises(DataError, match=r"1 of 2 values"):
        fixed.deal(Plain(), [0.0, value], 0, (2,), 3.0)


@pytest.mark.parametrize("bound", [LIMIT * 1.001, -1.0, np.nan, np.inf])
def test_bounds_beyond_the_ring_are_refused(bound):
    engine = Plain()
    with pytest.raises(ConfigError, match="do not fit"):
        Fixed(engine, engine.constant(np.zeros(1, np.uint64)), bound)


# -- arithmetic

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
BOUNDS = st.sampled_from([ULP, 0.01, 0.3, 1.0, 7.5, 64.0, 900.0, 5000.0])


@given(st.sampled_from(sorted(OPERATORS)), BOUNDS, BOUNDS, st.booleans(), st.integers(0, 99))
@settings(max_examples=150)
def test_results_are_right_and_never_beyond_their_bound(name, first, second, public, seed):
    rng, engine = np.random.default_rng(seed), Plain()
    a = np.append(rng.uniform(-first, first, 20), [first, -first, 0])
    b = np.append(rng.uniform(-second, second, 20), [second, second, -second])
    if not public:
        a, b = on_grid(a), on_grid(b)
    x = made(engine, a)
    y = b if public else made(engine, b)
    result = OPERATORS[name](x, y)
    values = opened(result)
    assert np.abs(values).max() <= result.bound
    exact = OPERATORS[name](on_grid(a), b)
    error = ULP + (np.abs(a).max() * ULP if public and name == "*" else 0)
    assert np.abs(values - exact).max() <= error


@given(st.floats(-300, 300), st.floats(1, 4000), st.integers(0, 99))
def test_public_operands_stand_on_either_side(number, bound, seed):
    x = on_grid(np.random.default_rng(seed).uniform(-bound, bound, 30))
    share, grid = made(Plain(), x, bound + ULP), on_grid(number)
    assert np.array_equal(opened(number + share), opened(share + number))
    assert np.array_equal(opened(number - share), grid - x)
    assert np.array_equal(opened(share - number), x - grid)
    assert np.array_equal(opened(number * share), opened(share * number))
    assert np.array_equal(opened(-share), -x)
    array = np.full((2, 30), number)
    assert np.array_equal(opened(array + share), np.broadcast_to(x + grid, (2, 30)))
    assert (array * share).shape == (2, 30)


@given(st.floats(1e-6, 1.0), st.floats(0.01, 2.0**20))
def test_small_public_factors_keep_their_precision(factor, bound):
    assume(bound * bound * factor < 2.0**23)
    x = on_grid(np.linspace(-bound, bound, 41))
    product = made(Plain(), x) * factor
    assert np.abs(opened(product) - x * factor).max() <= ULP
    assert product.bound <= np.abs(x).max() * factor + 2 * ULP


@pytest.mark.parametrize("whole", [0, 1, -3, 1000.0, 2**19])
def test_whole_numbers_need_no_rounding(whole):
    x = made(Plain(), [-3.14159, 2.5])
    product = x * whole
    assert np.array_equal(opened(product), on_grid([-3.14159, 2.5]) * whole)
    assert product.bound == x.bound * abs(whole)


def test_products_that_could_leave_the_ring_are_refused():
    engine = Plain()
    zero = engine.constant(np.zeros((4, 4), np.uint64))
    x, y = Fixed(engine, zero, 2.0**13), Fixed(engine, zero, 2.0**12)
    assert (x * y).bound == PRODUCTS + ULP
    assert (x * 4095.5).bound < PRODUCTS
    for refused in (
        lambda: x * x,
        lambda: x @ y,
        lambda: x * 4097.5,
        lambda: x @ np.full((4, 4), 1025.0),
        lambda: Fixed(engine, zero, LIMIT) + 1.0,
        lambda: Fixed(engine, zero, LIMIT) - Fixed(engine, zero, 1.0),
        lambda: Fixed(engine, zero, LIMIT) * 2,
        lambda: Fixed(engine, zero, LIMIT).sum(0),
        lambda: Fixed(engine, zero, LIMIT).halved(-1),
    ):
        with pytest.raises(ConfigError, match=r"beyond|do not fit") as told:
            refused()
        assert "range" in told.value.remedy


@given(st.integers(1, 5), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_matrix_products_hold_their_bound(rows, inner, public, seed):
    rng, engine = np.random.default_rng(seed), Plain()
    a, b = rng.choice([-9.37, 9.37, 1.0], (rows, inner)), rng.choice([-0.1234567, 0.1234567, 0.1], (inner, 3))
    x = made(engine, a, 9.37)
    product = x @ (b if public else made(engine, b))
    assert np.abs(opened(product)).max() <= product.bound
    assert np.abs(opened(product) - on_grid(a) @ on_grid(b)).max() <= ULP


AXES = [None, 0, 1, 2, -1, (0, 2), (0, 1, 2)]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keep", [False, True])
def test_sums_and_means(axis, keep):
    x = on_grid(np.random.default_rng(0).uniform(2, 3, (3, 5, 7)))
    share = made(Plain(), x, 3.0)
    total, mean = share.sum(axis, keep=keep), share.mean(axis, keep=keep)
    assert np.array_equal(opened(total), x.sum(axis, keepdims=keep))
    assert np.abs(opened(mean) - x.mean(axis, keepdims=keep)).max() <= 2 * ULP
    assert np.abs(opened(total)).max() <= total.bound
    assert np.abs(opened(mean)).max() <= mean.bound <= 3.0 + ULP


@pytest.mark.parametrize("count", [3, 1000, 70_000])
def test_means_of_many_are_as_precise_as_of_few(count):
    x = on_grid(np.random.default_rng(0).uniform(10, 16, count))
    assert abs(opened(made(Plain(), x, 16.0).mean()) - x.mean()) <= 3 * ULP


@pytest.mark.parametrize("bits", [-3, -1, 0, 1, 2, 17])
def test_halving_and_doubling(bits):
    x = on_grid(np.random.default_rng(0).uniform(-50, 50, 100))
    share = made(Plain(), x, 50.0)
    half = share.halved(bits)
    assert np.abs(opened(half) - x * 2.0**-bits).max() <= (ULP if bits > 0 else 0)
    assert np.abs(opened(half)).max() <= half.bound


def test_a_promise_only_tightens():
    x = made(Plain(), [1.0, 2.0], 8.0)
    assert x.within(4.0).bound == 4.0
    assert x.within(20.0).bound == 8.0
    assert np.array_equal(opened(x.within(4.0)), [1, 2])
    assert x.within(4.0).width < x.width
    assert repr(x) == "Fixed(2,) within 8"


# -- moves and choice


def test_moves_are_those_of_numpy():
    a = on_grid(np.random.default_rng(0).uniform(-3, 3, (2, 3, 4)))
    b = on_grid(np.random.default_rng(1).uniform(-5, 5, (2, 1, 4)))
    x, y = (made(Plain(), v, limit) for v, limit in ((a, 3.0), (b, 5.0)))
    assert np.array_equal(opened(x.reshape(4, -1)), a.reshape(4, -1))
    assert np.array_equal(opened(x.permuted(2, 0, 1)), a.transpose(2, 0, 1))
    assert np.array_equal(opened(x.T), np.swapaxes(a, -1, -2))
    assert np.array_equal(opened(x[:, 1:, ::2]), a[:, 1:, ::2])
    assert np.array_equal(opened(x[1]), a[1])
    assert np.array_equal(opened(x.taken(np.array([2, 0, 2]), 1)), a[:, [2, 0, 2]])
    assert np.array_equal(opened(y.spread((3, 2, 5, 4))), np.broadcast_to(b, (3, 2, 5, 4)))
    joined = Fixed.joined([x, y], axis=1)
    assert np.array_equal(opened(joined), np.concatenate([a, b], 1))
    assert joined.bound == 5.0
    assert (x.shape, x.ndim, x.size) == ((2, 3, 4), 3, 24)


def test_a_bit_chooses():
    x = on_grid(np.linspace(-4, 4, 70))
    engine = Plain()
    yes, no = made(engine, x, 4.0), made(engine, 3 * x, 12.0)
    negative = engine.msb(yes.share)
    chosen, kept = fixed.choose(negative, yes, no), fixed.choose(negative, yes)
    assert np.array_equal(opened(chosen), np.where(x < 0, x, 3 * x))
    assert np.array_equal(opened(kept), np.where(x < 0, x, 0))
    assert (chosen.bound, kept.bound) == (12.0, 4.0)


def test_public_numbers_have_the_bound_of_what_is_encoded():
    engine, values = Plain(), np.array([0.4 * ULP, 1 / 3])
    share = fixed.public(engine, values)
    assert np.array_equal(opened(share), on_grid(values))
    assert np.abs(opened(share)).max() <= share.bound
    assert fixed.public(engine, np.zeros((0, 3))).bound == 0


# -- three parties


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_three_parties_agree_within_a_unit(name):
    rng = np.random.default_rng(5)
    a, b = on_grid(rng.uniform(-30, 30, (5, 13))), on_grid(rng.uniform(-30, 30, 13))
    clear, shared = both(OPERATORS[name], a, b, bounds=(30.0, 30.0))
    assert np.abs(clear - shared).max() <= ULP
    clear, shared = both(lambda x: OPERATORS[name](x, 0.0123), a, bounds=(30.0,))
    assert np.abs(clear - shared).max() <= ULP


def test_every_party_deals_and_all_open_the_same():
    x = on_grid(np.random.default_rng(2).uniform(-3, 3, (4, 5)))

    def program(engine):
        shares = [fixed.deal(engine, x if engine.me == me else None, me, x.shape, 3.0) for me in range(3)]
        return fixed.reveal(*shares, (shares[0] - shares[1]).mean(1))

    for several in together(program, rss3):
        for one in several[:3]:
            assert np.array_equal(one, x)
        assert np.abs(several[3]).max() <= ULP
