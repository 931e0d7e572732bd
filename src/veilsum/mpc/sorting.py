"""Sorting by a network of comparisons, whose shape depends on the count alone.

Source: Batcher's merge exchange, Knuth, "The Art of Computer Programming", volume 3, algorithm 5.2.2 M.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc.compare import brought_forward, put_back
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.packing import repeated
from veilsum.mpc.shares import Arith

Layer = tuple[tuple[int, int], ...]
"""Pairs of places that are compared at once; the larger goes to the first."""


def sort(x: Fixed, *payload: Fixed, axis: int = -1, descending: bool = False) -> list[Fixed]:
    """Return x in order along an axis, then each payload in the order of x. Equal values: in any order.

    Range: |x| and |payload| within half of what fits. Exact. About (log2 n)^2 / 2 levels, each an
    `Engine.msb` and an `Engine.select` (of all arrays together).

    Args:
        x: the keys.
        payload: of the shape of x.
        axis: along which.
        descending: the largest first.
    """
    ordered = _through(network(_count(x, axis)), [x, *payload], axis)
    backward = np.arange(x.shape[axis])[::-1]
    return ordered if descending else [numbers.taken(backward, axis) for numbers in ordered]


def top_k(x: Fixed, k: int, *payload: Fixed, axis: int = -1) -> list[Fixed]:
    """Return the k largest along an axis, the largest first, then what each payload holds in their places.

    Range, error and levels of `sort`; comparisons that cannot touch the k largest are left out.

    Raises:
        ConfigError: k is not among 1 to the length of the axis.
    """
    count = _count(x, axis)
    if not 1 <= k <= count:
        raise ConfigError(f"the {k} largest of {count} do not exist", remedy=f"take 1 to {count}")
    return _through(network(count, k), [x, *payload], axis)


class Network(NamedTuple):
    """Comparisons in layers, and the places where the largest then stand, in order."""

    layers: tuple[Layer, ...]
    places: tuple[int, ...]


@lru_cache(maxsize=64)
def network(count: int, k: int | None = None) -> Network:
    """Return what sorts the k (None: all) largest of ``count``, the largest first."""
    k = count if k is None else k
    at: list[int | None] = list(range(count))  # which place stands where the network without gaps has it
    layers: list[Layer] = []
    merged = 1
    while merged < count:
        # what is not among the k largest of its run, which is sorted, is among them nowhere
        at = [place if position % merged < k else None for position, place in enumerate(at)]
        apart = merged
        while apart:
            layers.append(_layer(at, merged, apart))
            apart //= 2
        merged *= 2
    places = tuple(place for place in at[:k] if place is not None)
    needed, kept = set(places), []
    for layer in reversed(layers):
        used = tuple(pair for pair in layer if needed.intersection(pair))
        needed.update(place for pair in used for place in pair)
        kept.append(used)
    return Network(tuple(layer for layer in reversed(kept) if layer), places)


def _layer(at: list[int | None], merged: int, apart: int) -> Layer:
    """Return the comparisons of positions ``apart`` from each other; who meets a gap passes it, in ``at``."""
    count, pairs = len(at), []
    for low in range(apart % merged, count - apart, 2 * apart):
        for first in range(low, low + min(apart, count - low - apart)):
            second = first + apart
            if first // (2 * merged) != second // (2 * merged):
                continue
            upper, lower = at[first], at[second]
            if upper is None:
                at[first], at[second] = lower, None
            elif lower is not None:
                pairs.append((upper, lower))
    return tuple(pairs)


def _through(chosen: Network, numbers: list[Fixed], axis: int) -> list[Fixed]:
    """Send numbers through a network, all in the order of the first."""
    engine, at = numbers[0].engine, axis % numbers[0].ndim
    width = (numbers[0] - numbers[0]).width
    # arrays, then the places that are compared, then all other axes
    share = Arith(np.stack([brought_forward(one, at).parts for one in numbers], axis=1))
    for layer in chosen.layers:
        first, second = (np.array(places) for places in zip(*layer, strict=True))
        upper, lower = share.taken(first, 1), share.taken(second, 1)
        smaller = engine.msb(upper[0] - lower[0], width)
        moved = engine.select(repeated(smaller, len(numbers)), lower - upper)
        parts = share.parts.copy()
        parts[:, :, first] = (upper + moved).parts
        parts[:, :, second] = (lower - moved).parts
        share = Arith(parts)
    share = share.taken(np.array(chosen.places), 1)
    return [Fixed(engine, put_back(share[i], at), one.bound) for i, one in enumerate(numbers)]


def _count(x: Fixed, axis: int) -> int:
    if not x.ndim:
        raise ConfigError("a single number has no axis", remedy="give an array")
    return x.shape[axis]
