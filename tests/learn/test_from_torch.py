import functools
import logging
import subprocess
import sys

import numpy as np
import pytest

from learn import zoo
from veilsum.errors import ConfigError, DataError
from veilsum.learn import graph as g
from veilsum.learn import layers, twin
from veilsum.learn.from_torch import from_torch
from veilsum.learn.graph import Parameter, Value
from veilsum.learn.model import Model

pytestmark = pytest.mark.needs("python:torch")


@pytest.fixture
def nn():
    return zoo.torch().nn


def kinds(model):
    return [type(node.op).__name__ for node in model.graph.nodes]


@functools.cache
def imported(name):
    return from_torch(*zoo.made(name, double=True))


def sequence(*parts):
    return zoo.torch().nn.Sequential(*parts)


# -- the same numbers


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_graph_computes_what_the_module_computes(name, tmp_path):
    module, example = zoo.made(name, double=True)
    model = imported(name)
    (given,) = model.graph.inputs
    for rows in (1, 7):
        x = zoo.batch(example, rows)
        found = twin.forward(model, {given: x.numpy()})
        for expected, one in zip(zoo.outputs(module, x), found, strict=True):
            assert np.allclose(expected, one, atol=1e-9, rtol=1e-9)
    model.save(tmp_path / name)
    again = Model.load(tmp_path / name)
    assert again.graph == model.graph
    assert np.array_equal(twin.forward(again, {given: x.numpy()})[0], found[0])


@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_modules_of_single_precision_agree_to_five_digits(name):
    module, example = zoo.made(name)
    model = from_torch(module, example)
    assert all(w.dtype == np.float32 for w in model.weights.values())
    (given,) = model.graph.inputs
    x = zoo.batch(example, 5)
    for expected, found in zip(zoo.outputs(module, x), twin.forward(model, {given: x.numpy()}), strict=True):
        assert np.allclose(expected, found, atol=1e-5, rtol=1e-5)


def test_many_inputs_keep_their_names(nn):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 3)

        def forward(self, features, town):
            return zoo.torch().cat([features, self.table(town)], 1)

    module, features, town = Two(), zoo.torch().rand(4, 2), zoo.torch().tensor([0, 1, 2, 6])
    model = from_torch(module, (features, town))
    assert model.graph.inputs == {"features": Value((-1, 2)), "town": Value((-1,), index=True)}
    (found,) = twin.forward(model, {"features": features.numpy(), "town": town.numpy()})
    assert np.allclose(found, zoo.torch().cat([features, module.table(town)], 1).detach().numpy())


@pytest.mark.parametrize(
    "forward",
    [
        lambda t, x: x.clamp(-0.5, 0.25) + x.clamp(min=0.1),
        lambda t, x: (
            t.baddbmm(x[:, :1], x, x.transpose(1, 2) @ x, beta=2, alpha=-1).movedim(1, 2).expand(-1, 3, 3)
        ),
        lambda t, x: t.addmm(t.full((3,), 2.0), x[:, 0], t.eye(3)).square(),
        lambda t, x: (
            t.nn.functional.adaptive_max_pool2d(x.unsqueeze(1), (1, 3)).flatten(1)
            - (-x.sum((1, 2)).unsqueeze(1))
        ),
        lambda t, x: t.nn.functional.max_pool2d(x.unsqueeze(1), 2, 2, ceil_mode=True) / t.tensor([1.0, 4.0]),
        lambda t, x: t.where(x > 9, x, x) if x.shape[1] > 3 else 1 - x / 2,
        lambda t, x: t.full_like(x, 0.5) * x + t.ones_like(x).mean(2, keepdim=True),
        lambda t, x: [part.sum(1) for part in x.split([1, 2], 2)] + list(x.float().to(x.dtype).unbind(1)),
    ],
)
def test_functions_agree(nn, forward):
    class Made(nn.Module):
        def forward(self, x):
            return forward(zoo.torch(), x)

    x = zoo.batch(zoo.torch().rand(2, 3, 3), 4)
    found = twin.forward(from_torch(Made(), x), {"x": x.numpy()})
    for expected, one in zip(zoo.outputs(Made(), x), found, strict=True):
        assert np.allclose(expected, one, atol=1e-6)


# -- the graph


def test_the_graph_is_the_architecture():
    module, example = zoo.made("mlp")
    model = from_torch(module, example)
    assert kinds(model) == ["Linear", "Relu", "Linear"]
    assert [node.place for node in model.graph.nodes] == ["0 (Linear)", "1 (ReLU)", "2 (Linear)"]
    assert list(model.weights) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert np.array_equal(model.weights["2.bias"], module[2].bias.detach().numpy())
    assert from_torch(module, example[:1]).graph == model.graph
    assert (
        from_torch(zoo.made("mlp", double=True)[0], example.double()).graph.digest() == model.graph.digest()
    )


def test_normalisation_and_dropout_stay_for_training():
    model = imported("residual")
    ops = {type(node.op): node for node in model.graph.nodes}
    norm = ops[g.BatchNorm]
    assert norm.op == g.BatchNorm(1e-5, 0.1)
    assert norm.place == "norm (BatchNorm2d)"
    assert norm.inputs[1:] == ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert set(model.graph.buffers) == {"norm.running_mean", "norm.running_var"}
    assert ops[g.Dropout].op == g.Dropout(0.1)


