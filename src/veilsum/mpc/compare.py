"""Comparisons and what follows from them: selection, ReLU, maxima, the place of a maximum.

A comparison looks at the sign bit of a difference, over no more bits than the declared bounds need; all
comparisons of a level go out together. Results are exact: no rounding happens here.
"""

from collections.abc import Sequence

import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc.engine import Engine
from veilsum.mpc.fixed import Fixed, choose
from veilsum.mpc.packing import as_planes, as_rows
from veilsum.mpc.shares import Arith, Bits


def positive(x: Fixed) -> Bits:
    """Return whether x >= 0. Any range; exact; the rounds of one `Engine.msb`."""
    return x.engine.flip(negative(x))


def negative(x: Fixed) -> Bits:
    """Return whether x < 0. Any range; exact; the rounds of one `Engine.msb`."""
    return x.engine.msb(x.share, x.width)


def less(x: Fixed, y: Fixed) -> Bits:
    """Return whether x < y; shapes broadcast. The bounds' sum must fit; exact; one `Engine.msb`."""
    return negative(x - y)


def equal(x: Fixed, y: Fixed) -> Bits:
    """Return whether x = y; shapes broadcast. The bounds' sum must fit; exact; an `Engine.msb` of both.

    Of a difference and its negation one is below zero, unless they are zero.
    """
    difference = x - y
    both = Fixed.joined(
        [difference.reshape(1, *difference.shape), (-difference).reshape(1, *difference.shape)]
    )
    signs = as_planes(negative(both))
    return x.engine.flip(signs[0] ^ signs[1])


def at_least(x: Fixed, thresholds: Sequence[float]) -> Arith:
    """Return for every public threshold whether x has reached it, as integers 0 and 1.

    Exact against the threshold rounded to the fixed-point grid. One `Engine.msb` and one `Engine.compose` of
    all thresholds together.

    Returns:
        thresholds first, then the axes of x.
    """
    engine = x.engine
    public = np.asarray(thresholds, np.float64).reshape(-1, *(1,) * x.ndim)
    return engine.compose(positive(x.spread((len(thresholds), *x.shape)) - public))


# -- selection


def relu(x: Fixed) -> Fixed:
    """Return max(x, 0). Any range; exact; one `Engine.msb` and one `Engine.select`."""
    return relu_with_sign(x)[0]


def relu_with_sign(x: Fixed) -> tuple[Fixed, Bits]:
    """Return max(x, 0) and whether x >= 0, by which gradients are selected on the way back."""
    sign = positive(x)
    return choose(sign, x), sign


def absolute(x: Fixed) -> Fixed:
    """Return the magnitude. Any range; exact; one `Engine.msb` and one `Engine.select`."""
    return choose(negative(x), -x, x)


def maximum(x: Fixed, y: Fixed) -> Fixed:
    """Return the larger of two, elementwise, of one shape. The bounds' sum must fit; exact."""
    return choose(less(x, y), y, x)


def minimum(x: Fixed, y: Fixed) -> Fixed:
    """Return the smaller of two, elementwise, of one shape. The bounds' sum must fit; exact."""
    return choose(less(x, y), x, y)


# -- along an axis


class Choice:
    """Where the maxima along an axis stand: shared, one place for each maximum, also where values are equal.

    Attributes:
        axis: of the numbers that were compared.
    """

    def __init__(self, engine: Engine, axis: int, count: int, levels: list[Bits]) -> None:
        self.engine, self.axis, self.count = engine, axis, count
        self._levels = levels
        """Of each level of the tournament, one plane a pair: whether the second is larger."""

    def places(self) -> Bits:
        """Return a plane for every place along the axis, of which one is set; a conjunction a level."""
        reached: Bits | None = None
        for beaten in reversed(self._levels):
            pairs = beaten.planes
            if reached is None:
                reached = _stacked(self.engine.flip(beaten), beaten)
                continue
            second = self.engine.conjunction(reached[:pairs], beaten)
            reached = _stacked(reached[:pairs] ^ second, second, reached[pairs:])
        assert reached is not None  # there are two numbers at least
        return reached

    def route(self, gradient: Fixed) -> Fixed:
        """Send what belongs to the maxima to their places, zero elsewhere: the transpose of the choice.

        Args:
            gradient: of the shape of the maxima.

        Returns:
            of the shape of the numbers compared. Exact; the conjunctions of `places` and one `Engine.select`.
        """
        if self.count == 1:
            return gradient.reshape(*gradient.shape[: self.axis], 1, *gradient.shape[self.axis :])
        share = gradient.share
        first = as_rows(self.places()[: self.count - 1])
        chosen = self.engine.select(first, share.spread((self.count - 1, *share.shape)))
        # the last place gets what no other did
        last = share - chosen.sum(0)
        routed = Arith.joined([chosen, last.reshape(1, *share.shape)])
        return Fixed(self.engine, put_back(routed, self.axis), gradient.bound)


