"""Columns of numbers: what is read as what, and what is refused."""

import duckdb
import numpy as np
import pytest

from veilsum.errors import BudgetExceeded, ConfigError, DataError
from veilsum.store.features import open_features


@pytest.fixture
def opened(tmp_path):
    made = []

    def give(source, content=""):
        if content:
            (tmp_path / source).write_text(content)
        made.append(open_features(source, base=tmp_path, spill=tmp_path / "spill"))
        return made[-1]

    yield give
    for one in made:
        one.close()


def parquet(path, query):
    duckdb.sql(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


def equal(found, **expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float64
        np.testing.assert_array_equal(found[name], np.array(values, np.float64))


def test_csv_columns_are_numbers_truth_values_and_gaps(opened):
    rows = opened("a.csv", "x,b,t\n1,true,u\n-2.5e1,FALSE,v\n,1,w\n nan ,0,\n")
    equal(rows.read(["b", "x"]), b=[1, 0, 1, 0], x=[1, -25, np.nan, np.nan])


def test_parquet_types(opened, tmp_path):
    parquet(
        tmp_path / "a.parquet",
        "SELECT i, i > 1 AS b, i / 4 AS q, i::UTINYINT AS u, (i / 4)::DECIMAL(6, 2) AS d, i::FLOAT AS f, "
        "nullif(i, 0) AS n FROM range(4) t(i)",
    )
    found = opened("a.parquet").read(["i", "b", "q", "u", "d", "f", "n"])
    whole = [0, 1, 2, 3]
    quarters = [0, 0.25, 0.5, 0.75]
    equal(found, i=whole, b=[0, 0, 1, 1], q=quarters, u=whole, d=quarters, f=whole, n=[np.nan, 1, 2, 3])


def test_a_query_has_one_order(opened, tmp_path):
    with duckdb.connect(str(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE t AS SELECT 5 - i AS x FROM range(5) r(i)")
    rows = opened({"duckdb": "a.db", "query": "SELECT x, x * 2.0 AS y FROM t"})
    equal(rows.read(["x", "y"]), x=[1, 2, 3, 4, 5], y=[2, 4, 6, 8, 10])


def test_rows_keep_the_order_of_a_large_file(opened, tmp_path):
    parquet(tmp_path / "a.parquet", "SELECT i FROM range(300_000) t(i)")
    found = opened("a.parquet").read(["i"])["i"]
    assert np.array_equal(found, np.arange(300_000))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("VARCHAR", "'secret-7'"), ("DATE", "DATE '2020-01-01'"), ("BLOB", "'ab'::BLOB"), ("DOUBLE[]", "[1.0]")],
)
def test_other_types_are_refused_by_name(opened, tmp_path, kind, value):
    parquet(tmp_path / "a.parquet", f"SELECT {value}::{kind} AS note")
    with pytest.raises(DataError, match=r"'note' of a\.parquet has type") as refused:
        opened("a.parquet").read(["note"])
    assert "query" in refused.value.remedy
    assert "secret" not in str(refused.value)


def test_text_in_csv_is_counted_and_not_shown(opened):
    rows = opened("a.csv", "x,y\n1,2\nsecret-7,3\nN/A,4\n")
    with pytest.raises(DataError, match=r"^2 values of column 'x' of a\.csv are no numbers") as refused:
        rows.read(["y", "x"])
    assert "secret" not in str(refused.value) + refused.value.remedy


def test_a_missing_column_names_the_nearest_and_no_other(opened):
    rows = opened("a.csv", "income,secret\n1,2\n")
    with pytest.raises(DataError, match="did you mean 'income'") as refused:
        rows.read(["incom"])
    with pytest.raises(DataError) as other:
        rows.read(["zzz"])
    assert "secret" not in str(refused.value) + str(other.value) + other.value.remedy


def test_a_row_limit_holds_before_anything_is_read(opened):
    rows = opened("a.csv", "x\n1\n2\n3\n")
    assert len(rows.read(["x"], most=3)["x"]) == 3
    with pytest.raises(BudgetExceeded, match=r"3 rows; floor\.max_rows allows 2"):
        rows.read(["x"], most=2)


def test_check_tells_numbers_from_others(opened):
    report = opened("a.csv", "x,t,e\n1,u,\n,v,\n").check()
    assert (report.rows, report.numeric, report.other) == (2, {"x": 1}, ("t", "e"))
    assert ["1 values of column 'x' are missing" in warning for warning in report.warnings] == [True]


def test_nothing_to_read_is_named(opened, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        opened("none.csv")
    parquet(tmp_path / "a.parquet", "SELECT 1 AS x WHERE false")
    with pytest.raises(DataError, match="no rows"):
        opened("a.parquet").check()


def test_the_fingerprint_follows_the_content_and_the_salt(opened, tmp_path):
    one = opened("a.csv", "x\n1\n")
    same = opened("b.csv", "x\n1\n")
    other = opened("c.csv", "x\n2\n")
    assert one.fingerprint(b"s") == same.fingerprint(b"s") != other.fingerprint(b"s")
    assert one.fingerprint(b"s") != one.fingerprint(b"t")
    with duckdb.connect(str(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE t AS SELECT 1.5 AS x")
    queries = [opened({"duckdb": "a.db", "query": f"SELECT x + {n} AS x FROM t"}) for n in (0, 0, 1)]
    prints = [query.fingerprint(b"s") for query in queries]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 32
