"""Operations on windows of images and series: convolutions and pools, forward and backward."""

from typing import Any

import numpy as np

from veilsum.learn import graph as g
from veilsum.mpc import compare
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.gradients import Gradient, Pass, Pending, settle, times_matrix
from veilsum.mpc.shares import Arith, Product
from veilsum.mpc.windows import Geometry, gathered, windows


def _geometry(op: g.Conv, weight: Fixed) -> Geometry:
    return Geometry(weight.shape[2:], op.stride, op.padding, op.dilation)


def _columns(x: Fixed, geometry: Geometry) -> Fixed:
    """Return a row for every window: (n · windows, c · kernel)."""
    dims = len(geometry.kernel)
    view = windows(x.share, geometry)
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    inner = x.shape[1] * int(np.prod(geometry.kernel, dtype=np.int64))
    return Fixed(x.engine, view.permuted(*order).reshape(-1, inner), x.bound)


def conv(p: Pass, op: g.Conv, x: Fixed, weight: Fixed, bias: Fixed | None = None) -> Any:
    """Convolve: every window of a group times its kernels."""
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


def conv_back(
    p: Pass, op: g.Conv, memory: Any, grad: Fixed, x: Fixed, weight: Fixed, *_: Any
) -> list[Gradient]:
    """Return the gradients by x, weight and bias."""
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


def max_pool(p: Pass, op: g.MaxPool, x: Fixed) -> Any:
    """Return the largest of each window."""
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


def max_pool_back(p: Pass, op: g.MaxPool, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    """Route the gradient to where the largest was."""
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


def avg_pool(p: Pass, op: g.AvgPool, x: Fixed) -> Any:
    """Return the mean of each window."""
    geometry = Geometry(op.kernel, op.stride, op.padding, (1,) * len(op.kernel))
    counts = _avg_counts(op, x, geometry)
    view = windows(x.share, geometry)
    axes = tuple(range(view.ndim - len(op.kernel), view.ndim))
    total = Fixed(p.engine, view.sum(axes), x.bound * float(np.prod(op.kernel, dtype=np.int64)))
    return (total * (1.0 / counts)).within(x.bound + 2.0**-10), (geometry, counts)


def avg_pool_back(p: Pass, op: g.AvgPool, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    """Spread the gradient over each window."""
    geometry, counts = memory
    each = grad * (1.0 / counts)
    shape = (*each.shape, *op.kernel)
    spread = each.share.reshape(*each.shape, *(1,) * len(op.kernel)).spread(shape)
    overlap = int(np.prod(op.kernel, dtype=np.int64))
    return [Fixed(p.engine, gathered(spread, geometry, x.shape[2:]), each.bound * overlap)]
