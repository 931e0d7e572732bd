"""An ONNX graph while it becomes one of ours: what is known of it, and the walk through its nodes.

A rule takes the reading, which stands at the operator's node, and returns the name of the resulting value,
or a list of names where the node has many results.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError
from veilsum.learn.builder import Builder, Refused
from veilsum.learn.graph import MASKED, Operation, Shape
from veilsum.learn.model import Model
from veilsum.learn.onnx_folding import BATCH, FOLDS, MOST_FOLDED, DependsOnBatch

FOREIGN: Final = "export the model again, as ONNX with opset 13 or later and with its weights inside"
_REPLACE: Final = (
    "replace these nodes by linear, convolution, normalisation, pooling, attention or embedding layers "
    "with ReLU, GELU, SiLU, sigmoid, tanh or softmax"
)


class Reading:
    """An ONNX graph being translated; what the rules of `veilsum.learn.onnx_rules` work on."""

    def __init__(self, onnx: Any, graph: Any, rules: "Mapping[str, Rule]") -> None:
        self.made = Builder()
        self.place = ""
        self.node: Any = None
        self.attributes: dict[str, Any] = {}
        self._onnx = onnx
        self._graph = graph
        self._rules = rules
        self._known: dict[str, str] = {}  # an ONNX value → the name of its value in the graph
        self._constants: dict[str, NDArray[Any]] = {}
        self._weights: dict[str, NDArray[Any]] = {}  # those constants that are initializers
        self._transposed: dict[str, str] = {}
        self.erf: dict[str, tuple[str, float]] = {}  # f·(1 + erf(x / √2)), by its ONNX name: x and f
        self._lost: set[str] = set()
        self._refused: list[str] = []
        self._folded = 0
        self.uses = Counter(i for n in graph.node for i in n.input) + Counter(o.name for o in graph.output)

    # -- what rules ask for

    def given(self, slot: int) -> str:
        """Return the ONNX name of an input, or "" where there is none."""
        return self.node.input[slot] if slot < len(self.node.input) else ""

    def value(self, slot: int, *, trainable: bool = True) -> str:
        """Return the graph's name of an input; initializers become parameters, other constants buffers."""
        name = self.given(slot)
        if name not in self._known:
            self._known[name] = self._hold(name, trainable=trainable)
        return self._known[name]

    def transposed(self, slot: int) -> str:
        """Return a parameter that holds an initializer of two axes the other way round."""
        name = self.given(slot)
        if name not in self._transposed:
            array = np.ascontiguousarray(self._weights[name].T)
            made = self._transposed[name] = self.made.parameter(name, array.shape)
            self.made.weights[made] = array
        return self._transposed[name]

    def constant(self, slot: int) -> NDArray[Any] | None:
        """Return an input that no input of the model decides, or None."""
        return self._constants.get(self.given(slot))

    def is_weight(self, slot: int, axes: int, *, alone: bool = True) -> bool:
        """Tell whether an input is an initializer of so many axes; ``alone``: that no other node uses."""
        name = self.given(slot)
        found = name in self._weights and self._weights[name].ndim == axes
        return found and not (alone and self.uses[name] > 1)

    def buffer(self, stem: str, array: NDArray[Any]) -> str:
        """Return a new constant."""
        made = self.made.buffer(stem or "constant", array.shape)
        self.made.weights[made] = np.where(np.isneginf(array), MASKED, array).astype(array.dtype)
        return made

    def emit(self, op: Operation, *names: str) -> str:
        """Add a node at the place that is being translated."""
        return self.made.node(op, *names, place=self.place, name=self.node.output[0])

    def scale(self, name: str, factor: float) -> str:
        """Add a scaling at the place that is being translated."""
        return self.made.scale(name, factor, place=self.place, name=self.node.output[0])

    def shape(self, name: str) -> Shape:
        """Return a value's shape."""
        return self.made.values[name].shape

    # -- the translation

    def model(self) -> Model:
        """Translate everything.

        Raises:
            ConfigError: something cannot be translated; everything of that kind is named.
        """
        for tensor in self._graph.initializer:
            self._constants[tensor.name] = self._weights[tensor.name] = self._unpack(tensor)
        if self._graph.sparse_initializer:
            raise ConfigError("the model has sparse weights", remedy=FOREIGN)
        for entry in self._graph.input:
            if entry.name not in self._weights:
                self._enter(entry)
        for node in self._graph.node:
            self._translate(node)
        if self._refused:
            some = "an operation" if len(self._refused) == 1 else f"{len(self._refused)} operations"
            listed = "; ".join(self._refused)
            raise ConfigError(
                f"the model has {some} that no secret shares can run: {listed}", remedy=_REPLACE
            )
        names = [o.name for o in self._graph.output]
        if missing := [name for name in names if name not in self._known]:
            raise ConfigError(f"the output {missing[0]!r} does not depend on the inputs", remedy=FOREIGN)
        return self.made.model([self._known[name] for name in names])

    def _unpack(self, tensor: Any) -> NDArray[Any]:
        try:
            array: NDArray[Any] = self._onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # noqa: BLE001 - whatever onnx finds wrong with a tensor
            raise ConfigError(f"the weight {tensor.name!r} is broken: {error}", remedy=FOREIGN) from None
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise ConfigError(f"the weight {tensor.name!r} is no array of numbers", remedy=FOREIGN)
        return array.copy()

    def _enter(self, entry: Any) -> None:
        kinds, tensor = self._onnx.TensorProto, entry.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
        reals = tensor.elem_type in {kinds.FLOAT, kinds.DOUBLE}
        if not dims or not (reals or tensor.elem_type in {kinds.INT64, kinds.INT32}):
            raise ConfigError(f"the input {entry.name!r} is no batch of reals or indices", remedy=FOREIGN)
        if dims[0] > 0 or min(dims[1:], default=1) < 1:
            raise ConfigError(
                f"the input {entry.name!r} must have a free first size (the batch), and fixed other sizes",
                remedy="export the model with a dynamic batch, and with nothing else dynamic",
            )
        self._known[entry.name] = self.made.input(entry.name, (-1, *dims[1:]), index=not reals)

    def _translate(self, node: Any) -> None:
        self.node, self.place = node, f"{node.name or node.output[0]} ({node.op_type})"
        kinds = self._rules.keys() | FOLDS.keys()
        if node.domain not in {"", "ai.onnx"} or node.op_type not in kinds:
            self._refuse("")
        elif self._lost & set(node.input):
            self._lost |= set(node.output)
        else:
            try:
                self._state()
            except Refused as reason:
                self._refuse(str(reason))
            except ConfigError as error:
                self._refuse(error.message.removeprefix(f"{self.place}: "))
            except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
                self._refuse(f"its attributes do not fit its inputs: {error}")

    def _refuse(self, reason: str) -> None:
        self._lost |= set(self.node.output)
        self._refused.append(self.place + (f": {reason}" if reason else ""))

    def _state(self) -> None:
        """Fold the node, or state it by its rule."""
        node = self.node
        self.attributes = {a.name: self._attribute(a) for a in node.attribute}
        if node.op_type in FOLDS and self._fold():
            return
        if node.op_type not in self._rules:
            raise Refused("of values that the inputs decide")
        made = self._rules[node.op_type](self)
        self._known |= dict(zip(node.output, [made] if isinstance(made, str) else made, strict=False))

    def _fold(self) -> bool:
        """Compute what only constants and sizes decide."""
        node = self.node
        if node.op_type == "Shape":
            constant = self._constants.get(self.given(0))
            shape = self.shape(self._known[self.given(0)]) if constant is None else constant.shape
            given: list[Any] = [np.array(in_numbers(shape), np.int64)]
        else:
            given = [self._constants.get(name) for name in node.input]
            if any(array is None for name, array in zip(node.input, given, strict=True) if name):
                return False
            if any(name in self._weights and self._is_trained(self._weights[name]) for name in node.input):
                return False
        with np.errstate(all="ignore"):
            try:
                result = FOLDS[node.op_type](self.attributes, *given)
            except DependsOnBatch:
                return False
            except (ValueError, IndexError, TypeError, KeyError) as error:
                raise Refused(f"its constants do not fit: {error}") from None
        self._folded += result.size
        if self._folded > MOST_FOLDED:
            raise Refused("its constants are too large")
        self._constants[node.output[0]] = result
        return True

    @staticmethod
    def _is_trained(array: NDArray[Any]) -> bool:
        return array.dtype.kind == "f" and array.size > 1 and not np.isneginf(array).any()

    def _attribute(self, attribute: Any) -> Any:
        kinds = self._onnx.AttributeProto
        if attribute.type == kinds.TENSOR:
            return self._unpack(attribute.t)
        if attribute.type == kinds.FLOAT:
            return float(str(np.float32(attribute.f)))  # 1e-05, not the nearest float32 to it
        if attribute.type == kinds.STRING:
            return attribute.s.decode(errors="replace")
        if attribute.type == kinds.INT:
            return int(attribute.i)
        if attribute.type == kinds.INTS:
            return tuple(int(i) for i in attribute.ints)
        if attribute.type == kinds.FLOATS:
            return tuple(attribute.floats)
        raise Refused(f"with the attribute {attribute.name}")

    def _hold(self, name: str, *, trainable: bool) -> str:
        if name not in self._constants:
            raise Refused("without an input it needs")
        array = self._constants[name]
        if array.dtype.kind != "f":
            raise Refused("of whole or truth values")
        if name not in self._weights or not trainable or not self._is_trained(array):
            return self.buffer(name, array)
        made = self.made.parameter(name, array.shape)
        self.made.weights[made] = array
        return made


