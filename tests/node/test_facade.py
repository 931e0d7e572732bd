"""The library's front door."""

import duckdb
import pytest

import veilsum
from veilsum.errors import ConfigError, DataError


def test_lists(tmp_path):
    result = veilsum.align(
        {"clinic": ["Ann", "bob ", None, "Zoe"], "insurer": ["ANN", "Bob", "Carl"]}, results=tmp_path
    )
    assert result.matched == 2
    rows = duckdb.sql(f"FROM '{result.folders['clinic'] / 'matched.parquet'}'").fetchall()
    assert {row[0].strip() for row in rows} == {"Ann", "bob"}
    assert result.summaries["insurer"].mode.endswith("SIMULATED in one process")


def test_files_and_composite_ids(tmp_path):
    (tmp_path / "a.csv").write_text("name,born,x\nAnn,1990-01-01,1\nBob,1991-02-02,2\n")
    with duckdb.connect(str(tmp_path / "b.db")) as db:
        db.execute("CREATE TABLE t AS SELECT 'bob' AS name, '1991-02-02' AS born, 7 AS y")
    data = {
        "a": tmp_path / "a.csv",
        "b": {"duckdb": str(tmp_path / "b.db"), "query": "SELECT * FROM t"},
        "c": tmp_path / "a.csv",
    }
    result = veilsum.align(data, ids=["name", "born"], results=tmp_path / "out")
    assert result.matched == 1
    places = [duckdb.sql(f"FROM '{f / 'alignment.parquet'}'").fetchall() for f in result.folders.values()]
    assert places == [[(1, 0)], [(0, 0)], [(1, 0)]]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"a": ["x"]}, ConfigError),
        ({"A b": ["x"], "b": ["x"]}, ConfigError),
        ({"a": ["x", "x"], "b": ["x"]}, DataError),
        ({"a": [None], "b": ["x"]}, DataError),
        ({"a": "missing.csv", "b": ["x"]}, ConfigError),
    ],
)
def test_what_cannot_be_aligned(tmp_path, data, error):
    with pytest.raises(error):
        veilsum.align(data, results=tmp_path)


def test_unknown_names():
    with pytest.raises(AttributeError):
        _ = veilsum.nothing
