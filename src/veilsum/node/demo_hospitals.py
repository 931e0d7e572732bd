"""The demo's three hospitals: real rows, shared out among them, and the plaintext twin of their job.

The rows are those of the Breast Cancer Wisconsin (Diagnostic) data set (``demo/README.md``). The same seed
gives the same files on every machine.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from veilsum.learn.graph import Graph
from veilsum.learn.layers import initialise
from veilsum.learn.model import Model
from veilsum.mpc.optimisers import Sgd
from veilsum.mpc.training import Training
from veilsum.node.demo_data import shuffled
from veilsum.node.files import private_folder

Floats = NDArray[np.float64]
HOSPITALS: Final = ("hospital-a", "hospital-b", "hospital-c")
SIZES: Final = (60, 120, 329)
"""Patients of each hospital; the rest are new patients of hospital-b, whose diagnosis is not known there."""
NEW: Final = 60
TARGET: Final = "malignant"
_ROWS: Final = 569

_PARTS: Final = (
    "radius texture perimeter area smoothness compactness concavity concave_points symmetry fractal_dimension"
)
_MOST: Final = {
    "mean": (30, 40, 200, 2600, 0.2, 0.4, 0.5, 0.25, 0.35, 0.1),
    "error": (3, 5, 25, 600, 0.04, 0.15, 0.4, 0.06, 0.08, 0.03),
    "worst": (40, 50, 260, 4500, 0.25, 1.1, 1.3, 0.3, 0.7, 0.21),
}
RANGES: Final = MappingProxyType(
    {
        (f"{part}_error" if group == "error" else f"{group}_{part}"): (0.0, float(most))
        for group, limits in _MOST.items()
        for part, most in zip(_PARTS.split(), limits, strict=True)
    }
)
"""Column → the range that the hospitals agree on, in the units of the data set."""


class Patients(NamedTuple):
    """What only the demo knows all of.

    Attributes:
        columns: hospital → column → (rows,) float64, as in its file.
        new: the new patients of hospital-b, with the diagnosis that its file does not have.
    """

    columns: dict[str, dict[str, Floats]]
    new: dict[str, Floats]


def write_hospitals(folder: Path, seed: int = 7) -> Patients:
    """Write ``HOSPITAL/patients.parquet`` for each hospital, and ``hospital-b/new.parquet``.

    Args:
        folder: made if absent; existing files are replaced.
        seed: decides who is whose patient.
    """
    order = np.array(shuffled(_ROWS, seed, "patients"))
    names = [TARGET, *RANGES]
    source = resources.files("veilsum.node").joinpath("demo/breast_cancer.parquet")
    with resources.as_file(source) as data, duckdb.connect() as database:
        query = f"SELECT {', '.join(names)} FROM read_parquet($data)"  # noqa: S608 - names from this file only
        found = database.execute(query, {"data": str(data)}).fetchnumpy()
        whole = {name: np.asarray(found[name], np.float64)[order] for name in names}
        columns, at = {}, 0
        for hospital, size in zip(HOSPITALS, SIZES, strict=True):
            columns[hospital] = {name: column[at : at + size] for name, column in whole.items()}
            private_folder(folder / hospital)
            _write(database, columns[hospital], folder / hospital / "patients.parquet")
            at += size
        new = {name: column[at : at + NEW] for name, column in whole.items()}
        unknown = {name: column for name, column in new.items() if name != TARGET}
        _write(database, unknown, folder / HOSPITALS[1] / "new.parquet")
    return Patients(columns, new)


def _write(database: duckdb.DuckDBPyConnection, columns: dict[str, Floats], path: Path) -> None:
    path.unlink(missing_ok=True)
    database.register("rows", {name: np.ascontiguousarray(column) for name, column in columns.items()})
    database.execute("COPY (SELECT * FROM rows) TO $path (FORMAT parquet)", {"path": str(path)})
    path.chmod(0o600)


def train_in_the_clear(graph: Graph, how: Training, x: Floats, y: Floats) -> Model:
    """Train what a job on shares trains, in float64: same first weights, same batches, same steps.

    Args:
        graph: linear layers with ReLU between them.
        how: cross-entropy and SGD with momentum.
        x: (rows, features), scaled.
        y: (rows, classes), one-hot.
    """
    assert isinstance(how.optimiser, Sgd)
    first = initialise(graph, how.seed)
    weights = [first.weights[name].astype(np.float64) for name in graph.weights()]
    speeds = [np.zeros_like(one) for one in weights]
    for epoch in range(how.epochs):
        order = np.random.default_rng((how.seed, 0, epoch)).permutation(len(x))
        for at in range(0, len(order), how.batch):
            rows = order[at : at + how.batch]
            for i, gradient in enumerate(_gradients(weights, x[rows], y[rows])):
                speeds[i] = how.optimiser.momentum * speeds[i] + gradient
                weights[i] = weights[i] - how.optimiser.rate * how.schedule.at(epoch, how.epochs) * speeds[i]
    return Model(graph, dict(zip(graph.weights(), weights, strict=True)))


def _gradients(weights: Sequence[Floats], x: Floats, y: Floats) -> list[Floats]:
    """Return the gradient of the mean cross-entropy by each weight and bias, in their order."""
    values = [x]
    for at in range(0, len(weights), 2):
        z = values[-1] @ weights[at].T + weights[at + 1]
        values.append(np.maximum(z, 0) if at + 2 < len(weights) else z)
    slope = (softmax(values[-1]) - y) / len(x)
    found: list[Floats] = []
    for at in range(len(weights) - 2, -1, -2):
        found = [slope.T @ values[at // 2], slope.sum(0), *found]
        slope = slope @ weights[at] * (values[at // 2] > 0)
    return found


def softmax(logits: Floats) -> Floats:
    """Return the probabilities of the classes, (rows, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    whole: Floats = powers / powers.sum(1, keepdims=True)
    return whole
