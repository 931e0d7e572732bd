"""Where a party's rows come from: opened read-only, read out of core, ids in normal form."""
# ruff: noqa: S608 -- statements are built from fixed words and quoted column names

import difflib
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from veilsum import jobs
from veilsum.data.ids import IdBatch, IdSchema
from veilsum.errors import ConfigError, DataError
from veilsum.store.database import Database
from veilsum.store.id_table import DataReport, IdTable, is_number
from veilsum.store.readers import (
    Reader,
    csv_reader,
    duckdb_reader,
    format_of,
    parquet_reader,
    quoted,
    unreadable,
    unused,
)

KEYS = ("duckdb", "query")
SNAPSHOT = "memory.main.snapshot"
HELD = "memory.main.held"


def open_source(
    source: str | Mapping[str, str],
    schema: IdSchema,
    *,
    base: Path,
    spill: Path,
    memory_mb: int = 512,
    threads: int = 2,
) -> "Source":
    """Open a CSV or Parquet file, or ``{"duckdb": file, "query": "SELECT …"}``.

    Args:
        source: relative paths start at ``base``.
        schema: the ids' declaration.
        base: folder of the file that names the source.
        spill: folder for what does not fit the memory; a private subfolder of it holds ids until ``close``.
        memory_mb: MiB that the database may use; the process grows by up to about 100 MiB more.
        threads: of the database.

    Raises:
        ConfigError: a file is missing or may not be read, a key is unknown, the query is wrong.
        DataError: the content is not what its name says, or lacks a declared column.
        StoreError: the spill folder cannot be used.
    """
    database = Database(spill, memory_mb=memory_mb, threads=threads)
    try:
        reader = _reader(source, base, database)
        columns = database.columns(reader.relation)
        _check_columns(schema, columns, reader, database.what)
    except BaseException:
        database.close()
        raise
    return Source(database, reader, columns, schema)


class Source:
    """One data set's rows, numbered from 0 in their order; use one thread at a time, and close it."""

    def __init__(
        self, database: Database, reader: Reader, columns: Mapping[str, str], schema: IdSchema
    ) -> None:
        self._database = database
        self._reader = reader
        self._table: IdTable | None = None
        self._snapshot = False
        self.schema = schema
        self.columns: Mapping[str, str] = columns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Source({self._reader.format}, {len(self.columns)} columns)"

    def close(self) -> None:
        """Give everything back; what was spilled is deleted."""
        self._database.close()

    @property
    def rows(self) -> int:
        """Number of rows, valid or not."""
        return self._ids().report.rows

    def check(self) -> DataReport:
        """Read all ids once and say what they are.

        Raises:
            DataError: no rows, no valid id, lost zeros, or repeated ids under ``refuse``.
            StoreError: disk or memory ran out.
        """
        table = self._ids()
        table.refuse()
        return table.report

    def batches(self, size: int) -> Iterator[IdBatch]:
        """Yield the different valid ids in the order of their first rows, ``size`` at a time.

        Raises:
            DataError: as :meth:`check`.
            StoreError: disk or memory ran out.
        """
        table = self._ids()
        table.refuse()
        return table.stream(size)

    def fingerprint(self, salt: bytes) -> bytes:
        """Return 32 bytes that change with the schema and the content, and say nothing without the salt.

        HMAC-SHA-256 over a file's bytes, or over every value of a query's result.
        """
        mac = hmac.new(salt, digestmod=hashlib.sha256)
        mac.update(jobs.digest("source", [self._reader.format, msgspec.to_builtins(self.schema)]))
        if self._reader.format == "duckdb":
            mac.update(jobs.digest("source-columns", list(self.columns.items())))
            values = " || ".join(_netstring(name) for name in self.columns)
            for batch in self._database.stream(f"SELECT rowid, {values} FROM {self._relation()}", 1 << 16):
                mac.update(batch.data)
            return mac.digest()
        try:
            with self._reader.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    mac.update(chunk)
        except OSError as error:
            raise unreadable(self._reader.path, error) from None
        return mac.digest()

    def numbered(self) -> tuple[str, str]:
        """Return what stands after FROM to read all rows, and the name of its row-number column."""
        relation = self._relation()
        if self._reader.numbered:
            return self._reader.numbered, self._reader.number
        if not self._snapshot:
            # a table spills where the window function that could count rows does not
            self._database.run(f"CREATE TABLE IF NOT EXISTS {HELD} AS SELECT * FROM {relation}")
            relation = HELD
        number = unused("row", self.columns)
        return f"(SELECT *, rowid AS {number} FROM {relation})", number

    def cursor(self) -> Any:
        """Return a cursor on the database that holds this source."""
        return self._database.connection.cursor()

    @property
    def what(self) -> str:
        """The source in words, for errors."""
        return self._database.what

    def _ids(self) -> IdTable:
        if self._table is None:
            self._table = IdTable(self._database, self._relation(), self.columns, self.schema)
        return self._table

    def _relation(self) -> str:
        """Return what stands after FROM; a query runs once, and then its file is free for other programs."""
        if self._reader.format != "duckdb":
            return self._reader.relation
        if not self._snapshot:
            self._database.run(f"CREATE TABLE {SNAPSHOT} AS SELECT * FROM {self._reader.relation}")
            self._database.run("USE memory")
            self._database.run("DETACH source")
            self._snapshot = True
        return SNAPSHOT


def _reader(source: str | Mapping[str, str], base: Path, database: Database) -> Reader:
    if isinstance(source, str):
        path = base / source
        form = format_of(path)
        database.what = path.name
        return csv_reader(path) if form == "csv" else parquet_reader(path, database)
    for key in source:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"a source knows no key {key!r}{hint}",
                remedy='write { duckdb = "file", query = "SELECT …" }, or the name of a file',
            )
    if set(source) != set(KEYS):
        raise ConfigError(
            "a database source needs duckdb and query", remedy='write { duckdb = "file", query = "SELECT …" }'
        )
    path = base / source["duckdb"]
    database.what = f"the query on {path.name}"
    return duckdb_reader(path, source["query"], database)


def _check_columns(schema: IdSchema, columns: Mapping[str, str], reader: Reader, what: str) -> None:
    for column, kind in zip(schema.columns, schema.each, strict=True):
        if column not in columns:
            # never the list of names: a file without a header would show its first row
            folded = {name.casefold(): name for name in columns}
            near = difflib.get_close_matches(column.casefold(), list(folded), 1, 0.6)
            hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
            header = ", and the first line of CSV must name its columns" if reader.format == "csv" else ""
            raise DataError(
                f"{what} has no column {column!r}{hint}",
                remedy=f"correct columns under ids; names count letter by letter{header}",
            )
        declared = columns[column]
        text = declared == "VARCHAR" or declared.startswith("ENUM(")
        number = is_number(declared) and kind != "email"
        if not (text or number or (declared in {"DATE", "UUID"} and kind == "text")):
            raise DataError(
                f"column {column!r} of {what} has type {declared}, which cannot be an id of kind {kind}",
                remedy="store the column as text, or convert it in a query",
            )


def _netstring(column: str) -> str:
    text = f"CAST({quoted(column)} AS VARCHAR)"
    return f"coalesce(strlen({text}) || ':' || {text}, '-')"
