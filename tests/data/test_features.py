"""Columns with declared ranges: what becomes of their values, and what is refused by name."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilsum.data import features
from veilsum.errors import ConfigError, DataError

UNIT = (0.0, 1.0)


def test_many_columns_by_one_key():
    found = features.expanded({"age": (0, 120), "p[9-11]": UNIT, "a[0-0]z": UNIT, "[1-2]": UNIT})
    assert list(found) == ["age", "p9", "p10", "p11", "a0z", "1", "2"]
    assert found["p10"] == UNIT
    assert len(features.expanded({"p[0-65535]": UNIT})) == features.MOST_COLUMNS


@pytest.mark.parametrize(
    "key", ["p[0]", "p[0-1", "p[a-b]", "p[0-1][0-1]", "p[-1-2]", "p[0-1234567]", "p 0-1", ""]
)
def test_other_keys_are_names(key):
    assert features.expanded({key: UNIT}) == {key: UNIT}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "between 1 and 65536 features, not 0"),
        ({"x": (1.0, 1.0)}, "the range of x is not"),
        ({"x": (2.0, 1.0)}, "the range of x is not"),
        ({"x": (float("nan"), 1.0)}, "the range of x is not"),
        ({"x": (0.0, float("inf"))}, "the range of x is not"),
        ({"x0": UNIT, "x[0-1]": UNIT}, "the column x0 is named twice"),
        ({"x[2-1]": UNIT}, "names no columns"),
        ({"x[0-65536]": UNIT}, "names no columns"),
        ({"x[0-999999]": UNIT}, "names no columns"),
        ({"x[0-65535]": UNIT, "y": UNIT}, "not 65537"),
    ],
)
def test_refused_features(given, words):
    with pytest.raises(ConfigError, match=words) as found:
        features.expanded(given)
    assert found.value.remedy


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_ranges_become_minus_one_to_one(low, width, places):
    high = low + width
    values = np.clip(low + np.array(places) * width, low, high)
    (scaled,) = features.scaled({"x": values}, {"x": (low, high)})
    assert scaled.shape == (len(places), 1)
    assert np.abs(scaled).max() <= 1 + 1e-9
    back = (scaled[:, 0] + 1) * (width / 2) + low
    assert np.allclose(back, values, atol=1e-6 * (abs(low) + width))


def test_both_ends_are_within():
    (scaled,) = features.scaled({"x": np.array([-5.0, 0.0, 15.0])}, {"x": (-5.0, 15.0)})
    assert scaled[:, 0].tolist() == [-1.0, -0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, np.nan, np.inf], "2 of 3 values of column 'x' are missing or not finite"),
        ([0.5, -0.1, 1.1, 0.0], "2 of 4 values of column 'x' are outside of \\[0, 1\\]"),
        ([-np.inf], "1 of 1 values"),
    ],
)
def test_refused_values(values, words):
    with pytest.raises(DataError, match=words) as found:
        features.scaled({"x": np.array(values)}, {"x": UNIT})
    assert found.value.remedy
    # how many, never which values
    assert "0.5" not in str(found.value)


def test_a_column_that_is_not_there():
    columns = {f"c{at}": np.zeros(1) for at in range(20)}
    with pytest.raises(DataError, match="no column 'x'") as found:
        features.scaled(columns, {"x": UNIT})
    assert found.value.remedy.startswith("it has c0, c1")
    assert found.value.remedy.endswith("…")


def test_targets():
    columns = {"y": np.array([2.0, 0.0, 1.0, 2.0])}
    assert features.target(columns, "y", "classes", 3, UNIT).tolist() == [
        [0, 0, 1],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert features.target(columns, "y", "number", 0, (0.0, 4.0))[:, 0].tolist() == [0.0, -1.0, -0.5, 0.0]
    bits = features.target({"y": np.array([1.0, 0.0])}, "y", "bit", 2, UNIT)
    assert bits.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("kind", "classes", "values", "words"),
    [
        ("classes", 3, [0, 3], "outside of \\[0, 2\\]"),
        ("classes", 3, [0, -1], "outside of"),
        ("classes", 3, [0, 1.5], "values that are no classes"),
        ("classes", 3, [0, np.nan], "missing or not finite"),
        ("bit", 9, [0, 2], "outside of \\[0, 1\\]"),
        ("bit", 2, [0.5], "number the classes 0 to 1"),
        ("number", 0, [5.0], "outside of"),
    ],
)
def test_refused_targets(kind, classes, values, words):
    with pytest.raises(DataError) as found:
        features.target({"y": np.array(values, float)}, "y", kind, classes, UNIT)
    assert re.search(words, f"{found.value} {found.value.remedy}")
