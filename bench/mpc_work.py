"""The works of ``mpc.py`` on shares: programs for one computing party, by name.

A work takes its shared inputs and returns its shared results; what stands before it (dealing, opening) is not
timed, at any contender. Every value has the range that `BOUNDS` declares: widths follow from it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mpc_inputs import BATCH, LENET, NARROW, RATE, WIDTHS, Arrays
from veilsum.learn import graph as g
from veilsum.learn.builder import Builder
from veilsum.learn.graph import Graph
from veilsum.learn.layers import logistic, mlp
from veilsum.mpc import compare
from veilsum.mpc.engine import HEADROOM, RING_BITS, Engine
from veilsum.mpc.fixed import Fixed, choose, deal
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.optimisers import Sgd
from veilsum.mpc.training import Loss, Trainer, Training

Numbers = dict[str, Fixed]
Work = Callable[[Engine, Numbers], list[Fixed]]

RANGES = Ranges(inputs=1.0, activations=64.0, weights=8.0, gradients=4.0)
BOUNDS: Mapping[str, Mapping[str, float]] = {
    "products": {"x": 8.0, "y": 8.0},
    "matmul": {"x": 1.0, "y": 1.0},
    "relu": {"x": 2.0 ** (HEADROOM - Engine.fraction)},  # no promise
    "relu-narrow": {"x": NARROW},
}
"""What inputs do not exceed; those of models and what is not named: 1 for rows, `RANGES` for weights."""


def shared(engine: Engine, work: str, arrays: Arrays) -> Numbers:
    """Deal the inputs of a work, all by party 0."""
    bounds = BOUNDS.get(work, {"x": RANGES.inputs, "y": 1.0})
    made = {}
    for name, values in arrays.items():
        mine = values if engine.me == 0 else None
        made[name] = deal(engine, mine, 0, values.shape, bounds.get(name, RANGES.weights))
    return made


def products(engine: Engine, given: Numbers) -> list[Fixed]:
    """Multiply element by element."""
    del engine
    return [given["x"] * given["y"]]


def matmul(engine: Engine, given: Numbers) -> list[Fixed]:
    """Multiply two matrices."""
    del engine
    return [given["x"] @ given["y"]]


def relu(engine: Engine, given: Numbers) -> list[Fixed]:
    """Keep what is positive, without any promise about the range."""
    x = given["x"]
    return [choose(engine.flip(engine.msb(x.share, RING_BITS)), x)]


def relu_narrow(engine: Engine, given: Numbers) -> list[Fixed]:
    """Keep what is positive, on as many bits as the declared range has."""
    del engine
    return [compare.relu(given["x"])]


def inference(graph: Graph) -> Work:
    """Return the work that runs rows through a model."""

    def run(engine: Engine, given: Numbers) -> list[Fixed]:
        return [trainer(engine, graph, "cross_entropy", given).predict({"x": given["x"]})]

    return run


def training(graph: Graph, loss: Loss) -> Work:
    """Return the work that learns from all rows once, in their order."""

    def run(engine: Engine, given: Numbers) -> list[Fixed]:
        made, x, y = trainer(engine, graph, loss, given), given["x"], given["y"]
        for at in range(0, x.shape[0], BATCH):
            made.step({"x": x[at : at + BATCH]}, y[at : at + BATCH], 1.0)
        return list(made.weights().values())

    return run


def trainer(engine: Engine, graph: Graph, loss: Loss, given: Numbers, rate: float = RATE) -> Trainer:
    """Return a model whose weights are all inputs but x and y, in the graph's order."""
    weights = [number.share for name, number in given.items() if name not in {"x", "y"}]
    how = Training(loss=loss, optimiser=Sgd(rate=rate), batch=BATCH)
    return Trainer(engine, graph, RANGES, how, dict(zip(graph.weights(), weights, strict=True)))


def lenet() -> Graph:
    """Return the graph of the LeNet-like network."""
    made = Builder()
    x, ones, twos, none = made.input("x", (-1, 1, 28, 28)), (1, 1), (2, 2), ((0, 0), (0, 0))
    for name, padding in (("c1", ((2, 2), (2, 2))), ("c2", none)):
        x = made.node(g.Conv(ones, padding, ones), x, *_weights(made, name))
        x = made.node(g.Relu(), x)
        x = made.node(g.MaxPool(twos, twos, none, ones), x)
    x = made.node(g.Reshape((-1, LENET["f1"][1])), x)
    for name in ("f1", "f2"):
        x = made.node(g.Relu(), made.node(g.Linear(), x, *_weights(made, name)))
    return made.graph([made.node(g.Linear(), x, *_weights(made, "f3"))])


def _weights(made: Builder, name: str) -> Sequence[str]:
    return made.parameter(f"w{name}", LENET[name]), made.parameter(f"b{name}", LENET[name][:1])


WORK: Mapping[str, Work] = {
    "products": products,
    "matmul": matmul,
    "relu": relu,
    "relu-narrow": relu_narrow,
    "logistic": training(logistic(100), "bce"),
    "mlp-inference": inference(mlp(WIDTHS)),
    "mlp-training": training(mlp(WIDTHS), "cross_entropy"),
    "lenet": inference(lenet()),
}
"""All of them."""


def wrong_truncations(engine: Engine, count: int, seed: int) -> int:
    """Truncate values just below ±2^61 by both ways, and count what is beyond one unit of the last place.

    Args:
        engine: of the computing parties.
        count: of elements, at least two.
        seed: of the values, which all parties know; their shares are uniform.

    Returns:
        How many of ``count`` quotients are neither of the two integers beside the exact one.
    """
    rng, drop = np.random.default_rng(seed), engine.fraction
    size = (1 << HEADROOM) - 1 - rng.integers(0, 1 << 20, count)
    values = np.where(rng.integers(0, 2, count).astype(bool), size, -size).astype(np.int64)
    x = engine.constant(values.view(np.uint64))
    half = count // 2
    products = engine.times(x[:half], engine.constant(np.ones(half, np.uint64)))
    fresh = engine.multiply(x[half:], engine.constant(np.ones(count - half, np.uint64)))
    quotients = [engine.reduce(products, drop), engine.truncate(fresh, drop)]
    floors = engine.constant((values >> drop).view(np.uint64))
    opened = engine.open(quotients[0] - floors[:half], quotients[1] - floors[half:])
    return sum(int(np.count_nonzero(one > 1)) for one in opened)


def digits(engine: Engine, widths: Sequence[int], arrays: Arrays, rate: float) -> Fixed:
    """Train on shares from given weights in a given order; return the logits of the rows for tests.

    Args:
        engine: of the computing parties.
        widths: of the layers.
        arrays: ``x``, ``y`` (one-hot), ``tests``, ``order`` (steps, batch) and the initial weights.
        rate: of SGD.
    """
    arrays = dict(arrays)
    order = arrays.pop("order").astype(np.int64)
    given = shared(engine, "digits", arrays)
    tests, x, y = given.pop("tests").within(RANGES.inputs), given.pop("x"), given.pop("y")
    made = trainer(engine, mlp(widths), "cross_entropy", given, rate)
    for rows in order:
        made.step({"x": x.taken(rows)}, y.taken(rows), 1.0)
    return made.predict({"x": tests})
