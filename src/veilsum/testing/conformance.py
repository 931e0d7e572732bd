"""What every backend of `Links` must do, as one suite: memory and TLS pass the same checks.

```
@pytest.mark.parametrize("check", SUITE)
@pytest.mark.parametrize("backend", [memory_links, tls_links])
def test_links(backend, check):
    asyncio.run(check(backend))
```
"""

import asyncio
import datetime as dt
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from veilsum.errors import PeerLost, ProtocolError, VeilsumError
from veilsum.jobs import Job
from veilsum.net.config import KIB, MIB
from veilsum.net.control import Payload
from veilsum.net.lane import Lane, run_lanes
from veilsum.net.link import Header, Link, pack_header
from veilsum.net.memory import MemoryHub
from veilsum.net.messages import Buffer, Data, Message, message
from veilsum.net.ports import Links
from veilsum.net.session import Session
from veilsum.net.tls import TlsLinks
from veilsum.node.identity import Identity, generate
from veilsum.parties import Federation, Member, PartyId, Role
from veilsum.testing.cluster import FAST, Cluster

Backend = Callable[[Sequence[PartyId]], AbstractAsyncContextManager[Mapping[PartyId, Links]]]
Check = Callable[[Backend], Awaitable[None]]

ANN, BOB, CLEO = PartyId("ann"), PartyId("bob"), PartyId("cleo")
SIZES = (0, 1, 24, 64 * KIB - 25, 64 * KIB - 24, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 5 * MIB)


@message(1, limit=80 * MIB)
class Other(Message, frozen=True):
    """A second type of plain bytes beside `Payload`."""

    data: Annotated[NDArray[np.uint8], Buffer("u1", (None,))]


# -- backends


@asynccontextmanager
async def memory_links(parties: Sequence[PartyId]) -> AsyncIterator[Mapping[PartyId, Links]]:
    """Connect parties in one process."""
    hub = MemoryHub(FAST)
    yield {party: hub.links(party) for party in parties}
    hub.close()


@asynccontextmanager
async def tls_links(parties: Sequence[PartyId]) -> AsyncIterator[Mapping[PartyId, Links]]:
    """Connect parties over TLS on loopback, with fresh identities; the last one only dials."""
    identities = {party: generate(party) for party in parties}
    async with AsyncExitStack() as stack:
        yield await tls_parties(stack, tls_federation(identities), identities)


def tls_federation(identities: Mapping[PartyId, Identity]) -> Federation:
    """Return a federation on free ports of loopback; its last member has no address."""
    *listening, last = identities
    members = {p: Member(identities[p].certificate, f"127.0.0.1:{free_port()}") for p in listening}
    return Federation("test", members | {last: Member(identities[last].certificate)})


async def tls_parties(
    stack: AsyncExitStack, federation: Federation, identities: Mapping[PartyId, Identity]
) -> dict[PartyId, Links]:
    """Open the ports of parties that are in this process."""
    return {
        party: await stack.enter_async_context(TlsLinks(party, federation, own.load_into, config=FAST))
        for party, own in identities.items()
    }


