"""Sockets of lanes that somebody listens to, or spoils: what is below an engine's rounds."""

import socket

from veilsum.net.ports import Links, SocketPair


class Tapped(socket.socket):
    """A socket that says to somebody what is sent, who may send something else instead."""

    def __init__(self, inner, on_send):
        timeout = inner.gettimeout()
        super().__init__(fileno=inner.detach())
        self.settimeout(timeout)
        self.on_send = on_send

    def sendall(self, data, *flags):
        self.on_send(self, bytes(data))

    def pass_on(self, data):
        super().sendall(data)


class TappedLinks(Links):
    """Links whose lanes' outgoing sockets are tapped; ``on_send(peer)`` returns what is told of sends."""

    def __init__(self, inner, on_send):
        self._inner, self._on_send = inner, on_send

    async def link(self, peer, purpose):
        return await self._inner.link(peer, purpose)

    async def sockets(self, peer, label):
        pair = await self._inner.sockets(peer, label)
        return SocketPair(Tapped(pair.outgoing, self._on_send(peer)), pair.incoming)


def listened(log):
    """Return a ``wrap`` of a cluster that appends (sender, receiver, bytes) of everything on lanes."""

    def wrap(me, links):
        def on_send(peer):
            def note(sock, data):
                if data:
                    log.append((me, peer, len(data)))
                sock.pass_on(data)

            return note

        return TappedLinks(links, on_send)

    return wrap
