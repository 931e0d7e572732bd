"""The same functions as `veilsum.arith.modexp`, in plain integers: slow, variable in time, easy to read.

For tests and known answers only; secrets do not belong here.
"""

import math
from collections.abc import Sequence


def power(row: int, exponent: int, modulus: int) -> int:
    """Return row^exponent mod modulus."""
    return pow(row, exponent, modulus)


def product(a: int, b: int, modulus: int) -> int:
    """Return a·b mod modulus."""
    return a * b % modulus


def inverse(row: int, modulus: int) -> int:
    """Return row^-1 mod modulus.

    Raises:
        ValueError: there is none.
    """
    return pow(row, -1, modulus)


def private_power(row: int, primes: Sequence[int], exponent: int) -> int:
    """Return row^(exponent^-1 mod lcm(p_i - 1)) mod the product of the primes."""
    secret = pow(exponent, -1, math.lcm(*(prime - 1 for prime in primes)))
    return pow(row, secret, math.prod(primes))
