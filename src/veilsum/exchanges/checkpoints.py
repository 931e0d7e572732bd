"""Checkpoints of a computation on shares: each computing party keeps its own, all go on from a common one.

Shares of two attempts do not fit each other, so every attempt that saves something has a series of its own,
and a later attempt goes on from the newest entry that all computing parties have of one series.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from veilsum.errors import StoreError
from veilsum.mpc.shares import Words
from veilsum.net.ports import Journal
from veilsum.net.session import Session
from veilsum.parties import PartyId

_SERIES = re.compile(r"shares ([1-9]\d{0,8})")


class _Entry(msgspec.Struct, array_like=True):
    """A checkpoint: how many epochs it holds, and arrays as shapes and little-endian words."""

    done: int
    shapes: list[tuple[int, ...]]
    words: list[bytes]


class Checkpoints:
    """What this computing party keeps in its journal.

    Attributes:
        epochs: done at the common checkpoint; 0 if there is none.
        series: under which this attempt saves.
    """

    def __init__(
        self, journal: Journal, mine: Mapping[str, int], others: Sequence[Mapping[str, int]]
    ) -> None:
        everybody = [mine, *others]
        series = sorted({number for stages in everybody for number in _numbers(stages)}, reverse=True)
        self._journal, self.epochs = journal, 0
        self.series = f"shares {(series[0] if series else 0) + 1}"
        self._entry: _Entry | None = None
        for number in series:
            common = min(stages.get(f"shares {number}", 0) for stages in everybody)
            if common > 0:
                self._entry = self._read(f"shares {number}", common - 1)
                self.epochs = self._entry.done
                return

    @classmethod
    def of(cls, s: Session, computers: Sequence[PartyId]) -> "Checkpoints":
        """Return the checkpoints of a run at this computing party."""
        others = [s.stages_of(name) for name in computers if name != s.me]
        return cls(s.journal, s.journal.stages(), others)

    def load(self) -> list[Words]:
        """Return the arrays of the common checkpoint."""
        assert self._entry is not None
        arrays = zip(self._entry.shapes, self._entry.words, strict=True)
        return [np.frombuffer(raw, "<u8").reshape(shape).astype(np.uint64) for shape, raw in arrays]

    def save(self, arrays: Sequence[Words]) -> None:
        """Keep the arrays after one more epoch; returns when they are durable."""
        self.epochs += 1
        entry = _Entry(
            self.epochs,
            [array.shape for array in arrays],
            [array.astype("<u8").tobytes() for array in arrays],
        )
        index = self._journal.done(self.series)
        self._journal.commit(self.series, index, msgspec.msgpack.encode(entry))

    def _read(self, stage: str, index: int) -> _Entry:
        try:
            return msgspec.msgpack.decode(self._journal.read(stage, index), type=_Entry)
        except msgspec.DecodeError as error:
            raise StoreError(
                "a checkpoint in the journal cannot be read", remedy="run the job again with --fresh"
            ) from error


def _numbers(stages: Mapping[str, int]) -> list[int]:
    """Return the numbers of the series among stages (peers may claim any names)."""
    return [int(found[1]) for name in stages if (found := _SERIES.fullmatch(name))]
