"""Training on shares follows training in floating point: losses, optimisers, schedules, checkpoints."""

import math

import numpy as np
import pytest

from learn import zoo
from mpc.twins import ULP, on_grid
from veilsum.errors import ConfigError, DataError
from veilsum.learn import graph as g
from veilsum.learn import layers as networks
from veilsum.learn.builder import Builder
from veilsum.mpc import fixed
from veilsum.mpc.gradients import Pending, Ranges, finish
from veilsum.mpc.optimisers import Adam, Schedule, Sgd, blend, clipped
from veilsum.mpc.plain import Plain
from veilsum.mpc.training import Trainer, Training, gradient_of, measure
from veilsum.testing.computing import rss3, together

TORCH = pytest.mark.needs("python:torch")
CROSS, BCE, MSE = "cross_entropy", "bce", "mse"


def data(loss, rows=90, seed=0):
    """Return inputs and targets: of three classes, of yes and no, or two numbers."""
    rng = np.random.default_rng(seed)
    x = on_grid(rng.uniform(-1, 1, (rows, 5)))
    hidden = np.tanh(1.5 * x @ rng.normal(size=(5, 3)))
    if loss == CROSS:
        return x, np.eye(3)[hidden.argmax(1)]
    if loss == BCE:
        return x, (hidden[:, :1] + 0.2 * rng.normal(size=(rows, 1)) > 0).astype(float)
    return x, on_grid(hidden[:, :2])


def graph_of(loss, hidden=(6,)):
    return networks.mlp((5, *hidden, {CROSS: 3, BCE: 1, MSE: 2}[loss]), "tanh")


def shared(engine, values, bound=1.0):
    return fixed.deal(engine, values if engine.me == 0 else None, 0, values.shape, bound)


def trainer(engine, graph, how, seed=0, ranges=None):
    model = networks.initialise(graph, seed)
    weights = {name: shared(engine, on_grid(w), 8.0).share for name, w in model.weights.items()}
    return Trainer(engine, graph, ranges or Ranges(), how, weights)


def trained(engine, graph, how, x, y, epochs=None):
    """Return a trainer after its epochs, and the sums of losses and right answers after each, opened."""
    made, x, y = trainer(engine, graph, how), shared(engine, x), shared(engine, y)
    curve = []
    for epoch in range(how.epochs if epochs is None else epochs):
        made.epoch(epoch, {"x": x}, y)
        curve.append(measured(made, how.loss, x, y))
    engine.verify()
    return made, np.array(curve)


def measured(made, loss, x, y):
    sums = measure(loss, made.predict({"x": x}), y)
    opened = fixed.reveal(*(one for one in sums if one is not None))
    return [float(one[0]) for one in opened]


def weights(made):
    now = made.weights()
    return dict(zip(now, fixed.reveal(*now.values()), strict=True))


