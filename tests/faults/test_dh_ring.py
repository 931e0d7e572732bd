"""Every fault of the wire at every frame of the alignment: healed, or the named error everywhere, soon."""

import asyncio
import hashlib
from functools import partial

import msgspec
import pytest

from faults.relay_race import in_batches
from protocols.ring import Listed, job, plays
from veilsum.errors import ProtocolError
from veilsum.net.config import KIB
from veilsum.protocols import dh_ring
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.faults import FAULTS, check, count_frames, play_with_fault

MEMBERS = ("a", "b")
PARTIES = (*MEMBERS, "referee")
LISTS = {name: Listed([f"{start + i}" for i in range(12)]) for name, start in (("a", 0), ("b", 7))}
EXPECTED = {
    "a": frozenset(range(7, 12)),
    "b": frozenset(range(5)),
    "referee": {("a",): 7, ("b",): 7, ("a", "b"): 5},
}


def signed(part):
    """Play a part as a node does: what was said is countersigned before anybody believes the result."""

    async def play(s):
        got, found = await part(s)
        await s.countersign(lambda words: hashlib.sha256(words).digest(), _check)
        return frozenset(found) if found is not None else got.cells

    return play


def _check(party, words, signature):
    if hashlib.sha256(words).digest() != signature:
        raise ProtocolError(f"{party} signs something else")


def make_cluster(folder):
    def make(wrap):
        agreed = msgspec.structs.replace(
            job(MEMBERS, "referee", share_matches=True, batch=6), step_timeout=1.5
        )
        config = msgspec.structs.replace(FAST, window=64 * KIB)
        parts = {name: signed(part) for name, part in plays(agreed, LISTS, folder).items()}
        return Cluster(agreed, dh_ring.MESSAGES, wrap=wrap, config=config), parts

    return make


def test_the_number_of_frames(tmp_path):
    """One size to each of two, two batches and an end per list and hop, and the same for places."""

    async def play():
        return [await count_frames(make_cluster(tmp_path), party) for party in PARTIES]

    assert asyncio.run(play()) == [2 + 3 + 3, 2 + 3 + 3, 3 + 3]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_every_frame(fault, tmp_path):
    async def play():
        make = make_cluster(tmp_path)
        every = [
            (party, nth) for party, last in zip(PARTIES, (8, 8, 6), strict=True) for nth in range(1, last + 1)
        ]
        runs = [partial(play_with_fault, make, fault, party, nth) for party, nth in every]
        return await in_batches(runs, 11 if fault.timed else 3)

    for outcome in asyncio.run(play()):
        assert outcome.victim is not None
        check(outcome, EXPECTED)
