"""A neural network as data: a closed set of operations on named values, no code in it.

A shape is a tuple of integers; a negative entry ``-k`` stands for k times the batch size, which is known
only when the graph runs. Weights live beside the graph, in `veilsum.learn.model`. Attention and SiLU have
no operation of their own: importers state them by products, sums and softmax.
"""

from typing import Final

import msgspec

from veilsum.jobs import digest

Shape = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

MASKED: Final = -1e4
"""What stands for minus infinity in attention masks: exp of it is zero, and fixed point can hold it."""


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=str.lower):
    """What a node does with its inputs; every axis is counted from 0."""


class Linear(Op, frozen=True):
    """x (…, i), weight (o, i)[, bias (o,)] → x·weightᵀ + bias."""


class Conv(Op, frozen=True):
    """x (n, c, …), weight (o, c / groups, …)[, bias (o,)], in one or two dimensions of space.

    Attributes:
        padding: zeros (before, after) each dimension of space.
    """

    stride: Shape
    padding: Padding
    dilation: Shape
    groups: int = 1


class BatchNorm(Op, frozen=True):
    """x (n, c, …), scale, shift, mean, variance (c,): the last two are buffers.

    Inference uses the buffers. Training uses the batch's own mean and variance (biased) and moves the
    buffers by ``momentum`` towards them (the variance: unbiased), as torch does.
    """

    eps: float = 1e-5
    momentum: float = 0.1


class LayerNorm(Op, frozen=True):
    """x, scale, shift: normalise over the last ``axes`` axes; scale and shift have their shape."""

    axes: int = 1
    eps: float = 1e-5


class MaxPool(Op, frozen=True):
    """x (n, c, …): the largest of each window; what is padded is never the largest."""

    kernel: Shape
    stride: Shape
    padding: Padding
    dilation: Shape


class AvgPool(Op, frozen=True):
    """x (n, c, …): the mean of each window; padded zeros count if ``count_padding``."""

    kernel: Shape
    stride: Shape
    padding: Padding
    count_padding: bool = True


class Relu(Op, frozen=True):
    """max(x, 0)."""


class Gelu(Op, frozen=True):
    """x·Φ(x), or its approximation by tanh."""

    tanh: bool = False


class Sigmoid(Op, frozen=True):
    """1 / (1 + exp(-x))."""


class Tanh(Op, frozen=True):
    """tanh(x)."""


class Softmax(Op, frozen=True):
    """exp(x) over its sum along an axis."""

    axis: int


class Embedding(Op, frozen=True):
    """indices (…), table (rows, d) → (…, d); the row ``padding`` is not trained."""

    padding: int | None = None


class Add(Op, frozen=True):
    """a + b, broadcast."""


class Sub(Op, frozen=True):
    """a - b, broadcast."""


class Mul(Op, frozen=True):
    """a·b element by element, broadcast."""


class MatMul(Op, frozen=True):
    """a (…, m, k) · b (…, k, n), broadcast over the leading axes."""


class Scale(Op, frozen=True):
    """x times a public number."""

    factor: float


class Shift(Op, frozen=True):
    """x plus a public number."""

    amount: float


class Reshape(Op, frozen=True):
    """The same elements in another shape; ``-k`` is k times the batch, never "whatever is left"."""

    shape: Shape


class Permute(Op, frozen=True):
    """Axis i of the result is axis ``axes[i]`` of x."""

    axes: Shape


class Expand(Op, frozen=True):
    """Broadcast x to a shape."""

    shape: Shape


class Concat(Op, frozen=True):
    """All inputs, one after the other along an axis."""

    axis: int


class Slice(Op, frozen=True):
    """Entries ``start``, ``start + step``, … before ``stop`` of an axis; 0 ≤ start < stop, step ≥ 1."""

    axis: int
    start: int
    stop: int
    step: int = 1


class Mean(Op, frozen=True):
    """The mean over axes, which stay with length 1 if ``keep``."""

    axes: Shape
    keep: bool = False


class Dropout(Op, frozen=True):
    """In training each element is zero with probability ``p``, and else divided by 1 - p."""

    p: float


Operation = (
    Linear
    | Conv
    | BatchNorm
    | LayerNorm
    | MaxPool
    | AvgPool
    | Relu
    | Gelu
    | Sigmoid
    | Tanh
    | Softmax
    | Embedding
    | Add
    | Sub
    | Mul
    | MatMul
    | Scale
    | Shift
    | Reshape
    | Permute
    | Expand
    | Concat
    | Slice
    | Mean
    | Dropout
)


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operation.

    Attributes:
        inputs: names of values: inputs, parameters or buffers of the graph, outputs of earlier nodes.
        output: the name of its own value, used by no other.
        place: where it is in the user's own model, such as ``layers.2 (Conv2d)``.
    """

    op: Operation
    inputs: tuple[str, ...]
    output: str
    place: str = ""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a value before the graph runs.

    Attributes:
        index: whether it holds whole numbers that look up rows, rather than reals.
    """

    shape: Shape
    index: bool = False


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight; training changes it if it is trainable."""

    shape: Shape
    trainable: bool = True


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network without its weights.

    Attributes:
        nodes: in an order in which they can run.
        outputs: names of values.
        buffers: shapes of what is no parameter yet part of the model: running statistics, constants.
    """

    inputs: dict[str, Value]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter] = {}
    buffers: dict[str, Shape] = {}

    def digest(self) -> bytes:
        """Return the hash of the architecture (32 bytes): everything but the nodes' places."""
        nodes = tuple(msgspec.structs.replace(node, place="") for node in self.nodes)
        # the order of the weights is how they stand end to end, which a canonical encoding does not tell
        return digest("graph", [list(self.weights()), msgspec.structs.replace(self, nodes=nodes)])

    def weights(self) -> dict[str, Shape]:
        """Return the shapes of all parameters, then of all buffers, by name."""
        return {name: p.shape for name, p in self.parameters.items()} | self.buffers
