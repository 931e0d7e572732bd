"""Every operation of a graph on shares, forward and backward, against torch in double precision."""

import numpy as np
import pytest

from learn import zoo
from mpc.twins import ULP, on_grid
from veilsum.errors import ConfigError
from veilsum.learn import graph as g
from veilsum.mpc import fixed
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.gradients import OneHot, Pass, Ranges, settle
from veilsum.mpc.layers import RULES, check
from veilsum.mpc.network import one_hot
from veilsum.mpc.plain import Plain
from veilsum.testing.computing import rss3, together

RANGES = Ranges(gradients=512.0)
TORCH = pytest.mark.needs("python:torch")
NONE1, NONE2 = ((0, 0),), ((0, 0), (0, 0))


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    return on_grid(np.random.default_rng((seed, *shape)).uniform(low, high, shape))


def distinct(*shape):
    """Return numbers of which no two are close, as comparisons of derivatives need them."""
    size = int(np.prod(shape))
    order = np.random.default_rng(size).permutation(size) - size // 2
    return on_grid(((order + 0.5) * 4 / size).reshape(shape))


def play(engine, op, arrays, grad, coins=0, bounds=()):
    """Return the result of one operation and the gradients of its inputs, opened."""
    bounds = bounds or (4.0,) * len(arrays)
    given = [
        fixed.deal(engine, array if engine.me == 0 else None, 0, array.shape, bound)
        if array.dtype.kind == "f"
        else one_hot(engine, array, array.max() + 2)
        for array, bound in zip(arrays, bounds, strict=True)
    ]
    rule = check(g.Node(op, (), "y"))
    run = Pass(engine, RANGES, arrays[0].shape[0], np.random.default_rng(coins), {})
    result, memory = rule.forward(run, op, *given)
    assert result.shape == grad.shape
    arrived = fixed.deal(engine, grad if engine.me == 0 else None, 0, grad.shape, 2.0)
    back = settle(engine, rule.backward(run, op, memory, arrived, *given))
    shared = [result, *(one for one in back if one is not None)]
    for one in shared:
        assert isinstance(one, Fixed)
    opened = fixed.reveal(*shared)
    for one, clear in zip(shared, opened, strict=True):
        assert np.all(np.abs(clear) <= one.bound + ULP)
    engine.verify()
    again = iter(opened)
    return [next(again), *(None if one is None else next(again) for one in back)], memory


def expected(function, arrays, seed):
    """Return what torch makes of the arrays, a gradient of its shape, and those of the arrays."""
    torch = zoo.torch()
    tensors = [torch.tensor(array) for array in arrays]
    for tensor in tensors:
        tensor.requires_grad_(tensor.is_floating_point())
    y = function(torch, torch.nn.functional, *tensors)
    grad = numbers(*y.shape, seed=seed + 100, low=-1, high=1)
    y.backward(torch.tensor(grad))
    return y.detach().numpy(), grad, [t.grad if t.grad is None else t.grad.numpy() for t in tensors]


def agree(op, function, arrays, tolerance=4e-5, *, engines=("plain", "rss3"), bounds=()):
    y, grad, gradients = expected(function, arrays, 1)
    runs = []
    if "plain" in engines:
        runs.append(play(Plain(), op, arrays, grad, bounds=bounds)[0])
    if "rss3" in engines:
        runs.append(together(lambda engine: play(engine, op, arrays, grad, bounds=bounds)[0], rss3)[1])
    for mine, *mine_back in runs:
        np.testing.assert_allclose(mine, y, rtol=1e-5, atol=tolerance)
        for at, (one, theirs) in enumerate(zip(mine_back, gradients, strict=False)):
            if one is not None:
                assert one.shape == theirs.shape
                np.testing.assert_allclose(one, theirs, rtol=1e-5, atol=tolerance, err_msg=f"input {at}")


def conv(stride, padding, dilation, groups=1):
    def function(torch, f, x, weight, bias=None):
        pads = [p for pair in reversed(padding) for p in pair]
        call = f.conv1d if len(stride) == 1 else f.conv2d
        return call(f.pad(x, pads), weight, bias, stride, 0, dilation, groups)

    return g.Conv(stride, padding, dilation, groups), function


