"""A model's architecture in words and tables, for people."""

import math
from typing import NamedTuple

import msgspec
import numpy as np

from veilsum.data import features
from veilsum.learn.architectures import Given, Mlp
from veilsum.learn.graph import Graph, Operation, Shape
from veilsum.learn.model import Model
from veilsum.learn.shapes import infer
from veilsum.mpc.fixed import encode
from veilsum.protocols.secure_learning import FRACTION, Params, digest_of, target_width

_SHOWN = 24


class Layer(NamedTuple):
    """One operation of a graph.

    Attributes:
        place: where it is in its author's own model.
        shape: of its result, ``n`` for the batch.
        numbers: in its weights.
    """

    place: str
    operation: str
    shape: str
    numbers: int


def name(params: Params) -> str:
    """Return a job's model in two or three words."""
    model = params.model
    if isinstance(model, Given):
        return f"a given model ({model.digest[:8]})"
    if not isinstance(model, Mlp):
        return "a convolutional network"
    sizes = [len(features.expanded(params.features)), *model.hidden, target_width(params)]
    return f"{'an mlp' if model.hidden else 'a linear model'} {'-'.join(map(str, sizes))}"


def layers(graph: Graph) -> list[Layer]:
    """Return the operations of a graph in order."""
    values, weights = infer(graph), graph.weights()
    counted: set[str] = set()
    found = []
    for node in graph.nodes:
        own = [one for one in node.inputs if one in weights and one not in counted]
        counted.update(own)
        numbers = sum(math.prod(weights[one]) for one in own)
        found.append(
            Layer(
                node.place or node.output, _operation(node.op), in_words(values[node.output].shape), numbers
            )
        )
    return found


def in_brief(graph: Graph) -> str:
    """Return the sizes and the digest of a graph in one line."""
    numbers = sum(math.prod(shape) for shape in graph.weights().values())
    return f"{len(graph.nodes)} operations, {numbers:,} numbers in weights, digest {graph.digest().hex()}"


def weights_digest(model: Model) -> str:
    """Return the digest of a model's weights as the computing parties read them, 64 hex digits."""
    flat = np.concatenate([np.ravel(model.weights[one]) for one in model.graph.weights()])
    return digest_of(encode(flat, FRACTION))


def lines(graph: Graph) -> list[str]:
    """Return a graph in lines, long ones cut in the middle."""
    whole = [
        f"{layer.place}: {layer.operation} → {layer.shape}"
        + (f", {layer.numbers:,} numbers" if layer.numbers else "")
        for layer in layers(graph)
    ]
    if len(whole) > _SHOWN:
        left_out = f"… {len(whole) - _SHOWN + 1} more"
        whole = [*whole[: _SHOWN // 2], left_out, *whole[1 - _SHOWN // 2 :]]
    return [in_brief(graph), *whole]


def _operation(op: Operation) -> str:
    """Return an operation with what is not as always."""
    fields = {
        field.name: getattr(op, field.name)
        for field in msgspec.structs.fields(op)
        if field.required or getattr(op, field.name) != field.default
    }
    inner = ", ".join(f"{key} {_plain(value)}" for key, value in fields.items())
    return type(op).__name__.lower() + (f" ({inner})" if inner else "")


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return " by ".join(_plain(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(shape: Shape) -> str:
    """Return a shape, ``n`` for the batch."""
    return ", ".join("n" if size == -1 else f"{-size}n" if size < 0 else str(size) for size in shape)
