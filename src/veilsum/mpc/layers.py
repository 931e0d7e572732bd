"""What each operation of a model graph does on shares, forward and backward.

A forward rule gives its result and what the backward rule will need; a backward rule gives the gradient of
every input. Gradients that are products stay unfinished (`Pending`) until all of them meet, so that they are
reduced in the rounds of one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn.shapes import concrete
from veilsum.mpc import compare, exponential, quotients
from veilsum.mpc.engine import HEADROOM, Engine
from veilsum.mpc.fixed import Fixed, choose
from veilsum.mpc.shares import Arith, Product
from veilsum.mpc.windows import Geometry, gathered, windows

Range = Annotated[float, msgspec.Meta(gt=0, le=2.0**43)]


class Ranges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no value of a model exceeds: promises of who states the job.

    Attributes:
        inputs: features; checked at their owners before anything is shared.
        activations: results of every operation.
        weights: parameters, whenever they are read.
        gradients: of the loss of ONE row by any value.
    """

    inputs: Range = 16.0
    activations: Range = 64.0
    weights: Range = 8.0
    gradients: Range = 4.0


class OneHot(NamedTuple):
    """Whole numbers as shared rows of zeros and one one: (…, rows) of ring elements 0 and 1."""

    share: Arith

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the numbers."""
        return self.share.shape[:-1]

    def reshape(self, *shape: int) -> "OneHot":
        """Return the same numbers in another shape."""
        return OneHot(self.share.reshape(*shape, self.share.shape[-1]))

    def permuted(self, *axes: int) -> "OneHot":
        """Return the axes of the numbers in another order."""
        return OneHot(self.share.permuted(*axes, len(axes)))

    def spread(self, shape: Sequence[int]) -> "OneHot":
        """Return the numbers broadcast to a shape."""
        return OneHot(self.share.spread((*shape, self.share.shape[-1])))


class Pending(NamedTuple):
    """Products that will be numbers once they are reduced by the fraction bits."""

    product: Product
    bound: float

    def __add__(self, other: "Pending") -> "Pending":  # type: ignore[override]
        return Pending(self.product + other.product, self.bound + other.bound)


Gradient = Fixed | Pending | None
Value = Fixed | OneHot


class Pass(NamedTuple):
    """One pass of one batch through a model.

    Attributes:
        batch: rows.
        coins: public random numbers, the same at all parties, for dropout; None in inference.
        moved: buffers that training has moved, by name.
    """

    engine: Engine
    ranges: Ranges
    batch: int
    coins: np.random.Generator | None
    moved: dict[str, Fixed]

    @property
    def training(self) -> bool:
        """Whether a backward pass follows."""
        return self.coins is not None


def settle(engine: Engine, gradients: Sequence[Gradient], extra: int = 0) -> list[Fixed | None]:
    """Reduce everything pending in the rounds of one; divide it by 2^extra on the way."""
    open_ones = [one for one in gradients if isinstance(one, Pending)]
    limit, most = _limit(engine), max((one.bound for one in open_ones), default=0.0)
    if most > limit:
        raise ConfigError(
            f"a sum of products may reach {most:.3g}, beyond {limit:.3g}",
            remedy="declare tighter ranges, or take a smaller batch",
        )
    drop = engine.fraction + extra
    done = iter(engine.reduce_all([one.product for one in open_ones], drop) if open_ones else [])
    settled: list[Fixed | None] = []
    for one in gradients:
        if isinstance(one, Pending):
            settled.append(Fixed(engine, next(done), one.bound * 2.0**-extra + 2.0**-engine.fraction))
        else:
            settled.append(one)
    return settled


def _limit(engine: Engine) -> float:
    """Return what an unfinished product must not exceed."""
    return 2.0 ** (HEADROOM - 2 * engine.fraction) * (1 + 2.0**-20)  # the bounds' own roundings


def times(a: Fixed, b: Fixed) -> Pending:
    """Return an elementwise product, unfinished."""
    return Pending(a.engine.times(a.share, b.share), a.product_bound(b.bound))


def times_matrix(a: Fixed, b: Fixed) -> Pending:
    """Return a matrix product of the last two axes, unfinished."""
    return Pending(a.engine.times_matrix(a.share, b.share), a.product_bound(b.bound, a.shape[-1]))


def finish(pending: Pending, engine: Engine) -> Fixed:
    """Reduce one product."""
    (done,) = settle(engine, [pending])
    assert done is not None
    return done


def _summed(grad: Fixed | Pending, shape: tuple[int, ...]) -> Gradient:
    """Return a gradient summed over the axes along which its value was broadcast."""
    inner: Any = grad.product if isinstance(grad, Pending) else grad.share
    lead = tuple(range(inner.ndim - len(shape)))
    kept = tuple(
        at
        for at, (have, want) in enumerate(zip(inner.shape[len(lead) :], shape, strict=True))
        if have != want
    )
    count = int(np.prod([inner.shape[a] for a in lead], dtype=np.int64)) if lead else 1
    if lead:
        inner = inner.sum(lead)
    count *= int(np.prod([inner.shape[a] for a in kept], dtype=np.int64)) if kept else 1
    if kept:
        inner = inner.sum(kept, keep=True)
    if isinstance(grad, Pending):
        return Pending(inner, grad.bound * count)
    return Fixed(grad.engine, inner, grad.bound * count)


# -- products with weights


def _linear(p: Pass, op: g.Linear, x: Fixed, weight: Fixed, bias: Fixed | None = None) -> Any:
    flat = x.reshape(-1, x.shape[-1])
    y = finish(times_matrix(flat, weight.T), p.engine).reshape(*x.shape[:-1], weight.shape[0])
    return (y if bias is None else y + bias), (flat, weight, bias is not None)


def _linear_back(p: Pass, op: g.Linear, memory: Any, grad: Fixed, x: Fixed, *_: Any) -> list[Gradient]:
    flat, weight, biased = memory
    rows = grad.reshape(-1, grad.shape[-1])
    by_x = times_matrix(rows, weight)
    by_weight = times_matrix(rows.T, flat)
    shaped = Pending(by_x.product.reshape(*x.shape), by_x.bound)
    return [shaped, by_weight, *([rows.sum(0)] if biased else [])]


def _geometry(op: g.Conv, weight: Fixed) -> Geometry:
    return Geometry(weight.shape[2:], op.stride, op.padding, op.dilation)


def _columns(x: Fixed, geometry: Geometry) -> Fixed:
    """Return a row for every window: (n · windows, c · kernel)."""
    dims = len(geometry.kernel)
    view = windows(x.share, geometry)
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    inner = x.shape[1] * int(np.prod(geometry.kernel, dtype=np.int64))
    return Fixed(x.engine, view.permuted(*order).reshape(-1, inner), x.bound)


def _conv(p: Pass, op: g.Conv, x: Fixed, weight: Fixed, bias: Fixed | None = None) -> Any:
    geometry = _geometry(op, weight)
    placed = geometry.placed(x.shape[2:])
    members, outs = x.shape[1] // op.groups, weight.shape[0] // op.groups
    columns, kernels, parts = [], [], []
    for group in range(op.groups):
        columns.append(_columns(x[:, group * members : (group + 1) * members], geometry))
        kernels.append(weight[group * outs : (group + 1) * outs].reshape(outs, -1))
        parts.append(times_matrix(columns[-1], kernels[-1].T))
    done = settle(p.engine, parts)
    rows = Fixed.joined([one for one in done if one is not None], axis=1)
    if bias is not None:
        rows = rows + bias
    channels_last = rows.reshape(x.shape[0], *placed, weight.shape[0])
    dims = len(placed)
    y = channels_last.permuted(0, dims + 1, *range(1, dims + 1))
    return y, (columns, kernels, geometry, bias is not None)


def _conv_back(
    p: Pass, op: g.Conv, memory: Any, grad: Fixed, x: Fixed, weight: Fixed, *_: Any
) -> list[Gradient]:
    columns, kernels, geometry, biased = memory
    dims = len(geometry.kernel)
    placed = grad.shape[2:]
    rows = grad.permuted(0, *range(2, 2 + dims), 1).reshape(-1, grad.shape[1])
    members, outs = x.shape[1] // op.groups, weight.shape[0] // op.groups
    by_x, by_weight, bound_x, bound_w = [], [], 0.0, 0.0
    for group in range(op.groups):
        part = rows[:, group * outs : (group + 1) * outs]
        back, weights = times_matrix(part, kernels[group]), times_matrix(part.T, columns[group])
        # the sum over overlapping windows is local, so only one number an input is reduced
        shaped = back.product.reshape(x.shape[0], *placed, members, *geometry.kernel)
        order = (0, dims + 1, *range(1, dims + 1), *range(dims + 2, 2 * dims + 2))
        by_x.append(gathered(shaped.permuted(*order), geometry, x.shape[2:]))
        by_weight.append(weights.product.reshape(outs, members, *geometry.kernel))
        overlap = int(np.prod(geometry.kernel, dtype=np.int64))
        bound_x, bound_w = back.bound * overlap, weights.bound
    gradients: list[Gradient] = [
        Pending(Product.joined(by_x, axis=1), min(bound_x, p.ranges.gradients)),
        Pending(Product.joined(by_weight), bound_w),
    ]
    return [*gradients, rows.sum(0)] if biased else gradients


def _embedding(p: Pass, op: g.Embedding, index: OneHot, table: Fixed) -> Any:
    flat = index.share.reshape(-1, index.share.shape[-1])
    # zeros and ones pick rows exactly: nothing to divide by
    rows = p.engine.reduce(p.engine.times_matrix(flat, table.share))
    return Fixed(p.engine, rows.reshape(*index.shape, table.shape[1]), table.bound), flat


def _embedding_back(
    p: Pass, op: g.Embedding, memory: Any, grad: Fixed, index: OneHot, table: Fixed
) -> list[Gradient]:
    rows = grad.reshape(-1, grad.shape[-1])
    by_table = p.engine.reduce(p.engine.times_matrix(memory.T, rows.share))
    if op.padding is not None:
        keep = np.ones((table.shape[0], 1), np.uint64)
        keep[op.padding] = 0
        by_table = by_table.scaled(keep)
    return [None, Fixed(p.engine, by_table, grad.bound * rows.shape[0])]


def _matmul(p: Pass, op: g.MatMul, a: Fixed, b: Fixed) -> Any:
    return finish(times_matrix(a, b), p.engine), None


def _matmul_back(p: Pass, op: g.MatMul, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [_summed(times_matrix(grad, b.T), a.shape), _summed(times_matrix(a.T, grad), b.shape)]


# -- elementwise


def _relu(p: Pass, op: g.Relu, x: Fixed) -> Any:
    return compare.relu_with_sign(x)


def _relu_back(p: Pass, op: g.Relu, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [choose(memory, grad)]


def _sigmoid(p: Pass, op: g.Sigmoid, x: Fixed) -> Any:
    y = exponential.sigmoid(x)
    return y, y


def _sigmoid_back(p: Pass, op: g.Sigmoid, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    slope = (memory - memory * memory).within(0.25 + 2.0**-10)
    return [times(grad, slope)]


def _tanh(p: Pass, op: g.Tanh, x: Fixed) -> Any:
    y = exponential.tanh(x)
    return y, y


def _tanh_back(p: Pass, op: g.Tanh, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [times(grad, (1.0 - memory * memory).within(1.0 + 2.0**-10))]


_ROOT = float(np.sqrt(2 / np.pi))
_CUBE = 0.044715


def _gelu(p: Pass, op: g.Gelu, x: Fixed) -> Any:
    if not p.training:
        return exponential.gelu(x), None
    # the slope is that of the approximation by tanh, whose parts are at hand
    square = x * x
    t = exponential.tanh(x * (square * (_CUBE * _ROOT) + _ROOT))
    half = t * 0.5 + 0.5
    return (x * half).within(x.bound), (square, t, half)


def _gelu_back(p: Pass, op: g.Gelu, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    square, t, half = memory
    flat = (1.0 - t * t).within(1.0 + 2.0**-10) * 0.5
    slope = half + x * (flat * (square * (3 * _CUBE * _ROOT) + _ROOT)).within(1.0)
    return [times(grad, slope.within(1.25))]


def _softmax(p: Pass, op: g.Softmax, x: Fixed) -> Any:
    y = exponential.softmax(x, op.axis)
    return y, y


def _softmax_back(p: Pass, op: g.Softmax, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    weighted = times(grad, memory)
    inner = Pending(weighted.product.sum(op.axis, keep=True), grad.bound * (1 + 2.0**-10))
    return [times(grad - finish(inner, p.engine), memory)]


def _add(p: Pass, op: g.Add, a: Fixed, b: Fixed) -> Any:
    return a + b, None


def _add_back(p: Pass, op: g.Add, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [_summed(grad, a.shape), _summed(grad, b.shape)]


def _sub(p: Pass, op: g.Sub, a: Fixed, b: Fixed) -> Any:
    return a - b, None


def _sub_back(p: Pass, op: g.Sub, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [_summed(grad, a.shape), _summed(-grad, b.shape)]


def _mul(p: Pass, op: g.Mul, a: Fixed, b: Fixed) -> Any:
    return a * b, None


def _mul_back(p: Pass, op: g.Mul, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [_summed(times(grad, b), a.shape), _summed(times(grad, a), b.shape)]


def _scale(p: Pass, op: g.Scale, x: Fixed) -> Any:
    return x * op.factor, None


def _scale_back(p: Pass, op: g.Scale, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [grad * op.factor]


def _shift(p: Pass, op: g.Shift, x: Fixed) -> Any:
    return x + op.amount, None


def _shift_back(p: Pass, op: g.Shift, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [grad]


def _dropout(p: Pass, op: g.Dropout, x: Fixed) -> Any:
    if p.coins is None or op.p == 0:
        return x, None
    kept = (p.coins.random(x.shape) >= op.p).astype(np.float64)
    # the pattern is public: it says nothing about the data
    scaled = x if op.p == 1 else x * (1 / (1 - op.p))
    return scaled * kept, kept


def _dropout_back(p: Pass, op: g.Dropout, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    if memory is None:
        return [grad]
    return [(grad if op.p == 1 else grad * (1 / (1 - op.p))) * memory]


# -- pools


def _max_pool(p: Pass, op: g.MaxPool, x: Fixed) -> Any:
    geometry = Geometry(op.kernel, op.stride, op.padding, op.dilation)
    padded = any(sum(pad) for pad in op.padding)
    # above zero, so that zeros of the padding are never the largest
    lifted = x + x.bound if padded else x
    view = windows(lifted.share, geometry)
    dims = len(op.kernel)
    flat = Fixed(p.engine, view.reshape(*view.shape[:-dims], -1), lifted.bound)
    if p.training:
        y, choice = compare.max_with_choice(flat, flat.ndim - 1)
    else:
        y, choice = compare.max_along(flat, flat.ndim - 1), None
    return ((y - x.bound).within(x.bound) if padded else y), (choice, geometry)


def _max_pool_back(p: Pass, op: g.MaxPool, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    choice, geometry = memory
    routed = compare.route(choice, grad).share
    shaped = routed.reshape(*routed.shape[:-1], *op.kernel)
    overlap = int(np.prod(op.kernel, dtype=np.int64))
    return [Fixed(p.engine, gathered(shaped, geometry, x.shape[2:]), grad.bound * overlap)]


def _avg_counts(op: g.AvgPool, x: Fixed, geometry: Geometry) -> Any:
    """Return by what each window's sum is divided."""
    if op.count_padding or not any(sum(pad) for pad in op.padding):
        return float(np.prod(op.kernel, dtype=np.int64))
    ones = Arith(np.ones((1, 1, 1, *x.shape[2:]), np.uint64))
    axes = tuple(range(-len(op.kernel), 0))
    return windows(ones, geometry).parts[0].sum(axis=axes, dtype=np.float64)


