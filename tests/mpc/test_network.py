"""Whole graphs on shares, forward and backward, against torch in double precision."""

import numpy as np
import pytest

from learn import zoo
from mpc.twins import ULP, on_grid
from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.learn import layers as networks
from veilsum.learn import twin
from veilsum.learn.builder import Builder
from veilsum.learn.from_torch import from_torch
from veilsum.learn.model import Model
from veilsum.mpc import fixed
from veilsum.mpc.gradients import Ranges, settle
from veilsum.mpc.layers import RULES
from veilsum.mpc.network import Network, limits, one_hot
from veilsum.mpc.plain import Plain
from veilsum.testing.computing import rss3, together

TORCH = pytest.mark.needs("python:torch")
RANGES = Ranges(gradients=16.0)
RNG = np.random.default_rng(3)


def shared(engine, values, bound):
    values = on_grid(values)
    return fixed.deal(engine, values if engine.me == 0 else None, 0, values.shape, bound)


def run(engine, model, x, grad=None, ranges=RANGES, largest=1.0):
    """Return the output, the gradients of all parameters by name, and the moved buffers, opened."""
    network = Network(engine, model.graph, ranges)
    allowed = limits(model.graph, ranges)
    weights = {name: shared(engine, w.astype(np.float64), allowed[name]) for name, w in model.weights.items()}
    words = next(
        (model.weights[n.inputs[1]].shape[0] for n in model.graph.nodes if isinstance(n.op, g.Embedding)), 0
    )
    inputs = {
        name: shared(engine, array, 4.0) if array.dtype.kind == "f" else one_hot(engine, array, words)
        for name, array in x.items()
    }
    coins = None if grad is None else np.random.default_rng(1)
    passed = network.forward(weights, inputs, coins)
    (output,) = passed.outputs.values()
    found = {}
    if grad is not None:
        (name,) = passed.outputs
        back = network.backward(passed, {name: shared(engine, grad, largest)})
        found = dict(zip(back, settle(engine, list(back.values())), strict=True))
    everything = {"": output} | found | passed.moved
    opened = dict(zip(everything, fixed.reveal(*everything.values()), strict=True))
    engine.verify()
    return opened.pop(""), opened


def agree(module, x, tolerance, slack=1e-3, tied=()):
    """Compare training of a module in both directions with torch; dropout must be off."""
    torch = zoo.torch()
    model = from_torch(module, torch.tensor(x))
    (name,) = model.graph.inputs
    module.train()
    y = module(torch.tensor(x))
    grad = on_grid(np.random.default_rng(2).uniform(-1, 1, y.shape))
    y.backward(torch.tensor(grad))
    gradients = {dict(tied).get(name, name): p.grad.numpy() for name, p in module.named_parameters()}
    buffers = {n: b.numpy() for n, b in module.named_buffers() if b.is_floating_point()}
    plain = run(Plain(), model, {name: x}, grad)
    for mine, found in (plain, together(lambda engine: run(engine, model, {name: x}, grad), rss3)[1]):
        np.testing.assert_allclose(mine, y.detach().numpy(), atol=tolerance)
        for one, theirs in gradients.items():
            error = np.abs(found[one] - theirs).max()
            assert error <= slack * max(1.0, np.abs(theirs).max()), (one, error)
        for one in set(found) - set(gradients):
            np.testing.assert_allclose(found[one], buffers[one], atol=1e-3)
    return model


@TORCH
def test_an_encoder_block():
    torch = zoo.torch()
    torch.manual_seed(3)
    module = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    model = agree(module.double(), RNG.uniform(-1, 1, (3, 5, 8)), 4e-3, 1e-2)
    assert {g.Softmax, g.LayerNorm, g.MatMul, g.Gelu} <= {type(node.op) for node in model.graph.nodes}


@TORCH
def test_a_residual_block():
    torch = zoo.torch()
    nn = torch.nn
    torch.manual_seed(3)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
            self.one, self.two, self.three = (nn.BatchNorm2d(c) for c in (3, 3, 4))
            self.down = nn.Conv2d(3, 4, 1, stride=2)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            y = torch.relu(self.one(self.first(x)))
            x = torch.relu(self.two(self.second(y)) + x)
            x = self.three(self.down(x))
            return self.head(x.mean((2, 3)))

    agree(Block().double(), RNG.uniform(-1, 1, (4, 3, 6, 5)), 2e-3, 4e-3)


