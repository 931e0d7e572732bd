"""Diffie-Hellman masking of ids: equal ids meet as equal points, and only where all keys have been applied.

H(x) is a point of Curve25519 for every id x, and a party with the secret scalar k masks it as k·H(x). Masks
commute, k₁·(k₂·H(x)) = k₂·(k₁·H(x)), so that parties who mask each other's points in turn can compare their
ids as points that none of them can compute alone (C. Meadows, IEEE S&P 1986; B. Huberman, M. Franklin and
T. Hogg, ACM EC 1999). Points are u-coordinates of 32 bytes; multiplying is the X25519 function (RFC 7748).

Adversary: semi-honest, under the decisional Diffie-Hellman assumption in Curve25519's prime-order subgroup
with H as described below. A peer that deviates can hash ids of its own choice, as in every such protocol;
points of small order, with which it could make masked points constant, are refused by `mask`.

Why the hash is the non-uniform one of RFC 9380 (NU): the random-oracle variant (RO) adds two points, which
u-coordinates alone do not allow, and costs twice as much. NU's points are not uniform: about half of the
curve can occur. The proofs need two things of H: that nobody knows a discrete logarithm between two hashes,
and that a reduction can plant a point of its own as the hash of an id. Elligator 2 grants the second because
it can be inverted wherever it reaches: the reduction re-randomises its point until it has a preimage, twice
on average. A scheme that needs H indifferentiable from a random oracle must not use this module.
The scalar of X25519 is a multiple of 8, which clears the cofactor: masked points lie in the subgroup.

Why tags are plain bytes of a masked point, not a hash of it: a point masked with an unknown key is
pseudorandom in the subgroup, and there the low bytes of u are as good as uniform. By Kohel and Shparlinski's
bound on exponential sums over points (ANTS 2000; |S| ≤ 4√p), any value of the w low bytes has probability
2^-8w to within 2^-115, so that two different ids meet in w bytes with probability at most 2^-8w + 2^-115
(C. Chevalier et al., EUROCRYPT 2009, study the same extractor). A hash would hide nothing more, since
whoever receives tags may see the whole point. `tag_width` keeps all false matches together below 2^-40.

Source: besides the above, RFC 9380 for H.
"""

import numpy as np
from numpy.typing import NDArray

from veilsum.arith import x25519
from veilsum.crypto.tags import width
from veilsum.errors import CheatingDetected, ProtocolError

SUITE = "X25519/curve25519_XMD:SHA-512_ELL2_NU_"
"""The one suite; its name goes into the job, and so into the job's hash."""
DST = b"veilsum/hidden-psi/1/X25519-SHA512-ELL2-NU"
"""The domain separation tag of H (RFC 9380, section 3.1); 42 bytes, below the 46 that cost another block."""
POINT_BYTES = x25519.BYTES
KEY_BYTES = 32


class Key:
    """A party's secret scalar for one run; shows nothing of itself."""

    __slots__ = ("_scalar",)

    def __init__(self, scalar: bytes) -> None:
        if len(scalar) != KEY_BYTES:
            raise ValueError(f"a key is made from {KEY_BYTES} bytes, not {len(scalar)}")
        self._scalar = bytes(scalar)

    def __repr__(self) -> str:
        return f"Key({KEY_BYTES} bytes)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not to be copied or stored")


def gen_key(random: bytes) -> Key:
    """Make a key of 32 uniform random bytes; the same bytes make the same key.

    Raises:
        ValueError: another number of bytes.
    """
    return Key(random)


def hash_to_points(
    data: bytes | NDArray[np.uint8],
    offsets: NDArray[np.int64],
    *,
    domain: bytes = DST,
    path: str | None = None,
) -> NDArray[np.uint8]:
    """Hash ids to points.

    Args:
        data: the normal forms of the ids end to end.
        offsets: id i is ``data[offsets[i]:offsets[i + 1]]``; shape (n + 1,) int64.
        domain: the domain separation tag; every use of H on its own needs its own.
        path: of `veilsum.arith.x25519`; None takes the best of this machine.

    Returns:
        (n, 32) uint8; secret, since anybody can try ids against unmasked points.

    Raises:
        TypeError, ValueError: offsets of another type or outside of the data.
    """
    return x25519.encode(data, offsets, domain, path=path)


def mask(key: Key, points: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Multiply points by a key; the order of the rows stays.

    Args:
        key: this party's.
        points: (n, 32) uint8, hashed or masked by others already.
        path: of `veilsum.arith.x25519`; None takes the best of this machine.

    Returns:
        (n, 32) uint8.

    Raises:
        ProtocolError: the points have another shape or type.
        CheatingDetected: some point has small order, which no hash and no honest mask has.
    """
    _check_points(points)
    masked = x25519.mul(key._scalar, np.ascontiguousarray(points), path=path)  # noqa: SLF001 -- the key's own operation
    if not masked.any(axis=1).all():
        raise CheatingDetected(
            "points of small order were sent, which would make masked ids constant",
            remedy="ask the party that sent them what its software is; do not run this job with it again",
        )
    return masked


def tags(points: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Cut points that all keys have masked to tags for comparison.

    Args:
        points: (n, 32) uint8.
        width: bytes of a tag, 1 to 32; see `tag_width`.

    Returns:
        (n, width) uint8, the low-order bytes, contiguous.

    Raises:
        ProtocolError: the points have another shape or type.
        ValueError: another width.
    """
    _check_points(points)
    if not 1 <= width <= POINT_BYTES:
        raise ValueError(f"a tag has 1 to {POINT_BYTES} bytes, not {width}")
    return np.ascontiguousarray(points[:, :width])


def tag_width(n_total_a: int, n_total_b: int) -> int:
    """Return the bytes of a tag for lists of a and b ids; see `veilsum.crypto.tags.width`."""
    return width(n_total_a, n_total_b)


def _check_points(points: NDArray[np.uint8]) -> None:
    if points.dtype != np.uint8 or points.ndim != 2 or points.shape[1] != POINT_BYTES:
        raise ProtocolError(
            f"points have shape {points.shape} and type {points.dtype}, not (n, {POINT_BYTES}) uint8",
            remedy="compare the versions of veilsum at both parties",
        )
