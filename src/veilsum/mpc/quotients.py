"""Reciprocals, quotients, roots, and the scaling by powers of two that they and logarithms begin with.

A number of a wide range is first multiplied by the power of two that brings it between 1 and a small ratio
(`Scaled`), found by comparisons with public thresholds, all at once. There a line is close enough to begin
with, and products that at least square the error do the rest.

Ranges are [least, bound]: a value below ``least``, zero included, gives a finite, meaningless number (roots
say more); nothing wraps.
"""

import math
from fractions import Fraction
from functools import lru_cache
from itertools import count
from typing import Final, NamedTuple

from veilsum.errors import ConfigError
from veilsum.mpc.compare import at_least
from veilsum.mpc.engine import HEADROOM, Engine, Link
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.piecewise import weighted
from veilsum.mpc.shares import Arith, Product

_ROOM: Final = 60
_WORK: Final = 27
"""Bits behind the point of numbers about one, while they are made better."""
_NARROW: Final = 20
"""Bits behind the point of scaled numbers."""
_LINE: Final = 12
"""Bits behind the point of slopes."""
_FACTOR: Final = 5
_ENOUGH: Final = 2.0**-19
_INVERSE: Final = 2 * _WORK + _FACTOR
_WIDEST: Final = 20


class Scaled:
    """Numbers x = m 2^e, with m in [1, 2^octaves].

    Args:
        x: in [least, bound].
        least: public, at least 2^-f.
        octaves: of m; the exponents e are so many apart.
        even: the least exponent is even.
        behind: at most so many bits behind the point of m.

    Attributes:
        m: integers, m times 2^behind.
        low: the least exponent.
        steps: how many more exponents there are.

    Raises:
        ConfigError: ``least`` is not within (0, bound], or below what the fixed-point numbers tell from zero,
            or the bound is too large.
    """

    def __init__(
        self, x: Fixed, least: float, octaves: int, *, even: bool = False, behind: int = _NARROW
    ) -> None:
        self.engine, self.octaves, self.shape = x.engine, octaves, x.shape
        self.low = lowest(x, least)
        if even:
            self.low -= self.low % 2
        self.steps = thresholds(self.low, x.bound, octaves)
        ends = [2.0 ** (self.low + octaves * at) for at in range(1, self.steps + 1)]
        self.bits = at_least(x, ends) if ends else None
        top = self.low + octaves * self.steps
        if x.engine.fraction + top + octaves > HEADROOM:
            raise ConfigError(
                f"values within {x.bound:.3g} are too large to be scaled", remedy="declare a tighter range"
            )
        # all numbers are shifted up into the highest octaves: m has f + top bits behind the point
        drop = x.engine.fraction + top - behind
        shifts = [1 << octaves * (self.steps - at) for at in range(self.steps + 1)]
        if self.bits is None:
            shifted = x.engine.truncate(x.share, max(drop, 0))
        else:
            shifted = x.engine.multiply(x.share, weighted(x.engine, self.bits, shifts, x.shape), max(drop, 0))
        self.m = shifted.scaled(1 << max(-drop, 0))

    def powers(self, of: Fraction) -> tuple[Arith, int]:
        """Return the integers 2^(e of + b) and b, the least that makes them whole; so is e times ``of``."""
        exponents = [int((self.low + self.octaves * at) * of) for at in range(self.steps + 1)]
        behind = -min(exponents)
        values = [1 << (exponent + behind) for exponent in exponents]
        return weighted(self.engine, self.bits, values, self.shape), behind

    def exponents(self, unit: float) -> Arith:
        """Return the integers round(e unit)."""
        values = [round((self.low + self.octaves * at) * unit) for at in range(self.steps + 1)]
        return weighted(self.engine, self.bits, values, self.shape)


def lowest(x: Fixed, least: float) -> int:
    """Return the exponent of the power of two at or below ``least``.

    Raises:
        ConfigError: ``least`` is not within (0, bound], or below what the fixed-point numbers tell from zero.
    """
    ulp = 2.0**-x.engine.fraction
    if not ulp <= least <= x.bound:
        raise ConfigError(
            f"the least value, {least:.3g}, is not between {ulp:.3g} and the largest, {x.bound:.3g}",
            remedy="declare what the values are at least, and at most",
        )
    return math.frexp(least)[1] - 1


def thresholds(low: int, bound: float, octaves: int) -> int:
    """Return how many powers 2^(low + octaves), 2^(low + 2 octaves), ... are below a bound."""
    return next(at for at in count() if 2.0 ** (low + octaves * (at + 1)) >= bound)


# -- reciprocals


