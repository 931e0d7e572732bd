import itertools

import duckdb
import numpy as np
import pytest

from veilsum.data.arrow import read_chunks
from veilsum.errors import StoreError


@pytest.fixture
def connection():
    with duckdb.connect(config={"arrow_large_buffer_size": "true"}) as opened:
        yield opened


def test_reads_every_row_in_order(connection):
    chunks = list(
        read_chunks(
            connection.sql("SELECT range AS n, 'é' || range AS t FROM range(1200000) WHERE range % 3 = 0")
        )
    )
    assert len(chunks) > 1
    assert np.concatenate([rows for rows, _, _ in chunks]).tolist() == list(range(0, 1200000, 3))
    texts = [data[a:b].decode() for _, data, off in chunks for a, b in itertools.pairwise(off)]
    assert texts == [f"é{n}" for n in range(0, 1200000, 3)]


def test_copies_outlive_the_stream(connection):
    ((rows, data, offsets),) = read_chunks(connection.sql("SELECT 7::BIGINT, 'seven'"))
    connection.execute("SELECT count(*) FROM range(1000000)").fetchall()
    assert (rows.tolist(), data, offsets.tolist()) == ([7], b"seven", [0, 5])


def test_empty_and_empty_texts(connection):
    assert list(read_chunks(connection.sql("SELECT 1::BIGINT, 'x' WHERE false"))) == []
    ((_, data, offsets),) = read_chunks(connection.sql("SELECT 1::BIGINT, ''"))
    assert (data, offsets.tolist()) == (b"", [0, 0])


def test_other_layouts_are_refused(connection):
    with pytest.raises(StoreError, match="layout"):
        list(read_chunks(connection.sql("SELECT 1, 2")))
    with pytest.raises(StoreError, match="null"):
        list(read_chunks(connection.sql("SELECT 1::BIGINT, NULL::VARCHAR")))
    connection.execute("SET arrow_large_buffer_size = false")
    with pytest.raises(StoreError, match="layout"):
        list(read_chunks(connection.sql("SELECT 1::BIGINT, 'x'")))


def test_a_failing_query_is_an_error(connection):
    query = "SELECT range, CASE WHEN range = 1150000 THEN error('no') ELSE 'x' END FROM range(1200000)"
    with pytest.raises((StoreError, duckdb.Error)):
        list(read_chunks(connection.sql(query)))
