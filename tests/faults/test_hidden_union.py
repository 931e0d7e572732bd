"""Every fault of the wire at every frame of the hidden union: healed, or the named error everywhere, soon."""

import asyncio
from functools import partial

import msgspec
import pytest

from faults.relay_race import GROUPS, in_batches, sealed
from protocols.ring import Listed
from protocols.union import job, plays
from veilsum.net.config import KIB
from veilsum.protocols import hidden_union
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.faults import check, count_frames, play_with_fault

LISTS = {name: Listed([f"{start + i}" for i in range(6)]) for name, start in (("a", 0), ("b", 5))}
EXPECTED = {"a": ({0, 1, 2, 3, 4, 5}, 11), "b": ({0, 1, 2, 3, 4, 5}, 11)}
# a size, a batch and an end for each of four lists (two batches where the union is written down), a union
FRAMES = {"a": 1 + 4 * 2 + 1, "b": 1 + 4 * 2 + 1}
EVERY = [(party, nth) for party, last in FRAMES.items() for nth in range(1, last + 1)]


def whole(part):
    """Play a part as a node does: what was said is countersigned before anybody believes the result."""

    async def play(s):
        got, found, _ = await part(s)
        return await sealed(s, (set(found), got.rows))

    return play


def make_cluster(folder, step_timeout=5.0):
    def make(wrap):
        agreed = msgspec.structs.replace(job(batch=6), step_timeout=step_timeout)
        config = msgspec.structs.replace(FAST, window=64 * KIB)
        parts = {name: whole(part) for name, part in plays(agreed, LISTS, folder).items()}
        return Cluster(agreed, hidden_union.MESSAGES, wrap=wrap, config=config), parts

    return make


def test_the_number_of_frames(tmp_path):
    async def play():
        return {party: await count_frames(make_cluster(tmp_path), party) for party in FRAMES}

    assert asyncio.run(play()) == FRAMES


@pytest.mark.parametrize("faults", GROUPS, ids=repr)
def test_every_frame(faults, tmp_path):
    async def play():
        timed = any(fault.timed for fault in faults)
        make = make_cluster(tmp_path, 1.5) if timed else make_cluster(tmp_path)
        runs = [partial(play_with_fault, make, fault, *frame) for fault in faults for frame in EVERY]
        return await in_batches(runs, len(runs) if timed else 5 if faults[0].heals else 33)

    for outcome in asyncio.run(play()):
        assert outcome.victim is not None
        check(outcome, EXPECTED)
