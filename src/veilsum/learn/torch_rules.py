"""How each operation of a traced PyTorch program is stated in a graph's closed set."""

import math
from typing import Any, Final

from veilsum.learn import graph as g
from veilsum.learn.builder import Refused
from veilsum.learn.graph import MASKED, Operation
from veilsum.learn.torch_layers import LAYERS
from veilsum.learn.torch_reading import Args, Made, Reading, Rule, axis_of, number, table

# -- arithmetic


def _plain(op: Operation) -> Rule:
    return lambda r, a: r.emit(op, r.value(a["self"] if "self" in a else a["input"]))


def _single(r: Reading, given: Any) -> float | None:
    """Return the public number that an operand is, if it is one."""
    tensor = r.constant(given)
    if tensor is not None and tensor.numel() == 1 and tensor.ndim == 0:
        given = tensor.item()
    if tensor is None and not isinstance(given, int | float):
        return None
    return number(given) if isinstance(given, int | float) else None


def _sum(sign: int) -> Rule:
    def rule(r: Reading, a: Args) -> str:
        alpha = number(a.get("alpha", 1))
        left, right = _single(r, a["self"]), _single(r, a["other"])
        if right is not None:
            return r.emit(g.Shift(sign * alpha * right), r.value(a["self"]))
        other = r.scale(r.value(a["other"]), alpha)
        if left is not None:
            return r.emit(g.Shift(left), r.scale(other, sign))
        return r.emit(g.Add() if sign > 0 else g.Sub(), r.value(a["self"]), other)

    return rule


def _reversed_sub(r: Reading, a: Args) -> str:
    return _sum(-1)(r, {"self": a["other"], "other": a["self"], "alpha": a["alpha"]})  # type: ignore[return-value]


def _mul(r: Reading, a: Args) -> str:
    left, right = _single(r, a["self"]), _single(r, a["other"])
    if right is not None:
        return r.scale(r.value(a["self"]), right)
    if left is not None:
        return r.scale(r.value(a["other"]), left)
    return r.emit(g.Mul(), r.value(a["self"]), r.value(a["other"]))


def _div(r: Reading, a: Args) -> str:
    if a.get("rounding_mode"):
        raise Refused("with rounding")
    number, tensor = _single(r, a["other"]), r.constant(a["other"])
    if number is not None:
        return r.scale(r.value(a["self"]), 1 / number)
    if tensor is None:
        raise Refused("by a value that is secret or depends on the batch")
    return r.emit(g.Mul(), r.value(a["self"]), r.buffer("reciprocal", 1 / tensor))


def _pow(r: Reading, a: Args) -> str:
    x = power = r.value(a["self"])
    exponent = a.get("exponent", 2)
    if exponent not in {2, 3, 4}:
        raise Refused("other than 2, 3 and 4")
    for _ in range(int(exponent) - 1):
        power = r.emit(g.Mul(), power, x)
    return power


def _neg(r: Reading, a: Args) -> str:
    return r.scale(r.value(a["self"]), -1.0)


