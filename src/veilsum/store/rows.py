"""The rows of one source: a file or a query, opened read-only, whatever is then read of them."""
# ruff: noqa: S608 -- statements are built from fixed words and quoted column names

import difflib
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from veilsum import jobs
from veilsum.errors import ConfigError
from veilsum.store.database import Database
from veilsum.store.readers import (
    Reader,
    csv_reader,
    duckdb_reader,
    format_of,
    parquet_reader,
    quoted,
    unreadable,
)

KEYS = ("duckdb", "query")
SNAPSHOT = "memory.main.snapshot"


class Rows:
    """One data set's rows; use one thread at a time, and close it.

    Attributes:
        columns: name → type, as the database names types; everything in CSV is text.
    """

    def __init__(self, database: Database, reader: Reader, columns: Mapping[str, str]) -> None:
        self._database = database
        self._reader = reader
        self._snapshot = False
        self.columns: Mapping[str, str] = columns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reader.format}, {len(self.columns)} columns)"

    def close(self) -> None:
        """Give everything back; what was spilled is deleted."""
        self._database.close()

    @property
    def what(self) -> str:
        """The source in words, for errors."""
        return self._database.what

    def _fingerprint(self, salt: bytes, about: Any) -> bytes:
        """Return HMAC-SHA-256 over a file's bytes, or over every value of a query's result (32 bytes).

        Args:
            salt: without it the result says nothing.
            about: what else it depends on.
        """
        mac = hmac.new(salt, digestmod=hashlib.sha256)
        mac.update(jobs.digest("source", [self._reader.format, about]))
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


def reader_of(source: str | Mapping[str, str], base: Path, database: Database) -> Reader:
    """Return how a source is read: a CSV or Parquet file, or ``{"duckdb": file, "query": "SELECT …"}``.

    Raises:
        ConfigError: a file is missing or may not be read, a key is unknown, the query is wrong.
        DataError: the content is not what its name says.
    """
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


def nearest_column(column: str, columns: Mapping[str, str]) -> str:
    """Return a hint: the column whose name looks like this one, or nothing.

    Never the list of names: a file without a header would show its first row.
    """
    folded = {name.casefold(): name for name in columns}
    near = difflib.get_close_matches(column.casefold(), list(folded), 1, 0.6)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _netstring(column: str) -> str:
    text = f"CAST({quoted(column)} AS VARCHAR)"
    return f"coalesce(strlen({text}) || ':' || {text}, '-')"
