"""What a session stands on. A backend supplies only connected pipes; a store supplies only durability."""

import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol

from veilsum.net.link import Link
from veilsum.parties import PartyId


class SocketPair(NamedTuple):
    """Two simplex blocking connections with one peer (an OpenSSL object is not for two threads)."""

    outgoing: socket.socket
    incoming: socket.socket


class Links(Protocol):
    """The only port to other parties. Both calls make ONE attempt; who dials is the backend's business."""

    async def link(self, peer: PartyId, purpose: str) -> Link:
        """Return a connected frame link with ``peer``.

        Raises:
            OSError: it cannot be reached now (worth another attempt).
            ConfigError: whoever answers there is not this peer.
        """

    async def sockets(self, peer: PartyId, label: str) -> SocketPair:
        """Return a connected blocking pair with ``peer``.

        Raises:
            OSError: it cannot be reached now.
            ConfigError: whoever answers there is not this peer.
        """


class Journal(Protocol):
    """The durable memory of one run at one party. All methods may be called from any thread."""

    def once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the value under ``key``, made and made durable at the first call ever."""

    def done(self, stage: str) -> int:
        """Return how many indices of a stage are committed."""

    def commit(self, stage: str, index: int, output: bytes) -> None:
        """Make the output of the next index of a stage durable."""

    def read(self, stage: str, index: int) -> bytes:
        """Return the committed output of an index."""

    def stages(self) -> dict[str, int]:
        """Return how many indices of every stage are committed."""