CONVS = {
    "1d": (conv((1,), NONE1, (1,)), (2, 3, 7), (4, 3, 3), True),
    "1d strided, padded, dilated": (conv((2,), ((2, 1),), (2,)), (3, 2, 11), (5, 2, 3), True),
    "1d in groups": (conv((3,), ((0, 2),), (1,), 3), (2, 6, 8), (3, 2, 2), False),
    "2d": (conv((1, 1), ((1, 1), (1, 1)), (1, 1)), (2, 2, 5, 4), (3, 2, 3, 3), True),
    "2d uneven": (conv((2, 1), ((0, 2), (1, 0)), (1, 3)), (2, 3, 6, 9), (2, 3, 3, 2), False),
    "2d in groups": (conv((1, 2), ((1, 0), (0, 1)), (2, 1), 2), (3, 4, 7, 5), (6, 2, 2, 3), True),
    "2d by depth": (conv((1, 1), ((1, 1), (1, 1)), (1, 1), 4), (1, 4, 4, 4), (4, 1, 3, 3), True),
    "2d of one element": (conv((2, 2), NONE2, (1, 1)), (2, 3, 5, 5), (4, 3, 1, 1), False),
    "2d where strides leave a rest": (conv((3, 3), NONE2, (1, 1)), (2, 1, 8, 7), (2, 1, 2, 2), True),
}


@TORCH
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name):
    (op, function), x, weight, biased = CONVS[name]
    arrays = [numbers(*x), numbers(*weight, seed=1)]
    agree(op, function, [*arrays, numbers(weight[0], seed=2)] if biased else arrays)


@TORCH
@pytest.mark.parametrize("x", [(5, 4), (2, 3, 4), (2, 1, 3, 4), (1, 4)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_layers(x, biased):
    arrays = [numbers(*x), numbers(3, 4, seed=1), *([numbers(3, seed=2)] if biased else [])]
    agree(g.Linear(), lambda _, f, *a: f.linear(*a), arrays)


POOLS = {
    "1d": ((3,), (3,), NONE1, (1,), (2, 3, 9)),
    "1d overlapping": ((3,), (1,), ((1, 0),), (2,), (2, 2, 8)),
    "2d": ((2, 2), (2, 2), NONE2, (1, 1), (2, 3, 4, 6)),
    "2d overlapping": ((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), (2, 2, 7, 5)),
    "2d dilated": ((2, 3), (1, 2), ((1, 0), (1, 1)), (2, 1), (1, 2, 5, 7)),
    "2d with a rest": ((3, 3), (3, 3), NONE2, (1, 1), (2, 1, 8, 7)),
    "2d of one element": ((1, 1), (2, 2), NONE2, (1, 1), (2, 2, 3, 3)),
}


@TORCH
@pytest.mark.parametrize("name", POOLS)
def test_max_pools(name):
    kernel, stride, padding, dilation, shape = POOLS[name]

    def function(torch, f, x):
        x = f.pad(x, [p for pair in reversed(padding) for p in pair], value=-100.0)
        call = f.max_pool1d if len(kernel) == 1 else f.max_pool2d
        return call(x, kernel, stride, 0, dilation)

    agree(g.MaxPool(kernel, stride, padding, dilation), function, [distinct(*shape)], 2 * ULP)


@TORCH
def test_a_pool_of_nothing_but_negative_numbers_takes_none_of_the_padding():
    op = g.MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    agree(op, lambda _, f, x: f.max_pool2d(x, 3, 2, 1), [distinct(2, 1, 5, 5) - 2], 2 * ULP, bounds=(4.0,))


@TORCH
@pytest.mark.parametrize("name", [name for name in POOLS if POOLS[name][3] in {(1,), (1, 1)}])
@pytest.mark.parametrize("counted", [False, True])
def test_mean_pools(name, counted):
    kernel, stride, padding, _, shape = POOLS[name]

    def function(torch, f, x):
        pads = [p for pair in reversed(padding) for p in pair]
        call = f.avg_pool1d if len(kernel) == 1 else f.avg_pool2d
        sums = call(f.pad(x, pads), kernel, stride)
        return sums if counted else sums / call(f.pad(torch.ones_like(x), pads), kernel, stride)

    agree(g.AvgPool(kernel, stride, padding, counted), function, [numbers(*shape)])


def test_large_means_are_precise():
    op = g.AvgPool((60, 50), (60, 50), NONE2)
    x = numbers(2, 1, 60, 50, low=1.0, high=1.5)
    (y, back), _ = play(Plain(), op, [x], np.full((2, 1, 1, 1), 1.5))
    assert np.abs(y[:, 0, 0, 0] - x.mean((1, 2, 3))).max() < 2 * ULP
    assert np.abs(back - 1.5 / 3000).max() < 2 * ULP


ELEMENTWISE = {
    "relu": (g.Relu(), lambda _, f, x: f.relu(x), 2 * ULP),
    "gelu": (g.Gelu(), lambda _, f, x: f.gelu(x), 3e-3),
    "gelu by tanh": (g.Gelu(tanh=True), lambda _, f, x: f.gelu(x, approximate="tanh"), 3e-3),
    "sigmoid": (g.Sigmoid(), lambda t, _, x: t.sigmoid(x), 5e-4),
    "tanh": (g.Tanh(), lambda t, _, x: t.tanh(x), 1.5e-3),
    "scale": (g.Scale(-0.37), lambda _t, _f, x: x * -0.37, 4e-5),
    "scale by little": (g.Scale(1e-3), lambda _t, _f, x: x * 1e-3, 1e-5),
    "scale by an integer": (g.Scale(-3), lambda _t, _f, x: x * -3, 2 * ULP),
    "shift": (g.Shift(0.3), lambda _t, _f, x: x + 0.3, 2 * ULP),
}


@TORCH
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_functions_of_one_number(name, shape):
    op, function, tolerance = ELEMENTWISE[name]
    agree(op, function, [numbers(*shape, low=-4, high=4)], tolerance)


@TORCH
@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "sigmoid", "tanh", "relu"])
def test_activations_far_out(name):
    op, function, tolerance = ELEMENTWISE[name]
    x = on_grid(np.concatenate([np.linspace(-64, 64, 800), np.linspace(-8, 8, 800)]))
    agree(op, function, [x], tolerance, engines=["plain"], bounds=(64.0,))


