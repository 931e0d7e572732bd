"""Powers, products and inverses modulo odd numbers of RSA's sizes, for many rows at once.

A row is one number, big-endian, in as many bytes as the modulus has. Paths: ``ifma`` (AVX-512 IFMA, eight
rows together) and ``portable`` (64-bit words, one row after the other). The ifma kernels exist for moduli of
2048 and 3072 bits (of 32 and 48 words of 64 bits), for two or three secret primes of 1024 bits and for two
of 1536 bits; other sizes are computed by the portable kernels, whichever path is asked for. Kernels run on
one thread and let go of the GIL; a caller who wants more cores slices the rows. Rows and secret keys decide
neither branches nor addresses; moduli and exponents that are arguments are public.

Source: P. Montgomery, Modular Multiplication Without Trial Division (1985), and for the batched inversion
Speeding the Pollard and Elliptic Curve Methods (1987); H. Garner, The Residue Number System (1959), for the
recombination, by mixed radix. Twin: `veilsum.arith.modexp_twin`.
"""

import math
import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from veilsum.arith import _native, cpu

MIN_BITS, MAX_BITS = 512, 4096
"""Bits of a modulus."""
MAX_EXPONENT = 2**64 - 1
"""The largest public exponent of `power`."""
_WORD = 64

Rows = NDArray[np.uint8]


