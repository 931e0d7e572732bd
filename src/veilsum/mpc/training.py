"""Training on shares: losses, mini-batches, epochs, and the state that a checkpoint keeps."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from veilsum.errors import ConfigError, DataError
from veilsum.learn.graph import Graph
from veilsum.mpc import compare, exponential
from veilsum.mpc.engine import Engine
from veilsum.mpc.fixed import Fixed, choose
from veilsum.mpc.gradients import OneHot, Ranges, Value
from veilsum.mpc.network import Network
from veilsum.mpc.optimisers import Optimiser, Schedule, Sgd, State, flat
from veilsum.mpc.shares import Arith, Words

Loss = Literal["cross_entropy", "bce", "mse"]


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained.

    Attributes:
        loss: ``cross_entropy`` (of logits, classes as one-hot rows), ``bce`` (of logits), ``mse``.
        optimiser: how weights follow gradients.
        schedule: how the rate changes.
        epochs: how often all rows are learnt from.
        batch: rows of a step.
        seed: of the public order of rows and of dropout.
    """

    loss: Loss = "cross_entropy"
    optimiser: Optimiser = Sgd()
    schedule: Schedule = Schedule()
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    batch: Annotated[int, msgspec.Meta(ge=1)] = 64
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class Metrics(NamedTuple):
    """Sums over rows, shared.

    Attributes:
        loss: (1,).
        right: rows whose largest output (or sign) is that of the target, (1,); None for ``mse``.
    """

    loss: Fixed
    right: Fixed | None


def gradient_of(loss: Loss, output: Fixed, target: Fixed) -> Fixed:
    """Return the gradient of the loss of each row by the model's output."""
    if loss == "cross_entropy":
        return exponential.softmax(output, output.ndim - 1) - target
    if loss == "bce":
        return exponential.sigmoid(output) - target
    return (output - target) * (2.0 / output.shape[-1])


def measure(loss: Loss, output: Fixed, target: Fixed) -> Metrics:
    """Return the sums of losses and of right answers over rows."""
    axis = output.ndim - 1
    if loss == "mse":
        off = output - target
        return Metrics(_total((off * off).mean(axis)), None)
    if loss == "bce":
        positive = compare.positive(output)
        above = choose(positive, output)
        # log(1 + exp(z)) - z y = max(z, 0) + log(1 + exp(-|z|)) - z y
        soft = exponential.log(exponential.exp(output - above * 2.0, 0.0) + 1.0, least=0.5)
        # two bits are equal where 1 - a - t + 2 a t is one
        engine = output.engine
        answers = engine.compose(positive)
        both = Fixed(engine, engine.multiply(answers, target.share), 1.0)
        same = 1.0 - Fixed(engine, answers.scaled(1 << engine.fraction), 1.0) - target + both * 2.0
        return Metrics(_total(above + soft - output * target), _total(same.within(1.0)))
    picked = (target * exponential.log_softmax(output, axis)).sum(axis)
    right = (compare.argmax(output, axis) * target).sum(axis).within(1.0)
    return Metrics(_total(-picked), _total(right))


