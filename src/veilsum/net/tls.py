"""Real processes: TLS 1.3, both sides authenticated, trusting exactly the federation's certificates.

The standard library's ``ssl`` cannot pin a fingerprint: a context trusts the expected self-signed
certificates as roots, and the certificate that was presented is then compared byte for byte.
Frame links and lanes share one port; a lane says so in ALPN, which the listener reads before it decides
between asyncio and a blocking handshake. Who connects without a member's certificate is turned away
before a byte of veilsum's own is read.
"""

import asyncio
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from veilsum.errors import ConfigError, PeerLost, VeilsumError
from veilsum.net.config import NetConfig
from veilsum.net.link import Link, pack_header
from veilsum.net.ports import Links, SocketPair
from veilsum.parties import Federation, PartyId

LINK, LANE = "veilsum-link", "veilsum-lane"
_LABEL = struct.Struct("<H")
_LABEL_LIMIT = 512
_REFUSALS = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "ACCESS_DENIED")

LoadKey = Callable[[ssl.SSLContext], None]


class TlsLinks(Links):
    """The port of one party of a federation.

    Args:
        load_key: puts this party's certificate and key into a context.
        listen: ``host:port`` to listen at; by default the party's address in the federation.

    Use it as an async context manager; inside, the listener stands.
    """

    def __init__(
        self,
        me: PartyId,
        federation: Federation,
        load_key: LoadKey,
        *,
        listen: str | None = None,
        config: NetConfig | None = None,
    ) -> None:
        self._me, self._federation, self._config = me, federation, config or NetConfig()
        self._load_key = load_key
        self._listen = listen or federation.members[me].address
        self._by_certificate = {m.certificate: p for p, m in federation.members.items() if p != me}
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._links: defaultdict[tuple[PartyId, str], asyncio.Queue[Link]] = defaultdict(asyncio.Queue)
        self._ends: defaultdict[tuple[PartyId, str], asyncio.Queue[socket.socket]] = defaultdict(
            asyncio.Queue
        )
        self._places = asyncio.Semaphore(self._config.pending_handshakes)

    async def __aenter__(self) -> Self:
        self._server = self._context(ssl.PROTOCOL_TLS_SERVER, list(self._by_certificate), [LINK, LANE])
        if self._listen:
            self._listener = _listen(self._listen, self._me)
            self._accepting = asyncio.create_task(self._accept(self._listener), name="listener")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        for task in (self._accepting, *self._greeting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if self._listener is not None:
            self._listener.close()
        for links in self._links.values():
            while not links.empty():
                links.get_nowait().close()
        for ends in self._ends.values():
            while not ends.empty():
                ends.get_nowait().close()

    @property
    def port(self) -> int:
        """The port that the listener got (for addresses with port 0)."""
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    # -- the port's two calls

    async def link(self, peer: PartyId, purpose: str) -> Link:
        """Dial the peer, or wait until it has dialled, as the federation says."""
        if self._dials(peer):
            return await self._dial(peer, purpose)
        return await self._links[peer, purpose].get()

    async def sockets(self, peer: PartyId, label: str) -> SocketPair:
        """Return two blocking TLS connections; whoever dials links dials these."""
        there, back = (f"{label}/{a}>{b}" for a, b in ((self._me, peer), (peer, self._me)))
        async with asyncio.timeout(self._config.connect_timeout):
            if self._dials(peer):
                out = await self._dial_lane(peer, there)
                return SocketPair(out, await self._dial_lane(peer, back))
            into = await self._ends[peer, back].get()
            return SocketPair(await self._ends[peer, there].get(), into)

    def _dials(self, peer: PartyId) -> bool:
        dialler = self._federation.dialler(self._me, peer)
        if dialler is None:
            raise ConfigError(
                f"neither {self._me} nor {peer} has an address",
                remedy="give one of them an address in federation.toml",
                party=self._me,
            )
        return dialler == self._me

    # -- dialling

    async def _dial(self, peer: PartyId, purpose: str) -> Link:
        host, port = split_address(self._federation.members[peer].address)
        context = self._client(peer, LINK)
        try:
            async with asyncio.timeout(self._config.handshake_timeout):
                _, link = await asyncio.get_running_loop().create_connection(
                    self._new_link, host, port, ssl=context, server_hostname=peer
                )
        except ssl.SSLCertVerificationError as error:
            raise self._foreign(peer) from error
        except ssl.SSLError as error:
            raise _refused(error, peer, self._me) or error from error
        if link.peer_certificate() != self._federation.members[peer].certificate:
            link.close()
            raise self._foreign(peer)
        name = purpose.encode()
        await link.send(pack_header(0, 0, len(name), 0, 0), [name])
        return link

    async def _dial_lane(self, peer: PartyId, label: str) -> socket.socket:
        host, port = split_address(self._federation.members[peer].address)
        return await asyncio.to_thread(self._shake_lane, peer, host, port, label)

    def _shake_lane(self, peer: PartyId, host: str, port: int, label: str) -> socket.socket:
        raw = socket.create_connection((host, port), timeout=self._config.handshake_timeout)
        try:
            _prompt(raw)
            tls = self._client(peer, LANE).wrap_socket(raw, server_hostname=peer)
            name = label.encode()
            tls.sendall(_LABEL.pack(len(name)) + name)
            tls.settimeout(None)
            shown = tls.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError as error:
            raw.close()
            raise self._foreign(peer) from error
        except BaseException:
            raw.close()
            raise
        if shown != self._federation.members[peer].certificate:
            tls.close()
            raise self._foreign(peer)
        return tls

    def _foreign(self, peer: PartyId) -> ConfigError:
        member = self._federation.members[peer]
        return ConfigError(
            f"whoever answers at {member.address} has not {peer}'s certificate {member.fingerprint[:16]}…",
            remedy=f"check the address, or add {peer}'s new card to the federation",
            party=self._me,
        )

    # -- answering

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            raw, _ = await loop.sock_accept(listener)
            await self._places.acquire()
            task = asyncio.create_task(self._greet(raw))
            self._greeting.add(task)
            task.add_done_callback(self._greeted)

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        self._places.release()

    async def _greet(self, raw: socket.socket) -> None:
        """Shake hands with whoever came; strangers are turned away without a word."""
        raw.setblocking(False)
        _prompt(raw)
        try:
            async with asyncio.timeout(self._config.handshake_timeout):
                if await _wants_lane(raw):
                    peer, label, end = await asyncio.to_thread(self._answer_lane, raw)
                    self._ends[peer, label].put_nowait(end)
                else:
                    _, link = await asyncio.get_running_loop().connect_accepted_socket(
                        self._new_link, raw, ssl=self._server
                    )
                    await self._route(link)
        except (OSError, TimeoutError, VeilsumError, UnicodeDecodeError):
            raw.close()

    async def _route(self, link: Link) -> None:
        peer = self._by_certificate.get(link.peer_certificate() or b"")
        if peer is None:
            link.fail(PeerLost("a stranger"))
            return
        _, purpose = await link.recv()
        self._links[peer, bytes(purpose).decode()].put_nowait(link)

    def _answer_lane(self, raw: socket.socket) -> tuple[PartyId, str, socket.socket]:
        raw.settimeout(self._config.handshake_timeout)
        tls = self._server.wrap_socket(raw, server_side=True)
        peer = self._by_certificate.get(tls.getpeercert(binary_form=True) or b"")
        (size,) = _LABEL.unpack(_read(tls, _LABEL.size))
        if peer is None or size > _LABEL_LIMIT:
            raise PeerLost("a stranger")
        label = _read(tls, size).decode()
        tls.settimeout(None)
        # the label names the dialler's direction of sending; from here it is the other way round
        return peer, label, tls

    # -- contexts

    def _new_link(self) -> Link:
        return _TlsLink(self._me, write_chunk=self._config.write_chunk)

    def _client(self, peer: PartyId, protocol: str) -> ssl.SSLContext:
        certificate = self._federation.members[peer].certificate
        return self._context(ssl.PROTOCOL_TLS_CLIENT, [certificate], [protocol])

    def _context(self, side: int, trusted: list[bytes], protocols: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate itself is compared
        context.verify_mode = ssl.CERT_REQUIRED
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # a client context refuses even the zero
        context.set_alpn_protocols(protocols)
        for certificate in trusted:
            context.load_verify_locations(cadata=certificate)
        self._load_key(context)
        return context


class _TlsLink(Link):
    """A link that says in words when the other side refused this party's certificate."""

    def __init__(self, me: PartyId, *, write_chunk: int) -> None:
        super().__init__(write_chunk=write_chunk)
        self._me = me

    def connection_lost(self, error: Exception | None) -> None:
        """Wake everybody who waits (asyncio)."""
        refusal = _refused(error, PartyId("the peer"), self._me) if isinstance(error, ssl.SSLError) else None
        super().connection_lost(refusal or error)


def _refused(error: ssl.SSLError, peer: PartyId, me: PartyId) -> ConfigError | None:
    """Return what it means when the other side ended the handshake with an alert about our certificate."""
    if not any(word in (error.reason or "") for word in _REFUSALS):
        return None
    return ConfigError(
        f"{peer} refuses the certificate of {me} ({(error.reason or '').lower().replace('_', ' ')})",
        remedy=f"send {me}'s card to the others and have them add it; check all clocks",
        party=me,
    )


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(address: str, me: PartyId) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{me} cannot listen at {address}: {error.strerror or error}",
            remedy="end the program that holds the port, or change this party's address",
            party=me,
        ) from error
    listener.setblocking(False)
    return listener


def _prompt(raw: socket.socket) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _wants_lane(raw: socket.socket) -> bool:
    """Look whether the ClientHello asks for a lane, leaving it in the socket."""
    loop = asyncio.get_running_loop()
    seen = -1
    while True:
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(raw, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(raw)
        hello = raw.recv(16384, socket.MSG_PEEK)
        whole = len(hello) >= 5 and len(hello) >= 5 + int.from_bytes(hello[3:5], "big")
        if whole or not hello:
            return bytes([len(LANE)]) + LANE.encode() in hello
        if len(hello) == seen:  # the rest is still under way, and a readable socket would spin
            await asyncio.sleep(0.01)
        seen = len(hello)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise PeerLost("closed during the handshake")
        data += more
    return data
