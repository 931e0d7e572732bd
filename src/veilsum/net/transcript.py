"""What two parties said to each other: one running hash per direction, and what kinds of messages.

Both sides compute the same hashes over the same bytes, so that each can countersign the other's view.
Only protocol messages enter it: the order of control frames is not the same at both ends.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from veilsum.net.config import MIB
from veilsum.net.messages import Data, Message

ENTRIES = 100_000  # kinds of messages remembered one by one; the running hashes take in all of them
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


class Conversation:
    """Everything that a party and one peer said to each other: both directions' hashes, and what kinds.

    Args:
        me: this party.
        peer: the other one.
        types: number on the wire → message type.
    """

    def __init__(self, me: str, peer: str, types: Mapping[int, type[Message]]) -> None:
        self._me, self._peer, self._types = me, peer, types
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix=f"transcript with {peer}")
        self.sent, self.received = Direction(self._hasher), Direction(self._hasher)
        self._said: list[tuple[bool, int, int]] = []  # by this party, type, size: no objects to keep count of
        self._traffic = {number: [0, 0] for number in types}

    def note(self, side: Direction, number: int, flags: int, size: int, parts: list[Data]) -> None:
        """Take in one message of ``sent`` or ``received``."""
        mine = side is self.sent
        side.add(number, flags, size, parts)
        if len(self._said) < ENTRIES:
            self._said.append((mine, number, size))
        self._traffic[number][0 if mine else 1] += size

    def close(self) -> None:
        """Let the hashing thread go; what was said stays."""
        self._hasher.shutdown(wait=False)

    @property
    def entries(self) -> list[Entry]:
        """The messages that the two parties said to each other, in the order seen here."""
        ways = {True: (self._me, self._peer), False: (self._peer, self._me)}
        return [Entry(*ways[mine], self._types[kind].__name__, size) for mine, kind, size in self._said]

    @property
    def traffic(self) -> dict[int, list[int]]:
        """Step → payload bytes sent and received."""
        steps: dict[int, list[int]] = {}
        for number, (sent, received) in self._traffic.items():
            counts = steps.setdefault(self._types[number].wire.step, [0, 0])
            counts[0] += sent
            counts[1] += received
        return steps


def statement(run: str, one: str, from_one: bytes, other: str, from_other: bytes) -> bytes:
    """Return the bytes that both parties of a conversation sign; they do not depend on who is ``one``.

    Args:
        run: 32 hex digits.
        one: a party.
        from_one: the hash (32 bytes) of what it sent to the other.
        other: its peer.
        from_other: the hash (32 bytes) of what the peer sent.
    """
    sides = sorted([(one, from_one), (other, from_other)])
    said = b"".join(hashlib.sha256(party.encode()).digest() + hashed for party, hashed in sides)
    return b"veilsum/transcript-statement/1" + bytes.fromhex(run) + said
