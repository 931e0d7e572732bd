"""Lists of pseudorandom tags larger than memory, and their streaming merge-join."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from veilsum.store.tables import Partitions, Records, big_endian, leading_words, order, partition_bits

JOIN_COST: Final = 8
"""Partitions being joined weigh this many times their tags: read, side by side, sorted, masks and groups."""
MOST_LISTS: Final = 6


class TagTable:
    """A list of pseudorandom tags, each with its position in somebody's order."""

    def __init__(
        self, folder: Path, tag: int, *, expected: int, budget: int, bits: int | None = None
    ) -> None:
        """Begin an empty list of tags of ``tag`` bytes (at least 8); see :class:`Partitions`.

        Tables to be joined should have the same ``bits``: see :func:`tag_tables`.
        """
        if tag < 8:
            raise ValueError(f"tags of {tag} bytes are not unique")
        self.tag = tag
        self._partitions = Partitions(folder, tag + 8, expected=expected, budget=budget, key=tag, bits=bits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._partitions)

    def __repr__(self) -> str:
        return f"TagTable({len(self)} tags of {self.tag} bytes)"

    @property
    def bits(self) -> int:
        """Leading bits of a tag by which the table is partitioned."""
        return self._partitions.bits

    def append(self, tags: Records, positions: npt.NDArray[np.integer] | None = None) -> None:
        """Add tags (n, tag) uint8 at positions (n,), or at the next ones.

        Raises:
            StoreError: the disk is full.
        """
        if positions is None:
            positions = np.arange(len(self), len(self) + len(tags))
        joined = np.empty((len(tags), self.tag + 8), np.uint8)
        joined[:, : self.tag] = tags
        joined[:, self.tag :] = big_endian(positions.astype(np.uint64))
        self._partitions.append(joined)

    def span(self, index: int, bits: int) -> Records:
        """Return the records whose tags begin with the ``bits`` (at most the table's) of ``index``."""
        fine = self.bits - bits
        parts = [self._partitions.partition(i) for i in range(index << fine, (index + 1) << fine)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Delete everything."""
        self._partitions.close()


def tag_tables(folder: Path, tag: int, *, expected: Sequence[int], budget: int) -> tuple[TagTable, ...]:
    """Begin lists of tags that will be joined within ``budget`` bytes, one per expected length."""
    bits = partition_bits(JOIN_COST * sum(expected) * (tag + 8), budget)
    share = budget // max(1, len(expected))
    return tuple(TagTable(folder, tag, expected=n, budget=share, bits=bits) for n in expected)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Common:
    """Tags that are in all lists, in the order of their bytes.

    Attributes:
        tags: shape (n, tag) uint8.
        positions: of each tag in each list; shape (n, lists) int64.
    """

    tags: Records
    positions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"Common({self.positions.shape[0]} tags of {self.positions.shape[1]} lists)"


class Join:
    """A streaming merge-join of up to six lists; iterate once, then read the counts.

    Attributes:
        cells: number of different tags by the lists they are in, index = sum of 2^list; shape (2^m,) int64.
        duplicates: per list, how many tags repeat an earlier one of the same list; shape (m,) int64.
    """

    def __init__(self, tables: Sequence[TagTable]) -> None:
        if not 0 < len(tables) <= MOST_LISTS or len({table.tag for table in tables}) != 1:
            raise ValueError("one to six lists of equally long tags can be joined")
        self._tables = tuple(tables)
        self.cells = np.zeros(1 << len(tables), np.int64)
        self.duplicates = np.zeros(len(tables), np.int64)

    def __iter__(self) -> Iterator[Common]:
        """Yield the common tags a partition at a time, in order.

        A tag that a list repeats is counted in ``duplicates`` and stands once, with one of its positions.

        Raises:
            ProtocolError: the tags are not pseudorandom.
        """
        self.cells[:] = 0
        self.duplicates[:] = 0
        bits = min(table.bits for table in self._tables)
        for index in range(1 << bits):
            yield self._joined([table.span(index, bits) for table in self._tables])

    def _joined(self, lists: list[Records]) -> Common:
        lengths = [len(records) for records in lists]
        owner = np.repeat(np.arange(len(lists), dtype=np.uint8), lengths)
        records = np.concatenate(lists)
        lists.clear()
        tag, full = self._tables[0].tag, len(self.cells) - 1
        by_tag = order(records[:, :tag])
        new = _first_of_group(records, by_tag, tag)
        group = np.cumsum(new) - 1
        starts = np.flatnonzero(new)
        mask = np.zeros(len(starts), np.uint8)
        if len(starts):
            mask = np.bitwise_or.reduceat(np.uint8(1) << owner[by_tag], starts)
        self.cells += np.bincount(mask, minlength=full + 1)
        self._count_duplicates(lengths, mask)
        common = np.flatnonzero(mask == full)
        rank = np.full(len(starts), -1, np.int64)
        rank[common] = np.arange(len(common))
        rank = rank[group]
        chosen = by_tag[rank >= 0]
        positions = np.zeros((len(common), len(lengths)), np.int64)
        stored = np.ascontiguousarray(records[chosen, tag:]).view(">u8")[:, 0]
        positions[rank[rank >= 0], owner[chosen]] = stored.astype(np.int64)
        return Common(records[by_tag[starts[common]], :tag], positions)

    def _count_duplicates(self, lengths: list[int], mask: npt.NDArray[np.uint8]) -> None:
        for index, length in enumerate(lengths):
            self.duplicates[index] += length - np.count_nonzero(mask & (1 << index))


def _first_of_group(records: Records, by_tag: npt.NDArray[np.int64], tag: int) -> npt.NDArray[np.bool_]:
    """Tell which sorted records have another tag than the one before."""
    new = np.ones(len(by_tag), np.bool_)
    words = leading_words(records)[by_tag]
    same = np.flatnonzero(words[1:] == words[:-1])
    left, right = by_tag[same], by_tag[same + 1]
    new[same + 1] = (records[left, 8:tag] != records[right, 8:tag]).any(axis=1)
    return new
