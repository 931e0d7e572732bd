"""The ids of one source in normal form, as a table: counted, without repetitions."""
# ruff: noqa: S608 -- statements are built from fixed words, numbers and quoted column names

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from veilsum.data import expressions
from veilsum.data.ids import IdBatch, IdSchema
from veilsum.errors import DataError, StoreError
from veilsum.store.database import Database, database_errors
from veilsum.store.readers import quoted

ROWS_PER_MB: Final = 60_000
"""Ids whose repetitions are found in one pass, per MiB of memory: a hash table that never has to spill."""
SHOWN: Final = 5
IDS: Final = "memory.main.ids"
KEPT: Final = "memory.main.kept"
REPEATED: Final = "memory.main.repeated"
MISSING_WORDS: Final = ("null", "none", "nan", "na", "n/a", "#n/a", "nil", "unknown", "missing", "-", "?")


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set brings into a job; for its owner's eyes (row numbers count from 0).

    Attributes:
        rows: rows of the source.
        ids: different valid ids; they alone enter a job.
        nulls: rows without an id.
        malformed: rows whose id is not what the schema declares; they never match.
        duplicates: rows that repeat the id of an earlier row.
        form: the ids' normal form, as peers see it.
        columns: name → type, as read.
        null_rows: the first few.
        malformed_rows: the first few.
        duplicate_rows: the first few.
        warnings: what looks wrong but is allowed.
    """

    rows: int
    ids: int
    nulls: int
    malformed: int
    duplicates: int
    form: str
    columns: dict[str, str]
    null_rows: tuple[int, ...] = ()
    malformed_rows: tuple[int, ...] = ()
    duplicate_rows: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class IdTable:
    """Row numbers and normal forms of all rows of a relation; built once.

    Table ``ids`` holds one row per row of the source, in its order: the normal form, ``''`` where there is no
    id, NULL where it is malformed. ``kept`` holds the valid ids without repetitions, where there are any.
    """

    def __init__(
        self, database: Database, relation: str, columns: Mapping[str, str], schema: IdSchema
    ) -> None:
        """Read all ids and count them.

        Raises:
            VeilsumError: see :func:`veilsum.store.database.database_errors`.
        """
        self._database = database
        self._relation = relation
        self._columns = columns
        self._schema = schema
        with database_errors(database.what):
            expressions.register_forms(database.connection, schema)
        database.run(f"CREATE TABLE {IDS} AS {expressions.normal_form_query(relation, schema)}")
        self.report = self._describe()

    def stream(self, size: int) -> Iterator[IdBatch]:
        """Yield the different valid ids in the order of their first rows."""
        table, number = (KEPT, "row") if self.report.duplicates else (IDS, "rowid")
        return self._database.stream(f"SELECT {number}, id FROM {table} WHERE id <> ''", size)

    def refuse(self) -> None:
        """Refuse data that cannot enter a job.

        Raises:
            DataError: no rows, no valid id, lost zeros, or repeated ids under ``refuse``.
        """
        report, what = self.report, self._database.what
        if not report.rows:
            raise DataError(f"{what} has no rows", remedy="export the data again")
        self._refuse_lost_zeros()
        named = " + ".join(repr(column) for column in self._schema.columns)
        if not report.ids and report.nulls == report.rows:
            raise DataError(
                f"column {named} of {what} is empty in all {report.rows} rows",
                remedy="name the column that holds the ids",
            )
        if not report.ids:
            raise DataError(
                f"none of the {report.rows} rows of {what} has an id that is {report.form}",
                remedy="correct columns, kind, region or length under ids",
            )
        if report.duplicates and self._schema.duplicates == "refuse":
            rows = ", ".join(map(str, report.duplicate_rows))
            more = ", …" if report.duplicates > len(report.duplicate_rows) else ""
            raise DataError(
                f"{report.duplicates} rows of {what} repeat the id of an earlier row "
                f"(from 0: rows {rows}{more})",
                remedy='remove them, or write duplicates = "first" under ids to use the first row of each id',
            )

    def _describe(self) -> DataReport:
        rows, last, nulls, malformed = self._database.run(
            f"SELECT count(*), max(rowid), count(*) FILTER (id = ''), count(*) FILTER (id IS NULL) FROM {IDS}"
        )[0]
        if rows and last != rows - 1:
            raise StoreError(
                "the database did not number the rows in order", remedy="report this as a defect"
            )
        valid = rows - nulls - malformed
        distinct = sum(
            self._database.number(f"SELECT count(DISTINCT id) FROM {IDS} WHERE {part}")
            for part in self._slices(rows)
        )
        duplicates = valid - distinct
        if duplicates:
            self._drop_repeated(rows)
        return DataReport(
            rows=rows,
            ids=distinct,
            nulls=nulls,
            malformed=malformed,
            duplicates=duplicates,
            form=self._schema.describe(),
            columns=dict(self._columns),
            null_rows=self._first_rows(IDS, "rowid", "id = ''") if nulls else (),
            malformed_rows=self._first_rows(IDS, "rowid", "id IS NULL") if malformed else (),
            duplicate_rows=self._first_rows(REPEATED, "row", "true") if duplicates else (),
            warnings=tuple(self._warnings(malformed)),
        )

    def _first_rows(self, table: str, number: str, condition: str) -> tuple[int, ...]:
        found = self._database.run(
            f"SELECT {number} FROM {table} WHERE {condition} ORDER BY {number} LIMIT {SHOWN}"
        )
        return tuple(int(row[0]) for row in found)

    def _slices(self, rows: int) -> Iterator[str]:
        """Yield conditions that split the valid ids into parts whose hash table fits the memory."""
        parts = rows // (self._database.memory_mb * ROWS_PER_MB) + 1
        for part in range(parts):
            yield "id <> ''" + (f" AND hash(id) % {parts} = {part}" if parts > 1 else "")

    def _drop_repeated(self, rows: int) -> None:
        self._database.run(f"CREATE TABLE {REPEATED} (row BIGINT)")
        for part in self._slices(rows):
            self._database.run(
                f"INSERT INTO {REPEATED} SELECT i.rowid FROM {IDS} i JOIN "
                f"(SELECT id, min(rowid) AS first FROM {IDS} WHERE {part} GROUP BY id HAVING count(*) > 1) d "
                "ON i.id = d.id WHERE i.rowid <> d.first"
            )
        self._database.run(
            f"CREATE TABLE {KEPT} AS SELECT i.rowid AS row, id FROM {IDS} i "
            f"ANTI JOIN {REPEATED} r ON i.rowid = r.row WHERE id <> '' ORDER BY i.rowid"
        )

    def _warnings(self, malformed: int) -> Iterator[str]:
        for column, kind in zip(self._schema.columns, self._schema.each, strict=True):
            declared = self._columns[column]
            if is_number(declared):
                yield f"column {column!r} holds numbers ({declared}): leading zeros, if any, were lost"
            elif kind == "digits" and self._schema.length and malformed and (short := self._shorter(column)):
                yield (
                    f"{short} values of column {column!r} have fewer than {self._schema.length} digits: "
                    "the program that wrote the file may have dropped leading zeros"
                )
        if malformed:
            yield f"{malformed} ids are not {self._schema.describe()} and will not match"
        if self._schema.each == ("text",):
            words = ", ".join(f"'{word}'" for word in MISSING_WORDS)
            found = self._database.number(f"SELECT count(*) FROM {IDS} WHERE lower(id) IN ({words})")
            if found:
                yield f"{found} ids read like a missing value, yet would match the same word elsewhere"

    def _shorter(self, column: str) -> int:
        text = f"trim(CAST({quoted(column)} AS VARCHAR))"
        return self._database.number(
            f"SELECT count(*) FROM {self._relation} WHERE strlen({text}) < {self._schema.length} "
            f"AND regexp_full_match({text}, '[0-9]+')"
        )

    def _refuse_lost_zeros(self) -> None:
        length = self._schema.length
        for column, kind in zip(self._schema.columns, self._schema.each, strict=True):
            declared = self._columns[column]
            if length and kind == "digits" and is_number(declared) and (short := self._shorter(column)):
                raise DataError(
                    f"column {column!r} of {self._database.what} was stored as numbers ({declared}): {short} "
                    f"ids have fewer than the declared {length} digits, their leading zeros were lost",
                    remedy="store the column as text; only if you are sure, pad it yourself in a query: "
                    f"lpad({column}::VARCHAR, {length}, '0')",
                )


def is_number(declared: str) -> bool:
    """Tell whether a column's type holds whole numbers."""
    return declared.removeprefix("U") in {
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
    } or (declared.startswith("DECIMAL(") and declared.endswith(",0)"))
