"""A model graph run on shares: forward for predictions, forward and backward for training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn.graph import Graph, Node
from veilsum.learn.shapes import infer, where
from veilsum.mpc.engine import Engine
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.gradients import Gradient, OneHot, Pass, Pending, Ranges, Value, settle
from veilsum.mpc.layers import Rule, check


class Taped(NamedTuple):
    """What the backward pass needs of one node."""

    node: Node
    rule: Rule
    inputs: tuple[Any, ...]
    memory: Any


class Run(NamedTuple):
    """One forward pass.

    Attributes:
        outputs: by name.
        tape: in training.
        moved: buffers as training has moved them.
    """

    outputs: dict[str, Fixed]
    tape: list[Taped]
    moved: dict[str, Fixed]


class Network:
    """A graph on an engine.

    Raises:
        ConfigError: an operation is not built on shares; the message names its place in the user's model.
    """

    def __init__(self, engine: Engine, graph: Graph, ranges: Ranges) -> None:
        self.engine, self.graph, self.ranges = engine, graph, ranges
        self.values = infer(graph)
        self.limits = limits(graph, ranges)
        self._masked = _masked(graph)
        self._rules = [check(node) for node in graph.nodes]
        self._last = _last_uses(graph)

    def forward(
        self,
        weights: Mapping[str, Fixed],
        inputs: Mapping[str, Value],
        coins: np.random.Generator | None = None,
    ) -> Run:
        """Run one batch.

        Args:
            weights: all parameters and buffers.
            inputs: of the graph, batch first.
            coins: public random numbers, the same at all parties: it is training.

        Raises:
            ConfigError: a range is unknown or too large; the message names the place in the user's model.
        """
        batch = next(iter(inputs.values())).shape[0]
        run = Pass(self.engine, self.ranges, batch, coins, {})
        known: dict[str, Any] = {name: _held(value, self.limits[name]) for name, value in weights.items()}
        known |= inputs
        tape: list[Taped] = []
        for node, rule in zip(self.graph.nodes, self._rules, strict=True):
            given = tuple(known[name] for name in node.inputs)
            with _placed(node):
                result, memory = rule.forward(run, node.op, *given)
            masks = self._masked.get(node.output, ())
            known[node.output] = _held(
                result, self.ranges.activations + sum(self.limits[name] for name in masks)
            )
            if run.training:
                tape.append(Taped(node, rule, given, memory))
                if isinstance(node.op, g.BatchNorm):
                    run.moved.update(zip(node.inputs[3:], memory[-1], strict=True))
            else:
                for name in self._last.get(node.output, ()):
                    del known[name]
        return Run({name: known[name] for name in self.graph.outputs}, tape, run.moved)

    def backward(self, run: Run, gradients: Mapping[str, Fixed]) -> dict[str, Gradient]:
        """Return the gradient of every trainable parameter, summed over the batch.

        Args:
            run: a forward pass in training.
            gradients: of the loss of one row by every output.
        """
        batch = next(iter(gradients.values())).shape[0]
        tools = Pass(self.engine, self.ranges, batch, None, {})
        needed = self._needed()
        pending: dict[str, list[Fixed | Pending]] = {name: [grad] for name, grad in gradients.items()}
        found: dict[str, Gradient] = {}
        for taped in reversed(run.tape):
            arrived = pending.pop(taped.node.output, None)
            if arrived is None or not needed & set(taped.node.inputs):
                continue
            with _placed(taped.node):
                grad = self._met(arrived)
                made = taped.rule.backward(tools, taped.node.op, taped.memory, grad, *taped.inputs)
            for name, one in zip(taped.node.inputs, made, strict=False):
                if one is not None and name in needed:
                    pending.setdefault(name, []).append(one)
        for name, parameter in self.graph.parameters.items():
            if parameter.trainable:
                found[name] = _together(self.engine, pending.get(name) or [self._nothing(parameter.shape)])
        return found

    def _nothing(self, shape: tuple[int, ...]) -> Fixed:
        """Return the gradient of what no output depends on."""
        return Fixed(self.engine, self.engine.constant(np.zeros(shape, np.uint64)), 0.0)

    def _needed(self) -> set[str]:
        """Return the values whose gradients lead to a trainable parameter."""
        needed = {name for name, parameter in self.graph.parameters.items() if parameter.trainable}
        for node in self.graph.nodes:
            if needed & set(node.inputs):
                needed.add(node.output)
        return needed

    def _met(self, arrived: Sequence[Fixed | Pending]) -> Fixed:
        """Return the sum of what all users of a value say, reduced."""
        (grad,) = settle(self.engine, [_together(self.engine, arrived)])
        assert grad is not None
        return grad.within(self.ranges.gradients)


def limits(graph: Graph, ranges: Ranges) -> dict[str, float]:
    """Return what no element of each parameter and buffer exceeds."""
    found = dict.fromkeys(graph.parameters, ranges.weights) | dict.fromkeys(graph.buffers, ranges.activations)
    # a variance is a mean of squares
    squares = [node.inputs[4] for node in graph.nodes if isinstance(node.op, g.BatchNorm)]
    masks = {name for names in _masked(graph).values() for name in names}
    return found | dict.fromkeys(squares, ranges.activations**2) | dict.fromkeys(masks, -g.MASKED)


def _masked(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return sums that nothing but a softmax reads, with their constants that nothing else reads: masks."""
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)

    def only(name: str, op: type[g.Op]) -> bool:
        return name not in graph.outputs and all(isinstance(user.op, op) for user in users.get(name, ()))

    sums = [node for node in graph.nodes if isinstance(node.op, g.Add) and only(node.output, g.Softmax)]
    made = {node.output for node in sums}
    masks = {
        name
        for name in graph.buffers
        if only(name, g.Add) and made.issuperset(user.output for user in users.get(name, ()))
    }
    return {node.output: tuple(masks.intersection(node.inputs)) for node in sums}


def one_hot(engine: Engine, index: NDArray[np.integer[Any]], rows: int) -> OneHot:
    """Return public indices as (trivial) shares."""
    return OneHot(engine.constant(np.eye(rows, dtype=np.uint64)[index]))


def _together(engine: Engine, several: Sequence[Fixed | Pending]) -> Fixed | Pending:
    total = several[0]
    for one in several[1:]:
        if isinstance(total, Pending) and isinstance(one, Pending):
            total = total + one
        else:
            first, second = settle(engine, [total, one])
            assert first is not None
            assert second is not None
            total = first + second
    return total


def _held(value: Any, bound: float) -> Any:
    return value.within(bound) if isinstance(value, Fixed) else value


def _last_uses(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return, by node, the intermediate values that nobody reads after it."""
    last: dict[str, str] = {}
    made = {node.output for node in graph.nodes}
    for node in graph.nodes:
        for name in (*node.inputs, node.output):
            if name in made and name not in graph.outputs:
                last[name] = node.output
    at: dict[str, tuple[str, ...]] = {}
    for name, node_name in last.items():
        at[node_name] = (*at.get(node_name, ()), name)
    return at


@contextmanager
def _placed(node: Node) -> Iterator[None]:
    """Say where in the user's model a range does not fit."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where(node)}: {error.message}", remedy=error.remedy) from error
