"""Comparisons and maxima are exact, at the edges of the range and where values are equal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.twins import ULP, both, exactly, grid, on_grid, played
from veilsum.errors import ConfigError
from veilsum.mpc import compare, fixed
from veilsum.mpc.plain import Plain

LIMIT = 2.0**43


def edges(bound):
    near = np.array([0.0, ULP, 2 * ULP, 1.0, bound / 2, bound - ULP, bound])
    return on_grid(np.concatenate([-near[::-1], near]))


@pytest.mark.parametrize("bound", [ULP, 1.0, 100.0, 2.0**20, LIMIT])
def test_signs_at_the_edges(bound):
    x = np.clip(edges(bound), -bound, bound)

    def program(x):
        relu, sign = compare.relu_with_sign(x)
        assert relu.bound == x.bound
        compose = x.engine.compose
        return [
            compose(compare.positive(x)),
            compose(compare.negative(x)),
            compose(sign),
            relu,
            compare.absolute(x),
        ]

    positive, negative, sign, relu, absolute = exactly(program, x, bounds=[bound])
    assert np.array_equal(positive, x >= 0)
    assert np.array_equal(negative, x < 0)
    assert np.array_equal(sign, x >= 0)
    assert np.array_equal(relu, np.maximum(x, 0))
    assert np.array_equal(absolute, np.abs(x))


def test_two_numbers_are_compared():
    x, y = (a.reshape(-1) for a in np.meshgrid(edges(2.0**20), edges(2.0**20)))

    def program(x, y):
        compose = x.engine.compose
        return [
            compose(compare.less(x, y)),
            compose(compare.equal(x, y)),
            compare.maximum(x, y),
            compare.minimum(x, y),
        ]

    less, equal, largest, least = exactly(program, x, y, bounds=[2.0**20, 2.0**20])
    assert np.array_equal(less, x < y)
    assert np.array_equal(equal, x == y)
    assert np.array_equal(largest, np.maximum(x, y))
    assert np.array_equal(least, np.minimum(x, y))


def test_comparisons_broadcast():
    x, y = grid(-3, 3, 7).reshape(7, 1), grid(-1, 1, 5)
    less, equal = exactly(
        lambda x, y: [x.engine.compose(compare.less(x, y)), x.engine.compose(compare.equal(x, y))],
        x,
        y,
        bounds=[3, 1],
    )
    assert np.array_equal(less, x < y)
    assert np.array_equal(equal, x == y)


def test_thresholds_are_reached_exactly():
    ends = [-2.0, 0.0, 0.5, 7.0]
    x = np.concatenate([[end - ULP, end, end + ULP] for end in ends]).reshape(2, 6)
    (reached,) = exactly(lambda x: compare.at_least(x, ends), x, bounds=[8])
    assert np.array_equal(reached, x >= np.reshape(ends, (4, 1, 1)))


AXES = [
    ((5, 7), 1),
    ((3, 64), 0),
    ((4, 9, 2), 1),
    ((1, 3), 0),
    ((130, 1), 0),
    ((6, 128), -2),
    ((2, 3, 4), -1),
]


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_maxima_and_their_places(shape, axis):
    rng = np.random.default_rng(4)
    # quarters, so that many are equal
    x = np.round(rng.normal(size=shape) * 4) / 4
    g = on_grid(rng.normal(size=x.max(axis).shape))

    def program(x, g):
        highest, choice = compare.max_with_choice(x, axis)
        assert highest.bound == x.bound
        routed = compare.route(choice, g)
        return [
            highest,
            compare.max_along(x, axis),
            compare.argmax(x, axis),
            compare.argmax_index(x, axis),
            routed,
        ]

    highest, again, places, index, routed = exactly(program, x, g, bounds=[50, 10])
    assert np.array_equal(highest, x.max(axis))
    assert np.array_equal(again, highest)
    assert np.array_equal(np.unique(places), [0, 1][-len(np.unique(places)) :])
    assert np.array_equal(places.sum(axis), np.ones_like(highest))
    assert np.array_equal((places * x).sum(axis), highest)
    assert np.array_equal(places.argmax(axis), index)
    # the transpose of taking the chosen
    assert np.array_equal(routed, places * np.expand_dims(g, axis))


@settings(max_examples=20)
@given(st.lists(st.integers(-(2**61) + 1, 2**61 - 1), min_size=1, max_size=70))
def test_relu_of_both_signs_gives_the_number_back(values):
    x = np.array(values) // 2**10 * ULP
    (difference,) = exactly(lambda x: compare.relu(x) - compare.relu(-x), x, bounds=[2.0**33])
    assert np.array_equal(difference, x)


def test_differences_must_fit():
    engine = Plain()
    x = fixed.deal(engine, np.zeros((2, 3)), 0, (2, 3), LIMIT)
    for refused in (
        lambda: compare.less(x, x),
        lambda: compare.equal(x, x),
        lambda: compare.maximum(x, x),
        lambda: compare.max_along(x),
    ):
        with pytest.raises(ConfigError, match="do not fit") as error:
            refused()
        assert error.value.remedy


def test_nothing_has_no_maximum():
    x = fixed.deal(Plain(), np.zeros((2, 0)), 0, (2, 0), 1.0)
    with pytest.raises(ConfigError, match="no maximum"):
        compare.max_along(x)
    with pytest.raises(ConfigError, match="no axis"):
        compare.max_along(fixed.public(Plain(), 1.0))


def test_narrow_bounds_save_bytes():
    x = grid(-1, 1, 640)
    wide, narrow = (played(compare.relu, [x], [bound])[2].sent for bound in (LIMIT, 1.0))
    assert narrow < wide


def test_a_level_is_one_batch():
    x = grid(-1, 1, 1024)
    rounds = [
        played(lambda x: compare.max_along(x, 0), [x.reshape(16, 64)[:, :n]], [1])[2].rounds for n in (1, 64)
    ]
    assert rounds[1] <= rounds[0] + 4 * 8  # an adder may trade rounds for bytes, no more
    assert np.array_equal(*both(lambda x: compare.max_along(x, 0), x.reshape(16, 64), bounds=[1]))
