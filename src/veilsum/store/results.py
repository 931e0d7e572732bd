"""Write an alignment at its owner: the rows' places, and the owner's own rows that stand there."""
# ruff: noqa: S608 -- statements are built from fixed words, literals and quoted column names

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from veilsum.data.alignment import FILE, POSITION, ROW
from veilsum.data.phones import literal
from veilsum.errors import DataError
from veilsum.store.database import database_errors
from veilsum.store.files import full_or_broken, sync_folder
from veilsum.store.readers import quoted
from veilsum.store.sources import Source

PARQUET = "FORMAT parquet, COMPRESSION zstd"
CSV = "FORMAT csv, HEADER"
PLACES = "memory.main.places"

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Row numbers of a source and their places, (n,) int64 each."""


class Written(NamedTuple):
    """The files of one party's alignment; all 0600."""

    alignment: Path
    matched_parquet: Path
    matched_csv: Path


def write_alignment(source: Source, pairs: Iterable[Pairs], folder: Path) -> Written:
    """Write the places of one's rows, and the rows that stand there.

    ``alignment.parquet``, ``matched.parquet`` and ``matched.csv`` are in the common order; each appears
    whole or not at all. Columns of CSV sources stay text. Nothing is held in memory beyond the source's own
    limit, however many rows match.

    Args:
        source: whose rows are meant.
        pairs: batches of row numbers of the source and their places in the common order, (n,) int64 each.
        folder: made if it does not exist.

    Raises:
        DataError: the source no longer has all these rows.
        StoreError: the disk is full.
    """
    relation, number = source.numbered()
    stage = _stage(folder)
    cursor = source.cursor()
    try:
        count = _load(cursor, pairs, source.what)
        matched = (
            f"SELECT s.* EXCLUDE ({quoted(number)}) FROM {relation} s "
            f"JOIN {PLACES} p ON s.{quoted(number)} = p.{quoted(ROW)} ORDER BY p.{POSITION}"
        )
        statements = {
            FILE: (f"SELECT * FROM {PLACES} ORDER BY {POSITION}", PARQUET),
            "matched.parquet": (matched, PARQUET),
            "matched.csv": (f"FROM read_parquet({literal(str(stage / 'matched.parquet'))})", CSV),
        }
        for name, (query, options) in statements.items():
            if _copy(cursor, query, stage / name, options, source.what) != count:
                raise DataError(
                    f"{source.what} no longer has all the rows that were aligned",
                    remedy="leave the data as they are while a job runs, then run it again",
                )
        return Written(*(_publish(stage / name, folder) for name in statements))
    finally:
        cursor.execute(f"DROP TABLE IF EXISTS {PLACES}")
        cursor.close()
        shutil.rmtree(stage, ignore_errors=True)


def _load(cursor: Any, pairs: Iterable[Pairs], what: str) -> int:
    """Put all pairs into a table of the source's own database, which spills; return how many."""
    count = 0
    with database_errors(what):
        cursor.execute(f"CREATE OR REPLACE TABLE {PLACES} ({quoted(ROW)} BIGINT, {POSITION} BIGINT)")
        for rows, positions in pairs:
            if rows.shape != positions.shape or rows.dtype != np.int64 or positions.dtype != np.int64:
                raise ValueError("rows and positions are int64 arrays of one length")
            batch = {"r": np.ascontiguousarray(rows), "p": np.ascontiguousarray(positions)}
            cursor.register("batch", batch)
            cursor.execute(f"INSERT INTO {PLACES} SELECT r, p FROM batch")
            cursor.unregister("batch")
            count += len(rows)
    return count


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
