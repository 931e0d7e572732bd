"""Strangers, wrong certificates, old protocols and half-open connections at the TLS port."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import struct

import msgspec
import numpy as np
import pytest

from veilsum.errors import ConfigError, PeerAborted, PeerLost
from veilsum.net.control import Payload
from veilsum.net.tls import LINK, TlsLinks
from veilsum.node.identity import generate
from veilsum.parties import Federation, Member
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.conformance import free_port, job_of

ANN, BOB, CLEO = "ann", "bob", "cleo"
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


class Town:
    """Ann listens, Bob dials; each may hold a card of the other that is not the true one."""

    def __init__(self, *, ann_born=None, bob_born=None):
        self.ann, self.bob = generate(ANN, now=ann_born), generate(BOB, now=bob_born)
        self.address = f"127.0.0.1:{free_port()}"
        self.config = msgspec.structs.replace(FAST, connect_timeout=1.0)

    def federation(self, *, ann=None, bob=None):
        members = {
            ANN: Member((ann or self.ann).certificate, self.address),
            BOB: Member((bob or self.bob).certificate),
        }
        return Federation("test", members)

    def links(self, me, federation=None):
        own = self.ann if me == ANN else self.bob
        return TlsLinks(me, federation or self.federation(), own.load_into, config=self.config)

    async def run(self, *, ann=None, bob=None):
        """Play a small job; ``ann`` and ``bob`` are the federations that each of them holds."""

        async def play(session):
            (peer,) = session.peers.values()
            await peer.send(Payload(np.full(100_000, 7, np.uint8)))
            return int((await peer.recv(Payload)).data.sum())

        async with self.links(ANN, ann) as at_ann, self.links(BOB, bob) as at_bob:
            links = {ANN: at_ann, BOB: at_bob}
            cluster = Cluster(job_of(ANN, BOB), [Payload], links=links, config=self.config)
            async with asyncio.timeout(8):
                return await cluster.play({ANN: play, BOB: play})


GOOD = {ANN: 700_000, BOB: 700_000}


def seconds():
    return asyncio.get_running_loop().time()


def test_a_run(clean):
    assert clean(lambda: Town().run()) == GOOD


def test_foreign_certificate_at_the_dialled_address(clean):
    town = Town()

    async def play():
        began = seconds()
        results = await town.run(bob=town.federation(ann=generate(ANN)))
        return results, seconds() - began

    results, took = clean(play)
    assert isinstance(results[BOB], ConfigError)
    assert "has not ann's certificate" in results[BOB].message
    assert "card" in results[BOB].remedy
    assert isinstance(results[ANN], PeerLost)  # nobody came
    assert took < 5


def test_expired_certificate_of_the_listener(clean):
    results = clean(lambda: Town(ann_born=LONG_AGO).run())
    assert isinstance(results[BOB], ConfigError)
    assert "ann's certificate has expired" in results[BOB].message


def test_expired_certificate_of_the_dialler(clean):
    results = clean(lambda: Town(bob_born=LONG_AGO).run())
    assert isinstance(results[BOB], ConfigError)
    assert "ann refuses the certificate of bob, which has expired" in results[BOB].message


def test_certificate_that_is_not_valid_yet(clean):
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    results = clean(lambda: Town(ann_born=later).run())
    assert isinstance(results[BOB], ConfigError)
    assert "is not valid yet" in results[BOB].message


async def _talk(links, size=0):
    link = await links.link(ANN, "control")
    for _ in range(3):
        with contextlib.suppress(PeerLost):
            await link.send(bytes(24), [bytes(size)])
        await asyncio.sleep(size / 1e6)
    await link.recv()


def test_a_card_that_was_not_added(clean):
    town = Town()

    async def play():
        began = seconds()
        async with town.links(ANN, town.federation(bob=generate(BOB))), town.links(BOB) as at_bob:
            for _ in range(20):  # every time, whichever of data, alert and reset is read first
                with pytest.raises(ConfigError, match="which it does not know") as caught:
                    await _talk(at_bob)
                assert "card" in caught.value.remedy
        return seconds() - began

    assert clean(play) < 5


def test_a_card_that_was_not_added_ends_the_run(clean):
    town = Town()
    results = clean(lambda: town.run(ann=town.federation(bob=generate(BOB))))
    assert isinstance(results[BOB], ConfigError)
    assert isinstance(results[ANN], PeerLost)


def test_the_alert_is_read_although_the_connection_was_reset(clean):
    """The listener resets right behind its alert, while the dialler is sending."""
    town = Town()

    def rude(listener):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        town.ann.load_into(context)
        context.set_alpn_protocols([LINK])
        raw, _ = listener.accept()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tls = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(ssl.SSLError):
            tls.do_handshake()
        tls.close()

    async def play():
        with socket.create_server(("127.0.0.1", int(town.address.split(":")[1]))) as listener:
            serving = asyncio.create_task(asyncio.to_thread(rude, listener))
            async with town.links(BOB) as at_bob:
                with pytest.raises(ConfigError, match="does not know"):
                    await _talk(at_bob, 40_000)
            await serving

    clean(play)


def test_a_certificate_signed_by_a_member_is_no_members(clean):
    """OpenSSL trusts what a trusted key has signed; the byte-for-byte comparison does not."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    town = Town()
    parent = x509.load_der_x509_certificate(town.bob.certificate)
    key = Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(
        issuer_name=parent.subject,
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "child")]),
        public_key=key.public_key(),
        serial_number=7,
        not_valid_before=parent.not_valid_before_utc,
        not_valid_after=parent.not_valid_after_utc,
    )
    child = builder.sign(town.bob._key, None)

    def load(context):
        import os

        handle = os.memfd_create("child")
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(handle, "wb") as file:
            file.write(pem + child.public_bytes(Encoding.PEM) + parent.public_bytes(Encoding.PEM))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{handle}")

    async def play():
        async with town.links(ANN) as at_ann:
            async with TlsLinks(BOB, town.federation(), load, config=FAST) as posing:
                with pytest.raises((ConfigError, PeerLost, OSError)):
                    await _talk(posing)
            assert not at_ann._arrivals

    clean(play)


