"""The shape of every value of a graph, and what makes a graph a valid one."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn.graph import Graph, Node, Operation, Padding, Shape, Value

MOST_ELEMENTS: Final = 1 << 31
MOST_NODES: Final = 100_000
MOST_AXES: Final = 8
MOST_INPUTS: Final = 1000

_MOVES: Final = (g.Reshape, g.Permute, g.Expand, g.Concat, g.Slice)


def infer(graph: Graph) -> dict[str, Value]:
    """Return what is known of every value by its name, having checked the whole graph.

    Raises:
        ConfigError: the graph contradicts itself; the message names the place in the user's model.
    """
    if len(graph.nodes) > MOST_NODES:
        raise _wrong(f"a graph of {len(graph.nodes)} nodes is too long; the most are {MOST_NODES}")
    values = _given(graph)
    for node in graph.nodes:
        _check_name(node.output)
        if not node.place.isprintable() or len(node.place) > 500:
            raise _wrong(f"the place of the node {node.output!r} is no short printable text")
        if node.output in values:
            raise _wrong(f"{where(node)}: two values of the graph are called {node.output!r}")
        if missing := [name for name in node.inputs if name not in values]:
            raise _wrong(f"{where(node)}: the value {missing[0]!r} is used before it is made")
        if isinstance(node.op, g.BatchNorm) and not set(node.inputs[3:]) <= graph.buffers.keys():
            raise _wrong(f"{where(node)}: the running mean and variance must be buffers")
        values[node.output] = result(node.op, [values[name] for name in node.inputs], where(node))
    if not graph.outputs:
        raise _wrong("the graph has no output")
    if missing := [name for name in graph.outputs if name not in values]:
        raise _wrong(f"the output {missing[0]!r} is not a value of the graph")
    return values


def _given(graph: Graph) -> dict[str, Value]:
    values: dict[str, Value] = dict(graph.inputs)
    for name, shape in graph.weights().items():
        if name in values or (name in graph.parameters and name in graph.buffers):
            raise _wrong(f"two values of the graph are called {name!r}")
        if any(d < 0 for d in shape):
            raise _wrong(f"the shape of the weight {name!r} depends on the batch")
        values[name] = Value(shape)
    for name, value in values.items():
        _check_name(name)
        _check_size(value.shape, f"the value {name!r}")
    return values


def result(op: Operation, given: Sequence[Value], place: str) -> Value:
    """Return what one operation makes of its inputs.

    Raises:
        ConfigError: they do not fit; the message begins with ``place``.
    """
    try:
        value = _result(op, given)
    except ValueError as error:
        raise _wrong(f"{place}: {error}") from None
    _check_size(value.shape, place)
    return value


def _result(op: Operation, given: Sequence[Value]) -> Value:
    least, most, rule = _RULES[type(op)]
    if not least <= len(given) <= most:
        raise ValueError(f"{type(op).__name__} takes {least} to {most} inputs, not {len(given)}")
    moves, looks_up = isinstance(op, _MOVES), isinstance(op, g.Embedding)
    if looks_up and not given[0].index:
        raise ValueError("rows are looked up by an input of whole numbers, not by computed values")
    if not moves and any(v.index for v in given[looks_up:]):
        raise ValueError(f"{type(op).__name__} cannot compute with an input of whole numbers")
    if moves and len({v.index for v in given}) > 1:
        raise ValueError("whole numbers and reals cannot be put together")
    return Value(rule(op, *(v.shape for v in given)), index=moves and given[0].index)


def where(node: Node) -> str:
    """Return how an error names a node."""
    return node.place or f"the node {node.output!r}"


def elements(shape: Shape) -> tuple[int, int]:
    """Return (c, e) such that a value of this shape has c·batch^e elements."""
    return math.prod(abs(d) for d in shape), sum(d < 0 for d in shape)


def concrete(shape: Shape, batch: int) -> Shape:
    """Return a shape with the batch size put in."""
    return tuple(d if d >= 0 else -d * batch for d in shape)


def spread(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """Return how many windows fit into one dimension of space.

    Raises:
        ValueError: none does.
    """
    room = size + sum(padding) - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(f"a window of {kernel} does not fit into {size} with padding {padding}")
    return room // stride + 1


def broadcast(a: Shape, b: Shape) -> Shape:
    """Return the shape of an elementwise operation.

    Raises:
        ValueError: the shapes do not fit.
    """
    rank = max(len(a), len(b))
    out = []
    for m, n in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if m != n and 1 not in {m, n}:
            raise ValueError(f"the shapes {a} and {b} do not fit together")
        out.append(n if m == 1 else m)
    return tuple(out)


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, remedy="compare the layer's sizes with the shapes of what enters it")


def _check_name(name: str) -> None:
    if not name.isprintable() or not 0 < len(name) <= 500:
        raise _wrong(f"{name[:50]!r} cannot name a value: 1 to 500 printable characters can")


def _check_size(shape: Shape, what: str) -> None:
    if len(shape) > MOST_AXES or elements(shape)[0] > MOST_ELEMENTS or elements(shape)[1] > 1:
        raise _wrong(f"{what} has the shape {shape}, which is too large")


def _rank(shape: Shape, rank: int, what: str) -> Shape:
    if len(shape) != rank:
        raise ValueError(f"{what} has {len(shape)} axes instead of {rank}")
    return shape


def _linear(_: g.Linear, x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    out, width = _rank(weight, 2, "the weight")
    if not x or x[-1] != width:
        raise ValueError(f"a linear layer of {width} inputs was given the shape {x}")
    if bias not in {None, (out,)}:
        raise ValueError(f"a linear layer of {out} outputs has a bias of shape {bias}")
    return (*x[:-1], out)


def _windows(kernel: Shape, stride: Shape, padding: Padding, dilation: Shape) -> None:
    if not 1 <= len(kernel) <= 2 or {len(stride), len(padding), len(dilation)} != {len(kernel)}:
        raise ValueError("a window has one or two dimensions, and so have its stride, padding and dilation")
    pads = [p for pair in padding for p in pair]
    if min((*kernel, *stride, *dilation)) < 1 or len(pads) != 2 * len(kernel) or min(pads) < 0:
        raise ValueError("a window's size, stride and dilation are at least 1, its padding at least 0")


def _conv(op: g.Conv, x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    kernel = weight[2:]
    _windows(kernel, op.stride, op.padding, op.dilation)
    _rank(x, len(weight), "what enters the convolution")
    if op.groups < 1 or x[1] != weight[1] * op.groups or weight[0] % op.groups:
        raise ValueError(f"a convolution of {weight[1] * op.groups} channels was given the shape {x}")
    if bias not in {None, weight[:1]}:
        raise ValueError(f"a convolution of {weight[0]} outputs has a bias of shape {bias}")
    parts = zip(x[2:], kernel, op.stride, op.padding, op.dilation, strict=True)
    return (x[0], weight[0], *(spread(*part) for part in parts))


def _pool(op: g.MaxPool | g.AvgPool, x: Shape) -> Shape:
    dilation = op.dilation if isinstance(op, g.MaxPool) else (1,) * len(op.kernel)
    _windows(op.kernel, op.stride, op.padding, dilation)
    _rank(x, len(op.kernel) + 2, "what enters the pooling")
    for kernel, pads in zip(op.kernel, op.padding, strict=True):
        if max(pads) >= kernel and isinstance(op, g.AvgPool) and not op.count_padding:
            raise ValueError("a window may lie wholly in the padding")
    parts = zip(x[2:], op.kernel, op.stride, op.padding, dilation, strict=True)
    return (*x[:2], *(spread(*part) for part in parts))


def _normal(op: g.BatchNorm | g.LayerNorm, x: Shape, *weights: Shape) -> Shape:
    if not (math.isfinite(op.eps) and op.eps >= 0):
        raise ValueError("eps must be a number from 0 on")
    if isinstance(op, g.LayerNorm):
        if not 1 <= op.axes <= len(x):
            raise ValueError(f"a shape of {len(x)} axes cannot be normalised over {op.axes}")
        _summed(x, tuple(range(len(x) - op.axes, len(x))))
        own = x[-op.axes :]
    else:
        if len(x) < 2 or not 0 <= op.momentum <= 1:
            raise ValueError("batch normalisation takes (n, c, …) and a momentum from 0 to 1")
        own = x[1:2]
    if any(shape != own for shape in weights):
        raise ValueError(f"the normalisation of {own} was given weights of the shapes {weights}")
    return x


def _matmul(_: g.MatMul, a: Shape, b: Shape) -> Shape:
    if min(len(a), len(b)) < 2 or a[-1] != b[-2] or a[-1] < 0:
        raise ValueError(f"matrices of shapes {a} and {b} cannot be multiplied")
    return (*broadcast(a[:-2], b[:-2]), a[-2], b[-1])


def _axes(x: Shape, axes: Shape) -> None:
    if len(set(axes)) != len(axes) or not all(0 <= axis < len(x) for axis in axes):
        raise ValueError(f"the shape {x} has no axes {axes}")


def _summed(x: Shape, axes: Shape) -> None:
    _axes(x, axes)
    if not axes or any(x[axis] < 1 for axis in axes):
        raise ValueError(f"rows of one batch would be mixed: axes {axes} of the shape {x}")


def _embedding(op: g.Embedding, rows: Shape, table: Shape) -> Shape:
    count, width = _rank(table, 2, "the table")
    if op.padding is not None and not 0 <= op.padding < count:
        raise ValueError(f"the table of {count} rows has no row {op.padding}")
    return (*rows, width)


def _softmax(op: g.Softmax, x: Shape) -> Shape:
    _summed(x, (op.axis,))
    return x


def _mean(op: g.Mean, x: Shape) -> Shape:
    _summed(x, op.axes)
    return tuple(1 if i in op.axes else d for i, d in enumerate(x) if op.keep or i not in op.axes)


def _by_number(op: g.Scale | g.Shift, x: Shape) -> Shape:
    number = op.factor if isinstance(op, g.Scale) else op.amount
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return x


def _dropout(op: g.Dropout, x: Shape) -> Shape:
    if not 0 <= op.p < 1:
        raise ValueError(f"a dropout of {op.p} is not from 0 to below 1")
    return x


def _reshape(op: g.Reshape, x: Shape) -> Shape:
    if elements(op.shape) != elements(x):
        raise ValueError(f"the shape {x} cannot be seen as {op.shape}")
    return op.shape


def _permute(op: g.Permute, x: Shape) -> Shape:
    _axes(x, op.axes)
    if len(op.axes) != len(x):
        raise ValueError(f"{op.axes} does not name every axis of the shape {x}")
    return tuple(x[axis] for axis in op.axes)


def _expand(op: g.Expand, x: Shape) -> Shape:
    if broadcast(x, op.shape) != op.shape:
        raise ValueError(f"the shape {x} cannot be spread to {op.shape}")
    return op.shape


def _slice(op: g.Slice, x: Shape) -> Shape:
    axis = op.axis
    _axes(x, (axis,))
    if not 0 <= op.start < op.stop <= x[axis] or op.step < 1:
        raise ValueError(f"axis {axis} of the shape {x} has no part {op.start}:{op.stop}:{op.step}")
    return (*x[:axis], -(-(op.stop - op.start) // op.step), *x[axis + 1 :])


def _concat(op: g.Concat, *given: Shape) -> Shape:
    x, axis = given[0], op.axis
    _axes(x, (axis,))
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in given}
    signs = {shape[axis] < 0 for shape in given if len(shape) == len(x)}
    if len(rest) > 1 or len(signs) > 1:
        raise ValueError(f"the shapes {list(given)} cannot be joined along axis {axis}")
    return (*x[:axis], sum(shape[axis] for shape in given), *x[axis + 1 :])


def _elementwise(_: Operation, x: Shape, *others: Shape) -> Shape:
    return broadcast(x, *others) if others else x


_RULES: Final[dict[type, tuple[int, int, Callable[..., Shape]]]] = {
    g.Linear: (2, 3, _linear),
    g.Conv: (2, 3, _conv),
    g.BatchNorm: (5, 5, _normal),
    g.LayerNorm: (3, 3, _normal),
    g.MaxPool: (1, 1, _pool),
    g.AvgPool: (1, 1, _pool),
    g.Relu: (1, 1, _elementwise),
    g.Gelu: (1, 1, _elementwise),
    g.Sigmoid: (1, 1, _elementwise),
    g.Tanh: (1, 1, _elementwise),
    g.Softmax: (1, 1, _softmax),
    g.Embedding: (2, 2, _embedding),
    g.Add: (2, 2, _elementwise),
    g.Sub: (2, 2, _elementwise),
    g.Mul: (2, 2, _elementwise),
    g.MatMul: (2, 2, _matmul),
    g.Scale: (1, 1, _by_number),
    g.Shift: (1, 1, _by_number),
    g.Reshape: (1, 1, _reshape),
    g.Permute: (1, 1, _permute),
    g.Expand: (1, 1, _expand),
    g.Concat: (1, MOST_INPUTS, _concat),
    g.Slice: (1, 1, _slice),
    g.Mean: (1, 1, _mean),
    g.Dropout: (1, 1, _dropout),
}
"""How many inputs each operation takes, and the shape of what it makes of theirs."""