@pytest.mark.parametrize("op", [g.Gelu(), g.Gelu(tanh=True)])
def test_gelu_in_inference(op):
    engine, x = Plain(), numbers(50, low=-6, high=6)
    y, _ = RULES[g.Gelu].forward(Pass(engine, RANGES, 50, None, {}), op, fixed.public(engine, x))
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    assert np.abs(fixed.reveal(y)[0] - x * (1 + t) / 2).max() < 2e-3


@TORCH
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_along_any_axis(axis):
    agree(g.Softmax(axis), lambda t, _, x: t.softmax(x, axis), [numbers(3, 5, 4, low=-4, high=4)], 1e-3)


PAIRS = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((3, 1), (2, 3, 5)),
    ((2, 1, 4), (1, 3, 1)),
    ((1,), (3, 2)),
]


@TORCH
@pytest.mark.parametrize("shapes", PAIRS)
@pytest.mark.parametrize("op", [g.Add(), g.Sub(), g.Mul()])
def test_pairs_broadcast(op, shapes):
    function = {g.Add: lambda _t, _f, a, b: a + b, g.Sub: lambda _t, _f, a, b: a - b}.get(
        type(op), lambda _t, _f, a, b: a * b
    )
    agree(op, function, [numbers(*shape, seed=at) for at, shape in enumerate(shapes)])


@TORCH
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 2)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 3, 4), (4, 1)),
        ((3, 4), (2, 4, 2)),
        ((2, 1, 3, 4), (1, 5, 4, 2)),
    ],
)
def test_matrix_products_broadcast(a, b):
    agree(g.MatMul(), lambda _t, _f, x, y: x @ y, [numbers(*a), numbers(*b, seed=1)])


MOVES = {
    "reshape": (g.Reshape((-1, 6)), lambda x: x.reshape(2, 6)),
    "reshape of the batch": (g.Reshape((-3, 4)), lambda x: x.reshape(6, 4)),
    "permute": (g.Permute((1, 2, 0)), lambda x: x.permute(1, 2, 0)),
    "slice": (g.Slice(2, 1, 4), lambda x: x[:, :, 1:4]),
    "slice with steps": (g.Slice(1, 0, 3, 2), lambda x: x[:, 0:3:2]),
    "slice of rows": (g.Slice(0, 1, 2, 3), lambda x: x[1:2:3]),
    "mean": (g.Mean((1, 2)), lambda x: x.mean((1, 2))),
    "mean that stays": (g.Mean((0, 2), keep=True), lambda x: x.mean((0, 2), keepdim=True)),
    "mean over one": (g.Mean((1,)), lambda x: x.mean(1)),
}


