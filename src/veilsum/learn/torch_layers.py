"""How layers, pooling, products and attention of a traced PyTorch program are stated in a graph."""

import math
from typing import Final

from veilsum.learn import graph as g
from veilsum.learn.builder import Refused
from veilsum.learn.graph import MASKED, Shape
from veilsum.learn.torch_reading import Args, Made, Reading, Rule, number, per_axis, table

# -- layers


def _linear(r: Reading, a: Args) -> str:
    bias = [] if a["bias"] is None else [r.value(a["bias"])]
    return r.emit(g.Linear(), r.value(a["input"]), r.value(a["weight"]), *bias)


def _conv(r: Reading, a: Args) -> str:
    if a.get("transposed"):
        raise Refused("transposed")
    x, weight = r.value(a["input"]), r.value(a["weight"])
    kernel = r.shape(weight)[2:]
    rank = len(kernel)
    dilation = per_axis(a["dilation"], rank)
    if a["padding"] == "valid":
        padding: g.Padding = ((0, 0),) * rank
    elif a["padding"] == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((w // 2, w - w // 2) for w in whole)
    else:
        padding = tuple((p, p) for p in per_axis(a["padding"], rank))
    bias = [] if a["bias"] is None else [r.value(a["bias"])]
    return r.emit(g.Conv(per_axis(a["stride"], rank), padding, dilation, a["groups"]), x, weight, *bias)


def _affine(r: Reading, a: Args, shape: Shape) -> tuple[str, str]:
    scale = r.buffer("scale", r.torch.ones(shape)) if a["weight"] is None else r.value(a["weight"])
    shift = r.buffer("shift", r.torch.zeros(shape)) if a["bias"] is None else r.value(a["bias"])
    return scale, shift


def _batch_norm(r: Reading, a: Args) -> str:
    if a.get("running_mean") is None or a["momentum"] is None:
        raise Refused("without running statistics, or with their plain average")
    x = r.value(a["input"])
    scale, shift = _affine(r, a, r.shape(x)[1:2])
    running = r.value(a["running_mean"]), r.value(a["running_var"])
    return r.emit(g.BatchNorm(a["eps"], a["momentum"]), x, scale, shift, *running)


def _layer_norm(r: Reading, a: Args) -> str:
    shape = tuple(a["normalized_shape"])
    return r.emit(g.LayerNorm(len(shape), a["eps"]), r.value(a["input"]), *_affine(r, a, shape))


def _embedding(r: Reading, a: Args) -> str:
    if a["scale_grad_by_freq"] or a["sparse"]:
        raise Refused("with sparse gradients, or scaled by frequency")
    table, rows = r.value(a["weight"]), r.constant(a["indices"])
    if rows is None:
        padding = a["padding_idx"] if a["padding_idx"] >= 0 else None
        return r.emit(g.Embedding(padding), r.value(a["indices"]), table)
    chosen = rows.flatten().tolist()  # positions, for example: always the same rows
    if chosen != list(range(chosen[0], chosen[0] + len(chosen))):
        raise Refused("the module looks up rows that do not follow one another")
    taken = r.emit(g.Slice(0, chosen[0], chosen[-1] + 1), table)
    return r.emit(g.Reshape(r.target()), taken)


def _dropout(r: Reading, a: Args) -> str:
    x = r.value(a["input"])
    return r.emit(g.Dropout(a["p"]), x) if a["p"] else x


# -- pooling


def _max_pool(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    rank = len(r.shape(x)) - 2
    kernel = per_axis(a["kernel_size"], rank)
    stride = per_axis(a["stride"], rank) if a["stride"] else kernel
    dilation, before = per_axis(a["dilation"], rank), per_axis(a["padding"], rank)
    pads = []
    for n, k, step, p, d in zip(r.shape(x)[2:], kernel, stride, before, dilation, strict=True):
        pads.append((p, max(p, _beyond(n, d * (k - 1) + 1, step, p)) if a["ceil_mode"] else p))
    return r.emit(g.MaxPool(kernel, stride, tuple(pads), dilation), x)


def _beyond(size: int, reach: int, step: int, padding: int) -> int:
    """Return how far the last window of a rounded-up pooling sees beyond the end; it begins before that."""
    count = -(-(size + 2 * padding - reach) // step) + 1
    count -= (count - 1) * step >= size + padding
    return (count - 1) * step + reach - size - padding


def _avg_pool(r: Reading, a: Args) -> str:
    x = r.value(a["self"])
    rank = len(r.shape(x)) - 2
    kernel = per_axis(a["kernel_size"], rank)
    stride = per_axis(a["stride"], rank) if a["stride"] else kernel
    before = per_axis(a["padding"], rank)
    if a.get("divisor_override"):
        raise Refused("with a divisor of its own")
    for n, k, step, p in zip(r.shape(x)[2:], kernel, stride, before, strict=True):
        if a["ceil_mode"] and (n + 2 * p - k) % step:
            raise Refused("with ceil_mode, where windows reach beyond the end")
    padding = tuple((p, p) for p in before)
    return r.emit(g.AvgPool(kernel, stride, padding, a["count_include_pad"]), x)


def _adaptive(r: Reading, a: Args) -> tuple[str, Shape]:
    x = r.value(a["self"])
    rank = len(r.shape(x)) - 2
    kernel = []
    for n, out in zip(r.shape(x)[2:], per_axis(a["output_size"], rank), strict=True):
        if n % out:
            raise Refused(f"{n} does not divide into {out} equal windows")
        kernel.append(n // out)
    return x, tuple(kernel)


def _adaptive_avg(r: Reading, a: Args) -> str:
    x, kernel = _adaptive(r, a)
    return r.emit(g.AvgPool(kernel, kernel, ((0, 0),) * len(kernel)), x)


def _adaptive_max(r: Reading, a: Args) -> Made:
    x, kernel = _adaptive(r, a)
    ones = (1,) * len(kernel)
    return [r.emit(g.MaxPool(kernel, kernel, ((0, 0),) * len(kernel), ones), x), None]


# -- products and attention


def _matmul(r: Reading, a: Args) -> str:
    other = a["other"] if "other" in a else a["mat2"]
    return r.emit(g.MatMul(), r.value(a["self"]), r.value(other))


def _matmul_add(r: Reading, a: Args) -> str:
    left, right = ("batch1", "batch2") if "batch1" in a else ("mat1", "mat2")
    product = r.scale(r.emit(g.MatMul(), r.value(a[left]), r.value(a[right])), number(a["alpha"]))
    return r.emit(g.Add(), product, r.scale(r.value(a["self"]), number(a["beta"])))


def _attention(r: Reading, a: Args) -> str:
    if a.get("enable_gqa"):
        raise Refused("with grouped queries")
    q, k, v = (r.value(a[name]) for name in ("query", "key", "value"))
    rank, (*_, length, width) = len(r.shape(q)), r.shape(q)
    scale = 1 / math.sqrt(width) if a.get("scale") is None else number(a["scale"])
    turned = r.emit(g.Permute((*range(rank - 2), rank - 1, rank - 2)), k)
    scores = r.emit(g.MatMul(), r.scale(q, scale), turned)
    mask = a["attn_mask"]
    if a["is_causal"]:
        later = r.torch.ones(length, r.shape(k)[-2]).triu(1)
        scores = r.emit(g.Add(), scores, r.buffer("mask", later * MASKED))
    elif mask is not None:
        known = r.constant(mask)
        if known is not None and known.dtype == r.torch.bool:
            name = r.buffer("mask", (~known).float() * MASKED)
        else:
            name = r.value(mask)
        scores = r.emit(g.Add(), scores, name)
    weights = r.emit(g.Softmax(rank - 1), scores)
    if a["dropout_p"]:
        weights = r.emit(g.Dropout(a["dropout_p"]), weights)
    return r.emit(g.MatMul(), weights, v)


def _first(rule: Rule, results: int) -> Rule:
    """Return the rule of an operation whose other results exist for its gradient only."""
    return lambda r, a: [rule(r, a), *[None] * (results - 1)]  # type: ignore[list-item]


LAYERS: Final[dict[str, Rule]] = table(
    (_linear, ["linear.default"]),
    (
        _conv,
        ["conv1d.default", "conv2d.default", "conv1d.padding", "conv2d.padding", "convolution.default"],
    ),
    (_batch_norm, ["batch_norm.default"]),
    (_batch_norm, ["_native_batch_norm_legit.no_stats"]),
    (_first(_batch_norm, 5), ["_native_batch_norm_legit_functional.default"]),
    (_layer_norm, ["layer_norm.default"]),
    (_first(_layer_norm, 3), ["native_layer_norm.default"]),
    (_embedding, ["embedding.default"]),
    (_dropout, ["dropout.default", "feature_dropout.default"]),
    (_first(_dropout, 2), ["native_dropout.default"]),
    (_max_pool, ["max_pool1d.default", "max_pool2d.default"]),
    (_first(_max_pool, 2), ["max_pool2d_with_indices.default", "max_pool1d_with_indices.default"]),
    (_avg_pool, ["avg_pool1d.default", "avg_pool2d.default"]),
    (
        _adaptive_avg,
        ["adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default"],
    ),
    (_adaptive_max, ["adaptive_max_pool1d.default", "adaptive_max_pool2d.default"]),
    (_matmul, ["matmul.default", "mm.default", "bmm.default"]),
    (_matmul_add, ["addmm.default", "baddbmm.default"]),
    (_attention, ["scaled_dot_product_attention.default"]),
)
"""The operations of this module, by torch's names of them."""
