"""Every fault of the wire at every frame of the hidden union: healed, or the named error everywhere, soon."""

import asyncio
from functools import partial

import msgspec
import pytest

from faults.relay_race import in_batches, of_two, sealed
from protocols.ring import Listed
from protocols.union import job, plays
from veilsum.net.config import KIB
from veilsum.protocols import hidden_union
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.faults import FAULTS, check, count_frames, play_with_fault

LISTS = {name: Listed([f"{start + i}" for i in range(6)]) for name, start in (("a", 0), ("b", 5))}
EXPECTED = {"a": ({0, 1, 2, 3, 4, 5}, 11), "b": ({0, 1, 2, 3, 4, 5}, 11)}
# a size, two batches and an end for each of four lists, a union
FRAMES = {"a": 1 + 4 * 3 + 1, "b": 1 + 4 * 3 + 1}
EVERY = [(party, nth) for party, last in FRAMES.items() for nth in range(1, last + 1)]


def whole(part):
    """Play a part as a node does: what was said is countersigned before anybody believes the result."""

    async def play(s):
        got, found, _ = await part(s)
        return await sealed(s, (set(found), got.rows))

    return play


def make_cluster(folder):
    def make(wrap):
        agreed = msgspec.structs.replace(job(batch=4), step_timeout=1.5)
        config = msgspec.structs.replace(FAST, window=64 * KIB)
        parts = {name: whole(part) for name, part in plays(agreed, LISTS, folder).items()}
        return Cluster(agreed, hidden_union.MESSAGES, wrap=wrap, config=config), parts

    return make


def test_the_number_of_frames(tmp_path):
    async def play():
        return {party: await count_frames(make_cluster(tmp_path), party) for party in FRAMES}

    assert asyncio.run(play()) == FRAMES


@pytest.mark.parametrize("fault", [of_two(fault) for fault in FAULTS], ids=repr)
def test_every_frame(fault, tmp_path):
    async def play():
        make = make_cluster(tmp_path)
        runs = [partial(play_with_fault, make, fault, party, nth) for party, nth in EVERY]
        return await in_batches(runs, len(runs) if fault.timed else 3)

    for outcome in asyncio.run(play()):
        assert outcome.victim is not None
        check(outcome, EXPECTED)
