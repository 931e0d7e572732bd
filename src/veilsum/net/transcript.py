"""What two parties said to each other: one running hash per direction, and what kinds of messages.

Both sides compute the same hashes over the same bytes, so that each can countersign the other's view.
Only protocol messages enter it: the order of control frames is not the same at both ends.
"""

import hashlib
from typing import NamedTuple

from veilsum.net.link import Header
from veilsum.net.messages import Data


class Entry(NamedTuple):
    """One protocol message, seen from this party: who sent what kind, of how many payload bytes."""

    sender: str
    receiver: str
    message: str
    size: int


class Direction:
    """The running hash and counts of one direction."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"veilsum/transcript/1")
        self.messages = 0
        self.size = 0

    def add(self, header: Header, parts: list[Data]) -> None:
        """Take one message in: its type, flags, length and payload."""
        self._hash.update(b"%d %d %d " % (header.type, header.flags, header.length))
        for part in parts:
            self._hash.update(part)
        self.messages += 1
        self.size += header.length

    def digest(self) -> bytes:
        """Return the hash of everything so far (32 bytes)."""
        return self._hash.digest()