class Trainer:
    """Trains one model on one engine; all computing parties do the same.

    Args:
        weights: shares of all parameters and buffers, by name.
    """

    def __init__(
        self, engine: Engine, graph: Graph, ranges: Ranges, how: Training, weights: Mapping[str, Arith]
    ) -> None:
        self.engine, self.how, self.ranges = engine, how, ranges
        self.network = Network(engine, graph, ranges)
        self.names = [name for name, p in graph.parameters.items() if p.trainable]
        self._shapes = {name: graph.parameters[name].shape for name in self.names}
        parts = [weights[name].reshape(-1) for name in self.names]
        nothing = engine.constant(np.zeros(0, np.uint64))
        self.flat = Fixed(engine, Arith.joined([nothing, *parts]), ranges.weights)
        self.still = {
            name: Fixed(engine, share, self.network.limits[name])
            for name, share in weights.items()
            if name not in self._shapes
        }
        self.state: State = how.optimiser.begin(self.flat)
        self.steps = 0

    def weights(self) -> dict[str, Fixed]:
        """Return all parameters and buffers as they are now."""
        found, at = dict(self.still), 0
        for name in self.names:
            size = int(np.prod(self._shapes[name], dtype=np.int64))
            found[name] = self.flat[at : at + size].reshape(*self._shapes[name])
            at += size
        return found

    def step(self, inputs: Mapping[str, Value], target: Fixed, rate: float) -> None:
        """Learn from one mini-batch.

        Args:
            inputs: of the graph, rows first.
            target: (rows, outputs).
            rate: factor of the schedule.

        Raises:
            ConfigError: the model has nothing to train, or a range does not hold.
        """
        if not self.names:
            raise ConfigError("no weight of the model is trained", remedy="ask for predictions instead")
        self.steps += 1
        self.engine.begin()
        coins = np.random.default_rng((self.how.seed, self.steps))
        run = self.network.forward(self.weights(), inputs, coins)
        (name,) = run.outputs
        grad = gradient_of(self.how.loss, run.outputs[name], target)
        found = self.network.backward(run, {name: grad.within(self.ranges.gradients)})
        gradient = flat(self.engine, [found[name] for name in self.names])
        moved = self.how.optimiser.step(self.flat, self.state, gradient, target.shape[0], rate, self.steps)
        self.flat = moved
        self.still.update(run.moved)

    def epoch(self, number: int, inputs: Mapping[str, Value], target: Fixed) -> None:
        """Learn from all rows once, in a public random order that is the epoch's own."""
        order = np.random.default_rng((self.how.seed, 0, number)).permutation(target.shape[0])
        rate = self.how.schedule.at(number, self.how.epochs)
        for at in range(0, len(order), self.how.batch):
            rows = order[at : at + self.how.batch]
            self.step(
                {name: rows_of(value, rows) for name, value in inputs.items()}, target.taken(rows), rate
            )

    def predict(self, inputs: Mapping[str, Value], batch: int = 1024) -> Fixed:
        """Return the model's output for all rows."""
        self.engine.begin()
        weights = self.weights()
        count = next(iter(inputs.values())).shape[0]
        parts: list[Fixed] = []
        for at in range(0, count, batch):
            rows = np.arange(at, min(at + batch, count))
            run = self.network.forward(weights, {n: rows_of(v, rows) for n, v in inputs.items()})
            parts.extend(run.outputs.values())
        return Fixed.joined(parts)

    def checkpoint(self) -> list[Words]:
        """Return this party's shares of everything that training changes."""
        numbers = [self.flat, *self.state.values(), *self.still.values()]
        return [np.array([self.steps], np.uint64), *(one.share.parts for one in numbers)]

    def restore(self, saved: Sequence[Words]) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it is of another model.
        """
        (steps, *parts) = saved
        numbers = [self.flat, *self.state.values(), *self.still.values()]
        if [one.share.parts.shape for one in numbers] != [part.shape for part in parts]:
            raise DataError("the checkpoint is of another model", remedy="run the job again with --fresh")
        restored = [Fixed(self.engine, Arith(p), n.bound) for n, p in zip(numbers, parts, strict=True)]
        self.steps = int(steps[0])
        self.flat = restored[0]
        self.state = dict(zip(self.state, restored[1 : 1 + len(self.state)], strict=True))
        self.still = dict(zip(self.still, restored[1 + len(self.state) :], strict=True))


def rows_of(value: Value, rows: Any) -> Value:
    """Return some rows of an input."""
    if isinstance(value, OneHot):
        return OneHot(value.share.taken(rows))
    return value.taken(rows)


def _total(rows: Fixed) -> Fixed:
    """Return the sum of all rows, (1,)."""
    return rows.sum().reshape(1)
