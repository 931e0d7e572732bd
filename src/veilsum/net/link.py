"""An ordered stream of frames over one connected socket, plain or TLS; the framing of both backends.

A frame is a header of 24 bytes (little-endian) and a payload:

```
uint8   magic 0x56        uint16  type: below 16 control, else the protocol's messages in order
uint8   flags (1 = END)   uint32  length of the payload
uint64  sequence number   uint64  run tag
```
A header is admitted (type, length, sequence, run, credit) before one byte is allocated for its payload.

The event loop reads and writes the socket itself: asyncio's TLS transport neither sends the alert that
tells a party why it was refused nor lets a frame that was begun survive the cancelling of its sender.
"""

import asyncio
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sized
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple, cast

import numpy as np

from veilsum.errors import PeerLost, ProtocolError, VeilsumError
from veilsum.net.config import KIB, MIB
from veilsum.net.messages import Data

MAGIC = 0x56
END = 1
_HEADER = struct.Struct("<BBHIQQ")
HEADER_BYTES = _HEADER.size
_SCRATCH = 64 * KIB
_JOIN = 32 * KIB  # below this one copy is cheaper than a second write
_BACKLOG = MIB  # bytes that may wait behind the socket before a sender waits too
_RECORD = 16 * KIB  # the most that TLS hands out at once
_READS = 64  # of one link, before others get their turn
_BRIEF, _MOMENT = 500e-6, 150e-6  # seconds: a wait that counts as short; how long to look instead
_LOOKS = 32  # successful looks in a row before other tasks get their turn
_LINGER = 1.0  # seconds in which the other side may read the last words
_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Header(NamedTuple):
    """The head of a frame."""

    magic: int
    flags: int
    type: int
    length: int
    sequence: int
    run: int


def pack_header(flags: int, kind: int, length: int, sequence: int, run: int) -> bytes:
    """Return the 24 bytes of a frame's head."""
    return _HEADER.pack(MAGIC, flags, kind, length, sequence, run)


Admit = Callable[[Header], None]
Deliver = Callable[[Header, Data], None]
Lost = Callable[[BaseException], None]
Explain = Callable[[OSError], BaseException]


def admit_small(header: Header) -> None:
    """Admit only a short frame: the rule until both sides know each other."""
    if header.length > 4 * KIB:
        raise ProtocolError(f"a first frame of {header.length} bytes was refused")


