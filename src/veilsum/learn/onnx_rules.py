"""How each ONNX operator is stated in a graph's closed set."""

import math
from typing import Final

import numpy as np

from veilsum.learn import graph as g
from veilsum.learn.builder import Refused
from veilsum.learn.graph import MASKED, Operation, Shape
from veilsum.learn.onnx_folding import BATCH
from veilsum.learn.onnx_layers import LAYERS
from veilsum.learn.onnx_reading import Reading, Rule, axis_of, in_batches, in_numbers, integers, length

# -- arithmetic


def _plain(op: Operation) -> Rule:
    return lambda r: r.emit(op, r.value(0))


def _single(r: Reading, slot: int) -> float | None:
    array = r.constant(slot)
    if array is None or array.size != 1 or array.ndim > 1:
        return None
    number = array.reshape(-1)[0]
    # a float32 as people write it: 0.1, not the nearest float32 to it
    return float(str(number)) if array.dtype == np.float32 else float(number)


def _bias(r: Reading) -> str | None:
    """Put what is added to a linear layer's result into the layer."""
    for slot, other in ((0, 1), (1, 0)):
        before = r.made.made_by(r.value(slot)) if r.constant(slot) is None else None
        alone = r.uses[r.given(slot)] == 1 and r.is_weight(other, 1, alone=False)
        if before is not None and alone and isinstance(before.op, g.Linear) and len(before.inputs) == 2:
            shape = r.shape(before.output)
            if r.given(slot) == before.output and shape[-1] == length(r, other):
                return r.emit(before.op, *before.inputs, r.value(other))
    return None


def _add(r: Reading) -> str | list[str]:
    made = _erf_plus_one(r)
    if made is not None:
        return made
    for slot, other in ((0, 1), (1, 0)):
        number = _single(r, slot)
        if number is not None:
            return r.emit(g.Shift(number), r.value(other)) if number else r.value(other)
    return _bias(r) or r.emit(g.Add(), r.value(0), r.value(1))


def _sub(r: Reading) -> str:
    left, right = _single(r, 0), _single(r, 1)
    if right is not None:
        return r.emit(g.Shift(-right), r.value(0))
    if left is not None:
        return r.emit(g.Shift(left), r.scale(r.value(1), -1.0))
    return r.emit(g.Sub(), r.value(0), r.value(1))


def _mul(r: Reading) -> str | list[str]:
    made = _erf_times(r)
    if made is not None:
        return made
    for slot, other in ((0, 1), (1, 0)):
        number = _single(r, slot)
        if number is not None:
            return r.scale(r.value(other), number)
    return r.emit(g.Mul(), r.value(0), r.value(1))


def _div(r: Reading) -> str:
    number, array = _single(r, 1), r.constant(1)
    if number:
        return r.scale(r.value(0), 1 / number)
    if array is None or not array.all():
        raise Refused("by a value that is secret, or by zero")
    return r.emit(g.Mul(), r.value(0), r.buffer("reciprocal", 1 / array))


def _pow(r: Reading) -> str:
    x = power = r.value(0)
    if _single(r, 1) not in {2, 3, 4}:
        raise Refused("other than 2, 3 and 4")
    for _ in range(int(_single(r, 1) or 0) - 1):
        power = r.emit(g.Mul(), power, x)
    return power


def _neg(r: Reading) -> str:
    return r.scale(r.value(0), -1.0)


def _leaky(r: Reading) -> str:
    x, slope = r.value(0), r.attributes.get("alpha", 0.01)
    return r.emit(g.Add(), r.scale(x, slope), r.scale(r.emit(g.Relu(), x), 1 - slope))


def _clip(r: Reading) -> str:
    x, low, high = r.value(0), _single(r, 1), _single(r, 2)
    if low is None or (r.given(2) and high is None):
        raise Refused("without a lower bound, or with bounds that are no numbers")
    above = r.emit(g.Relu(), r.emit(g.Shift(-low), x) if low else x)
    if high is not None:
        above = r.emit(g.Sub(), above, r.emit(g.Relu(), r.emit(g.Shift(low - high), above)))
    return r.emit(g.Shift(low), above) if low else above


