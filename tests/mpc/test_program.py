"""What the computing parties do together gives the results that the job asks for, against numpy."""

from types import SimpleNamespace

import numpy as np
import pytest

from mpc.twins import on_grid
from veilsum.learn import layers as networks
from veilsum.learn import twin
from veilsum.learn.model import Model
from veilsum.mpc import fixed, program
from veilsum.mpc.fixed import decode, encode
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.optimisers import Sgd
from veilsum.mpc.plain import Plain
from veilsum.mpc.program import Nothing, Wanted, Work
from veilsum.mpc.training import Training
from veilsum.mpc.wire import DryWire
from veilsum.testing.computing import rss3, together

CROSS, BCE, MSE = "cross_entropy", "bce", "mse"
OUTPUTS = {CROSS: 3, BCE: 1, MSE: 2}
EVERYTHING = Wanted(weights=True, metrics=True, predictions=True)


def data(loss, rows):
    rng = np.random.default_rng(3)
    x = on_grid(rng.uniform(-1, 1, (rows, 4)))
    hidden = x @ rng.normal(size=(4, 3))
    if loss == CROSS:
        return x, np.eye(3)[hidden.argmax(1)]
    return x, (hidden[:, :1] > 0).astype(float) if loss == BCE else on_grid(np.tanh(hidden[:, :2]))


def work(loss, learnt, tested, wanted=EVERYTHING, **how):
    """Learn from the later rows and test the earlier, in an order of their own."""
    rows = np.random.default_rng(1).permutation(learnt + tested)
    graph = networks.mlp((4, 6, OUTPUTS[loss]), "tanh")
    training = Training(loss=loss, **{"optimiser": Sgd(rate=0.5), "batch": 16, "epochs": 3} | how)
    return Work(graph, Ranges(), training, rows[:learnt], rows[learnt:], wanted)


class Kept(Nothing):
    """Keeps checkpoints, and ends the work after some."""

    def __init__(self, last=None):
        self.saved, self.last = [], last

    def load(self):
        return self.saved[-1]

    def save(self, arrays):
        self.saved.append([array.copy() for array in arrays])
        super().save(arrays)
        if self.epochs == self.last:
            raise KeyboardInterrupt


def run(engine, what, x, y, *, given=None, memory=None):
    """Return the opened results, and what was told."""
    wire = getattr(engine, "wire", None) or DryWire(0, 1)
    told = []

    def dealt(values):
        return fixed.deal(engine, values if engine.me == 0 else None, 0, values.shape, 1.0)

    weights = None
    if given is not None:
        weights = engine.deal(
            given if engine.me == 2 % engine.parties else None, 2 % engine.parties, given.shape
        )
    x, y = dealt(x), None if y is None else dealt(y)
    if len(what.learnt):
        found = program.train(engine, wire, what, x, y, weights, memory or Nothing(), told.append)
    else:
        found = program.predict(engine, wire, what, x, y, weights, told.append)
    opened = engine.open(*found.values())
    return {name: decode(ring, 18) for name, ring in zip(found, opened, strict=True)}, told


def model_of(what, weights):
    """Return the model of weights end to end."""
    found, at = {}, 0
    for name, shape in what.graph.weights().items():
        size = int(np.prod(shape))
        found[name] = weights[at : at + size].reshape(shape)
        at += size
    assert at == len(weights)
    return Model(what.graph, found)


def expected(loss, model, x, y):
    """Return predictions, the sums of losses and right answers, and the confusion counts."""
    (z,) = twin.forward(model, {"x": x})
    if loss == MSE:
        total = ((z - y) ** 2).mean(1).sum()
        return z, [total, total], None
    if loss == CROSS:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        truth, answered = y.argmax(1), z.argmax(1)
        total = -np.log(p[y == 1]).sum()
    else:
        p = 1 / (1 + np.exp(-z))
        truth, answered = y[:, 0].astype(int), (z[:, 0] >= 0).astype(int)
        total = -np.log(np.where(y == 1, p, 1 - p)).sum()
    confusion = np.zeros((max(p.shape[1], 2),) * 2)
    np.add.at(confusion, (truth, answered), 1)
    return p, [total, (truth == answered).sum()], confusion


def check(loss, found, model, x, y):
    p, metrics, confusion = expected(loss, model, x, y)
    np.testing.assert_allclose(found["predictions"], p, atol=2e-3)
    np.testing.assert_allclose(found["metrics"][-1], metrics, rtol=5e-3, atol=0.02)
    if confusion is None:
        assert "confusion" not in found
    else:
        assert np.array_equal(np.round(found["confusion"]), confusion)
        assert abs(found["metrics"][-1, 1] - np.trace(confusion)) < 1e-4


