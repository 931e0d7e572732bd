"""The plaintext twin of inference: a graph run in float64, as clearly as numpy can say it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from veilsum.errors import DataError
from veilsum.learn import graph as g
from veilsum.learn.graph import Graph
from veilsum.learn.model import Model
from veilsum.learn.shapes import concrete

Array = NDArray[np.float64]


def forward(model: Model, inputs: Mapping[str, ArrayLike]) -> tuple[Array, ...]:
    """Compute a model's outputs, in the order of its graph.

    Args:
        model: batch normalisation uses its running statistics; dropout does nothing.
        inputs: an array for each input of the graph, all with the same batch size.

    Raises:
        DataError: an input is missing, too many, not finite, of another shape, or looks up no row.
    """
    values = every_value(model, inputs)
    return tuple(values[name] for name in model.graph.outputs)


def every_value(model: Model, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Compute every value of the graph by its name; see :func:`forward`."""
    values = {name: np.asarray(array) for name, array in inputs.items()}
    batch = _batch(model.graph, values)
    values |= {name: w.astype(np.float64) for name, w in model.weights.items()}
    for node in model.graph.nodes:
        op = node.op
        if isinstance(op, g.Reshape | g.Expand):
            op = msgspec.structs.replace(op, shape=concrete(op.shape, batch))
        values[node.output] = _STEPS[type(op)](op, *(values[name] for name in node.inputs))
    return values


def _batch(graph: Graph, values: dict[str, NDArray[Any]]) -> int:
    if values.keys() != graph.inputs.keys():
        raise DataError(f"the model takes the inputs {sorted(graph.inputs)}", remedy="give exactly these")
    sizes: set[int] = set()
    for name, value in graph.inputs.items():
        array = values[name]
        if array.ndim == len(value.shape):
            sizes |= {n // -d for d, n in zip(value.shape, array.shape, strict=True) if d < 0}
        batch = min(sizes, default=1)
        if array.shape != concrete(value.shape, batch) or len(sizes) > 1:
            raise DataError(
                f"the input {name!r} has the shape {array.shape}, and the model takes {value.shape}",
                remedy="a negative entry is the batch, the same for all inputs",
            )
        if value.index and array.dtype.kind not in "iu":
            raise DataError(f"the input {name!r} must hold whole numbers", remedy="give integers")
        if not value.index:
            values[name] = array.astype(np.float64)
        if not np.isfinite(values[name]).all():
            raise DataError(f"the input {name!r} holds NaN or infinity", remedy="fill or drop those rows")
    return min(sizes, default=1)


def _last(kernel: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(kernel), 0))


def _windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: g.Padding,
    dilation: Sequence[int],
    fill: float = 0.0,
) -> Array:
    """Return every window: (n, c, places …, kernel …)."""
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    seen = sliding_window_view(padded, reach, axis=_last(kernel))
    steps = tuple(slice(None, None, step) for step in (*stride, *dilation))
    kept: Array = seen[(slice(None), slice(None), *steps)]
    return kept


def _conv(op: g.Conv, x: Array, weight: Array, bias: Array | None = None) -> Any:
    seen = _windows(x, weight.shape[2:], op.stride, op.padding, op.dilation)
    space = _last(weight.shape[2:])
    parts = [
        np.tensordot(some, w, axes=((1, *space), (1, *space)))
        for some, w in zip(np.split(seen, op.groups, 1), np.split(weight, op.groups), strict=True)
    ]
    out = np.concatenate(parts, -1)
    return np.moveaxis(out if bias is None else out + bias, -1, 1)


def _max_pool(op: g.MaxPool, x: Array) -> Any:
    return _windows(x, op.kernel, op.stride, op.padding, op.dilation, -np.inf).max(axis=_last(op.kernel))


def _avg_pool(op: g.AvgPool, x: Array) -> Any:
    ones = (1,) * len(op.kernel)
    seen = _windows(x, op.kernel, op.stride, op.padding, ones)
    if op.count_padding:
        return seen.mean(axis=_last(op.kernel))
    inside = _windows(np.ones_like(x[:1, :1]), op.kernel, op.stride, op.padding, ones)
    return seen.sum(axis=_last(op.kernel)) / inside.sum(axis=_last(op.kernel))


def _layer_norm(op: g.LayerNorm, x: Array, scale: Array, shift: Array) -> Any:
    axes = tuple(range(-op.axes, 0))
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + op.eps) * scale + shift


def _batch_norm(op: g.BatchNorm, x: Array, *weights: Array) -> Any:
    scale, shift, mean, variance = (w.reshape(-1, *(1,) * (x.ndim - 2)) for w in weights)
    return (x - mean) / np.sqrt(variance + op.eps) * scale + shift


def _softmax(op: g.Softmax, x: Array) -> Any:
    powers = np.exp(x - x.max(axis=op.axis, keepdims=True))
    return powers / powers.sum(axis=op.axis, keepdims=True)


def _gelu(op: g.Gelu, x: Array) -> Any:
    if op.tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.array([math.erf(v / math.sqrt(2)) for v in x.flat]).reshape(x.shape)
    return 0.5 * x * (1 + erf)


def _embedding(_: g.Embedding, rows: NDArray[Any], table: Array) -> Any:
    if rows.size and not 0 <= rows.min() <= rows.max() < len(table):
        raise DataError("an index is not a row of the table", remedy="check how the inputs were encoded")
    return table[rows]


def _slice(op: g.Slice, x: Array) -> Any:
    return x[(slice(None),) * op.axis + (slice(op.start, op.stop, op.step),)]


_STEPS: Final[dict[type, Callable[..., Any]]] = {
    g.Linear: lambda _, x, weight, bias=0.0: x @ weight.T + bias,
    g.Conv: _conv,
    g.BatchNorm: _batch_norm,
    g.LayerNorm: _layer_norm,
    g.MaxPool: _max_pool,
    g.AvgPool: _avg_pool,
    g.Relu: lambda _, x: np.maximum(x, 0.0),
    g.Gelu: _gelu,
    g.Sigmoid: lambda _, x: 0.5 * (1 + np.tanh(x / 2)),  # overflows nowhere
    g.Tanh: lambda _, x: np.tanh(x),
    g.Softmax: _softmax,
    g.Embedding: _embedding,
    g.Add: lambda _, a, b: a + b,
    g.Sub: lambda _, a, b: a - b,
    g.Mul: lambda _, a, b: a * b,
    g.MatMul: lambda _, a, b: a @ b,
    g.Scale: lambda op, x: x * op.factor,
    g.Shift: lambda op, x: x + op.amount,
    g.Reshape: lambda op, x: x.reshape(op.shape),
    g.Permute: lambda op, x: x.transpose(op.axes),
    g.Expand: lambda op, x: np.broadcast_to(x, op.shape),
    g.Concat: lambda op, *parts: np.concatenate(parts, op.axis),
    g.Slice: _slice,
    g.Mean: lambda op, x: x.mean(axis=op.axes, keepdims=op.keep),
    g.Dropout: lambda _, x: x,
}