class CrtKey:
    """The primes of a modulus and the inverse of a public exponent, ready for `private_power`; shows nothing.

    Making one takes variable time (Python's integers) and is for once a key. Whether the numbers are
    prime is not checked.

    Attributes:
        modulus: the product of the primes.
        exponent: the public one; `private_power` takes its roots.
        width: bytes of a row.
    """

    __slots__ = ("_bits", "_constants", "_count", "exponent", "modulus", "width")

    def __init__(self, primes: Sequence[int], exponent: int) -> None:
        """Prepare the constants of every path of this machine.

        Args:
            primes: two or three distinct odd primes, all of the same bit length, a multiple of 64.
            exponent: public, invertible modulo p - 1 for every prime p.

        Raises:
            ValueError: the numbers are none of these, or their product is out of bounds.
        """
        lengths = {prime.bit_length() for prime in primes}
        if len(primes) not in {2, 3} or len(set(primes)) != len(primes):
            raise ValueError("a key has two or three distinct primes")
        if len(lengths) != 1 or any(length % _WORD for length in lengths) or min(primes) < 0:
            raise ValueError("the primes of a key have one bit length, a multiple of 64")
        if not all(prime % 2 for prime in primes):
            raise ValueError("the primes of a key are odd")
        if exponent < 1 or any(math.gcd(exponent, prime - 1) != 1 for prime in primes):
            raise ValueError("the exponent of a key is invertible modulo every prime less one")
        if any(math.gcd(p, math.prod(primes[:i])) != 1 for i, p in enumerate(primes)):
            raise ValueError("the primes of a key are prime to one another")
        self._bits, self._count = lengths.pop(), len(primes)
        self.modulus = math.prod(primes)
        self.exponent = exponent
        self.width = _width(self.modulus)
        _check_modulus(self.modulus)
        self._constants = {
            path: _constants(primes, exponent, shift)
            for path in cpu.usable("modexp")
            if (shift := _native.modexp_shift(path, self._count, self._bits // _WORD))
        }

    def __repr__(self) -> str:
        return f"CrtKey({self._count} primes of {self._bits} bits)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not to be copied or stored")


def power(rows: Rows, exponent: int, modulus: int, *, path: str | None = None) -> Rows:
    """Raise every row to a public exponent.

    Args:
        rows: (n, k) uint8, big-endian and below the modulus, contiguous; k bytes hold the modulus.
        exponent: 0 to 2^64 - 1.
        modulus: odd, 512 to 4096 bits.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, k) uint8.

    Raises:
        TypeError, ValueError: another type, layout or shape, a row, exponent or modulus out of bounds, or a
            path this machine cannot run.
    """
    _check_modulus(modulus)
    _check_rows(rows, modulus)
    if not 0 <= exponent <= MAX_EXPONENT:
        raise ValueError("a public exponent is from 0 to 2^64 - 1")
    path, value, square = _public(modulus, path)
    out = np.empty_like(rows)
    _native.modexp_power(path, rows, value, square, exponent, out)
    return out


def product(a: Rows, b: Rows, modulus: int, *, path: str | None = None) -> Rows:
    """Multiply row by row.

    Args:
        a: (n, k) uint8, big-endian and below the modulus, contiguous; k bytes hold the modulus.
        b: the same, or (1, k): one factor for all rows.
        modulus: odd, 512 to 4096 bits.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, k) uint8.

    Raises:
        TypeError, ValueError: another type, layout or shape, a row or modulus out of bounds, or a path this
            machine cannot run.
    """
    _check_modulus(modulus)
    _check_rows(a, modulus)
    _check_rows(b, modulus)
    if len(b) not in {1, len(a)}:
        raise ValueError(f"{len(a)} rows are multiplied by as many, or by one, not by {len(b)}")
    return _product(a, b, _public(modulus, path))


def inverse(rows: Rows, modulus: int, *, path: str | None = None) -> Rows:
    """Invert every row, by one inversion and three products a row.

    Rows are multiplied in a tree whose root is inverted, and the inverse is taken down again. Since the one
    inversion is Python's, whose time depends on its number, that number is blinded by a fresh random unit.

    Args:
        rows: (n, k) uint8, big-endian and below the modulus, contiguous; k bytes hold the modulus.
        modulus: odd, 512 to 4096 bits.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, k) uint8.

    Raises:
        TypeError, ValueError: another type, layout or shape, a row or modulus out of bounds, some row is not
            invertible, or a path this machine cannot run.
    """
    _check_modulus(modulus)
    _check_rows(rows, modulus)
    public = _public(modulus, path)
    if not len(rows):
        return rows.copy()
    levels = [rows]
    while len(levels[-1]) > 1:
        level = levels[-1]
        paired = len(level) // 2 * 2
        products = _product(level[:paired:2].copy(), level[1:paired:2].copy(), public)
        levels.append(np.concatenate([products, level[paired:]]))
    inverses = _invert_one(levels.pop(), modulus, public)
    for level in reversed(levels):
        pairs, single = divmod(len(level), 2)
        other = level[: 2 * pairs].reshape(pairs, 2, -1)[:, ::-1].reshape(2 * pairs, -1)
        below = _product(np.ascontiguousarray(other), np.repeat(inverses[:pairs], 2, axis=0), public)
        inverses = np.concatenate([below, inverses[pairs:]]) if single else below
    return inverses


def private_power(rows: Rows, key: CrtKey, *, path: str | None = None) -> Rows:
    """Take every row's root: row^(exponent^-1 mod lcm(p_i - 1)) mod modulus.

    By the Chinese remainder theorem, in constant time: fixed windows, tables that are read whole for every
    window, no branch or address that depends on the key or on rows. Rows are not blinded and results are not
    checked: a fault in one prime's half gives the factors away, so that the caller raises the result to the
    public exponent before anybody sees it.

    Args:
        rows: (n, k) uint8, big-endian and below the modulus, contiguous; k bytes hold the modulus.
        key: the secret key.
        path: ``ifma`` or ``portable``; None takes the best of this machine.

    Returns:
        (n, k) uint8.

    Raises:
        TypeError, ValueError: another type, layout or shape, a row out of bounds, or a path this machine
            cannot run.
    """
    _check_rows(rows, key.modulus)
    path = _runnable(path, key._count, key._bits // _WORD)  # noqa: SLF001 -- the key's own operation
    out = np.empty_like(rows)
    _native.modexp_private_power(path, rows, key._constants[path], key._count, out)  # noqa: SLF001 -- as above
    return out


_Public = tuple[str, bytes, bytes]


def _public(modulus: int, path: str | None) -> _Public:
    """Return the path that has this size, the modulus, and R^2 modulo it, as the kernels read them."""
    words = -(-modulus.bit_length() // _WORD)
    path = _runnable(path, 1, words)
    shift = _native.modexp_shift(path, 1, words)
    return path, _pack([modulus], words), _pack([pow(2, 2 * shift, modulus)], words)


def _runnable(path: str | None, primes: int, words: int) -> str:
    path = path or cpu.best("modexp")
    return path if _native.modexp_shift(path, primes, words) else "portable"


def _product(a: Rows, b: Rows, public: _Public) -> Rows:
    path, value, square = public
    out = np.empty_like(a)
    _native.modexp_product(path, a, b, value, square, out)
    return out


def _invert_one(row: Rows, modulus: int, public: _Public) -> Rows:
    unit = secrets.randbelow(modulus)
    while math.gcd(unit, modulus) != 1:
        unit = secrets.randbelow(modulus)
    blind = _row(unit, modulus)
    try:
        found = pow(int.from_bytes(_product(row, blind, public).tobytes()), -1, modulus)
    except ValueError:
        raise ValueError("some row is not invertible") from None
    return _product(_row(found, modulus), blind, public)


def _row(number: int, modulus: int) -> Rows:
    return np.frombuffer(number.to_bytes(_width(modulus)), np.uint8).reshape(1, -1)


def _width(modulus: int) -> int:
    return -(-modulus.bit_length() // 8)


def _pack(numbers: Sequence[int], words: int) -> bytes:
    return b"".join(number.to_bytes(8 * words, "little") for number in numbers)


def _constants(primes: Sequence[int], exponent: int, shift: int) -> bytes:
    """Return what struct Key of modexp.h describes."""
    fields = []
    for i, p in enumerate(primes):
        r = (1 << shift) % p
        powers = [pow(r, j, p) for j in range(2, len(primes) + 2)]
        before = pow(math.prod(primes[:i]), -1, p) * r % p if i else 0
        fields += [p, pow(exponent, -1, p - 1), *powers, before, r * primes[0] % p]
    return _pack(fields, primes[0].bit_length() // _WORD)


def _check_modulus(modulus: int) -> None:
    if modulus % 2 == 0 or not MIN_BITS <= modulus.bit_length() <= MAX_BITS or modulus < 0:
        raise ValueError(f"a modulus is odd and has {MIN_BITS} to {MAX_BITS} bits")


def _check_rows(rows: Rows, modulus: int) -> None:
    width = _width(modulus)
    if getattr(rows, "dtype", None) != np.uint8:
        raise TypeError("rows must be an array of uint8")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"rows must have shape (n, {width}), not {rows.shape}")
    if not rows.flags.c_contiguous:
        raise ValueError("rows must be contiguous")
    if not _native.modexp_below(rows, _pack([modulus], -(-modulus.bit_length() // _WORD))):
        raise ValueError("rows must be below the modulus")
