"""Exponentials, logarithms, and the activations made of them.

| function | range | error |
|---|---|---|
| exp | x <= 16 | relative 1e-4, absolute 1e-5 |
| log | [least, bound] | 1e-4 |
| sigmoid | any | 3e-4 |
| tanh | any | 5e-4 |
| gelu | within 2^20 | 1e-3 |
| silu | within 2^20 | 1e-3 |
| softmax | within half of what fits, to 2^12 numbers | 5e-4 |
| log_softmax | the same | 5e-4 |
"""

import math
from typing import Final, NamedTuple

import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc.compare import max_along, maximum
from veilsum.mpc.fixed import Fixed, public
from veilsum.mpc.piecewise import evaluate, mirrored
from veilsum.mpc.quotients import Scaled, reciprocal
from veilsum.mpc.shares import Arith

# -- exponentials


class Quartic(NamedTuple):
    """K e^u = (u^2 + slope u + first)(u^2 + second) + shift on an interval, with K = sqrt(2^18 / factor).

    Attributes:
        reach: from zero to the interval's end, in magnitude.
        error: relative.
    """

    reach: float
    slope: float
    first: float
    second: float
    shift: float
    factor: int
    error: float


_FALLING = (
    Quartic(0.78125, 5.625, 11.40643035, 6.34025575, -36.64705879, 206, 5.3e-6),
    Quartic(0.5, 5.015625, 9.24336410, 6.14426766, -25.97494211, 276, 5.8e-7),
)
"""On [-reach, 0], with errors alike at all extremes."""
_AROUND = (
    Quartic(0.390625, 4.078125, 6.17982096, 5.94453654, -12.49232918, 446, 5.2e-6),
    Quartic(0.25, 4.015625, 6.02418798, 5.97732845, -12.00561805, 455, 5.9e-7),
)
"""On [-reach, reach]."""
_SQUARE, _LINE, _VALUE, _FACTOR = 22, 32, 20, 18
"""Bits behind the point of u^2, of u^2 + slope u + first, of K e^u, and of 1 / K^2."""
_FINE: Final = 28
_ROOM: Final = 60
_NOTHING: Final = 12.5
"""exp(-12.5) is one in the last of 18 bits."""
_MOST: Final = 16.0


def exp(x: Fixed, most: float | None = None) -> Fixed:
    """Return e^x: a polynomial of x / 2^k, squared k times.

    Range: x <= ``most``, which is at most 16; any x below. Error: relative 1e-4, absolute 1e-5. Rounds: 3 for
    each of k + 2 products, k about 4; and of a `maximum` with a public number where x may be far below zero.

    Args:
        x: the exponents.
        most: promised to be the largest (None: the bound).

    Raises:
        ConfigError: results could exceed e^16.
    """
    most = x.bound if most is None else min(most, x.bound)
    if most > _MOST:
        raise ConfigError(
            f"exp of values up to {most:.3g} exceeds the range, exp({_MOST:g})",
            remedy="declare a tighter range, or say what the values are at most",
        )
    share = _raised(x, most, max(_NOTHING, most), x.engine.fraction)
    return Fixed(x.engine, share, math.exp(max(most, 0.0)) * (1 + 2.0**-12) + 2.0**-16)


def _raised(x: Fixed, most: float, deepest: float, fraction: int) -> Arith:
    """Return e^x for x <= most with so many bits behind the point; below -deepest, that of -deepest."""
    engine = x.engine
    if x.bound > 2 * deepest:
        floor = public(engine, np.full((), -deepest)).spread(x.shape)
        x = maximum(x, floor).within(deepest)
    fits = _AROUND if most > 0 else _FALLING
    fit = fits[0] if x.bound <= 16 * fits[0].reach else fits[1]
    halvings = max(math.ceil(math.log2(max(x.bound, 2.0**-18) / fit.reach)), 1)
    return _squarings(x, _quartic(x, fit, halvings), fit, halvings, max(most, 0.0), fraction)


