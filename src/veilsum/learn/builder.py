"""How importers state a graph: node by node, each checked when it is added."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilsum.learn import graph as g
from veilsum.learn.graph import Graph, Node, Operation, Parameter, Shape, Value
from veilsum.learn.model import Model
from veilsum.learn.shapes import result


class Refused(Exception):
    """An operation of a user's model, or this use of it, cannot be stated."""


class Builder:
    """A graph that grows; names of values are made unique.

    Attributes:
        values: what is known of every value so far.
        weights: arrays of the parameters and buffers that were given one.
    """

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.weights: dict[str, NDArray[np.floating[Any]]] = {}
        self._inputs: dict[str, Value] = {}
        self._parameters: dict[str, Parameter] = {}
        self._buffers: dict[str, Shape] = {}
        self._nodes: dict[str, Node] = {}

    def input(self, name: str, shape: Shape, *, index: bool = False) -> str:
        """Add an input and return its name."""
        self._inputs[name] = self.values[name] = Value(shape, index)
        return name

    def parameter(self, name: str, shape: Shape, *, trainable: bool = True) -> str:
        """Add a parameter and return its name."""
        name = self._fresh(name)
        self._parameters[name] = Parameter(shape, trainable)
        self.values[name] = Value(shape)
        return name

    def buffer(self, name: str, shape: Shape) -> str:
        """Add a buffer and return its name."""
        name = self._fresh(name)
        self._buffers[name] = shape
        self.values[name] = Value(shape)
        return name

    def node(self, op: Operation, *inputs: str, place: str = "", name: str = "") -> str:
        """Add a node and return the name of its value.

        Raises:
            ConfigError: the operation does not fit its inputs.
        """
        stem = name or type(op).__name__.lower()
        value = result(op, [self.values[i] for i in inputs], place or f"the node {stem!r}")
        name = self._fresh(stem)
        self._nodes[name] = Node(op, inputs, name, place)
        self.values[name] = value
        return name

    def scale(self, x: str, factor: float, *, place: str = "", name: str = "") -> str:
        """Add x·factor, as one step with a scaling that x itself may come from."""
        before = self._nodes.get(x)
        if before is not None and isinstance(before.op, g.Scale):
            x, factor = before.inputs[0], factor * before.op.factor
        return x if factor == 1 else self.node(g.Scale(factor), x, place=place, name=name)

    def made_by(self, name: str) -> Node | None:
        """Return the node whose value this is."""
        return self._nodes.get(name)

    def graph(self, outputs: Iterable[str]) -> Graph:
        """Return all inputs, and what the outputs need of everything else."""
        outputs = tuple(outputs)
        needed, open_ = set(outputs), list(outputs)
        while open_:
            node = self._nodes.get(open_.pop())
            fresh = set(node.inputs) - needed if node else set()
            needed |= fresh
            open_ += fresh
        return Graph(
            self._inputs,
            tuple(node for name, node in self._nodes.items() if name in needed),
            outputs,
            {name: p for name, p in self._parameters.items() if name in needed},
            {name: shape for name, shape in self._buffers.items() if name in needed},
        )

    def model(self, outputs: Iterable[str]) -> Model:
        """Return the graph with its weights.

        Raises:
            DataError: a weight was not given, or is not finite.
        """
        graph = self.graph(outputs)
        return Model(graph, {name: self.weights[name] for name in graph.weights() if name in self.weights})

    def _fresh(self, name: str) -> str:
        while name in self.values:
            name += "_"
        return name
