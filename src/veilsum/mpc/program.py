"""What the computing parties do together with a model: train it epoch by epoch, or run rows through it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.learn.graph import Graph
from veilsum.learn.layers import initialise
from veilsum.mpc import compare, exponential
from veilsum.mpc.engine import Engine
from veilsum.mpc.fixed import Fixed, encode
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.shares import Arith, Words
from veilsum.mpc.training import Trainer, Training, measure
from veilsum.mpc.wire import Wire


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which results anybody gets."""

    weights: bool = False
    metrics: bool = False
    predictions: bool = False


class Work(NamedTuple):
    """Everything public that the computation depends on, the same at all computing parties.

    Attributes:
        learnt: positions of the rows that are learnt from; none if nothing is trained.
        tested: positions of the rows that are measured and predicted.
        targets: whether the rows have targets.
    """

    graph: Graph
    ranges: Ranges
    training: Training
    learnt: NDArray[np.int64]
    tested: NDArray[np.int64]
    wanted: Wanted
    targets: bool = True


class Memory(Protocol):
    """Where checkpoints are kept."""

    epochs: int

    def load(self) -> list[Words]:
        """Return the newest."""

    def save(self, arrays: Sequence[Words]) -> None:
        """Keep one more."""


class Nothing:
    """Keeps no checkpoints."""

    epochs = 0

    def load(self) -> list[Words]:
        """There is none."""
        return []

    def save(self, arrays: Sequence[Words]) -> None:
        """Forget it."""
        del arrays
        self.epochs += 1


def train(
    engine: Engine,
    wire: Wire,
    work: Work,
    x: Fixed,
    y: Fixed,
    weights: Arith | None,
    memory: Memory,
    tell: Callable[[int], None],
) -> dict[str, Arith]:
    """Train from the last checkpoint on; return the wanted results, shared.

    Args:
        engine: of the shares.
        wire: of the engine: it counts by part of the work.
        work: what to do.
        x: rows as the graph's one input.
        y: targets (rows, outputs).
        weights: initial ones end to end; None for public ones from the seed.
        memory: keeps checkpoints.
        tell: is told the number of epochs done.
    """
    trainer = _trainer(engine, work, weights)
    (name,) = work.graph.inputs
    curve = [engine.constant(np.zeros((0, 2), np.uint64))]
    if memory.epochs:
        *state, numbers = memory.load()
        trainer.restore(state)
        curve = [Arith(numbers)]
    inputs, target = {name: x.taken(work.learnt)}, y.taken(work.learnt)
    measured = work.wanted.metrics and len(work.tested) > 0
    for epoch in range(memory.epochs, work.training.epochs):
        with wire.step("epochs"):
            trainer.epoch(epoch, inputs, target)
        if measured:
            with wire.step("metrics"):
                curve.append(_measured(trainer, work, x, y))
        with wire.step("checks"):
            engine.verify()
        curve = [Arith.joined(curve)]
        memory.save([*trainer.checkpoint(), curve[0].parts])
        tell(epoch + 1)
    results = {"metrics": curve[0]} if measured else {}
    with wire.step("results"):
        if len(work.tested) and (work.wanted.predictions or measured):
            results |= _answers(trainer, work, x, y if measured else None)
        if work.wanted.weights:
            final = trainer.weights()
            flat = [final[one].share.reshape(-1) for one in work.graph.weights()]
            results["weights"] = Arith.joined(flat)
        engine.verify()
    return results


def predict(
    engine: Engine,
    wire: Wire,
    work: Work,
    x: Fixed,
    y: Fixed | None,
    weights: Arith,
    tell: Callable[[int], None],
) -> dict[str, Arith]:
    """Run all rows through a model; arguments as for `train`."""
    trainer = _trainer(engine, work, weights)
    results = {}
    if work.wanted.metrics and y is not None:
        with wire.step("metrics"):
            results["metrics"] = _measured(trainer, work, x, y)
    with wire.step("results"):
        results |= _answers(trainer, work, x, y if work.wanted.metrics else None)
        engine.verify()
    tell(1)
    return results


def initial(work: Work) -> Words:
    """Return public initial weights end to end, as ring elements."""
    model = initialise(work.graph, work.training.seed)
    flat = [np.ravel(model.weights[name]) for name in work.graph.weights()]
    return encode(np.concatenate(flat), Engine.fraction)


def _trainer(engine: Engine, work: Work, weights: Arith | None) -> Trainer:
    flat = engine.constant(initial(work)) if weights is None else weights
    shares, at = {}, 0
    for name, shape in work.graph.weights().items():
        size = int(np.prod(shape, dtype=np.int64))
        shares[name] = flat[at : at + size].reshape(*shape)
        at += size
    return Trainer(engine, work.graph, work.ranges, work.training, shares)


def _measured(trainer: Trainer, work: Work, x: Fixed, y: Fixed) -> Arith:
    """Return the sums over rows of losses and of right answers, (1, 2); for ``mse`` twice the loss."""
    (name,) = work.graph.inputs
    output = trainer.predict({name: x.taken(work.tested)})
    sums = measure(work.training.loss, output, y.taken(work.tested))
    right = sums.loss if sums.right is None else sums.right
    return Fixed.joined([sums.loss, right]).share.reshape(1, 2)


def _answers(trainer: Trainer, work: Work, x: Fixed, y: Fixed | None) -> dict[str, Arith]:
    """Return probabilities (or numbers) of the tested rows, and the confusion counts if there are targets."""
    (name,) = work.graph.inputs
    output = trainer.predict({name: x.taken(work.tested)})
    engine, loss = trainer.engine, work.training.loss
    results = {}
    if y is not None and loss != "mse":
        truth = y.taken(work.tested)
        if loss == "cross_entropy":
            answered = compare.argmax(output, 1)
        else:
            bit = Fixed(engine, engine.compose(compare.positive(output)).scaled(1 << engine.fraction), 1.0)
            answered, truth = Fixed.joined([1.0 - bit, bit], 1), Fixed.joined([1.0 - truth, truth], 1)
        # zeros and ones: sums of products are counts
        results["confusion"] = engine.matmul(truth.share.T, answered.share, engine.fraction)
    if work.wanted.predictions:
        if loss == "cross_entropy":
            output = exponential.softmax(output, 1)
        elif loss == "bce":
            output = exponential.sigmoid(output)
        results["predictions"] = output.share
    return results
