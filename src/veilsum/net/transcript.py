"""What two parties said to each other: one running hash per direction, and what kinds of messages.

Both sides compute the same hashes over the same bytes, so that each can countersign the other's view.
Only protocol messages enter it: the order of control frames is not the same at both ends.
"""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from veilsum.net.config import MIB
from veilsum.net.messages import Data

_SHORT = 64 * 1024  # below this one copy is cheaper than several updates
_TOGETHER = MIB  # bytes that are handed to the thread at once
_BEHIND = 256 * MIB  # bytes that may wait to be hashed: they are held in memory


_Said = tuple[int, int, int, list[Data]]  # type, flags, length, payload


class Entry(NamedTuple):
    """One protocol message, seen from this party: who sent what kind, of how many payload bytes."""

    sender: str
    receiver: str
    message: str
    size: int


class Direction:
    """The running hash and counts of one direction.

    Hashing lags behind what was said: ``hasher``, which must have one thread, does it in the order of
    `add`, so that a long message holds up neither the event loop nor its own way.
    """

    def __init__(self, hasher: ThreadPoolExecutor) -> None:
        self._hash = hashlib.sha256(b"veilsum/transcript/1")
        self._hasher = hasher
        self._pending: list[_Said] = []
        self._gathered = self._behind = 0
        self._last: Future[None] | None = None
        self.messages = 0
        self.size = 0

    def add(self, kind: int, flags: int, size: int, parts: list[Data]) -> None:
        """Take one message in: its type, flags, length and payload, which must not change any more."""
        self._pending.append((kind, flags, size, parts))
        self._gathered += size
        self.messages += 1
        self.size += size
        if self._gathered > _TOGETHER:
            self._hand_over()

    def digest(self) -> bytes:
        """Return the hash of everything so far (32 bytes)."""
        self._settle()
        self._update(self._pending)
        self._pending, self._gathered = [], 0
        return self._hash.digest()

    def _hand_over(self) -> None:
        if self._behind > _BEHIND:
            self._settle()
        self._behind += self._gathered
        self._last = self._hasher.submit(self._update, self._pending)
        self._pending, self._gathered = [], 0

    def _settle(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last, self._behind = None, 0

    def _update(self, said: "list[_Said]") -> None:
        for kind, flags, size, parts in said:
            head = b"%d %d %d " % (kind, flags, size)
            if size <= _SHORT:
                self._hash.update(b"".join((head, *parts)))
                continue
            self._hash.update(head)
            for part in parts:
                self._hash.update(part)
