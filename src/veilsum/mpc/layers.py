"""What each operation of a model graph does on shares, forward and backward.

A forward rule gives its result and what the backward rule will need; a backward rule gives the gradient of
every input.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn.shapes import concrete
from veilsum.mpc import compare, exponential, normalisation, windowed
from veilsum.mpc.fixed import Fixed, choose
from veilsum.mpc.gradients import (
    Gradient,
    OneHot,
    Pass,
    Pending,
    Value,
    finish,
    summed,
    times,
    times_matrix,
)
from veilsum.mpc.shares import Arith

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
    return [summed(times_matrix(grad, b.T), a.shape), summed(times_matrix(a.T, grad), b.shape)]


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
    return [summed(grad, a.shape), summed(grad, b.shape)]


def _sub(p: Pass, op: g.Sub, a: Fixed, b: Fixed) -> Any:
    return a - b, None


def _sub_back(p: Pass, op: g.Sub, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [summed(grad, a.shape), summed(-grad, b.shape)]


def _mul(p: Pass, op: g.Mul, a: Fixed, b: Fixed) -> Any:
    return a * b, None


def _mul_back(p: Pass, op: g.Mul, memory: Any, grad: Fixed, a: Fixed, b: Fixed) -> list[Gradient]:
    return [summed(times(grad, b), a.shape), summed(times(grad, a), b.shape)]


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


def _mean(p: Pass, op: g.Mean, x: Fixed) -> Any:
    return x.mean(op.axes, keep=op.keep), None


def _mean_back(p: Pass, op: g.Mean, memory: Any, grad: Fixed, x: Fixed) -> list[Gradient]:
    count = int(np.prod([x.shape[a] for a in op.axes], dtype=np.int64))
    kept = [1 if at in op.axes else size for at, size in enumerate(x.shape)]
    return [(grad.reshape(*kept) * (1.0 / count)).spread(x.shape)]


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
    return [summed(grad, x.shape)]


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
        g.Conv: Rule(windowed.conv, windowed.conv_back),
        g.BatchNorm: Rule(normalisation.batch_norm, normalisation.batch_norm_back),
        g.LayerNorm: Rule(normalisation.layer_norm, normalisation.layer_norm_back),
        g.MaxPool: Rule(windowed.max_pool, windowed.max_pool_back),
        g.AvgPool: Rule(windowed.avg_pool, windowed.avg_pool_back),
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
