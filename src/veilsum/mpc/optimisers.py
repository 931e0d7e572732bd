"""How weights follow gradients, on shares: SGD with momentum and Adam, clipping, schedules of the rate.

All trainable weights are one flat vector, so that a step takes the rounds of one number.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc import compare, quotients
from veilsum.mpc.engine import HEADROOM, Engine
from veilsum.mpc.fixed import Fixed, choose, public
from veilsum.mpc.gradients import Gradient, Pending
from veilsum.mpc.shares import Product

State = dict[str, Fixed]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Terms = Sequence[tuple[float, Fixed | Pending]]
_SCALE = 64.0
_LEAST_BITS, _MOST_BITS = 4, 24
_LEAST_FACTOR = 64
"""A rate is right within 1 %."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rate of an epoch, as a factor of the optimiser's.

    Attributes:
        kind: ``constant``; ``step``, times ``factor`` after every ``every`` epochs; ``cosine``, to zero.
        every: epochs between two changes (``step``).
        factor: of each change (``step``).
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    every: Annotated[int, msgspec.Meta(ge=1)] = 10
    factor: NotNegative = 0.5

    def at(self, epoch: int, epochs: int) -> float:
        """Return the factor in an epoch (from 0)."""
        if self.kind == "step":
            return float(self.factor ** (epoch // self.every))
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return 1.0


class Sgd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sgd", tag_field="kind"):
    """Stochastic gradient descent: v = momentum v + gradient + decay w, then w = w - rate v.

    Attributes:
        rate: of learning.
        momentum: the part of the last step that goes on.
        decay: of weights, in every step.
        clip: the largest Euclidean norm of the gradient of a batch; 0 for none.
    """

    rate: Positive = 0.1
    momentum: Share = 0.0
    decay: NotNegative = 0.0
    clip: NotNegative = 0.0

    def begin(self, weights: Fixed) -> State:
        """Return the state before the first step."""
        return {"velocity": _zeros(weights)} if self.momentum else {}

    def step(
        self, weights: Fixed, state: State, gradient: Pending, batch: int, rate: float, steps: int
    ) -> Fixed:
        """Return the next weights; ``state`` is moved in place.

        Args:
            weights: flat.
            state: of earlier steps.
            gradient: flat, summed over the batch.
            batch: its rows.
            rate: factor of the schedule.
            steps: number of this step, from 1.
        """
        del steps
        engine, share = weights.engine, 1 / batch
        if self.clip:
            gradient, share = clipped(engine, gradient, batch, self.clip), 1.0
        rate = self.rate * rate
        if not self.momentum:
            terms: Terms = [(1 - rate * self.decay, weights), (-rate * share, gradient)]
            return blend(engine, terms, weights.bound)
        terms = [(self.momentum, state["velocity"]), (share, gradient), (self.decay, weights)]
        state["velocity"] = blend(engine, terms if self.decay else terms[:2], weights.bound)
        return blend(engine, [(1.0, weights), (-rate, state["velocity"])], weights.bound)


class Adam(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adam", tag_field="kind"
):
    """Adam (Kingma and Ba, 2015) in fixed point: moments are kept of 64 times the gradient.

    Attributes:
        rate: of learning.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        largest: what no entry of a batch's mean gradient exceeds; a promise.
        eps: added to the root of the second moment; below 1e-4 it is not resolved.
        clip: the largest Euclidean norm of the gradient of a batch; 0 for none.
    """

    rate: Positive = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: NotNegative = 1e-4
    largest: Positive = 4.0
    clip: NotNegative = 0.0

    def begin(self, weights: Fixed) -> State:
        """Return the state before the first step."""
        return {"first": _zeros(weights), "second": _zeros(weights)}

    def step(
        self, weights: Fixed, state: State, gradient: Pending, batch: int, rate: float, steps: int
    ) -> Fixed:
        """Return the next weights; arguments as for `Sgd.step`."""
        engine, share = weights.engine, 1 / batch
        if self.clip:
            gradient, share = clipped(engine, gradient, batch, self.clip), 1.0
        largest = _SCALE * self.largest
        grown = blend(engine, [(_SCALE * share, gradient)], largest)
        # reduced before they are weighted: a product leaves too few bits for so small a factor
        squares = grown * grown
        first = blend(
            engine, [(self.beta1, state["first"].within(largest)), (1 - self.beta1, grown)], largest
        )
        old = state["second"]
        second = blend(engine, [(self.beta2, old), (1 - self.beta2, squares)], largest**2)
        state["first"], state["second"] = first, second
        corrected = math.sqrt(1 - self.beta2**steps) / (1 - self.beta1**steps)
        least = max((self.eps * _SCALE) ** 2, 2.0**-14)
        inverse = quotients.rsqrt(second + least, least=least)
        # by Cauchy and Schwarz the ratio of the moments stays below (1 - beta1) / sqrt(1 - beta2)
        move = Pending(engine.times(first.share, inverse.share), 16.0)
        return blend(engine, [(1.0, weights), (-self.rate * rate * corrected, move)], weights.bound)


Optimiser = Sgd | Adam


def blend(engine: Engine, terms: Terms, bound: float) -> Fixed:
    """Return a sum of numbers and products times public factors, divided once.

    Args:
        engine: of all of them.
        terms: (factor, number or product).
        bound: a promise about the result.

    Raises:
        ConfigError: the ranges leave no bits for the factors.
    """
    f = engine.fraction
    most = sum(abs(factor) * x.bound for factor, x in terms) or 1.0
    extra = min(_MOST_BITS, math.floor(HEADROOM - 2 * f - math.log2(most)))
    if extra < _LEAST_BITS:
        raise ConfigError(
            f"gradients that may reach {most:.3g} leave no bits for the rate",
            remedy="declare tighter ranges, or lower the rate",
        )
    terms = [_precise(engine, factor, x, extra) for factor, x in terms]
    products = [
        engine.unfinished(x.share).scaled(round(factor * 2.0 ** (f + extra)))
        if isinstance(x, Fixed)
        else x.product.scaled(round(factor * 2.0**extra))
        for factor, x in terms
    ]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return Fixed(engine, engine.reduce(total, f + extra), bound)


def _precise(engine: Engine, factor: float, x: Fixed | Pending, extra: int) -> tuple[float, Fixed | Pending]:
    """Divide a product first whose factor would be rounded to a few units, and keep its lowest bits."""
    if isinstance(x, Fixed) or not factor or abs(factor) * 2.0**extra >= _LEAST_FACTOR:
        return factor, x
    room = HEADROOM - 2 * engine.fraction - _LEAST_BITS - math.log2(abs(factor) * x.bound or 1.0)
    lift = max(0, min(math.floor(-math.log2(abs(factor))), math.floor(room), _MOST_BITS))
    lifted = factor * 2.0**lift
    return 2.0**-lift, blend(engine, [(lifted, x)], abs(lifted) * x.bound)


def clipped(engine: Engine, gradient: Pending, batch: int, norm: float) -> Pending:
    """Return the mean gradient, shortened to a Euclidean norm where it is longer."""
    entry = gradient.bound / batch
    mean = blend(engine, [(1 / batch, gradient)], entry)
    # the sum of squares is of the ring; only its promise keeps it within range
    limit = 2.0 ** (HEADROOM - 2 * engine.fraction)
    squares = engine.times(mean.share, mean.share).sum(0).reshape(1)
    total = Fixed(engine, engine.reduce(squares, engine.fraction), min(entry**2 * mean.size, limit))
    longer = compare.positive(total - norm**2)
    # what is not longer needs no factor, so that nothing below the norm is asked for
    least = max(min(norm**2 / 2, total.bound), 2.0**-engine.fraction)
    inverse = quotients.rsqrt(total, least=least)
    one = public(engine, np.ones(1))
    factor = choose(longer, (inverse * norm).within(1.0), one)
    return Pending(engine.times(mean.share, factor.share), entry)


def flat(engine: Engine, gradients: Sequence[Gradient]) -> Pending:
    """Return gradients end to end, unfinished."""
    products, bound = [], 0.0
    for one in gradients:
        if isinstance(one, Pending):
            products.append(one.product.reshape(-1))
        else:
            assert one is not None
            products.append(engine.unfinished(one.share).scaled(1 << engine.fraction).reshape(-1))
        bound = max(bound, one.bound)
    return Pending(Product.joined(products), bound)


def _zeros(weights: Fixed) -> Fixed:
    return Fixed(weights.engine, weights.engine.constant(np.zeros(weights.shape, np.uint64)), weights.bound)