@TORCH
@pytest.mark.parametrize("name", MOVES)
def test_moves_and_means(name):
    op, function = MOVES[name]
    shape = (2, 3, 2) if name == "reshape" else (2, 3, 4)
    agree(op, lambda _t, _f, x: function(x), [numbers(*shape)])


@TORCH
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation(axis):
    arrays = [numbers(*(size if at == axis else 2 for at in range(3)), seed=size) for size in (1, 3, 2)]
    agree(g.Concat(axis), lambda t, _f, *several: t.cat(several, axis), arrays, 2 * ULP)


@TORCH
def test_expansion():
    arrays = [numbers(1, 3, 1)]
    agree(g.Expand((2, 3, 4)), lambda _t, _f, x: x.expand(2, 3, 4), arrays, 2 * ULP)
    agree(g.Expand((2, 3)), lambda _t, _f, x: x.expand(2, 3), [numbers(3)], 2 * ULP)


@TORCH
@pytest.mark.parametrize(("shape", "axes"), [((5, 6), 1), ((2, 3, 4), 1), ((2, 3, 4), 2), ((3, 2, 2, 5), 3)])
@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-2])
def test_layer_normalisation(shape, axes, eps):
    own = shape[-axes:]
    arrays = [numbers(*shape), numbers(*own, seed=1), numbers(*own, seed=2)]
    op = g.LayerNorm(axes, eps)
    agree(op, lambda _, f, x, w, b: f.layer_norm(x, own, w, b, eps), arrays, 3e-4)


@TORCH
@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 5), (3, 2, 3, 5)])
def test_batch_normalisation_in_training(shape):
    channels = shape[1]
    scale, shift, mean = (numbers(channels, seed=s) for s in (1, 2, 3))
    variance = numbers(channels, seed=4, low=0.5, high=3)
    op = g.BatchNorm(1e-5, 0.3)
    arrays = [numbers(*shape), scale, shift, mean, variance]
    torch = zoo.torch()
    tracked = [torch.tensor(mean), torch.tensor(variance)]

    def function(_, f, x, w, b, _m, _v):
        return f.batch_norm(x, *tracked, w, b, training=True, momentum=0.3, eps=1e-5)

    y, grad, gradients = expected(function, arrays, 1)
    clear, memory = play(Plain(), op, arrays, grad)
    moved = fixed.reveal(*memory[-1])
    shared = together(lambda e: play(e, op, arrays, grad)[0], rss3)[0]
    for mine, *back in (clear, shared):
        np.testing.assert_allclose(mine, y, atol=2e-4)
        assert back[3] is back[4] is None
        for one, theirs in zip(back[:3], gradients[:3], strict=True):
            np.testing.assert_allclose(one, theirs, atol=3e-4)
    for one, theirs in zip(moved, tracked, strict=True):
        np.testing.assert_allclose(one, theirs.numpy(), atol=4e-5)


def test_batch_normalisation_over_many_elements():
    op, x = g.BatchNorm(), numbers(40, 1, 24, 24, low=1.0, high=3.0)
    one = np.ones(1)
    grad = numbers(*x.shape, seed=1, low=-1, high=1)
    (y, *_), memory = play(
        Plain(), op, [x, one, 0 * one, 0 * one, one], grad, bounds=(64.0, 4.0, 4.0, 4.0, 4.0)
    )
    assert np.abs(y - (x - x.mean()) / np.sqrt(x.var() + 1e-5)).max() < 3e-4
    mean, variance = fixed.reveal(*memory[-1])
    assert abs(mean[0] - 0.1 * x.mean()) < 2e-5
    assert abs(variance[0] - (0.9 + 0.1 * x.var(ddof=1))) < 1e-4


