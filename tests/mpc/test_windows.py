"""Windows are read as numpy's loops read them, and gathering is the transpose of reading."""

import itertools

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from veilsum.mpc.shares import Arith
from veilsum.mpc.windows import Geometry, gathered, windows


@st.composite
def cases(draw):
    """Return a geometry, the sizes of space and a generator of values."""
    dims = draw(st.integers(1, 2))

    def each(*limits):
        return tuple(draw(st.integers(*limits)) for _ in range(dims))

    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(dims))
    geometry = Geometry(each(1, 3), each(1, 3), padding, each(1, 3))
    space = each(1, 7)
    assume(all(count > 0 for count in geometry.placed(space)))
    return geometry, space, np.random.default_rng(draw(st.integers(0, 99)))


def words(rng, *shape):
    return rng.integers(0, 1 << 64, shape, dtype=np.uint64)


@given(cases())
def test_windows_are_what_loops_read(case):
    geometry, space, rng = case
    x = words(rng, 2, 2, 3, *space)
    seen = windows(Arith(x), geometry)
    placed = geometry.placed(space)
    assert seen.shape == (2, 3, *placed, *geometry.kernel)
    padded = np.pad(x, ((0, 0),) * 3 + geometry.padding)
    for place in itertools.product(*(range(count) for count in placed)):
        for inner in itertools.product(*(range(length) for length in geometry.kernel)):
            at = tuple(
                p * s + i * d
                for p, s, i, d in zip(place, geometry.stride, inner, geometry.dilation, strict=True)
            )
            assert np.array_equal(seen.parts[(..., *place, *inner)], padded[(..., *at)])


@given(cases())
def test_gathering_is_the_transpose_of_reading(case):
    geometry, space, rng = case
    x = Arith(words(rng, 2, 1, 2, *space))
    seen = windows(x, geometry)
    g = Arith(words(rng, *seen.parts.shape))
    back = gathered(g, geometry, space)
    assert back.parts.shape == x.parts.shape
    # <g, windows(x)> = <gathered(g), x>, component by component, in the ring
    axes = tuple(range(1, seen.parts.ndim))
    inner = (g.parts * seen.parts).sum(axis=axes, dtype=np.uint64)
    assert np.array_equal(
        inner, (back.parts * x.parts).sum(axis=(1, 2, *range(3, x.parts.ndim)), dtype=np.uint64)
    )


def test_windows_without_padding_are_views():
    x = Arith(np.arange(24, dtype=np.uint64).reshape(1, 1, 1, 4, 6))
    geometry = Geometry((2, 2), (1, 2), ((0, 0), (0, 0)), (1, 1))
    assert np.shares_memory(windows(x, geometry).parts, x.parts)