def _silu(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    return r.emit(g.Mul(), x, r.emit(g.Sigmoid(), x))


def _leaky(r: Reading, a: Args) -> str:
    x, slope = r.value(a["self"]), number(a["negative_slope"])
    return r.emit(g.Add(), r.scale(x, slope), r.scale(r.emit(g.Relu(), x), 1 - slope))


def _clip(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    low, high = a.get("min_val", a.get("min", 0)), a.get("max_val", a.get("max", 6))
    if low is None:
        raise Refused("without a lower bound")
    low = number(low)
    above = r.emit(g.Relu(), r.emit(g.Shift(-low), x) if low else x)
    if high is not None:
        above = r.emit(g.Sub(), above, r.emit(g.Relu(), r.emit(g.Shift(low - number(high)), above)))
    return r.emit(g.Shift(low), above) if low else above


def _gelu(r: Reading, a: Args) -> str:
    return r.emit(g.Gelu(tanh=a["approximate"] == "tanh"), r.value(a["self"]))


def _softmax(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    return r.emit(g.Softmax(axis_of(len(r.shape(x)), a["dim"])), x)


def _mean(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    rank = len(r.shape(x))
    given = a.get("dim")
    axes = [given] if isinstance(given, int) else given or range(rank)
    chosen = tuple(sorted(axis_of(rank, axis) for axis in axes))
    return r.emit(g.Mean(chosen, bool(a.get("keepdim"))), x)


def _total(r: Reading, a: Args) -> str:
    mean = _mean(r, a)
    x = r.value(a["self"])
    count = math.prod(r.shape(x)) // math.prod(r.shape(mean))
    return r.scale(mean, count)


def _masked_fill(r: Reading, a: Args) -> str:
    x, mask = r.value(a["self"]), r.constant(a["mask"])
    filled = _single(r, a["value"])
    if mask is None or filled is None:
        raise Refused("by a mask or with a value that the inputs decide")
    if filled <= MASKED:  # the softmax that follows makes zero of it
        return r.emit(g.Add(), x, r.buffer("mask", mask.float() * MASKED))
    kept = r.emit(g.Mul(), x, r.buffer("kept", (~mask).float()))
    return r.emit(g.Add(), kept, r.buffer("filled", mask.float() * filled))


# -- moving


def _same(r: Reading, a: Args) -> str:
    return r.value(a["self"] if "self" in a else a["input"])


def _cast(r: Reading, a: Args) -> str:
    if a.get("dtype") is not None and not a["dtype"].is_floating_point:
        raise Refused("to whole or truth values")
    return _same(r, a)


def _view(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    return x if r.shape(x) == r.target() else r.emit(g.Reshape(r.target()), x)


def _expand(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    return x if r.shape(x) == r.target() else r.emit(g.Expand(r.target()), x)


def _filled(usual: float) -> Rule:
    """Return the rule of a constant as large as the batch."""

    def rule(r: Reading, a: Args) -> str:
        shape = r.target()
        value = number(a["fill_value"]) if "fill_value" in a else usual
        return r.emit(g.Expand(shape), r.buffer("value", r.torch.full((1,) * len(shape), value)))

    return rule


def _permute(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    rank = len(r.shape(x))
    return r.emit(g.Permute(tuple(axis_of(rank, d) for d in a["dims"])), x)


def _transpose(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    axes = list(range(len(r.shape(x))))
    one, two = (axis_of(len(axes), a.get(name, default)) for name, default in (("dim0", 0), ("dim1", 1)))
    axes[one], axes[two] = axes[two], axes[one]
    return r.emit(g.Permute(tuple(axes)), x)


def _cat(r: Reading, a: Args) -> str:
    names = [r.value(t) for t in a["tensors"]]
    return r.emit(g.Concat(axis_of(len(r.shape(names[0])), a["dim"])), *names)


def _stack(r: Reading, a: Args) -> str:
    names = [r.value(t) for t in a["tensors"]]
    axis = axis_of(len(r.target()), a["dim"])
    shape = (*r.target()[:axis], 1, *r.target()[axis + 1 :])
    return r.emit(g.Concat(axis), *(r.emit(g.Reshape(shape), name) for name in names))


def _part(r: Reading, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    size = r.shape(x)[axis]
    whole = start == 0 and step == 1 and stop in {size, 2**63 - 1}
    if whole:
        return x
    if size < 0:
        raise Refused("a part of the batch")
    start, stop = (max(0, min(n + size if n < 0 else n, size)) for n in (start, stop))
    return r.emit(g.Slice(axis, start, stop, step), x)


def _slice(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    start, stop = a["start"] or 0, 2**63 - 1 if a["end"] is None else a["end"]
    if not isinstance(start, int) or not isinstance(stop, int):
        raise Refused("the size of the batch decides what is taken")
    return _part(r, x, axis_of(len(r.shape(x)), a["dim"]), start, stop, a["step"])


def _select(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    axis = axis_of(len(r.shape(x)), a["dim"])
    at = a["index"] % max(1, r.shape(x)[axis])
    return r.emit(g.Reshape(r.target()), _part(r, x, axis, at, at + 1))


def _split(r: Reading, a: Args) -> Made:
    x = r.value(a["self"])
    axis = axis_of(len(r.shape(x)), a["dim"])
    made: list[str | None] = []
    at = 0
    for i in range(r.results()):
        size = r.target(i)[axis]
        made.append(_part(r, x, axis, at, at + size))
        at += size
    return made


def _unbind(r: Reading, a: Args) -> Made:
    x = r.value(a["self"])
    axis = axis_of(len(r.shape(x)), a["dim"])
    parts = [_part(r, x, axis, i, i + 1) for i in range(r.results())]
    return [r.emit(g.Reshape(r.target(i)), part) for i, part in enumerate(parts)]


RULES: Final[dict[str, Rule]] = LAYERS | table(
    (_plain(g.Relu()), ["relu.default"]),
    (_plain(g.Sigmoid()), ["sigmoid.default"]),
    (_plain(g.Tanh()), ["tanh.default"]),
    (_gelu, ["gelu.default"]),
    (_silu, ["silu.default"]),
    (_leaky, ["leaky_relu.default"]),
    (_clip, ["relu6.default", "hardtanh.default", "clamp.default", "clamp_min.default"]),
    (_softmax, ["softmax.int", "_softmax.default"]),
    (_sum(1), ["add.Tensor", "add.Scalar"]),
    (_sum(-1), ["sub.Tensor", "sub.Scalar"]),
    (_reversed_sub, ["rsub.Tensor", "rsub.Scalar"]),
    (_mul, ["mul.Tensor", "mul.Scalar"]),
    (_div, ["div.Tensor", "div.Scalar", "div.Tensor_mode"]),
    (_neg, ["neg.default"]),
    (_pow, ["pow.Tensor_Scalar", "square.default"]),
    (_mean, ["mean.dim", "mean.default"]),
    (_total, ["sum.dim_IntList", "sum.default"]),
    (_masked_fill, ["masked_fill.Scalar", "masked_fill.Tensor"]),
    (
        _same,
        ["contiguous.default", "clone.default", "alias.default", "detach.default", "lift_fresh_copy.default"],
    ),
    (_cast, ["to.dtype", "to.dtype_layout", "_to_copy.default"]),
    (
        _view,
        ["view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int"],
    ),
    (_view, ["unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default"]),
    (_expand, ["expand.default", "expand_as.default"]),
    (_filled(0.0), ["zeros.default", "zeros_like.default", "new_zeros.default", "full.default"]),
    (_filled(1.0), ["ones.default", "ones_like.default", "new_ones.default", "full_like.default"]),
    (_permute, ["permute.default"]),
    (_transpose, ["transpose.int", "t.default"]),
    (_cat, ["cat.default", "concat.default"]),
    (_stack, ["stack.default"]),
    (_slice, ["slice.Tensor"]),
    (_select, ["select.int"]),
    (_split, ["split.Tensor", "split_with_sizes.default", "chunk.default"]),
    (_unbind, ["unbind.int"]),
)
"""Every operation that can be translated, by torch's name of it."""

CONSTANTS: Final = frozenset(
    f"aten.{name}"
    for name in (
        "arange.default",
        "arange.start",
        "arange.start_step",
        "full.default",
        "ones.default",
        "eye.m",
    )
) | frozenset(f"aten.{name}.default" for name in ("zeros", "scalar_tensor", "eye", "linspace"))
"""Operations that make a constant out of nothing."""
