"""SHA-512 and SHA-384 of many messages at once, and RFC 9380's expand_message_xmd on it.

Messages come as one buffer and offsets, as Arrow lays them out: message i is
``data[offsets[i]:offsets[i + 1]]``. Running time depends on lengths, never on content.

Source: FIPS 180-4; RFC 9380, section 5.3.1. Twin: `hashlib`.
"""

import numpy as np
from numpy.typing import NDArray

from veilsum.arith import _native, cpu

MAX_DST = 255
MAX_LENGTH = 64

Data = bytes | bytearray | memoryview | NDArray[np.uint8]


def digest(data: Data, offsets: NDArray[np.int64], *, path: str | None = None) -> NDArray[np.uint8]:
    """Hash every message.

    Args:
        data: the messages end to end.
        offsets: shape (n + 1,) int64, rising.
        path: ``avx512`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, 64) uint8.

    Raises:
        TypeError, ValueError: an array of another type, layout or shape, offsets outside of the data,
            or a path this machine cannot run.
    """
    out = np.empty((max(len(offsets) - 1, 0), 64), np.uint8)
    _native.sha512_digest(path or cpu.best("sha512"), buffer(data), offsets, out)
    return out


def digest384(data: Data, offsets: NDArray[np.int64], *, path: str | None = None) -> NDArray[np.uint8]:
    """Hash every message with SHA-384; arguments and errors as for `digest`.

    Returns:
        (n, 48) uint8.
    """
    out = np.empty((max(len(offsets) - 1, 0), 48), np.uint8)
    _native.sha384_digest(path or cpu.best("sha512"), buffer(data), offsets, out)
    return out


def expand(
    data: Data, offsets: NDArray[np.int64], dst: bytes, length: int, *, path: str | None = None
) -> NDArray[np.uint8]:
    """Expand every message to ``length`` pseudorandom bytes (expand_message_xmd with SHA-512).

    Args:
        data: the messages end to end.
        offsets: shape (n + 1,) int64, rising.
        dst: the domain separation tag, 1 to 255 bytes; up to 45 cost the least.
        length: 1 to 64 bytes, one output block.
        path: ``avx512`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, length) uint8.

    Raises:
        TypeError, ValueError: as for `digest`, or a tag or length out of bounds.
    """
    out = np.empty((max(len(offsets) - 1, 0), length), np.uint8)
    _native.sha512_expand(path or cpu.best("sha512"), buffer(data), offsets, dst, out)
    return out


def buffer(data: Data) -> NDArray[np.uint8]:
    """Return the bytes as an array without copying them."""
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
