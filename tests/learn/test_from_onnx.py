import io
import sys
import warnings

import numpy as np
import pytest

from learn import zoo
from veilsum.errors import ConfigError, DataError
from veilsum.learn import graph as g
from veilsum.learn import twin
from veilsum.learn.from_onnx import from_onnx
from veilsum.learn.graph import Value

pytestmark = pytest.mark.needs("python:onnx")
RANDOM = np.random.default_rng(6)


@pytest.fixture(scope="module")
def onnx():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnx as imported
        import onnx.reference
    return imported


def exported(module, example, opset):
    torch = zoo.torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def stated(onnx, nodes, shape=("n", 3), out=1, weights=None, *, index=False, opset=20):
    """Return the bytes of a model of nodes (kind, inputs, outputs, attributes); its last values go out."""
    h, kind = onnx.helper, onnx.TensorProto.INT64 if index else onnx.TensorProto.FLOAT
    made = [h.make_node(k, i, o, name=f"my_{k}", **a) for k, i, o, a in nodes]
    # the format asks for a shape of each output, and nobody reads it
    results = [h.make_tensor_value_info(o, onnx.TensorProto.FLOAT, []) for o in nodes[-1][2][:out]]
    held = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()]
    entered = [h.make_tensor_value_info("x", kind, shape)]
    graph = h.make_graph(made, "g", entered, results, held)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
    return model.SerializeToString()


def agree(onnx, content, x):
    model = from_onnx(content)
    expected = onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(content)).run(None, {"x": x})
    for one, two in zip(expected, twin.forward(model, {"x": x}), strict=True):
        assert one.shape == two.shape
        assert np.allclose(one, two, atol=1e-5, rtol=1e-5)
    return model