def max_along(x: Fixed, axis: int = -1) -> Fixed:
    """Return the maxima along an axis, by a tournament.

    Range: |x| within half of what fits. Exact. An `Engine.msb` and an `Engine.select` for each of the
    log2(count) levels, all pairs of a level together.
    """
    return _tournament(x, axis)[0]


def max_with_choice(x: Fixed, axis: int = -1) -> tuple[Fixed, Choice]:
    """Return the maxima along an axis and where they stand; range, error and cost of `max_along`."""
    highest, levels = _tournament(x, axis)
    at = axis % x.ndim
    return highest, Choice(x.engine, at, x.shape[at], [as_planes(bits) for bits in levels])


def route(choice: Choice, gradient: Fixed) -> Fixed:
    """Send gradients of maxima to where the maxima stood: `Choice.route`."""
    return choice.route(gradient)


def argmax(x: Fixed, axis: int = -1) -> Fixed:
    """Return 1 where the maximum along an axis stands and 0 elsewhere, of the shape of x.

    Range, error and cost of `max_along`, a conjunction a level and one `Engine.compose` besides.
    """
    engine, choice = x.engine, max_with_choice(x, axis)[1]
    one = 1 << engine.fraction
    if choice.count == 1:
        return Fixed(engine, engine.constant(np.full(x.shape, one, np.uint64)), 1.0)
    first = engine.compose(as_rows(choice.places()[: choice.count - 1]))
    last = engine.plus(-first.sum(0, keep=True), 1)
    return Fixed(engine, put_back(Arith.joined([first, last]).scaled(one), choice.axis), 1.0)


def argmax_index(x: Fixed, axis: int = -1) -> Arith:
    """Return the place of the maximum along an axis, as integers.

    Range, error and cost of `max_along`, a conjunction a level and one `Engine.compose` of log2(count) bits
    besides.
    """
    choice = max_with_choice(x, axis)[1]
    rest = tuple(n for at, n in enumerate(x.shape) if at != choice.axis)
    if choice.count == 1:
        return x.engine.constant(np.zeros(rest, np.uint64))
    places = choice.places()
    planes = []
    for bit in range((choice.count - 1).bit_length()):
        holding = [place for place in range(choice.count) if place >> bit & 1]
        planes.append(np.bitwise_xor.reduce(places.parts[:, holding], axis=1))
    return x.engine.compose(Bits(np.stack(planes, axis=1), rest or (1,))).reshape(*rest)


def _tournament(x: Fixed, axis: int) -> tuple[Fixed, list[Bits]]:
    engine = x.engine
    share, levels = brought_forward(x, axis), []
    if not share.shape[0]:
        raise ConfigError("nothing has no maximum", remedy="give an axis of one element at least")
    width = (x - x).width if share.shape[0] > 1 else 0
    while share.shape[0] > 1:
        half = share.shape[0] // 2
        first, second, rest = share[:half], share[half : 2 * half], share[2 * half :]
        smaller = engine.msb(first - second, width)
        larger = first + engine.select(smaller, second - first)
        levels.append(smaller)
        share = Arith.joined([larger, rest]) if rest.shape[0] else larger
    return Fixed(engine, share[0], x.bound), levels


def brought_forward(x: Fixed, axis: int) -> Arith:
    """Return the share with one axis as the first, the others in order."""
    if not x.ndim:
        raise ConfigError("a single number has no axis", remedy="give an array")
    at = axis % x.ndim
    return x.share.permuted(at, *(other for other in range(x.ndim) if other != at))


def put_back(share: Arith, axis: int) -> Arith:
    """Return the share with the first axis at another place: the inverse of `brought_forward`."""
    order = list(range(1, share.ndim))
    order.insert(axis, 0)
    return share.permuted(*order)


def _stacked(*several: Bits) -> Bits:
    return Bits(np.concatenate([bits.parts for bits in several], axis=1), several[0].shape)
