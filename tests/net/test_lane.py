"""The halves of rounds: parties in a ring, large and small messages, what breaks and how it is called."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest

from veilsum.errors import PeerLost, ProtocolError, StepTimeout
from veilsum.net.config import KIB, MIB
from veilsum.net.lane import Lane, run_lanes
from veilsum.testing.conformance import memory_links, tls_links

ANN, BOB, CLEO = RING = ("ann", "bob", "cleo")
BACKENDS = pytest.mark.parametrize("backend", [memory_links, tls_links], ids=["memory", "tls"])
# what is sent without a thread; the kernel grants less than was asked for, or other machines more
DIRECT = "direct"


@asynccontextmanager
async def lanes_of(backend, *parties, patience=20.0):
    """Yield party → peer → lane."""
    async with backend(parties) as links:
        names = [(me, peer) for me in parties for peer in parties if me != peer]
        pairs = await asyncio.gather(*(links[me].sockets(peer, "run/label") for me, peer in names))
        lanes = {party: {} for party in parties}
        for (me, peer), pair in zip(names, pairs, strict=True):
            lanes[me][peer] = Lane(me, peer, pair, step_timeout=patience)
        try:
            yield lanes
        finally:
            for lane in (lane for mine in lanes.values() for lane in mine.values()):
                lane.close()


def play(clean, backend, programs, *, patience=20.0):
    """Run a program at every party; return what each returned or raised."""

    async def main():
        async with lanes_of(backend, *programs, patience=patience) as lanes:
            runs = [run_lanes(lanes[name], program) for name, program in programs.items()]
            done = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 40)
            return dict(zip(programs, done, strict=True))

    return clean(main)


def content(name, number, size):
    seed = (sum(name.encode()) + 7 * number) % 251
    return (bytes((seed + at) % 256 for at in range(256)) * (size // 256 + 1))[:size]


def neighbours(name):
    at = RING.index(name)
    return RING[at - 1], RING[(at + 1) % 3]


def around(name, sizes, ahead=1):
    """Return a program that sends to the one before and receives from the one after."""
    before, after = neighbours(name)

    def program(lanes):
        limit = lanes[before]._direct
        amounts = [limit + size[1] if isinstance(size, tuple) else size for size in sizes]
        for start in range(0, len(amounts), ahead):
            part = list(enumerate(amounts[start : start + ahead], start))
            for number, size in part:
                lanes[before].send(content(name, number, size))
            for number, size in part:
                into = bytearray(size)
                lanes[after].receive(into)
                assert into == content(after, number, size)
        return sum(amounts), lanes[before].sent, lanes[after].received

    return program


SIZES = {
    "small": [0, 1, 7, 16 * KIB - 16, 16 * KIB - 15, 16 * KIB] * 20,
    "around the limit": [(DIRECT, d) for d in (-1, 0, 1, -17, 16, 1000)] * 10,
    "large": [3 * MIB, 5, 9 * MIB, 0, 3 * MIB, 100_000],
    "mixed": [1, 3 * MIB, 2, (DIRECT, 0), 3, (DIRECT, 1), 4] * 6,
}


@BACKENDS
@pytest.mark.parametrize("case", SIZES)
def test_a_ring(clean, backend, case):
    results = play(clean, backend, {name: around(name, SIZES[case]) for name in RING})
    for total, sent, received in results.values():
        assert total == sent == received


@BACKENDS
@pytest.mark.parametrize("ahead", [2, 3])
def test_a_ring_in_which_all_send_several_before_they_receive(clean, backend, ahead):
    sizes = [(DIRECT, 0)] * 24
    results = play(clean, backend, {name: around(name, sizes, ahead) for name in RING})
    assert all(isinstance(result, tuple) for result in results.values()), results


@BACKENDS
def test_who_only_sends_is_heard_in_order(clean, backend):
    """Direct sends do not overtake those that a thread is at; the end waits for both."""
    sizes = [4 * MIB, 5, 0, 70_000, 6 * MIB, 1] * 2

    def ann(lanes):
        for number, size in enumerate(sizes):
            lanes[BOB].send(content(ANN, number, size))

    def bob(lanes):
        for number, size in enumerate(sizes):
            time.sleep(0.02)
            into = bytearray(size)
            lanes[ANN].receive(into)
            assert into == content(ANN, number, size)
        return lanes[ANN].received

    assert play(clean, backend, {ANN: ann, BOB: bob}) == {ANN: None, BOB: sum(sizes)}


@BACKENDS
@pytest.mark.parametrize("size", [100, 8 * MIB])
def test_another_size_or_round_than_due(clean, backend, size):
    def ann(lanes):
        lanes[BOB].send(bytes(size))

    def bob(lanes):
        lanes[ANN].receive(bytearray(size + 8))

    results = play(clean, backend, {ANN: ann, BOB: bob}, patience=0.5)
    assert isinstance(results[BOB], ProtocolError)
    assert f"ann sends {size} bytes in round 0; due are {size + 8} in 0" in str(results[BOB])


def test_a_round_that_was_left_out(clean):
    def ann(lanes):
        lanes[BOB]._sends += 1
        lanes[BOB].send(bytes(8))

    def bob(lanes):
        lanes[ANN].receive(bytearray(8))

    results = play(clean, memory_links, {ANN: ann, BOB: bob})
    assert "in round 1; due are 8 in 0" in str(results[BOB])


@BACKENDS
def test_a_peer_that_ends(clean, backend):
    def ann(lanes):
        lanes[BOB].shut()

    def bob(lanes):
        lanes[ANN].receive(bytearray(8))

    assert isinstance(play(clean, backend, {ANN: ann, BOB: bob})[BOB], PeerLost)


@BACKENDS
@pytest.mark.parametrize("again", ["settle", "send", "send much"])
def test_what_a_thread_could_not_send_is_named_later(clean, backend, again):
    """By the next half of a round or by the end, whichever comes first."""

    def ann(lanes):
        lanes[BOB].send(bytes(64 * MIB))
        while lanes[BOB]._error is None:
            time.sleep(0.01)
        if again == "settle":
            lanes[BOB].settle()
        else:
            lanes[BOB].send(bytes(5 if again == "send" else 5 * MIB))

    def bob(lanes):
        time.sleep(0.1)
        lanes[ANN].shut()

    assert isinstance(play(clean, backend, {ANN: ann, BOB: bob})[ANN], PeerLost)


@BACKENDS
def test_behind_half_a_message_nothing_follows(clean, backend):
    """What was given to the thread before its error was known is not sent either."""

    def ann(lanes):
        lanes[BOB].send(bytes(64 * MIB))
        lanes[BOB].send(b"next")  # queues behind it
        lanes[BOB].settle()

    def bob(lanes):
        time.sleep(1.0)
        got = bytearray()
        lanes[ANN]._in.settimeout(0.3)
        try:
            while part := lanes[ANN]._in.recv(MIB):
                got += part
        except OSError:
            pass
        return len(got), b"next" in got

    results = play(clean, backend, {ANN: ann, BOB: bob}, patience=0.3)
    assert isinstance(results[ANN], StepTimeout), results
    assert results[BOB][0] < 64 * MIB
    assert not results[BOB][1]


@BACKENDS
@pytest.mark.parametrize("half", ["send", "receive"])
def test_a_peer_that_only_waits(clean, backend, half):
    def ann(lanes):
        if half == "send":
            lanes[BOB].send(bytes(64 * MIB))
            lanes[BOB].settle()
        else:
            lanes[BOB].receive(bytearray(8))

    def bob(lanes):
        del lanes
        time.sleep(0.8)

    results = play(clean, backend, {ANN: ann, BOB: bob}, patience=0.3)
    assert isinstance(results[ANN], StepTimeout)
    assert "bob is alive but kept a round waiting" in str(results[ANN])


def test_bytes_from_outside(clean):
    """Below TLS, as somebody on the path would send them: a broken lane, and nothing is handed out."""

    def ann(lanes):
        lanes[BOB].send(b"abc")
        socket.socket.send(lanes[BOB]._out, b"\x17\x03\x03\x00\x40" + bytes(64))
        time.sleep(0.2)

    def bob(lanes):
        into = bytearray(3)
        lanes[ANN].receive(into)
        assert into == b"abc"
        lanes[ANN].receive(into)

    assert isinstance(play(clean, tls_links, {ANN: ann, BOB: bob})[BOB], PeerLost)


@pytest.mark.parametrize("ends", [True, False])
def test_a_thread_that_sends_ends_with_its_lane(clean, ends):
    """``clean`` finds no thread left, whether the peer has read or not."""

    def ann(lanes):
        lanes[BOB].send(bytes(16 * MIB))
        if not ends:
            raise ProtocolError("otherwise")

    def bob(lanes):
        if ends:
            lanes[ANN].receive(bytearray(16 * MIB))

    results = play(clean, memory_links, {ANN: ann, BOB: bob})
    assert results[BOB] is None
    assert results[ANN] is None if ends else isinstance(results[ANN], ProtocolError)