def test_the_module_is_left_as_it_was():
    module, example = zoo.made("residual")
    module.train()
    module.head.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    level = logging.getLogger("torch._subclasses.fake_tensor").level
    from_torch(module, example)
    assert module.training
    assert not module.head.training
    assert all(zoo.torch().equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert logging.getLogger("torch._subclasses.fake_tensor").level == level


def test_attention_becomes_products_and_softmax():
    model = imported("encoder")
    assert kinds(model).count("MatMul") == 2
    assert kinds(model).count("Softmax") == 1
    assert not any("self_attn" in name and name not in model.graph.parameters for name in model.weights)
    attention = [node for node in model.graph.nodes if node.place == "self_attn (MultiheadAttention)"]
    assert {"MatMul", "Scale", "Softmax", "Linear", "Dropout"} <= {
        type(node.op).__name__ for node in attention
    }


def test_tied_and_frozen_weights_are_seen():
    module, example = zoo.made("generator")
    module.heads.bias.requires_grad_(requires_grad=False)
    parameters = from_torch(module, example).graph.parameters
    assert [name for name, p in parameters.items() if p.shape == (10, 8)] == ["out.weight"]
    assert parameters["heads.bias"] == Parameter((24,), trainable=False)
    assert parameters["heads.weight"].trainable


def test_masks_hold_no_infinity():
    model = imported("tokens")
    mask = next(w for name, w in model.weights.items() if w.shape == (1, 6, 6))
    assert set(np.unique(mask)) == {g.MASKED, 0}
    embedding = next(node.op for node in model.graph.nodes if isinstance(node.op, g.Embedding))
    assert embedding == g.Embedding(padding=1)


def test_built_and_imported_networks_are_the_same(nn):
    built = layers.mlp([4, 8, 3])
    taken = imported("mlp").graph
    assert [node.op for node in taken.nodes] == [node.op for node in built.nodes]


# -- refusals


def refused(module, example, told):
    with pytest.raises(ConfigError, match=told) as caught:
        from_torch(module, example)
    assert caught.value.remedy
    return caught.value.message


def test_all_that_is_unsupported_is_named_with_its_place(nn):
    module = sequence(
        sequence(nn.Linear(4, 4), nn.GroupNorm(2, 4)), nn.Softplus(), nn.Linear(4, 4), nn.LogSoftmax(1)
    )
    told = refused(module, zoo.torch().rand(2, 4), "3 operations")
    assert "0.1 (GroupNorm): group_norm; 1 (Softplus): softplus; 3 (LogSoftmax): log_softmax" in told


def test_uses_that_cannot_be_stated_are_named_with_their_place(nn):
    module = sequence(
        nn.BatchNorm2d(3, track_running_stats=False), nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(2, ceil_mode=True)
    )
    told = refused(module, zoo.torch().rand(2, 3, 8, 8), "operation")
    assert "0 (BatchNorm2d): native_batch_norm_legit (without running statistics" in told
    told = refused(module[1:], zoo.torch().rand(2, 3, 8, 8), "operation")
    assert "1 (AdaptiveAvgPool2d): adaptive_avg_pool2d (8 does not divide into 3 equal windows)" in told
    told = refused(module[2:], zoo.torch().rand(2, 3, 9, 9), "operation")
    assert "avg_pool2d (with ceil_mode" in told
    refused(sequence(nn.Softmax(0)), zoo.torch().rand(2, 3), r"0 \(Softmax\): softmax \(rows of one batch")


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda x: x if x.sum() > 0 else -x, "decides by its data"),
        (lambda x: x.cumsum(1), r"the module itself \(Made\): cumsum"),
        (lambda x: x / x.shape[0], "depends on the batch"),
        (lambda x: x / (1 + x), "by a value that is secret"),
        (lambda x: x.mean(), "rows of one batch"),
        (lambda x: x[:1], "a part of the batch"),
        (lambda x: x.view(2, 4), "some sizes of batch only"),
        (lambda x: x @ zoo.torch().ones(3, 2), "cannot trace"),
        (lambda x: (x > 0).float(), "gt"),
        (lambda x: zoo.torch().sort(x)[0], "sort"),
        (lambda x: x**5, "pow"),
        (lambda x: (x, 3), "is no tensor"),
        (lambda x: zoo.torch().rand(4) + x, "rand"),
    ],
)
def test_forward_functions_that_cannot_be_stated_are_refused(nn, forward, told, capfd):
    class Made(nn.Module):
        def forward(self, x):
            return forward(x)

    refused(Made(), zoo.torch().rand(2, 4), told)
    assert capfd.readouterr() == ("", "")


def test_a_module_that_changes_with_its_mode_is_refused(nn):
    class Fickle(nn.Module):
        def forward(self, x):
            return x + 1 if self.training else x

    refused(Fickle(), zoo.torch().rand(2, 4), "something else in inference mode")
    assert kinds(from_torch(Fickle(), zoo.torch().rand(2, 4), verify=False)) == ["Shift"]


def test_examples_that_do_not_fit_are_refused(nn):
    t = zoo.torch()
    for example, told in [
        ((), "no tensors"),
        ((3,), "no tensors"),
        (t.tensor(3.0), "no tensors"),
        ((t.rand(2, 3), t.rand(3, 3)), "differ"),
        (t.rand(0, 3), "differ"),
        (t.rand(2, 3) > 0, "boolean"),
    ]:
        refused(nn.Linear(3, 2), example, told)


def test_weights_that_are_not_finite_are_refused(nn):
    module = nn.Linear(3, 2)
    module.bias.data[1] = float("nan")
    with pytest.raises(DataError, match="'bias' holds NaN"):
        from_torch(module, zoo.torch().rand(2, 3))


def test_without_torch_the_remedy_is_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.export", None)
    with pytest.raises(ConfigError, match="torch is not installed") as caught:
        from_torch(None, None)
    assert caught.value.remedy == "pip install veilsum[torch]"


def test_the_importers_load_their_frameworks_only_when_asked():
    importers = "import sys, veilsum.learn.from_torch, veilsum.learn.from_onnx"
    code = importers + "; print({'torch', 'onnx'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
