"""Bits move between rows and planes without a change."""

import numpy as np
import pytest

from veilsum.arith import ring
from veilsum.mpc.packing import as_planes, as_rows, repeated
from veilsum.mpc.plain import Plain
from veilsum.mpc.shares import Bits


def packed(values):
    return Plain().decompose(Plain().constant(values.astype(np.uint64)), 1)


def loose(bits):
    return np.stack(
        [ring.from_planes(bits.parts[0, p : p + 1].copy(), bits.size) for p in range(bits.planes)]
    )


@pytest.mark.parametrize("shape", [(3, 64), (3, 128), (5, 1), (2, 63), (4, 65), (3, 4, 16), (1, 7)])
def test_rows_become_planes_and_planes_rows(shape):
    values = np.random.default_rng(1).integers(0, 2, shape)
    planes = as_planes(packed(values))
    assert planes.planes == shape[0]
    assert planes.shape == shape[1:]
    assert np.array_equal(loose(planes).reshape(shape), values)
    back = as_rows(planes)
    assert back.shape == shape
    assert np.array_equal(back.parts, packed(values).parts)


@pytest.mark.parametrize("size", [1, 64, 100])
def test_a_plane_is_repeated(size):
    values = np.random.default_rng(2).integers(0, 2, size)
    assert np.array_equal(loose(repeated(packed(values), 3))[0].reshape(3, size), np.stack([values] * 3))


def test_components_move_alike():
    rng = np.random.default_rng(3)
    parts = np.stack([packed(rng.integers(0, 2, (4, 9))).parts[0] for _ in range(2)])
    both = as_planes(Bits(parts, (4, 9)))
    for component in range(2):
        alone = as_planes(Bits(parts[component : component + 1], (4, 9)))
        assert np.array_equal(both.parts[component], alone.parts[0])
