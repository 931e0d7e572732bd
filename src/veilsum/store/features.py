"""Numeric columns of a source, for models: read as float64, what is missing as NaN."""
# ruff: noqa: S608 -- statements are built from fixed words and quoted column names

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.errors import BudgetExceeded, DataError
from veilsum.store.database import Database, database_errors
from veilsum.store.id_table import is_number
from veilsum.store.readers import quoted
from veilsum.store.rows import Rows, nearest_column, reader_of

Floats = NDArray[np.float64]


class ColumnReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of a data set are, for its owner's eyes.

    Attributes:
        rows: of the source.
        columns: name → type.
        numeric: name of a column that a model can read → how many of its values are missing.
        other: names of the columns that no model can read as they are.
        warnings: what its owner should look at, each one sentence.
    """

    rows: int
    columns: dict[str, str]
    numeric: dict[str, int]
    other: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def open_features(
    source: str | Mapping[str, str],
    *,
    base: Path,
    spill: Path,
    memory_mb: int = 512,
    threads: int = 2,
) -> "Features":
    """Open a CSV or Parquet file, or ``{"duckdb": file, "query": "SELECT …"}``.

    Args:
        source: relative paths start at ``base``.
        base: folder of the file that names the source.
        spill: folder for what does not fit the memory, in a private subfolder until ``close``.
        memory_mb: MiB that the database may use.
        threads: of the database.

    Raises:
        ConfigError: a file is missing or may not be read, a key is unknown, the query is wrong.
        DataError: the content is not what its name says.
        StoreError: the spill folder cannot be used.
    """
    database = Database(spill, memory_mb=memory_mb, threads=threads)
    try:
        reader = reader_of(source, base, database)
        columns = database.columns(reader.relation)
    except BaseException:
        database.close()
        raise
    return Features(database, reader, columns)


class Features(Rows):
    """One data set's columns of numbers; rows are numbered from 0 in the order of the source."""

    def read(self, names: Sequence[str], *, most: int | None = None) -> dict[str, Floats]:
        """Read columns: whole numbers, fractions and truth values (0 and 1); missing values become NaN.

        Args:
            names: the wanted columns.
            most: the most rows that may be read.

        Returns:
            Name → (rows,) float64.

        Raises:
            DataError: a column is missing, or is no column of numbers.
            BudgetExceeded: there are more rows.
        """
        for name in names:
            self._refuse_type(name)
        rows = self._database.number(f"SELECT count(*) FROM {self._relation()}")
        if most is not None and rows > most:
            raise BudgetExceeded(
                f"{self.what} has {rows} rows; floor.max_rows allows {most}",
                remedy="bring fewer rows; the owner alone can raise floor.max_rows",
            )
        if self._reader.format == "csv":
            self._refuse_text(names)
        wanted = ", ".join(f"{self._value(name)} AS c{at}" for at, name in enumerate(names))
        cursor = self._database.connection.cursor()
        try:
            with database_errors(self.what):
                found: dict[str, Any] = cursor.execute(
                    f"SELECT {wanted} FROM {self._relation()}"
                ).fetchnumpy()
        finally:
            cursor.close()
        arrays = (
            np.ma.filled(np.ma.asarray(found[f"c{at}"], np.float64), np.nan) for at in range(len(names))
        )
        return dict(zip(names, arrays, strict=True))

    def check(self) -> ColumnReport:
        """Read all columns once and say what they are.

        Raises:
            DataError: there are no rows.
            StoreError: disk or memory ran out.
        """
        able = [name for name, kind in self.columns.items() if self._able(kind)]
        counts = ["count(*)"]
        for name in able:
            counts += [
                f"count(*) FILTER ({self._value(name)} IS NULL)",
                f"count(*) FILTER ({self._odd(name)})",
            ]
        (found,) = self._database.run(f"SELECT {', '.join(counts)} FROM {self._relation()}")
        rows, numbers = int(found[0]), found[1:]
        if not rows:
            raise DataError(f"{self.what} has no rows", remedy="export the data again")
        each = zip(able, numbers[::2], numbers[1::2], strict=True)
        numeric = {name: int(missing) for name, missing, odd in each if not odd and missing < rows}
        return ColumnReport(
            rows=rows,
            columns=dict(self.columns),
            numeric=numeric,
            other=tuple(name for name in self.columns if name not in numeric),
            warnings=tuple(
                f"{missing} values of column {name!r} are missing: a job that reads it is refused"
                for name, missing in numeric.items()
                if missing
            ),
        )

    def fingerprint(self, salt: bytes) -> bytes:
        """Return 32 bytes that change with the content, and say nothing without the salt."""
        return self._fingerprint(salt, "features")

    def _able(self, declared: str) -> bool:
        """Tell whether a column may hold numbers."""
        return (
            self._reader.format == "csv"
            or is_number(declared)
            or declared in {"FLOAT", "DOUBLE", "BOOLEAN"}
            or declared.startswith("DECIMAL(")
        )

    def _value(self, name: str) -> str:
        """Return the expression of a column's number; NULL where there is none."""
        column = quoted(name)
        if self._reader.format != "csv":
            return f"CAST({column} AS DOUBLE)"
        text = f"lower(trim({column}))"
        return f"CASE {text} WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE TRY_CAST({text} AS DOUBLE) END"

    def _odd(self, name: str) -> str:
        """Return the condition that a value is there and yet no number."""
        if self._reader.format != "csv":
            return "false"
        return f"{self._value(name)} IS NULL AND trim({quoted(name)}) <> ''"

    def _refuse_type(self, name: str) -> None:
        if name not in self.columns:
            raise DataError(
                f"{self.what} has no column {name!r}{nearest_column(name, self.columns)}",
                remedy="correct features, target or holds in the job, or add the column in a query",
            )
        declared = self.columns[name]
        if not self._able(declared):
            raise DataError(
                f"column {name!r} of {self.what} has type {declared}, which is no number",
                remedy="encode it as numbers, for example with CASE or CAST in a query, or leave it out",
            )

    def _refuse_text(self, names: Sequence[str]) -> None:
        counts = ", ".join(f"count(*) FILTER ({self._odd(name)})" for name in names)
        (found,) = self._database.run(f"SELECT {counts} FROM {self._relation()}")
        for name, odd in zip(names, found, strict=True):
            if odd:
                raise DataError(
                    f"{odd} values of column {name!r} of {self.what} are no numbers",
                    remedy="encode them as numbers, and leave empty what is missing",
                )