def _quartic(x: Fixed, fit: Quartic, halvings: int) -> Arith:
    """Return K e^u for u = x / 2^halvings."""
    engine, behind = x.engine, x.engine.fraction + halvings
    square = engine.multiply(x.share, x.share, 2 * behind - _SQUARE)
    line = square.scaled(1 << (_LINE - _SQUARE)) + x.share.scaled(round(fit.slope * 2.0 ** (_LINE - behind)))
    first = engine.plus(line, round(fit.first * 2**_LINE))
    second = engine.plus(square, round(fit.second * 2**_SQUARE))
    quartic = engine.multiply(first, second, _LINE + _SQUARE - _VALUE)
    return engine.plus(quartic, round(fit.shift * 2**_VALUE))


def _squarings(x: Fixed, value: Arith, fit: Quartic, halvings: int, most: float, fraction: int) -> Arith:
    """Return (value / K)^(2^halvings); the bits behind the point fall as the numbers may grow."""
    engine, behind, factor = x.engine, _VALUE, fit.factor
    scale = 2 * _VALUE + _FACTOR
    for left in reversed(range(halvings)):
        # e^(most / 2^left) and then its square must fit
        after = min(_FINE, _ROOM // 2 - math.ceil(most / 2**left * math.log2(math.e)))
        after = after if left else fraction
        product = engine.times(value, value).scaled(factor)
        value = engine.reduce(product, scale - after)
        behind, factor = after, 1
        scale = 2 * behind
    return value


_LOG: Final = (
    0.916325781,
    0.799762316,
    -0.321903684,
    0.175062086,
    -0.0867002198,
    0.0434705721,
    -0.0822206237,
    0.0685877252,
)
"""log(2 z + 2.5) for |z| <= 0.75, within 4.2e-5."""
_LOG_BITS: Final = 20
_LOG_COEFFICIENT: Final = 18


def log(x: Fixed, least: float) -> Fixed:
    """Return the natural logarithm.

    Range: [least, bound]; below ``least`` a finite number. Error: 1e-4. Rounds: of `at_least` for a threshold
    every two octaves, and 3 for each of 4 products one after another.

    Raises:
        ConfigError: ``least`` is not within the bound, or below 2^-f.
    """
    engine = x.engine
    scaled = Scaled(x, least, 2, behind=_LOG_BITS - 1)
    z = engine.plus(scaled.m, -round(2.5 * 2 ** (_LOG_BITS - 1)))
    second = engine.multiply(z, z, _LOG_BITS)
    third, fourth = engine.reduce_all([engine.times(z, second), engine.times(second, second)], _LOG_BITS)
    powers = (z, second, third)
    high = _combined(powers, _LOG[5:], _LOG_COEFFICIENT)
    high = engine.plus(high, round(_LOG[4] * 2 ** (_LOG_BITS + _LOG_COEFFICIENT)))
    low = _combined(powers, _LOG[1:4], _LOG_BITS + _LOG_COEFFICIENT)
    drop = 2 * _LOG_BITS + _LOG_COEFFICIENT - engine.fraction
    share = engine.reduce(engine.times(high, fourth) + engine.unfinished(low), drop)
    share = engine.plus(share, round(_LOG[0] * 2**engine.fraction))
    share += scaled.exponents(math.log(2) * 2**engine.fraction)
    return Fixed(engine, share, max(abs(math.log(x.bound)), abs(math.log(least))) + 2.0**-12)


def _combined(powers: tuple[Arith, ...], coefficients: tuple[float, ...], bits: int) -> Arith:
    terms = [power.scaled(round(c * 2**bits)) for power, c in zip(powers, coefficients, strict=True)]
    return terms[0] + terms[1] + terms[2]


# -- activations

_SIGMOID: Final = mirrored(
    3,
    (2.0, 9.0),
    (0.0, 1.99432122, 0.0, -9.85514175, 0.0, 37.2694676),
    (-0.06124881, 3.07438059, -6.948267, 7.99857098, -4.6447789, 1.08098344),
    (0.5,),
    (0.5,),
    2.0e-4,
    (-2.5e-4, 1 + 2.5e-4),
)
_GELU: Final = mirrored(
    2,
    (1.25, 3.6),
    (0.0008296708, 0.0, 6.22031573, 0.0, -12.1817653),
    (-0.279539336, 2.15663859, 1.88059177, -3.29835903, 1.5545268),
    (0.0, 2.0),
    (0.0, 2.0),
    8.4e-4,
    (-0.171, math.inf),
)
_SILU: Final = mirrored(
    3,
    (2.5, 9.5),
    (0.000704850577, 0.0, 15.7357999, 0.0, -69.390421, 0.0, 199.086815),
    (-0.377605928, 3.5667849, 7.26438714, -17.8772536, 19.8123804, -10.6526754, 2.26149327),
    (0.0, 4.0),
    (0.0, 4.0),
    7.2e-4,
    (-0.28, math.inf),
)


def sigmoid(x: Fixed) -> Fixed:
    """Return 1 / (1 + e^-x).

    Range: any; from 9 on it is exactly 0 or 1. Error: 3e-4. Rounds: of one `at_least`, and 3 for each of 4
    products.
    """
    return evaluate(x, _SIGMOID)


def tanh(x: Fixed) -> Fixed:
    """Return the hyperbolic tangent, 2 sigmoid(2 x) - 1.

    Range: half of what fits; from 4.5 on it is exactly -1 or 1. Error: 5e-4. Cost: of `sigmoid`.
    """
    return (sigmoid(x * 2.0) * 2.0 - 1.0).within(1 + 5e-4)


def gelu(x: Fixed) -> Fixed:
    """Return x times the standard normal distribution function of x.

    Range: within 2^20; from 3.6 on it is exactly 0 or x. Error: 1e-3. Rounds: of one `at_least`, and 3 for
    each of 3 products.

    Raises:
        ConfigError: the bound is larger.
    """
    return evaluate(x, _GELU).within(max(x.bound, 0.17) + 1e-3)


def silu(x: Fixed) -> Fixed:
    """Return x sigmoid(x).

    Range: within 2^20; from 9.5 on it is exactly 0 or x. Error: 1e-3. Rounds: of one `at_least`, and 3 for
    each of 4 products.

    Raises:
        ConfigError: the bound is larger.
    """
    return evaluate(x, _SILU).within(max(x.bound, 0.28) + 1e-3)


# -- along an axis


def softmax(x: Fixed, axis: int = -1) -> Fixed:
    """Return e^x over its sum along an axis.

    Range: within half of what fits, an axis of at most 2^12. Error: 5e-4. Cost: `max_along`, `exp`, a
    `reciprocal` for each sum, a product.

    Raises:
        ConfigError: the axis is longer.
    """
    powers, total = _powers(_below_maximum(x, axis), axis)
    inverse = reciprocal(total, least=_LEAST_TOTAL)
    share = x.engine.multiply(powers, inverse.share, _POWER)
    return Fixed(x.engine, share, 1 + 2.0**-10)


def log_softmax(x: Fixed, axis: int = -1) -> Fixed:
    """Return the logarithm of `softmax`: x less the maximum and less the logarithm of the sum.

    Range: within half of what fits, an axis of at most 2^12. Error: 5e-4. Cost: `max_along`, `exp`, a `log`
    for each sum.

    Raises:
        ConfigError: the axis is longer.
    """
    below = _below_maximum(x, axis)
    return below - log(_powers(below, axis)[1], least=_LEAST_TOTAL)


_LONGEST: Final = 1 << 12
_LEAST_TOTAL: Final = 1 - 2.0**-10
_POWER: Final = 24
_DEEPEST: Final = 16.0


def _below_maximum(x: Fixed, axis: int) -> Fixed:
    if not 1 <= x.shape[axis] <= _LONGEST:
        raise ConfigError(
            f"softmax along {x.shape[axis]} numbers is not within 1 to {_LONGEST}",
            remedy="take a shorter axis",
        )
    highest = max_along(x, axis)
    shape = list(x.shape)
    shape[axis] = 1
    return x - highest.reshape(*shape)


def _powers(below: Fixed, axis: int) -> tuple[Arith, Fixed]:
    """Return e^x for x <= 0, with ``_POWER`` bits behind the point, and the sums.

    So many bits, and a floor so low, that a long axis of next to nothing adds up to next to nothing.
    """
    engine = below.engine
    powers = _raised(below, 0.0, _DEEPEST, _POWER)
    total = engine.truncate(powers.sum(axis, keep=True), _POWER - engine.fraction)
    return powers, Fixed(engine, total, below.shape[axis] * (1 + 2.0**-12))
