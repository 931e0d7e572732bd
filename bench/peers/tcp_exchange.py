"""What no lane can beat, blocking rounds over two simplex TCP connections: ``serve|drive PORT``.

No TLS, no headers, no checks; the same shape of a round as a lane's.
"""

import asyncio
import socket
import struct
import sys

from timing import answer_commands, exchange_rounds, reply


class _Wire:
    def __init__(self, outgoing: socket.socket, incoming: socket.socket) -> None:
        self.out, self.into = outgoing, incoming
        for sock in (outgoing, incoming):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, out: bytes, into: bytearray) -> None:
        self.out.sendall(out)
        self.fill(into)

    def fill(self, into: bytearray) -> None:
        view, at = memoryview(into), 0
        while at < len(view):
            got = self.into.recv_into(view[at:])
            if not got:
                raise EOFError
            at += got


_SIZE = struct.Struct("<I")


def _serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        reply({"ready": []})
        incoming, outgoing = listener.accept()[0], listener.accept()[0]
    wire = _Wire(outgoing, incoming)
    head = bytearray(_SIZE.size)
    try:
        while True:
            wire.fill(head)
            exchange_rounds(wire.exchange, _SIZE.unpack(head)[0], None)
    except EOFError:
        pass


async def _drive(port: int) -> None:
    outgoing, incoming = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    wire = _Wire(outgoing, incoming)

    async def tcp(size: int, rounds: int) -> list[float]:
        wire.out.sendall(_SIZE.pack(size))
        return await asyncio.to_thread(exchange_rounds, wire.exchange, size, rounds)

    await answer_commands({"tcp": tcp})


if __name__ == "__main__":
    role, port = sys.argv[1:]
    if role == "serve":
        _serve(int(port))
    else:
        asyncio.run(_drive(int(port)))
