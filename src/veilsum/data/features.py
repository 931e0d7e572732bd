"""Columns as a model reads them: declared ranges, scaled to [-1, 1]; targets as classes, bits or numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError, DataError

Floats = NDArray[np.float64]
Ranges = Mapping[str, tuple[float, float]]
TargetKind = Literal["classes", "bit", "number"]
MOST_COLUMNS: Final = 1 << 16
_MANY = re.compile(r"([^\[\]]*)\[(\d{1,6})-(\d{1,6})\]([^\[\]]*)")


def expanded(features: Ranges) -> dict[str, tuple[float, float]]:
    """Return every column with its range; the key ``p[0-63]`` stands for p0, p1 … p63.

    Raises:
        ConfigError: a range or a key cannot be used, or there are too many columns or none.
    """
    columns: dict[str, tuple[float, float]] = {}
    for key, (low, high) in features.items():
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"the range of {key} is not [low, high]", remedy="write for example [0, 100]")
        for name in _names(key):
            if name in columns:
                raise ConfigError(f"the column {name} is named twice", remedy="name every feature once")
            columns[name] = (low, high)
    if not 0 < len(columns) <= MOST_COLUMNS:
        raise ConfigError(
            f"a model has between 1 and {MOST_COLUMNS} features, not {len(columns)}",
            remedy="name them under features",
        )
    return columns


def _names(key: str) -> list[str]:
    found = _MANY.fullmatch(key)
    if found is None:
        return [key]
    first, last = int(found[2]), int(found[3])
    if not first <= last < first + MOST_COLUMNS:
        raise ConfigError(f"{key} names no columns", remedy="write for example pixel[0-63]")
    return [f"{found[1]}{number}{found[4]}" for number in range(first, last + 1)]


def scaled(columns: Mapping[str, Floats], features: Ranges) -> list[Floats]:
    """Return the named columns scaled from their ranges to [-1, 1], each (rows, 1).

    Raises:
        DataError: a column is missing, or a value is not a finite number within the range.
    """
    return [
        ((column(columns, name, low, high) - low) * (2 / (high - low)) - 1)[:, None]
        for name, (low, high) in expanded(features).items()
    ]


def target(
    columns: Mapping[str, Floats], name: str, kind: TargetKind, classes: int, bounds: tuple[float, float]
) -> Floats:
    """Return the target as it is learnt: one-hot classes (rows, classes), a bit or a scaled number (rows, 1).

    Raises:
        DataError: as for `scaled`, or a value is no class.
    """
    if kind == "number":
        return scaled(columns, {name: bounds})[0]
    most = classes if kind == "classes" else 2
    values = column(columns, name, 0, most - 1)
    if not np.array_equal(values, np.round(values)):
        raise DataError(
            f"the target {name!r} has values that are no classes",
            remedy=f"number the classes 0 to {most - 1}",
        )
    return values[:, None] if kind == "bit" else np.eye(most)[values.astype(np.int64)]


def column(columns: Mapping[str, Floats], name: str, low: float, high: float) -> Floats:
    """Return a column whose values all keep a declared range.

    Raises:
        DataError: there is no such column, or a value is missing, not finite or outside.
    """
    if name not in columns:
        raise DataError(f"the data set has no column {name!r}", remedy=f"it has {_listed(list(columns))}")
    values = columns[name]
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise DataError(
            f"{missing} of {len(values)} values of column {name!r} are missing or not finite",
            remedy="fill them, or leave the rows out",
        )
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        raise DataError(
            f"{outside} of {len(values)} values of column {name!r} are outside of [{low:g}, {high:g}]",
            remedy="agree on a wider range in the job, or cut the values off",
        )
    return values


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
