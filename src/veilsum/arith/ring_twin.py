"""The same functions as `veilsum.arith.ring`, in numpy: slow, easy to read.

For tests and known answers only.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_PLACES: Words = np.arange(64, dtype=np.uint64)
ONE, TWO = np.uint64(1), np.uint64(2)


def matmul(a: Words, b: Words) -> Words:
    """Return a @ b modulo 2^64."""
    return np.asarray(a @ b, np.uint64)


def product(x0: Words, x1: Words, y0: Words, y1: Words) -> Words:
    """Return x0·(y0 + y1) + x1·y0."""
    share: Words = x0 * (y0 + y1) + x1 * y0
    return share


def add_masks(x: Words, plus: Words, minus: Words) -> Words:
    """Return x + plus - minus."""
    return x + plus - minus


def planes(x: Words, count: int = 64) -> Words:
    """Return (count, ceil(n / 64)) bit planes."""
    return np.stack([plane(x, bit) for bit in range(count)])


def plane(x: Words, bit: int) -> Words:
    """Return one bit plane, (ceil(n / 64),)."""
    padded = np.zeros(-(-x.size // 64) * 64, np.uint64)
    padded[: x.size] = x.ravel() >> np.uint64(bit) & ONE
    return _join(padded.reshape(-1, 64) << _PLACES, axis=1)


def from_planes(planes: Words, n: int) -> Words:
    """Return (n,) elements."""
    bits = np.stack([_bits(row, n) for row in planes])
    return _join(bits << _PLACES[: len(planes), None], axis=0)


def conjunction(xa: Words, xb: Words, ya: Words, yb: Words, plus: Words, minus: Words) -> Words:
    """Return xa & (ya ^ yb) ^ xb & ya ^ plus ^ minus."""
    share: Words = (xa & (ya ^ yb)) ^ (xb & ya) ^ plus ^ minus
    return share


def majority(
    ua: Words, ub: Words, va: Words, vb: Words, ca: Words, cb: Words, plus: Words, minus: Words
) -> Words:
    """Return the conjunction of u ^ c and v ^ c, and ca added."""
    return conjunction(ua ^ ca, ub ^ cb, va ^ ca, vb ^ cb, plus, minus) ^ ca


def truncate_share(
    s: Words,
    own: Words,
    other: Words,
    triple: Words,
    c: Words,
    fraction: int,
    lead: bool,
    mask: Words,
) -> Words:
    """Return the shifted share; see `veilsum.arith.ring.truncate_share`."""
    d, e, t = (_bits(plane, s.size).reshape(s.shape) for plane in (own, other, triple))
    first = np.uint64(lead)
    flip_d: Words = ONE - TWO * d
    flip_e: Words = ONE - TWO * e
    both: Words = first * d * e + e * flip_d * t + flip_d * flip_e * c
    wrap: Words = (s >> np.uint64(63)) - both
    offset = first << np.uint64(62 - fraction)
    shifted: Words = (s >> np.uint64(fraction)) - offset - (wrap << np.uint64(64 - fraction)) + mask
    return shifted


def select_deal(
    u: Words, bits: Words, w0: Words, c0: Words, plus: Words, minus: Words
) -> tuple[Words, Words, Words]:
    """Return (1 - 2c)·u - w0, c - c0 and c·u + plus - minus."""
    c = _bits(bits, u.size).reshape(u.shape)
    return (ONE - TWO * c) * u - w0, c - c0, c * u + plus - minus


def select_take(v: Words, bits: Words, w: Words, c: Words, lead: bool, plus: Words, minus: Words) -> Words:
    """Return d·w + c·(1 - 2d)·v + lead·d·v + plus - minus."""
    d = _bits(bits, v.size).reshape(v.shape)
    return d * w + c * (ONE - TWO * d) * v + np.uint64(lead) * d * v + plus - minus


def _join(bits: Words, axis: int) -> Words:
    return np.asarray(np.bitwise_or.reduce(bits, axis=axis), np.uint64)


def _bits(plane: Words, n: int) -> Words:
    return (plane[:, None] >> _PLACES & ONE).ravel()[:n]
