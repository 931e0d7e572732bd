"""What a peer with a valid certificate can do to a session, and what a cancelled task can."""

import asyncio
import tracemalloc
from contextlib import suppress

import msgspec
import numpy as np
import pytest

from net.puppet import ANN, BOB, TYPES, Note, Order, Puppet, job
from veilsum.errors import ConfigError, PeerAborted, PeerLost, ProtocolError, StepTimeout, VeilsumError
from veilsum.net import link as link_module
from veilsum.net.config import KIB, MIB
from veilsum.net.control import Abort, Beat, Bye, Credit, Hello, Opening, Payload, Resume
from veilsum.net.messages import encode
from veilsum.net.transcript import ENTRIES
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.conformance import job_of

BIG = np.zeros(300 * KIB, np.uint8)


async def one_note(session):
    return (await session[BOB].recv(Note)).number


async def for_ever(session):
    del session
    await asyncio.Event().wait()


def notes(count, data=None):
    return [Note(n, np.empty(0, np.uint8) if data is None else data) for n in range(count)]


def test_an_honest_puppet(clean):
    async def by_hand(bob):
        await bob.open()
        bob.send(Note(42))
        bob.send(Bye())

    assert clean(lambda: Puppet().against(one_note, by_hand)) == 42


# -- the handshake


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"party": "eve"}, ProtocolError, "calls itself 'eve'"),
        ({"wire_version": 2}, ConfigError, "differ"),
        ({"schema": b"other"}, ConfigError, "differ"),
        ({"seen": 7}, ProtocolError, "never sent"),
        ({"seen": -1}, ProtocolError, "forgotten"),
        ({"version": "1\x1b[31m"}, None, ""),
        ({"schema": b"x", "version": "1\x1b[31m"}, ConfigError, r"'1\x1b[31m'"),
    ],
)
def test_wrong_hellos(clean, wrong, kind, words):
    async def by_hand(bob):
        try:
            await bob.connect(**wrong)
        except (PeerLost, OSError):
            return
        if kind is None:
            bob.send(Bye())

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, kind or VeilsumError)
    assert words in str(error)
    assert "\x1b" not in str(error)


def test_a_first_frame_that_is_none(clean):
    async def by_hand(bob):
        bob.link = await bob.links[BOB].link(ANN, "control")
        bob.raw(16, encode(Note(1)))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, ProtocolError)
    assert "did not begin with a Hello" in str(error)


def test_a_large_frame_right_behind_the_hello(clean):
    """A fast peer's first real frame may come in one piece with its Hello."""

    async def by_hand(bob):
        bob.link = await bob.links[BOB].link(ANN, "control")
        bob.link.close, close = (lambda: None), bob.link.close
        link, out = bob.link, []
        bob.link = type("Sink", (), {"post": lambda self, head, parts: out.append(head + b"".join(parts))})()
        bob.raw(0, encode(Hello(1, BOB, b"s", _schema(), "0", 1)))
        bob.sequence = 1
        bob.send(Opening(b"another job", {f"key {n}": bytes(8) for n in range(5000)}, b"", 0))
        bob.link = link
        link.close = close
        link.post(b"".join(out), [])
        await asyncio.sleep(0.2)

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert "the job differs" in str(error)


def _schema():
    from veilsum.net.messages import schema_digest

    return schema_digest(TYPES)


def test_a_frame_begun_before_the_handshake_was_over_is_admitted_like_any_other(clean):
    """Its header used to be judged by the rule for first frames alone."""

    async def by_hand(bob):
        bob.link = await bob.links[BOB].link(ANN, "control")
        hello = b"".join(encode(Hello(1, BOB, b"s", _schema(), "0", 1)))
        head = link_module.pack_header(0, 0, len(hello), 0, 0)
        half = link_module.pack_header(0, 17, 100, 55, 5)  # an Order, which is not Bob's to send
        bob.link.post(head + hello + half + bytes(50), [])
        await asyncio.sleep(0.1)
        bob.link.post(bytes(50), [])

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, ProtocolError)