@pytest.mark.parametrize("loss", OUTPUTS)
@pytest.mark.parametrize("parties", [1, 3])
def test_results_of_training_are_those_of_the_trained_weights(loss, parties):
    what, (x, y) = work(loss, 50, 21), data(loss, 71)

    def whole(engine):
        return run(engine, what, x, y)

    runs = [whole(Plain())] if parties == 1 else together(whole, rss3)
    for found, told in runs:
        assert told == [1, 2, 3]
        assert found["metrics"].shape == (3, 2)
        model = model_of(what, found["weights"])
        assert not np.allclose(found["weights"], decode(program.initial(what), 18), atol=0.05)
        check(loss, found, model, x[what.tested], y[what.tested])
    for found, _ in runs[1:]:
        for name, values in runs[0][0].items():
            assert np.array_equal(found[name], values)


@pytest.mark.parametrize("loss", OUTPUTS)
@pytest.mark.parametrize("parties", [1, 3])
def test_results_of_a_query_are_those_of_the_given_model(loss, parties):
    what, (x, y) = work(loss, 0, 33), data(loss, 33)
    given = encode(np.random.default_rng(2).uniform(-1.5, 1.5, len(program.initial(what))), 18)

    def whole(engine):
        return run(engine, what, x, y, given=given)

    found, told = whole(Plain()) if parties == 1 else together(whole, rss3)[0]
    assert told == [1]
    assert "weights" not in found
    assert found["metrics"].shape == (1, 2)
    check(loss, found, model_of(what, decode(given, 18)), x[what.tested], y[what.tested])


def test_rows_without_targets_are_predicted():
    what, (x, _) = work(CROSS, 0, 20), data(CROSS, 20)
    given = program.initial(what)
    found, _ = run(Plain(), what, x, None, given=given)
    assert set(found) == {"predictions"}
    p = np.exp(twin.forward(model_of(what, decode(given, 18)), {"x": x[what.tested]})[0])
    np.testing.assert_allclose(found["predictions"], p / p.sum(1, keepdims=True), atol=2e-3)


@pytest.mark.parametrize(
    ("wanted", "tested", "names"),
    [
        (Wanted(weights=True), 9, {"weights"}),
        (Wanted(predictions=True), 9, {"predictions"}),
        (Wanted(metrics=True), 9, {"metrics", "confusion"}),
        (EVERYTHING, 0, {"weights"}),
        (Wanted(), 9, set()),
    ],
)
def test_nothing_but_what_is_wanted_is_computed(wanted, tested, names):
    what, (x, y) = work(CROSS, 30, tested, wanted, epochs=1), data(CROSS, 30 + tested)
    engine = Plain()
    shares = [fixed.deal(engine, v, 0, v.shape, 1.0) for v in (x, y)]
    found = program.train(engine, DryWire(0, 1), what, *shares, None, Nothing(), lambda _: None)
    assert set(found) == names


def test_public_initial_weights_are_those_of_the_seed():
    for seed in (0, 7):
        what = work(BCE, 10, 0, seed=seed)
        model = networks.initialise(what.graph, seed)
        flat = np.concatenate([model.weights[name].ravel() for name in what.graph.weights()])
        assert np.abs(decode(program.initial(what), 18) - flat).max() <= 2.0**-19


def test_training_goes_on_from_given_weights():
    what, (x, y) = work(BCE, 30, 0, Wanted(weights=True), epochs=1, optimiser=Sgd(rate=1e-4)), data(BCE, 30)
    given = encode(np.linspace(-1, 1, len(program.initial(what))), 18)
    found, _ = run(Plain(), what, x, y, given=given)
    assert np.abs(found["weights"] - decode(given, 18)).max() < 1e-3


@pytest.mark.parametrize("stop", [1, 2])
def test_a_killed_run_goes_on_to_the_same_results(stop):
    what, (x, y) = work(CROSS, 50, 21, optimiser=Sgd(rate=0.3, momentum=0.8)), data(CROSS, 71)
    whole, _ = run(Plain(), what, x, y)
    memory = Kept(stop)
    with pytest.raises(KeyboardInterrupt):
        run(Plain(), what, x, y, memory=memory)
    memory.last = None
    again, told = run(Plain(), what, x, y, memory=memory)
    assert told == list(range(stop + 1, 4))
    for name, values in whole.items():
        assert np.array_equal(again[name], values)
    done, told = run(Plain(), what, x, y, memory=memory)
    assert told == []
    assert np.array_equal(done["predictions"], whole["predictions"])


def test_traffic_is_counted_by_part_of_the_work():
    what, (x, y) = work(CROSS, 30, 9, epochs=2), data(CROSS, 39)

    def whole(engine):
        run(engine, what, x, y)
        return SimpleNamespace(steps=engine.wire.by_step, total=engine.wire.total)

    for found in together(whole, rss3):
        assert {"epochs", "metrics", "checks", "results"} <= set(found.steps)
        assert sum(part.sent for part in found.steps.values()) == found.total.sent
        assert found.steps["epochs"].sent > found.steps["metrics"].sent > 0
