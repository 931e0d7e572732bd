"""Every fault of the wire at every frame of secure learning: healed, or the named error everywhere, soon."""

import asyncio
import socket
import time
from contextlib import suppress
from functools import partial

import msgspec
import numpy as np
import pytest

from faults.relay_race import GROUPS, in_batches, sealed
from protocols import learners
from protocols.mortal import Mortal
from protocols.tapped import TappedLinks
from veilsum.errors import PeerAborted, PeerLost, ProtocolError, StepTimeout, StoreError
from veilsum.learn.layers import initialise, mlp
from veilsum.net.config import KIB
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Own
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import FAST, Cluster
from veilsum.testing.faults import check, count_frames, play_with_fault

MODEL = initialise(mlp([4, 2]), 1)
QUICK = {
    "features": {"x[0-3]": [-10.0, 10.0]},
    "model": {"kind": "mlp", "hidden": []},
    "training": {"epochs": 1, "batch": 16, "optimiser": {"kind": "sgd", "rate": 0.5}},
    "release": {"predictions": ["r"]},
}
GIVEN = {
    "task": "predict",
    "model": {"kind": "given", "digest": MODEL.graph.digest().hex()},
    "release": {"predictions": ["b"]},
}
PARTIES = {
    "learn": {"owner": ("a",), "computer": ("a", "b", "c"), "receiver": ("r",)},
    "ask": {"owner": ("b",), "modeller": ("m",), "computer": ("a", "b", "c")},
    "apart": {"owner": ("a", "b"), "computer": ("w", "x", "y", "z"), "receiver": ("r",)},
}
JOBS = {
    "learn": learners.job(PARTIES["learn"], **QUICK),
    "ask": learners.job(PARTIES["ask"], **QUICK | GIVEN),
    "apart": learners.job(PARTIES["apart"], **QUICK | {"engine": "rss4"}),
}
FRAMES = {
    # rows to three, shares to two, hashes to two, an epoch, and components of a result
    "learn": {"a": 3 + 2 + 2 + 1 + 1, "b": 2 + 1, "c": 2 + 1},
    # a graph to three, shares to three; of the owner rows to three and shares to two
    "ask": {"m": 3 + 3, "b": 3 + 2 + 2, "a": 2 + 1 + 1, "c": 2 + 1},
    # of either owner rows to six, shares to four
    "apart": {"a": 6 + 4, "b": 6 + 4, "w": 3 + 3 + 1, "x": 3 + 1, "y": 3 + 1, "z": 3 + 1},
}
SIZE = 16
HEAD = 16  # of a message on a lane


def brought(agreed):
    own = {name: Own(columns=learners.rows(SIZE, ord(name))) for name in agreed.parties["owner"]}
    return own | {name: Own(model=MODEL) for name in agreed.parties.get("modeller", ())}


def right_of(case):
    """Return the right predictions; of a run on shares they differ by how it rounds."""
    results = asyncio.run(Cluster(JOBS[case], secure_learning.MESSAGES).play(plays(case, None)))
    (found,) = (result for result in results.values() if result is not None)
    return found


def plays(case, right, agreed=None):
    """Play parts as a node does: what was said is countersigned before anybody believes the result."""
    agreed = agreed or JOBS[case]

    def whole(part):
        async def play(s):
            got = (await part(s)).predictions
            if right is not None and got is not None:
                got = bool(np.allclose(got, right, atol=2e-3))
            return await sealed(s, got)

        return play

    return {name: whole(part) for name, part in learners.plays(agreed, brought(agreed)).items()}


def expected_of(case):
    receivers = learners.params_of(JOBS[case]).release.predictions
    return {name: True if name in receivers else None for name in JOBS[case].members}


def make_cluster(case, right, step_timeout=5.0):
    def make(wrap):
        agreed = msgspec.structs.replace(JOBS[case], step_timeout=step_timeout)
        config = msgspec.structs.replace(FAST, window=64 * KIB)
        return Cluster(agreed, secure_learning.MESSAGES, wrap=wrap, config=config), plays(case, right)

    return make


@pytest.mark.parametrize("case", FRAMES)
def test_the_number_of_frames(case):
    async def play():
        return {party: await count_frames(make_cluster(case, None), party) for party in FRAMES[case]}

    assert asyncio.run(play()) == FRAMES[case]


