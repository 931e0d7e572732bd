"""Where the common tags of several lists stand: one place per position, out of core."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from veilsum.store.files import Scratch
from veilsum.store.tables import Partitions
from veilsum.store.tags import Join

NOWHERE: Final = np.uint32(0xFFFFFFFF)
"""The place of a position whose tag is not in all lists."""


def locate(join: Join, places: "list[Located]") -> None:
    """Give every tag that all lists hold its place in the common order, the order of the tags."""
    place = 0
    for common in join:
        numbers = np.arange(place, place + len(common), dtype=np.uint32)
        for column, located in enumerate(places):
            located.append(common.positions[:, column], numbers)
        place += len(common)


class Located:
    """Some positions of a list with a number each, to be read back as one number per position."""

    def __init__(self, scratch: Scratch, size: int, *, missing: np.integer[Any] = NOWHERE) -> None:
        """Begin for a list of ``size``; ``missing`` stands where there is no number, and gives their type."""
        self._size, self._missing = size, missing
        self._dtype = missing.dtype.newbyteorder("<")
        # matches lie anywhere in a list: scaled to 64 bits their positions partition it evenly
        self._shift = np.uint64(64 - max(1, size - 1).bit_length())
        width = 8 + self._dtype.itemsize
        self._pairs = Partitions(scratch.folder, width, expected=size, budget=scratch.budget // 12)

    def append(self, positions: NDArray[np.int64], numbers: NDArray[np.integer[Any]]) -> None:
        """Add pairs."""
        keys = (positions.astype(np.uint64) << self._shift).astype(">u8").view(np.uint8).reshape(-1, 8)
        values = numbers.astype(self._dtype).view(np.uint8).reshape(len(keys), self._dtype.itemsize)
        self._pairs.append(np.concatenate([keys, values], axis=1))

    def chunks(self, size: int) -> Iterator[NDArray[Any]]:
        """Yield the numbers of ``size`` positions at a time."""
        start = 0
        chunk = self._empty(min(size, self._size))
        for records in self._pairs.sorted_partitions():
            positions = (
                np.ascontiguousarray(records[:, :8]).view(">u8")[:, 0].astype(np.uint64) >> self._shift
            )
            numbers = np.ascontiguousarray(records[:, 8:]).view(self._dtype)[:, 0]
            while len(positions):
                cut = int(np.searchsorted(positions, start + len(chunk)))
                chunk[positions[:cut].astype(np.int64) - start] = numbers[:cut]
                positions, numbers = positions[cut:], numbers[cut:]
                if len(positions):
                    yield chunk
                    start += len(chunk)
                    chunk = self._empty(min(size, self._size - start))
        while len(chunk):
            yield chunk
            start += len(chunk)
            chunk = self._empty(min(size, self._size - start))

    def close(self) -> None:
        """Delete everything."""
        self._pairs.close()

    def _empty(self, count: int) -> NDArray[Any]:
        return np.full(count, self._missing, self._dtype)