class Plan(NamedTuple):
    """How a reciprocal on [1, ratio] is made: from the line start - slope m, both over 2^12, by rounds.

    Attributes:
        slope: of the line.
        start: where it begins.
        factors: of each round, over 32. A round squares the error 1 - m y and brings it around zero again.
        error: that is left.
    """

    slope: int
    start: int
    factors: tuple[int, ...]
    error: float


@lru_cache(maxsize=64)
def planned(ratio: float) -> Plan:
    """Return the plan for a ratio; the line is Chebyshev's: its error has all extremes alike."""
    slope = max(round(8 / ((ratio + 1) ** 2 + 4 * ratio) * 2**_LINE), 1)
    start = round(slope * (ratio + 1))
    a, b = start / 2**_LINE, slope / 2**_LINE
    error = max(abs(1 - a + b), abs(1 - a * ratio + b * ratio**2), abs(1 - a * a / (4 * b)))
    factors = []
    while error > _ENOUGH:
        factor = round(2 / (2 - error**2) * 2**_FACTOR)
        k = factor / 2**_FACTOR
        error = max(abs(k - 1), abs(k * error**2 - (k - 1)))
        factors.append(factor)
    return Plan(slope, start, tuple(factors), error)


def reciprocal(x: Fixed, least: float) -> Fixed:
    """Return 1 / x.

    Range: [least, bound], bound / least at most 2^30. Error: relative 2^-17, absolute 2^-17. Rounds: 3 for
    each of 5 to 7 products one after another, and those of `at_least` where bound / least is large.

    Raises:
        ConfigError: the range is not as said.
    """
    scaled, inverse = _inverse(x, least)
    share = _unscaled(scaled, inverse, _INVERSE, Fraction(-1), x.engine.fraction)
    return Fixed(x.engine, share, (1 / least) * (1 + 2.0**-16) + 2.0**-16)


def divide(x: Fixed, y: Fixed, least: float) -> Fixed:
    """Return x / y for y in [least, bound]; shapes broadcast.

    Range: of `reciprocal` for y; |x| within 2^20. Error: relative 2^-17 and absolute 2^-17, and where
    bound / least is large max(|x|) bound / least^2 2^-56 besides. Cost: of `reciprocal` and a product.

    Raises:
        ConfigError: the range is not as said.
    """
    engine, fraction = x.engine, x.engine.fraction
    quotient = (x.bound / least) * (1 + 2.0**-16) + 2.0**-16
    largest = math.ceil(math.log2(max(x.bound, 1.0)))
    if largest > _WIDEST:
        raise ConfigError(
            f"values within {x.bound:.3g} are too large to be divided, {2.0**_WIDEST:.3g} is the limit",
            remedy="halve both sides as often as needed",
        )
    scaled, inverse = _inverse(y, least)
    behind = min(_WORK, _ROOM - fraction - largest)
    product = engine.times(x.share, engine.reduce(inverse, _INVERSE - behind))
    if scaled.bits is None:
        return Fixed(engine, _dropped(engine, product, behind + scaled.low), quotient)
    powers, shift = scaled.powers(Fraction(-1))
    kept = min(_ROOM - math.ceil(math.log2(max(quotient, 1.0))) - shift, fraction + behind)
    kept_product = engine.times(engine.reduce(product, fraction + behind - kept), powers)
    return Fixed(engine, _dropped(engine, kept_product, kept + shift - fraction), quotient)


def _inverse(x: Fixed, least: float) -> tuple[Scaled, Product]:
    """Return x scaled and 1 / m, unfinished, with ``_INVERSE`` bits behind the point."""
    engine = x.engine
    low = lowest(x, least)
    scaled = Scaled(x, least, _octaves(engine.link, x.size, low, math.log2(x.bound)))
    if scaled.octaves * scaled.steps > _ROOM - _WORK - 1:
        raise ConfigError(
            f"the reciprocal of values from {least:.3g} to {x.bound:.3g} has too wide a range",
            remedy="declare what the values are at least, and at most",
        )
    ratio = 2.0**scaled.octaves if scaled.steps else x.bound / 2.0**low
    plan = planned(max(ratio, 1.5))
    y, y_bits = engine.plus(scaled.m.scaled(-plan.slope), plan.start << _NARROW), _NARROW + _LINE
    error_bits = 2 * _WORK - y_bits
    error = engine.multiply(scaled.m, y, _NARROW + y_bits - error_bits)
    error = engine.plus(-error, 1 << error_bits)
    for factor in plan.factors[:-1]:
        better = engine.times(y, engine.plus(error, 1 << error_bits)).scaled(factor)
        squared = engine.times(error, error.scaled(1 << (y_bits - error_bits))).scaled(factor)
        y, error = engine.reduce_all([better, squared], _WORK + _FACTOR)
        y_bits = error_bits = _WORK
        error = engine.plus(error, (2**_FACTOR - factor) << (_WORK - _FACTOR))
    return scaled, engine.times(y, engine.plus(error, 1 << error_bits)).scaled(plan.factors[-1])