CASES = ["learn", *(pytest.param(case, marks=pytest.mark.slow) for case in ("ask", "apart"))]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("faults", GROUPS, ids=repr)
def test_every_frame(faults, case):
    right, frames = right_of(case), FRAMES[case]
    every = [(party, nth) for party, last in frames.items() for nth in range(1, last + 1)]

    async def play():
        timed = any(fault.timed for fault in faults)
        make = make_cluster(case, right, 1.5 if timed else 5.0)
        runs = [partial(play_with_fault, make, fault, *frame) for fault in faults for frame in every]
        # parties that share a process with too many others cannot keep the time
        at_once = (100 if timed else 20 if faults[0].heals else 80) // len(frames)
        return await in_batches(runs, at_once // (2 if case == "apart" else 1))

    for outcome in asyncio.run(play()):
        assert outcome.victim is not None
        check(outcome, expected_of(case))


# -- the lanes of the computing parties


class Strike:
    """Does something at the n-th message of a party on its lanes."""

    def __init__(self, who, nth, how):
        self.who, self.nth, self.how = who, nth, how
        self.count, self.struck_at = 0, 0.0

    def wrap(self, me, links):
        return TappedLinks(links, lambda _: self.on_send) if me == self.who else links

    def on_send(self, sock, data):
        if len(data) >= HEAD and int.from_bytes(data[8:HEAD], "little") == len(data) - HEAD:
            self.count += 1
            if self.count == self.nth:
                self.struck_at = time.monotonic()
                self.how(sock, data)
                return
        sock.pass_on(data)


def cut(sock, data):
    del data
    sock.shutdown(socket.SHUT_RDWR)


def cut_within(sock, data):
    sock.pass_on(data[: len(data) // 2])
    sock.shutdown(socket.SHUT_RDWR)


def cut_after(sock, data):
    sock.pass_on(data)
    sock.shutdown(socket.SHUT_RDWR)


def late(sock, data):
    sock.pass_on(data[:9])
    time.sleep(0.3)
    sock.pass_on(data[9:])


def too_late(sock, data):
    time.sleep(2.5)
    with suppress(OSError):
        sock.pass_on(data)


def flip(at):
    def flipped(sock, data):
        spoilt = bytearray(data)
        spoilt[at] ^= 1
        sock.pass_on(bytes(spoilt))

    return flipped


LANES = {
    "cut": (cut, {PeerLost}),
    "cut within": (cut_within, {PeerLost}),
    "cut after": (cut_after, {PeerLost}),
    # noticed by the next message, or by the end of the lane, or by the clock
    "swallowed": (lambda sock, data: None, {ProtocolError, PeerLost, StepTimeout}),
    "half of it swallowed": (
        lambda sock, data: sock.pass_on(data[: len(data) // 2]),
        {ProtocolError, PeerLost, StepTimeout},
    ),
    "late": (late, set()),
    "too late": (too_late, {StepTimeout}),
    "another number of a round": (flip(0), {ProtocolError}),
    "a number of a round far away": (flip(7), {ProtocolError}),
    "another size": (flip(8), {ProtocolError}),
    "a giant size": (flip(15), {ProtocolError}),
    "bytes before it": (lambda sock, data: sock.pass_on(b"\1" * 24 + data), {ProtocolError}),
}
TWICE = learners.job(PARTIES["learn"], **QUICK | {"training": QUICK["training"] | {"epochs": 2}})


async def twice(how, who, nth, right):
    """Play with a fault on a lane, and again with the same journals."""
    agreed = msgspec.structs.replace(TWICE, step_timeout=1.5)
    journals = {name: MemoryJournal() for name in agreed.members}
    strike = Strike(who, nth, how)
    cluster = Cluster(agreed, secure_learning.MESSAGES, wrap=strike.wrap, journals=journals)
    first = await cluster.play(plays("learn", right, agreed))
    seconds = time.monotonic() - strike.struck_at
    second = await Cluster(agreed, secure_learning.MESSAGES, journals=journals).play(
        plays("learn", right, agreed)
    )
    return first, seconds, second, strike.count


@pytest.fixture(scope="module")
def messages():
    """Return the right result of two epochs, and how many messages party b sends on its lanes."""

    async def play():
        strike = Strike("b", 0, cut)
        cluster = Cluster(TWICE, secure_learning.MESSAGES, wrap=strike.wrap)
        results = await cluster.play(plays("learn", None, TWICE))
        return results["r"], strike.count

    return asyncio.run(play())


@pytest.mark.parametrize("case", LANES)
def test_faults_of_lanes(case, messages):
    how, named = LANES[case]
    right, count = messages
    assert count > 50
    places = [1, 2, 3, count // 3, count // 2, count - 1, count]

    async def play():
        return await in_batches([partial(twice, how, "b", nth, right) for nth in places], len(places))

    for nth, (first, seconds, second, _) in zip(places, asyncio.run(play()), strict=True):
        story = f"{case} at {nth}: {first}"
        assert second == expected_of("learn"), f"{story}, then {second}"
        if not named or (case == "cut after" and nth >= count - 1):
            # what was said last had arrived: nothing was missing
            assert first == expected_of("learn"), story
            continue
        assert {type(result) for result in first.values()} & named, story
        assert {type(result) for result in first.values()} <= named | {PeerAborted, PeerLost}, story
        assert seconds < 5, story


# -- disks


def test_a_disk_full_at_every_write(messages):
    """At every party, in every place where something is kept, the shares of an epoch among them."""
    right, _ = messages

    def attempt(journals):
        cluster = Cluster(TWICE, secure_learning.MESSAGES, journals=journals)
        return asyncio.run(cluster.play(plays("learn", right, TWICE)))

    counting = {name: Mortal(MemoryJournal(), 10**9) for name in TWICE.members}
    assert attempt(counting) == expected_of("learn")
    # a secret and what it remembers of three others; two epochs
    writes = {name: journal.writes for name, journal in counting.items()}
    assert writes == {"a": 6, "b": 6, "c": 6, "r": 4}
    for full, last in writes.items():
        for room in range(last):
            kept = {name: MemoryJournal() for name in TWICE.members}
            first = attempt(kept | {full: Mortal(kept[full], room)})
            assert isinstance(first[full], StoreError), (full, room, first)
            assert all(isinstance(first[name], PeerAborted) for name in kept if name != full), (full, first)
            assert attempt(kept) == expected_of("learn"), (full, room)
