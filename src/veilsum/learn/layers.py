"""Graphs of common networks, stated without any framework, and public initial weights for any graph."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn.builder import Builder
from veilsum.learn.graph import Graph, Node, Shape
from veilsum.learn.model import Model
from veilsum.learn.shapes import infer

Activation = Literal["relu", "gelu", "sigmoid", "tanh"]

_ACTIVATIONS: dict[str, g.Operation] = {
    "relu": g.Relu(),
    "gelu": g.Gelu(),
    "sigmoid": g.Sigmoid(),
    "tanh": g.Tanh(),
}


def mlp(sizes: Sequence[int], activation: Activation = "relu") -> Graph:
    """Return linear layers with an activation between them: ``x`` (batch, sizes[0]) → (batch, sizes[-1]).

    Raises:
        ConfigError: fewer than two sizes, a size below 1 or an unknown activation.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ConfigError("a network needs two sizes or more", remedy="give mlp([inputs, …, outputs])")
    made = Builder()
    x = made.input("x", (-1, sizes[0]))
    for i, (width, out) in enumerate(pairwise(sizes)):
        if i:
            x = made.node(_activation(activation), x, place=f"layer {i} ({activation})")
        x = _linear(made, x, width, out, f"layers.{i}")
    return made.graph([x])


def logistic(features: int, *, sigmoid: bool = False) -> Graph:
    """Return logistic regression: ``x`` (batch, features) → (batch, 1) log-odds.

    With ``sigmoid`` the output is the probability; training takes the log-odds.

    Raises:
        ConfigError: fewer than one feature.
    """
    if features < 1:
        raise ConfigError("a regression needs a feature", remedy="give logistic(features)")
    made = Builder()
    x = _linear(made, made.input("x", (-1, features)), features, 1, "linear")
    return made.graph([made.node(g.Sigmoid(), x, place="sigmoid") if sigmoid else x])


def convnet(
    image: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    channels: Sequence[int] = (6, 16),
    hidden: Sequence[int] = (120, 84),
    kernel: int = 5,
    activation: Activation = "relu",
    pool: Literal["max", "avg"] = "max",
) -> Graph:
    """Return a network like LeNet-5: ``x`` (batch, *image) → (batch, classes).

    Every convolution keeps the image's size (an odd kernel) and is followed by an activation and a pooling
    of 2 by 2; then come linear layers.

    Raises:
        ConfigError: sizes that do not fit, or an unknown activation or pooling.
    """
    if pool not in {"max", "avg"} or kernel % 2 == 0:
        raise ConfigError("pool is 'max' or 'avg', and the kernel is odd", remedy="see convnet")
    made = Builder()
    x, width = made.input("x", (-1, *image)), image[0]
    around, ones, twos = ((kernel // 2,) * 2,) * 2, (1, 1), (2, 2)
    none = ((0, 0), (0, 0))
    pooling = g.MaxPool(twos, twos, none, ones) if pool == "max" else g.AvgPool(twos, twos, none)
    for i, out in enumerate(channels):
        weight = made.parameter(f"convs.{i}.weight", (out, width, kernel, kernel))
        bias = made.parameter(f"convs.{i}.bias", (out,))
        x = made.node(g.Conv(ones, around, ones), x, weight, bias, place=f"convs.{i}")
        x = made.node(_activation(activation), x, place=f"convs.{i} ({activation})")
        x = made.node(pooling, x, place=f"convs.{i} (pooling)")
        width = out
    flat = math.prod(made.values[x].shape[1:])
    x = made.node(g.Reshape((-1, flat)), x, place="flatten")
    sizes = (flat, *hidden, classes)
    for i, (before, after) in enumerate(pairwise(sizes)):
        if i:
            x = made.node(_activation(activation), x, place=f"layer {i} ({activation})")
        x = _linear(made, x, before, after, f"layers.{i}")
    return made.graph([x])


def initialise(graph: Graph, seed: int) -> Model:
    """Return a graph with public initial weights, the same on every machine for one seed.

    Weights of linear layers, convolutions and products are uniform: He et al.'s bound where a ReLU or GELU
    follows, Glorot and Bengio's elsewhere. Tables of embeddings are uniform with variance 1, biases and
    other parameters zero, scales of normalisations and running variances one. float32.

    Raises:
        ConfigError: a buffer holds a constant of the model, which no seed can give, or the graph is invalid.

    Source: Glorot, Bengio (AISTATS 2010); He et al. (ICCV 2015).
    """
    infer(graph)
    # only uniform doubles and correctly rounded steps, so that all parties get the same bits
    generator = np.random.Generator(np.random.PCG64(seed))
    followers: dict[str, set[type]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            followers.setdefault(name, set()).add(type(node.op))
    weights: dict[str, NDArray[np.floating[Any]]] = {}
    for node in graph.nodes:
        rectified = bool(followers.get(node.output, set()) & {g.Relu, g.Gelu, g.BatchNorm})
        for slot, name in enumerate(node.inputs):
            if name not in weights and name in graph.parameters:
                shape = graph.parameters[name].shape
                weights[name] = _initial(node, slot, shape, generator, rectified=rectified)
            elif name in graph.buffers:
                weights[name] = _statistics(node, slot, name, graph.buffers[name])
    return Model(graph, weights)


def _activation(name: str) -> g.Operation:
    if name not in _ACTIVATIONS:
        raise ConfigError(f"there is no activation {name!r}", remedy=f"one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _linear(made: Builder, x: str, width: int, out: int, name: str) -> str:
    weight = made.parameter(f"{name}.weight", (out, width))
    return made.node(g.Linear(), x, weight, made.parameter(f"{name}.bias", (out,)), place=name)


def _initial(
    node: Node, slot: int, shape: Shape, generator: np.random.Generator, *, rectified: bool
) -> NDArray[np.floating[Any]]:
    if isinstance(node.op, g.Linear | g.Conv | g.MatMul) and len(shape) >= 2 and slot < 2:
        field = 1 if isinstance(node.op, g.MatMul) else math.prod(shape[2:])
        ins, outs = (shape[-2:]) if isinstance(node.op, g.MatMul) else (shape[1] * field, shape[0] * field)
        bound = math.sqrt(6 / ins) if rectified else math.sqrt(6 / (ins + outs))
    elif isinstance(node.op, g.Embedding):
        bound = math.sqrt(3)
    elif isinstance(node.op, g.BatchNorm | g.LayerNorm) and slot == 1:
        return np.ones(shape, np.float32)
    else:
        return np.zeros(shape, np.float32)
    return ((2 * generator.random(shape) - 1) * bound).astype(np.float32)


def _statistics(node: Node, slot: int, name: str, shape: Shape) -> NDArray[np.floating[Any]]:
    if not isinstance(node.op, g.BatchNorm):
        raise ConfigError(
            f"{node.place or node.output}: the buffer {name!r} is a constant of the model, not a statistic",
            remedy="take the weights from the model that the graph came from",
        )
    return np.full(shape, 1.0 if slot == 4 else 0.0, np.float32)