def free_port() -> int:
    """Return a port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- frame links


class Inbox:
    """Takes in the frames of an attached link."""

    def __init__(self, link: Link) -> None:
        self.frames: list[tuple[Header, bytes]] = []
        self.ended: BaseException | None = None
        self._news = asyncio.Event()
        link.attach(lambda _: None, self._deliver, self._lost)

    def _deliver(self, header: Header, payload: Data) -> None:
        self.frames.append((header, bytes(payload)))
        self._news.set()

    def _lost(self, error: BaseException) -> None:
        self.ended = error
        self._news.set()

    async def until(self, count: int) -> None:
        """Wait for so many frames, or for the end."""
        while len(self.frames) < count and self.ended is None:
            self._news.clear()
            await self._news.wait()

    async def until_ended(self) -> None:
        """Wait for the end."""
        while self.ended is None:
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def _pair(backend: Backend) -> AsyncIterator[tuple[Link, Link]]:
    async with backend([ANN, BOB]) as links:
        ann, bob = await asyncio.gather(links[ANN].link(BOB, "control"), links[BOB].link(ANN, "control"))
        try:
            yield ann, bob
        finally:
            for link in (ann, bob):
                link.close()
            await asyncio.gather(ann.wait_closed(), bob.wait_closed())


def _bytes(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


async def frames_of_all_sizes(backend: Backend) -> None:
    """Frames arrive whole and in order, whatever their sizes, read one by one or attached."""
    async with _pair(backend) as (ann, bob):
        await ann.send(pack_header(0, 7, 3, 1, 2), [b"on", b"e"])
        await ann.send(pack_header(0, 7, 3, 2, 2), [b"two"])
        assert await bob.recv() == (Header(0x56, 0, 7, 3, 1, 2), b"one")
        inbox = Inbox(bob)
        for number, size in enumerate(SIZES):
            await ann.send(pack_header(1, 20, size, number, 9), [_bytes(size, number)])
        await inbox.until(1 + len(SIZES))
        assert inbox.frames[0] == (Header(0x56, 0, 7, 3, 2, 2), b"two")
        for number, (header, payload) in enumerate(inbox.frames[1:]):
            assert header == Header(0x56, 1, 20, SIZES[number], number, 9)
            assert payload == _bytes(SIZES[number], number)


async def many_small_frames(backend: Backend) -> None:
    """Thousands of frames from several tasks arrive in the order in which they were posted."""
    async with _pair(backend) as (ann, bob):
        inbox, number = Inbox(bob), 0

        async def post() -> None:
            nonlocal number
            for turn in range(1000):
                size = 100_000 if turn % 250 == 0 else turn % 50
                header = pack_header(0, 20, size, number, 0)
                number += 1
                await ann.send(header, [bytes(size)])
                if turn % 10 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*(post() for _ in range(4)))
        await inbox.until(4000)
        assert [header.sequence for header, _ in inbox.frames] == list(range(4000))


async def cancelled_senders(backend: Backend) -> None:
    """A frame that was begun goes out whole although its sender is cancelled."""
    async with _pair(backend) as (ann, bob):
        payload = _bytes(5 * MIB)
        senders = [
            asyncio.create_task(ann.send(pack_header(0, 20, len(payload), n, 0), [payload])) for n in range(3)
        ]
        await asyncio.sleep(0)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        ann.post(pack_header(0, 20, 4, 3, 0), [b"last"])
        inbox = Inbox(bob)
        await inbox.until(4)
        assert [header.sequence for header, _ in inbox.frames] == [0, 1, 2, 3]
        assert inbox.frames[2][1] == payload
        assert inbox.frames[3][1] == b"last"


async def both_ways_at_once(backend: Backend) -> None:
    """Large sends in both directions do not block each other."""
    async with _pair(backend) as (ann, bob):
        inboxes = Inbox(ann), Inbox(bob)
        payload = _bytes(2 * MIB)

        async def send(link: Link) -> None:
            for number in range(8):
                await link.send(pack_header(0, 20, len(payload), number, 0), [payload])

        await asyncio.gather(send(ann), send(bob))
        for inbox in inboxes:
            await inbox.until(8)
            assert [payload == got for _, got in inbox.frames] == [True] * 8


async def closing(backend: Backend) -> None:
    """What was posted before a close arrives; then the other side learns of the end, and sending fails."""
    async with _pair(backend) as (ann, bob):
        inbox, payload = Inbox(bob), _bytes(3 * MIB)
        ann.post(pack_header(0, 20, len(payload), 0, 0), [payload])
        ann.close()
        await inbox.until_ended()
        assert [got for _, got in inbox.frames] == [payload]
        assert isinstance(inbox.ended, PeerLost)
        await ann.wait_closed()
        for link in (ann, bob):
            with _raises(PeerLost):
                await link.send(pack_header(0, 20, 0, 1, 0), [])


async def last_words(backend: Backend) -> None:
    """Who closes while the other side is in the middle of sending is still understood."""
    async with _pair(backend) as (ann, bob):
        inbox = Inbox(bob)
        bob.post(pack_header(0, 20, 5 * MIB, 0, 0), [bytes(5 * MIB)])
        ann.post(pack_header(0, 3, 4, 0, 0), [b"stop"])
        ann.close()
        await inbox.until_ended()
        assert [got for _, got in inbox.frames] == [b"stop"]


async def link_again(backend: Backend) -> None:
    """A new link for the same purpose can be had after the old one broke."""
    async with backend([ANN, BOB]) as links:
        for _ in range(3):
            ann, bob = await asyncio.gather(links[ANN].link(BOB, "control"), links[BOB].link(ANN, "control"))
            await ann.send(pack_header(0, 20, 2, 0, 0), [b"hi"])
            assert (await bob.recv())[1] == b"hi"
            ann.fail(PeerLost("cut"))
            with _raises(PeerLost, OSError):
                await bob.recv()
            bob.fail(PeerLost("cut"))


# -- peers


def job_of(*parties: PartyId, step_timeout: float = 5.0) -> Job:
    """Return a job in which each party plays a role of its own name."""
    return Job(
        kind="test",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={Role(party): (party,) for party in parties},
        step_timeout=step_timeout,
    )


async def play(backend: Backend, plays: Mapping[PartyId, Callable[[Session], Awaitable[Any]]]) -> Any:
    """Run parts over a backend; return each party's result or error."""
    async with backend(list(plays)) as links:
        return await Cluster(job_of(*plays), [Payload, Other], links=links).play(plays)