class Float:
    """The same training by torch in double precision, with the same order of rows."""

    def __init__(self, graph, how, optimiser=None, seed=0):
        self.torch, self.how = zoo.torch(), how
        model = networks.initialise(graph, seed)
        self.weights = {
            name: self.torch.tensor(on_grid(w.astype(np.float64)), requires_grad=True)
            for name, w in model.weights.items()
        }
        chosen = how.optimiser
        if optimiser is None:
            optimiser = self.torch.optim.SGD(
                self.weights.values(), chosen.rate, momentum=chosen.momentum, weight_decay=chosen.decay
            )
        else:
            optimiser = optimiser(self.weights.values())
        self.optimiser, self.rate = optimiser, chosen.rate

    def forward(self, x):
        count = len(self.weights) // 2
        for at in range(count):
            x = x @ self.weights[f"layers.{at}.weight"].T + self.weights[f"layers.{at}.bias"]
            x = self.torch.tanh(x) if at < count - 1 else x
        return x

    def loss(self, x, y, how="sum"):
        functional, output = self.torch.nn.functional, self.forward(x)
        if self.how.loss == CROSS:
            return functional.cross_entropy(output, y, reduction=how)
        if self.how.loss == BCE:
            return functional.binary_cross_entropy_with_logits(output, y, reduction=how)
        return functional.mse_loss(output, y, reduction=how) / (y.shape[-1] if how == "sum" else 1)

    def right(self, x, y):
        output = self.forward(x)
        if self.how.loss == CROSS:
            return float((output.argmax(1) == y.argmax(1)).sum())
        return float(((output >= 0) == (y > 0.5)).sum())

    def train(self, x, y):
        """Return the sums of losses and right answers after every epoch."""
        x, y, curve = self.torch.tensor(x), self.torch.tensor(y), []
        for epoch in range(self.how.epochs):
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate * self.how.schedule.at(epoch, self.how.epochs)
            order = np.random.default_rng((self.how.seed, 0, epoch)).permutation(len(x))
            for at in range(0, len(x), self.how.batch):
                rows = order[at : at + self.how.batch]
                self.optimiser.zero_grad()
                self.loss(x[rows], y[rows], "mean").backward()
                if self.how.optimiser.clip:
                    self.torch.nn.utils.clip_grad_norm_(self.weights.values(), self.how.optimiser.clip)
                self.optimiser.step()
            found = [self.loss(x, y).item()]
            curve.append(found if self.how.loss == MSE else [*found, self.right(x, y)])
        return np.array(curve)


def alike(mine, theirs):
    """Losses within 2 %, right answers within 2 rows."""
    np.testing.assert_allclose(mine[:, 0], theirs[:, 0], rtol=0.02)
    if mine.shape[1] > 1:
        assert np.abs(mine[:, 1] - theirs[:, 1]).max() <= 2


HOW = {
    "plain": (CROSS, Sgd(rate=0.5), Schedule()),
    "momentum": (CROSS, Sgd(rate=0.2, momentum=0.9), Schedule()),
    "decay": (BCE, Sgd(rate=0.4, decay=0.05), Schedule()),
    "momentum and decay": (MSE, Sgd(rate=0.1, momentum=0.8, decay=0.01), Schedule()),
    "clipped": (CROSS, Sgd(rate=1.0, clip=0.15), Schedule()),
    "clipped hard": (MSE, Sgd(rate=5.0, clip=0.02), Schedule()),
    "clipped never": (BCE, Sgd(rate=0.5, clip=50.0), Schedule()),
    "all of it": (BCE, Sgd(rate=0.3, momentum=0.7, decay=0.02, clip=0.3), Schedule(kind="cosine")),
    "steps": (CROSS, Sgd(rate=0.8), Schedule(kind="step", every=5, factor=0.3)),
    "numbers": (MSE, Sgd(rate=0.3), Schedule()),
}


@TORCH
@pytest.mark.parametrize("name", HOW)
def test_sgd_follows_that_of_torch(name):
    loss, optimiser, schedule = HOW[name]
    how = Training(loss=loss, optimiser=optimiser, schedule=schedule, epochs=16, batch=20, seed=3)
    x, y = data(loss)  # 90 rows: the last batch has 10; 80 steps
    graph = graph_of(loss)
    made, curve = trained(Plain(), graph, how, x, y)
    twin = Float(graph, how)
    alike(curve, twin.train(x, y))
    assert made.steps == 80
    assert curve[-1, 0] < curve[0, 0]
    for weight, value in weights(made).items():
        np.testing.assert_allclose(value, twin.weights[weight].detach().numpy(), atol=0.03)


@TORCH
@pytest.mark.parametrize("loss", [CROSS, BCE, MSE])
@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_adam_follows_that_of_torch(loss, clip):
    how = Training(
        loss=loss,
        optimiser=Adam(rate=0.02, clip=clip),
        schedule=Schedule(kind="cosine"),
        epochs=16,
        batch=20,
        seed=3,
    )
    x, y = data(loss)
    graph = graph_of(loss)
    _, curve = trained(Plain(), graph, how, x, y)
    alike(curve, Float(graph, how, lambda w: zoo.torch().optim.Adam(w, 0.02, eps=1e-4)).train(x, y))


