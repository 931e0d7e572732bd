"""The durable memory of one run at one party: what must not be made twice, and how far each stage got.

Small values live in SQLite (WAL, synchronous FULL); outputs over 16 KiB are appended to one file per
stage, made durable first and then entered in the database, so that a crash leaves at most a tail that
nobody refers to. The memory twin obeys the same laws without a disk.
"""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

from veilsum.errors import StoreError
from veilsum.store.files import full_or_broken, sync_folder

_INLINE = 16 * 1024
_BUSY = 1.0  # seconds that another process may take to let a run go
_SCHEMA = """
CREATE TABLE IF NOT EXISTS once (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stage (
    name TEXT NOT NULL, idx INTEGER NOT NULL, start INTEGER, size INTEGER NOT NULL, value BLOB,
    PRIMARY KEY (name, idx)
) WITHOUT ROWID;
"""


class MemoryJournal:
    """A journal without a disk, for runs whose parties are all in one process."""

    def __init__(self) -> None:
        self._once: dict[str, bytes] = {}
        self._stages: dict[str, list[bytes]] = {}
        self._lock = threading.RLock()

    def once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the value under ``key``, made at the first call ever."""
        with self._lock:
            if key not in self._once:
                self._once[key] = bytes(make())
            return self._once[key]

    def done(self, stage: str) -> int:
        """Return how many indices of a stage are committed."""
        return len(self._stages.get(stage, ()))

    def commit(self, stage: str, index: int, output: bytes) -> None:
        """Keep the output of the next index of a stage."""
        with self._lock:
            _check_next(stage, index, self.done(stage))
            self._stages.setdefault(stage, []).append(bytes(output))

    def read(self, stage: str, index: int) -> bytes:
        """Return the committed output of an index."""
        if not 0 <= index < self.done(stage):
            raise _missing(stage, index)
        return self._stages[stage][index]

    def stages(self) -> dict[str, int]:
        """Return how many indices of every stage are committed."""
        return {stage: len(outputs) for stage, outputs in self._stages.items()}

    def forget(self) -> None:
        """Destroy every value and output; what remains is how far the stages got."""
        self._once.clear()
        self._stages = {stage: [b""] * len(outputs) for stage, outputs in self._stages.items()}

    def close(self) -> None:
        """Nothing to let go of."""


class FileJournal:
    """The journal of one run in one folder (0700), usable from any thread, by one process at a time.

    Raises:
        StoreError: the disk is full, the folder cannot be used, or another process holds the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._files: dict[str, BinaryIO] = {}
        with self._guarded():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / "journal.db"
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
            sync_folder(folder)

    def _open(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN IMMEDIATE").execute("COMMIT")  # takes the lock for this process
        rows = self._db.execute("SELECT name, COUNT(*) FROM stage GROUP BY name").fetchall()
        self._done: dict[str, int] = dict(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.close()

    def once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the value under ``key``, made and made durable at the first call ever."""
        with self._guarded():
            row = self._db.execute("SELECT value FROM once WHERE key = ?", (key,)).fetchone()
            if row is None:
                value = bytes(make())
                self._db.execute("INSERT INTO once VALUES (?, ?)", (key, value))
                return value
            return bytes(row[0])

    def done(self, stage: str) -> int:
        """Return how many indices of a stage are committed."""
        return self._done.get(stage, 0)

    def commit(self, stage: str, index: int, output: bytes) -> None:
        """Make the output of the next index of a stage durable."""
        with self._guarded():
            _check_next(stage, index, self.done(stage))
            start, value = None, output
            if len(output) > _INLINE:
                start, value = self._append(stage, output), None  # type: ignore[assignment]
            row = (stage, index, start, len(output), value)
            self._db.execute("INSERT INTO stage VALUES (?, ?, ?, ?, ?)", row)
            self._done[stage] = index + 1

    def read(self, stage: str, index: int) -> bytes:
        """Return the committed output of an index."""
        with self._guarded():
            query = "SELECT start, size, value FROM stage WHERE name = ? AND idx = ?"
            row = self._db.execute(query, (stage, index)).fetchone()
            if row is None:
                raise _missing(stage, index)
            start, size, value = row
            if value is not None:
                return bytes(value)
            data = os.pread(self._file(stage).fileno(), size, start)
            if len(data) != size:
                raise StoreError(
                    f"the journal's file of stage {stage} in {self._folder} is shorter than its entries",
                    remedy="restore the folder from a copy, or begin a new run with --fresh",
                )
            return data

    def stages(self) -> dict[str, int]:
        """Return how many indices of every stage are committed."""
        return dict(self._done)

    def forget(self) -> None:
        """Destroy every value and output, keys among them; what remains is how far the stages got."""
        with self._guarded():
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM once")
            self._db.execute("UPDATE stage SET value = x'', start = NULL, size = 0")
            self._db.execute("COMMIT")
            for file in self._files.values():
                file.close()
            self._files.clear()
            for path in self._folder.glob("*.stage"):
                path.unlink()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let the run go, so that another process can take it up."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
            self._db.close()

    def _append(self, stage: str, output: bytes) -> int:
        file = self._file(stage)
        # behind the last entry, over whatever a crash left there
        query = "SELECT MAX(start + size) FROM stage WHERE name = ? AND start IS NOT NULL"
        start = int(self._db.execute(query, (stage,)).fetchone()[0] or 0)
        view, at = memoryview(output), start
        while view:
            written = os.pwrite(file.fileno(), view, at)
            view, at = view[written:], at + written
        os.fdatasync(file.fileno())
        return start

    def _file(self, stage: str) -> BinaryIO:
        if stage not in self._files:
            # two stages never share a file, whatever they are called
            name = quote(stage, safe=" ")
            path = self._folder / (
                (name if len(name) <= 200 else hashlib.sha256(stage.encode()).hexdigest()) + ".stage"
            )
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._files[stage] = os.fdopen(handle, "r+b")
            sync_folder(self._folder)
        return self._files[stage]

    @contextmanager
    def _guarded(self):  # type: ignore[no-untyped-def]  # noqa: ANN202  a context manager of this class only
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise _explain(error, self._folder) from error
            except sqlite3.ProgrammingError as error:
                raise StoreError(f"the journal in {self._folder} is closed") from error
            except sqlite3.DatabaseError as error:
                raise StoreError(
                    f"the journal in {self._folder} is damaged",
                    remedy="restore the folder from a copy, or begin a new run with --fresh",
                ) from error
            except OSError as error:
                raise full_or_broken(error, self._folder) from error


def _missing(stage: str, index: int) -> StoreError:
    return StoreError(f"the journal holds no output {index} of stage {stage}")


def _explain(error: sqlite3.OperationalError, folder: Path) -> StoreError:
    if "locked" in str(error):
        return StoreError(
            f"another process already works on the run in {folder}",
            remedy="wait for it, or end it, and give the command again",
        )
    if "full" in str(error):
        return StoreError(
            f"the disk under {folder} is full",
            remedy="make room and give the same command again: the run goes on",
        )
    return StoreError(f"the journal in {folder} cannot be used: {error}", remedy="see `veilsum doctor`")


def _check_next(stage: str, index: int, done: int) -> None:
    if index != done:
        raise StoreError(f"stage {stage} commits index {index} where {done} is next")
