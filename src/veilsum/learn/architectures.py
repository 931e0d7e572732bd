"""How a job says which model is meant: one of the core's own kinds, or a given one by its digest."""

import math
from typing import Any, Literal

import msgspec

from veilsum.errors import ConfigError, JobMismatch
from veilsum.learn import layers
from veilsum.learn.graph import Graph
from veilsum.learn.shapes import infer


class Mlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mlp", tag_field="kind"):
    """Linear layers with an activation between them; none hidden is logistic or linear regression."""

    hidden: tuple[int, ...] = (32,)
    activation: layers.Activation = "relu"


class Convnet(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="convnet", tag_field="kind"
):
    """Convolutions with pooling, then linear layers; the columns are the pixels of an image, row by row."""

    image: tuple[int, int, int]
    channels: tuple[int, ...] = (6, 16)
    hidden: tuple[int, ...] = (120, 84)
    kernel: int = 5
    pool: Literal["max", "avg"] = "max"


class Given(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="given", tag_field="kind"
):
    """The modeller's own model, which it brings as a file; its digest is agreed on beforehand.

    Attributes:
        digest: of the architecture, 64 hex digits (`veilsum model show` prints it).
        public: the digest of the weights where these are public; "" where they are the modeller's secret.
    """

    digest: str
    public: str = ""


Architecture = Mlp | Convnet | Given


def stated(model: Mlp | Convnet, inputs: int, outputs: int) -> Graph:
    """Return the graph of a model that a job itself states.

    Args:
        model: as the job says.
        inputs: numbers of a row.
        outputs: numbers that the model gives for it.

    Raises:
        ConfigError: the sizes cannot be.
    """
    if isinstance(model, Mlp):
        return layers.mlp([inputs, *model.hidden, outputs], model.activation)
    options: dict[str, Any] = msgspec.structs.asdict(model)
    return layers.convnet(options.pop("image"), outputs, **options)


def check_fit(graph: Graph, inputs: int, outputs: int) -> None:
    """Check that a graph takes a job's rows and gives what its targets need.

    Args:
        graph: a model's.
        inputs: numbers of a row.
        outputs: numbers of a target; 0 where there is none.

    Raises:
        ConfigError: it does not.
    """
    values, given = infer(graph), list(graph.inputs.values())
    sizes = [math.prod(value.shape[1:]) for value in given]
    if sizes != [inputs] or given[0].index or given[0].shape[:1] != (-1,):
        raise ConfigError(
            f"the model takes {sizes} numbers a row, the job has {inputs} features",
            remedy="give the model one input, with as many numbers as there are features",
        )
    shape = values[graph.outputs[0]].shape
    if len(graph.outputs) != 1 or len(shape) != 2 or shape[0] != -1 or outputs not in {0, shape[1]}:
        raise ConfigError(
            f"the model's output {shape} does not fit a target of {outputs} numbers",
            remedy="give the model one output per class (cross_entropy), or one (bce, mse)",
        )


def check_agreed(what: str, whose: str, found: str, wanted: str) -> None:
    """Compare a digest with the one that the job names.

    Raises:
        JobMismatch: it is another.
    """
    if found != wanted.lower():
        raise JobMismatch(
            f"the {what} of {whose} has the digest {found[:16]}…, not the job's {wanted[:16]}…",
            remedy="agree on one model, and write its digests into the job",
        )


def count(graph: Graph) -> int:
    """Return how many numbers the weights and buffers of a graph are."""
    return sum(math.prod(shape) for shape in graph.weights().values())
