"""Windows of images and series as local moves on shares: what convolutions and pools read, and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from veilsum.mpc.shares import Linear

L = TypeVar("L", bound=Linear)


class Geometry(NamedTuple):
    """How windows lie in one or two dimensions of space.

    Attributes:
        kernel: length of a window in each dimension.
        stride: from one window to the next.
        padding: zeros (before, after).
        dilation: from one element of a window to the next.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]

    def placed(self, space: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows fit into each dimension."""
        return tuple(
            (size + sum(pad) - step * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, step in zip(
                space, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )


def windows(x: L, geometry: Geometry) -> L:
    """Return every window of x (n, c, …): (n, c, windows…, kernel…), a view where nothing is padded."""
    dims = len(geometry.kernel)
    parts = x.parts
    if any(sum(pad) for pad in geometry.padding):
        still = ((0, 0),) * (parts.ndim - dims)
        parts = np.pad(parts, (*still, *geometry.padding))
    spans = [d * (k - 1) + 1 for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    axes = tuple(range(parts.ndim - dims, parts.ndim))
    view = np.lib.stride_tricks.sliding_window_view(parts, spans, axis=axes)
    steps = [slice(None, None, step) for step in geometry.stride]
    inner = [slice(None, None, step) for step in geometry.dilation]
    where: Any = (..., *steps, *inner)
    return type(x)(view[where])


def gathered(g: L, geometry: Geometry, space: Sequence[int]) -> L:
    """Return the transpose of `windows`: every element is the sum of what its windows hold."""
    dims = len(space)
    lead = g.parts.shape[: g.parts.ndim - 2 * dims]
    padded = [size + sum(pad) for size, pad in zip(space, geometry.padding, strict=True)]
    out = np.zeros((*lead, *padded), np.uint64)
    placed = g.parts.shape[-2 * dims : -dims]
    for offset in np.ndindex(*geometry.kernel):
        at = tuple(
            slice(o * d, o * d + s * (count - 1) + 1, s)
            for o, d, s, count in zip(offset, geometry.dilation, geometry.stride, placed, strict=True)
        )
        where: Any = (..., *at)
        out[where] += g.parts[(..., *offset)]
    inside = tuple(slice(pad[0], pad[0] + size) for size, pad in zip(space, geometry.padding, strict=True))
    whole: Any = (..., *inside)
    return type(g)(out[whole])
