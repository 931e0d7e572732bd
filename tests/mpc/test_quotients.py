"""Reciprocals, quotients and roots keep their declared errors from the least value to the bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.twins import ULP, both, decades, grid, on_grid, played
from veilsum.errors import ConfigError
from veilsum.mpc import fixed
from veilsum.mpc import quotients as q
from veilsum.mpc.engine import Link
from veilsum.mpc.plain import Plain

SMALL = 2.0**-17
RANGES = [
    (1, 1),
    (1, 1.5),
    (1, 2),
    (1, 10),
    (3, 192),
    (0.9, 1000),
    (100, 5000),
    (2.0**-10, 2.0**10),
    (ULP, 1),
    (ULP, 64),
    (2.0**-12, 2.0**17),
]


@pytest.mark.parametrize(("least", "bound"), RANGES)
def test_reciprocal(least, bound):
    x = decades(least, bound)
    clear, shared = both(lambda x: q.reciprocal(x, least), x, bounds=[bound])
    for result in (clear, shared):
        assert np.all(np.abs(result - 1 / x) <= SMALL * (1 + 1 / x))


@pytest.mark.parametrize(("least", "bound"), RANGES)
def test_roots(least, bound):
    x = decades(least, bound)
    clear, shared = both(lambda x: q.rsqrt(x, least), x, bounds=[bound])
    for result in (clear, shared):
        assert np.all(np.abs(result - x**-0.5) <= SMALL * (1 + x**-0.5))
    clear, shared = both(lambda x: q.sqrt(x, least), x, bounds=[bound])
    for result in (clear, shared):
        assert np.all(np.abs(result - x**0.5) <= SMALL * (1 + x**0.5))


@pytest.mark.parametrize(("least", "bound"), [(1, 9), (2.0**-12, 100), (2.0**-10, 2.0**30), (5.0, 30)])
def test_roots_down_to_zero(least, bound):
    x = np.concatenate([[0.0, ULP], grid(0, least, 2000)])
    clear, shared = both(lambda x: q.sqrt(x, least), x, bounds=[bound])
    for result in (clear, shared):
        assert np.max(np.abs(result - np.sqrt(x))) <= np.sqrt(least) / 8 + SMALL
        assert abs(result[0]) <= 2 * ULP


@pytest.mark.parametrize(
    ("bound", "least", "largest"),
    [
        (1000, 0.5, 900),
        (1, 2.0**-12, 1),
        (2.0**20, 2.0**20, 2.0**30),
        (2.0**12, 2.0**-12, 2.0**10),
        (1, 1, 1),
        (2.0**20, 2.0**-3, 2.0**4),
        (3, 1, 2**20),
    ],
)
def test_divide(bound, least, largest):
    rng = np.random.default_rng(3)
    x = np.concatenate([on_grid(rng.uniform(-bound, bound, 2000)), [bound, -bound, 0.0]])
    y = np.concatenate([rng.permutation(decades(least, largest, 2000)), [least, least, largest]])
    clear, shared = both(lambda x, y: q.divide(x, y, least), x, y, bounds=[bound, largest])
    finest = bound * largest / least**2 * 2.0**-56
    for result in (clear, shared):
        assert np.all(np.abs(result - x / y) <= SMALL * (1 + np.abs(x / y)) + finest)


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 200), min_size=1, max_size=30))
def test_a_root_squared_is_the_number(values):
    x = on_grid(values)
    clear, shared = both(lambda x: q.sqrt(x, 2.0**-7) * q.sqrt(x, 2.0**-7), x, bounds=[201])
    for result in (clear, shared):
        assert np.all(np.abs(result - x) <= 3e-5 * (1 + x))


def test_plans_leave_next_to_nothing():
    for ratio in (1.5, 2, 4, 10, 30, 64):
        plan = q.planned(ratio)
        m = np.linspace(1, ratio, 10001)
        error = 1 - m * (plan.start - plan.slope * m) / 4096
        for factor in plan.factors:
            error = factor / 32 * error**2 - (factor / 32 - 1)
        assert np.max(np.abs(error)) <= plan.error * (1 + 1e-9) <= 2.0**-19


@pytest.mark.parametrize("link", [Link(round_trip=1e-7), Link(round_trip=1.0)])
def test_every_link_gets_the_error(link):
    engine = Plain(link=link)
    x = decades(2.0**-5, 2.0**9)
    (result,) = fixed.reveal(q.reciprocal(fixed.deal(engine, x, 0, x.shape, 2.0**9), 2.0**-5))
    assert np.all(np.abs(result - 1 / x) <= SMALL * (1 + 1 / x))


@pytest.mark.parametrize(
    ("program", "bound"),
    [
        (lambda x: q.reciprocal(x, 0.0), 1),
        (lambda x: q.reciprocal(x, ULP / 2), 1),
        (lambda x: q.reciprocal(x, 2.0), 1),
        (lambda x: q.reciprocal(x, 2.0**30), 2.0**31),
        (lambda x: q.rsqrt(x, -1.0), 1),
        (lambda x: q.sqrt(x, 2.0), 1),
        (lambda x: q.divide(x, x, 1.0), 2.0**21),
        (lambda x: q.divide(x, x, ULP), 2.0**20),
        (lambda x: q.reciprocal(x, ULP), 2.0**20),
        (lambda x: q.rsqrt(x, 1), 2.0**43),
    ],
)
def test_what_is_out_of_range_is_refused(program, bound):
    with pytest.raises(ConfigError) as error:
        program(fixed.deal(Plain(), np.ones(3), 0, (3,), bound))
    assert error.value.remedy


@pytest.mark.parametrize(
    "made", [lambda x: q.reciprocal(x, 0.5), lambda x: q.sqrt(x, 0.5), lambda x: q.divide(x, x, 0.5)]
)
def test_values_decide_nothing_that_is_sent(made):
    x = grid(0.5, 300, 100)
    assert played(made, [x], [1000])[2] == played(made, [x[::-1] * 0 + 0.5], [1000])[2]
