"""What is foretold is what is said: every byte and round of every party, before anything runs."""

import tracemalloc

import numpy as np
import pytest

from mpc.twins import on_grid
from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn import layers as networks
from veilsum.learn.builder import Builder
from veilsum.mpc import fixed, program
from veilsum.mpc.cost import estimate
from veilsum.mpc.engine import Link
from veilsum.mpc.engines import ENGINES
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.optimisers import Adam, Schedule, Sgd
from veilsum.mpc.program import Nothing, Wanted, Work
from veilsum.mpc.shares import Arith
from veilsum.mpc.training import Training
from veilsum.mpc.wire import DryWire
from veilsum.testing import computing
from veilsum.testing.computing import together, wires

FAST, SLOW = Link(round_trip=1e-9, bandwidth=1e9), Link(round_trip=0.05, bandwidth=1e6)
EVERYTHING = Wanted(weights=True, metrics=True, predictions=True)


def normalised():
    """Return a network with statistics that training moves, dropout and a constant."""
    made = Builder()
    x = made.input("x", (-1, 4))
    x = made.node(g.Linear(), x, made.parameter("w", (3, 4)), made.parameter("b", (3,)))
    x = made.node(
        g.BatchNorm(),
        *(x, made.parameter("s", (3,)), made.parameter("t", (3,))),
        *(made.buffer("m", (3,)), made.buffer("v", (3,))),
    )
    x = made.node(g.Dropout(0.3), made.node(g.Gelu(), x))
    return made.graph([made.node(g.Linear(), x, made.parameter("o", (2, 3)))])


def work(graph, learnt, tested, wanted=EVERYTHING, ranges=None, **how):
    rows = np.arange(learnt + tested)
    return Work(graph, ranges or Ranges(), Training(**how), rows[:learnt], rows[learnt:], wanted)


def played(name, what, link, *, given):
    """Return what every party really sends and how many rounds that takes."""
    ((_, value),) = what.graph.inputs.items()
    rows = int(max([*what.learnt, *what.tested])) + 1
    outputs = 1 if what.training.loss == "bce" else 2
    rng = np.random.default_rng(0)
    x = on_grid(rng.uniform(-1, 1, (rows, *value.shape[1:])))
    y = np.eye(outputs + 1)[rng.integers(0, outputs, rows)][:, :outputs]
    kind = ENGINES[name]

    def one(engine):
        shares = [fixed.deal(engine, v if engine.me == 0 else None, 0, v.shape, 1.0) for v in (x, y)]
        weights = None
        if given:
            flat = program.initial(what)
            weights = engine.deal(flat if engine.me == 1 else None, 1, flat.shape)
        engine.verify()
        before = engine.wire.total - type(engine.wire.total)()
        if len(what.learnt):
            program.train(engine, engine.wire, what, *shares, weights, Nothing(), lambda _: None)
        else:
            program.predict(engine, engine.wire, what, *shares, weights, lambda _: None)
        return engine.wire.total - before

    made = getattr(computing, name)
    found = together(one, lambda wire: made(wire, 1, link), ends=wires(kind.parties))
    (rounds,) = {traffic.rounds for traffic in found}
    return rounds, tuple(traffic.sent for traffic in found), (rows, outputs)


