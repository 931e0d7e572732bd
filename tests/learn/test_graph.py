import io
import typing
import zipfile

import msgspec
import numpy as np
import pytest

from veilsum.errors import ConfigError, DataError
from veilsum.learn import graph as g
from veilsum.learn import layers, shapes
from veilsum.learn.builder import Builder
from veilsum.learn.graph import Graph, Node, Operation, Parameter, Value
from veilsum.learn.model import Model

MLP = layers.mlp([4, 5, 3])


def changed(graph, **fields):
    return msgspec.structs.replace(graph, **fields)


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, parts, *, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts:
            archive.writestr(name, content)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model"
    layers.initialise(MLP, 1).save(path)
    return path


# -- shapes


def test_every_operation_has_a_rule_for_its_shape():
    assert set(typing.get_args(Operation)) == set(shapes._RULES)


@pytest.mark.parametrize(
    ("op", "given", "expected"),
    [
        (g.Linear(), [(-1, 7, 4), (3, 4), (3,)], (-1, 7, 3)),
        (g.Conv((2, 1), ((1, 0), (0, 2)), (1, 2), 2), [(-1, 4, 8, 9), (6, 2, 3, 3)], (-1, 6, 4, 7)),
        (g.Conv((1,), ((0, 0),), (1,)), [(-1, 1, 5), (2, 1, 5), (2,)], (-1, 2, 1)),
        (g.BatchNorm(), [(-1, 3, 2, 2), (3,), (3,), (3,), (3,)], (-1, 3, 2, 2)),
        (g.LayerNorm(2), [(5, -1, 3, 2), (3, 2), (3, 2)], (5, -1, 3, 2)),
        (g.MaxPool((3,), (2,), ((1, 3),), (1,)), [(-1, 3, 7)], (-1, 3, 5)),
        (g.AvgPool((2, 2), (2, 2), ((0, 0), (0, 0))), [(-2, 3, 5, 4)], (-2, 3, 2, 2)),
        (g.Softmax(1), [(-1, 3)], (-1, 3)),
        (g.Add(), [(-1, 1, 3), (4, 1)], (-1, 4, 3)),
        (g.Mul(), [(), (-1, 2)], (-1, 2)),
        (g.MatMul(), [(-8, 5, 4), (1, 4, 6)], (-8, 5, 6)),
        (g.MatMul(), [(3, 4), (-1, 4, 6)], (-1, 3, 6)),
        (g.Reshape((-10, 4)), [(5, -1, 8)], (-10, 4)),
        (g.Permute((1, 0, 2)), [(-1, 5, 8)], (5, -1, 8)),
        (g.Expand((-1, 2, 3)), [(1, 3)], (-1, 2, 3)),
        (g.Concat(0), [(-1, 2), (-3, 2)], (-4, 2)),
        (g.Slice(1, 1, 6, 2), [(-1, 7)], (-1, 3)),
        (g.Mean((1, 2), keep=True), [(-1, 3, 4)], (-1, 1, 1)),
        (g.Mean((2,)), [(-1, 3, 4)], (-1, 3)),
        (g.Dropout(0.5), [(-1,)], (-1,)),
    ],
)
def test_shapes_follow_from_shapes(op, given, expected):
    assert shapes.result(op, [Value(shape) for shape in given], "here") == Value(expected)


