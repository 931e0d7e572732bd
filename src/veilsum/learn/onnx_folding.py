"""What ONNX models compute from constants and sizes alone, done while the model is read."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Attributes = dict[str, Any]

BATCH: Final = 1_000_003
"""A prime that stands for the batch size in the arithmetic of shapes; no fixed size may be a multiple."""
MOST_FOLDED: Final = 1 << 24
"""How many elements one step may make, and all steps of a model together."""
_TYPES: Final[dict[int, type]] = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


class DependsOnBatch(Exception):
    """What would be folded is as large as the batch."""


def _limited(shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(n and n % BATCH == 0 for n in shape):
        raise DependsOnBatch
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_FOLDED:
        raise ValueError(f"{shape} is too large")
    return shape


def _constant(a: Attributes) -> Array:
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for key, given in a.items():
        if key == "value" or key in kinds:
            return np.asarray(given, kinds.get(key))
    raise ValueError("a constant of another type")


def _shape(a: Attributes, sizes: Array) -> Array:
    return sizes[a.get("start", 0) : a.get("end", len(sizes))]


def _cast(a: Attributes, x: Array) -> Array:
    return x.astype(_TYPES[a["to"]])


def _slice(_: Attributes, x: Array, starts: Array, ends: Array, *more: Array | None) -> Array:
    axes = more[0] if more and more[0] is not None else range(len(starts))
    steps = more[1] if len(more) > 1 and more[1] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = x[(slice(None),) * (int(axis) % x.ndim) + (slice(int(start), int(end), int(step)),)]
    return x


def _axes(a: Attributes, axes: Array | None) -> tuple[int, ...] | None:
    return tuple(int(i) for i in axes) if axes is not None else a.get("axes")


def _unsqueeze(_: Attributes, x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(i) for i in axes))


def _squeeze(a: Attributes, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(a, axes))


def _reshape(a: Attributes, x: Array, shape: Array) -> Array:
    kept = not a.get("allowzero")
    return x.reshape([x.shape[i] if n == 0 and kept else int(n) for i, n in enumerate(shape)])


def _range(_: Attributes, start: Array, limit: Array, step: Array) -> Array:
    (count,) = _limited((max(0, math.ceil((limit - start) / step)),))
    return np.asarray(start + np.arange(count, dtype=start.dtype) * step, start.dtype)


def _expand(_: Attributes, x: Array, shape: Array) -> Array:
    wanted = _limited(np.broadcast_shapes(x.shape, tuple(int(n) for n in shape)))
    return np.broadcast_to(x, wanted).copy()


def _filled(a: Attributes, shape: Array) -> Array:
    value = a.get("value", np.zeros(1, np.float32))
    return np.full(_limited(tuple(int(n) for n in shape)), value[0], value.dtype)


def _div(_: Attributes, x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    if not np.all(y):
        raise ValueError("division by zero")
    return np.asarray(np.trunc(x / y).astype(x.dtype) if (x < 0).any() or (y < 0).any() else x // y)


def _trilu(a: Attributes, x: Array, k: Array | None = None) -> Array:
    shift = 0 if k is None else int(k)
    return np.triu(x, shift) if a.get("upper", 1) else np.tril(x, shift)


def _gather(a: Attributes, x: Array, at: Array) -> Array:
    axis = a.get("axis", 0)
    rest = np.delete(np.array(x.shape, np.int64), axis)
    _limited((*at.shape, *(int(n) for n in rest)))
    return np.asarray(np.take(x, at, axis))


def _concat(a: Attributes, *parts: Array) -> Array:
    _limited((sum(part.size for part in parts),))
    return np.concatenate(parts, a["axis"])


def _transpose(a: Attributes, x: Array) -> Array:
    return x.transpose(a.get("perm"))


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    def fold(_: Attributes, x: Array, y: Array) -> Array:
        _limited(np.broadcast_shapes(x.shape, y.shape))
        return np.asarray(function(x, y))

    return fold


def _where(_: Attributes, which: Array, x: Array, y: Array) -> Array:
    _limited(np.broadcast_shapes(which.shape, x.shape, y.shape))
    return np.where(which, x, y)


FOLDS: Final[dict[str, Callable[..., Array]]] = {
    "Add": _of_two(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Div": _div,
    "Equal": _of_two(np.equal),
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda _, x: x,
    "Mul": _of_two(np.multiply),
    "Neg": lambda _, x: -x,
    "Not": lambda _, x: ~x,
    "Range": _range,
    "ReduceProd": lambda a, x, *_: np.asarray(x.prod(keepdims=bool(a.get("keepdims", 1)))),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Sqrt": lambda _, x: np.sqrt(x),
    "Squeeze": _squeeze,
    "Sub": _of_two(np.subtract),
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Each operator as a function of its attributes and its constant inputs."""