def _avg_pool(p: Pass, op: g.AvgPool, x: Fixed) -> Any:
    geometry = Geometry(op.kernel, op.stride, op.padding, (1,) * len(op.kernel))
    counts = _avg_counts(op, x, geometry)
    view = windows(x.share, geometry)
    axes = tuple(range(view.ndim - len(op.kernel), view.ndim))
    total = Fixed(p.engine, view.sum(axes), x.bound * float(np.prod(op.kernel, dtype=np.int64)))
    return (total * (1.0 / counts)).within(x.bound + 2.0**-10), (geometry, counts)


def _avg_pool_back(p: Pass, op: g.AvgPool, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    geometry, counts = memory
    each = grad * (1.0 / counts)
    shape = (*each.shape, *op.kernel)
    spread = each.share.reshape(*each.shape, *(1,) * len(op.kernel)).spread(shape)
    overlap = int(np.prod(op.kernel, dtype=np.int64))
    return [Fixed(p.engine, gathered(spread, geometry, x.shape[2:]), each.bound * overlap)]


def _mean(p: Pass, op: g.Mean, x: Fixed) -> Any:
    return x.mean(op.axes, keep=op.keep), None


def _mean_back(p: Pass, op: g.Mean, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    count = int(np.prod([x.shape[a] for a in op.axes], dtype=np.int64))
    kept = [1 if at in op.axes else size for at, size in enumerate(x.shape)]
    return [(grad.reshape(*kept) * (1.0 / count)).spread(x.shape)]


# -- normalisation


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
    size = max(1, math.floor(_limit(x.engine) / squares.bound)) if squares.bound else flat.shape[-1]
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


def _batch_norm(
    p: Pass, op: g.BatchNorm, x: Fixed, scale: Fixed, shift: Fixed, mean: Fixed, variance: Fixed
) -> Any:
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


def _batch_norm_back(
    p: Pass, op: g.BatchNorm, memory: Any, grad: Fixed, x: Fixed, scale: Fixed, *_: Any
) -> list[Gradient]:
    inverse, hat, axes, along, _kept = memory
    by_scale = _summed(times(grad, hat), along)
    assert isinstance(by_scale, Pending)
    by_shift = _summed(grad, along)
    assert isinstance(by_shift, Fixed)
    inner = grad * scale.reshape(*along)
    by_x = _normalised_back(p, inner.within(p.ranges.gradients), inverse, hat, axes)
    flat = Pending(by_scale.product.reshape(-1), by_scale.bound)
    return [by_x, flat, by_shift.reshape(-1), None, None]


def _layer_norm(p: Pass, op: g.LayerNorm, x: Fixed, scale: Fixed, shift: Fixed) -> Any:
    axes = tuple(range(x.ndim - op.axes, x.ndim))
    _, _, inverse, hat = _normalised(p, x, axes, op.eps)
    return hat * scale + shift, (inverse, hat, axes)


def _layer_norm_back(
    p: Pass, op: g.LayerNorm, memory: Any, grad: Fixed, x: Fixed, scale: Fixed, shift: Fixed
) -> list[Gradient]:
    inverse, hat, axes = memory
    by_scale = _summed(times(grad, hat), scale.shape)
    by_shift = _summed(grad, shift.shape)
    inner = (grad * scale).within(p.ranges.gradients)
    return [_normalised_back(p, inner, inverse, hat, axes), by_scale, by_shift]


# -- moves


def _reshape(p: Pass, op: g.Reshape, x: Value) -> Any:
    return x.reshape(*concrete(op.shape, p.batch)), None


def _reshape_back(p: Pass, op: g.Reshape, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [grad.reshape(*x.shape)]


def _permute(p: Pass, op: g.Permute, x: Value) -> Any:
    return x.permuted(*op.axes), None


def _permute_back(p: Pass, op: g.Permute, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [grad.permuted(*np.argsort(op.axes).tolist())]


def _expand(p: Pass, op: g.Expand, x: Value) -> Any:
    return x.spread(concrete(op.shape, p.batch)), None


def _expand_back(p: Pass, op: g.Expand, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    return [_summed(grad, x.shape)]


def _concat(p: Pass, op: g.Concat, *several: Value) -> Any:
    numbers = [one for one in several if isinstance(one, Fixed)]
    if not numbers:
        return OneHot(Arith.joined([one.share for one in several], op.axis)), None
    return Fixed.joined(numbers, op.axis), None


def _concat_back(p: Pass, op: g.Concat, memory: Any, grad: Fixed, *several: Fixed) -> list[Gradient]:
    ends = np.cumsum([one.shape[op.axis] for one in several])
    lead = (slice(None),) * op.axis
    return [
        grad[(*lead, slice(int(end) - one.shape[op.axis], int(end)))]
        for one, end in zip(several, ends, strict=True)
    ]


def _slice(p: Pass, op: g.Slice, x: Value) -> Any:
    where = (*(slice(None),) * op.axis, slice(op.start, op.stop, op.step))
    return (OneHot(x.share[where]) if isinstance(x, OneHot) else x[where]), None


def _slice_back(p: Pass, op: g.Slice, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    parts = np.zeros((grad.share.parts.shape[0], *x.shape), np.uint64)
    parts[(slice(None), *(slice(None),) * op.axis, slice(op.start, op.stop, op.step))] = grad.share.parts
    return [Fixed(p.engine, Arith(parts), grad.bound)]


class Rule(NamedTuple):
    """Forward: (pass, op, *inputs) → (result, memory). Backward: (pass, op, memory, gradient, *inputs)."""

    forward: Callable[..., tuple[Fixed, Any]]
    backward: Callable[..., list[Gradient]]


RULES: Mapping[type[g.Op], Rule] = MappingProxyType(
    {
        g.Linear: Rule(_linear, _linear_back),
        g.Conv: Rule(_conv, _conv_back),
        g.BatchNorm: Rule(_batch_norm, _batch_norm_back),
        g.LayerNorm: Rule(_layer_norm, _layer_norm_back),
        g.MaxPool: Rule(_max_pool, _max_pool_back),
        g.AvgPool: Rule(_avg_pool, _avg_pool_back),
        g.Relu: Rule(_relu, _relu_back),
        g.Gelu: Rule(_gelu, _gelu_back),
        g.Sigmoid: Rule(_sigmoid, _sigmoid_back),
        g.Tanh: Rule(_tanh, _tanh_back),
        g.Softmax: Rule(_softmax, _softmax_back),
        g.Embedding: Rule(_embedding, _embedding_back),
        g.Add: Rule(_add, _add_back),
        g.Sub: Rule(_sub, _sub_back),
        g.Mul: Rule(_mul, _mul_back),
        g.MatMul: Rule(_matmul, _matmul_back),
        g.Scale: Rule(_scale, _scale_back),
        g.Shift: Rule(_shift, _shift_back),
        g.Reshape: Rule(_reshape, _reshape_back),
        g.Permute: Rule(_permute, _permute_back),
        g.Expand: Rule(_expand, _expand_back),
        g.Concat: Rule(_concat, _concat_back),
        g.Slice: Rule(_slice, _slice_back),
        g.Mean: Rule(_mean, _mean_back),
        g.Dropout: Rule(_dropout, _dropout_back),
    }
)
"""Every operation of the graph's closed set."""


def check(node: g.Node) -> Rule:
    """Return the rule of a node.

    Raises:
        ConfigError: there is none.
    """
    rule = RULES.get(type(node.op))
    if rule is None:
        raise ConfigError(
            f"{node.place or node.output}: {type(node.op).__name__} is not built on shares",
            remedy=f"built are: {', '.join(op.__name__ for op in RULES)}",
        )
    return rule
