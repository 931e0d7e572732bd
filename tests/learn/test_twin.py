import math
import typing

import numpy as np
import pytest

from veilsum.errors import DataError
from veilsum.learn import graph as g
from veilsum.learn import layers, twin
from veilsum.learn.builder import Builder
from veilsum.learn.graph import Operation
from veilsum.learn.model import Model

RANDOM = np.random.default_rng(5)


def run(op, *arrays, index=False):
    """Compute one operation: the first array is the batch, the others are weights."""
    made = Builder()
    names = [made.input("x", (-1, *arrays[0].shape[1:]), index=index)]
    for i, array in enumerate(arrays[1:]):
        make = made.buffer if isinstance(op, g.BatchNorm) else made.parameter
        names.append(make(f"w{i}", array.shape))
        made.weights[names[-1]] = array
    return twin.forward(made.model([made.node(op, *names)]), {"x": arrays[0]})[0]


def test_every_operation_has_a_step():
    assert set(typing.get_args(Operation)) == set(twin._STEPS)


def test_a_convolution_is_its_sum():
    x, weight, bias = (
        RANDOM.normal(size=(2, 4, 7, 6)),
        RANDOM.normal(size=(6, 2, 3, 2)),
        RANDOM.normal(size=6),
    )
    out = run(g.Conv((2, 1), ((1, 0), (0, 2)), (1, 2), 2), x, weight, bias)
    assert out.shape == (2, 6, 3, 6)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)))
    for n, o, i, j in np.ndindex(out.shape):
        first = 2 * (o // 3)
        total = sum(
            weight[o, c, p, q] * padded[n, first + c, 2 * i + p, j + 2 * q] for c, p, q in np.ndindex(2, 3, 2)
        )
        assert math.isclose(out[n, o, i, j], total + bias[o], abs_tol=1e-12)


def test_pooling_sees_its_windows():
    x = RANDOM.normal(size=(2, 3, 7)) - 5  # all below zero, so that padding would win
    largest = run(g.MaxPool((3,), (2,), ((1, 1),), (1,)), x)
    counted, uncounted = (run(g.AvgPool((3,), (2,), ((1, 1),), count_padding=c), x) for c in (True, False))
    for i in range(4):
        window = x[:, :, max(0, 2 * i - 1) : 2 * i + 2]
        assert np.allclose(largest[..., i], window.max(-1))
        assert np.allclose(counted[..., i], window.sum(-1) / 3)
        assert np.allclose(uncounted[..., i], window.mean(-1))
    assert np.allclose(
        run(g.MaxPool((2,), (1,), ((0, 0),), (3,)), x)[..., 0], np.maximum(x[..., 0], x[..., 3])
    )


def test_normalisations_normalise():
    x = RANDOM.normal(3, 2, size=(50, 3, 4))
    ones, zeros = np.ones((3, 4)), np.zeros((3, 4))
    out = run(g.LayerNorm(2, eps=0.0), x, ones, zeros)
    assert np.allclose(out.mean((1, 2)), 0)
    assert np.allclose(out.std((1, 2)), 1)
    scale, shift, mean, variance = RANDOM.uniform(1, 2, size=(4, 3))
    out = run(g.BatchNorm(eps=0.5), x, scale, shift, mean, variance)
    assert np.allclose(out[:, 1], (x[:, 1] - mean[1]) / math.sqrt(variance[1] + 0.5) * scale[1] + shift[1])


def test_activations_are_their_formulas():
    x = np.array([[-800.0, -2.0, -0.0, 0.5, 3.0, 800.0]])
    with np.errstate(over="ignore"):
        assert np.allclose(run(g.Sigmoid(), x), 1 / (1 + np.exp(-x)))
    phi = np.array([[0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0]]])
    assert np.allclose(run(g.Gelu(), x), x * phi)
    assert np.allclose(run(g.Gelu(tanh=True), x), x * phi, atol=1e-3)
    assert run(g.Relu(), x).tolist() == [[0, 0, 0, 0.5, 3, 800]]
    soft = run(g.Softmax(1), x)
    assert np.allclose(soft.sum(), 1)
    assert np.allclose(soft[0, -1], 1)
    assert np.array_equal(run(g.Dropout(0.9), x), x)


def test_moves_put_the_batch_where_it_belongs():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(run(g.Reshape((-6, 2)), x), x.reshape(12, 2))
    assert np.array_equal(run(g.Permute((2, 0, 1)), x), x.transpose(2, 0, 1))
    assert np.array_equal(run(g.Expand((5, -1, 3, 4)), x), np.broadcast_to(x, (5, 2, 3, 4)))
    assert np.array_equal(run(g.Slice(2, 1, 4, 2), x), x[:, :, 1::2])
    assert np.array_equal(run(g.Mean((1,)), x), x.mean(1))


def test_rows_are_looked_up():
    rows, table = np.array([[2, 0], [1, 2]]), RANDOM.normal(size=(3, 5))
    assert np.array_equal(run(g.Embedding(), rows, table, index=True), table[rows])
    for wrong in (rows - 1, rows + 1):
        with pytest.raises(DataError, match="not a row"):
            run(g.Embedding(), wrong, table, index=True)
    with pytest.raises(DataError, match="whole numbers"):
        run(g.Embedding(), rows * 1.0, table, index=True)


def test_rows_of_a_batch_do_not_touch_each_other():
    model = layers.initialise(layers.convnet((1, 8, 8), 3, channels=[2], hidden=[5], kernel=3), 1)
    x = RANDOM.normal(size=(4, 1, 8, 8))
    whole = twin.forward(model, {"x": x})[0]
    assert np.allclose(whole, np.concatenate([twin.forward(model, {"x": row[None]})[0] for row in x]))
    assert twin.forward(model, {"x": x[:0]})[0].shape == (0, 3)


def test_every_value_can_be_seen():
    model = layers.initialise(layers.mlp([3, 4, 2]), 1)
    values = twin.every_value(model, {"x": np.ones((5, 3))})
    assert {node.output for node in model.graph.nodes} <= values.keys()
    assert np.array_equal(values["relu"], np.maximum(values["linear"], 0))


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.ones((2, 3)), "y": np.ones((2, 3))},
        {"x": np.ones((2, 4))},
        {"x": np.ones(3)},
        {"x": np.full((2, 3), np.nan)},
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs):
    with pytest.raises(DataError) as caught:
        twin.forward(layers.initialise(layers.mlp([3, 2]), 1), inputs)
    assert caught.value.remedy


def test_inputs_have_one_batch_size():
    made = Builder()
    a, b = made.input("a", (-1, 2)), made.input("b", (-2, 2))
    model = Model(made.graph([made.node(g.Concat(0), a, b)]), {})
    assert twin.forward(model, {"a": np.ones((3, 2)), "b": np.ones((6, 2))})[0].shape == (9, 2)
    for rows in (3, 7):
        with pytest.raises(DataError, match="'b' has the shape"):
            twin.forward(model, {"a": np.ones((3, 2)), "b": np.ones((rows, 2))})