# -- strangers on the port


async def stranger(address, words=b""):
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if words:
            writer.write(words)
            await writer.drain()
    except OSError:  # turned away already
        writer.transport.abort()
        raise
    return reader, writer


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(5000), b"\x16\x03\x01\xff\xff\x01" + bytes(70_000), b"\x16"],
    ids=["http", "zeros", "endless hello", "one byte"],
)
def test_garbage_on_the_port(clean, words):
    town = Town()

    async def play():
        async def knock():
            writers = []
            while len(writers) < 5:
                try:
                    writers.append((await stranger(town.address, words))[1])
                except OSError:
                    await asyncio.sleep(0.01)
            return writers

        knocking = asyncio.create_task(knock())
        results = await town.run()
        for writer in await knocking:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return results

    assert clean(play) == GOOD


def test_silent_connections_do_not_keep_members_out(clean):
    """More of them than handshakes may be pending, held open for the whole run."""
    town = Town()
    town.config = msgspec.structs.replace(FAST, pending_handshakes=4)

    async def play():
        async with town.links(ANN) as at_ann:
            silent = [await stranger(town.address) for _ in range(12)]
            began = seconds()
            async with town.links(BOB) as at_bob:
                link, other = await asyncio.gather(at_bob.link(ANN, "x"), at_ann.link(BOB, "x"))
            took = seconds() - began
            assert len(at_ann._greeting) <= 4
            gone = [reader for reader, _ in silent if reader.at_eof() or reader._transport.is_closing()]
            for one in (link, other):
                one.fail(PeerLost("end"))
        for _, writer in silent:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return took, len(gone)

    took, gone = clean(play)
    assert took < 1
    assert gone >= 7  # the first to come were turned away


def test_a_member_that_dials_without_end_fills_nothing(clean):
    town = Town()

    async def play():
        async with town.links(ANN) as at_ann, town.links(BOB) as at_bob:
            for number in range(70):
                link = await at_bob.link(ANN, f"purpose {number}")
                link.fail(PeerLost("gone"))
            await asyncio.sleep(0.05)
            return len(at_ann._arrivals)

    assert clean(play) == 64


