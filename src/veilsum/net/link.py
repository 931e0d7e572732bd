"""An ordered stream of frames over one connected socket, plain or TLS; the framing of both backends.

A frame is a header of 24 bytes (little-endian) and a payload:

```
uint8   magic 0x56        uint16  type: below 16 control, else the protocol's messages in order
uint8   flags (1 = END)   uint32  length of the payload
uint64  sequence number   uint64  run tag
```
A header is admitted (type, length, sequence, run, credit) before one byte is allocated for its payload.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
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
Lost = Callable[[BaseException | None], None]


def admit_small(header: Header) -> None:
    """Admit only a short frame: the rule until both sides know each other."""
    if header.length > 4 * KIB:
        raise ProtocolError(f"a first frame of {header.length} bytes was refused")


class Link(asyncio.BufferedProtocol):
    """One connection to one peer.

    Until `attach`, frames wait for `recv`; after it they go straight to the given callbacks, which saves
    a task switch per frame. An error raised by ``admit`` or ``deliver`` ends the link with that error.
    """

    def __init__(self, *, admit: Admit = admit_small, write_chunk: int = 256 * KIB) -> None:
        self._admit: Admit = admit
        self._deliver: Deliver = self._enqueue
        self._lost: Lost | None = None
        self._chunk = write_chunk
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._end = 0
        self._body: memoryview | None = None
        self._body_header: Header | None = None
        self._filled = 0
        self._queue: deque[tuple[Header, Data]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._turn = asyncio.Lock()
        self._closed: BaseException | None = None
        self._deaf = False
        self.heard = 0.0
        self.connected = asyncio.get_running_loop().create_future()

    # -- what a peer uses

    def attach(self, admit: Admit, deliver: Deliver, lost: Lost) -> None:
        """Hand all further frames, those already waiting first, to ``deliver``."""
        self._admit, self._lost = admit, lost
        waiting, self._queue = self._queue, deque()
        try:
            for header, payload in waiting:
                admit(header)
                deliver(header, payload)
        except VeilsumError as error:
            self._refuse(error)
        self._deliver = deliver
        if self._closed is not None:
            lost(self._closed)

    async def send(self, header: bytes, parts: list[Data]) -> None:
        """Send one frame; returns once the transport has taken it.

        Raises:
            PeerLost: the connection is gone.
        """
        if self._turn.locked() or not self._writable.is_set() or sum(map(len, parts)) > _JOIN:
            async with self._turn:
                await self._send_slowly(header, parts)
        else:
            self._write(b"".join((header, *parts)))

    async def recv(self) -> tuple[Header, Data]:
        """Return the next frame of a link that is not attached.

        Raises:
            PeerLost: the connection ended.
        """
        while not self._queue:
            if self._closed is not None:
                raise self._closed
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._queue.popleft()

    def close(self) -> None:
        """End the connection after what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def fail(self, error: BaseException) -> None:
        """End the connection at once because of an error."""
        self._closed = self._closed or error
        if self._transport is not None:
            self._transport.abort()

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate (DER) of a TLS connection."""
        assert self._transport is not None
        tls = self._transport.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    # -- sending

    async def _send_slowly(self, header: bytes, parts: list[Data]) -> None:
        await self._writable.wait()
        self._write(header)
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), self._chunk):
                await self._writable.wait()
                self._write(view[start : start + self._chunk])

    def _write(self, data: Data) -> None:
        if self._closed is not None or self._transport is None:
            raise PeerLost("the connection is gone") from self._closed
        self._transport.write(data)

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MIB)
        self.heard = asyncio.get_running_loop().time()
        if not self.connected.done():
            self.connected.set_result(None)

    def pause_writing(self) -> None:
        """Hold further writes (asyncio)."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on writing (asyncio)."""
        self._writable.set()

    def eof_received(self) -> bool:
        """Let the transport close (asyncio)."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Wake everybody who waits (asyncio)."""
        self._closed = self._closed or error or PeerLost("the connection was closed")
        self._writable.set()
        self._wake()
        if self._lost is not None:
            self._lost(self._closed)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer room for what arrives (asyncio)."""
        del sizehint
        return self._scratch[self._end :] if self._body is None else self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Parse what arrived (asyncio)."""
        self.heard = asyncio.get_running_loop().time()
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

    def _refuse(self, error: VeilsumError) -> None:
        if self._lost is None:
            self.fail(error)
        else:
            # deaf, not dumb: the owner still tells the peer why before it closes
            self._deaf, self._end, self._body = True, 0, None
            self._lost(error)

    # -- parsing

    def _parse(self) -> None:
        at = 0
        while self._end - at >= HEADER_BYTES:
            header = Header(*_HEADER.unpack_from(self._scratch, at))
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
            if self._deaf:
                return
        self._scratch[: self._end - at] = self._scratch[at : self._end]
        self._end -= at

    def _finish_body(self) -> None:
        if self._body is not None and self._filled == len(self._body):
            body, header = self._body, self._body_header
            assert header is not None
            self._body = self._body_header = None
            self._deliver(header, body)

    def _enqueue(self, header: Header, payload: Data) -> None:
        self._queue.append((header, payload))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
