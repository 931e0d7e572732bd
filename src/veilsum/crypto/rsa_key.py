"""RSA keys for blind signatures: two or three primes, the public exponent 65537.

Keys of two primes are the rule. Three primes make the private operation cheaper, and cost security only where
an elliptic-curve search for one prime would beat the number field sieve on the whole modulus; with primes of
1024 bits it does not come near.

Source: RFC 8017, section 3.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from veilsum.arith import modexp
from veilsum.errors import StoreError

EXPONENT: Final = 65537
SMALLEST_GENERATED: Final = 1024
"""Bits of the smallest modulus that `cryptography` makes; its primes have half of them."""
LEAST_PRIME: Final = 256
STORED: Final = "veilsum/rsa-key/1"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What everybody may know of a key."""

    modulus: int
    exponent: int = EXPONENT

    @property
    def bits(self) -> int:
        """Bits of the modulus."""
        return self.modulus.bit_length()

    @property
    def width(self) -> int:
        """Bytes of the modulus, and so of every value and signature."""
        return -(-self.bits // 8)

    @property
    def id(self) -> bytes:
        """The key's name: 32 bytes, SHA-256 of a canonical encoding of both numbers."""
        hashed = hashlib.sha256(b"veilsum/rsa-key-id/1")
        for number in (self.modulus, self.exponent):
            text = number.to_bytes(-(-number.bit_length() // 8), "big")
            hashed.update(len(text).to_bytes(8, "big") + text)
        return hashed.digest()

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits, {self.id.hex()[:16]})"


class PrivateKey:
    """A signer's key; shows nothing but its size, and can be stored only on purpose.

    Python numbers do not compute in constant time: making and storing a key are not meant to be watched.
    The private operation is constant time (`veilsum.arith.modexp.private_power`).
    """

    __slots__ = ("_primes", "crt", "public")

    def __init__(self, primes: tuple[int, ...]) -> None:
        """Take the primes.

        Raises:
            ValueError: not two or three different primes of one size, a multiple of 64 bits from 256 on, or
                one of them with 65537 dividing p - 1.
        """
        _check_primes(primes)
        self._primes = primes
        self.crt = modexp.CrtKey(primes, EXPONENT)
        self.public = PublicKey(math.prod(primes))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.bits} bits, {len(self._primes)} primes)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not to be copied; use to_bytes")

    def to_bytes(self) -> bytes:
        """Return the secret form to be kept; whoever reads it can sign."""
        width = self.public.width
        primes = [prime.to_bytes(width, "big").lstrip(b"\0") for prime in self._primes]
        return msgspec.msgpack.encode(_Stored(STORED, self.public.id, primes))

    @classmethod
    def from_bytes(cls, data: bytes) -> "PrivateKey":
        """Read what `to_bytes` wrote.

        Raises:
            StoreError: the bytes are damaged, or of another kind or version.
        """
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
            key = cls(tuple(int.from_bytes(prime, "big") for prime in stored.primes))
        except (msgspec.DecodeError, ValueError) as error:
            # the text of an error could show parts of the key
            raise _damaged(type(error).__name__) from None
        if stored.form != STORED or stored.id != key.public.id:
            raise _damaged("its name does not fit")
        return key


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    form: str
    id: bytes
    primes: list[bytes]

    def __repr__(self) -> str:
        return "_Stored()"


def gen_key(bits: int, primes: int = 2) -> PrivateKey:
    """Make a key from the system's randomness.

    Primes come from OpenSSL's key generation. Primes of less than 512 bits, which are for tests only, are
    searched here.

    Args:
        bits: of the modulus, exactly; 2048 and 3072 are in use.
        primes: 2 or 3, each of 256 bits or more, a multiple of 64.

    Raises:
        ValueError: another number of primes, or bits that they cannot share so, or out of bounds.
    """
    size = bits // primes if primes in {2, 3} and bits % (64 * primes) == 0 else 0
    if size < LEAST_PRIME or bits > modexp.MAX_BITS:
        raise ValueError(f"{primes} primes cannot make a modulus of {bits} bits")
    while True:
        found: list[int] = []
        while len(found) < primes:
            found += _draw_primes(size)
        chosen = tuple(found[:primes])
        # a draw again where the product falls short of its top bit
        if len(set(chosen)) == primes and math.prod(chosen).bit_length() == bits:
            return PrivateKey(chosen)


def is_composite(number: int, rounds: int = 1) -> bool:
    """Return whether some round of Miller and Rabin's test, with random bases, shows an odd number composite.

    True is a proof. A prime never gives True; a composite number drawn at random hardly ever gives False,
    one chosen to mislead gives it with probability at most 4^-rounds.
    """
    twos = ((number - 1) & -(number - 1)).bit_length() - 1
    for _ in range(rounds):
        power = pow(secrets.randbelow(number - 3) + 2, number >> twos, number)
        squares = [power]
        for _ in range(twos - 1):
            squares.append(squares[-1] ** 2 % number)
        if power != 1 and number - 1 not in squares:
            return True
    return False


def _draw_primes(size: int) -> list[int]:
    if 2 * size >= SMALLEST_GENERATED:
        numbers = rsa.generate_private_key(EXPONENT, 2 * size).private_numbers()
        return [numbers.p, numbers.q]
    while True:  # for tests only
        number = secrets.randbits(size) | 3 << size - 2 | 1
        if number % EXPONENT != 1 and not is_composite(number, rounds=40):
            return [number]


def _check_primes(primes: tuple[int, ...]) -> None:
    if len(primes) not in {2, 3} or len(set(primes)) != len(primes):
        raise ValueError("a key has two or three different primes")
    for prime in primes:
        if (
            prime < 0
            or prime.bit_length() < LEAST_PRIME
            or prime % 2 == 0
            or prime % EXPONENT == 1
            or is_composite(prime)
        ):
            raise ValueError("a key's factor is not a prime, is too small or does not go with the exponent")


def _damaged(why: str) -> StoreError:
    return StoreError(
        f"a stored signing key cannot be read ({why})",
        remedy="restore it from a backup, or remove it and make another one",
    )
