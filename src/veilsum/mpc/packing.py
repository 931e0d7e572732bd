"""Shared bits between two packings: one plane for many rows of elements, or one for each row. All local."""

import numpy as np
from numpy.typing import NDArray

from veilsum.mpc.shares import WORD, Bits, Words, words


def as_planes(bits: Bits) -> Bits:
    """Return every row of a plane (first axis of the elements) as a plane of its own.

    Args:
        bits: one plane; rows are the first axis of its elements.

    Returns:
        as many planes as rows, of elements of the other axes.
    """
    rows, rest = bits.shape[0], bits.shape[1:]
    size = bits.size // rows
    if size % WORD == 0:
        return Bits(bits.parts.reshape(-1, rows, words(size)), rest)
    loose = _loosened(bits.parts[:, 0], rows * size).reshape(-1, rows, size)
    return Bits(_packed(loose), rest)


def as_rows(bits: Bits) -> Bits:
    """Return the planes as rows of one plane: the inverse of `as_planes`."""
    size = bits.size
    shape = (bits.planes, *bits.shape)
    if size % WORD == 0:
        return Bits(np.ascontiguousarray(bits.parts).reshape(-1, 1, bits.planes * words(size)), shape)
    loose = _loosened(bits.parts, size).reshape(-1, 1, bits.planes * size)
    return Bits(_packed(loose), shape)


def repeated(bits: Bits, times: int) -> Bits:
    """Return one plane as rows of one plane, each the same."""
    return as_rows(Bits(np.repeat(bits.parts, times, axis=1), bits.shape))


def _loosened(packed: Words, size: int) -> NDArray[np.uint8]:
    """Return a byte for every bit of the last axis."""
    little = np.ascontiguousarray(packed).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(little, axis=-1, count=size, bitorder="little")


def _packed(loose: NDArray[np.uint8]) -> Words:
    little = np.zeros((*loose.shape[:-1], 8 * words(loose.shape[-1])), np.uint8)
    tight = np.packbits(loose, axis=-1, bitorder="little")
    little[..., : tight.shape[-1]] = tight
    return np.asarray(little.view("<u8").astype(np.uint64, copy=False))
