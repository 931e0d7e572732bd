"""Write results at their owner: an alignment with the own rows that stand in it, or columns of a table."""
# ruff: noqa: S608 -- statements are built from fixed words, literals and quoted column names

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from veilsum.data.alignment import FILE, NO_ROW, POSITION, RANDOM_ID, ROW, WEIGHT, Places
from veilsum.data.phones import literal
from veilsum.errors import DataError
from veilsum.store.database import database_errors
from veilsum.store.files import full_or_broken, sync_folder
from veilsum.store.readers import quoted
from veilsum.store.sources import Source

PARQUET = "FORMAT parquet, COMPRESSION zstd"
CSV = "FORMAT csv, HEADER"
PLACES = "memory.main.places"
I8 = np.dtype(np.int64)


class Written(NamedTuple):
    """The files of one party's alignment; all 0600."""

    alignment: Path
    rows_parquet: Path
    rows_csv: Path


def write_alignment(
    source: Source, places: Iterable[Places], folder: Path, *, held: str = "matched"
) -> Written:
    """Write an alignment, and the own rows that stand in it.

    ``alignment.parquet`` and the two files with rows are in the common order; each appears
    whole or not at all. Columns of CSV sources stay text. Nothing is held in memory beyond the source's own
    limit, however many rows match.

    Args:
        source: whose rows are meant.
        places: the alignment's lines, batch by batch, in any order.
        folder: made if it does not exist.
        held: name of the two files with the own rows, which end in ``.parquet`` and ``.csv``.

    Raises:
        DataError: the source no longer has all these rows.
        StoreError: the disk is full.
    """
    relation, number = source.numbered()
    stage = _stage(folder)
    cursor = source.cursor()
    try:
        count, own = _load(cursor, places, source.what)
        rows = (
            f"SELECT s.* EXCLUDE ({quoted(number)}) FROM {relation} s "
            f"JOIN {PLACES} p ON s.{quoted(number)} = p.{quoted(ROW)} ORDER BY p.{POSITION}"
        )
        statements = {
            FILE: (f"SELECT * FROM {PLACES} ORDER BY {POSITION}", PARQUET, count),
            f"{held}.parquet": (rows, PARQUET, own),
            f"{held}.csv": (f"FROM read_parquet({literal(str(stage / held) + '.parquet')})", CSV, own),
        }
        for name, (query, options, due) in statements.items():
            if _copy(cursor, query, stage / name, options, source.what) != due:
                raise DataError(
                    f"{source.what} no longer has all the rows that were aligned",
                    remedy="leave the data as they are while a job runs, then run it again",
                )
        return Written(*(_publish(stage / name, folder) for name in statements))
    finally:
        cursor.execute(f"DROP TABLE IF EXISTS {PLACES}")
        cursor.close()
        shutil.rmtree(stage, ignore_errors=True)


def write_columns(columns: Mapping[str, npt.NDArray[Any]], folder: Path, name: str) -> tuple[Path, Path]:
    """Write a table that fits the memory as Parquet and CSV; both 0600, each whole or not at all.

    Args:
        columns: name → (rows,) int64, float64, or objects that are texts.
        folder: made if it does not exist.
        name: of the files, which end in ``.parquet`` and ``.csv``.

    Raises:
        StoreError: the disk is full.
    """
    import duckdb

    arrays, values = {}, []
    for at, (title, column) in enumerate(columns.items()):
        value, array = f"c{at}", column
        if column.dtype == object:  # texts go as places in a list of the different ones
            different, array = np.unique(column.astype(str), return_inverse=True)
            value = f"[{', '.join(literal(str(text)) for text in different)}][c{at} + 1]"
        arrays[f"c{at}"] = np.ascontiguousarray(array)
        values.append(f"{value} AS {quoted(title)}")
    stage = _stage(folder)
    try:
        with duckdb.connect() as database:
            database.register("columns", arrays)
            query = f"SELECT {', '.join(values)} FROM columns"
            for ending, options in ((".parquet", PARQUET), (".csv", CSV)):
                _copy(database, query, stage / f"{name}{ending}", options, "the result")
        parquet, text = (_publish(stage / f"{name}{ending}", folder) for ending in (".parquet", ".csv"))
        return parquet, text
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _load(cursor: Any, places: Iterable[Places], what: str) -> tuple[int, int]:
    """Put all lines into a table of the source's database, which spills; count them, and the own rows."""
    count, own, made = 0, 0, False
    with database_errors(what):
        cursor.execute(f"DROP TABLE IF EXISTS {PLACES}")
        for batch in places:
            values, arrays = _columns(batch)
            cursor.register("batch", arrays)
            verb = f"INSERT INTO {PLACES}" if made else f"CREATE TABLE {PLACES} AS"
            made = True
            cursor.execute(f"{verb} SELECT {values} FROM batch")
            cursor.unregister("batch")
            count += len(batch.rows)
            own += int(np.count_nonzero(batch.rows != NO_ROW))
        if not made:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {PLACES} ({quoted(ROW)} BIGINT, {POSITION} BIGINT)")
    return count, own


def _columns(batch: Places) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """Return what selects a batch's columns from its arrays, and the arrays."""
    if batch.rows.shape != batch.positions.shape or {batch.rows.dtype, batch.positions.dtype} != {I8}:
        raise ValueError("rows and positions are int64 arrays of one length")
    arrays = {"r": np.ascontiguousarray(batch.rows), "p": np.ascontiguousarray(batch.positions)}
    values = [f"nullif(r, {NO_ROW}) AS {quoted(ROW)}", f"p AS {POSITION}"]
    if batch.ids is not None:
        words = np.ascontiguousarray(batch.ids).view(">u8").astype(np.uint64)
        arrays |= {"high": np.ascontiguousarray(words[:, 0]), "low": np.ascontiguousarray(words[:, 1])}
        values.append(f"format('{{:016x}}{{:016x}}', high, low) AS {RANDOM_ID}")
    if batch.weights is not None:
        arrays["w"] = np.ascontiguousarray(batch.weights)
        values.append(f"w AS {WEIGHT}")
    return ", ".join(values), arrays


def _copy(cursor: Any, query: str, path: Path, options: str, what: str) -> int:
    with database_errors(what):
        written = cursor.execute(f"COPY ({query}) TO {literal(str(path))} ({options}, USE_TMP_FILE false)")
        return int(written.fetchone()[0])


def _stage(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    except OSError as error:
        raise full_or_broken(error, folder) from error


def _publish(path: Path, folder: Path) -> Path:
    """Make a finished file durable, then visible under its name."""
    target = folder / path.name
    try:
        path.chmod(0o600)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        path.replace(target)
        sync_folder(folder)
    except OSError as error:
        raise full_or_broken(error, target) from error
    return target