@TORCH
def test_batch_normalisation_in_inference():
    torch = zoo.torch()
    x, scale, shift, mean = numbers(4, 3, 5), numbers(3, seed=1), numbers(3, seed=2), numbers(3, seed=3)
    variance = numbers(3, seed=4, low=0.2, high=40)
    engine = Plain()
    given = [fixed.public(engine, array) for array in (x, scale, shift, mean, variance)]
    y, _ = RULES[g.BatchNorm].forward(Pass(engine, RANGES, 4, None, {}), g.BatchNorm(1e-5), *given)
    x, mean, variance, scale, shift = (torch.tensor(a) for a in (x, mean, variance, scale, shift))
    theirs = torch.nn.functional.batch_norm(x, mean, variance, scale, shift)
    np.testing.assert_allclose(fixed.reveal(y)[0], theirs.numpy(), atol=1e-4)


@TORCH
@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("shape", [(4,), (3, 5)])
def test_embeddings(padding, shape):
    index = np.random.default_rng(1).integers(0, 6, shape)
    index.reshape(-1)[:2] = 5, 3
    table = numbers(7, 4)
    agree(
        g.Embedding(padding),
        lambda _, f, i, t: f.embedding(i, t, padding_idx=padding),
        [index, table],
    )


INDEX_MOVES = [
    (g.Reshape((-1, 2, 3)), lambda i: i.reshape(2, 2, 3)),
    (g.Permute((1, 0)), lambda i: i.T),
    (g.Slice(1, 1, 6, 2), lambda i: i[:, 1:6:2]),
    (g.Expand((3, -1, 6)), lambda i: np.broadcast_to(i, (3, 2, 6))),
]


@pytest.mark.parametrize(("op", "function"), INDEX_MOVES)
def test_whole_numbers_move_too(op, function):
    engine, index = Plain(), np.arange(12).reshape(2, 6) % 5
    run = Pass(engine, RANGES, 2, None, {})
    moved, _ = RULES[type(op)].forward(run, op, one_hot(engine, index, 5))
    assert isinstance(moved, OneHot)
    assert np.array_equal(engine.open(moved.share)[0].argmax(-1), function(index))


def test_whole_numbers_are_put_together():
    engine, index = Plain(), np.arange(12).reshape(2, 6) % 5
    one = one_hot(engine, index, 5)
    for axis in range(2):
        both, _ = RULES[g.Concat].forward(Pass(engine, RANGES, 2, None, {}), g.Concat(axis), one, one)
        told = engine.open(both.share)[0].argmax(-1)
        assert np.array_equal(told, np.concatenate([index, index], axis))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("parties", [1, 3])
def test_dropout_forgets_the_same_both_ways(p, parties):
    x, grad = numbers(20, 30, low=0.5, high=2), numbers(20, 30, seed=1, low=0.5, high=1)

    def run(engine):
        return play(engine, g.Dropout(p), [x], grad, coins=5)[0]

    y, back = run(Plain()) if parties == 1 else together(run, rss3)[2]
    kept = y != 0
    assert np.array_equal(kept, back != 0)
    assert abs(kept.mean() - (1 - p)) < 0.08
    if p < 1:
        np.testing.assert_allclose(y[kept], x[kept] / (1 - p), atol=4e-5)
        np.testing.assert_allclose(back[kept], grad[kept] / (1 - p), atol=4e-5)


def test_dropout_in_inference_does_nothing():
    engine, x = Plain(), numbers(3, 4)
    y, _ = RULES[g.Dropout].forward(
        Pass(engine, RANGES, 3, None, {}), g.Dropout(0.9), fixed.public(engine, x)
    )
    assert np.array_equal(fixed.reveal(y)[0], x)


def test_every_operation_has_a_rule_and_others_are_refused():
    assert set(RULES) == set(g.Operation.__args__)
    with pytest.raises(ConfigError, match=r"layers\.1.*not built on shares"):
        check(g.Node(g.Op(), (), "y", "layers.1"))


def test_products_beyond_the_ring_are_refused():
    engine = Plain()
    x = Fixed(engine, engine.constant(np.zeros((300, 2, 100, 100), np.uint64)), 64.0)
    grad = Fixed(engine, engine.constant(np.zeros((300, 2, 100, 100), np.uint64)), 4.0)
    run = Pass(engine, RANGES, 300, np.random.default_rng(0), {})
    weight = Fixed(engine, engine.constant(np.zeros((1, 2, 1, 1), np.uint64)), 8.0)
    with pytest.raises(ConfigError, match="beyond"):
        settle(engine, RULES[g.Mul].backward(run, g.Mul(), None, grad, x, weight))