def test_a_peer_that_was_started_again(clean):
    async def by_hand(bob):
        await bob.open()
        bob.link.fail(PeerLost("crash"))
        await asyncio.sleep(0.05)
        await bob.connect(session=b"a new one")

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, PeerLost)
    assert "started again" in str(error)


def test_a_peer_that_was_started_again_before_it_said_anything(clean):
    async def by_hand(bob):
        await bob.connect(session=b"an old one")
        bob.link.fail(PeerLost("crash"))
        await asyncio.sleep(0.05)
        await bob.open()
        bob.send(Note(42))
        bob.send(Bye())

    assert clean(lambda: Puppet().against(one_note, by_hand)) == 42


def test_coming_and_going_gains_nothing(clean):
    """A peer that only reconnects is held to one connection per pause."""
    connected = []

    async def by_hand(bob):
        await bob.open()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 0.6:
            bob.link.fail(PeerLost("again"))
            hello = await bob.connect(seen=3)
            connected.append(hello.seen)
        bob.link.attach(lambda _: None, lambda *_: None, lambda _: None)
        bob.raw(bob.number(Bye), encode(Bye()), sequence=3, run=bob.run)

    result = clean(lambda: Puppet().against(_nothing, by_hand))
    assert isinstance(result, VeilsumError) or result is None
    assert 2 <= len(connected) <= 8


async def _nothing(session):
    await session[BOB].said_bye.wait()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda job_hash, keys: Opening(job_hash, keys, b"", -1),
        lambda job_hash, keys: Resume(run=b"", memory=b"", attempt=1, stages={"sign": -3}),
    ],
)
def test_numbers_below_zero(clean, wrong):
    async def by_hand(bob):
        await bob.connect()
        bob.send(wrong(*bob.agreed()))
        if bob.sequence == 2:
            bob.send(Opening(*bob.agreed(), b"", 0))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, ProtocolError)


def test_a_key_with_words_for_a_terminal(clean):
    async def by_hand(bob):
        await bob.connect()
        bob.send(Opening(b"another", {"key\x1b[2J": b"x"}, b"", 0))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert "the job differs" in str(error)
    assert "\x1b" not in str(error)


# -- credit, beats, and other floods


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Credit(16, 1 << 62, 1), "more credit"),
        (Credit(16, 1, 1), "more credit"),
        (Credit(16, -5, 1), "credit for nothing"),
        (Credit(999, 5, 1), "credit for nothing"),
        (Credit(-1, 5, 1), "credit for nothing"),
        (Credit(16, 0, 1 << 60), "never sent"),
    ],
)
def test_credit_that_was_not_earned(clean, said, words):
    async def by_hand(bob):
        await bob.open()
        bob.send(said)

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, ProtocolError)
    assert words in str(error)


def test_credit_without_seeing_keeps_nothing_alive_for_ever(clean):
    """Who grants credit for frames that it says it has not seen would have them all kept for resending."""
    sent = 0

    async def flood(session):
        nonlocal sent
        for note in notes(400, BIG):
            await session[BOB].send(note)
            sent += 1

    async def by_hand(bob):
        await bob.open()
        with suppress(PeerLost):  # once it has been told why
            for _ in range(100):
                await asyncio.sleep(0.01)
                bob.send(Credit(16, len(BIG), 1))

    error = clean(lambda: Puppet().against(flood, by_hand))
    assert isinstance(error, ProtocolError)
    assert sent * len(BIG) <= 5 * MIB


def test_a_flood_of_control_frames_fills_nothing(clean):
    async def by_hand(bob):
        await bob.open()
        await asyncio.sleep(0.05)
        tracemalloc.start()
        for _ in range(20):
            for _ in range(200):
                bob.raw(1, encode(Beat(1)))
                bob.send(Credit(16, 0, 1))
            await bob.link.drain()
            await asyncio.sleep(0)
        bob.send(Note(5))
        bob.send(Bye())
        await asyncio.sleep(0.2)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert size < 2 * MIB

    assert clean(lambda: Puppet(step_timeout=60).against(one_note, by_hand, within=20), debug=False) == 5