MLP = networks.mlp((4, 5, 2))
LINEAR = networks.mlp((4, 2))
LOGISTIC = networks.logistic(4)
IMAGES = networks.convnet((1, 4, 4), 2, channels=(2,), hidden=(3,), kernel=3)
CASES = {
    "one epoch of less than a batch": (work(MLP, 3, 0, epochs=1, batch=4), FAST, False),
    "one epoch of one batch": (work(MLP, 4, 2, epochs=1, batch=4), SLOW, True),
    "one epoch of many, and a rest": (work(MLP, 19, 0, epochs=1, batch=4), FAST, False),
    "epochs of a batch and a rest": (work(MLP, 5, 2, epochs=3, batch=4), SLOW, False),
    "epochs of less than a batch": (work(LOGISTIC, 3, 2, epochs=4, batch=4, loss="bce"), FAST, False),
    "epochs of whole batches": (work(LOGISTIC, 12, 2, epochs=2, batch=4, loss="bce"), SLOW, True),
    "epochs of many, and a rest": (work(MLP, 14, 2, epochs=3, batch=4, loss="mse"), FAST, False),
    "momentum, decay, clipping": (
        work(MLP, 9, 0, epochs=2, batch=4, optimiser=Sgd(momentum=0.9, decay=0.01, clip=1.0)),
        SLOW,
        False,
    ),
    "adam and a schedule": (
        work(LINEAR, 9, 0, epochs=3, batch=4, optimiser=Adam(), schedule=Schedule(kind="cosine"), loss="mse"),
        SLOW,
        False,
    ),
    "only weights": (work(LINEAR, 7, 3, Wanted(weights=True), epochs=2, batch=4), FAST, False),
    "statistics and dropout": (work(normalised(), 9, 2, epochs=2, batch=4, loss="mse"), SLOW, False),
    "images": (work(IMAGES, 7, 2, Wanted(predictions=True), epochs=1, batch=3), SLOW, False),
    "predictions": (work(MLP, 0, 9), FAST, True),
    "predictions of images": (work(IMAGES, 0, 3, Wanted(predictions=True)), SLOW, True),
}
FOUR = [
    "epochs of many, and a rest",
    "predictions",
]


def told_and_found(engine, name):
    what, link, given = CASES[name]
    rounds, sent, (rows, outputs) = played(engine, what, link, given=given)
    told = estimate(engine, what, rows, outputs, link, given=given)
    assert told.rounds == rounds
    assert told.seconds == pytest.approx(
        told.computing + rounds * link.round_trip + max(sent) / link.bandwidth
    )
    return told.sent, sent


@pytest.mark.parametrize("name", CASES)
def test_bytes_and_rounds_are_foretold_exactly(name):
    told, sent = told_and_found("rss3", name)
    assert told == sent


@pytest.mark.parametrize("name", FOUR)
def test_of_four_parties_too(name):
    told, sent = told_and_found("rss4", name)
    assert told == sent


def peak(what, rows, outputs):
    """Return the largest memory that one party's arrays take in the whole computation."""
    ((_, value),) = what.graph.inputs.items()
    kind, wire = ENGINES["rss3"], DryWire(0, 3)
    tracemalloc.start()
    try:
        engine = kind(wire, [bytes(16), bytes(16)], FAST)
        x, y = (
            Fixed(engine, Arith(np.zeros((2, rows, *rest), np.uint64)), 1.0)
            for rest in (value.shape[1:], (outputs,))
        )
        program.train(engine, wire, what, x, y, None, Nothing(), lambda _: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("graph", "learnt", "batch"),
    [
        (networks.mlp((40, 64, 64, 2)), 2048, 256),
        (networks.mlp((200, 8, 2)), 700, 128),
        (networks.convnet((1, 12, 12), 2, channels=(3,), hidden=(), kernel=3), 60, 24),
    ],
)
def test_memory_is_foretold(graph, learnt, batch):
    what = work(graph, learnt, 64, epochs=1, batch=batch)
    told = estimate("rss3", what, learnt + 64, 2, FAST, given=False)
    found = peak(what, learnt + 64, 2)
    assert abs(told.memory - found) < 0.2 * found


def test_a_model_with_constants_is_foretold():
    made = Builder()
    x = made.input("x", (-1, 4))
    graph = made.graph([made.node(g.Add(), x, made.buffer("constant", (4,)))])
    told = estimate("rss3", work(graph, 0, 5, Wanted(predictions=True)), 5, 0, FAST, given=True)
    assert told.rounds > 0


@pytest.mark.parametrize(
    ("ranges", "place"),
    [
        (Ranges(weights=2.0**12, activations=2.0**20), "layers.1"),
        (Ranges(weights=2.0**12, activations=16.0, gradients=2.0**20), "layers.1"),
    ],
)
def test_ranges_that_cannot_hold_are_refused_before_anything_runs(ranges, place):
    deep = networks.mlp((4, 5, 5, 2))
    with pytest.raises(ConfigError, match=place):
        estimate("rss3", work(deep, 8, 2, ranges=ranges, epochs=1), 10, 2, FAST, given=False)
