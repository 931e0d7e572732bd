import gzip
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.data.ids import IdSchema, normalise
from veilsum.errors import ConfigError, DataError, StoreError
from veilsum.store import id_table
from veilsum.store.database import database_errors
from veilsum.store.readers import unreadable
from veilsum.store.sources import open_source

TEXT = IdSchema(columns=("id",))
US = IdSchema(columns=("phone",), kind="phone", region="US")
CPF = IdSchema(columns=("cpf",), kind="digits", length=11)
SALT = b"s" * 32


def opened(folder, source, schema=TEXT, **options):
    return open_source(source, schema, base=folder, spill=folder / "spill", **options)


def put(folder, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return name


def parquet(folder, name, query):
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{folder / name}' (FORMAT parquet)")
    return name


def database(folder, name, *statements):
    with duckdb.connect(str(folder / name)) as connection:
        for statement in statements:
            connection.execute(statement)
    return name


def collect(source, size=1000):
    found = {}
    for batch in source.batches(size):
        assert batch.offsets[0] == 0
        assert batch.offsets[-1] == len(batch.data)
        found |= dict(zip(batch.rows.tolist(), batch.ids(), strict=True))
    return found


def refused(folder, source, schema=TEXT, error=DataError):
    with pytest.raises(error) as caught, opened(folder, source, schema) as one:
        one.check()
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what comes out


def test_csv(tmp_path):
    name = put(tmp_path, "a.csv", "phone,x\n(415) 555-0132,1\n,2\nnonsense,3\n+1 415 555 0133,4\n")
    with opened(tmp_path, name, US) as source:
        report = source.check()
        assert (report.rows, report.ids, report.nulls, report.malformed, report.duplicates) == (4, 2, 1, 1, 0)
        assert (report.null_rows, report.malformed_rows) == ((1,), (2,))
        assert report.form == "phone (E.164, US)"
        assert report.warnings == ("1 ids are not phone (E.164, US) and will not match",)
        assert report.columns == {"phone": "VARCHAR", "x": "VARCHAR"}
        assert collect(source) == {0: b"+14155550132", 3: b"+14155550133"}
        assert source.rows == 4
        assert "415" not in repr(source)


@pytest.mark.parametrize(
    "content",
    [
        "id,b\r\n007,1\r\n008,2\r\n",
        "id;b\n007;1\n008;2\n",
        "b\tid\n1\t007\n2\t008",
        "\ufeffid|b\n007|1\n008|2\n",
        'id,"b,|;\n"\n"007","1\n"\n"008",","\n',
        "id\n007\n008\n",
        "id,b\n007,1\n\n008,2\n",
        "id,\n007,1\n008,#2\n",
    ],
)
def test_csv_dialects_keep_zeros(tmp_path, content):
    with opened(tmp_path, put(tmp_path, "a.csv", content)) as source:
        ids = collect(source)
        assert [ids[row] for row in sorted(ids)] == [b"007", b"008"]


def test_csv_never_reads_a_row_as_a_comment(tmp_path):
    with opened(tmp_path, put(tmp_path, "a.csv", "id\n#1\n2\n" * 1 + "#3\n" * 0)) as source:
        assert collect(source) == {0: b"#1", 1: b"2"}


def test_gzip(tmp_path):
    put(tmp_path, "a.csv.gz", gzip.compress(b"id,b\n007,1\n", mtime=0))
    with opened(tmp_path, "a.csv.gz") as source:
        assert collect(source) == {0: b"007"}


def test_parquet_and_query_give_the_same_ids(tmp_path):
    rows = "SELECT lpad((range * 7)::VARCHAR, 11, '0') AS cpf, range AS n FROM range(5000)"
    parquet(tmp_path, "a.parquet", rows)
    database(tmp_path, "a.duckdb", f"CREATE TABLE people AS {rows}")
    with opened(tmp_path, "a.parquet", CPF) as one:
        ids = collect(one, 777)
    assert ids == {n: b"%011d" % (7 * n) for n in range(5000)}
    query = {"duckdb": "a.duckdb", "query": "SELECT * FROM people ORDER BY n DESC; -- all"}
    with opened(tmp_path, query, CPF) as other:
        assert collect(other) == ids  # rows of a query are sorted, whatever order it asks for
        # the file is free again while the source is open
        database(tmp_path, "a.duckdb", "DROP TABLE people")
        assert other.rows == 5000


def test_types_that_can_be_ids(tmp_path):
    parquet(
        tmp_path,
        "a.parquet",
        "SELECT 4155550132 AS phone, DATE '2001-02-03' AS born, 'x'::ENUM('x') AS e, 12::DECIMAL(9,0) AS d",
    )
    schema = IdSchema(
        columns=("phone", "born", "e", "d"), kinds=("phone", "text", "text", "digits"), region="US"
    )
    with opened(tmp_path, "a.parquet", schema) as source:
        report = source.check()
        assert collect(source) == {0: normalise(("4155550132", "2001-02-03", "x", "12"), schema)}
    assert [w.split(":")[0] for w in report.warnings] == [
        "column 'phone' holds numbers (BIGINT)",
        "column 'd' holds numbers (DECIMAL(9,0))",
    ]


VALUES = st.lists(
    st.sampled_from(["a", "A", " a", "b", "\uff42", "c", "", "\x01", None, "d" * 9]), max_size=60
)


@settings(max_examples=25, deadline=None)
@given(values=VALUES, size=st.integers(1, 70))
def test_first_of_each_id_is_kept(tmp_path_factory, values, size):
    folder = tmp_path_factory.mktemp("rows")
    with duckdb.connect() as connection:
        connection.register("v", {"id": np.array([*values, "last"], dtype=object)})
        connection.execute(f"COPY (SELECT id FROM v) TO '{folder / 'a.parquet'}'")
    schema = IdSchema(columns=("id",), duplicates="first")
    expected = {}
    for row, value in enumerate([*values, "last"]):
        form = normalise(value, schema)
        if form is not None and form not in expected.values():
            expected[row] = form
    with opened(folder, "a.parquet", schema) as source:
        report = source.check()
        batches = list(source.batches(size))
        assert [row for batch in batches for row in batch.rows.tolist()] == sorted(expected)
        assert all(len(batch) == size for batch in batches[:-1])
        assert collect(source, size) == expected
        assert report.ids == len(expected)
        assert report.rows == report.ids + report.nulls + report.malformed + report.duplicates


def test_repetitions_are_found_in_slices(tmp_path, monkeypatch):
    parquet(tmp_path, "a.parquet", "SELECT (range % 4000)::VARCHAR AS id FROM range(10000)")
    monkeypatch.setattr(id_table, "ROWS_PER_MB", 5)
    with opened(tmp_path, "a.parquet", IdSchema(columns=("id",), duplicates="first")) as source:
        report = source.check()
        assert (report.ids, report.duplicates, report.duplicate_rows) == (
            4000,
            6000,
            (4000, 4001, 4002, 4003, 4004),
        )
        assert collect(source) == {n: b"%d" % n for n in range(4000)}


def test_two_streams_and_other_work_at_once(tmp_path):
    parquet(tmp_path, "a.parquet", "SELECT range::VARCHAR AS id FROM range(400000)")
    with opened(tmp_path, "a.parquet") as source:
        one, other = source.batches(1000), source.batches(100_000)
        first = next(one)
        second = next(other)
        source.fingerprint(SALT)
        assert sum(len(batch) for batch in one) == 399_000
        assert (first.rows[0], len(second)) == (0, 100_000)
        with pytest.raises(ConfigError):
            next(source.batches(0))


def test_close_leaves_nothing(tmp_path):
    put(tmp_path, "a.csv", "id\n1\n")
    source = opened(tmp_path, "a.csv")
    (folder,) = (tmp_path / "spill").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    source.check()
    source.close()
    assert list((tmp_path / "spill").iterdir()) == []
    refused(tmp_path, "a.csv", CPF)
    assert list((tmp_path / "spill").iterdir()) == []


# fingerprints


def test_fingerprint_follows_schema_salt_and_content(tmp_path):
    def of(source, schema=TEXT, salt=SALT):
        with opened(tmp_path, source, schema) as one:
            return one.fingerprint(salt)

    put(tmp_path, "a.csv", "id\n1\n2\n")
    first = of("a.csv")
    assert len(first) == 32
    assert first == of("a.csv")
    assert first != of("a.csv", salt=b"t" * 32)
    assert first != of("a.csv", IdSchema(columns=("id",), case="keep"))
    put(tmp_path, "a.csv", "id\n1\n3\n")
    assert first != of("a.csv")

    database(tmp_path, "a.duckdb", "CREATE TABLE t AS SELECT range::VARCHAR AS id, NULL AS n FROM range(100)")
    query = {"duckdb": "a.duckdb", "query": "SELECT * FROM t"}
    first = of(query)
    assert first == of(query | {"query": "SELECT * FROM t ORDER BY id DESC"})
    assert first != of(query | {"query": "SELECT id, '' AS n FROM t"})
    assert first != of(query | {"query": "SELECT id, n AS m FROM t"})
    database(tmp_path, "a.duckdb", "UPDATE t SET id = 'x' WHERE id = '7'")
    assert first != of(query)


# what is refused


def test_missing_files_and_wrong_declarations(tmp_path):
    assert "does not exist" in refused(tmp_path, "no.csv", error=ConfigError)
    assert "does not exist" in refused(tmp_path, "no.parquet", error=ConfigError)
    assert "does not exist" in refused(tmp_path, {"duckdb": "no.db", "query": "SELECT 1"}, error=ConfigError)
    assert "does not say" in refused(tmp_path, "data.xlsx", error=ConfigError)
    assert "needs a query" in refused(tmp_path, "crm.db", error=ConfigError)
    assert "did you mean query" in refused(tmp_path, {"duckdb": "a.db", "qeury": ""}, error=ConfigError)
    assert "needs duckdb and query" in refused(tmp_path, {"duckdb": "a.db"}, error=ConfigError)
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(tmp_path, "folder.csv", error=ConfigError)
    with pytest.raises(ConfigError, match="too little"):
        opened(tmp_path, "no.csv", memory_mb=10)


def test_permissions_are_named(tmp_path, monkeypatch):
    put(tmp_path, "a.csv", "id\n1\n")

    def forbidden(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "may not be read" in refused(tmp_path, "a.csv", error=ConfigError)
    assert isinstance(unreadable(tmp_path, OSError(5, "Input/output error")), StoreError)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"id,b\n", "has no rows"),
        ("a.csv", b"\n\n", "does not begin with the names"),
        ("a.csv", b"PAR1\0\0\0", "not CSV but Parquet"),
        ("a.csv", b"PK\x03\x04\0", "spreadsheet"),
        ("a.csv", b"\x00\x01\x02\xff" * 99, "not text in UTF-8"),
        ("a.csv", "id\nm\u00fcller\n".encode("latin-1"), "not text in UTF-8 at line 2"),
        ("a.csv", "id\n1\n".encode("utf-16"), "not text in UTF-8"),
        ("a.csv", b"id,ID\n1,2\n", "same name"),
        ("a.csv", b"id,b\nsecret,2\nsecret,1,2\n", "not well-formed CSV at line 3"),
        ("a.csv", b'id,b\n"secret,2\n', "not well-formed CSV"),
        ("a.csv.gz", b"id\n1\n", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"id\n1\n" * 9, mtime=0)[:-12], "gzip"),
        ("a.parquet", b"", "is empty"),
        ("a.parquet", b"id\n1\n", "not a Parquet file"),
        ("a.parquet", b"PAR1" + b"x" * 99, "cut off"),
        ("a.parquet", b"PAR1" + b"x" * 99 + b"PAR1", "damaged"),
    ],
)
def test_content_that_is_not_what_it_says(tmp_path, name, content, words):
    message = refused(tmp_path, put(tmp_path, name, content))
    assert words in message
    assert "secret" not in message


