"""Arithmetic modulo 2^64 on secret shares: matrix products, bit planes, and the local steps of protocols.

Arrays are uint64 and native. A step that works element by element takes contiguous arrays of any shape and
of equally many elements, and its result has the shape of its first argument; ``out`` may be one of the
inputs. A bit plane is one bit of every element: bit j of its word w belongs to element 64·w + j (counted row
by row), and the bits beyond the last element are zero.

Paths: ``amx`` (matrix products by tiles of 8-bit limbs, all else as ``avx512``), ``avx512``, ``avx2`` and
``portable``; ``path=None`` takes the best of this machine. Kernels run on one thread and let go of the GIL,
unless they take but a few microseconds. No value decides a branch or an address.

Every function raises TypeError for what is not an array of uint64, and ValueError for another shape or
layout, an ``out`` that overlaps an input otherwise than said, or a path this machine cannot run; nothing is
converted.

Twin: `veilsum.arith.ring_twin`.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from veilsum.arith import _native, cpu

Words = NDArray[np.uint64]
WORD_BITS = 64
_UINT64 = np.dtype(np.uint64)


def matmul(
    a: Words, b: Words, *, out: Words | None = None, accumulate: bool = False, path: str | None = None
) -> Words:
    """Multiply two matrices.

    Args:
        a: (n, k), any view without negative strides: rows, columns or blocks of a larger array, transposed.
        b: (k, m), likewise.
        out: (n, m) contiguous, apart from a and b; None makes a new one.
        accumulate: add to ``out`` instead of overwriting it.
        path: which kernels.

    Returns:
        (n, m) a @ b, or out + a @ b.

    Raises:
        MemoryError: there is no memory for packed panels (about 1 MiB).
    """
    if out is None:
        if accumulate:
            raise ValueError("accumulate needs out: what to add to")
        rows, columns = _shape(a), _shape(b)
        if len(rows) != 2 or len(columns) != 2:
            raise ValueError("a and b must have two dimensions")
        out = np.empty((rows[0], columns[1]), _UINT64)
    _native.ring_matmul(path or _best(), a, b, accumulate, out)
    return out


def product(
    x0: Words,
    x1: Words,
    y0: Words,
    y1: Words,
    *,
    out: Words | None = None,
    path: str | None = None,
) -> Words:
    """Return x0·(y0 + y1) + x1·y0: one party's part of a product of replicated shares."""
    out = np.empty(_shape(x0), _UINT64) if out is None else out
    _native.ring_product(path or _best(), x0, x1, y0, y1, out)
    return out


def add_masks(
    x: Words, plus: Words, minus: Words, *, out: Words | None = None, path: str | None = None
) -> Words:
    """Return x + plus - minus."""
    out = np.empty(_shape(x), _UINT64) if out is None else out
    _native.ring_add_masks(path or _best(), x, plus, minus, out)
    return out


def planes(x: Words, count: int = WORD_BITS, *, out: Words | None = None, path: str | None = None) -> Words:
    """Return the lowest bit planes of all elements.

    Args:
        x: n elements, in any shape.
        count: how many planes, 1 to 64.
        out: (count, ceil(n / 64)) contiguous, apart from x; None makes a new one.
        path: which kernels.

    Returns:
        (count, ceil(n / 64)): row b holds bit b of every element.
    """
    if out is None:
        out = np.empty((count, words(math.prod(_shape(x)))), _UINT64)
    _native.ring_planes(path or _best(), x, count, out)
    return out


def plane(x: Words, bit: int, *, out: Words | None = None, path: str | None = None) -> Words:
    """Return one bit plane of n elements, (ceil(n / 64),); ``bit`` is 0 to 63."""
    out = np.empty(words(math.prod(_shape(x))), _UINT64) if out is None else out
    _native.ring_plane(path or _best(), x, bit, out)
    return out


def from_planes(planes: Words, n: int, *, out: Words | None = None, path: str | None = None) -> Words:
    """Put n elements together from their lowest bit planes.

    Args:
        planes: (count, ceil(n / 64)) with count 1 to 64; bits beyond element n are not looked at.
        n: how many elements.
        out: n elements, apart from planes; None makes a new (n,).
        path: which kernels.

    Returns:
        (n,), with zeros above bit ``count`` - 1.
    """
    out = np.empty(n, _UINT64) if out is None else out
    if out.size != n:
        raise ValueError(f"out must have {n} elements, not {out.size}")
    _native.ring_from_planes(path or _best(), planes, out)
    return out


def conjunction(
    xa: Words,
    xb: Words,
    ya: Words,
    yb: Words,
    plus: Words,
    minus: Words,
    *,
    out: Words | None = None,
    path: str | None = None,
) -> Words:
    """Return xa & (ya ^ yb) ^ xb & ya ^ plus ^ minus: `product` for every bit of words of bits."""
    out = np.empty(_shape(xa), _UINT64) if out is None else out
    _native.ring_conjunction(path or _best(), xa, xb, ya, yb, plus, minus, out)
    return out


