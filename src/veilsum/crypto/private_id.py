"""Private-ID: names for the union of two sets that both parties can compute together, and neither alone.

Each of the two parties has two fresh scalars: k for matching, r for naming. An id x of either is matched as
H(x)^(kA·kB) and named H(x)^(kA·kB·rA·rB). Equal ids get equal names; who lacks one of the four scalars can
neither name an id nor link a name to an id, if the decisional Diffie-Hellman problem is hard.

The four steps of a list, each on whole arrays of points (n, 32) uint8 and in the order given:

| step | who | makes |
|---|---|---|
| `mask` | owner | H(x)^kO |
| `match` | other | H(x)^(kO·kX); goes back to the owner shuffled |
| `name` | other | H(x)^(kO·kX·rX); goes back in the owner's order |
| `finish` | owner | H(x)^(kO·kX·rX·rO), cut to 16 bytes |

Both parties find the ids that only one of them holds by comparing lists of *matched* points that the other
one has shuffled; those are named by `name` at their owner, and `finish` at the other.

Source: P. Buddhavarapu, A. Knox, P. Mohassel, S. Sengupta, E. Taubeneck, V. Vlaskin, "Private Matching for
Compute", eprint 2020/599 (Private-ID). H and the powers are those of `veilsum.crypto.dh`.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import dh

NAME_BYTES: Final = 16
"""Of a name: two different ids of 2³² share one with probability below 2⁻⁶⁴."""


class Keys(NamedTuple):
    """One party's two scalars; their ``repr`` shows neither."""

    matching: dh.Key
    naming: dh.Key


def gen_keys(matching: bytes, naming: bytes) -> Keys:
    """Make the scalars of one run from 32 fresh bytes each.

    Raises:
        ValueError: the two are the same, so that names could be computed by matching alone.
    """
    if matching == naming:
        raise ValueError("matching and naming need independent randomness")
    return Keys(dh.gen_key(matching), dh.gen_key(naming))


def mask(keys: Keys, points: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Mask one's own hashed ids for matching.

    Raises:
        CheatingDetected: a point has small order.
    """
    return dh.mask(keys.matching, points, path=path)


def match(keys: Keys, masked: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Complete the other party's masked ids for matching.

    Raises:
        CheatingDetected: a point has small order.
    """
    return dh.mask(keys.matching, masked, path=path)


def name(keys: Keys, matched: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Give matched ids this party's half of their names.

    Raises:
        CheatingDetected: a point has small order.
    """
    return dh.mask(keys.naming, matched, path=path)


def finish(keys: Keys, named: NDArray[np.uint8], *, path: str | None = None) -> NDArray[np.uint8]:
    """Complete names that the other party has begun.

    Returns:
        (n, 16) uint8.

    Raises:
        CheatingDetected: a point has small order.
    """
    return dh.tags(dh.mask(keys.naming, named, path=path), NAME_BYTES)
