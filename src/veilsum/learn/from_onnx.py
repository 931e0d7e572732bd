"""ONNX files as graphs: checked, folded where nothing depends on the inputs, and translated.

What ONNX computes about shapes (``Shape``, ``Gather``, ``Concat``, … before a ``Reshape``) is computed here
with a large prime for the batch size; a size that it divides is a multiple of the batch. onnx is imported
only when it is needed.
"""

import importlib
import math
import warnings
from pathlib import Path
from typing import Any, Final

from veilsum.errors import ConfigError
from veilsum.learn.model import Model
from veilsum.learn.onnx_reading import FOREIGN, Reading
from veilsum.learn.onnx_rules import RULES
from veilsum.learn.shapes import MOST_ELEMENTS, MOST_NODES

_MOST_BYTES: Final = 2**31 - 1
_OLDEST: Final = 13  # the operator set in which Softmax, Squeeze and ReduceSum took their present form


def from_onnx(source: Path | str | bytes) -> Model:
    """Translate an ONNX model with its weights.

    Args:
        source: a file, or its bytes. The first axis of every input is the batch, of free size; all other
            sizes are fixed. Inputs of integers are indices.

    Returns:
        The model; its inputs and weights are named as in the file. Weights that an exporter has merged
        because they were equal are one weight, also when it is trained.

    Raises:
        ConfigError: onnx or the file is missing, the file is foreign, broken, too large, of an old operator
            set or keeps its weights in other files, or some of its operations cannot run on secret shares
            (all of them are named with their nodes).
        DataError: a weight is not finite.
    """
    onnx = _onnx()
    proto = _parse(onnx, _content(source))
    return Reading(onnx, proto.graph, RULES).model()


def _onnx() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what onnx's own imports have to say does not concern the user
        try:
            for part in ("checker", "inliner", "numpy_helper"):
                importlib.import_module(f"onnx.{part}")
            return importlib.import_module("onnx")
        except ImportError:
            raise ConfigError("onnx is not installed", remedy="pip install veilsum[onnx]") from None


def _content(source: Path | str | bytes) -> bytes:
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            size = Path(source).stat().st_size
        except OSError as error:
            raise ConfigError(
                f"the model {source} cannot be read: {error}", remedy="check the path"
            ) from None
    if size > _MOST_BYTES:
        raise ConfigError("the model is larger than 2 GiB, which ONNX does not allow", remedy=FOREIGN)
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _parse(onnx: Any, content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            proto = onnx.load_model_from_string(content)
            _check_tensors(onnx, proto)
            onnx.checker.check_model(proto)
            proto = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - protobuf and onnx raise errors of unrelated classes
            told = str(error).strip() or type(error).__name__
            raise ConfigError(
                f"this is no valid ONNX model: {told.splitlines()[0]}", remedy=FOREIGN
            ) from None
    version = max((o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"}), default=0)
    if version < _OLDEST:
        raise ConfigError(f"the model uses opset {version}, older than {_OLDEST}", remedy=FOREIGN)
    return proto


def _check_tensors(onnx: Any, proto: Any) -> None:
    """Look at every tensor's size and place before anything unpacks one."""
    graphs = [proto.graph]
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    if len(nodes) > MOST_NODES:
        raise ConfigError(f"the model has {len(nodes)} nodes; the most are {MOST_NODES}", remedy=FOREIGN)
    tensors = [a.t for n in nodes for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in [*tensors, *(t for graph in graphs for t in graph.initializer)]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ConfigError(f"the weight {tensor.name!r} lies in another file", remedy=FOREIGN)
        if any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) > MOST_ELEMENTS:
            raise ConfigError(f"the weight {tensor.name!r} is too large", remedy=FOREIGN)
