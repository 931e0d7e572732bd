"""Exponentials and activations keep their declared errors over whole ranges, in clear and shared."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.twins import ULP, both, decades, grid, on_grid, played
from veilsum.errors import ConfigError
from veilsum.mpc import exponential as e
from veilsum.mpc import fixed
from veilsum.mpc.plain import Plain

ERF = np.vectorize(math.erf)


def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))


def gelu(x):
    return x * (1 + ERF(x / math.sqrt(2))) / 2


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


ACTIVATIONS = [
    (e.sigmoid, sigmoid, 3e-4, 2.0**40),
    (e.tanh, np.tanh, 5e-4, 2.0**40),
    (e.gelu, gelu, 1e-3, 2.0**20),
    (e.silu, lambda x: x * sigmoid(x), 1e-3, 2.0**20),
]


@pytest.mark.parametrize("bound", [ULP, 0.5, 2.0, 5.0, 12.0, 1000.0, None])
@pytest.mark.parametrize(("made", "true", "error", "widest"), ACTIVATIONS)
def test_activations(made, true, error, widest, bound):
    bound = widest if bound is None else bound
    ends = [end for t in (1.0, 1.25, 2.0, 2.5, 3.6, 4.5, 9.0, 9.5, 10.0) for end in (t - ULP, t, t + ULP)]
    near = np.array([one for one in ends if one <= bound])
    x = np.concatenate([grid(-bound, bound, 1501), near, -near, [0.0]])
    clear, shared = both(made, x, bounds=[bound])
    assert np.max(np.abs(clear - true(x))) <= error
    assert np.max(np.abs(shared - true(x))) <= error
    assert np.max(np.abs(clear - shared)) <= 10 * ULP


@pytest.mark.parametrize("made", [e.sigmoid, e.tanh, e.gelu, e.silu])
def test_far_from_zero_activations_are_exact(made):
    x = np.array([-(2.0**20), -1000.0, -10.0, 10.0, 1000.0, 2.0**20])
    limit = {e.sigmoid: x > 0, e.tanh: np.sign(x)}.get(made, np.maximum(x, 0))
    clear, shared = both(made, x, bounds=[2.0**20])
    assert np.array_equal(clear, limit)
    assert np.max(np.abs(shared - limit)) <= ULP


@settings(max_examples=20)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40))
def test_sigmoids_of_both_signs_add_up_to_one(values):
    x = on_grid(values)
    clear, shared = both(lambda x: e.sigmoid(x) + e.sigmoid(-x), x, bounds=[21])
    assert np.max(np.abs(clear - 1)) <= 4 * ULP
    assert np.max(np.abs(shared - 1)) <= 10 * ULP


@pytest.mark.parametrize("bound", [ULP, 0.01, 1.0, 6.0, 12.5, 12.6, 16.0, 25.0, 26.0, 1000.0, 2.0**30])
def test_exp_below_zero(bound):
    x = np.concatenate([-grid(0, bound, 1500), -grid(0, min(bound, 20), 1500)])
    clear, shared = both(lambda x: e.exp(x, most=0.0), x, bounds=[bound])
    for result in (clear, shared):
        assert np.all(np.abs(result - np.exp(x)) <= 1e-4 * np.exp(x) + 1e-5)
    assert np.max(np.abs(clear - shared)) <= 5 * ULP


@pytest.mark.parametrize(
    ("low", "most", "bound"),
    [
        (-0.01, 0.01, 0.01),
        (-1, 1, 1),
        (-6.25, 6.25, 6.25),
        (-9, 9, 9),
        (-16, 16, 16),
        (-20, 3, 900),
        (-2, 7, 8),
    ],
)
def test_exp_around_zero(low, most, bound):
    x = grid(low, most, 3000)
    clear, shared = both(lambda x: e.exp(x, most=most), x, bounds=[bound])
    for result in (clear, shared):
        assert np.all(np.abs(result - np.exp(x)) <= 1e-4 * np.exp(x) + 1e-5)


@pytest.mark.parametrize(
    ("least", "bound"), [(1, 2), (1, 10), (0.3, 1000), (2**-10, 2**10), (ULP, 1), (5, 2**40)]
)
def test_log(least, bound):
    x = decades(least, bound, 3000)
    clear, shared = both(lambda x: e.log(x, least), x, bounds=[bound])
    for result in (clear, shared):
        assert np.max(np.abs(result - np.log(x))) <= 1e-4
    assert np.max(np.abs(clear - shared)) <= 5 * ULP


@pytest.mark.parametrize(
    ("shape", "axis", "spread"), [((50, 10), 1, 1), ((10, 50), 0, 9), ((3, 2, 64), -1, 0.1), ((4, 1), 1, 1)]
)
def test_softmax(shape, axis, spread):
    x = on_grid(np.random.default_rng(1).normal(size=shape) * spread)
    true = softmax(x, axis)
    for made, wanted in ((e.softmax, true), (e.log_softmax, np.log(true))):
        clear, shared = both(lambda x, made=made: made(x, axis), x, bounds=[64])
        for result in (clear, shared):
            assert np.max(np.abs(result - wanted)) <= 5e-4


@pytest.mark.parametrize("high", [0.0, 8.0, 11.0, 12.5, 14.0, 16.0, 50.0])
def test_softmax_along_the_longest_axis_with_one_above_all(high):
    x = np.zeros((2, 4096))
    x[:, 77] = high
    clear, shared = both(e.softmax, x, bounds=[64])
    for result in (clear, shared):
        assert np.max(np.abs(result - softmax(x))) <= 5e-4


def refused(program, bound, shape=(2, 3)):
    with pytest.raises(ConfigError) as error:
        program(fixed.deal(Plain(), np.zeros(shape), 0, shape, bound))
    assert error.value.remedy


@pytest.mark.parametrize(
    ("program", "bound"),
    [
        (e.exp, 16.1),
        (lambda x: e.exp(x, most=17), 100),
        (e.gelu, 2.0**21),
        (e.silu, 2.0**21),
        (e.tanh, 2.0**43),
        (e.softmax, 2.0**43),
        (lambda x: e.log(x, least=2.0**-19), 1),
        (lambda x: e.log(x, least=2.0), 1),
        (lambda x: e.log(x, least=-1.0), 1),
    ],
)
def test_what_is_out_of_range_is_refused(program, bound):
    refused(program, bound)


def test_an_axis_too_long_is_refused():
    refused(e.softmax, 1, (1, 4097))


@pytest.mark.parametrize(
    "made", [e.sigmoid, e.gelu, e.silu, lambda x: e.exp(-x, most=0.0), e.softmax, lambda x: e.log(x, 0.5)]
)
def test_values_decide_nothing_that_is_sent(made):
    x = grid(1, 30, 120).reshape(12, 10)
    assert played(made, [x], [40])[2] == played(made, [31 - x], [40])[2]
