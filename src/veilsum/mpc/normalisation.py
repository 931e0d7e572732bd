"""Normalisation over a batch or a row, forward and backward."""

import math
from typing import Any

import numpy as np

from veilsum.learn import graph as g
from veilsum.mpc import quotients
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.gradients import Gradient, Pass, Pending, finish, limit, summed, times
from veilsum.mpc.shares import Product


def _normalised(p: Pass, x: Fixed, axes: tuple[int, ...], eps: float) -> tuple[Fixed, Fixed, Fixed, Fixed]:
    """Return mean, variance, 1/deviation, and x normalised by them."""
    mean = x.mean(axes, keep=True)
    centred = (x - mean).within(2 * x.bound)
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    total = _sum_of_squares(centred, axes).reshape(*mean.shape)
    variance = (total * (1.0 / count)).within(x.bound * x.bound)
    inverse = _deviation(variance, eps)
    return mean, variance, inverse, (centred * inverse).within(p.ranges.activations)


def _deviation(variance: Fixed, eps: float) -> Fixed:
    """Return 1 / sqrt(variance + eps); an eps that fixed point cannot hold is one in the last bit."""
    least = max(eps, 2.0**-variance.engine.fraction)
    return quotients.rsqrt(variance + least, least=least)


def _sum_of_squares(x: Fixed, axes: tuple[int, ...]) -> Fixed:
    """Return the sums over axes, which go; squares are summed before they are reduced, as far as they fit."""
    squares = times(x, x)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    shape = tuple(x.shape[a] for a in rest)
    flat = squares.product.permuted(*rest, *axes).reshape(*shape, -1)
    size = max(1, math.floor(limit(x.engine) / squares.bound)) if squares.bound else flat.shape[-1]
    sums = [flat[..., at : at + size].sum(-1, keep=True) for at in range(0, flat.shape[-1], size)]
    together = Pending(Product.joined(sums, axis=-1), squares.bound * min(size, flat.shape[-1]))
    return finish(together, x.engine).sum(x.ndim - len(axes))


def _normalised_back(p: Pass, grad: Fixed, inverse: Fixed, hat: Fixed, axes: tuple[int, ...]) -> Pending:
    """Return the gradient by x of what `_normalised` made of it, given that by the normalised x."""
    count = int(np.prod([hat.shape[a] for a in axes], dtype=np.int64))
    along = times(grad, hat)
    inner = Pending(along.product.sum(axes, keep=True), along.bound * count)
    mean_along = (finish(inner, p.engine) * (1.0 / count)).within(grad.bound * hat.bound)
    rest = grad - grad.mean(axes, keep=True) - (hat * mean_along)
    return times(rest.within(p.ranges.gradients), inverse)


def batch_norm(
    p: Pass, op: g.BatchNorm, x: Fixed, scale: Fixed, shift: Fixed, mean: Fixed, variance: Fixed
) -> Any:
    """Normalise by channel: with the batch's own moments in training, with the running ones in inference."""
    along = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if not p.training:
        inverse = _deviation(variance, op.eps)
        factor = (scale * inverse).within(p.ranges.activations)
        return (x - mean.reshape(*along)) * factor.reshape(*along) + shift.reshape(*along), None
    axes = tuple(a for a in range(x.ndim) if a != 1)
    count = x.size // x.shape[1]
    batch_mean, batch_variance, inverse, hat = _normalised(p, x, axes, op.eps)
    unbiased = batch_variance * (count / max(count - 1, 1))
    old = Fixed.joined([mean, variance])
    new = Fixed.joined([batch_mean.reshape(-1), unbiased.reshape(-1)])
    moved = old + (new - old) * op.momentum
    kept = (moved[: x.shape[1]].within(p.ranges.activations), moved[x.shape[1] :].within(variance.bound))
    y = hat * scale.reshape(*along) + shift.reshape(*along)
    return y, (inverse, hat, axes, along, kept)


def batch_norm_back(
    p: Pass, op: g.BatchNorm, memory: Any, grad: Fixed, x: Fixed, scale: Fixed, *_: Any
) -> list[Gradient]:
    """Return the gradients by x, scale and shift; running moments have none."""
    inverse, hat, axes, along, _kept = memory
    by_scale = summed(times(grad, hat), along)
    assert isinstance(by_scale, Pending)
    by_shift = summed(grad, along)
    assert isinstance(by_shift, Fixed)
    inner = grad * scale.reshape(*along)
    by_x = _normalised_back(p, inner.within(p.ranges.gradients), inverse, hat, axes)
    flat = Pending(by_scale.product.reshape(-1), by_scale.bound)
    return [by_x, flat, by_shift.reshape(-1), None, None]


def layer_norm(p: Pass, op: g.LayerNorm, x: Fixed, scale: Fixed, shift: Fixed) -> Any:
    """Normalise every row over its last axes."""
    axes = tuple(range(x.ndim - op.axes, x.ndim))
    _, _, inverse, hat = _normalised(p, x, axes, op.eps)
    return hat * scale + shift, (inverse, hat, axes)


def layer_norm_back(
    p: Pass, op: g.LayerNorm, memory: Any, grad: Fixed, x: Fixed, scale: Fixed, shift: Fixed
) -> list[Gradient]:
    """Return the gradients by x, scale and shift."""
    inverse, hat, axes = memory
    by_scale = summed(times(grad, hat), scale.shape)
    by_shift = summed(grad, shift.shape)
    inner = (grad * scale).within(p.ranges.gradients)
    return [_normalised_back(p, inner, inverse, hat, axes), by_scale, by_shift]
