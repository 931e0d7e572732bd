"""Where a party's rows come from: opened read-only, read out of core, ids in normal form."""
# ruff: noqa: S608 -- statements are built from fixed words and quoted column names

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from veilsum.data.ids import IdBatch, IdSchema
from veilsum.errors import DataError
from veilsum.store.database import Database
from veilsum.store.id_table import DataReport, IdTable, is_number
from veilsum.store.readers import Reader, unused
from veilsum.store.rows import Rows, nearest_column, reader_of

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
        reader = reader_of(source, base, database)
        columns = database.columns(reader.relation)
        _check_columns(schema, columns, reader, database.what)
    except BaseException:
        database.close()
        raise
    return Source(database, reader, columns, schema)


class Source(Rows):
    """One data set's rows, numbered from 0, and their ids; use one thread at a time, and close it."""

    def __init__(
        self, database: Database, reader: Reader, columns: Mapping[str, str], schema: IdSchema
    ) -> None:
        super().__init__(database, reader, columns)
        self._table: IdTable | None = None
        self.schema = schema

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
        return self._fingerprint(salt, msgspec.to_builtins(self.schema))

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

    def _ids(self) -> IdTable:
        if self._table is None:
            self._table = IdTable(self._database, self._relation(), self.columns, self.schema)
        return self._table


def _check_columns(schema: IdSchema, columns: Mapping[str, str], reader: Reader, what: str) -> None:
    for column, kind in zip(schema.columns, schema.each, strict=True):
        if column not in columns:
            hint = nearest_column(column, columns)
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