def majority(
    ua: Words,
    ub: Words,
    va: Words,
    vb: Words,
    ca: Words,
    cb: Words,
    plus: Words,
    minus: Words,
    *,
    out: Words | None = None,
    path: str | None = None,
) -> Words:
    """Return one party's part of the majority of three shared bits, for every bit of words.

    This is the carry of a full adder, by one conjunction: maj(u, v, c) = (u ^ c)(v ^ c) ^ c.
    """
    out = np.empty(_shape(ua), _UINT64) if out is None else out
    _native.ring_majority(path or _best(), ua, ub, va, vb, ca, cb, plus, minus, out)
    return out


def truncate_share(
    s: Words,
    own: Words,
    other: Words,
    triple: Words,
    c: Words,
    fraction: int,
    lead: bool,
    mask: Words,
    *,
    out: Words | None = None,
    path: str | None = None,
) -> Words:
    """Shift one of two shares to the right: a party's last local step of a truncation with a known top bit.

    The shares' sum lies in [0, 2^63), so it wraps exactly when a share's top bit is set. With the masked top
    bits d (own) and e (other) and the triple's bit t, this party's part of the product of both top bits is
    p = lead·d·e + e·(1 - 2d)·t + (1 - 2d)·(1 - 2e)·c, its part of the wrap is w = (top bit of s) - p, and the
    result is (s >> fraction) - lead·2^(62 - fraction) - w·2^(64 - fraction) + mask.

    Args:
        s: n elements, this party's share of a value plus 2^62.
        own: (ceil(n / 64),) bit plane, this party's top bits, masked.
        other: the other party's, masked.
        triple: this party's bits of the triple, which masked its own top bits.
        c: n elements, its share of the triple's product; the lowest ``fraction`` bits count.
        fraction: how far to shift, 1 to 62.
        lead: whether this is the party that subtracts the constants; of two parties one is.
        mask: n elements, added to the result.
        out: n elements, which may be s, c or mask; None makes a new array.
        path: which kernels.

    Source: D. Huang et al., Cheetah (USENIX Security 2022), section 5.1: truncation with a known top bit.
    """
    out = np.empty(_shape(s), _UINT64) if out is None else out
    _native.ring_truncate_share(path or _best(), s, own, other, triple, c, fraction, lead, mask, out)
    return out


def select_deal(
    u: Words,
    bits: Words,
    w0: Words,
    c0: Words,
    plus: Words,
    minus: Words,
    *,
    out: tuple[Words, Words, Words] | None = None,
    path: str | None = None,
) -> tuple[Words, Words, Words]:
    """Deal what a selection by shared bits needs: the party that knows c, one part of the bit.

    Args:
        u: n elements, this party's part of the values.
        bits: (ceil(n / 64),) bit plane of c.
        w0: n random elements, the first share of (1 - 2c)·u.
        c0: n random elements, the first share of c.
        plus: n elements.
        minus: n elements.
        out: where to put the three results, n elements each; None makes new arrays.
        path: which kernels.

    Returns:
        The second shares (1 - 2c)·u - w0 and c - c0, and this party's part c·u + plus - minus of the result.
    """
    if out is None:
        shape = _shape(u)
        out = np.empty(shape, _UINT64), np.empty(shape, _UINT64), np.empty(shape, _UINT64)
    w1, c1, z = out
    _native.ring_select_deal(path or _best(), u, bits, w0, c0, plus, minus, w1, c1, z)
    return out


def select_take(
    v: Words,
    bits: Words,
    w: Words,
    c: Words,
    lead: bool,
    plus: Words,
    minus: Words,
    *,
    out: Words | None = None,
    path: str | None = None,
) -> Words:
    """Take one share of a selection by shared bits: a party that knows d, the other part of the bit.

    Args:
        v: n elements, the other part of the values.
        bits: (ceil(n / 64),) bit plane of d.
        w: n elements, this party's share of (1 - 2c)·u.
        c: n elements, its share of c.
        lead: whether this party adds d·v; of two parties one does.
        plus: n elements.
        minus: n elements.
        out: n elements; None makes a new array.
        path: which kernels.

    Returns:
        d·w + c·(1 - 2d)·v + lead·d·v + plus - minus.
    """
    out = np.empty(_shape(v), _UINT64) if out is None else out
    _native.ring_select_take(path or _best(), v, bits, w, c, lead, plus, minus, out)
    return out


def words(n: int) -> int:
    """Return how many words a bit plane of n elements has."""
    return -(-n // WORD_BITS)


@cache
def _best() -> str:
    return cpu.best("ring")


def _shape(array: Words) -> tuple[int, ...]:
    try:
        return array.shape
    except AttributeError:
        raise TypeError(f"an array of uint64 is needed, not {type(array).__name__}") from None
