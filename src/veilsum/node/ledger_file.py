"""One SQLite file that must never forget: each use of it is one durable transaction, or no change at all."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from veilsum.errors import StoreError
from veilsum.node.files import private_folder

_WAIT = 5.0  # seconds another process may hold the file


class LedgerFile:
    """A file of mode 0600 in a folder of mode 0700; it is made at the first transaction."""

    def __init__(self, path: Path, schema: Sequence[str], *, name: str, without: str) -> None:
        """Name the file.

        Args:
            path: where it lies.
            schema: the statements that make its tables where they are missing.
            name: what people call it, in errors.
            without: what cannot go on without it, in remedies.
        """
        self.path = path
        self._schema = tuple(schema)
        self._name = name
        self._without = without

    def __repr__(self) -> str:
        return f"LedgerFile({str(self.path)!r})"

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file alone; leave with a durable commit, or with nothing changed.

        Raises:
            StoreError: the file is damaged or held by another process, or its disk is full.
        """
        private_folder(self.path.parent)
        database: sqlite3.Connection | None = None
        try:
            self.path.touch(mode=0o600)
            self.path.chmod(0o600)  # also where it was there with another mode
            database = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            _use_wal(database)
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            for statement in self._schema:
                database.execute(statement)
            yield database
            database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(str(error)) from error
        finally:
            if database is not None:
                database.close()  # rolls back what was not committed

    def check(self) -> None:
        """Check the whole file; one that is not there yet is in order.

        Raises:
            StoreError: it is damaged.
        """
        if not self.path.exists():
            return
        with self.transaction() as database:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            raise self._unusable(verdict)

    def _unusable(self, reason: str) -> StoreError:
        if "locked" in reason:
            return StoreError(
                f"the {self._name} {self.path} is in use by another process",
                remedy="wait for that run to end, or stop it",
            )
        if "full" in reason:
            return StoreError(
                f"the disk of the {self._name} {self.path} is full", remedy="free space and run again"
            )
        return StoreError(
            f"the {self._name} {self.path} cannot be used: {reason}",
            remedy=f"restore it from its backup; without it {self._without}",
        )


def _use_wal(database: sqlite3.Connection) -> None:
    """Turn the write-ahead log on; for this alone SQLite does not wait while others do the same."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
