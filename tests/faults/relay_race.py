"""A small protocol of three parties for faults: two sizes, a stream, a matrix, a sum, and signatures.

| step | who | message |
|---|---|---|
| 1 | starter → runner, finisher | `Size(how many numbers)` |
| 2 | starter → runner | `Block(numbers, in blocks)` |
| 3 | runner → finisher | `Pairs(numbers and their squares)` |
| 4 | finisher → starter, runner | `Sum(of all)` |
"""

import asyncio
import datetime as dt
import hashlib
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.errors import CheatingDetected, PeerAborted, ProtocolError
from veilsum.jobs import Job
from veilsum.net.config import KIB
from veilsum.net.messages import Buffer, Message, message
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.faults import FAULTS

PARTIES = ("ann", "bob", "cleo")
ANN, BOB, CLEO = PARTIES
BLOCKS = 3
TOTAL = {party: 3 * sum(range(12)) + sum(n * n for n in range(12)) for party in PARTIES}


@message(1, by="starter", limit=100)
class Size(Message, frozen=True):
    numbers: int


@message(2, by="starter", limit=200)
class Block(Message, frozen=True):
    numbers: Annotated[NDArray[np.int32], Buffer("i4", (None,))]


@message(3, by="runner", limit=400)
class Pairs(Message, frozen=True):
    numbers: Annotated[NDArray[np.int32], Buffer("i4", (None, 2))]


@message(4, by="finisher", limit=100)
class Sum(Message, frozen=True):
    total: int
    note: str


MESSAGES = (Size, Block, Pairs, Sum)


def job(step_timeout=1.2):
    return Job(
        kind="race",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"starter": (ANN,), "runner": (BOB,), "finisher": (CLEO,)},
        step_timeout=step_timeout,
    )


async def starter(s):
    numbers = np.arange(12, dtype=np.int32)
    async with s.step(1, "size"):
        await s.broadcast(Size(12))
    async with s.step(2, "blocks"):
        await s[BOB].send_all(Block, (Block(part) for part in np.split(numbers, BLOCKS)))
    async with s.step(4, "sum"):
        total = (await s[CLEO].recv(Sum)).total
    return await sealed(s, total)


async def runner(s):
    async with s.step(1, "size"):
        size = (await s[ANN].recv(Size)).numbers
    async with s.step(2, "blocks"):
        parts = [block.numbers async for block in s[ANN].stream(Block)]
        numbers = np.concatenate(parts) if parts else np.empty(0, np.int32)
        if len(numbers) != size:
            raise ProtocolError("another size than announced")
    async with s.step(3, "pairs"):
        await s[CLEO].send(Pairs(np.stack([numbers, numbers**2], axis=1)))
    async with s.step(4, "sum"):
        total = (await s[CLEO].recv(Sum)).total
    return await sealed(s, total)


async def finisher(s):
    async with s.step(1, "size"):
        size = (await s[ANN].recv(Size)).numbers
    async with s.step(3, "pairs"):
        pairs = (await s[BOB].recv(Pairs)).numbers
        if len(pairs) != size:
            raise ProtocolError("another size than announced")
    total = int(pairs.sum()) + 2 * int(pairs[:, 0].sum())
    async with s.step(4, "sum"):
        await s.broadcast(Sum(total, "three times the numbers and once their squares"))
    return await sealed(s, total)


async def sealed(s, total):
    await s.countersign(lambda words: hashlib.sha256(words).digest(), _check)
    return total


def _check(party, words, signature):
    if hashlib.sha256(words).digest() != signature:
        raise ProtocolError(f"{party} signs something else")


PLAYS = {ANN: starter, BOB: runner, CLEO: finisher}


def cluster(wrap, **more):
    config = msgspec.structs.replace(FAST, window=64 * KIB)
    return Cluster(job(), MESSAGES, wrap=wrap, config=config, **more), PLAYS


def of_two(fault):
    """Return a fault as it may show in a protocol of two whose content is checked on the way.

    A spoilt number is noticed by what is computed from it, at whichever side that is.
    """
    if fault.name != "corrupt":
        return fault
    noticed = frozenset({CheatingDetected, ProtocolError})
    told = noticed | {PeerAborted}
    return fault._replace(named=noticed, victim=told, others=told)


GROUPS = [[of_two(fault) for fault in FAULTS[start : start + 3]] for start in range(0, len(FAULTS), 3)]
"""All faults, a few at a time: most of a run with a fault is waiting."""


async def in_batches(runs, size=9):
    """Await many runs, a few at a time: most of them only wait."""
    results = []
    for start in range(0, len(runs), size):
        results += await asyncio.gather(*(run() for run in runs[start : start + size]))
    return results
