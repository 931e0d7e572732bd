"""The database in which rows are read: in memory, spilling to a private folder, never to the network."""
# ruff: noqa: S608 -- statements are built from relations with quoted names

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from veilsum.data import arrow
from veilsum.data.ids import IdBatch
from veilsum.errors import ConfigError, DataError, StoreError, VeilsumError
from veilsum.store.files import full_or_broken

LEAST_MEMORY_MB: Final = 64
DISK_FULL: Final = ("No space left", "max_temp_directory_size")


class Database:
    """A DuckDB of its own for one source; tables live in its catalog ``memory``.

    Attributes:
        memory_mb: MiB it may use.
        what: the source in words, for errors.
    """

    def __init__(self, spill: Path, *, memory_mb: int, threads: int) -> None:
        """Open it with a private subfolder of ``spill`` for what does not fit the memory.

        Raises:
            ConfigError: too little memory.
            StoreError: the folder cannot be used.
        """
        import duckdb

        if memory_mb < LEAST_MEMORY_MB or threads < 1:
            raise ConfigError(
                f"{memory_mb} MiB and {threads} threads are too little to read data",
                remedy=f"allow at least {LEAST_MEMORY_MB} MiB and one thread",
            )
        self.memory_mb = memory_mb
        self.what = "the database"
        self._folder = _private_folder(spill)
        with database_errors(self.what):
            self.connection: Any = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": f"{memory_mb}MiB",
                    "temp_directory": str(self._folder / "spill"),
                    "threads": threads,
                    "arrow_large_buffer_size": "true",
                    "preserve_insertion_order": "true",
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                },
            )

    def close(self) -> None:
        """Give everything back; what was spilled is deleted."""
        self.connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Raises:
            VeilsumError: see :func:`database_errors`.
        """
        with database_errors(self.what):
            rows: list[tuple[Any, ...]] = self.connection.execute(statement).fetchall()
        return rows

    def number(self, statement: str) -> int:
        """Run one statement that gives one number; null is 0."""
        return int(self.run(statement)[0][0] or 0)

    def columns(self, relation: str) -> dict[str, str]:
        """Return the names and types of a relation's columns."""
        described = self.run(f"DESCRIBE SELECT * FROM {relation}")
        return {str(row[0]): str(row[1]) for row in described}

    def stream(self, query: str, size: int) -> Iterator[IdBatch]:
        """Yield the rows of a query of (int64, text), in order, ``size`` at a time.

        Raises:
            VeilsumError: see :func:`database_errors`.
        """
        if size < 1:
            raise ConfigError(f"a batch of {size} rows is none", remedy="ask for one row or more")
        cursor = self.connection.cursor()  # its own: another query on the connection would end the stream
        try:
            with database_errors(self.what):
                yield from _rebatch(arrow.read_chunks(cursor.sql(query)), size)
        finally:
            cursor.close()


@contextmanager
def database_errors(what: str) -> Iterator[None]:
    """Turn the database's errors into ours, without the values they quote.

    Raises:
        StoreError: disk or memory ran out.
        ConfigError: the query is wrong.
        DataError: the content is.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _named(type(error).__name__, str(error), what) from None


def _named(kind: str, text: str, what: str) -> VeilsumError:
    """Name an error; of the database's words only those about the query and the line number are kept."""
    if any(sign in text for sign in DISK_FULL):
        return StoreError(f"the disk is full while working on {what}", remedy="make room, then run again")
    if kind == "OutOfMemoryException":
        return StoreError(f"{what} does not fit the memory", remedy="allow more memory, or fewer threads")
    if kind in {"ParserException", "BinderException", "CatalogException"}:
        return ConfigError(f"{what} is wrong: {text.splitlines()[0]}", remedy="correct the query")
    return _content_error(kind, text, what)


def _content_error(kind: str, text: str, what: str) -> DataError:
    if "lock" in text and kind == "IOException":
        problem, remedy = "is open for writing in another program", "close that program, or use a copy"
    elif "unicode" in text or "utf-8 encoded" in text:
        problem, remedy = f"is not text in UTF-8{_line(text)}", "export it in UTF-8"
    elif "CSV" in text:
        problem = f"is not well-formed CSV{_line(text)}: quotes, line ends or the number of fields"
        remedy = "correct that line, or export the file again"
    elif kind in {"ConversionException", "OutOfRangeException"}:
        problem, remedy = "holds a value that cannot be converted as asked", "use TRY_CAST in the query"
    else:
        problem = f"cannot be read: it is damaged, or of a version not supported ({kind})"
        remedy = "copy or export it again"
    return DataError(f"{what} {problem}", remedy=remedy)


def _line(text: str) -> str:
    found = re.search(r"on Line: (\d+)", text)
    return f" at line {found[1]}" if found else ""


def _rebatch(chunks: Iterator[arrow.Chunk], size: int) -> Iterator[IdBatch]:
    """Cut chunks of any size into batches of exactly ``size`` rows, but for the last."""
    pieces: list[arrow.Chunk] = []
    held = 0
    for rows, data, offsets in chunks:
        start = 0
        while held + len(rows) - start >= size:
            end = start + size - held
            pieces.append(_piece(rows, data, offsets, start, end))
            yield _merged(pieces)
            pieces, held, start = [], 0, end
        if start < len(rows):
            pieces.append(_piece(rows, data, offsets, start, len(rows)))
            held += len(rows) - start
    if held:
        yield _merged(pieces)


def _piece(rows: Any, data: bytes, offsets: Any, start: int, end: int) -> arrow.Chunk:
    cut = offsets[start : end + 1]
    return rows[start:end], data[cut[0] : cut[-1]], cut - cut[0]


def _merged(pieces: list[arrow.Chunk]) -> IdBatch:
    lengths = [np.diff(offsets) for _, _, offsets in pieces]
    offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return IdBatch(np.concatenate([p[0] for p in pieces]), b"".join(p[1] for p in pieces), offsets)


def _private_folder(spill: Path) -> Path:
    try:
        spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(spill)
        return Path(tempfile.mkdtemp(prefix=f"rows-{os.getpid()}-", dir=spill))
    except OSError as error:
        raise full_or_broken(error, spill) from None


def _remove_abandoned(spill: Path) -> None:
    """Delete the ids that processes left behind which were killed."""
    for folder in spill.glob("rows-*-*"):
        owner = folder.name.split("-")[1]
        if not owner.isdigit() or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
