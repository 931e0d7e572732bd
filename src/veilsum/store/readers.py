"""How files become relations: CSV as text, Parquet as it is, a query on a DuckDB file."""

import csv
import gzip
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, cast

from veilsum.data.phones import literal
from veilsum.errors import ConfigError, DataError, VeilsumError
from veilsum.store.database import Database, database_errors
from veilsum.store.files import full_or_broken

Format = Literal["csv", "parquet", "duckdb"]

SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
DELIMITERS: Final = ",;\t|"
HEAD: Final = 1 << 16
"""Bytes looked at to tell what a file is."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One source as the database sees it.

    Attributes:
        format: what it is.
        path: its file.
        relation: what stands after FROM; rows in source order.
        numbered: where the file counts its rows itself, the same with that column, which ``number`` names.
    """

    format: Format
    path: Path
    relation: str
    numbered: str = ""
    number: str = ""


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def format_of(path: Path) -> Format:
    """Tell the format from the name.

    Raises:
        ConfigError: the ending is none of ours.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
        if suffixes[-1:] == [".parquet"]:
            suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    if ending in {".duckdb", ".db", ".ddb"}:
        raise ConfigError(
            f"{path.name} is a database: it needs a query",
            remedy=f'write source = {{ duckdb = "{path.name}", query = "SELECT …" }}',
        )
    if ending not in SUFFIXES:
        raise ConfigError(
            f"the ending of {path.name} does not say what it is",
            remedy="use .csv, .tsv, .csv.gz or .parquet, or { duckdb = …, query = … }",
        )
    return SUFFIXES[ending]


def head_and_tail(path: Path) -> tuple[bytes, bytes]:
    """Return the first 64 KiB and the last 4 bytes of a file.

    Raises:
        ConfigError: it is missing or may not be read.
        DataError: it is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, path.stat().st_size - 4))
            tail = file.read(4)
    except OSError as error:
        raise unreadable(path, error) from None
    if not head:
        raise DataError(f"{path} is empty", remedy="export the data again")
    return head, tail


def unreadable(path: Path, error: OSError) -> VeilsumError:
    """Say why a file cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"{path} does not exist", remedy="correct the source of this data set")
    if isinstance(error, PermissionError):
        return ConfigError(
            f"{path} may not be read by this user", remedy="give this user read permission on the file"
        )
    if isinstance(error, IsADirectoryError):
        return ConfigError(f"{path} is a folder", remedy="name one file as the source")
    return full_or_broken(error, path)


def csv_reader(path: Path) -> Reader:
    """Read CSV (RFC 4180; comma, semicolon, tab or bar; UTF-8), every column as text so that zeros survive.

    Raises:
        ConfigError: see :func:`head_and_tail`.
        DataError: it is no text, or its first line does not name columns.
    """
    head, _ = head_and_tail(path)
    if head[:4] in {b"PAR1", b"PK\x03\x04"}:
        kind = "Parquet" if head[:4] == b"PAR1" else "a zip or spreadsheet"
        raise DataError(
            f"{path.name} is not CSV but {kind}", remedy="export it as CSV, or correct its ending"
        )
    names, delimiter = _header(path)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    relation = (
        f"read_csv({literal(str(path))}, auto_detect=false, header=true, delim={literal(delimiter)}, "
        f"quote='\"', escape='\"', nullstr='', columns={{{columns}}})"
    )
    return Reader("csv", path, relation)


def unused(name: str, names: Collection[str]) -> str:
    """Return a column name that none of ``names`` is."""
    taken = {existing.casefold() for existing in names}
    while name in taken:
        name += "_"
    return name


def _header(path: Path) -> tuple[list[str], str]:
    try:
        with _opened(path) as file:
            head = file.read(HEAD)
            while (
                b"\n" not in head
                and b"\r" not in head
                and len(head) < 64 * HEAD
                and (more := file.read(HEAD))
            ):
                head += more
    except (OSError, EOFError) as error:  # a broken gzip file raises both
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        raise DataError(f"{path.name} is not a whole gzip file", remedy="export the data again") from None
    # an incomplete character at the end of the head is no error
    text = io.TextIOWrapper(io.BytesIO(head), encoding="utf-8-sig", errors="replace", newline="").read()
    if "\0" in text or "�" in text.partition("\n")[0]:
        raise DataError(f"{path.name} is not text in UTF-8", remedy="export it as CSV in UTF-8")
    line = re.sub(r'"[^"]*"', "", text.splitlines()[0] if text.strip() else "")
    delimiter = max(DELIMITERS, key=line.count)
    try:
        first = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        first = []
    names = [name.strip() or f"column{index}" for index, name in enumerate(first)]
    if not first:
        raise DataError(
            f"{path.name} does not begin with the names of its columns",
            remedy="put the names in its first line",
        )
    if len({name.casefold() for name in names}) != len(names):
        raise DataError(f"two columns of {path.name} have the same name", remedy="rename one of them")
    return names, delimiter


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def parquet_reader(path: Path, database: Database) -> Reader:
    """Read Parquet with the types it has.

    Raises:
        ConfigError: see :func:`head_and_tail`.
        DataError: it is no Parquet, or cut off.
    """
    head, tail = head_and_tail(path)
    if head[:4] != b"PAR1":
        raise DataError(f"{path.name} is not a Parquet file", remedy="correct its ending, or export it again")
    if tail != b"PAR1":
        raise DataError(f"{path.name} is cut off: its end is missing", remedy="copy or export it again")
    relation = f"read_parquet({literal(str(path))})"
    names = list(database.columns(relation))
    if "file_row_number" in {name.casefold() for name in names}:
        return Reader("parquet", path, relation)
    numbered = f"read_parquet({literal(str(path))}, file_row_number=true)"
    return Reader("parquet", path, relation, numbered, "file_row_number")


def duckdb_reader(path: Path, query: str, database: Database) -> Reader:
    """Attach a DuckDB file read-only; rows are the result of ``query``, sorted by all columns.

    A query has no order of its own; sorted, the same content gives the same row numbers.

    Raises:
        ConfigError: see :func:`head_and_tail`; or the query is not one SELECT.
        DataError: it is no DuckDB file, or locked by a program that writes to it.
    """
    head, _ = head_and_tail(path)
    if head[8:12] != b"DUCK":
        raise DataError(f"{path.name} is not a DuckDB file", remedy="correct the source of this data set")
    with database_errors(path.name):
        database.connection.execute(f"ATTACH {literal(str(path))} AS source (READ_ONLY)")
        database.connection.execute("USE source")
    with database_errors(f"the query on {path.name}"):
        statements = database.connection.extract_statements(query)
    if len(statements) != 1 or str(statements[0].type).rpartition(".")[2] != "SELECT":
        raise ConfigError(f"the query on {path.name} is not one SELECT", remedy="write one SELECT statement")
    with database_errors(f"the query on {path.name}"):
        database.connection.execute(f"CREATE TEMP VIEW veilsum_query AS {statements[0].query}")
    return Reader("duckdb", path, "(SELECT * FROM veilsum_query ORDER BY ALL)")