def test_the_newest_connection_counts(clean):
    town = Town()

    async def play():
        async with town.links(ANN) as at_ann, town.links(BOB) as at_bob:
            stale = [await at_bob.link(ANN, "control") for _ in range(3)]
            await stale[-1].send(bytes.fromhex("56" + "00" * 23), [])
            await asyncio.sleep(0.05)
            taken = await at_ann.link(BOB, "control")
            assert (await taken.recv())[0].type == 0
            fresh = await at_bob.link(ANN, "control")
            again = await at_ann.link(BOB, "control")
            # and breaks the one before it, which may be half open
            assert isinstance(taken._closed, PeerLost)
            for link in (*stale, fresh, again):
                link.fail(PeerLost("end"))

    clean(play)


def test_only_tls_1_3(clean):
    town = Town()

    async def play():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        town.bob.load_into(context)
        host, port = town.address.split(":")
        async with town.links(ANN):
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await asyncio.open_connection(host, int(port), ssl=context)

    clean(play)


def test_an_old_server_at_the_dialled_address(clean):
    town = Town()

    def serve(listener):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        town.ann.load_into(context)
        raw, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True):
            pass
        raw.close()

    async def play():
        with socket.create_server(("127.0.0.1", int(town.address.split(":")[1]))) as listener:
            serving = asyncio.create_task(asyncio.to_thread(serve, listener))
            async with town.links(BOB) as at_bob:
                with pytest.raises(ConfigError, match=r"does not speak TLS 1\.3"):
                    await at_bob.link(ANN, "control")
            await serving

    clean(play)


def test_a_server_that_speaks_something_else(clean):
    town = Town()

    async def play():
        host, port = town.address.split(":")

        def answer(_, writer):
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            writer.close()

        server = await asyncio.start_server(answer, host, int(port))
        async with server, town.links(BOB) as at_bob:
            with pytest.raises(ConfigError, match=r"does not speak TLS 1\.3"):
                await at_bob.link(ANN, "control")
        await asyncio.sleep(0.05)

    clean(play)


def test_a_server_that_says_nothing(clean):
    town = Town()
    town.config = msgspec.structs.replace(FAST, handshake_timeout=0.2)

    async def play():
        port = int(town.address.split(":")[1])
        with socket.create_server(("127.0.0.1", port)):
            async with town.links(BOB) as at_bob:
                with pytest.raises(TimeoutError):
                    await at_bob.link(ANN, "control")
                with pytest.raises(TimeoutError):
                    await at_bob.sockets(ANN, "lane")

    clean(play)


def test_nobody_listens(clean):
    town = Town()
    town.config = msgspec.structs.replace(FAST, connect_timeout=0.5)

    async def play():
        async with town.links(BOB) as at_bob:
            cluster = Cluster(
                job_of(ANN, BOB), [Payload], links={ANN: at_bob, BOB: at_bob}, config=town.config
            )
            with pytest.raises(PeerLost, match="ann did not come"):
                async with cluster.session(BOB):
                    pass

    clean(play)


def test_the_port_is_taken(clean):
    town = Town()

    async def play():
        with socket.create_server(("127.0.0.1", int(town.address.split(":")[1]))):
            with pytest.raises(ConfigError, match="cannot listen") as caught:
                async with town.links(ANN):
                    pass
            assert caught.value.remedy

    clean(play)


def test_neither_has_an_address(clean):
    town = Town()
    members = {ANN: Member(town.ann.certificate), BOB: Member(town.bob.certificate)}

    async def play():
        async with town.links(ANN, Federation("test", members)) as at_ann:
            with pytest.raises(ConfigError, match="neither ann nor bob has an address"):
                await at_ann.link(BOB, "control")

    clean(play)


# -- a network between them