@pytest.mark.parametrize(
    ("loss", "optimiser"),
    [(CROSS, Sgd(rate=0.5, momentum=0.5, clip=0.5)), (BCE, Adam(rate=0.02)), (MSE, Sgd(rate=0.3))],
)
def test_three_parties_learn_what_one_does(loss, optimiser):
    how = Training(loss=loss, optimiser=optimiser, epochs=3, batch=32)
    x, y = data(loss, 80)
    graph = graph_of(loss, (4,))
    _, clear = trained(Plain(), graph, how, x, y)
    for _, curve in together(lambda engine: trained(engine, graph, how, x, y), rss3):
        alike(curve, clear)


# -- losses


@TORCH
@pytest.mark.parametrize("loss", [CROSS, BCE, MSE])
def test_losses_and_their_gradients(loss):
    torch = zoo.torch()
    _, y = data(loss, 70)
    z = on_grid(np.random.default_rng(4).uniform(-12, 12, y.shape))
    z[:2] = on_grid([[40.0] * y.shape[1], [-40.0] * y.shape[1]])
    z[0, 0] = -30.0
    logits, target = torch.tensor(z, requires_grad=True), torch.tensor(y)
    twin = Float(graph_of(loss), Training(loss=loss))
    twin.forward = lambda output: output
    total = twin.loss(logits, target)
    total.backward()

    def program(engine):
        output, truth = shared(engine, z, 64.0), shared(engine, y)
        sums = measure(loss, output, truth)
        found = [gradient_of(loss, output, truth), *(one for one in sums if one is not None)]
        return fixed.reveal(*found)

    for grad, mine, *right in (program(Plain()), together(program, rss3)[0]):
        np.testing.assert_allclose(grad, logits.grad.numpy(), atol=6e-4)
        assert abs(mine[0] - total.item()) < 70 * 5e-4
        assert [one[0] for one in right] == ([] if loss == MSE else [twin.right(logits, target)])


# -- optimisers


def vector(engine, values, bound=8.0):
    return shared(engine, on_grid(values), bound)


@pytest.mark.parametrize("factor", [0.5, 1e-3, 1e-5, 1e-6, -0.37, -3e-7, 0.0])
@pytest.mark.parametrize("bound", [64.0, 2.0**17])
def test_small_factors_are_right_within_a_hundredth(factor, bound):
    x, y = np.linspace(-7, 7, 30), np.linspace(5, -5, 30)
    exact = factor * on_grid(x) * on_grid(y)

    def program(engine):
        large = 2.0**10 if bound > 64 else 1.0
        product = Pending(engine.times(vector(engine, x * large, 1e4).share, vector(engine, y).share), bound)
        number = vector(engine, y)
        return fixed.reveal(blend(engine, [(1.0, number), (factor / large, product)], 50.0))[0]

    for mixed in (program(Plain()), together(program, rss3)[2]):
        assert np.abs(mixed - (on_grid(y) + exact)).max() <= 2 * ULP + 0.01 * np.abs(exact).max()


def test_a_small_rate_moves_weights_by_as_little():
    engine, batch = Plain(), 256
    first, grad = np.zeros(40), np.linspace(-200, 200, 40)
    for rate in (0.1, 0.01, 0.001, 1e-4):
        now = vector(engine, first)
        product = Pending(
            engine.times(vector(engine, grad, 256.0).share, vector(engine, np.ones(40)).share), 2.0**11
        )
        for step in range(20):
            now = Sgd(rate=rate).step(now, {}, product, batch, 1.0, step + 1)
        moved = -20 * rate * on_grid(grad) / batch
        assert np.abs(fixed.reveal(now)[0] - moved).max() <= 0.01 * np.abs(moved).max() + 10 * ULP


