"""The key proof: raising to the power e permutes the numbers modulo n that are coprime to n.

Against a modulus for which it does not, blinding hides too little: where e shares a factor with φ(n), the
blind r^e reaches only a part of the numbers, and a value r^e·H shows which part its H is in. The proof shows
the e-th roots of nine elements that a hash derives from n, e and a context. Were x^e no permutation, then, e
being a prime, at most one element in e would have a root at all: a key of that kind passes with probability
below 2^-144 for every attempt at the hash.

What it does not show: that n has only large prime factors, is squarefree, or has just two or three. It is not
needed. A value r^e·H is uniform among the numbers coprime to n, and so shows nothing, as long as r and H are
coprime to n; `check_key` refuses prime factors below 65537, and `blind` refuses any r and H that share a
greater one. A modulus that is a prime or a power is refused because anybody could sign with it.

Source: S. Goldberg, L. Reyzin, O. Sagga and F. Baldimtsi, Efficient Noninteractive Certification of RSA
Moduli and Beyond, ASIACRYPT 2019 (eprint 2018/057); here for permutations of Z*_n, with κ = 128.
"""

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from veilsum.arith import modexp
from veilsum.crypto.rsa_key import EXPONENT, PrivateKey, PublicKey, is_composite
from veilsum.errors import CheatingDetected, VeilsumError

ELEMENTS: Final = 9
LABEL: Final = b"veilsum/rsa-key-proof/1"
SMALL: Final = 1 << 16
"""No prime factor of a modulus lies below; the next prime above is 65537."""


def prove(key: PrivateKey, context: bytes) -> bytes:
    """Prove that a key's public operation is a permutation.

    The private operation runs in constant time; its results are checked before they are returned.

    Args:
        key: the signer's.
        context: what the proof is for; the run's id, say. Another context needs another proof.

    Returns:
        The roots end to end, nine times the modulus' bytes; the same for the same key and context.

    Raises:
        VeilsumError: the processor or memory computed wrong.
    """
    elements = _elements(key.public, context)
    width = key.public.width
    rows = np.frombuffer(b"".join(element.to_bytes(width, "big") for element in elements), np.uint8)
    roots = modexp.private_power(rows.reshape(ELEMENTS, width), key.crt)
    if [pow(root, EXPONENT, key.public.modulus) for root in _numbers(roots)] != elements:
        raise VeilsumError(
            "the proof of a signing key came out wrong and was not sent",
            remedy="check this machine's memory and processor; the key itself is not to blame",
        )
    return roots.tobytes()


def check_key(public: PublicKey, proof: bytes, context: bytes, *, bits: int) -> None:
    """Check a key that a signer showed, before anything is blinded for it.

    Args:
        public: the key.
        proof: from `prove`.
        context: as given to `prove`.
        bits: of the modulus, as the parties agreed.

    Raises:
        CheatingDetected: the key or the proof breaks a rule; the message says which.
    """
    modulus = public.modulus
    _refuse(public.exponent != EXPONENT, f"its exponent is not {EXPONENT}")
    _refuse(modulus < 1 or modulus.bit_length() != bits, f"its modulus does not have the agreed {bits} bits")
    _refuse(modulus % 2 == 0, "its modulus is even")
    _refuse(
        math.gcd(modulus, math.prod(_small_primes())) != 1, f"its modulus has a prime factor below {SMALL}"
    )
    _refuse(not is_composite(modulus), "its modulus is a prime")
    _refuse(_is_power(modulus), "its modulus is a power of another number")
    _refuse(len(proof) != ELEMENTS * public.width, "its proof has another length")
    roots = _numbers(np.frombuffer(proof, np.uint8).reshape(ELEMENTS, public.width))
    for root, element in zip(roots, _elements(public, context), strict=True):
        _refuse(not 0 < root < modulus, "a root of its proof is not a number below the modulus")
        _refuse(math.gcd(root, modulus) != 1, "a root of its proof shares a factor with the modulus")
        _refuse(
            pow(root, EXPONENT, modulus) != element,
            "a root of its proof is wrong; the key is no permutation, or the proof is for another run",
        )


def _refuse(broken: bool, rule: str) -> None:
    if broken:
        raise CheatingDetected(
            f"the signer's key was refused: {rule}",
            remedy="ask the signer what its software is; do not run this job with it again",
        )


def _elements(public: PublicKey, context: bytes) -> list[int]:
    """Hash to numbers below the modulus, each uniform: draws of its bits until one is below."""
    excess = 8 * public.width - public.bits
    found = []
    for index in range(ELEMENTS):
        seed = LABEL + public.id + len(context).to_bytes(8, "big") + context + index.to_bytes(8, "big")
        stream, number, attempt = hashlib.shake_256(seed), public.modulus, 0
        while number >= public.modulus:
            attempt += 1
            drawn = stream.digest(attempt * public.width)[-public.width :]
            number = int.from_bytes(drawn, "big") >> excess
        found.append(number)
    return found


def _numbers(rows: NDArray[np.uint8]) -> list[int]:
    return [int.from_bytes(row.tobytes(), "big") for row in rows]


def _small_primes() -> list[int]:
    sieve = np.ones(SMALL, bool)
    sieve[:2] = False
    for number in range(2, math.isqrt(SMALL) + 1):
        if sieve[number]:
            sieve[number * number :: number] = False
    return [int(prime) for prime in np.flatnonzero(sieve)]


def _is_power(number: int) -> bool:
    """Return whether a number without factors below 2^16 is a power: its degree is at most bits / 16."""
    return any(
        _root(number, degree) ** degree == number for degree in range(2, number.bit_length() // 16 + 1)
    )


def _root(number: int, degree: int) -> int:
    """Return the whole part of a root, by Newton's iteration from above."""
    guess = 1 << -(-number.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + number // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better
