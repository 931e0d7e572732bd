# What the native extension offers; the modules of `veilsum.arith` call it.

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

def cpu_paths(here: bool) -> list[str]: ...
def cpu_features() -> dict[str, bool]: ...
def families() -> dict[str, list[str]]: ...
def modexp_shift(path: str, primes: int, words: int) -> int: ...
def modexp_below(rows: NDArray[np.uint8], modulus: bytes) -> bool: ...
def modexp_power(
    path: str, rows: NDArray[np.uint8], modulus: bytes, square: bytes, exponent: int, out: NDArray[np.uint8]
) -> None: ...
def modexp_product(
    path: str,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    modulus: bytes,
    square: bytes,
    out: NDArray[np.uint8],
) -> None: ...
def modexp_private_power(
    path: str, rows: NDArray[np.uint8], key: bytes, primes: int, out: NDArray[np.uint8]
) -> None: ...
def sha512_digest(
    path: str, data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]
) -> None: ...
def sha384_digest(
    path: str, data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]
) -> None: ...
def sha512_expand(
    path: str, data: NDArray[np.uint8], offsets: NDArray[np.int64], dst: bytes, out: NDArray[np.uint8]
) -> None: ...
def x25519_mul(path: str, scalar: bytes, points: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...
def x25519_map(path: str, uniform: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...
def ring_matmul(path: str, a: Words, b: Words, accumulate: bool, out: Words, /) -> None: ...
def ring_product(path: str, x0: Words, x1: Words, y0: Words, y1: Words, out: Words, /) -> None: ...
def ring_add_masks(path: str, x: Words, plus: Words, minus: Words, out: Words, /) -> None: ...
def ring_planes(path: str, x: Words, count: int, out: Words, /) -> None: ...
def ring_plane(path: str, x: Words, bit: int, out: Words, /) -> None: ...
def ring_from_planes(path: str, planes: Words, out: Words, /) -> None: ...
def ring_conjunction(
    path: str, xa: Words, xb: Words, ya: Words, yb: Words, plus: Words, minus: Words, out: Words, /
) -> None: ...
def ring_majority(
    path: str,
    ua: Words,
    ub: Words,
    va: Words,
    vb: Words,
    ca: Words,
    cb: Words,
    plus: Words,
    minus: Words,
    out: Words,
    /,
) -> None: ...
def ring_truncate_share(
    path: str,
    s: Words,
    own: Words,
    other: Words,
    triple: Words,
    c: Words,
    fraction: int,
    lead: bool,
    mask: Words,
    out: Words,
    /,
) -> None: ...
def ring_select_deal(
    path: str,
    u: Words,
    bits: Words,
    w0: Words,
    c0: Words,
    plus: Words,
    minus: Words,
    w1: Words,
    c1: Words,
    z: Words,
    /,
) -> None: ...
def ring_select_take(
    path: str,
    v: Words,
    bits: Words,
    w: Words,
    c: Words,
    lead: bool,
    plus: Words,
    minus: Words,
    z: Words,
    /,
) -> None: ...
