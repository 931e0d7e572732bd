"""Blocking full-duplex rounds for round-heavy engines, in a worker thread beside the event loop."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TypeVar

from veilsum.errors import PeerLost, ProtocolError, StepTimeout
from veilsum.net.config import KIB, MIB
from veilsum.net.messages import Data
from veilsum.net.ports import SocketPair
from veilsum.parties import PartyId

T = TypeVar("T")
_ROUND = struct.Struct("<QQ")
_TIME = struct.Struct("@ll")
_BUFFER = 2 * MIB  # asked of the kernel for what is under way; it may grant less
_LEAST_DIRECT = 32 * KIB  # fits any socket's buffer
_FIRST = 16 * KIB - _ROUND.size
_EXPIRED = (TimeoutError, BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Lane:
    """Rounds with one peer: both sides know all sizes beforehand.

    `exchange` is a round in which both send and both receive. An engine whose parties talk in a ring sends
    to one peer while it receives from another: `send` and `receive` are the halves of a round.

    Args:
        step_timeout: seconds that a live peer may keep a round waiting.
    """

    def __init__(
        self, me: PartyId, peer: PartyId, pair: SocketPair, *, step_timeout: float = float("inf")
    ) -> None:
        self.me, self.peer = me, peer
        self._out, self._in = pair
        self._patience = step_timeout
        if step_timeout < 1e9:
            limit = _TIME.pack(int(step_timeout), int(step_timeout % 1 * 1e6))
            for sock, option in ((self._out, socket.SO_SNDTIMEO), (self._in, socket.SO_RCVTIMEO)):
                if isinstance(sock, ssl.SSLSocket):
                    sock.settimeout(step_timeout)  # where the kernel gave up, it would try again for ever
                else:
                    # by the kernel: a timeout of Python's own costs a system call per read
                    sock.setsockopt(socket.SOL_SOCKET, option, limit)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        # what surely fits is sent without a thread; eight, because a peer in a ring may lag by three messages
        # and the kernel counts its own overhead
        granted = self._out.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._direct = max(_LEAST_DIRECT, granted // 8)
        self._sends = self._receipts = 0
        self._under_way = 0
        self._closed = False
        self._head = memoryview(bytearray(_ROUND.size))
        self._work: SimpleQueue[Sequence[Data] | None] | None = None
        self._helper: threading.Thread | None = None
        self._sent = threading.Semaphore(0)
        self._error: OSError | None = None
        self.sent = self.received = 0

    def exchange(self, out: Data, into: memoryview | bytearray) -> None:
        """Send ``out`` and fill ``into``: ONE round. Blocks its thread, not the event loop.

        Raises:
            ProtocolError: the peer is in another round or sends another size.
            PeerLost: the connection ended.
            StepTimeout: the peer lives but keeps this round waiting too long.
        """
        self.send(out)
        self.receive(into)
        self.settle()

    def send(self, out: Data) -> None:
        """Send ``out``, which must not change until `settle`; returns before the peer has it.

        Raises:
            PeerLost, StepTimeout: as for `exchange`.
        """
        out = memoryview(out).cast("B")
        head = _ROUND.pack(self._sends, len(out))
        with self._named():
            if self._error is not None:
                raise self._error
            # the number and the first bytes share a TLS record
            parts: list[Data] = [head + bytes(out[:_FIRST]), out[_FIRST:]]
            if len(out) > self._direct or self._still_sending():
                self._send_beside(parts)
            else:
                for part in parts[: 1 + (len(out) > _FIRST)]:
                    self._out.sendall(part)
        self._sends += 1
        self.sent += len(out)

    def receive(self, into: memoryview | bytearray) -> None:
        """Fill ``into`` with what the peer sends next.

        Raises:
            ProtocolError, PeerLost, StepTimeout: as for `exchange`.
        """
        into = memoryview(into).cast("B")
        with self._named():
            self._receive(into)
        self._receipts += 1
        self.received += len(into)

    def settle(self) -> None:
        """Wait until everything that was sent has left.

        Raises:
            PeerLost, StepTimeout: as for `exchange`.
        """
        while self._under_way:
            self._sent.acquire()
            self._under_way -= 1
        if self._error is not None:
            with self._named():
                raise self._error

    def _still_sending(self) -> bool:
        while self._under_way and self._sent.acquire(blocking=False):
            self._under_way -= 1
        return self._under_way > 0

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Give the errors of sockets the house's names."""
        try:
            yield
        except _EXPIRED as error:
            raise StepTimeout(
                f"{self.peer} is alive but kept a round waiting for {self._patience:.0f} s",
                remedy="raise step_timeout in the job, or ask that party what keeps it",
                party=self.me,
            ) from error
        except OSError as error:
            raise PeerLost(f"the lane to {self.peer} broke", party=self.me) from error

    def shut(self) -> None:
        """End the connection from any thread; a round under way raises in its own."""
        for sock in (self._out, self._in):
            with suppress(OSError):
                # below TLS and without closing: a number of a closed file may be somebody else's already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the lane after its program has."""
        if not self._closed:
            self._closed = True
            self.shut()
            if self._work is not None and self._helper is not None:
                self._work.put(None)
                self._helper.join()
            self._out.close()
            self._in.close()

    def _receive(self, into: memoryview) -> None:
        self._fill(self._head)
        number, size = _ROUND.unpack(self._head)
        if (number, size) != (self._receipts, len(into)):
            raise ProtocolError(
                f"{self.peer} sends {size} bytes in round {number}; due are {len(into)} in {self._receipts}",
                party=self.me,
            )
        self._fill(into)

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
            self._helper = threading.Thread(target=self._sender, name=f"lane to {self.peer}", daemon=True)
            self._helper.start()
        self._under_way += 1
        self._work.put(parts)

    def _sender(self) -> None:
        assert self._work is not None
        while (parts := self._work.get()) is not None:
            try:
                if self._error is None:  # behind half a message nothing else may follow
                    for part in parts:
                        self._out.sendall(part)
            except OSError as error:
                self._error = error
            self._sent.release()


async def run_lanes(lanes: dict[PartyId, Lane], program: Callable[[dict[PartyId, Lane]], T]) -> T:
    """Run a program in a thread; when cancelled, end the lanes and wait until it has noticed."""

    def settled(lanes: dict[PartyId, Lane]) -> T:
        result = program(lanes)
        for lane in lanes.values():
            lane.settle()  # what was sent last leaves before the lanes are closed
        return result

    # a thread of its own: programs wait for each other, which a pool with too few threads would not survive
    own = ThreadPoolExecutor(1, thread_name_prefix="lanes")
    work = asyncio.get_running_loop().run_in_executor(own, settled, lanes)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        for lane in lanes.values():
            lane.shut()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()
        raise
    finally:
        own.shutdown(wait=False)
