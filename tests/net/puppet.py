"""A party played by hand, frame by frame, against a real session; and pieces of jobs for two."""

import asyncio
import datetime as dt
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from veilsum.jobs import Job, job_hash, key_digests
from veilsum.net.control import CONTROL, FIRST_TYPE, WIRE, Hello, Opening, Resume
from veilsum.net.link import Header, pack_header
from veilsum.net.memory import MemoryHub
from veilsum.net.messages import Buffer, Message, decode, encode, message, schema_digest
from veilsum.net.session import derive_run
from veilsum.testing.cluster import FAST, Cluster, federation_of

ANN, BOB = "ann", "bob"


@message(1, limit=1 << 20)
class Note(Message, frozen=True):
    number: int
    data: Annotated[NDArray[np.uint8], Buffer("u1", (None,))] = np.empty(0, np.uint8)


@message(2, by="first", limit=1000)
class Order(Message, frozen=True):
    word: str


TYPES = (Note, Order)


def job(step_timeout=1.5):
    return Job(
        kind="test",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"first": (ANN,), "second": (BOB,)},
        step_timeout=step_timeout,
    )


class Puppet:
    """Bob, by hand."""

    def __init__(self, *, config=FAST, step_timeout=1.5):
        self.hub, self.config, self.job = MemoryHub(config), config, job(step_timeout)
        self.links = {ANN: self.hub.links(ANN), BOB: self.hub.links(BOB)}
        self.cluster = Cluster(self.job, TYPES, links=self.links, config=config)
        self.sequence, self.run = 1, 0
        self.heard = []

    def number(self, cls):
        return CONTROL.index(cls) if cls in CONTROL else FIRST_TYPE + TYPES.index(cls)

    async def connect(self, *, seen=1, session=b"bob's session...", **wrong):
        self.link = await self.links[BOB].link(ANN, "control")
        fields = {
            "wire_version": WIRE,
            "party": BOB,
            "session": session,
            "schema": schema_digest(TYPES),
            "version": "0",
            "seen": seen,
        }
        self.raw(0, encode(Hello(**(fields | wrong))))
        header, payload = await self.link.recv()
        assert header.type == 0
        return decode(Hello, payload)

    def raw(self, kind, parts, *, sequence=0, run=0, flags=0):
        self.link.post(pack_header(flags, kind, sum(map(len, parts)), sequence, run), parts)

    def send(self, said, *, flags=0):
        self.raw(self.number(type(said)), encode(said), sequence=self.sequence, run=self.run, flags=flags)
        self.sequence += 1

    def agreed(self):
        federation = federation_of([ANN, BOB])
        return job_hash(self.job, federation), key_digests(self.job, federation)

    async def open(self):
        """Get as far as an opened run."""
        await self.connect()
        mine = Opening(*self.agreed(), b"", 0)
        self.send(mine)
        run = derive_run(mine.job_hash, {ANN: b"", BOB: b""}, 0)
        self.run = int(run[:16], 16)
        self.send(Resume(run=bytes.fromhex(run), memory=bytes(32), attempt=1, stages={}))
        self.link.attach(lambda _: None, self._hear, lambda _: None)

    def _hear(self, header: Header, payload):
        cls = CONTROL[header.type] if header.type < FIRST_TYPE else TYPES[header.type - FIRST_TYPE]
        self.heard.append((cls, bytes(payload)))

    def said(self, cls):
        return [decode(cls, payload) for kind, payload in self.heard if kind is cls]

    async def against(self, play, by_hand, *, within=5):
        """Run Ann's real session against what a function does by hand; return Ann's result or error."""

        async def ann():
            async with self.cluster.session(ANN) as session:
                return await play(session)

        async def bob():
            try:
                await by_hand(self)
                await asyncio.sleep(0.05)
            finally:
                self.link.close()
                await self.link.wait_closed()

        async with asyncio.timeout(within):
            result, own = await asyncio.gather(ann(), bob(), return_exceptions=True)
        self.hub.close()
        if isinstance(own, BaseException):
            raise own
        return result