def test_a_second_opening(clean):
    async def by_hand(bob):
        await bob.open()
        await asyncio.sleep(0.05)
        bob.send(Opening(b"", {}, b"", 0))
        bob.send(Opening(b"", {}, b"", 0))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert "a second Opening" in str(error)


def test_refused_before_anything_is_allocated(clean, monkeypatch):
    """A header that announces too much is refused without room for its payload."""
    asked = []

    class Counting:
        uint8 = np.uint8

        @staticmethod
        def empty(size, kind):
            asked.append(size)
            return np.empty(size, kind)

    monkeypatch.setattr(link_module, "np", Counting)

    async def by_hand(bob):
        await bob.open()
        bob.send(Note(1, BIG))
        for size in (Note.wire.limit + 1, 0xFFFFFFFF):
            bob.link.post(link_module.pack_header(0, 16, size, bob.sequence, bob.run), [])

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert "over the limit" in str(error)
    assert max(asked) < Note.wire.limit


def test_frames_of_another_run_before_the_run_is_known(clean):
    async def by_hand(bob):
        await bob.connect()
        bob.run = 77
        bob.send(Note(1))
        bob.run = 0
        await asyncio.sleep(0.01)
        bob.send(Opening(b"", {}, b"", 0))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, VeilsumError)


def test_what_is_remembered_of_a_long_run_is_bounded(clean, monkeypatch):
    monkeypatch.setattr("veilsum.net.transcript.ENTRIES", 100)
    assert ENTRIES >= 100_000

    async def ann(session):
        await session[BOB].send_all(Note, notes(300))
        return len(session.transcript()), session[BOB].sent.messages

    async def bob(session):
        return len([note async for note in session[ANN].stream(Note)])

    results = clean(lambda: Cluster(job(), TYPES).play({ANN: ann, BOB: bob}))
    assert results == {ANN: (100, 301), BOB: 300}


# -- a peer that is slow, silent, or does not read


def test_a_peer_that_gives_no_credit_is_not_waited_for_without_end(clean):
    async def flood(session):
        for note in notes(100, BIG):
            await session[BOB].send(note)

    async def by_hand(bob):
        await bob.open()
        for _ in range(30):
            await asyncio.sleep(0.1)
            try:
                bob.raw(1, encode(Beat(3)))
            except PeerLost:
                return

    error = clean(lambda: Puppet(step_timeout=0.5).against(flood, by_hand))
    assert isinstance(error, StepTimeout)


def test_a_peer_that_does_not_read_but_lives(clean):
    """Its heart beats, its sockets are full: the sender's heart must not stop over it."""
    config = msgspec.structs.replace(FAST, window=64 * MIB)

    async def flood(session):
        for note in notes(100, BIG):
            await session[BOB].send(note)

    async def by_hand(bob):
        await bob.open()
        bob.link._loop.remove_reader(bob.link._fd)
        bob.link._flowing = False
        for _ in range(30):
            await asyncio.sleep(0.1)
            try:
                bob.raw(1, encode(Beat(3)))
            except PeerLost:
                return

    error = clean(lambda: Puppet(config=config, step_timeout=0.5).against(flood, by_hand))
    assert isinstance(error, StepTimeout)


def test_a_peer_that_neither_reads_nor_lives(clean):
    config = msgspec.structs.replace(FAST, window=64 * MIB)

    async def flood(session):
        for note in notes(100, BIG):
            await session[BOB].send(note)

    async def by_hand(bob):
        await bob.open()
        bob.link._loop.remove_reader(bob.link._fd)
        bob.link._flowing = False
        await asyncio.sleep(1.5)

    error = clean(lambda: Puppet(config=config, step_timeout=60).against(flood, by_hand))
    assert isinstance(error, PeerLost)
    assert "silent" in str(error)