class Link:
    """One connection to one peer.

    Until `attach`, frames are read one by one with `recv`, and nothing beyond them is looked at; after it
    they go straight to the given callbacks, which saves a task switch per frame. An error raised by
    ``admit`` or ``deliver`` ends the link with that error.

    Args:
        sock: connected; the link owns it from here on.
        write_chunk: bytes handed to the socket at once.
        explain: turns what the socket raises into what it means.
    """

    def __init__(
        self, sock: socket.socket, *, write_chunk: int = 256 * KIB, explain: Explain | None = None
    ) -> None:
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._sock, self._fd = sock, sock.fileno()
        self._poll = select.poll()  # asks without the cost of an exception
        self._poll.register(self._fd, select.POLLIN)
        self._send: Callable[[Data], int] = sock.send
        self._receive: Callable[[memoryview], int] = sock.recv_into
        if isinstance(sock, ssl.SSLSocket):  # the same, without what `send` and `recv_into` do on the way
            self._send = sock.write
            self._receive = lambda view: cast("int", sock.read(len(view), view))
        self._chunk, self._explain = write_chunk, explain
        self._closed: BaseException | None = None
        self._gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        # receiving
        self._admit: Admit = admit_small
        self._deliver: Deliver = self._hold
        self._lost: Lost | None = None
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._end = 0
        self._body: memoryview | None = None
        self._body_header: Header | None = None
        self._filled = 0
        self._held: tuple[Header, Data] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._flowing = False
        self._deaf = False
        self.heard = self._loop.time()
        # sending
        self._out: deque[memoryview] = deque()
        self._posted = self._written = 0
        self._writers: list[asyncio.Future[None]] = []
        self._armed = False
        self._mute: BaseException | None = None

    # -- what a peer uses

    def attach(self, admit: Admit, deliver: Deliver, lost: Lost) -> None:
        """Hand all further frames to ``deliver``, and the end of the link to ``lost``."""
        self._admit, self._deliver, self._lost = admit, deliver, lost
        if self._closed is not None:
            lost(self._closed)
            return
        try:
            if self._held is not None:
                (header, payload), self._held = self._held, None
                admit(header)
                deliver(header, payload)
            if self._body_header is not None:
                admit(self._body_header)
        except VeilsumError as error:
            self._refuse(error)
        self._resume()

    def post(self, header: bytes, parts: list[Data]) -> None:
        """Send one frame behind all others, without waiting; what is posted goes out whole or not at all.

        Raises:
            PeerLost: the connection is gone.
        """
        if self._closed is not None or self._mute is not None or self._timer is not None:
            raise PeerLost("the connection is gone") from (self._closed or self._mute)
        size = HEADER_BYTES + sum(map(len, parts))
        if size <= _JOIN:
            self._out.append(memoryview(b"".join((header, *parts))))
        else:
            self._out.append(memoryview(header))
            for part in parts:
                view = memoryview(part).cast("B")
                self._out.extend(view[at : at + self._chunk] for at in range(0, len(view), self._chunk))
        self._posted += size
        if not self._armed:
            self._flush()

    @property
    def busy(self) -> bool:
        """Whether posted bytes still wait for the socket."""
        return bool(self._out)

    @property
    def backlogged(self) -> bool:
        """Whether so many posted bytes wait that a sender should wait too."""
        return self._posted - self._written > _BACKLOG

    async def drain(self) -> None:
        """Wait until most of what was posted so far has gone out.

        Raises:
            PeerLost: the connection is gone.
        """
        mark = self._posted - _BACKLOG
        while self._written < mark:
            if self._closed is not None or self._mute is not None:
                raise PeerLost("the connection is gone") from (self._closed or self._mute)
            future: asyncio.Future[None] = self._loop.create_future()
            self._writers.append(future)
            await future

    async def send(self, header: bytes, parts: list[Data]) -> None:
        """Send one frame; returns once most of it is under way.

        Raises:
            PeerLost: the connection is gone.
        """
        self.post(header, parts)
        if self.backlogged:
            await self.drain()

    async def recv(self) -> tuple[Header, Data]:
        """Return the next frame of a link that is not attached.

        Raises:
            PeerLost: the connection ended.
        """
        while self._held is None:
            if self._closed is not None:
                raise self._closed
            self._waiter = self._loop.create_future()
            self._resume()
            await self._waiter
        frame, self._held = self._held, None
        return frame

    def look(self) -> None:
        """Read what has arrived now, without waiting for the event loop to notice it."""
        if self._flowing and self._poll.poll(0):
            self._readable()

    def close(self) -> None:
        """End the connection after what was posted has gone out and, within a second, been read."""
        if self._closed is None and self._timer is None:
            # closing over unread bytes would reset the connection under the last words
            self._timer = self._loop.call_later(_LINGER, self.fail, PeerLost("the connection was closed"))
            self._hear_no_more()
            self._resume()
            if not self._out:
                self._say_end()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await self._gone.wait()

    def fail(self, error: BaseException) -> None:
        """End the connection at once because of an error."""
        if self._closed is not None:
            return
        self._closed = error
        self._flowing, self._armed = False, False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        self._out.clear()
        self._body = self._body_header = None
        if self._timer is not None:
            self._timer.cancel()
        self._wake_reader()
        self._wake_writers()
        self._gone.set()
        if self._lost is not None:
            self._loop.call_soon(self._lost, error)

    # -- sending

    def _flush(self) -> None:
        out = self._out
        while out:
            try:
                count = self._send(out[0])
            except _AGAIN:
                break
            except OSError as error:
                # not the end yet: the other side's last words may be waiting to be read
                self._mute = error
                out.clear()
                self._wake_writers()
                break
            self._written += count
            if count < len(out[0]):
                out[0] = out[0][count:]
            else:
                out.popleft()
        if bool(out) != self._armed:
            self._armed = bool(out)
            if self._armed:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)
        if self._writers and not self.backlogged:
            self._wake_writers()
        if not out and self._timer is not None:
            self._say_end()

    def _wake_writers(self) -> None:
        waiting, self._writers = self._writers, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _say_end(self) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    # -- receiving

    def _resume(self) -> None:
        """Take what has been read already, then read on."""
        if self._closed is None:
            self._flowing = True
            self._took(0)
        if self._flowing:
            self._loop.add_reader(self._fd, self._readable)
            # TLS may hold decrypted bytes of which the loop knows nothing
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        for _ in range(_READS):
            if not self._flowing:
                return
            view = self._scratch[self._end :] if self._body is None else self._body[self._filled :]
            try:
                count = self._receive(view)
            except _AGAIN:
                return
            except OSError as error:
                self.fail(self._explain(error) if self._explain else error)
                return
            if not count:
                self.fail(PeerLost("the connection was closed"))
                return
            self.heard = self._loop.time()
            if self._body is not None and self._filled + count < len(self._body):
                self._filled += count  # where most reads of a long message end
            else:
                self._took(count)
            if count < len(view) and count < _RECORD:
                return
        self._loop.call_soon(self._readable)

    def _took(self, count: int) -> None:
        if self._deaf:
            return
        try:
            if self._body is None:
                self._end += count
                self._parse()
            else:
                self._filled += count
                self._finish_body()
        except VeilsumError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  whatever a frame sets off must end the run, not only a link
            refusal = ProtocolError("a frame that could not be handled arrived")
            refusal.__cause__ = error
            self._refuse(refusal)

    def _refuse(self, error: VeilsumError) -> None:
        if self._lost is None:
            self.fail(error)
        else:
            # deaf, not dumb: the owner still tells the peer why before it closes
            self._hear_no_more()
            self._lost(error)

    def _hear_no_more(self) -> None:
        self._deaf, self._end = True, 0
        self._body = self._body_header = None

    def _parse(self) -> None:
        at = 0
        while self._flowing and not self._deaf and self._end - at >= HEADER_BYTES:
            header = Header._make(_HEADER.unpack_from(self._scratch, at))
            if header.magic != MAGIC:
                raise ProtocolError("the peer does not speak veilsum's frames")
            self._admit(header)
            start, have = at + HEADER_BYTES, self._end - at - HEADER_BYTES
            if have < header.length:
                self._body = np.empty(header.length, np.uint8).data
                self._body[:have] = self._scratch[start : self._end]
                self._body_header, self._filled, self._end = header, have, 0
                return
            at = start + header.length
            self._deliver(header, bytes(self._scratch[start:at]))
        if not self._deaf and at:
            self._scratch[: self._end - at] = self._scratch[at : self._end]
            self._end -= at

    def _finish_body(self) -> None:
        if self._body is not None and self._filled == len(self._body):
            body, header = self._body, self._body_header
            assert header is not None
            self._body = self._body_header = None
            self._deliver(header, body)

    def _hold(self, header: Header, payload: Data) -> None:
        self._held, self._flowing = (header, payload), False
        self._loop.remove_reader(self._fd)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Glance:
    """Spares a receiver its sleep where answers come quickly: it looks at the socket for a moment first.

    Going to sleep in the event loop and waking up again costs more than the answer takes to arrive. It is
    done only while waits are short, and never so often in a row that other tasks (heartbeats among them)
    would starve.
    """

    def __init__(self) -> None:
        self._brief = False
        self._looks = 0

    async def until(
        self, link: Link | None, queue: Sized, sleep: Callable[..., Awaitable[None]], *what: object
    ) -> None:
        """Return when something may have come into ``queue``: by looking, or after ``sleep(*what)``."""
        if self._brief and link is not None:
            end = perf_counter() + _MOMENT
            while not queue and perf_counter() < end:
                link.look()
            if queue:
                self._looks += 1
                if self._looks % _LOOKS == 0:
                    await asyncio.sleep(0)
                return
        began = perf_counter()
        await sleep(*what)
        self._brief = perf_counter() - began < _BRIEF
