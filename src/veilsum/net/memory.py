"""All parties in one process: socket pairs instead of TLS, everything above them the same."""

import socket

from veilsum.net.config import NetConfig
from veilsum.net.link import Link
from veilsum.net.ports import Links, SocketPair
from veilsum.parties import PartyId

_Key = tuple[PartyId, PartyId, str]


class MemoryHub:
    """Where the parties of one process meet; `links` gives each of them its port."""

    def __init__(self, config: NetConfig | None = None) -> None:
        self._config = config or NetConfig()
        self._waiting: dict[_Key, socket.socket] = {}

    def links(self, me: PartyId) -> "MemoryLinks":
        """Return a party's port."""
        return MemoryLinks(me, self)

    def meet(self, me: PartyId, peer: PartyId, purpose: str) -> socket.socket:
        """Return one end of a connected pair; whoever comes second gets the other end."""
        left = self._waiting.pop((me, peer, purpose), None)
        if left is not None:
            return left
        mine, theirs = socket.socketpair()
        stale = self._waiting.pop((peer, me, purpose), None)
        if stale is not None:  # of an attempt that was given up
            stale.close()
        self._waiting[peer, me, purpose] = theirs
        return mine

    def close(self) -> None:
        """Close the ends that nobody came for."""
        while self._waiting:
            self._waiting.popitem()[1].close()


class MemoryLinks(Links):
    """The port of one party in one process."""

    def __init__(self, me: PartyId, hub: MemoryHub) -> None:
        self._me, self._hub = me, hub

    async def link(self, peer: PartyId, purpose: str) -> Link:
        """Return a frame link; the peer may take its end later."""
        return Link(self._hub.meet(self._me, peer, purpose))

    async def sockets(self, peer: PartyId, label: str) -> SocketPair:
        """Return a blocking pair."""
        first, second = sorted((self._me, peer))
        there = self._hub.meet(self._me, peer, f"lane {label} {first}>{second}")
        back = self._hub.meet(self._me, peer, f"lane {label} {second}>{first}")
        for end in (there, back):
            end.setblocking(True)
        return SocketPair(there, back) if self._me == first else SocketPair(back, there)