def floats(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


# -- the same numbers


@pytest.mark.needs("python:torch", "python:onnxscript")
@pytest.mark.parametrize(
    ("name", "opset"),
    [
        *(("encoder", 18), ("conv1d", 18), ("tokens", 20), ("residual", 20)),
        *(pytest.param(name, 20, marks=pytest.mark.slow) for name in ("lenet", "generator", "arithmetic")),
    ],
)
def test_what_torch_exports_computes_the_same(onnx, name, opset):
    module, example = zoo.made(name)
    model = from_onnx(exported(module, example, opset))
    x = zoo.batch(example, 5)
    (given,) = model.graph.inputs
    for expected, found in zip(zoo.outputs(module, x), twin.forward(model, {given: x.numpy()}), strict=True):
        assert np.allclose(expected, found, atol=2e-5, rtol=2e-5)


IMAGE = ("n", 3, 8, 9)
CASES = {
    "gemm": ([("Gemm", ["x", "w", "b"], ["y"], {"alpha": 0.5, "beta": 2.0})], {"w": (3, 4), "b": (4,)}),
    "gemm_linear": ([("Gemm", ["x", "w", "b"], ["y"], {"transB": 1})], {"w": (4, 3), "b": (4,)}),
    "gemm_wide_bias": ([("Gemm", ["x", "w", "b"], ["y"], {"transB": 1})], {"w": (4, 3), "b": (1, 4)}),
    "gemm_bare": ([("Gemm", ["x", "w"], ["y"], {})], {"w": (3, 4)}),
    "matmul_add": (
        [("MatMul", ["x", "w"], ["m"], {}), ("Add", ["b", "m"], ["y"], {})],
        {"w": (3, 4), "b": (4,)},
    ),
    "shared": (
        [("MatMul", ["x", "w"], ["m"], {}), ("Gemm", ["m", "w"], ["a"], {}), ("Add", ["a", "m"], ["y"], {})],
        {"w": (3, 3)},
    ),
    "sums": (
        [
            *(("Add", ["x", "s"], ["a"], {}), ("Sub", ["s", "a"], ["b"], {}), ("Sub", ["b", "s"], ["c"], {})),
            *(("Mul", ["c", "v"], ["d"], {}), ("Div", ["d", "v"], ["e"], {}), ("Neg", ["e"], ["f"], {})),
            *(("Div", ["f", "s"], ["h"], {}), ("Sub", ["h", "v"], ["i"], {}), ("Mul", ["i", "x"], ["y"], {})),
        ],
        {"s": (), "v": (3,)},
    ),
    "activations": (
        [
            *(("LeakyRelu", ["x"], ["a"], {"alpha": 0.1}), ("Tanh", ["a"], ["b"], {})),
            *(("Sigmoid", ["b"], ["c"], {}), ("Relu", ["c"], ["d"], {}), ("Gelu", ["d"], ["e"], {})),
            *(("Gelu", ["e"], ["f"], {"approximate": "tanh"}), ("Softmax", ["f"], ["h"], {})),
            *(("Identity", ["h"], ["i"], {}), ("Dropout", ["i"], ["y"], {})),
        ],
        {},
    ),
    "layer_norm": (
        [("LayerNormalization", ["x", "w"], ["a"], {"epsilon": 0.1}), ("Identity", ["a"], ["y"], {})],
        {"w": (3,)},
    ),
}
IMAGES = {
    "conv": (
        [("Conv", ["x", "w", "b"], ["y"], {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]})],
        {"w": (4, 3, 3, 2), "b": (4,)},
    ),
    "conv_groups": ([("Conv", ["x", "w"], ["y"], {"group": 3})], {"w": (6, 1, 2, 2)}),
    "conv_same_upper": (
        [("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
        {"w": (2, 3, 2, 3)},
    ),
    "conv_same_lower": ([("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME_LOWER"})], {"w": (2, 3, 2, 2)}),
    "conv_valid": ([("Conv", ["x", "w"], ["y"], {"auto_pad": "VALID"})], {"w": (2, 3, 2, 2)}),
    "max_pool": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})],
        {},
    ),
    "max_pool_ceil": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})],
        {},
    ),
    "avg_pool": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})],
        {},
    ),
    "avg_pool_counted": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1})],
        {},
    ),
    "global_pool": ([("GlobalAveragePool", ["x"], ["a"], {}), ("Flatten", ["a"], ["y"], {})], {}),
    "flatten_all": ([("Flatten", ["x"], ["y"], {"axis": -2})], {}),
    "norm": (
        [("BatchNormalization", ["x", "s", "t", "m", "v"], ["y"], {"momentum": 0.8})],
        {"s": (3,), "t": (3,), "m": (3,), "v": (3,)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_on_rows_agree_with_the_reference(onnx, name):
    nodes, shapes = CASES[name]
    weights = {key: floats(*shape) for key, shape in shapes.items()}
    agree(onnx, stated(onnx, nodes, weights=weights), floats(5, 3))


@pytest.mark.parametrize("name", IMAGES)
def test_operators_on_images_agree_with_the_reference(onnx, name):
    nodes, shapes = IMAGES[name]
    weights = {key: np.abs(floats(*shape)) for key, shape in shapes.items()}
    agree(onnx, stated(onnx, nodes, IMAGE, weights=weights), floats(5, 3, 8, 9))


def test_moves_agree_with_the_reference(onnx):
    nodes = [
        ("Transpose", ["x"], ["a"], {"perm": [1, 0, 2]}),
        ("Unsqueeze", ["a", "i0"], ["b"], {}),
        ("Squeeze", ["b", "i0"], ["c"], {}),
        ("Reshape", ["c", "shape"], ["d"], {}),
        ("Slice", ["d", "i1", "end", "last", "i2"], ["e"], {}),
        ("Concat", ["e", "e"], ["f"], {"axis": -1}),
        ("Split", ["f", "parts"], ["h", "i"], {"axis": 2}),
        ("Clip", ["h", "low", "high"], ["j"], {}),
        ("ReduceSum", ["i", "i0"], ["k"], {"keepdims": 1}),
        ("Expand", ["k", "one"], ["l"], {}),
        ("Pow", ["j", "two"], ["m"], {}),
        ("ReduceMean", ["m", "last"], ["p"], {"keepdims": 0}),
        ("Gather", ["j", "minus"], ["q"], {"axis": 2}),
        ("Where", ["mask", "q", "low"], ["r"], {}),
        ("Mul", ["r", "l"], ["s"], {}),
        ("Unsqueeze", ["p", "last"], ["t"], {}),
        ("Add", ["s", "t"], ["u"], {}),
        ("Transpose", ["u"], ["y"], {}),
    ]
    numbers = {"i0": [0], "i1": [1], "i2": [2], "shape": [0, -1, 4], "end": [2**62], "last": [-1]}
    numbers |= {"one": [1, 1, 2], "parts": [3, 1], "minus": [-2, -1]}
    weights = {name: np.array(n, np.int64) for name, n in numbers.items()}
    weights |= {"low": np.float32(-0.5), "high": np.float32(0.75), "two": np.float32(3)}
    weights["mask"] = np.array([[True, False]])
    agree(onnx, stated(onnx, nodes, ("n", 5, 4), weights=weights), floats(6, 5, 4))


def test_shapes_computed_from_shapes_are_folded(onnx):
    nodes = [
        ("Shape", ["x"], ["all"], {}),
        ("Gather", ["all", "zero"], ["n"], {}),
        ("Mul", ["n", "two"], ["twice"], {}),
        ("Unsqueeze", ["twice", "axis"], ["rows"], {}),
        ("Concat", ["rows", "rest"], ["shape"], {"axis": 0}),
        ("Reshape", ["x", "shape"], ["a"], {}),
        ("ConstantOfShape", ["shape"], ["zeros"], {}),
        ("Concat", ["a", "zeros"], ["y"], {"axis": 1}),
    ]
    weights = {"zero": np.int64(0), "two": np.int64(2), "axis": np.array([0]), "rest": np.array([3])}
    model = agree(onnx, stated(onnx, nodes, ("n", 6), weights=weights), floats(4, 6))
    assert [node.op for node in model.graph.nodes] == [g.Reshape((-2, 3)), g.Expand((-2, 3)), g.Concat(1)]


@pytest.mark.parametrize("order", [("half", "one"), ("one", "half"), ("inner", "one")])
def test_gelu_stated_by_erf_is_gelu(onnx, order):
    nodes = [("Div", ["x", "root"], ["a"], {}), ("Erf", ["a"], ["b"], {}), ("Add", ["b", "1"], ["c"], {})]
    nodes += {
        "half": [("Mul", ["c", "half"], ["d"], {}), ("Mul", ["x", "d"], ["y"], {})],
        "one": [("Mul", ["x", "c"], ["d"], {}), ("Mul", ["d", "half"], ["y"], {})],
        "inner": [("Mul", ["x", "half"], ["d"], {}), ("Mul", ["d", "c"], ["y"], {})],
    }[order[0]]
    weights = {"root": np.float32(2**0.5), "1": np.float32(1), "half": np.float32(0.5)}
    model = agree(onnx, stated(onnx, nodes, weights=weights), floats(5, 3))
    assert [node.op for node in model.graph.nodes] == [g.Gelu()]


def test_indices_look_up_rows(onnx):
    nodes = [("Cast", ["x"], ["a"], {"to": 7}), ("Gather", ["table", "a"], ["y"], {})]
    content = stated(onnx, nodes, ("n", 4), weights={"table": floats(9, 2)}, index=True)
    model = agree(onnx, content, RANDOM.integers(0, 9, (5, 4)))
    assert model.graph.inputs == {"x": Value((-1, 4), index=True)}
    assert model.graph.parameters["table"].trainable


def test_the_graph_is_the_architecture(onnx, tmp_path):
    nodes, shapes = CASES["matmul_add"]
    weights = {key: floats(*shape) for key, shape in shapes.items()}
    path = tmp_path / "model.onnx"
    path.write_bytes(stated(onnx, nodes, weights=weights))
    model = from_onnx(path)
    assert [(type(n.op), n.inputs, n.place) for n in model.graph.nodes] == [
        (g.Linear, ("x", "w", "b"), "my_Add (Add)")
    ]
    assert np.array_equal(model.weights["w"], weights["w"].T)
    norm = from_onnx(stated(onnx, IMAGES["norm"][0], IMAGE, weights=dict.fromkeys("stmv", floats(3))))
    assert norm.graph.nodes[0].op == g.BatchNorm(1e-5, 0.2)
    assert list(norm.graph.buffers) == ["m", "v"]


# -- refusals


def refused(content, told):
    with pytest.raises(ConfigError, match=told) as caught:
        from_onnx(content)
    assert caught.value.remedy
    return caught.value.message


def test_all_that_is_unsupported_is_named_with_its_node(onnx):
    nodes = [
        ("Softplus", ["x"], ["a"], {}),
        ("Sigmoid", ["a"], ["b"], {}),
        ("Elu", ["b"], ["c"], {}),
        ("Softmax", ["x"], ["d"], {"axis": 0}),
        ("Sum", ["c", "d"], ["y"], {}),
    ]
    told = refused(stated(onnx, nodes), "4 operations")
    assert "my_Softplus (Softplus); my_Elu (Elu); my_Softmax (Softmax): rows of one batch" in told
    assert "my_Sum (Sum)" in told


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([("Div", ["w", "x"], ["y"], {})], r"my_Div \(Div\): by a value that is secret"),
        ([("Erf", ["x"], ["y"], {})], "other than in GELU"),
        ([("Pow", ["x", "x"], ["y"], {})], "other than 2"),
        ([("Sqrt", ["x"], ["y"], {})], "values that the inputs decide"),
        ([("Reshape", ["x", "w"], ["y"], {})], "my_Reshape"),
        ([("Reshape", ["x", "five"], ["y"], {})], "cannot be seen"),
        ([("MatMul", ["x", "w"], ["y"], {})], "inputs was given"),
        ([("Cast", ["x"], ["y"], {"to": 7})], "between reals and whole"),
        ([("Where", ["x", "w", "w"], ["y"], {})], "my_Where"),
        ([("Slice", ["x", "zero", "one"], ["y"], {})], "part of the batch"),
        ([("Gather", ["x", "zero"], ["y"], {})], "part of the batch"),
        ([("Neg", ["one"], ["y"], {})], "does not depend on the inputs"),
        ([("Expand", ["one", "huge"], ["a"], {}), ("Reshape", ["x", "a"], ["y"], {})], "too large"),
        ([("Concat", ["big"] * 40, ["a"], {"axis": 0}), ("Reshape", ["x", "a"], ["y"], {})], "too large"),
    ],
)
def test_uses_that_cannot_be_stated_are_named_with_their_node(onnx, nodes, told):
    weights = {"w": floats(4, 4), "five": np.array([-1, 5]), "zero": np.array([0]), "one": np.array([1])}
    weights |= {"huge": np.array([1 << 40]), "big": np.zeros(1 << 19, np.int64)}
    refused(stated(onnx, nodes, weights=weights), told)