def test_damage_inside_parquet(tmp_path):
    parquet(tmp_path, "a.parquet", "SELECT md5(range::VARCHAR) AS id FROM range(20000)")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[60:4000] = os.urandom(3940)
    assert "damaged" in refused(tmp_path, put(tmp_path, "b.parquet", bytes(content)))


def test_missing_column_names_the_nearest(tmp_path):
    put(tmp_path, "a.csv", "Phone_Nr,mail\n415,a\n")
    assert "did you mean 'Phone_Nr'?" in refused(tmp_path, "a.csv", IdSchema(columns=("phone_no",)))
    put(tmp_path, "a.csv", "Phone,mail\n415,a\n")
    assert "did you mean 'Phone'?" in refused(tmp_path, "a.csv", US)
    put(tmp_path, "a.csv", "4155550132,bob\n4155550133,alice\n")
    message = refused(tmp_path, "a.csv", US)
    assert "415" not in message
    assert "bob" not in message


def test_wrong_types(tmp_path):
    parquet(tmp_path, "a.parquet", "SELECT 1.5::DOUBLE AS id, 7 AS n, [1] AS l")
    assert "type DOUBLE" in refused(tmp_path, "a.parquet")
    assert "type INTEGER[]" in refused(tmp_path, "a.parquet", IdSchema(columns=("l",)))
    assert "kind email" in refused(tmp_path, "a.parquet", IdSchema(columns=("n",), kind="email"))


