"""Adding two shared binary numbers: the carry out of the top, or all bits of the sum.

An adder is cut into blocks of bits. Within a block the carry ripples (one conjunction a bit, as a
majority), all blocks at once, beside the product of the block's propagate bits; then a tree joins the blocks.
One block is a ripple adder (fewest bytes, most rounds), blocks of one bit are a parallel prefix tree (most
bytes, fewest rounds); `blocks` picks what the link makes fastest.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from veilsum.mpc.engine import Engine, Link
from veilsum.mpc.shares import Bits, words

_SIZES = (1, 2, 4, 8, 16, 32, 64)


def carry(engine: Engine, u: Bits, v: Bits) -> Bits:
    """Return the carry out of u + v (one plane).

    Args:
        engine: of the shares.
        u: m planes.
        v: m planes of the same elements.
    """
    starts = blocks(engine.link, u.planes, words(u.size), whole=False)
    if len(starts) == 1:
        return _ripple(engine, u, v)[-1]
    generated, propagated = _within(engine, u, v, starts)
    g, p = generated[-1], propagated[-1]
    while g.planes > 1:
        # neighbours join; an odd one at the top waits
        pairs = g.planes // 2
        low, high, rest = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2), slice(2 * pairs, None)
        # the lowest block has nothing below it, so nobody asks what it propagates: plane 0 of p is void
        z = engine.conjunction(joined(p[high], p[high][1:]), joined(g[low], p[low][1:]))
        g = joined(g[high] ^ z[:pairs], g[rest])
        p = joined(p[0:1], z[pairs:], p[rest])
    return g


def add(engine: Engine, u: Bits, v: Bits) -> Bits:
    """Return all m bits of u + v modulo 2^m."""
    half = u ^ v
    if u.planes == 1:
        return half
    starts = blocks(engine.link, u.planes - 1, words(u.size), whole=True)
    low_u, low_v = u[: u.planes - 1], v[: v.planes - 1]
    if len(starts) == 1:
        return joined(half[0], half[1:] ^ joined(*_ripple(engine, low_u, low_v)))
    generated, propagated = _within(engine, low_u, low_v, starts)
    ends = [*starts[1:], u.planes - 1]
    last = [end - start - 1 for start, end in zip(starts, ends, strict=True)]
    into = [generated[last[0]][0]]
    for block in range(1, len(starts) - 1):
        g, p = generated[last[block]][block], propagated[last[block]][block]
        into.append(g ^ engine.conjunction(p, into[-1]))
    upper = [(block, j) for block in range(1, len(starts)) for j in range(last[block] + 1)]
    z = engine.conjunction(
        joined(*(propagated[j][block] for block, j in upper)),
        joined(*(into[block - 1] for block, _ in upper)),
    )
    lower = [generated[j][0] for j in range(last[0] + 1)]
    carries = joined(*lower, joined(*(generated[j][block] for block, j in upper)) ^ z)
    return joined(half[0], half[1:] ^ carries)


def joined(*several: Bits) -> Bits:
    """Return the planes of several `Bits` of the same elements, one after another."""
    if len(several) == 1:
        return several[0]
    return Bits(np.concatenate([bits.parts for bits in several], axis=1), several[0].shape)


def _ripple(engine: Engine, u: Bits, v: Bits) -> list[Bits]:
    """Return the carry out of every bit."""
    carries = [engine.conjunction(u[0], v[0])]
    for bit in range(1, u.planes):
        carries.append(engine.majority(u[bit], v[bit], carries[-1]))
    return carries


def _within(engine: Engine, u: Bits, v: Bits, starts: list[int]) -> tuple[list[Bits], list[Bits]]:
    """Return what blocks generate and propagate up to and with their bit j, for every j.

    A block that is shorter than others keeps its last value.
    """
    ends = [*starts[1:], u.planes]
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    first = np.array(starts)
    p = _chosen(u, first) ^ _chosen(v, first)
    g = engine.conjunction(_chosen(u, first), _chosen(v, first))
    generated, propagated = [g], [p]
    for j in range(1, max(sizes)):
        active = np.array([block for block, size in enumerate(sizes) if j < size])
        above = active[active > 0]
        uj, vj = _chosen(u, first[active] + j), _chosen(v, first[active] + j)
        gj = _chosen(g, active)
        passing = _chosen(p, above)
        chosen = len(active) - len(above)
        z = engine.conjunction(joined(uj ^ gj, passing), joined(vj ^ gj, (uj ^ vj)[chosen:]))
        g = _replaced(g, active, z[: len(active)] ^ gj)
        p = _replaced(p, above, z[len(active) :])
        generated.append(g)
        propagated.append(p)
    return generated, propagated


def _chosen(bits: Bits, planes: NDArray[np.int64]) -> Bits:
    return Bits(bits.parts.take(planes, axis=1), bits.shape)


def _replaced(bits: Bits, planes: NDArray[np.int64], by: Bits) -> Bits:
    if len(planes) == bits.planes:
        return by
    parts = bits.parts.copy()
    parts[:, planes] = by.parts
    return Bits(parts, bits.shape)


def cost(planes: int, size: int, *, whole: bool) -> tuple[int, int]:
    """Return rounds and conjunctions (planes) of an adder with blocks of ``size`` bits."""
    count = -(-planes // size)
    low = planes - (count - 1) * size
    rounds = max(size if count > 1 else low, 1)
    gates = planes + (count - 1) * (size - 1)
    if whole:
        rounds += max(count - 2, 0) + (count > 1)
        gates += max(count - 2, 0) + (count - 1) * size
    else:
        gates += sum(2 * pairs - 1 for pairs in _levels(count))
        rounds += len(_levels(count))
    return rounds, gates


def _levels(count: int) -> list[int]:
    """Return how many pairs join in each level of the tree over ``count`` blocks."""
    levels = []
    while count > 1:
        levels.append(count // 2)
        count -= count // 2
    return levels


@lru_cache(maxsize=1024)
def _starts(link: Link, planes: int, plane_words: int, whole: bool) -> tuple[int, ...]:
    def seconds(size: int) -> float:
        rounds, gates = cost(planes, size, whole=whole)
        return link.seconds(rounds, 8 * gates * plane_words)

    size = min((s for s in _SIZES if s < 2 * planes), key=seconds)
    count = -(-planes // size)
    # the lowest block is the short one
    low = planes - (count - 1) * size
    return (0, *(low + size * block for block in range(count - 1)))


def blocks(link: Link, planes: int, plane_words: int, *, whole: bool) -> list[int]:
    """Return where the blocks of an adder begin, the same at all parties because only sizes decide."""
    return list(_starts(link, planes, plane_words, whole))