async def streams_interleave(backend: Backend) -> None:
    """A stream that nobody reads yet holds up neither another one nor the heartbeat."""
    many, size = 14, MIB

    async def ann(session: Session) -> None:
        peer = session[BOB]
        blocks = [np.full(size, n, np.uint8) for n in range(many)]
        async with asyncio.TaskGroup() as group:
            group.create_task(peer.send_all(Payload, (Payload(block) for block in blocks)))
            group.create_task(peer.send_all(Other, (Other(block) for block in blocks)))

    async def bob(session: Session) -> list[int]:
        peer = session[ANN]
        second = [int(got.data[0]) async for got in peer.stream(Other)]
        await asyncio.sleep(2 * FAST.heartbeat)
        return second + [int(got.data[-1]) async for got in peer.stream(Payload)]

    got = await play(backend, {ANN: ann, BOB: bob})
    assert got == {ANN: None, BOB: [*range(many), *range(many)]}, got


async def three_parties(backend: Backend) -> None:
    """Everybody sends everybody large messages at once."""
    parties = (ANN, BOB, CLEO)

    async def part(session: Session) -> list[int]:
        async with asyncio.TaskGroup() as group:
            for turn in range(3):
                group.create_task(session.broadcast(Payload(np.full(3 * MIB, turn, np.uint8))))
            got = [await session.gather(Payload) for _ in range(3)]
        return sorted(int(message.data[-1]) for turn in got for message in turn.values())

    got = await play(backend, dict.fromkeys(parties, part))
    assert all(got[party] == [0, 0, 1, 1, 2, 2] for party in parties), got


# -- lanes


@asynccontextmanager
async def _lanes(backend: Backend, *parties: PartyId) -> AsyncIterator[dict[PartyId, dict[PartyId, Lane]]]:
    async with backend(parties) as links:
        names = [(me, peer) for me in parties for peer in parties if me != peer]
        pairs = await asyncio.gather(*(links[me].sockets(peer, "run/label") for me, peer in names))
        lanes: dict[PartyId, dict[PartyId, Lane]] = {party: {} for party in parties}
        for (me, peer), pair in zip(names, pairs, strict=True):
            lanes[me][peer] = Lane(me, peer, pair)
        try:
            yield lanes
        finally:
            for mine in lanes.values():
                for lane in mine.values():
                    lane.close()