def test_lost_zeros_are_found(tmp_path):
    parquet(tmp_path, "a.parquet", "SELECT unnest([12345678909, 2345678909, NULL]) AS cpf")
    message = refused(tmp_path, "a.parquet", CPF)
    assert "1 ids have fewer than the declared 11 digits, their leading zeros were lost" in message
    # without a declared length nothing can be told; whole numbers of that length are fine
    parquet(tmp_path, "b.parquet", "SELECT unnest([12345678909, 22345678909]) AS cpf")
    with opened(tmp_path, "b.parquet", CPF) as source:
        assert "holds numbers (BIGINT)" in source.check().warnings[0]
    put(tmp_path, "c.csv", "cpf\n12345678909\n2345678909\n")
    with opened(tmp_path, "c.csv", CPF) as source:
        report = source.check()
        assert (report.ids, report.malformed) == (1, 1)
        assert "1 values of column 'cpf' have fewer than 11 digits" in report.warnings[0]
        assert collect(source) == {0: b"12345678909"}  # never padded


def test_nothing_to_match(tmp_path):
    put(tmp_path, "a.csv", "id,b\n,1\n ,2\n")
    assert "'id' of a.csv is empty in all 2 rows" in refused(tmp_path, "a.csv")
    put(tmp_path, "b.csv", "phone\nanna\nbob\n")
    assert "none of the 2 rows" in refused(tmp_path, "b.csv", US)


