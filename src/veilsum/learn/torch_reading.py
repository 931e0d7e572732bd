"""A traced PyTorch program while it becomes a graph: what is known of it, and the walk through its nodes.

A rule takes the reading and a call's arguments by the names of its schema, and returns the name of the
resulting value, or a list of names where the call has many results.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError
from veilsum.learn.builder import Builder, Refused
from veilsum.learn.graph import MASKED, Operation, Shape
from veilsum.learn.model import Model

Args = dict[str, Any]
Made = str | list[str | None]

_REPLACE: Final = (
    "replace these layers by linear, convolution, normalisation, pooling, attention or embedding layers "
    "with ReLU, GELU, SiLU, sigmoid, tanh or softmax"
)


def per_axis(given: Any, rank: int) -> Shape:
    """Return what is given per dimension of space, or once for all."""
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,)
    return numbers * rank if len(numbers) == 1 else numbers


def axis_of(rank: int, axis: int) -> int:
    """Return an axis counted from the front."""
    return axis % rank if rank else 0


def number(given: Any) -> float:
    """Return a number of the program's own.

    Raises:
        Refused: the size of the batch decides it.
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Refused("it computes with the size of the batch")
    return float(given)


def to_numpy(torch: Any, tensor: Any) -> NDArray[Any]:
    """Return a tensor as an array of float32, float64, or whatever else it holds."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in {torch.float32, torch.float64}:
        tensor = tensor.float()
    taken: NDArray[Any] = tensor.numpy()
    return taken


class Reading:
    """A traced program being translated; what the rules of `veilsum.learn.torch_rules` work on."""

    def __init__(
        self, torch: Any, program: Any, module: Any, rules: "Mapping[str, Rule]", constants: Collection[str]
    ) -> None:
        """Begin; ``constants`` names the operations that make a constant out of nothing."""
        self.torch = torch
        self.made = Builder()
        self.place = ""
        self._program = program
        self._rules = rules
        self._makers = constants
        self._module = module
        self._node: Any = None
        self._known: dict[Any, Any] = {}  # a traced node → the name of its value, or the names
        self._constants: dict[Any, Any] = {}  # a traced node → a tensor that no input decides
        self._lost: set[Any] = set()  # traced nodes that were refused, and what follows from them
        self._named: dict[Any, str] = {}  # a parameter or buffer → its name, so that tied weights are one
        self._refused: list[str] = []

    # -- what rules ask for

    def value(self, given: Any) -> str:
        """Return the name of a traced node's value; constants become buffers."""
        if given in self._constants and given not in self._known:
            tensor = self._constants[given]
            if not tensor.is_floating_point():
                raise Refused("it computes with whole or truth values that the module holds")
            self._known[given] = self._buffer(given.meta.get("buffer", f"constant.{given.name}"), tensor)
        if given not in self._known:
            raise Refused("it computes with the size of the batch, or with what is no tensor")
        name: str = self._known[given]
        return name

    def constant(self, given: Any) -> Any:
        """Return the tensor of a traced node that no input decides, or None."""
        return self._constants.get(given)

    def buffer(self, stem: str, tensor: Any) -> str:
        """Return a new constant."""
        return self._buffer(f"constant.{self._node.name}.{stem}", tensor)

    def emit(self, op: Operation, *names: str) -> str:
        """Add a node at the place that is being translated."""
        return self.made.node(op, *names, place=self.place, name=self._node.name)

    def scale(self, name: str, factor: float) -> str:
        """Add a scaling at the place that is being translated."""
        return self.made.scale(name, factor, place=self.place, name=self._node.name)

    def shape(self, name: str) -> Shape:
        """Return a value's shape."""
        return self.made.values[name].shape

    def target(self, which: int | None = None) -> Shape:
        """Return the shape that torch gives the result (or one of the results)."""
        meta = self._node.meta["val"]
        return self._shape(meta if which is None else meta[which])

    def results(self) -> int:
        """Return how many results the traced node has."""
        return len(self._node.meta["val"])

    # -- the translation

    def model(self) -> Model:
        """Translate everything.

        Raises:
            ConfigError: something cannot be translated; everything of that kind is named.
        """
        graph, signature = self._program.graph, self._program.graph_signature
        outputs = [n for n in graph.nodes if n.name in set(signature.user_outputs)]
        by_name = {n.name: n for n in outputs}
        wanted = self._wanted(outputs)
        specs = {spec.arg.name: spec for spec in signature.input_specs}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._enter(node, specs[node.name], needed=node in wanted)
            elif node in wanted:
                self._translate(node)
        if self._refused:
            refused = list(dict.fromkeys(self._refused))
            some = "an operation" if len(refused) == 1 else f"{len(refused)} operations"
            listed = "; ".join(refused)
            raise ConfigError(
                f"the module has {some} that no secret shares can run: {listed}", remedy=_REPLACE
            )
        names = [by_name.get(n) for n in signature.user_outputs]
        if not names or any(n is None for n in names):
            raise ConfigError("an output of the module is no tensor", remedy="return tensors only")
        return self.made.model([self.value(n) for n in names])

    @staticmethod
    def _wanted(outputs: Sequence[Any]) -> set[Any]:
        wanted, open_ = set(outputs), list(outputs)
        while open_:
            fresh = set(open_.pop().all_input_nodes) - wanted
            wanted |= fresh
            open_ += fresh
        return wanted

    def _enter(self, node: Any, spec: Any, *, needed: bool) -> None:
        kind, fake = spec.kind.name, node.meta.get("val")
        if kind == "USER_INPUT":
            if not isinstance(fake, self.torch.Tensor):
                raise ConfigError(
                    f"the input {node.name!r} is no tensor", remedy="bind it in a wrapper module"
                )
            self._known[node] = self.made.input(
                node.name, self._shape(fake), index=not fake.is_floating_point()
            )
        elif needed and kind == "PARAMETER":
            tensor = self._program.state_dict[spec.target]
            if tensor not in self._named:
                name = self.made.parameter(spec.target, tuple(tensor.shape), trainable=tensor.requires_grad)
                self.made.weights[name] = to_numpy(self.torch, tensor)
                self._named[tensor] = name
            self._known[node] = self._named[tensor]
        elif needed:
            state = self._program.state_dict if spec.target in self._program.state_dict else None
            tensor = self._program.constants[spec.target] if state is None else state[spec.target]
            node.meta["buffer"] = spec.target
            self._constants[node] = tensor.detach()

    def _buffer(self, name: str, tensor: Any) -> str:
        array = to_numpy(self.torch, tensor)
        array = np.where(np.isneginf(array), MASKED, array).astype(array.dtype)
        made = self.made.buffer(name, array.shape)
        self.made.weights[made] = array
        return made

    def _translate(self, node: Any) -> None:
        meta, key = node.meta.get("val"), str(node.target)
        if isinstance(meta, self.torch.SymInt | self.torch.SymFloat | self.torch.SymBool | int | float):
            return  # arithmetic on the batch size: shapes come from the results
        self._node, self.place = node, _place(node, self._module)
        if key == "<built-in function getitem>":
            self._pick(node)
            return
        if self._fold(node):
            return
        if key not in self._rules:
            self._refuse(node, "")
        elif self._lost & set(node.all_input_nodes):
            self._lost.add(node)
        else:
            try:
                self._known[node] = self._rules[key](self, _bound(node))
            except Refused as reason:
                self._refuse(node, str(reason))
            except ConfigError as error:
                self._refuse(node, error.message.removeprefix(f"{self.place}: "))

    def _pick(self, node: Any) -> None:
        source, index = node.args
        if source in self._lost:
            self._lost.add(node)
        elif source in self._constants:
            self._constants[node] = self._constants[source][index]
        elif self._known[source][index] is None:
            self._refuse(node, "only the first result of this operation can be used")
        else:
            self._known[node] = self._known[source][index]

    def _fold(self, node: Any) -> bool:
        """Compute what neither inputs nor parameters decide."""
        inputs = node.all_input_nodes
        if not str(node.target).startswith("aten.") or not all(i in self._constants for i in inputs):
            return False
        if not inputs and str(node.target) not in self._makers:
            return False
        if self.torch.Tag.nondeterministic_seeded in node.target.tags:
            return False
        if any(isinstance(d, self.torch.SymInt) for m in _metas(node) for d in m.shape):
            return False
        args, kwargs = self.torch.fx.node.map_arg((node.args, node.kwargs), self._constants.__getitem__)
        self._constants[node] = node.target(*args, **kwargs)
        return True

    def _refuse(self, node: Any, reason: str) -> None:
        self._lost.add(node)
        operation = str(node.target).removeprefix("aten.").split(".")[0].lstrip("_")
        self._refused.append(f"{self.place}: {operation}" + (f" ({reason})" if reason else ""))

    def _shape(self, fake: Any) -> Shape:
        return tuple(self._dimension(d) for d in fake.shape)

    def _dimension(self, size: Any) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        symbols = list(expression.free_symbols)
        if len(symbols) == 1:
            times = expression.subs(symbols[0], 1)
            if times.is_Integer and times > 0 and expression == times * symbols[0]:
                return -int(times)
        raise Refused(f"a size is {expression}, which is no multiple of the batch")


def _metas(node: Any) -> list[Any]:
    meta = node.meta["val"]
    return [m for m in (meta if isinstance(meta, tuple | list) else [meta]) if hasattr(m, "shape")]


def _bound(node: Any) -> dict[str, Any]:
    """Return a call's arguments by the names of its schema."""
    schema = node.target._schema.arguments  # noqa: SLF001 - the only place where torch names the arguments
    bound = {a.name: a.default_value if a.has_default_value() else None for a in schema}
    bound |= dict(zip((a.name for a in schema), node.args, strict=False))
    return bound | dict(node.kwargs)


def _place(node: Any, module: Any) -> str:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path, kind = [*stack.values()][-1] if stack else ("", type(module).__name__)
    name = kind if isinstance(kind, str) else kind.__name__
    return f"{path or 'the module itself'} ({name.rsplit('.', 1)[-1]})"


Rule = Callable[[Reading, Args], Made]


def table(*rows: tuple[Rule, Sequence[str]]) -> dict[str, Rule]:
    """Return rules by the full names of the operations they are for."""
    return {f"aten.{name}": rule for rule, names in rows for name in names}
