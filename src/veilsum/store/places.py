"""Where the common tags of several lists stand: one place per position, out of core."""

from collections.abc import Iterator
from typing import Final

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
    """One list's positions with their places, to be read back as one place per position."""

    def __init__(self, scratch: Scratch, size: int) -> None:
        self._size = size
        # matches lie anywhere in a list: scaled to 64 bits their positions partition it evenly
        self._shift = np.uint64(64 - max(1, size - 1).bit_length())
        self._pairs = Partitions(scratch.folder, 12, expected=size, budget=scratch.budget // 12)

    def append(self, positions: NDArray[np.int64], places: NDArray[np.uint32]) -> None:
        """Add pairs."""
        keys = (positions.astype(np.uint64) << self._shift).astype(">u8").view(np.uint8).reshape(-1, 8)
        self._pairs.append(np.concatenate([keys, places.astype("<u4").view(np.uint8).reshape(-1, 4)], axis=1))

    def chunks(self, size: int) -> Iterator[NDArray[np.uint32]]:
        """Yield the places of ``size`` positions at a time, `NOWHERE` where there is none."""
        start = 0
        chunk = np.full(min(size, self._size), NOWHERE, "<u4")
        for records in self._pairs.sorted_partitions():
            positions = (
                np.ascontiguousarray(records[:, :8]).view(">u8")[:, 0].astype(np.uint64) >> self._shift
            )
            places = np.ascontiguousarray(records[:, 8:]).view("<u4")[:, 0]
            while len(positions):
                cut = int(np.searchsorted(positions, start + len(chunk)))
                chunk[positions[:cut].astype(np.int64) - start] = places[:cut]
                positions, places = positions[cut:], places[cut:]
                if len(positions):
                    yield chunk
                    start += len(chunk)
                    chunk = np.full(min(size, self._size - start), NOWHERE, "<u4")
        while len(chunk):
            yield chunk
            start += len(chunk)
            chunk = np.full(min(size, self._size - start), NOWHERE, "<u4")

    def close(self) -> None:
        """Delete everything."""
        self._pairs.close()
