"""How ONNX operators with weights or windows are stated in a graph's closed set."""

from typing import Final

import numpy as np

from veilsum.learn import graph as g
from veilsum.learn.builder import Refused
from veilsum.learn.graph import Shape
from veilsum.learn.onnx_reading import Reading, Rule, axis_of, length

# -- layers


def _gemm(r: Reading) -> str:
    a = r.attributes
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    x = r.value(0)
    if a.get("transA"):
        x = r.emit(g.Permute((1, 0)), x)
    x = r.scale(x, alpha)
    plain = not r.given(2) or (beta == 1 and r.is_weight(2, 1, alone=False))
    if plain and (a.get("transB") or r.is_weight(1, 2)):
        weight = r.value(1) if a.get("transB") else r.transposed(1)
        if not r.given(2) or r.shape(weight)[:1] == (length(r, 2),):
            return r.emit(g.Linear(), x, weight, *([r.value(2)] if r.given(2) else []))
    weight = r.emit(g.Permute((1, 0)), r.value(1)) if a.get("transB") else r.value(1)
    product = r.emit(g.MatMul(), x, weight)
    return r.emit(g.Add(), product, r.scale(r.value(2), beta)) if r.given(2) else product


def _matmul(r: Reading) -> str:
    if r.is_weight(1, 2):
        return r.emit(g.Linear(), r.value(0), r.transposed(1))
    return r.emit(g.MatMul(), r.value(0), r.value(1))


def _window(r: Reading, x: str, kernel: Shape) -> tuple[Shape, g.Padding, Shape]:
    a, rank = r.attributes, len(kernel)
    stride, dilation = a.get("strides", (1,) * rank), a.get("dilations", (1,) * rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    space, auto = r.shape(x)[2:], a.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = a.get("pads", (0,) * 2 * rank)
        padding = tuple((pads[i], pads[i + rank]) for i in range(rank))
    elif auto == "VALID":
        padding = ((0, 0),) * rank
    else:
        whole = [max(0, (-(-n // s) - 1) * s + w - n) for n, s, w in zip(space, stride, reach, strict=True)]
        less, more = [w // 2 for w in whole], [w - w // 2 for w in whole]
        both = (less, more) if auto == "SAME_UPPER" else (more, less)
        padding = tuple(zip(*both, strict=True))
    if a.get("ceil_mode"):
        padding = tuple(
            (b, max(e, _beyond(n, w, s, (b, e))))
            for n, w, s, (b, e) in zip(space, reach, stride, padding, strict=True)
        )
    return stride, padding, dilation


def _beyond(size: int, reach: int, step: int, padding: tuple[int, int]) -> int:
    """Return how far the last window of a rounded-up pooling sees beyond the end; it begins before that."""
    count = -(-(size + sum(padding) - reach) // step) + 1
    count -= (count - 1) * step >= size + padding[0]
    return (count - 1) * step + reach - size - padding[0]


def _conv(r: Reading) -> str:
    x, weight = r.value(0), r.value(1)
    stride, padding, dilation = _window(r, x, r.shape(weight)[2:])
    bias = [r.value(2)] if r.given(2) else []
    return r.emit(g.Conv(stride, padding, dilation, r.attributes.get("group", 1)), x, weight, *bias)


def _max_pool(r: Reading) -> str:
    if len([o for o in r.node.output if o]) > 1:
        raise Refused("with the places of the largest")
    x, kernel = r.value(0), r.attributes["kernel_shape"]
    stride, padding, dilation = _window(r, x, kernel)
    return r.emit(g.MaxPool(kernel, stride, padding, dilation), x)


def _avg_pool(r: Reading) -> str:
    x, kernel = r.value(0), r.attributes["kernel_shape"]
    ceil = r.attributes.pop("ceil_mode", 0)
    stride, padding, dilation = _window(r, x, kernel)
    for n, k, s, pads in zip(r.shape(x)[2:], kernel, stride, padding, strict=True):
        if ceil and (n + sum(pads) - k) % s:
            raise Refused("with ceil_mode, where windows reach beyond the end")
    if set(dilation) != {1}:
        raise Refused("with dilation")
    counted = bool(r.attributes.get("count_include_pad", 0)) or not any(map(sum, padding))
    return r.emit(g.AvgPool(kernel, stride, padding, counted), x)


def _global_pool(r: Reading) -> str:
    x = r.value(0)
    return r.emit(g.Mean(tuple(range(2, len(r.shape(x)))), keep=True), x)


def _batch_norm(r: Reading) -> str:
    if r.attributes.get("training_mode"):
        raise Refused("in training mode")
    momentum = round(1 - r.attributes.get("momentum", 0.9), 7)
    op = g.BatchNorm(r.attributes.get("epsilon", 1e-5), momentum)
    x, scale, shift = r.value(0), r.value(1), r.value(2)
    return r.emit(op, x, scale, shift, r.value(3, trainable=False), r.value(4, trainable=False))


def _layer_norm(r: Reading) -> str:
    x = r.value(0)
    axes = len(r.shape(x)) - axis_of(r, x, r.attributes.get("axis", -1))
    scale = r.value(1)
    shift = r.value(2) if r.given(2) else r.buffer("shift", np.zeros(r.shape(scale), np.float32))
    return r.emit(g.LayerNorm(axes, r.attributes.get("epsilon", 1e-5)), x, scale, shift)


def _dropout(r: Reading) -> str:
    ratio = r.constant(1)
    p = 0.5 if ratio is None else float(str(np.float32(ratio)))
    return r.emit(g.Dropout(p), r.value(0)) if p else r.value(0)


def _gather(r: Reading) -> str:
    axis, rows = r.attributes.get("axis", 0), r.constant(1)
    if rows is None:
        if axis != 0:
            raise Refused("along another axis than the first")
        return r.emit(g.Embedding(), r.value(1), r.value(0))
    x = r.value(0)
    axis = axis_of(r, x, axis)
    size = r.shape(x)[axis]
    chosen = [int(n) % size if size > 0 else -1 for n in rows.reshape(-1)]
    if not chosen or chosen != list(range(chosen[0], chosen[0] + len(chosen))) or chosen[0] < 0:
        raise Refused("of entries that do not follow one another, or of a part of the batch")
    taken = r.emit(g.Slice(axis, chosen[0], chosen[-1] + 1), x)
    before, after = r.shape(x)[:axis], r.shape(x)[axis + 1 :]
    return r.emit(g.Reshape((*before, *rows.shape, *after)), taken)


LAYERS: Final[dict[str, Rule]] = {
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Dropout": _dropout,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
"""The operators of this module."""
