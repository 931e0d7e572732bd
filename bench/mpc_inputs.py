"""What every contender of ``mpc.py`` computes on: the same arrays from fixed seeds, by name of the work.

Only numpy, of any version: the peers read this in environments of their own. The values of the speed rows
mean nothing; what is learnt from scikit-learn's digits stands in `digits`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

BATCH = 128
FULL: Mapping[str, Mapping[str, int]] = {
    "products": {"n": 1_000_000},
    "matmul": {"n": 512},
    "relu": {"n": 1_000_000},
    "relu-narrow": {"n": 1_000_000},
    "logistic": {"rows": 2048, "features": 100},
    "mlp-inference": {"rows": BATCH},
    "mlp-training": {"rows": 2048},
    "lenet": {"rows": 32},
}
"""The works and their sizes."""
QUICK: Mapping[str, Mapping[str, int]] = {
    "products": {"n": 100_000},
    "matmul": {"n": 128},
    "relu": {"n": 100_000},
    "relu-narrow": {"n": 100_000},
    "logistic": {"rows": 256, "features": 100},
    "mlp-inference": {"rows": BATCH},
    "mlp-training": {"rows": 2 * BATCH},
    "lenet": {"rows": 4},
}
RATE = 0.1
WIDTHS = (784, 128, 128, 10)
LENET = {"c1": (6, 1, 5, 5), "c2": (16, 6, 5, 5), "f1": (120, 400), "f2": (84, 120), "f3": (10, 84)}
"""The weights of the LeNet-like network as torch lays them out; each has a bias."""
NARROW = 2.0**13
"""What no value of ``relu-narrow`` exceeds, in magnitude, and every party knows."""

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


def inputs(work: str, **sizes: int) -> Arrays:
    """Return the arrays of a work by their names, in the order in which programs take them."""
    return _INPUTS[work](np.random.default_rng(7), **sizes)


def digest(arrays: Mapping[str, np.ndarray[Any, Any]], results: Sequence[np.ndarray[Any, Any]]) -> float:
    """Return the sum of the magnitudes of all results; of weights that were learnt, of what has changed.

    Args:
        arrays: the inputs; all but x and y are weights.
        results: of the work; weights in the order of the inputs.
    """
    before = [value for name, value in arrays.items() if name not in {"x", "y"}]
    if [one.shape for one in before] == [one.shape for one in results]:
        return float(sum(np.abs(now - one).sum() for now, one in zip(results, before, strict=True)))
    return float(sum(np.abs(one).sum(dtype=np.float64) for one in results))


def mlp_weights(rng: np.random.Generator, widths: tuple[int, ...] = WIDTHS) -> Arrays:
    """Return weights ``w1`` (outputs, inputs), ``b1``, … as torch's Linear draws them."""
    made: Arrays = {}
    for at, (into, out) in enumerate(pairwise(widths), start=1):
        made |= _linear(rng, str(at), (out, into))
    return made


def _linear(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Arrays:
    limit = 1 / np.sqrt(np.prod(shape[1:]))
    return {f"w{name}": rng.uniform(-limit, limit, shape), f"b{name}": rng.uniform(-limit, limit, shape[:1])}


def _pair(rng: np.random.Generator, n: int) -> Arrays:
    return {"x": rng.uniform(-8, 8, n), "y": rng.uniform(-8, 8, n)}


def _matrices(rng: np.random.Generator, n: int) -> Arrays:
    return {"x": rng.uniform(-1, 1, (n, n)), "y": rng.uniform(-1, 1, (n, n))}


def _vector(rng: np.random.Generator, n: int) -> Arrays:
    return {"x": rng.uniform(-NARROW, NARROW, n)}


def _logistic(rng: np.random.Generator, rows: int, features: int) -> Arrays:
    x = rng.uniform(-1, 1, (rows, features))
    y = (x @ rng.uniform(-1, 1, features) > 0).astype(np.float64)
    return {"x": x, "y": y[:, None], "w": np.zeros((1, features)), "b": np.zeros(1)}


def _images(rng: np.random.Generator, rows: int) -> Arrays:
    return {"x": rng.uniform(0, 1, (rows, WIDTHS[0]))} | mlp_weights(rng)


def _labelled(rng: np.random.Generator, rows: int) -> Arrays:
    labels = np.eye(WIDTHS[-1])[rng.integers(0, WIDTHS[-1], rows)]
    return {"x": rng.uniform(0, 1, (rows, WIDTHS[0])), "y": labels} | mlp_weights(rng)


def _lenet(rng: np.random.Generator, rows: int) -> Arrays:
    made: Arrays = {"x": rng.uniform(0, 1, (rows, 1, 28, 28))}
    for name, shape in LENET.items():
        made |= _linear(rng, name, shape)
    return made


_INPUTS: Mapping[str, Callable[..., Arrays]] = {
    "products": _pair,
    "matmul": _matrices,
    "relu": _vector,
    "relu-narrow": _vector,
    "logistic": _logistic,
    "mlp-inference": _images,
    "mlp-training": _labelled,
    "lenet": _lenet,
}
