"""Curve25519 by u-coordinates: the X25519 function and Elligator 2, for many points at once.

Paths: ``ifma`` (AVX-512 IFMA, sixteen points together) and ``portable`` (the X25519 function by the library
`cryptography`, one point after the other; the map in plain C++). Kernels run on one thread and let go of
the GIL; a caller who wants more cores slices the points. Secret scalars and secret points decide neither
branches nor addresses on the native paths.

Source: RFC 7748 (X25519); RFC 9380 (encode_to_curve); the batched inversion is P. Montgomery's (1987).
Twin: `veilsum.arith.x25519_twin`.
"""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from veilsum.arith import _native, cpu, sha512

BYTES = 32
UNIFORM_BYTES = 48
"""What hash_to_field asks for: ceil((255 + 128) / 8) bytes per element."""
_AT_ONCE = 1 << 15  # messages whose uniform bytes are held between the two halves of `encode`


def mul(scalar: bytes, points: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Multiply every point by the same scalar: X25519(scalar, u) of RFC 7748.

    The scalar is clamped; bit 255 of a point is ignored and u-coordinates from p on are taken modulo p.
    Points of order 1, 2, 4 or 8 give 32 zero bytes, on every path; a protocol must refuse those.

    Args:
        scalar: 32 bytes.
        points: (n, 32) uint8, little-endian u-coordinates, contiguous.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, 32) uint8.

    Raises:
        TypeError, ValueError: another type, layout, shape or length, or a path this machine cannot run.
    """
    path = path or cpu.best("x25519")
    _check_rows(points, BYTES)
    if len(scalar) != BYTES:
        raise ValueError(f"a scalar has 32 bytes, not {len(scalar)}")
    if path == "portable":
        return _mul_library(scalar, points)
    out = np.empty_like(points)
    _native.x25519_mul(path, scalar, points, out)
    return out


def encode(
    data: sha512.Data, offsets: NDArray[np.int64], dst: bytes, *, path: str | None = None
) -> NDArray[np.uint8]:
    """Map every message to the u-coordinate of a curve point, cofactor not cleared.

    This is map_to_curve(hash_to_field(message)) of the suite curve25519_XMD:SHA-512_ELL2_NU_: the point Q of
    RFC 9380's vectors. encode_to_curve's point P is 8·Q; X25519 needs no such step, since every clamped
    scalar is a multiple of the cofactor 8.

    Args:
        data: the messages end to end; message i is ``data[offsets[i]:offsets[i + 1]]``.
        offsets: shape (n + 1,) int64, rising.
        dst: the domain separation tag, 1 to 255 bytes; up to 45 cost the least.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, 32) uint8, little-endian.

    Raises:
        TypeError, ValueError: another type, layout or shape, offsets outside of the data, a tag out of
            bounds, or a path this machine cannot run.
    """
    path = path or cpu.best("x25519")
    hash_path = cpu.best("sha512", cap=path)
    count = max(len(offsets) - 1, 0)
    out = np.empty((count, BYTES), np.uint8)
    for start in range(0, max(count, 1), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, count))
        some = offsets[part.start : part.stop + 1]
        uniform = sha512.expand(data, some, dst, UNIFORM_BYTES, path=hash_path)
        _native.x25519_map(path, uniform, out[part])
    return out


def map_to_curve(uniform: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Reduce 48 big-endian bytes modulo p and apply Elligator 2 (RFC 9380, section 6.7.1).

    Args:
        uniform: (n, 48) uint8, contiguous.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, 32) uint8, little-endian u-coordinates, cofactor not cleared.

    Raises:
        TypeError, ValueError: another type, layout or shape, or a path this machine cannot run.
    """
    _check_rows(uniform, UNIFORM_BYTES)
    out = np.empty((len(uniform), BYTES), np.uint8)
    _native.x25519_map(path or cpu.best("x25519"), uniform, out)
    return out


def _check_rows(rows: NDArray[np.uint8], width: int) -> None:
    if getattr(rows, "dtype", None) != np.uint8:
        raise TypeError("points must be an array of uint8")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"points must have shape (n, {width}), not {rows.shape}")
    if not rows.flags.c_contiguous:
        raise ValueError("points must be contiguous")


def _mul_library(scalar: bytes, points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    key = X25519PrivateKey.from_private_bytes(scalar)
    raw = points.tobytes()
    products = []
    for at in range(0, len(raw), BYTES):
        try:
            product = key.exchange(X25519PublicKey.from_public_bytes(raw[at : at + BYTES]))
        except ValueError:  # the library refuses to return 32 zero bytes
            product = bytes(BYTES)
        products.append(product)
    return np.frombuffer(b"".join(products), np.uint8).reshape(-1, BYTES).copy()