def _gelu(r: Reading) -> str:
    return r.emit(g.Gelu(tanh=r.attributes.get("approximate", "none") == "tanh"), r.value(0))


def _softmax(r: Reading) -> str:
    x = r.value(0)
    return r.emit(g.Softmax(axis_of(r, x, r.attributes.get("axis", -1))), x)


def _reduced(r: Reading) -> tuple[str, str]:
    x = r.value(0)
    axes = integers(r, 1, "axes")
    if not axes and r.attributes.get("noop_with_empty_axes"):
        return x, x
    chosen = tuple(sorted(axis_of(r, x, axis) for axis in axes or range(len(r.shape(x)))))
    return x, r.emit(g.Mean(chosen, bool(r.attributes.get("keepdims", 1))), x)


def _reduce_mean(r: Reading) -> str:
    return _reduced(r)[1]


def _reduce_sum(r: Reading) -> str:
    x, mean = _reduced(r)
    return r.scale(mean, math.prod(r.shape(x)) // math.prod(r.shape(mean)))


def _where(r: Reading) -> str:
    which = r.constant(0)
    if which is None:
        raise Refused("by a condition that the inputs decide")
    one, two = _single(r, 1), _single(r, 2)
    slot, filled, mask = (2, one, which) if one is not None else (1, two, ~which)
    if filled is None:
        raise Refused("between two computed values")
    x = r.value(slot)
    if filled <= MASKED:  # the softmax that follows makes zero of it
        return r.emit(g.Add(), x, r.buffer("mask", mask * np.float32(MASKED)))
    kept = r.emit(g.Mul(), x, r.buffer("kept", (~mask).astype(np.float32)))
    return r.emit(g.Add(), kept, r.buffer("filled", mask * np.float32(filled)))


# -- moving


def _same(r: Reading) -> str:
    return r.value(0)


def _cast(r: Reading) -> str:
    x = r.value(0)
    if r.made.values[x].index != (r.attributes["to"] in {6, 7}):
        raise Refused("between reals and whole numbers")
    return x


def _seen(r: Reading, x: str, shape: Shape) -> str:
    return x if r.shape(x) == shape else r.emit(g.Reshape(shape), x)


def _reshape(r: Reading) -> str:
    x, wanted = r.value(0), integers(r, 1) or ()
    large = in_numbers(r.shape(x))
    keep = not r.attributes.get("allowzero")
    sizes = [large[i] if n == 0 and keep and i < len(large) else n for i, n in enumerate(wanted)]
    if -1 in sizes:
        rest = math.prod(n for n in sizes if n != -1)
        if sizes.count(-1) > 1 or rest <= 0 or math.prod(large) % rest:
            raise Refused(f"{r.shape(x)} cannot be seen as {wanted}")
        sizes[sizes.index(-1)] = math.prod(large) // rest
    return _seen(r, x, in_batches(tuple(sizes)))


def _flatten(r: Reading) -> str:
    x = r.value(0)
    axis, large = r.attributes.get("axis", 1), in_numbers(r.shape(x))
    axis += len(large) if axis < 0 else 0
    return _seen(r, x, in_batches((math.prod(large[:axis]), math.prod(large[axis:]))))


def _unsqueeze(r: Reading) -> str:
    x, axes = r.value(0), integers(r, 1) or ()
    rank = len(r.shape(x)) + len(axes)
    places, left = {axis % rank for axis in axes}, iter(r.shape(x))
    return _seen(r, x, tuple(1 if i in places else next(left) for i in range(rank)))


def _squeeze(r: Reading) -> str:
    x = r.value(0)
    axes = integers(r, 1)
    gone = {axis_of(r, x, i) for i in axes} if axes else {i for i, d in enumerate(r.shape(x)) if d == 1}
    return _seen(r, x, tuple(d for i, d in enumerate(r.shape(x)) if i not in gone))


def _transpose(r: Reading) -> str:
    x = r.value(0)
    return r.emit(g.Permute(r.attributes.get("perm", tuple(range(len(r.shape(x))))[::-1])), x)


def _expand(r: Reading) -> str:
    x, wanted = r.value(0), in_batches(integers(r, 1) or ())
    own = r.shape(x)
    rank = max(len(own), len(wanted))
    pairs = zip((1,) * (rank - len(own)) + own, (1,) * (rank - len(wanted)) + wanted, strict=True)
    shape = tuple(m if n == 1 else n for m, n in pairs)
    return x if shape == own else r.emit(g.Expand(shape), x)


def _filled(r: Reading) -> str:
    shape = in_batches(integers(r, 0) or ())
    value = r.attributes.get("value", np.zeros(1, np.float32))
    return r.emit(g.Expand(shape), r.buffer("value", value.reshape((1,) * len(shape)).astype(np.float32)))


def _concat(r: Reading) -> str:
    names = [r.value(slot) for slot in range(len(r.node.input))]
    return r.emit(g.Concat(axis_of(r, names[0], r.attributes["axis"])), *names)


def _slice(r: Reading) -> str:
    x = r.value(0)
    starts, ends = integers(r, 1) or (), integers(r, 2) or ()
    axes = integers(r, 3) if r.given(3) else tuple(range(len(starts)))
    steps = integers(r, 4) if r.given(4) else (1,) * len(starts)
    for start, end, given, step in zip(starts, ends, axes or (), steps or (), strict=True):
        axis = axis_of(r, x, given)
        size = r.shape(x)[axis]
        if start == 0 and step == 1 and (end >= 2**31 - 1 or end == (size if size > 0 else -size * BATCH)):
            continue
        if size < 0:
            raise Refused("of a part of the batch")
        first, last = (max(0, min(n + size if n < 0 else n, size)) for n in (start, end))
        x = r.emit(g.Slice(axis, first, last, step), x)
    return x


def _split(r: Reading) -> list[str]:
    x, count = r.value(0), len(r.node.output)
    axis = axis_of(r, x, r.attributes.get("axis", 0))
    size = r.shape(x)[axis]
    each = -(-size // count)
    sizes = integers(r, 1) or (*(each,) * (count - 1), size - each * (count - 1))
    ends = np.cumsum(sizes).tolist()
    return [r.emit(g.Slice(axis, end - n, end), x) for n, end in zip(sizes, ends, strict=True)]


# -- GELU as older exporters state it: x / √2 → Erf → + 1 → · x → · 0.5, with the products in any order


def _erf(r: Reading) -> list[str]:
    before = r.made.made_by(r.value(0))
    if before is None or not isinstance(before.op, g.Scale) or abs(before.op.factor**2 - 0.5) > 1e-6:
        raise Refused("other than in GELU")
    r.erf[r.node.output[0]] = before.inputs[0], 0.0
    return []


def _erf_plus_one(r: Reading) -> list[str] | None:
    for slot, other in ((0, 1), (1, 0)):
        if r.given(slot) in r.erf and _single(r, other) == 1:
            r.erf[r.node.output[0]] = r.erf[r.given(slot)][0], 1.0
            return []
    return None


def _erf_times(r: Reading) -> str | list[str] | None:
    """Use x·(1 + erf(x / √2)) = 2·GELU(x)."""
    for slot, other in ((0, 1), (1, 0)):
        x, factor = r.erf.get(r.given(slot), ("", 0.0))
        if not factor:
            continue
        number = _single(r, other)
        if number is not None:
            r.erf[r.node.output[0]] = x, factor * number
            return []
        y = r.value(other)
        before = r.made.made_by(y)
        if y != x and before is not None and isinstance(before.op, g.Scale):
            y, factor = before.inputs[0], factor * before.op.factor
        if y == x:
            return r.scale(r.emit(g.Gelu(), x), 2 * factor)
    return None


RULES: Final[dict[str, Rule]] = LAYERS | {
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _div,
    "Erf": _erf,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Identity": _same,
    "LeakyRelu": _leaky,
    "Mul": _mul,
    "Neg": _neg,
    "Pow": _pow,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _plain(g.Relu()),
    "Reshape": _reshape,
    "Sigmoid": _plain(g.Sigmoid()),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _sub,
    "Tanh": _plain(g.Tanh()),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Every operator that can be translated, by its name."""
