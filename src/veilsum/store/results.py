"""Write an alignment at its owner: the rows' places, and the owner's own rows that stand there."""
# ruff: noqa: S608 -- statements are built from fixed words, literals and quoted column names

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from veilsum.data.alignment import FILE, POSITION, ROW, WEIGHT
from veilsum.data.phones import literal
from veilsum.errors import DataError
from veilsum.store.database import database_errors
from veilsum.store.files import full_or_broken, sync_folder
from veilsum.store.readers import quoted
from veilsum.store.sources import Source

PARQUET = "FORMAT parquet, COMPRESSION zstd"
CSV = "FORMAT csv, HEADER"


class Written(NamedTuple):
    """The files of one party's alignment; all 0600."""

    alignment: Path
    matched_parquet: Path
    matched_csv: Path


def write_alignment(
    source: Source,
    rows: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    folder: Path,
    *,
    weights: npt.NDArray[np.int64] | None = None,
) -> Written:
    """Write the places of one's rows, and the rows that stand there.

    ``alignment.parquet``, ``matched.parquet`` and ``matched.csv`` are in the common order; each appears whole
    or not at all. Columns of CSV sources stay text.

    Args:
        source: whose rows are meant.
        rows: row numbers of the source; shape (n,) int64.
        positions: their places in the common order; shape (n,) int64.
        folder: made if it does not exist.
        weights: of the rows, if the mode has them; shape (n,) int64.

    Raises:
        DataError: the source no longer has all these rows.
        StoreError: the disk is full.
    """
    places = {ROW: rows, POSITION: positions} | ({} if weights is None else {WEIGHT: weights})
    if any(column.shape != (len(rows),) or column.dtype != np.int64 for column in places.values()):
        raise ValueError("rows, positions and weights are int64 arrays of one length")
    relation, number = source.numbered()
    matched = (
        f"SELECT s.* EXCLUDE ({quoted(number)}) FROM {relation} s "
        f"JOIN places p ON s.{quoted(number)} = p.{quoted(ROW)} ORDER BY p.{POSITION}"
    )
    stage = _stage(folder)
    statements = {
        FILE: (f"SELECT * FROM places ORDER BY {POSITION}", PARQUET),
        "matched.parquet": (matched, PARQUET),
        "matched.csv": (f"FROM read_parquet({literal(str(stage / 'matched.parquet'))})", CSV),
    }
    cursor = source.cursor()
    try:
        cursor.register("places", {name: np.ascontiguousarray(column) for name, column in places.items()})
        for name, (query, options) in statements.items():
            if _copy(cursor, query, stage / name, options, source.what) != len(rows):
                raise DataError(
                    f"{source.what} no longer has all the rows that were aligned",
                    remedy="leave the data as they are while a job runs, then run it again",
                )
        return Written(*(_publish(stage / name, folder) for name in statements))
    finally:
        cursor.close()
        shutil.rmtree(stage, ignore_errors=True)


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
