"""Both ends of veilsum's own transport over TLS: ``echo.py serve|drive FOLDER PORT [uvloop]``.

``link`` is the raw frame link, ``peer`` the typed messages of a session on it (order, credit, transcript),
``lane`` the blocking rounds of a session.
"""

import asyncio
import datetime as dt
import ssl
import sys
from collections import deque
from pathlib import Path

import numpy as np

from timing import ACK, ECHOED, Measure, answer_commands, exchange_rounds, reply, timed
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.net.control import FIRST_TYPE, Payload
from veilsum.net.lane import Lane
from veilsum.net.link import Glance, Header, Link, pack_header
from veilsum.net.messages import Data
from veilsum.net.session import Session
from veilsum.net.tls import TlsLinks
from veilsum.parties import Federation, Member, PartyId, Role
from veilsum.store.journal import MemoryJournal

SERVER, DRIVER = PartyId("server"), PartyId("driver")
_STOP, _LANE = 0, 1  # sizes of payloads that are orders to the server
_ROUND = 1024  # bytes of a lane's rounds, which both ends must know


class _Frames:
    """A raw link with a waiting line, as a user without `Peer` would write it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames: deque[Data] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._glance = Glance()
        link.attach(_admit_all, self._deliver, self._lost)

    async def send(self, payload: Data) -> None:
        await self._link.send(pack_header(0, FIRST_TYPE, len(payload), 0, 0), [payload])

    async def recv(self) -> Data | None:
        while not self._frames:
            try:
                await self._glance.until(self._link, self._frames, self._sleep)
            except EOFError:
                return None
        return self._frames.popleft()

    async def _sleep(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    def close(self) -> None:
        self._link.close()

    def _deliver(self, header: Header, payload: Data) -> None:
        del header
        self._frames.append(payload)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _lost(self, error: BaseException | None) -> None:
        del error
        if self._wake is not None and not self._wake.done():
            self._wake.set_exception(EOFError())


def _admit_all(header: Header) -> None:
    del header


def _session(me: PartyId, folder: Path, port: str) -> tuple[TlsLinks, Session]:
    addresses = {SERVER: f"127.0.0.1:{port}", DRIVER: ""}
    members = {
        party: Member((folder / f"{party}.der").read_bytes(), address) for party, address in addresses.items()
    }
    federation = Federation("bench", members)
    parties: dict[Role, tuple[PartyId, ...]] = {Role(party): (party,) for party in members}
    job = Job(kind="bench", purpose="benchmark", expires=dt.date(2100, 1, 1), parties=parties)

    def load_key(context: ssl.SSLContext) -> None:
        context.load_cert_chain(folder / f"{me}.pem")

    links = TlsLinks(me, federation, load_key)
    session = Session(
        me,
        job,
        job_hash=job_hash(job, federation),
        job_keys=key_digests(job, federation),
        inputs=b"",
        messages=(Payload,),
        links=links,
        open_journal=lambda _run: (MemoryJournal(), 1),
    )
    return links, session


def _payload(data: Data) -> Payload:
    return Payload(np.frombuffer(data, np.uint8))


async def _serve(folder: Path, port: str) -> None:
    links, session = _session(SERVER, folder, port)
    async with links:
        reply({"ready": []})
        async with session, asyncio.TaskGroup() as group:
            echoing = group.create_task(_echo_frames(_Frames(await links.link(DRIVER, "bench"))))
            await _echo_messages(session)
            echoing.cancel()


async def _echo_frames(frames: _Frames) -> None:
    while (payload := await frames.recv()) is not None:
        await frames.send(payload if len(payload) <= ECHOED else ACK)


async def _echo_messages(session: Session) -> None:
    peer, lanes = session[DRIVER], 0
    while size := len((message := await peer.recv(Payload)).data):
        if size == _LANE:
            lanes += 1
            await session.in_lane(f"bench {lanes}", _follow)
        else:
            await peer.send(message if size <= ECHOED else _payload(ACK))


def _follow(lanes: dict[PartyId, Lane]) -> None:
    exchange_rounds(lanes[DRIVER].exchange, _ROUND, None)


async def _drive(folder: Path, port: str) -> None:
    links, session = _session(DRIVER, folder, port)
    async with links, session:
        frames = _Frames(await links.link(SERVER, "bench"))
        peer = session[SERVER]

        async def over_link(payload: bytes) -> None:
            await frames.send(payload)
            await frames.recv()

        async def over_peer(payload: bytes) -> None:
            await peer.send(_payload(payload))
            await peer.recv(Payload)

        ways = {"link": timed(over_link), "peer": timed(over_peer), "lane": _lane_measure(session)}
        await answer_commands(ways)
        frames.close()
        await peer.send(_payload(bytes(_STOP)))


def _lane_measure(session: Session) -> Measure:
    count = 0

    async def lane(size: int, rounds: int) -> list[float]:
        nonlocal count
        count += 1
        await session[SERVER].send(_payload(bytes(_LANE)))
        return await session.in_lane(
            f"bench {count}", lambda lanes: exchange_rounds(lanes[SERVER].exchange, size, rounds)
        )

    return lane


def main() -> None:
    """Run one end."""
    role, folder, port, *loop = sys.argv[1:]
    factory = None
    if loop == ["uvloop"]:
        import uvloop  # type: ignore[import-not-found,unused-ignore]  # an optional extra

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run((_serve if role == "serve" else _drive)(Path(folder), port))


if __name__ == "__main__":
    main()
