"""TLS handshakes in the event loop, on plain sockets that links and lanes then use as they are.

After the handshake the dialler names what the connection is for: a uint16 length and UTF-8 text.
"""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress

from veilsum.errors import PeerLost

_NAME = struct.Struct("<H")
_NAME_LIMIT = 512
_LAST_WORDS = 64 * 1024


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


async def connect(address: str) -> socket.socket:
    """Return a TCP connection to ``host:port``, tried at every address of the host in turn.

    Raises:
        OSError: none of them answers.
    """
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    refusal: OSError = ConnectionRefusedError(f"{host} has no address")
    for family, kind, proto, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            prompt(sock)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            refusal = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise refusal


def prompt(sock: socket.socket) -> None:
    """Send small frames at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def shake(sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> ssl.SSLSocket:
    """Return the socket under TLS; on failure it is closed once the other side has read the alert.

    Raises:
        OSError: the handshake failed (``ssl.SSLError`` says why).
    """
    end = sock
    try:
        end = tls = context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await ready(tls)
            except ssl.SSLWantWriteError:
                await ready(tls, write=True)
            else:
                return tls
    except ssl.SSLError:
        try:
            await _let_read(end)
        finally:
            end.close()
        raise
    except BaseException:
        end.close()
        raise


async def _let_read(sock: socket.socket) -> None:
    """Wait until the other side has closed: closing over unread bytes would reset the alert away."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_WR)
        async with asyncio.timeout(1):
            left = _LAST_WORDS
            while left > 0:
                await ready(sock)
                words = socket.socket.recv(sock, 4096)
                if not words:
                    return
                left -= len(words)


async def send_name(tls: ssl.SSLSocket, name: str) -> None:
    """Say what a connection is for.

    Raises:
        OSError: it ended, by an alert if there is one.
    """
    text = name.encode()
    data = _NAME.pack(len(text)) + text
    while data:
        try:
            data = data[tls.send(data) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await ready(tls, write=True)
        except OSError:
            with suppress(ssl.SSLWantReadError):
                tls.recv(1)  # raises what the other side said before it went
            raise


async def read_name(tls: ssl.SSLSocket) -> str:
    """Return what a connection is for, reading not one byte more.

    Raises:
        PeerLost: it ended, or the name is no name.
    """
    (size,) = _NAME.unpack(await _read(tls, _NAME.size))
    if size > _NAME_LIMIT:
        raise PeerLost("a name over its limit")
    try:
        return (await _read(tls, size)).decode()
    except UnicodeDecodeError as error:
        raise PeerLost("a name that is not text") from error


async def _read(tls: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            more = tls.recv(size - len(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await ready(tls)
        else:
            if not more:
                raise PeerLost("closed during the handshake")
            data += more
    return data


async def ready(sock: socket.socket, *, write: bool = False) -> None:
    """Wait until a socket can be read (or written)."""
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _set, future)
    try:
        await future
    finally:
        remove(fd)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
