"""A sorted array is the array in order, and payloads follow their keys."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.twins import exactly, played
from veilsum.errors import ConfigError
from veilsum.mpc import fixed
from veilsum.mpc.plain import Plain
from veilsum.mpc.sorting import network, sort, top_k


@pytest.mark.parametrize("count", range(1, 12))
def test_networks_sort_all_zeros_and_ones(count):
    # by the 0-1 principle they then sort everything
    everything = np.array(list(product((0, 1), repeat=count)))
    for k in range(1, count + 1):
        values = everything.copy()
        layers, places = network(count, k)
        for layer in layers:
            assert len({place for pair in layer for place in pair}) == 2 * len(layer)
            for first, second in layer:
                a, b = values[:, first].copy(), values[:, second].copy()
                values[:, first], values[:, second] = np.maximum(a, b), np.minimum(a, b)
        assert np.array_equal(values[:, places], -np.sort(-everything)[:, :k])


def test_the_largest_alone_take_fewer_comparisons():
    one, four, all_of_them = (sum(map(len, network(64, k).layers)) for k in (1, 4, 64))
    assert one == 63
    assert four == 200  # 16 runs of 4 sorted by 5, then 15 merges of 8
    assert all_of_them == 543


@pytest.mark.parametrize(("shape", "axis"), [((9, 3), 0), ((2, 16), -1), ((2, 5, 3), 1), ((1, 4), 0)])
def test_payloads_follow_their_keys(shape, axis):
    rng = np.random.default_rng(1)
    x = rng.permutation(int(np.prod(shape))).reshape(shape) - 7.0
    k = min(2, shape[axis])

    def program(x, y):
        up = sort(x, y, axis=axis)
        assert [one.bound for one in up] == [100.0, 400.0]
        return [*up, *sort(x, axis=axis, descending=True), *top_k(x, k, y, axis=axis)]

    up, carried, down, top, top_carried = exactly(program, x, 3 * x, bounds=[100, 400])
    assert np.array_equal(up, np.sort(x, axis))
    assert np.array_equal(carried, 3 * up)
    assert np.array_equal(down, np.flip(up, axis))
    assert np.array_equal(top, down.take(range(k), axis))
    assert np.array_equal(top_carried, 3 * top)


@settings(max_examples=20)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_sorting_is_a_permutation_in_order(values):
    x = np.array(values, float)
    index = np.arange(len(x), dtype=float)
    ordered, places = exactly(lambda x, i: sort(x, i, axis=0), x, index, bounds=[5, 20])
    assert np.array_equal(np.sort(places), index)
    assert np.array_equal(x[places.astype(int)], ordered)
    assert np.all(np.diff(ordered) >= 0)


def test_what_does_not_exist_is_refused():
    x = fixed.deal(Plain(), np.zeros(5), 0, (5,), 1.0)
    for k in (0, 6):
        with pytest.raises(ConfigError, match="do not exist") as error:
            top_k(x, k)
        assert error.value.remedy
    with pytest.raises(ConfigError, match="no axis"):
        sort(fixed.public(Plain(), 1.0))


def test_the_order_decides_nothing_that_is_sent():
    x = np.arange(24.0).reshape(12, 2)
    sent = [played(lambda x: sort(x, axis=0)[0], [one], [30])[2] for one in (x, -x, 0 * x)]
    assert sent[0] == sent[1] == sent[2]