def test_files_that_are_no_models_are_refused(onnx, tmp_path):
    good = stated(onnx, CASES["gemm_bare"][0], weights={"w": floats(3, 4)})
    refused(b"no model", "no valid ONNX model")
    refused(b"", "no valid ONNX model")
    refused(good[: len(good) // 2], "no valid ONNX model")
    refused(tmp_path / "none", "cannot be read")
    refused(stated(onnx, CASES["gemm_bare"][0], weights={"w": floats(3, 4)}, opset=11), "opset 11")
    refused(stated(onnx, [("Relu", ["z"], ["y"], {})]), "no valid ONNX model")


@pytest.mark.parametrize("shape", [(2, 3), ("n", "m"), ("n", 0), ()])
def test_inputs_without_a_free_batch_are_refused(onnx, shape):
    refused(stated(onnx, [("Relu", ["x"], ["y"], {})], shape), "the input 'x'")


def test_weights_in_other_files_or_of_false_sizes_are_refused(onnx, tmp_path):
    nodes = CASES["gemm_bare"][0]
    model = onnx.load_model_from_string(stated(onnx, nodes, weights={"w": floats(3, 4)}))
    (weight,) = model.graph.initializer
    weight.dims[0] = 1 << 40
    refused(model.SerializeToString(), "'w' is too large")
    weight.dims[0] = 1 << 20
    refused(model.SerializeToString(), "valid|broken")
    weight.dims[0] = -3
    refused(model.SerializeToString(), "'w' is too large")
    model = onnx.load_model_from_string(stated(onnx, nodes, weights={"w": floats(30, 40)}))
    onnx.save_model(
        model,
        tmp_path / "m",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="w",
        size_threshold=0,
    )
    refused(tmp_path / "m", "'w' lies in another file")
    with pytest.raises(DataError, match="'w' holds NaN"):
        from_onnx(stated(onnx, nodes, weights={"w": np.full((3, 4), np.nan, np.float32)}))


def test_without_onnx_the_remedy_is_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx.checker", None)
    with pytest.raises(ConfigError, match="onnx is not installed") as caught:
        from_onnx(b"")
    assert caught.value.remedy == "pip install veilsum[onnx]"