def test_a_peer_that_stops_reading_right_after_it_came_back(clean):
    """What is sent again must not hold up the watch over the new link."""
    config = msgspec.structs.replace(FAST, window=64 * MIB)

    async def flood(session):
        for note in notes(30, BIG):
            await session[BOB].send(note)
        await asyncio.Event().wait()

    async def by_hand(bob):
        await bob.open()
        await asyncio.sleep(0.2)
        bob.link.fail(PeerLost("cut"))
        await bob.connect(seen=3)
        await asyncio.sleep(1.5)

    error = clean(lambda: Puppet(config=config, step_timeout=60).against(flood, by_hand))
    assert isinstance(error, PeerLost)
    assert "silent" in str(error)


def test_an_abort_with_a_strange_code(clean):
    async def by_hand(bob):
        await bob.open()
        bob.send(Abort("SystemExit\x1b[2J"))

    error = clean(lambda: Puppet().against(for_ever, by_hand))
    assert isinstance(error, PeerAborted)
    assert error.cause == "VeilsumError"
    assert "SystemExit" not in str(error)


# -- cancelled tasks


def both(ann, bob, **more):
    return Cluster(job(**more), TYPES).play({ANN: ann, BOB: bob})


def test_a_cancelled_send_leaves_no_gap(clean):
    async def ann(session):
        peer = session[BOB]
        for note in notes(3, np.zeros(1 << 19, np.uint8)):
            task = asyncio.create_task(peer.send(note))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await peer.end(Note)

    async def bob(session):
        return [note.number async for note in session[ANN].stream(Note)]

    assert clean(lambda: both(ann, bob)) == {ANN: None, BOB: [0, 1, 2]}


def test_a_cancelled_wait_for_credit_sends_nothing(clean):
    async def ann(session):
        peer = session[BOB]
        blocked = asyncio.create_task(peer.send_all(Note, notes(40, BIG)))
        await asyncio.sleep(0.05)
        blocked.cancel()
        await asyncio.gather(blocked, return_exceptions=True)
        await peer.send(Order("go on"))
        await peer.end(Note)
        return blocked.cancelled()

    async def bob(session):
        await session[ANN].recv(Order)
        got = [note.number async for note in session[ANN].stream(Note)]
        return got == list(range(len(got))) and 5 < len(got) < 40

    assert clean(lambda: both(ann, bob)) == {ANN: True, BOB: True}


def test_a_cancelled_recv_loses_no_message(clean):
    async def ann(session):
        await session[BOB].send_all(Note, notes(200, np.zeros(50_000, np.uint8)))

    async def bob(session):
        peer, got = session[ANN], []
        while len(got) < 200:
            task = asyncio.create_task(peer.recv(Note))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                got.append(task.result().number)
        async for _ in peer.stream(Note):
            raise AssertionError
        return got

    assert clean(lambda: both(ann, bob)) == {ANN: None, BOB: list(range(200))}


def test_a_cancelled_recv_does_not_deafen_the_next(clean):
    """The old one's cleaning up used to take the new one's waiting place away."""

    async def ann(session):
        await session[BOB].recv(Note)
        await asyncio.sleep(0.05)
        await session[BOB].send(Note(9))

    async def bob(session):
        peer = session[ANN]
        first = asyncio.create_task(peer.recv(Note))
        await asyncio.sleep(0.01)
        first.cancel()
        await peer.send(Note(1))
        return (await peer.recv(Note)).number

    assert clean(lambda: both(ann, bob)) == {ANN: None, BOB: 9}


def test_two_receivers_of_one_type(clean):
    async def ann(session):
        await session[BOB].send(Note(1))
        await asyncio.sleep(0.02)
        await session[BOB].send(Note(2))

    async def bob(session):
        got = await asyncio.gather(session[ANN].recv(Note), session[ANN].recv(Note))
        return [note.number for note in got]

    assert clean(lambda: both(ann, bob)) == {ANN: None, BOB: [1, 2]}