Rule = Callable[[Reading], str | list[str]]


def integers(r: Reading, slot: int, attribute: str = "") -> Shape | None:
    """Return an input of whole numbers, or else an attribute.

    Raises:
        Refused: the model's inputs decide the numbers.
    """
    array = r.constant(slot)
    if array is not None:
        return tuple(int(n) for n in array.reshape(-1))
    if r.given(slot):
        raise Refused("with numbers that the inputs decide")
    return r.attributes.get(attribute)


def axis_of(r: Reading, x: str, axis: int) -> int:
    """Return an axis counted from the front.

    Raises:
        Refused: the value has no such axis.
    """
    rank = len(r.shape(x))
    if not -rank <= axis < rank:
        raise Refused(f"{r.shape(x)} has no axis {axis}")
    return axis % rank


def in_batches(shape: Shape) -> Shape:
    """Turn sizes that are multiples of the batch's stand-in into the graph's own form."""
    return tuple(-(n // BATCH) if n and n % BATCH == 0 else n for n in shape)


def in_numbers(shape: Shape) -> Shape:
    """Put the batch's stand-in into a shape."""
    return tuple(d if d >= 0 else -d * BATCH for d in shape)


def length(r: Reading, slot: int) -> int:
    """Return the length of a constant of one axis, or -1."""
    array = r.constant(slot)
    return array.size if array is not None and array.ndim == 1 else -1