@TORCH
def test_a_network_of_convolutions():
    torch = zoo.torch()
    nn = torch.nn
    torch.manual_seed(3)
    module = nn.Sequential(
        *(nn.Conv2d(1, 4, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Sigmoid()),
        *(nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(54, 7), nn.ReLU(), nn.Linear(7, 3)),
    )
    agree(module.double(), RNG.uniform(-1, 1, (3, 1, 12, 12)), 2e-3, 4e-3)


@TORCH
def test_tied_weights_and_values_with_several_users():
    torch = zoo.torch()
    nn = torch.nn
    torch.manual_seed(3)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(12, 6, padding_idx=1)
            self.norm = nn.LayerNorm(6)
            self.out = nn.Linear(6, 12, bias=False)
            self.out.weight = self.words.weight
            self.gain = nn.Parameter(torch.rand(6))

        def forward(self, rows):
            x = self.words(rows)
            gate = x * x * self.gain + x
            return self.out(self.norm(gate) + gate * self.gain - x)

    module = Tied().double()
    rows = np.random.default_rng(0).integers(0, 12, (3, 4))
    agree(module, rows, 1e-3, 2e-3, [("words.weight", "out.weight")])


@TORCH
@pytest.mark.parametrize("name", ["lenet", "residual", "tokens", "conv1d", "arithmetic"])
def test_inference_is_that_of_the_twin(name):
    module, example = zoo.made(name, double=True)
    model = from_torch(module, example)
    given = {n: example.numpy() for n in model.graph.inputs}
    graph = g.Graph(
        model.graph.inputs,
        model.graph.nodes,
        model.graph.outputs[:1],
        model.graph.parameters,
        model.graph.buffers,
    )
    model = Model(graph, {n: model.weights[n] for n in graph.weights()})
    (theirs,) = twin.forward(model, given)
    mine, _ = run(Plain(), model, given)
    np.testing.assert_allclose(mine, theirs, atol=5e-3, rtol=2e-4)


@TORCH
def test_masks_do_not_widen_what_only_softmax_reads():
    model = from_torch(*zoo.made("generator", double=True))
    given = {"rows": np.arange(18).reshape(3, 6) % 10}
    mine, _ = run(Plain(), model, given)
    np.testing.assert_allclose(mine, twin.forward(model, given)[0], atol=5e-3)
    allowed = limits(model.graph, Ranges())
    assert sorted(name for name, bound in allowed.items() if bound == -g.MASKED) == [
        "constant.masked_fill.mask",
        "constant.scaled_dot_product_attention.mask",
    ]
    made = Builder()
    x, mask = made.input("x", (-1, 4)), made.buffer("mask", (4,))
    masked = made.node(g.Add(), x, mask)
    made.node(g.Softmax(1), masked)
    graph = made.graph([made.node(g.Mul(), "softmax", made.node(g.Relu(), masked))])
    assert limits(graph, Ranges()) == {"mask": 64.0}  # read by more than softmax


def test_a_frozen_layer_gets_no_gradient_and_none_is_computed_below_it():
    made = Builder()
    x = made.input("x", (-1, 4))
    for at, trainable in enumerate((True, False, False, True)):
        weight = made.parameter(f"w{at}", (4, 4), trainable=trainable)
        x = made.node(g.Linear(), x, weight)
        if at == 0:
            x = made.node(g.Relu(), x)
    graph = made.graph([x])
    weights = {name: RNG.uniform(-1, 1, shape) for name, shape in graph.weights().items()}
    grad = np.ones((3, 4))
    _, found = run(Plain(), Model(graph, weights), {"x": RNG.uniform(-1, 1, (3, 4))}, grad)
    assert set(found) == {"w0", "w3"}


def test_what_no_output_depends_on_has_a_gradient_of_zero():
    graph = networks.mlp((3, 2))
    more = g.Graph(graph.inputs, graph.nodes, graph.outputs, graph.parameters | {"idle": g.Parameter((2,))})
    weights = networks.initialise(graph, 0).weights | {"idle": np.ones(2)}
    _, found = run(Plain(), Model(more, weights), {"x": np.ones((2, 3))}, np.ones((2, 2)))
    assert np.array_equal(found["idle"], np.zeros(2))
    assert np.array_equal(found["layers.0.bias"], [2, 2])


def test_buffers_have_ranges_of_their_own():
    made = Builder()
    x = made.input("x", (-1, 2))
    names = [made.parameter(n, (2,)) for n in ("scale", "shift")]
    x = made.node(g.BatchNorm(), x, *names, made.buffer("mean", (2,)), made.buffer("variance", (2,)))
    graph = made.graph([x])
    assert limits(graph, Ranges()) == {"scale": 8, "shift": 8, "mean": 64, "variance": 4096}
    weights = {
        "scale": np.array([7.0, 1.0]),
        "shift": np.zeros(2),
        "mean": np.array([40.0, -40.0]),
        "variance": np.array([3000.0, 900.0]),
    }
    model, x = Model(graph, weights), np.array([[1.0, 2.0], [-3.0, 4.0]])
    y, _ = run(Plain(), model, {"x": x})
    np.testing.assert_allclose(y, twin.forward(model, {"x": x})[0], atol=3e-3)


@pytest.mark.parametrize(
    ("sizes", "ranges", "place"),
    [
        ((4, 3), Ranges(activations=2.0**30), "layers.0"),
        ((4, 5, 3), Ranges(activations=2.0**22), "layers.1"),
        ((4, 5, 3), Ranges(weights=2.0**30), "layers.0"),
    ],
)
def test_ranges_that_cannot_hold_name_the_place(sizes, ranges, place):
    model = networks.initialise(networks.mlp(sizes), 0)
    engine = Plain()
    inputs = {"x": fixed.Fixed(engine, engine.constant(np.zeros((2, 4), np.uint64)), ranges.activations)}
    weights = {
        name: fixed.Fixed(engine, engine.constant(np.zeros(w.shape, np.uint64)), ranges.weights)
        for name, w in model.weights.items()
    }
    if place == "layers.1":
        inputs = {"x": inputs["x"].within(2.0**19)}
    with pytest.raises(ConfigError, match=f"^{place}: .*beyond") as told:
        Network(engine, model.graph, ranges).forward(weights, inputs)
    assert "tighter ranges" in told.value.remedy


def test_gradients_beyond_the_ring_name_the_place():
    model = networks.initialise(networks.mlp((4, 5, 3)), 0)
    ranges = Ranges(gradients=2.0**26)
    with pytest.raises(ConfigError, match=r"^layers\.1: .*beyond"):
        run(Plain(), model, {"x": np.ones((2, 4))}, np.ones((2, 3)), ranges, 2.0**24)


def test_operations_that_are_not_built_name_the_place():
    graph = networks.mlp((2, 2))
    node = g.Node(g.Relu(), graph.outputs, "y", "act.3")
    broken = g.Graph(graph.inputs, (*graph.nodes, node), ("y",), graph.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veilsum.mpc.layers.RULES", {g.Linear: RULES[g.Linear]})
        with pytest.raises(ConfigError, match=r"act\.3: Relu is not built"):
            Network(Plain(), broken, Ranges())


def test_inference_forgets_values_that_nobody_reads_again():
    model = networks.initialise(networks.mlp((4, 8, 8, 2)), 0)
    network = Network(Plain(), model.graph, Ranges())
    gone = [name for names in network._last.values() for name in names]
    assert sorted(gone) == sorted(node.output for node in model.graph.nodes[:-1])
    assert len(set(gone)) == len(gone)
    y, found = run(Plain(), model, {"x": np.ones((3, 4))})
    assert y.shape == (3, 2)
    assert not found
    assert np.abs(y - twin.forward(model, {"x": np.ones((3, 4))})[0]).max() < 50 * ULP