def _rounds(sizes: Sequence[int]) -> Callable[[dict[PartyId, Lane]], None]:
    def program(lanes: dict[PartyId, Lane]) -> None:
        for number, size in enumerate(sizes):
            for peer, lane in sorted(lanes.items()):
                into = bytearray(size)
                lane.exchange(_bytes(size, hash_of(lane.me, number)), into)
                assert into == _bytes(size, hash_of(peer, number))

    return program


def hash_of(party: PartyId, number: int) -> int:
    """Return a seed that differs by party and round."""
    return sum(party.encode()) * 1000 + number


async def lane_rounds(backend: Backend) -> None:
    """Rounds of all sizes, small ones sent directly and large ones beside the receiving."""
    sizes = (0, 1, 1000, 32 * KIB, 32 * KIB + 1, 100_000, 3 * MIB, 5, 3 * MIB, 0)
    async with _lanes(backend, ANN, BOB) as lanes:
        await asyncio.gather(*(run_lanes(mine, _rounds(sizes)) for mine in lanes.values()))
        assert lanes[ANN][BOB].sent == lanes[BOB][ANN].received == sum(sizes)


async def lane_of_three(backend: Backend) -> None:
    """Rounds between three parties."""
    async with _lanes(backend, ANN, BOB, CLEO) as lanes:
        # in one order everywhere: ann-bob, ann-cleo, bob-cleo
        await asyncio.gather(*(run_lanes(mine, _rounds((8, 40_000, MIB))) for mine in lanes.values()))


async def lane_of_numbers(backend: Backend) -> None:
    """What is not of bytes counts as its bytes."""
    async with _lanes(backend, ANN, BOB) as lanes:

        def program(mine: dict[PartyId, Lane]) -> NDArray[np.int64]:
            into = np.zeros(9000, np.int64)
            next(iter(mine.values())).exchange(np.arange(9000).data, into.data)
            return into

        for got in await asyncio.gather(*(run_lanes(mine, program) for mine in lanes.values())):
            assert (got == np.arange(9000)).all()


async def lane_mismatch(backend: Backend) -> None:
    """Parties that are not in the same round notice, and nothing is handed out."""
    async with _lanes(backend, ANN, BOB) as lanes:

        def program(size: int) -> Callable[[dict[PartyId, Lane]], None]:
            return lambda mine: next(iter(mine.values())).exchange(bytes(8), bytearray(size))

        outcomes = await asyncio.gather(
            run_lanes(lanes[ANN], program(8)), run_lanes(lanes[BOB], program(9)), return_exceptions=True
        )
        assert outcomes[0] is None
        assert isinstance(outcomes[1], ProtocolError), outcomes


async def lane_cancelled(backend: Backend) -> None:
    """Cancelling ends the lanes: the waiting thread is gone, the other side's round raises."""
    async with _lanes(backend, ANN, BOB) as lanes:
        ended: list[BaseException] = []

        def waiting(mine: dict[PartyId, Lane]) -> None:
            try:
                next(iter(mine.values())).exchange(bytes(8 * MIB), bytearray(8 * MIB))
            except VeilsumError as error:
                ended.append(error)
                raise

        task = asyncio.create_task(run_lanes(lanes[ANN], waiting))
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert len(ended) == 1
        with _raises(PeerLost, ProtocolError):
            await run_lanes(lanes[BOB], waiting)


class _raises:  # noqa: N801  reads like pytest's, which is not imported outside of tests
    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        del error, trace
        assert kind is not None, f"none of {self._kinds} was raised"
        return issubclass(kind, self._kinds)


SUITE: tuple[Check, ...] = (
    frames_of_all_sizes,
    many_small_frames,
    cancelled_senders,
    both_ways_at_once,
    closing,
    last_words,
    link_again,
    streams_interleave,
    three_parties,
    lane_rounds,
    lane_of_three,
    lane_of_numbers,
    lane_mismatch,
    lane_cancelled,
)