class Wire:
    """A relay in front of a port whose two sides can break apart."""

    def __init__(self, port):
        self._target, self.pipes, self.halves, self._tasks = port, [], [], set()

    async def __aenter__(self):
        self.joined = asyncio.Event()
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for pipe in self.pipes:
            for writer in pipe:
                writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _join(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pipe = (writer, far_writer)
        self.pipes.append(pipe)
        self.joined.set()
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink, pipe))
            self._tasks.add(task)

    async def _pass_on(self, source, sink, pipe):
        with contextlib.suppress(OSError):
            while words := await source.read(65536):
                sink.write(words)
                await sink.drain()
        if pipe in self.pipes:  # an end on purpose; a half-open connection is not passed on
            for writer in pipe:
                writer.close()

    def break_near(self):
        """Reset the dialler's side; the listener's stays open and silent."""
        near, _ = pipe = self.pipes[-1]
        self.pipes.remove(pipe)
        near.transport.abort()
        self.joined.clear()
        self.halves.append(pipe[1])


def test_half_open_connection_heals(clean):
    """The dialler's side is reset, the listener notices nothing: the new connection replaces the old one."""
    town = Town()

    async def play():
        ann_port = free_port()
        own = Federation(
            "test",
            {
                ANN: Member(town.ann.certificate, f"127.0.0.1:{ann_port}"),
                BOB: Member(town.bob.certificate),
            },
        )
        async with Wire(ann_port) as wire:
            town.address = f"127.0.0.1:{wire.port}"
            links_ann = TlsLinks(
                ANN, town.federation(), town.ann.load_into, listen=own.members[ANN].address, config=FAST
            )

            async def ann(session):
                return [int(got.data[0]) async for got in session[BOB].stream(Payload)]

            async def bob(session):
                async def numbers():
                    for number in range(30):
                        if number in {10, 20}:
                            await wire.joined.wait()
                            wire.break_near()
                        yield Payload(np.full(50_000, number, np.uint8))
                        await asyncio.sleep(0.01)

                await session[ANN].send_all(Payload, numbers())

            async with links_ann, town.links(BOB) as at_bob:
                cluster = Cluster(job_of(ANN, BOB), [Payload], links={ANN: links_ann, BOB: at_bob})
                results = await cluster.play({ANN: ann, BOB: bob})
            for half in wire.halves:
                half.close()
            return results

    assert clean(play) == {ANN: list(range(30)), BOB: None}


def test_many_parties_share_a_port(clean):
    names = ["p0", "p1", "p2", "p3", "p4"]

    async def play():
        own = {name: generate(name) for name in names}
        members = {n: Member(own[n].certificate, f"127.0.0.1:{free_port()}") for n in names}
        federation = Federation("test", members)
        async with contextlib.AsyncExitStack() as stack:
            links = {
                n: await stack.enter_async_context(TlsLinks(n, federation, own[n].load_into, config=FAST))
                for n in names
            }

            async def part(session):
                await session.broadcast(Payload(np.ones(9, np.uint8)))
                got = await session.gather(Payload)
                lanes = await session.in_lane("x", lambda lanes: sorted(map(_swap, lanes.values())))
                return len(got), lanes

            return await Cluster(job_of(*names), [Payload], links=links).play(dict.fromkeys(names, part))

    results = clean(play)
    assert all(result == (4, [b"hi"] * 4) for result in results.values()), results


def _swap(lane):
    into = bytearray(2)
    lane.exchange(b"hi", into)
    return bytes(into)


def test_abort_reaches_the_other_process_side(clean):
    town = Town()

    async def play():
        async def ann(session):
            await session[BOB].recv(Payload)
            raise ConfigError("stop")

        async def bob(session):
            for _ in range(100):
                await session[ANN].send(Payload(np.zeros(1 << 20, np.uint8)))
            await session[ANN].recv(Payload)

        async with town.links(ANN) as at_ann, town.links(BOB) as at_bob:
            links = {ANN: at_ann, BOB: at_bob}
            return await Cluster(job_of(ANN, BOB), [Payload], links=links).play({ANN: ann, BOB: bob})

    for _ in range(5):
        results = clean(play)
        assert isinstance(results[ANN], ConfigError)
        assert isinstance(results[BOB], PeerAborted)
        assert results[BOB].cause == "ConfigError"
