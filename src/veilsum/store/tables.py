"""Tables of fixed-width records larger than memory: partitioned by the leading bits of a pseudorandom key.

A record begins with its key. Equal bits of keys that nobody chose spread the records evenly, so one partition
at a time fits the memory, whatever the number of records; partitions in order, each sorted, are the whole
table in order. Nothing here is resumable: what must outlast a process belongs in the journal.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from veilsum.errors import ProtocolError, StoreError
from veilsum.store.files import full_or_broken

Records = npt.NDArray[np.uint8]
"""Shape (n, width) uint8."""

SORT_COST: Final = 4
"""A partition being sorted weighs this many times its records: read, keys, order, sorted copy."""
MOST_BITS: Final = 16
UNEVEN: Final = 4
"""No honest pseudorandom partition is this many times the average (beyond a constant)."""
SMALL: Final = 4096


def partition_bits(size: int, budget: int) -> int:
    """Return by how many leading key bits ``size`` bytes are split into parts that fit the budget."""
    bits = 0
    while size > budget << bits and bits < MOST_BITS:
        bits += 1
    return bits


class Partitions:
    """Records appended in any order, read back sorted; small tables never touch the disk."""

    def __init__(
        self,
        folder: Path,
        width: int,
        *,
        expected: int,
        budget: int,
        key: int = 8,
        bits: int | None = None,
    ) -> None:
        """Begin an empty table.

        Args:
            folder: the table makes a private subfolder in it, where files are 0600.
            width: bytes of a record.
            expected: how many records will come, at most.
            budget: bytes of memory that the table may use.
            key: leading bytes of a record that are its key.
            bits: partition by this many leading bits instead of as many as the budget asks for.

        Raises:
            StoreError: the folder cannot be used.
        """
        if not 0 < key <= width:
            raise ValueError(f"a key of {key} bytes in records of {width}")
        self.width = width
        self.key = key
        self.bits = partition_bits(SORT_COST * expected * width, budget) if bits is None else bits
        if self.bits > min(MOST_BITS, 8 * key):
            raise ValueError(f"{self.bits} bits of a key of {key} bytes")
        self.counts = np.zeros(1 << self.bits, np.int64)  # of records on disk, per partition
        self._limit = max(budget // SORT_COST, width)
        self._pending: list[Records] = []
        self._held = 0
        self._folder = _private_folder(folder) if self.bits else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self.counts.sum()) + self._held // self.width

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} records of {self.width} bytes)"

    def append(self, records: Records) -> None:
        """Add records, shape (n, width) uint8; they are copied.

        Raises:
            StoreError: the disk is full.
        """
        if records.ndim != 2 or records.shape[1] != self.width or records.dtype != np.uint8:
            raise ValueError(f"records of shape {records.shape} {records.dtype}, not (n, {self.width}) uint8")
        if len(records):
            self._pending.append(records.copy())
            self._held += records.nbytes
        if self._folder is not None and self._held >= self._limit:
            self.flush()

    def partition(self, index: int) -> Records:
        """Return one partition's records, in any order.

        Raises:
            ProtocolError: it is so large that its keys cannot be pseudorandom.
        """
        self.flush()
        if self._folder is None:
            return self._gathered()
        mean = int(self.counts.sum()) >> self.bits
        if self.counts[index] > UNEVEN * mean + SMALL:
            raise ProtocolError(
                f"{self.counts[index]} of {len(self)} keys begin with the same {self.bits} bits",
                remedy="the party that sent them did not follow the protocol",
            )
        path = self._folder / f"{index:05d}"
        if not self.counts[index]:
            return np.zeros((0, self.width), np.uint8)
        try:
            found = np.fromfile(path, np.uint8)
        except OSError as error:
            raise full_or_broken(error, path) from error
        if found.size != self.counts[index] * self.width:
            raise StoreError(f"{path} was changed", remedy="leave the run's folder alone, then run again")
        return found.reshape(-1, self.width)

    def sorted_partitions(self) -> Iterator[Records]:
        """Yield all records in the order of their bytes, a partition at a time (n, width) uint8."""
        for index in range(len(self.counts)):
            records = self.partition(index)
            yield records[order(records)]

    def close(self) -> None:
        """Delete everything."""
        self._pending, self._held = [], 0
        if self._folder is None or not self._folder.exists():
            return
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    def _gathered(self) -> Records:
        """Return what is pending as one array, which stays pending."""
        if not self._pending:
            return np.zeros((0, self.width), np.uint8)
        if len(self._pending) > 1:
            self._pending = [np.concatenate(self._pending)]
        return self._pending[0]

    def flush(self) -> None:
        """Write what is pending to its partitions' files, so that ``counts`` is final.

        Raises:
            StoreError: the disk is full.
        """
        if self._folder is None or not self._pending:
            return
        records = self._gathered()
        self._pending, self._held = [], 0
        leading = records[:, 0].astype(np.uint16) << 8
        if self.key > 1:
            leading |= records[:, 1]
        parts = leading >> (16 - self.bits)
        by_part = np.argsort(parts, kind="stable")  # a radix sort for 16-bit numbers
        counts = np.bincount(parts, minlength=len(self.counts))
        ends = np.cumsum(counts)
        for index in np.flatnonzero(counts).tolist():
            _append(
                self._folder / f"{index:05d}", records[by_part[ends[index] - counts[index] : ends[index]]]
            )
        self.counts += counts


class Shuffled:
    """A secret shuffle: records come back in the order of random numbers drawn by the caller."""

    def __init__(self, folder: Path, width: int, *, expected: int, budget: int) -> None:
        """Begin an empty shuffle of records of ``width`` bytes; see :class:`Partitions`."""
        self.width = width
        self._partitions = Partitions(folder, width + 8, expected=expected, budget=budget)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._partitions)

    def __repr__(self) -> str:
        return f"Shuffled({len(self)} records of {self.width} bytes)"

    def append(self, records: Records, keys: npt.NDArray[np.uint64]) -> None:
        """Add records (n, width) uint8 with independent uniform secret numbers (n,) uint64.

        Raises:
            StoreError: the disk is full.
        """
        if keys.shape != records.shape[:1] or keys.dtype != np.uint64:
            raise ValueError(f"{keys.dtype} keys of shape {keys.shape} for records of shape {records.shape}")
        joined = np.empty((len(records), self.width + 8), np.uint8)
        joined[:, :8] = big_endian(keys)
        joined[:, 8:] = records
        self._partitions.append(joined)

    def chunks(self, size: int, *, start: int = 0) -> Iterator[Records]:
        """Yield the records in the order of their numbers, ``size`` at a time, the last chunk shorter.

        Args:
            size: records of a chunk.
            start: index of the first chunk wanted; earlier ones are skipped without being read.
        """
        held: list[Records] = []
        count = 0
        skip = start * size
        self._partitions.flush()
        for index in range(len(self._partitions.counts)):
            records = self._next(index, skip)
            skip = max(0, skip - self._length(index))
            while count + len(records) >= size:
                cut = size - count
                yield np.concatenate([*held, records[:cut]])
                held, count, records = [], 0, records[cut:]
            if len(records):
                held.append(records)
                count += len(records)
        if count:
            yield np.concatenate(held)

    def close(self) -> None:
        """Delete everything."""
        self._partitions.close()

    def _length(self, index: int) -> int:
        table = self._partitions
        return int(table.counts[index]) if table.bits else len(table)

    def _next(self, index: int, skip: int) -> Records:
        if skip >= self._length(index):
            return np.zeros((0, self.width), np.uint8)
        records = self._partitions.partition(index)
        return records[order(records)[skip:], 8:]


def repeats(table: Partitions) -> bool:
    """Tell whether any record of a table comes more than once."""
    return any((records[1:] == records[:-1]).all(axis=1).any() for records in table.sorted_partitions())


def order(records: Records) -> npt.NDArray[np.int64]:
    """Return the indices that sort records (n, width ≥ 8) by their bytes."""
    words = leading_words(records)
    first = np.argsort(words)
    words = words[first]
    ties = words[1:] == words[:-1]
    at = np.flatnonzero(ties)
    if not (records[first[at], 8:] != records[first[at + 1], 8:]).any():
        return first
    # equal leading words: put each run of them in the order of the remaining bytes
    run = np.concatenate([[False], ties]) | np.concatenate([ties, [False]])
    tied = first[run]
    rest = records[tied, 8:]
    keys = [rest[:, column] for column in range(rest.shape[1] - 1, -1, -1)]
    first[run] = tied[np.lexsort([*keys, words[run]])]
    return first


def leading_words(records: Records) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each record as a number that sorts alike, (n,) uint64."""
    return np.ascontiguousarray(records[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def big_endian(numbers: npt.NDArray[np.uint64]) -> Records:
    """Return numbers (n,) uint64 as bytes (n, 8) uint8 that sort alike."""
    return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)


def _append(path: Path, records: Records) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(records.data)
    except OSError as error:
        raise full_or_broken(error, path) from error


def _private_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="table-", dir=folder))
    except OSError as error:
        raise full_or_broken(error, folder) from error