def test_many_senders_at_once_keep_the_numbers_in_order(clean):
    """A short frame must not overtake one that waits for its turn."""
    size = 1 << 19

    async def ann(session):
        async def send(turn):
            for n in range(40):
                data = np.zeros(size if (n + turn) % 3 == 0 else n, np.uint8)
                await session[BOB].send(Note(n, data))

        await asyncio.gather(*(send(turn) for turn in range(4)))
        await session[BOB].end(Note)

    async def bob(session):
        return len([note async for note in session[ANN].stream(Note)])

    assert clean(lambda: both(ann, bob)) == {ANN: None, BOB: 160}


# -- breaks


def test_breaks_under_load(clean):
    """Everything arrives once and in order, although the link breaks again and again."""
    sizes = [(n * 7919) % 60_000 for n in range(300)]

    async def part(session):
        (peer,) = session.peers.values()

        async def cut():
            for turn in range(8):
                await asyncio.sleep(0.15 + turn / 100)
                if peer._link is not None and session.me == (ANN if turn % 2 else BOB):
                    peer._link.fail(ConnectionResetError())

        async def send():
            for n, size in enumerate(sizes):
                await peer.send(Note(n, np.full(size, n % 251, np.uint8)))
                await asyncio.sleep(0.004)
            await peer.end(Note)

        async with asyncio.TaskGroup() as group:
            cutting = group.create_task(cut())
            group.create_task(send())
            got = [(note.number, len(note.data)) async for note in peer.stream(Note)]
            cutting.cancel()
        return got == list(enumerate(sizes))

    assert clean(lambda: both(part, part)) == {ANN: True, BOB: True}


# -- unforeseen errors


def test_an_unforeseen_error_of_a_backend_ends_the_run(clean):
    from veilsum.testing.faults import FaultyLinks

    class Broken(FaultyLinks):
        def __init__(self, inner):
            self._inner = inner

        async def link(self, peer, purpose):
            raise ZeroDivisionError

    def wrap(me, links):
        return Broken(links) if me == BOB else links

    config = msgspec.structs.replace(FAST, connect_timeout=0.5)
    cluster = Cluster(job(), TYPES, wrap=wrap, config=config)
    results = clean(lambda: cluster.play({ANN: for_ever, BOB: for_ever}))
    assert isinstance(results[BOB], VeilsumError)
    assert "ZeroDivisionError" in str(results[BOB])
    assert isinstance(results[ANN], PeerLost)


def test_an_unforeseen_error_of_a_watcher_ends_the_run(clean):
    def sink(event):
        if type(event).__name__ == "Waiting":
            raise ZeroDivisionError

    results = clean(lambda: Cluster(job(), TYPES, sink=sink).play({ANN: for_ever, BOB: one_from_ann}))
    assert isinstance(results[BOB], VeilsumError), results
    assert isinstance(results[ANN], VeilsumError), results


async def one_from_ann(session):
    return await session[ANN].recv(Note)


def test_a_large_message_for_a_busy_party_arrives_before_the_sender_is_gone(clean):
    """Who is done first waits until its last words have arrived, however slow the reader is."""

    async def ann(session):
        await session[BOB].send(Payload(np.ones(30 * MIB, np.uint8)))

    async def bob(session):
        link = session[ANN]._link
        loop = asyncio.get_running_loop()
        loop.remove_reader(link._fd)
        for _ in range(8):  # in sips, for longer than a farewell lasts
            await asyncio.sleep(FAST.silence / 4)
            link._readable()
        loop.add_reader(link._fd, link._readable)
        return int((await session[ANN].recv(Payload)).data.sum())

    results = clean(lambda: Cluster(job_of(ANN, BOB), [Payload]).play({ANN: ann, BOB: bob}))
    assert results == {ANN: None, BOB: 30 * MIB}
