"""Real processes: TLS 1.3, both sides authenticated, trusting exactly the federation's certificates.

The standard library's ``ssl`` cannot pin a fingerprint: a context trusts the expected self-signed
certificates as roots, and the certificate that was presented is then compared byte for byte.
Frame links and lanes share one port and differ in ALPN. Who connects without a member's certificate is
turned away before a byte of veilsum's own is read.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from veilsum.errors import ConfigError, PeerLost
from veilsum.net.config import NetConfig
from veilsum.net.handshake import connect, prompt, read_name, send_name, shake, split_address
from veilsum.net.link import Link
from veilsum.net.ports import Links, SocketPair
from veilsum.parties import Federation, PartyId

LINK, LANE = "veilsum-link", "veilsum-lane"
_ARRIVALS = 64  # connections of one peer that nobody has taken yet
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's verify codes
_REFUSALS = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "ACCESS_DENIED")
_STRANGERS = ("WRONG_VERSION_NUMBER", "PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_APPLICATION_PROTOCOL")

LoadKey = Callable[[ssl.SSLContext], None]
_Key = tuple[PartyId, str, str]  # who came, link or lane, for what


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
        self._greeting: dict[asyncio.Task[None], None] = {}
        self._arrivals: dict[_Key, ssl.SSLSocket] = {}
        self._arrived = asyncio.Event()
        self._taken: dict[_Key, Link] = {}

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
        tasks = [task for task in (self._accepting, *self._greeting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        while self._arrivals:
            self._arrivals.popitem()[1].close()

    @property
    def port(self) -> int:
        """The port that the listener got (for addresses with port 0)."""
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    # -- the port's two calls

    async def link(self, peer: PartyId, purpose: str) -> Link:
        """Dial the peer, or wait until it has dialled, as the federation says."""
        if self._dials(peer):
            return self._as_link(peer, await self._dial(peer, LINK, purpose))
        link = self._as_link(peer, await self._take(peer, LINK, purpose))
        self._taken[peer, LINK, purpose] = link
        return link

    async def sockets(self, peer: PartyId, label: str) -> SocketPair:
        """Return two blocking TLS connections; whoever dials links dials these."""
        there, back = (f"{label}/{a}>{b}" for a, b in ((self._me, peer), (peer, self._me)))
        get = self._dial if self._dials(peer) else self._take
        first = await get(peer, LANE, there)
        try:
            second = await get(peer, LANE, back)
        except BaseException:
            first.close()
            raise
        first.setblocking(True)
        second.setblocking(True)
        return SocketPair(first, second)

    def _dials(self, peer: PartyId) -> bool:
        dialler = self._federation.dialler(self._me, peer)
        if dialler is None:
            raise ConfigError(
                f"neither {self._me} nor {peer} has an address",
                remedy="give one of them an address in federation.toml",
                party=self._me,
            )
        return dialler == self._me

    def _as_link(self, peer: PartyId, tls: ssl.SSLSocket) -> Link:
        def explain(error: OSError) -> BaseException:
            return (_refused(error, peer, self._me) or error) if isinstance(error, ssl.SSLError) else error

        return Link(tls, write_chunk=self._config.write_chunk, explain=explain)

    # -- dialling

    async def _dial(self, peer: PartyId, protocol: str, name: str) -> ssl.SSLSocket:
        member = self._federation.members[peer]
        context = self._context(ssl.PROTOCOL_TLS_CLIENT, [member.certificate], [protocol])
        try:
            async with asyncio.timeout(self._config.handshake_timeout):
                tls = await shake(await connect(member.address), context, server_side=False)
                try:
                    self._compare(peer, tls)
                    await send_name(tls, name)
                except BaseException:
                    tls.close()
                    raise
                return tls
        except ssl.SSLCertVerificationError as error:
            raise self._expired(peer, error) or self._foreign(peer) from error
        except ssl.SSLError as error:
            raise _refused(error, peer, self._me) or self._other_program(peer, error) or error from error

    def _compare(self, peer: PartyId, tls: ssl.SSLSocket) -> None:
        if tls.getpeercert(binary_form=True) != self._federation.members[peer].certificate:
            raise self._foreign(peer)

    def _foreign(self, peer: PartyId) -> ConfigError:
        member = self._federation.members[peer]
        return ConfigError(
            f"whoever answers at {member.address} has not {peer}'s certificate {member.fingerprint[:16]}…",
            remedy=f"check the address, or add {peer}'s new card to the federation",
            party=self._me,
        )

    def _expired(self, peer: PartyId, error: ssl.SSLCertVerificationError) -> ConfigError | None:
        if error.verify_code not in {_EXPIRED, _NOT_YET}:
            return None
        state = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return ConfigError(
            f"{peer}'s certificate {state}",
            remedy=f"check the clocks; ask {peer} to renew its certificate, and add its new card",
            party=self._me,
        )

    def _other_program(self, peer: PartyId, error: ssl.SSLError) -> ConfigError | None:
        if not any(word in (error.reason or "") for word in _STRANGERS):
            return None
        return ConfigError(
            f"whoever answers at {self._federation.members[peer].address} does not speak TLS 1.3",
            remedy=f"check the address of {peer}, and that nothing in between ends TLS",
            party=self._me,
        )

    # -- answering

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                raw, _ = await loop.sock_accept(listener)
            except OSError:  # too many open files, or a connection that is gone already
                await asyncio.sleep(self._config.redial_pause)
                continue
            pending = [task for task in self._greeting if not task.cancelling()]
            if len(pending) >= self._config.pending_handshakes:
                # the one that has dawdled longest: strangers who say nothing keep no member out
                pending[0].cancel()
            task = asyncio.create_task(self._greet(raw))
            self._greeting[task] = None
            task.add_done_callback(self._greeting.pop)

    async def _greet(self, raw: socket.socket) -> None:
        """Shake hands with whoever came; strangers are turned away with no more than TLS's own alert."""
        raw.setblocking(False)
        with suppress(OSError, PeerLost):
            async with asyncio.timeout(self._config.handshake_timeout):
                prompt(raw)
                tls = await shake(raw, self._server, server_side=True)
                try:
                    self._arrive(
                        (self._member(tls), tls.selected_alpn_protocol() or "", await read_name(tls)), tls
                    )
                except BaseException:
                    tls.close()
                    raise

    def _member(self, tls: ssl.SSLSocket) -> PartyId:
        # a member's certificate could have signed another one
        peer = self._by_certificate.get(tls.getpeercert(binary_form=True) or b"")
        if peer is None:
            raise PeerLost("a stranger")
        return peer

    def _arrive(self, key: _Key, tls: ssl.SSLSocket) -> None:
        # the newest counts: a peer dials again only when it has given its last connection up
        taken = self._taken.pop(key, None)
        if taken is not None:
            taken.fail(PeerLost(f"{key[0]} has connected again"))
        stale = self._arrivals.pop(key, None)
        waiting = [other for other in self._arrivals if other[0] == key[0]]
        if stale is None and len(waiting) >= _ARRIVALS:
            stale = self._arrivals.pop(waiting[0])
        if stale is not None:
            stale.close()
        self._arrivals[key] = tls
        self._arrived.set()

    async def _take(self, peer: PartyId, protocol: str, name: str) -> ssl.SSLSocket:
        key = (peer, protocol, name)
        while key not in self._arrivals:
            self._arrived.clear()
            await self._arrived.wait()
        return self._arrivals.pop(key)

    # -- contexts

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


def _refused(error: ssl.SSLError, peer: PartyId, me: PartyId) -> ConfigError | None:
    """Return what it means when the other side ended the handshake with an alert about our certificate."""
    if not any(word in (error.reason or "") for word in _REFUSALS):
        return None
    if "EXPIRED" in error.reason:
        return ConfigError(
            f"{peer} refuses the certificate of {me}, which has expired",
            remedy=f"renew {me}'s certificate, send its new card to the others, and check all clocks",
            party=me,
        )
    return ConfigError(
        f"{peer} refuses the certificate of {me}, which it does not know",
        remedy=f"send {me}'s card to {peer} and have it added to the federation there",
        party=me,
    )


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
