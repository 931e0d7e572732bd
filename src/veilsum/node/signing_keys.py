"""What a signer of blind signatures must remember beyond one run: keys, signatures given, its own tags.

A key that serves several runs on a data set is made once. Signatures are counted for every key and peer
over the whole life of the key, before they are given, against the owner's ``floor.max_signatures``. And
the tags of the signer's own ids under a key are kept, so that a later run signs only ids that are new.

The tags are pseudorandom and too many for an ordinary index: 8192 of them touch as many pages. So they
are first written one after another (``staged``), and from time to time sorted into ``tag``. There the
first eight bytes of a digest are the row's number, which SQLite finds several times as fast as bytes.
"""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import BudgetExceeded
from veilsum.node.ledger_file import LedgerFile
from veilsum.parties import PartyId, RunId

_WIDTH: Final = 32  # bytes of a key id, of a digest and of a tag
_STAGED: Final = 1 << 18  # tags (16 MiB) that wait before they are sorted in together
_AT_ONCE: Final = 1 << 14  # tags as Python objects
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS key (
        data_set TEXT NOT NULL, bits INTEGER NOT NULL, primes INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (data_set, bits, primes)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS given (
        key BLOB NOT NULL, peer TEXT NOT NULL, run TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (key, peer, run)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS staged (number INTEGER PRIMARY KEY, records BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS tag (place INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT",
)

Rows = NDArray[np.uint8]


class SigningKeys:
    """The memory in one SQLite file, for one run on one data set with one peer; usable from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        data_set: str,
        peer: PartyId,
        run: RunId,
        limit: int,
        make: Callable[[int, int], bytes],
        enter: Callable[[int], None] | None = None,
    ) -> None:
        """Name the file; it is made at its first use.

        Args:
            path: where it lies, in a folder of mode 0700.
            data_set: whose ids are signed and tagged.
            peer: who is given signatures.
            run: in which they are given.
            limit: the most that ``peer`` is given under one key over all runs.
            make: a key's modulus in bits and how many primes it has → a new key, in bytes.
            enter: enters how many signatures the run gives in a further account, when they are within the
                limit and before they are counted here; what it raises refuses them.
        """
        self._file = _ledger(path)
        self._data_set = data_set
        self._peer = peer
        self._run = run
        self._limit = limit
        self._make = make
        self._enter = enter
        self._lock = threading.Lock()
        self._looked = False
        self._forget()

    def __repr__(self) -> str:
        return f"SigningKeys({self._data_set!r}, peer {self._peer}, run {self._run})"

    def _forget(self) -> None:
        self._staged: list[Rows] = []  # what this object has staged since it last sorted in
        self._taken = np.zeros(0, np.int64)  # the places of these, sorted

    def reusable(self, bits: int, primes: int) -> bytes:
        """Return the data set's durable key of these sizes, made at the first call ever.

        Raises:
            StoreError: the file cannot be used.
        """
        name = (self._data_set, bits, primes)
        with self._file.transaction() as database:  # held while the key is made: there must be one
            query = "SELECT value FROM key WHERE data_set = ? AND bits = ? AND primes = ?"
            row = database.execute(query, name).fetchone()
            if row is not None:
                return bytes(row[0])
            value = bytes(self._make(bits, primes))
            database.execute("INSERT INTO key VALUES (?, ?, ?, ?)", (*name, value))
        return value

    def allow(self, key: bytes, count: int) -> None:
        """Enter that this run gives its peer signatures, durably; call it before the first is given.

        A second call for the same run (a resumed run) adds nothing, except where it asks for more.

        Args:
            key: the key's id, 32 bytes.
            count: how many signatures the run gives under it, in all.

        Raises:
            BudgetExceeded: with those of earlier runs they pass the limit; nothing is entered then.
            StoreError: the file cannot be used.
        """
        _check_key(key)
        if count < 0:
            raise ValueError(f"{count} signatures cannot be given")
        with self._file.transaction() as database:
            query = "SELECT run, count FROM given WHERE key = ? AND peer = ?"
            given = dict(database.execute(query, (key, self._peer)).fetchall())
            count = max(count, given.pop(self._run, 0))
            earlier = sum(given.values())
            if earlier + count > self._limit:
                raise self._too_many(count, earlier)
            if self._enter is not None:
                self._enter(count)
            database.execute(
                "INSERT INTO given VALUES (?, ?, ?, ?)"
                " ON CONFLICT (key, peer, run) DO UPDATE SET count = excluded.count",
                (key, self._peer, self._run, count),
            )

    def _too_many(self, count: int, earlier: int) -> BudgetExceeded:
        after = f" after {earlier} in earlier runs" if earlier else ""
        remedy = "the owner of the data alone can raise floor.max_signatures"
        if earlier:
            remedy += "; a key of its own for every run is counted from zero"
        return BudgetExceeded(
            f"{self._peer} would be given {count} signatures under one key of {self._data_set!r}{after};"
            f" floor.max_signatures allows {self._limit}",
            remedy=remedy,
            run=self._run,
        )

    def cached(self, key: bytes, digests: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Look up the tags that were kept under a key.

        What another process keeps meanwhile may be missed: its owner then makes the tag again.

        Args:
            key: the key's id, 32 bytes.
            digests: what the tags were kept by, pseudorandom; shape (n, 32) uint8.

        Returns:
            The tags, zeros where there is none, shape (n, 32) uint8; and where there is one, (n,) bool.

        Raises:
            StoreError: the file cannot be used.
        """
        names = _names(key, digests)
        tags = np.zeros(names.shape, np.uint8)
        found = np.zeros(len(names), np.bool_)
        with self._lock:
            with self._file.transaction() as database:
                if not self._looked:
                    _sort_in(database)  # what earlier runs have left
                stored = _select(database, _places(names))
            self._looked = True
            if _any_in(self._taken, _places(names)):
                _match(_by_place(np.concatenate(self._staged)), names, tags, found)
        _match(stored, names, tags, found)  # of two tags for one digest the older is returned
        return tags, found

    def keep(self, key: bytes, digests: Rows, tags: Rows) -> None:
        """Keep tags under a key, durably; a digest that has one already keeps that one.

        Of two different digests with the same first eight bytes only one is kept, which for pseudorandom
        digests does not happen.

        Args:
            key: the key's id, 32 bytes.
            digests: pseudorandom; shape (n, 32) uint8.
            tags: shape (n, 32) uint8.

        Raises:
            StoreError: the file cannot be used.
        """
        names = _names(key, digests)
        _check_rows(tags)
        records = np.concatenate([names, tags], axis=1)
        if not len(records):
            return
        with self._lock:
            full = len(self._taken) + len(records) >= _STAGED
            with self._file.transaction() as database:
                database.execute("INSERT INTO staged (records) VALUES (?)", (records.tobytes(),))
                if full:
                    _sort_in(database)
            if full:
                self._forget()
            else:
                self._staged.append(records)
                self._taken = np.sort(np.concatenate([self._taken, _places(names)]), kind="stable")


def check(path: Path) -> int:
    """Check a party's whole file and return how many keys serve several runs.

    Raises:
        StoreError: it is damaged.
    """
    if not path.exists():
        return 0
    file = _ledger(path)
    file.check()
    with file.transaction() as database:
        return int(database.execute("SELECT COUNT(*) FROM key").fetchone()[0])


def _ledger(path: Path) -> LedgerFile:
    return LedgerFile(path, _SCHEMA, name="file of signing keys", without="no signatures may be given")


def _sort_in(database: sqlite3.Connection) -> None:
    """Move all staged tags to where they are looked up; the older of two for one digest stays."""
    rows = database.execute("SELECT records FROM staged ORDER BY number").fetchall()
    if not rows:
        return
    records = _by_place(_parsed([row[0] for row in rows]))
    for start in range(0, len(records), _AT_ONCE):
        some = records[start : start + _AT_ONCE]
        pairs = zip(_places(some).tolist(), _as_bytes(some), strict=True)
        database.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?)", pairs)
    database.execute("DELETE FROM staged")


def _select(database: sqlite3.Connection, places: NDArray[np.int64]) -> Rows:
    """Return the records at those of the places that are taken, sorted; shape (m, 64) uint8."""
    wanted = "[" + ",".join(map(str, np.sort(places).tolist())) + "]"
    # sorted, and the tables in this order: one walk through the index
    query = "SELECT record FROM json_each(?) CROSS JOIN tag ON place = value"
    return _by_place(_parsed([row[0] for row in database.execute(query, (wanted,))]))


def _match(records: Rows, names: Rows, tags: Rows, found: NDArray[np.bool_]) -> None:
    """Fill in the tags of those names that sorted records hold."""
    if not len(records):
        return
    at = _nearest(_places(records), _places(names))
    same = (records[at, :_WIDTH] == names).all(axis=1)
    tags[same] = records[at[same], _WIDTH:]
    found |= same


def _any_in(places: NDArray[np.int64], wanted: NDArray[np.int64]) -> bool:
    return bool(len(places) and (places[_nearest(places, wanted)] == wanted).any())


def _nearest(places: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each wanted place stands first among sorted places, if it is one of them."""
    return np.minimum(np.searchsorted(places, wanted), len(places) - 1)


def _names(key: bytes, digests: Rows) -> Rows:
    """Return what tags are stored by: the digests, and another for each key; (n, 32) uint8."""
    _check_key(key)
    _check_rows(digests)
    return digests ^ np.frombuffer(key, np.uint8)


def _places(names: Rows) -> NDArray[np.int64]:
    """Return the row numbers of names or of records, (n,)."""
    return np.ascontiguousarray(names[:, :8]).view("<i8")[:, 0].astype(np.int64)


def _by_place(records: Rows) -> Rows:
    return records[np.argsort(_places(records), kind="stable")]


def _parsed(blobs: list[bytes]) -> Rows:
    if any(size % (2 * _WIDTH) for size in set(map(len, blobs))):
        raise sqlite3.DatabaseError("a tag is damaged")
    return np.frombuffer(b"".join(blobs), np.uint8).reshape(-1, 2 * _WIDTH)


def _as_bytes(records: Rows) -> list[bytes]:
    items: list[bytes] = np.ascontiguousarray(records).view(f"V{2 * _WIDTH}")[:, 0].tolist()
    return items


def _check_key(key: bytes) -> None:
    if len(key) != _WIDTH:
        raise ValueError(f"a key id has {_WIDTH} bytes")


def _check_rows(rows: Rows) -> None:
    if rows.ndim != 2 or rows.shape[1] != _WIDTH or rows.dtype != np.uint8:
        raise ValueError(f"digests and tags have shape (n, {_WIDTH}) and dtype uint8")