def test_duplicates_are_refused_with_their_rows(tmp_path):
    put(tmp_path, "a.csv", "id\nanna\nbob\nANNA\nbob \ncarl\n")
    message = refused(tmp_path, "a.csv")
    assert "2 rows of a.csv repeat the id of an earlier row (from 0: rows 2, 3)" in message
    assert "anna" not in message
    with opened(tmp_path, "a.csv") as source, pytest.raises(DataError):
        source.batches(10)


def test_words_that_mean_missing_are_warned_about(tmp_path):
    put(tmp_path, "a.csv", "id\nanna\nN/A\n")
    with opened(tmp_path, "a.csv") as source:
        assert source.check().warnings == (
            "1 ids read like a missing value, yet would match the same word elsewhere",
        )


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("SELEC id FROM t", ConfigError, "is wrong: Parser Error"),
        ("SELECT nope FROM t", ConfigError, "is wrong: Binder Error"),
        ("SELECT id FROM nope", ConfigError, "is wrong: Catalog Error"),
        ("DROP TABLE t", ConfigError, "is not one SELECT"),
        ("SELECT 1; SELECT 2", ConfigError, "is not one SELECT"),
        ("", ConfigError, "is not one SELECT"),
        ("SELECT id::INTEGER::VARCHAR AS id FROM t", DataError, "cannot be converted"),
        ("SELECT id FROM t WHERE false", DataError, "has no rows"),
    ],
)
def test_wrong_queries(tmp_path, query, error, words):
    database(tmp_path, "a.duckdb", "CREATE TABLE t AS SELECT 'secret' AS id")
    message = refused(tmp_path, {"duckdb": "a.duckdb", "query": query}, error=error)
    assert words in message
    assert "secret" not in message


def test_a_database_that_is_none_or_in_use(tmp_path):
    put(tmp_path, "a.db", b"x" * 9000)
    query = {"duckdb": "a.db", "query": "SELECT 1 AS id"}
    assert "not a DuckDB file" in refused(tmp_path, query)
    put(tmp_path, "a.db", b"x" * 8 + b"DUCK" + b"x" * 9000)
    assert "damaged" in refused(tmp_path, query)
    database(tmp_path, "b.db", "CREATE TABLE t AS SELECT 'x' AS id")
    code = f"import duckdb; c = duckdb.connect({str(tmp_path / 'b.db')!r}); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline()
        assert "open for writing in another program" in refused(tmp_path, query | {"duckdb": "b.db"})
        writer.communicate(b"\n")


def test_full_disks_and_little_memory_are_named():
    for text, words in (
        ("IO Error: Could not write file: No space left on device", "the disk is full"),
        ("Out of Memory Error: failed to offload; max_temp_directory_size reached", "the disk is full"),
    ):
        with pytest.raises(StoreError, match=words), database_errors("a.csv"):
            raise duckdb.IOException(text)
    with pytest.raises(StoreError, match="does not fit the memory"), database_errors("a.csv"):
        raise duckdb.OutOfMemoryException("could not allocate")


def test_spill_folder_must_be_usable(tmp_path):
    put(tmp_path, "a.csv", "id\n1\n")
    put(tmp_path, "spill", "a file")
    assert "cannot be used" in refused(tmp_path, "a.csv", error=StoreError)