@pytest.mark.parametrize(
    ("op", "given", "told"),
    [
        (g.Linear(), [(-1, 5), (3, 4)], "4 inputs"),
        (g.Linear(), [(-1, 4), (3, 4), (4,)], "bias"),
        (g.Linear(), [(-1, 4)], "inputs"),
        (g.Linear(), [(), (3, 4)], "4 inputs"),
        (g.Conv((1,), ((0, 0),), (1,)), [(-1, 2, 5), (2, 3, 5)], "3 channels"),
        (g.Conv((1,), ((0, 0),), (1,)), [(-1, 3, 4), (2, 3, 5)], "does not fit"),
        (g.Conv((0,), ((0, 0),), (1,)), [(-1, 3, 4), (2, 3, 1)], "at least 1"),
        (g.Conv((1,) * 3, ((0, 0),) * 3, (1,) * 3), [(-1, 3, 4, 4, 4), (2, 3, 1, 1, 1)], "one or two"),
        (g.BatchNorm(), [(-1, 3), (3,), (3,), (3,), (4,)], "normalisation"),
        (g.BatchNorm(eps=float("nan")), [(-1, 3), *[(3,)] * 4], "eps"),
        (g.LayerNorm(3), [(-1, 3), (3,), (3,)], "3"),
        (g.LayerNorm(2), [(-1, 3), (3,), (3,)], "mixed"),
        (g.AvgPool((2,), (2,), ((2, 0),), count_padding=False), [(-1, 3, 8)], "padding"),
        (g.Softmax(0), [(-1, 3)], "mixed"),
        (g.Mean((0,)), [(-1, 3)], "mixed"),
        (g.Mean((1, 1)), [(-1, 3)], "no axes"),
        (g.Add(), [(-1, 3), (4, 3)], "fit together"),
        (g.Add(), [(-1, 3), (-2, 3)], "fit together"),
        (g.MatMul(), [(-1, 3), (4, 3)], "multiplied"),
        (g.MatMul(), [(3,), (3, 3)], "multiplied"),
        (g.Scale(float("inf")), [(-1,)], "finite"),
        (g.Reshape((-1, 5)), [(-1, 4)], "seen as"),
        (g.Reshape((4,)), [(-1, 4)], "seen as"),
        (g.Permute((0, 0)), [(-1, 4)], "no axes"),
        (g.Expand((-1, 4)), [(-1, 3)], "fit together"),
        (g.Expand((1, 4)), [(-1, 4)], "spread"),
        (g.Concat(0), [(-1, 3), (2, 3)], "joined"),
        (g.Slice(0, 0, 1), [(-1, 3)], "no part"),
        (g.Slice(1, 2, 2), [(-1, 3)], "no part"),
        (g.Dropout(1.0), [(-1, 3)], "dropout"),
        (g.Expand((1 << 20, 1 << 20)), [(1, 1)], "too large"),
        (g.MatMul(), [(-1, 3), (3, -1)], "too large"),
        (g.Embedding(), [(-1, 3), (5, 2)], "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(op, given, told):
    with pytest.raises(ConfigError, match=told) as caught:
        shapes.result(op, [Value(shape) for shape in given], "layers.2 (Conv2d)")
    assert caught.value.message.startswith("layers.2 (Conv2d)")
    assert caught.value.remedy


def test_whole_numbers_only_look_up_and_move():
    rows = Value((-1, 6), index=True)
    assert shapes.result(g.Embedding(2), [rows, Value((9, 4))], "") == Value((-1, 6, 4))
    assert shapes.result(g.Reshape((-3, 2)), [rows], "") == Value((-3, 2), index=True)
    with pytest.raises(ConfigError, match="cannot compute"):
        shapes.result(g.Scale(2.0), [rows], "here")
    with pytest.raises(ConfigError, match="put together"):
        shapes.result(g.Concat(0), [rows, Value((-1, 6))], "here")
    with pytest.raises(ConfigError, match="no row 9"):
        shapes.result(g.Embedding(9), [rows, Value((9, 4))], "here")


def relu(inputs, output):
    return Node(g.Relu(), inputs, output, "act (ReLU)")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nodes": (relu(("z",), "y"),)}, "'z' is used before"),
        ({"nodes": (relu(("x",), "x"),)}, "two values"),
        ({"nodes": (relu(("x",), "y"), relu(("x",), "y"))}, "two values"),
        ({"outputs": ()}, "no output"),
        ({"outputs": ("z",)}, "'z' is not a value"),
        ({"parameters": {"x": Parameter((1,))}}, "two values"),
        ({"parameters": {"w": Parameter((1,))}, "buffers": {"w": (1,)}}, "two values"),
        ({"parameters": {"w": Parameter((-1,))}}, "depends on the batch"),
        ({"parameters": {"w\x00": Parameter((1,))}}, "cannot name"),
        ({"buffers": {"": (1,)}}, "cannot name"),
        ({"buffers": {"w": (1 << 32,)}}, "too large"),
        ({"inputs": {"x": Value((-1, -1))}}, "too large"),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(fields, told):
    good = Graph({"x": Value((-1, 3))}, (relu(("x",), "y"),), ("y",))
    assert shapes.infer(good)["y"] == Value((-1, 3))
    with pytest.raises(ConfigError, match=told):
        shapes.infer(changed(good, **fields))


def test_running_statistics_are_buffers():
    made = Builder()
    x = made.input("x", (-1, 3))
    weights = [made.parameter(name, (3,)) for name in ("scale", "shift", "mean", "variance")]
    graph = made.graph([made.node(g.BatchNorm(), x, *weights, place="norm (BatchNorm1d)")])
    with pytest.raises(ConfigError, match=r"norm \(BatchNorm1d\).*buffers"):
        shapes.infer(graph)


def test_what_no_output_needs_is_left_out():
    made = Builder()
    x = made.input("x", (-1, 3))
    made.node(g.Mul(), x, made.parameter("unused", (3,)))
    graph = made.graph([made.scale(made.scale(x, 4.0), 0.5)])
    assert graph.nodes == (Node(g.Scale(2.0), ("x",), "scale_", ""),)
    assert not graph.parameters
    assert made.scale(made.scale(x, 4.0), 0.25) == x


# -- digest


def test_the_digest_is_stable():
    assert MLP.digest().hex() == "b236fb4c640feefdfce8fd838b5fac503e469ec6f4125f6b358465eee1812273"
    again = msgspec.json.decode(msgspec.json.encode(MLP), type=Graph)
    assert again == MLP
    assert again.digest() == MLP.digest()
    elsewhere = tuple(changed(node, place="another place") for node in MLP.nodes)
    assert changed(MLP, nodes=elsewhere).digest() == MLP.digest()


def test_the_digest_tells_architectures_apart():
    first, *rest = MLP.nodes
    trainable = changed(MLP.parameters["layers.0.bias"], trainable=False)
    others = [
        layers.mlp([4, 6, 3]),
        layers.mlp([4, 5, 3], "tanh"),
        changed(MLP, nodes=(changed(first, inputs=first.inputs[:2]), *rest)),
        changed(MLP, outputs=MLP.outputs * 2),
        changed(MLP, inputs={"x": Value((-2, 4))}),
        changed(MLP, buffers={"more": (1,)}),
        changed(MLP, parameters=MLP.parameters | {"layers.0.bias": trainable}),
    ]
    assert len({graph.digest() for graph in [MLP, *others]}) == 8


# -- layers without a framework


def test_networks_have_the_shapes_they_are_asked_for():
    for graph, shape, out in [
        (layers.mlp([784, 128, 128, 10]), (-1, 784), (-1, 10)),
        (layers.logistic(30), (-1, 30), (-1, 1)),
        (layers.logistic(30, sigmoid=True), (-1, 30), (-1, 1)),
        (layers.convnet(), (-1, 1, 28, 28), (-1, 10)),
        (
            layers.convnet((3, 32, 32), 7, channels=[8], hidden=[], kernel=3, pool="avg"),
            (-1, 3, 32, 32),
            (-1, 7),
        ),
    ]:
        values = shapes.infer(graph)
        assert graph.inputs == {"x": Value(shape)}
        assert values[graph.outputs[0]] == Value(out)
    count = sum(np.prod(p.shape) for p in layers.convnet(hidden=[120, 84]).parameters.values())
    assert count == 6 * 26 + 16 * 151 + 785 * 120 + 121 * 84 + 85 * 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.mlp([3]),
        lambda: layers.mlp([3, 0]),
        lambda: layers.mlp([3, 3, 3], "cubic"),
        lambda: layers.logistic(0),
        lambda: layers.convnet(kernel=4),
        lambda: layers.convnet((1, 4, 4), channels=[1, 1, 1]),
    ],
)
def test_impossible_networks_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_initial_weights_are_the_same_for_one_seed():
    one, two, three = (layers.initialise(layers.convnet(), seed) for seed in (7, 7, 8))
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert not np.array_equal(one.weights["layers.0.weight"], three.weights["layers.0.weight"])
    corner = one.weights["layers.0.weight"][0, :2].tobytes().hex()
    assert corner == "dad75b3b0850773c"


def test_initial_weights_have_the_bounds_of_the_literature():
    weights = layers.initialise(layers.mlp([200, 100, 50]), 1).weights
    he, glorot = np.sqrt(6 / 200), np.sqrt(6 / 150)
    for name, bound in (("layers.0.weight", he), ("layers.1.weight", glorot)):
        assert bound * 0.99 < np.abs(weights[name]).max() <= bound
        assert abs(weights[name].std() - bound / np.sqrt(3)) < 0.02 * bound
    assert not weights["layers.0.bias"].any()


def test_initial_weights_of_normalisations_leave_values_alone():
    made = Builder()
    x = made.input("x", (-1, 3))
    rest = [made.parameter("scale", (3,)), made.parameter("shift", (3,))]
    x = made.node(g.BatchNorm(), x, *rest, made.buffer("mean", (3,)), made.buffer("variance", (3,)))
    weights = layers.initialise(made.graph([x]), 1).weights
    assert {n: w.tolist() for n, w in weights.items()} == {
        "scale": [1, 1, 1],
        "shift": [0, 0, 0],
        "mean": [0, 0, 0],
        "variance": [1, 1, 1],
    }
    constant = made.graph([made.node(g.Add(), x, made.buffer("mask", (3,)), place="attention")])
    with pytest.raises(ConfigError, match=r"attention.*mask"):
        layers.initialise(constant, 1)


# -- models and their files


def test_a_model_shows_sizes_only():
    assert repr(layers.initialise(MLP, 1)) == "Model(3 nodes, 43 numbers)"


def test_a_file_gives_back_the_model(saved, tmp_path):
    model = layers.initialise(MLP, 1)
    again = Model.load(saved)
    assert again.graph == model.graph
    assert all(np.array_equal(again.weights[name], w) for name, w in model.weights.items())
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    with np.load(saved, allow_pickle=False) as archive:
        assert np.array_equal(archive["layers.0.weight"], model.weights["layers.0.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "model"]


def test_odd_names_types_and_shapes_survive(tmp_path):
    graph = Graph(
        {"x": Value((-1,))}, (), ("x",), {"../π/ä": Parameter(()), "graph.json": Parameter((2, 0, 3))}
    )
    weights = {"../π/ä": np.array(1.5, ">f8"), "graph.json": np.zeros((2, 0, 3), np.float32)}
    Model(graph, weights).save(tmp_path / "odd")
    again = Model.load(tmp_path / "odd")
    assert again.graph == graph
    assert again.weights["../π/ä"] == 1.5
    assert again.weights["../π/ä"].dtype == np.float64
    assert again.weights["graph.json"].shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("layers.0.bias"), "lacks 'layers.0.bias'"),
        (lambda w: w.update(more=np.zeros(1)), "more than its graph asks for: 'more'"),
        (lambda w: w.update({"layers.0.bias": np.full(5, np.nan)}), "'layers.0.bias' holds NaN"),
        (lambda w: w.update({"layers.0.bias": np.full(5, -np.inf)}), "'layers.0.bias' holds NaN or inf"),
        (lambda w: w.update({"layers.0.bias": np.zeros(4)}), r"'layers.0.bias' has the shape \(4,\)"),
        (lambda w: w.update({"layers.0.bias": np.zeros(5, np.int64)}), "no array of float"),
        (lambda w: w.update({"layers.0.bias": [0.0] * 5}), "no array of float"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, told):
    weights = dict(layers.initialise(MLP, 1).weights)
    change(weights)
    with pytest.raises(DataError, match=told) as caught:
        Model(MLP, weights)
    assert caught.value.remedy


def test_every_truncation_of_a_file_is_refused(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "short"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"whole model|no model") as caught:
            Model.load(path)
        assert caught.value.remedy


def test_a_changed_byte_is_refused_or_does_not_matter(saved, tmp_path):
    content, path, refused = saved.read_bytes(), tmp_path / "changed", 0
    model = Model.load(saved)
    for at in range(0, len(content), 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            again = Model.load(path)
        except (ConfigError, DataError):
            refused += 1
        else:  # a date, or another field that says nothing of the content
            assert again.graph == model.graph
            assert all(np.array_equal(again.weights[n], w) for n, w in model.weights.items())
    assert refused > len(content) // 10


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: e.pop("layers.0.bias.npy"), "lacks 'layers.0.bias'"),
        (lambda e: e.pop("graph.json"), "no graph"),
        (lambda e: e.update({"more.npy": b""}), "more than"),
        (lambda e: e.update({"code.pkl": b""}), "foreign entry 'code.pkl'"),
        (lambda e: e.update({"graph.json": e["graph.json"].replace(b"model/1", b"model/2")}), "this version"),
        (lambda e: e.update({"graph.json": e["graph.json"].replace(b'"relu"', b'"eval"')}), "eval"),
        (
            lambda e: e.update({"graph.json": e["graph.json"].replace(b'"relu"', b'"relu","x":1')}),
            "unknown field",
        ),
        (lambda e: e.update({"graph.json": b"[" * 100_000}), "cannot be read"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.zeros(4, np.float32))}), "is not"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.zeros(5, np.int32))}), "is not"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.array([None] * 5))}), "is not"),
        (lambda e: e.update({"layers.0.weight.npy": npy(np.zeros((5, 4)).T.copy().T)}), "is not"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.full(5, np.nan))}), "NaN"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.zeros(5)) + b"1"}), "is not"),
        (lambda e: e.update({"layers.0.bias.npy": npy(np.zeros(2000))}), "longer"),
        (lambda e: e.update({"layers.0.bias.npy": b"\x93NUMPY"}), "cannot be read"),
        (lambda e: e.update({"layers.0.bias.npy": b"PK"}), "cannot be read"),
    ],
)
def test_foreign_content_is_refused(saved, tmp_path, change, told):
    parts = entries(saved)
    change(parts)
    write(tmp_path / "foreign", parts.items())
    with pytest.raises(DataError, match=told) as caught:
        Model.load(tmp_path / "foreign")
    assert caught.value.remedy


def test_compressed_files_are_refused_before_they_are_unpacked(saved, tmp_path):
    parts = entries(saved) | {"layers.0.bias.npy": bytes(100_000_000)}
    write(tmp_path / "bomb", parts.items(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="compressed"):
        Model.load(tmp_path / "bomb")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_entry_named_twice_is_refused(saved, tmp_path):
    write(tmp_path / "twice", [*entries(saved).items(), ("graph.json", b"{}")])
    with pytest.raises(DataError, match="twice"):
        Model.load(tmp_path / "twice")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no model file"):
        Model.load(tmp_path / "none")
    with pytest.raises(DataError, match="whole model"):
        Model.load(tmp_path)
