import csv
from pathlib import Path

import duckdb
import numpy as np
import pytest

from veilsum.data.alignment import NO_ROW, Places
from veilsum.data.ids import IdSchema
from veilsum.errors import DataError, StoreError
from veilsum.store import results
from veilsum.store.results import write_alignment
from veilsum.store.sources import open_source

ROWS = 5000
QUERY = (
    "SELECT lpad(range::VARCHAR, 5, '0') AS id, range % 7 AS row, 'name, \"' || range AS name "
    f"FROM range({ROWS})"
)
SCHEMA = IdSchema(columns=("id",), kind="digits", length=5)


@pytest.fixture(params=["csv", "parquet", "duckdb", "clash"])
def source(request, tmp_path):
    name = tmp_path / f"a.{request.param}"
    with duckdb.connect(str(name) if request.param == "duckdb" else ":memory:") as connection:
        query = QUERY.replace("AS row", "AS file_row_number") if request.param == "clash" else QUERY
        connection.execute(f"CREATE TABLE t AS {query}")
        if request.param != "duckdb":
            name = tmp_path / f"a.{'csv' if request.param == 'csv' else 'parquet'}"
            connection.execute(f"COPY t TO '{name}'")
    given = {"duckdb": name.name, "query": "SELECT * FROM t"} if request.param == "duckdb" else name.name
    with open_source(given, SCHEMA, base=tmp_path, spill=tmp_path / "spill") as opened:
        yield opened


def batches(rows, positions, size=500):
    return [Places(rows[i : i + size], positions[i : i + size]) for i in range(0, len(rows), size)]


def test_own_rows_in_the_common_order(source, tmp_path):
    rng = np.random.default_rng(4)
    rows = rng.permutation(ROWS)[:1234].astype(np.int64)
    positions = rng.permutation(9000)[:1234].astype(np.int64)
    written = write_alignment(source, batches(rows, positions), tmp_path / "result")
    expected = [int(row) for _, row in sorted(zip(positions, rows, strict=True))]
    with duckdb.connect() as connection:
        alignment = connection.execute(f"FROM '{written.alignment}'").fetchall()
        matched = connection.execute(f"FROM '{written.rows_parquet}'").fetchall()
        described = connection.execute(f"DESCRIBE FROM '{written.alignment}'").fetchall()
    assert alignment == [
        (row, int(place)) for place, row in sorted(zip(positions, rows.tolist(), strict=True))
    ]
    assert [(name, kind) for name, kind, *_ in described] == [("row", "BIGINT"), ("position", "BIGINT")]
    assert [(r[0], str(r[1]), r[2]) for r in matched] == [
        (f"{row:05d}", str(row % 7), f'name, "{row}') for row in expected
    ]
    with written.rows_csv.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == list(source.columns)
    assert [line[0] for line in lines[1:]] == [f"{row:05d}" for row in expected]


def test_files_are_private_and_whole(source, tmp_path):
    folder = tmp_path / "result"
    rows = np.arange(10)
    write_alignment(source, batches(rows, rows), folder)
    written = write_alignment(source, batches(rows[:3], rows[:3]), folder)
    assert sorted(folder.iterdir()) == sorted(written)
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT * FROM '{written.alignment}'").fetchall()
    assert found == [(0, 0), (1, 1), (2, 2)]


def test_batches_without_lines(source, tmp_path):
    none = np.zeros(0, np.int64)
    some = np.array([3, 1])
    parts = [Places(none, none), Places(none, none), Places(some, np.array([0, 1])), Places(none, none)]
    written = write_alignment(source, parts, tmp_path / "result")
    with duckdb.connect() as connection:
        assert connection.execute(f"FROM '{written.alignment}'").fetchall() == [(3, 0), (1, 1)]
    written = write_alignment(source, parts[:2], tmp_path / "result")
    assert written.rows_csv.read_text().splitlines() == [",".join(source.columns)]


def test_nothing_matched(source, tmp_path):
    written = write_alignment(source, [], tmp_path / "result")
    assert written.rows_csv.read_text().splitlines() == [",".join(source.columns)]


def test_rows_that_are_gone(source, tmp_path):
    with pytest.raises(DataError, match="no longer has all the rows"):
        write_alignment(source, batches(np.array([0, ROWS]), np.array([0, 1])), tmp_path / "result")
    assert list((tmp_path / "result").iterdir()) == []
    with pytest.raises(ValueError):
        write_alignment(source, [Places(np.arange(2), np.arange(3))], tmp_path / "result")


def test_a_really_full_disk(source):
    cursor = source.cursor()
    with pytest.raises(StoreError, match="the disk is full") as caught:
        results._copy(cursor, "FROM range(1000000)", Path("/dev/full"), results.CSV, "a.csv")
    cursor.close()
    assert caught.value.remedy


def test_a_folder_that_cannot_be_used(source, tmp_path):
    (tmp_path / "result").write_text("a file")
    with pytest.raises(StoreError):
        write_alignment(source, batches(np.arange(2), np.arange(2)), tmp_path / "result")


def test_ids_weights_and_places_without_an_own_row(source, tmp_path):
    rng = np.random.default_rng(5)
    rows = np.where(np.arange(40) % 3 == 0, np.arange(40) * 7, NO_ROW).astype(np.int64)
    ids = rng.integers(0, 256, (40, 16), np.uint8)
    ids[0] = 0
    weights = (rows != NO_ROW).astype(np.int64)
    lines = Places(rows, np.arange(40), ids, weights)
    parts = [Places(*(column[a : a + 16] for column in lines)) for a in (16, 0, 32)]
    written = write_alignment(source, parts, tmp_path / "result", held="aligned")
    assert [path.name for path in written] == ["alignment.parquet", "aligned.parquet", "aligned.csv"]
    with duckdb.connect() as connection:
        alignment = connection.execute(f"FROM '{written.alignment}'").fetchall()
        described = connection.execute(f"DESCRIBE FROM '{written.alignment}'").fetchall()
        held = connection.execute(f"SELECT id FROM '{written.rows_parquet}'").fetchall()
    assert [(name, kind) for name, kind, *_ in described] == [
        ("row", "BIGINT"),
        ("position", "BIGINT"),
        ("id", "VARCHAR"),
        ("weight", "BIGINT"),
    ]
    expected = zip(rows.tolist(), range(40), ids, weights.tolist(), strict=True)
    assert alignment == [
        (None if row == NO_ROW else row, place, name.tobytes().hex(), weight)
        for row, place, name, weight in expected
    ]
    assert [int(row[0]) for row in held] == [row for row in rows.tolist() if row != NO_ROW]
