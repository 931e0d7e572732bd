"""Blocking full-duplex rounds for round-heavy engines, in a worker thread beside the event loop."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

from veilsum.errors import PeerLost, ProtocolError
from veilsum.net.config import KIB
from veilsum.net.messages import Data
from veilsum.net.ports import SocketPair
from veilsum.parties import PartyId

T = TypeVar("T")
_ROUND = struct.Struct("<QQ")
_DIRECT = 32 * KIB  # surely fits the sockets' buffers, so that sending before receiving cannot block both


class Lane:
    """Rounds with one peer: both send, both receive, both know all sizes beforehand."""

    def __init__(self, me: PartyId, peer: PartyId, pair: SocketPair) -> None:
        self.me, self.peer = me, peer
        self._out, self._in = pair
        self._round = 0
        self._closed = False
        self._head = memoryview(bytearray(_ROUND.size))
        self._work: SimpleQueue[Sequence[Data] | None] | None = None
        self._sent = threading.Semaphore(0)
        self._error: BaseException | None = None
        self.sent = self.received = 0

    def exchange(self, out: Data, into: memoryview | bytearray) -> None:
        """Send ``out`` and fill ``into``: ONE round. Blocks its thread, not the event loop.

        Raises:
            ProtocolError: the peer is in another round or sends another size.
            PeerLost: the connection ended.
        """
        head = _ROUND.pack(self._round, len(out))
        try:
            if len(out) <= _DIRECT:
                self._out.sendall(head + bytes(out))
                self._receive(into)
            else:
                self._send_beside([head, out])
                self._receive(into)
                self._sent.acquire()
                if self._error is not None:
                    raise self._error
        except OSError as error:
            raise PeerLost(f"the lane to {self.peer} broke", party=self.me) from error
        self._round += 1
        self.sent += len(out)
        self.received += len(into)

    def close(self) -> None:
        """End the lane; a round under way raises in its thread."""
        if not self._closed:
            self._closed = True
            for sock in (self._out, self._in):
                with suppress(OSError):
                    # the thread may be inside a read: a plain close would leave it there
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                sock.close()
            if self._work is not None:
                self._work.put(None)

    def _receive(self, into: memoryview | bytearray) -> None:
        self._fill(self._head)
        number, size = _ROUND.unpack(self._head)
        if (number, size) != (self._round, len(into)):
            raise ProtocolError(
                f"{self.peer} sends {size} bytes in round {number}; due are {len(into)} in {self._round}",
                party=self.me,
            )
        self._fill(memoryview(into))

    def _fill(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            got = self._in.recv_into(view[at:])
            if not got:
                raise PeerLost(f"{self.peer} closed the lane", party=self.me)
            at += got

    def _send_beside(self, parts: Sequence[Data]) -> None:
        if self._work is None:
            self._work = SimpleQueue()
            threading.Thread(target=self._sender, name=f"lane to {self.peer}", daemon=True).start()
        self._work.put(parts)

    def _sender(self) -> None:
        assert self._work is not None
        while (parts := self._work.get()) is not None:
            try:
                for part in parts:
                    self._out.sendall(part)
            except OSError as error:
                self._error = error
            self._sent.release()


async def run_lanes(lanes: dict[PartyId, Lane], program: Callable[[dict[PartyId, Lane]], T]) -> T:
    """Run a program in a thread; when cancelled, close the lanes and wait until it has noticed."""
    work = asyncio.get_running_loop().run_in_executor(None, program, lanes)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        for lane in lanes.values():
            lane.close()
        with suppress(Exception):
            await work
        raise
