"""Functions of one variable as polynomials on pieces, over any range.

All comparisons with the ends of pieces are made at once, beside nothing but powers. The coefficients of the
piece that holds x are public combinations of the comparisons' bits, so they are exact integers, and exactly
zero where a piece is a constant: powers of an x far outside may leave the ring, they are multiplied by zero.

Bytes of all parties by RSS3, an element: about 50 for each end of a piece within the bound, 27 for each power
and 27 for the sum.
"""

import math
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc.compare import at_least
from veilsum.mpc.engine import Engine
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.shares import Arith, Product

_POWER: Final = 24
"""Bits behind the point of powers."""
_SUM: Final = 44
_ROOM: Final = 60
"""Bits that the magnitude of a sum may take."""


class Pieces(NamedTuple):
    """A function by pieces.

    Attributes:
        halvings: polynomials are in u = x / 2^halvings.
        ends: between the pieces, ascending.
        polynomials: one more than ends; the coefficient of u^j at j, all of one length.
        error: the largest absolute error against the function, roundings aside.
        low: the least result, error included.
        high: the largest result, error included; infinite where the last piece is x itself.
    """

    halvings: int
    ends: tuple[float, ...]
    polynomials: tuple[tuple[float, ...], ...]
    error: float
    low: float
    high: float

    def held(self, bound: float) -> "Pieces":
        """Return the pieces that |x| <= bound can reach."""
        inside = [at for at, end in enumerate(self.ends) if abs(end) <= bound]
        below = sum(end < -bound for end in self.ends)
        chosen = slice(below, below + len(inside) + 1)
        return self._replace(ends=tuple(self.ends[at] for at in inside), polynomials=self.polynomials[chosen])


def mirrored(
    halvings: int,
    ends: tuple[float, float],
    inner: tuple[float, ...],
    outer: tuple[float, ...],
    last: tuple[float, ...],
    middle: tuple[float, ...],
    error: float,
    limits: tuple[float, float],
) -> Pieces:
    """Return the pieces of m(u) + g(u), with g odd or even, from its pieces on the positive side.

    Args:
        halvings: as of `Pieces`.
        ends: the two ends on the positive side.
        inner: coefficients of g on both sides of zero, up to the first end.
        outer: to the second end.
        last: beyond it.
        middle: of m.
        error: as of `Pieces`.
        limits: ``low`` and ``high`` of `Pieces`.
    """
    odd = any(inner[1::2])
    count = max(len(inner), len(outer), len(last), len(middle))

    def whole(g: tuple[float, ...], *, left: bool = False) -> tuple[float, ...]:
        signs = [1 if not left or (j % 2 == 1) == odd else -1 for j in range(count)]
        padded = [(*p, *(0.0,) * (count - len(p))) for p in (g, middle)]
        return tuple(sign * a + b for sign, a, b in zip(signs, *padded, strict=True))

    polynomials = (whole(last, left=True), whole(outer, left=True), whole(inner), whole(outer), whole(last))
    return Pieces(halvings, (-ends[1], -ends[0], *ends), polynomials, error, *limits)


def evaluate(x: Fixed, pieces: Pieces) -> Fixed:
    """Return a function by pieces.

    Error: ``pieces.error`` and 2^-16. One `Engine.msb`, one `Engine.compose`, a multiplication for each
    doubling of the degree and one more.

    Raises:
        ConfigError: the last piece is x itself, and |x| may exceed 2^20.
    """
    engine = x.engine
    linear = math.isinf(pieces.high)
    highest = x.bound + 1.0 if linear else max(abs(pieces.low), abs(pieces.high))
    fraction = min(_SUM, _ROOM - 1 - math.ceil(math.log2(highest)))
    if fraction < 2 * engine.fraction + 2:
        raise ConfigError(
            f"values within {x.bound:.3g} are beyond the range of this function, {2.0**20:.3g}",
            remedy="declare tighter ranges of what enters it",
        )
    reached = pieces.held(x.bound + 2.0**-engine.fraction)
    bits = at_least(x, reached.ends) if reached.ends else None
    degree = max(j for p in reached.polynomials for j, c in enumerate(p) if c or j == 0)
    powers = _powers(x, pieces.halvings, degree)
    total: Product | None = None
    for j in range(1, degree + 1):
        behind = engine.fraction + pieces.halvings if j == 1 else _POWER
        values = [_whole(p[j], fraction - behind) for p in reached.polynomials]
        if any(values):
            term = engine.times(weighted(engine, bits, values, x.shape), powers[j])
            total = term if total is None else total + term
    constants = [_whole(p[0], engine.fraction) for p in reached.polynomials]
    result = weighted(engine, bits, constants, x.shape)
    if total is not None:
        result += engine.reduce(total, fraction - engine.fraction)
    return Fixed(engine, result, highest)


def weighted(engine: Engine, bits: Arith | None, values: list[int], shape: tuple[int, ...]) -> Arith:
    """Return the public integer of the piece that is reached: values[number of bits that are one]."""
    first = engine.constant(np.full(shape, values[0] % (1 << 64), np.uint64))
    if bits is None:
        return first
    steps = np.array([(after - before) % (1 << 64) for before, after in pairwise(values)], np.uint64)
    return first + bits.scaled(steps.reshape(-1, *(1,) * (bits.ndim - 1))).sum(0)


def _powers(x: Fixed, halvings: int, degree: int) -> dict[int, Arith]:
    """Return u = x / 2^halvings to the powers 1 to ``degree``; but the first have ``_POWER`` bits.

    An x that leaves the ring makes void powers.
    """
    engine, behind = x.engine, x.engine.fraction + halvings
    powers = {1: x.share}
    if degree > 1:
        powers[2] = engine.multiply(x.share, x.share, 2 * behind - _POWER)
    while len(powers) < degree:
        # x once more has other bits behind the point than a power: shifted up, all drop the same
        lifted = x.share.scaled(1 << (_POWER - behind))
        have = len(powers)
        made = range(have + 1, min(2 * have, degree) + 1)
        products = [
            engine.times(powers[have], lifted if power - have == 1 else powers[power - have])
            for power in made
        ]
        powers.update(zip(made, engine.reduce_all(products, _POWER), strict=True))
    return powers


def _whole(number: float, bits: int) -> int:
    return round(number * 2.0**bits)