def test_blends_beyond_the_ring_are_refused():
    engine = Plain()
    big = Pending(engine.times(vector(engine, [1.0]).share, vector(engine, [1.0]).share), 2.0**23)
    with pytest.raises(ConfigError, match="no bits for the rate"):
        blend(engine, [(1.0, big)], 8.0)


@pytest.mark.parametrize("norm", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("length", [0.2, 0.99, 1.01, 3.0, 30.0])
def test_clipping_shortens_what_is_longer_and_nothing_else(norm, length):
    if norm * length > 60:
        length = 60 / norm
    rng = np.random.default_rng(1)
    mean = rng.normal(size=40)
    mean *= norm * length / np.linalg.norm(mean)

    def program(engine):
        one = shared(engine, np.ones(40))
        gradient = Pending(engine.times(vector(engine, 8 * mean, 500.0).share, one.share), 500.0)
        return fixed.reveal(finish(clipped(engine, gradient, 8, norm), engine))[0]

    expected = mean * min(1.0, 1 / length)
    # the norm itself is known to a few units in its square
    slack = 4 * ULP / min(norm * length, norm) + 1e-4 * norm
    assert np.abs(program(Plain()) - expected).max() <= slack
    assert np.abs(together(program, rss3)[0] - expected).max() <= 2 * slack


def test_schedules():
    assert [Schedule().at(e, 9) for e in (0, 8)] == [1, 1]
    step = Schedule(kind="step", every=3, factor=0.1)
    assert [round(step.at(e, 9), 6) for e in (0, 2, 3, 5, 6)] == [1, 1, 0.1, 0.1, 0.01]
    cosine = [Schedule(kind="cosine").at(e, 4) for e in range(4)]
    np.testing.assert_allclose(cosine, [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


# -- state


def normalised():
    """Return a network with statistics, dropout and a frozen weight."""
    made = Builder()
    x = made.input("x", (-1, 5))
    x = made.node(g.Linear(), x, made.parameter("w", (4, 5)), made.parameter("f", (4,), trainable=False))
    x = made.node(
        g.BatchNorm(),
        *(x, made.parameter("s", (4,)), made.parameter("t", (4,))),
        *(made.buffer("m", (4,)), made.buffer("v", (4,))),
    )
    x = made.node(g.Dropout(0.3), made.node(g.Relu(), x))
    return made.graph([made.node(g.Linear(), x, made.parameter("o", (3, 4)))])


@pytest.mark.parametrize("optimiser", [Sgd(rate=0.2, momentum=0.9), Adam(rate=0.01), Sgd(rate=0.3)])
@pytest.mark.parametrize("parties", [1, 3])
def test_a_checkpoint_goes_on_where_it_was(optimiser, parties):
    how = Training(optimiser=optimiser, epochs=4 if parties == 1 else 2, batch=32, seed=1)
    x, y = data(CROSS, 80)
    graph, half = normalised(), how.epochs // 2

    def program(engine):
        whole, _ = trained(engine, graph, how, x, y)
        first, _ = trained(engine, graph, how, x, y, half)
        saved = [array.copy() for array in first.checkpoint()]
        first.epoch(half, {"x": shared(engine, x)}, shared(engine, y))
        again = trainer(engine, graph, how, seed=9)
        again.restore(saved)
        assert again.steps == 3 * half
        for epoch in range(half, how.epochs):
            again.epoch(epoch, {"x": shared(engine, x)}, shared(engine, y))
        return weights(whole), weights(again)

    whole, again = program(Plain()) if parties == 1 else together(program, rss3)[1]
    assert set(whole) == {"w", "f", "s", "t", "o", "m", "v"}
    assert not np.allclose(whole["m"], 0)
    for name, value in whole.items():
        np.testing.assert_allclose(again[name], value, atol=0 if parties == 1 else 5e-3)


def test_checkpoints_of_other_models_are_refused():
    how = Training(optimiser=Sgd(momentum=0.5))
    small, other = (trainer(Plain(), graph_of(CROSS, (n,)), how) for n in (4, 5))
    with pytest.raises(DataError, match="another model"):
        other.restore(small.checkpoint())
    plain = trainer(Plain(), graph_of(CROSS, (4,)), Training())
    for saved in (small.checkpoint(), plain.checkpoint()[:-1]):
        with pytest.raises(DataError, match="another model"):
            plain.restore(saved)
    small.restore(small.checkpoint())


def test_statistics_move_and_frozen_weights_stay():
    how = Training(batch=32, optimiser=Sgd(rate=0.5), epochs=2)
    x, y = data(CROSS, 80)
    made, _ = trained(Plain(), normalised(), how, x, y)
    now, first = weights(made), networks.initialise(normalised(), 0).weights
    assert np.array_equal(now["f"], on_grid(first["f"]))
    for name in "wsomv":
        assert not np.allclose(now[name], first[name], atol=1e-3)


def test_all_rows_are_learnt_from_once_an_epoch_in_an_order_of_its_own():
    seen, x = [], np.arange(50.0)[:, None] / 64
    made = trainer(Plain(), networks.mlp((1, 2)), Training(batch=16, seed=5))
    made.step = lambda inputs, target, rate: seen.append(fixed.reveal(inputs["x"])[0].ravel())
    for epoch in range(2):
        made.epoch(epoch, {"x": shared(made.engine, x)}, shared(made.engine, np.zeros((50, 2))))
    assert [len(rows) for rows in seen] == [16, 16, 16, 2] * 2
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert np.array_equal(np.sort(first), x.ravel())
    assert np.array_equal(np.sort(second), x.ravel())
    assert not np.array_equal(first, second)


def test_predictions_do_not_depend_on_how_rows_are_cut():
    x = data(CROSS)[0]
    made = trainer(Plain(), normalised(), Training())
    parts = [made.predict({"x": shared(made.engine, x)}, batch) for batch in (7, 90, 1024)]
    first, *others = fixed.reveal(*parts)
    for other in others:
        assert np.array_equal(first, other)


def test_a_model_of_which_nothing_is_trained_predicts_and_does_not_train():
    made = Builder()
    x = made.input("x", (-1, 5))
    graph = made.graph([made.node(g.Linear(), x, made.parameter("w", (3, 5), trainable=False))])
    x, y = data(CROSS, 8)
    frozen = trainer(Plain(), graph, Training())
    share = {"x": shared(frozen.engine, x)}
    expected = x @ on_grid(networks.initialise(graph, 0).weights["w"]).T
    assert np.abs(fixed.reveal(frozen.predict(share))[0] - expected).max() <= 3 * ULP
    with pytest.raises(ConfigError, match="no weight"):
        frozen.step(share, shared(frozen.engine, y), 1.0)


# -- real data


@pytest.mark.slow
@pytest.mark.needs("python:sklearn", "python:torch")
def test_digits_are_told_apart_as_well_as_in_floating_point():
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x, y = on_grid(x / 16), np.eye(10)[labels]
    gaps = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        learnt, tested = order[:1400], order[1400:]
        how = Training(optimiser=Sgd(rate=0.2, momentum=0.9), epochs=15, batch=64, seed=seed)
        graph = networks.mlp((64, 32, 10), "tanh")
        engine = Plain()
        made = trainer(engine, graph, how, seed)
        share, target = shared(engine, x[learnt]), shared(engine, y[learnt])
        for epoch in range(how.epochs):
            made.epoch(epoch, {"x": share}, target)
        _, right = measured(made, CROSS, shared(engine, x[tested]), shared(engine, y[tested]))
        twin = Float(graph, how, seed=seed)
        twin.train(x[learnt], y[learnt])
        torch = zoo.torch()
        theirs = twin.right(torch.tensor(x[tested]), torch.tensor(y[tested]))
        gaps.append(100 * (right - theirs) / len(tested))
    assert abs(np.mean(gaps)) <= 0.2
    assert max(map(abs, gaps)) <= 0.8