@lru_cache(maxsize=256)
def _octaves(link: Link, size: int, low: int, high: float) -> int:
    """Return how many octaves the link makes fastest; as many as there are where no scaling is best."""
    width = 20 + high
    everything = max(math.ceil(high - low), 1)

    def seconds(octaves: int) -> float:
        steps = thresholds(low, 2.0**high, octaves)
        rounds = len(planned(2.0**octaves).factors)
        sent = steps * (0.55 * width + 32) + 53 * (rounds + (steps > 0))
        return link.seconds(3 * rounds + (18 if steps else 0), math.ceil(sent * size / 3))

    return min({min(octaves, everything) for octaves in range(2, 7)}, key=seconds)


# -- roots


def rsqrt(x: Fixed, least: float) -> Fixed:
    """Return 1 / sqrt(x).

    Range: [least, bound]; below ``least``, zero included, up to 3 / sqrt(least). Error: relative 2^-17,
    absolute 2^-17. Rounds: those of `at_least`, a threshold every two octaves, and 3 for each of 7 products.

    Raises:
        ConfigError: ``least`` is not within the bound, or below 2^-f.
    """
    return Fixed(x.engine, _root(x, least, inverse=True), (1 + 2.0**-16) / math.sqrt(least) + 2.0**-16)


def sqrt(x: Fixed, least: float = 2.0**-12) -> Fixed:
    """Return the square root.

    Range: [0, bound]. Error: relative 2^-17 and absolute 2^-17 from ``least`` on, absolute sqrt(least) / 8
    below. Cost: of `rsqrt`.

    Raises:
        ConfigError: ``least`` is not within the bound, or below 2^-f.
    """
    return Fixed(x.engine, _root(x, least, inverse=False), math.sqrt(x.bound) * (1 + 2.0**-16) + 2.0**-16)


_SLOPE, _START, _SLOPE_BITS = 39, 1.0643, 8
"""Of the line near 1 / sqrt(m) on [1, 4]."""
_SERIES = (0.49992941, 0.37483, 0.32190377, 0.28559974)
"""Of e, e^2, ... in 1 / sqrt(1 - e) - 1, within 3e-6 for |e| < 0.1725."""
_ROOT: Final = 24
_SERIES_BITS: Final = 11


def _root(x: Fixed, least: float, *, inverse: bool) -> Arith:
    engine = x.engine
    scaled = Scaled(x, least, 2, even=True)
    y_bits = _NARROW + _SLOPE_BITS
    y = engine.plus(scaled.m.scaled(-_SLOPE), round(_START * 2**y_bits))
    root_bits = y_bits + 2
    root = engine.multiply(scaled.m, y, _NARROW + y_bits - root_bits)
    error = engine.plus(-engine.multiply(root, y, root_bits + y_bits - _ROOT), 1 << _ROOT)
    squared = engine.multiply(error, error, _ROOT)
    whole = [round(c * 2**_SERIES_BITS) for c in _SERIES]
    fine = [round(c * 2 ** (_SERIES_BITS + _ROOT)) for c in _SERIES]
    higher = engine.times(squared, error.scaled(whole[2]) + squared.scaled(whole[3]))
    lower = engine.unfinished(error.scaled(fine[0]) + squared.scaled(fine[1]))
    series = engine.reduce(higher + lower, _SERIES_BITS + 2 * _ROOT - _ROOT)
    lead, behind = (y, y_bits) if inverse else (root, root_bits)
    better = engine.times(lead, engine.plus(series, 1 << _ROOT))
    return _unscaled(scaled, better, behind + _ROOT, Fraction(-1 if inverse else 1, 2), engine.fraction)


def _unscaled(scaled: Scaled, y: Product, behind: int, of: Fraction, fraction: int) -> Arith:
    """Return y 2^(e of) with other bits behind the point."""
    if scaled.bits is None:
        return _dropped(scaled.engine, y, behind - int(scaled.low * of) - fraction)
    powers, shift = scaled.powers(of)
    better = scaled.engine.reduce(y, behind - _WORK)
    return _dropped(scaled.engine, scaled.engine.times(better, powers), _WORK + shift - fraction)


def _dropped(engine: Engine, product: Product, drop: int) -> Arith:
    if drop > _ROOM:
        raise ConfigError(
            "results are too small to be told from zero", remedy="scale what enters it by a power of two"
        )
    return engine.reduce(product, max(drop, 0)).scaled(1 << max(-drop, 0))
