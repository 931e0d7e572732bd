"""Rounds over lanes: who gets what, what is counted, and rings that are full of large arrays."""

import socket
import threading

import numpy as np
import pytest

from veilsum.errors import PeerLost, ProtocolError
from veilsum.mpc.wire import DryWire, LaneWire, Traffic
from veilsum.net.config import MIB
from veilsum.net.lane import Lane
from veilsum.net.ports import SocketPair
from veilsum.testing.computing import wires

HEAD = 16


@pytest.fixture
def ring():
    """Return a function that gives so many parties their wires, over socket pairs."""
    made = []

    def give(parties=3, patience=20.0):
        pipes = {(i, j): socket.socketpair() for i in range(parties) for j in range(parties) if i != j}
        lanes = [[None] * parties for _ in range(parties)]
        for i, j in pipes:
            pair = SocketPair(pipes[i, j][0], pipes[j, i][1])
            lanes[i][j] = Lane(f"p{i}", f"p{j}", pair, step_timeout=patience)
            made.append(lanes[i][j])
        return [LaneWire(me, lanes[me]) for me in range(parties)]

    yield give
    for lane in made:
        lane.close()


def together(ends, program):
    """Run a program at every end; return what each gave or raised."""
    found = [None] * len(ends)

    def run(wire):
        try:
            found[wire.me] = program(wire)
        except Exception as error:  # noqa: BLE001 -- compared by the test
            found[wire.me] = error

    threads = [threading.Thread(target=run, args=(wire,), daemon=True) for wire in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return found


def rotate(wire, size, rounds=1):
    before, after = (wire.me - 1) % wire.parties, (wire.me + 1) % wire.parties
    for number in range(rounds):
        mine = np.arange(size, dtype=np.uint64) * np.uint64(wire.me + 3) + np.uint64(number)
        theirs = np.empty(size, np.uint64)
        wire.exchange({before: mine}, {after: theirs})
        assert np.array_equal(
            theirs, np.arange(size, dtype=np.uint64) * np.uint64(after + 3) + np.uint64(number)
        )
    return wire.total


@pytest.mark.parametrize(("size", "rounds"), [(1, 200), (4000, 50), (30_000, 20), (8 * MIB, 1)])
def test_a_ring(ring, size, rounds):
    """Also of 64 MiB each, which no socket holds: nobody waits for ever."""
    total = Traffic(8 * size * rounds, 8 * size * rounds, rounds)
    assert together(ring(), lambda wire: rotate(wire, size, rounds)) == [total] * 3


def test_large_and_small_in_turns(ring):
    def program(wire):
        for size in (8 * MIB, 1, MIB, 1, 1, 2 * MIB, 70_000):
            rotate(wire, size)
        return True

    assert together(ring(4), program) == [True] * 4


def test_each_to_each_and_some_to_nobody(ring):
    """A round in which all talk, one in which one is told, and one in which nobody is."""

    def program(wire):
        others = [peer for peer in range(3) if peer != wire.me]
        got = {peer: np.empty(5, np.uint64) for peer in others}
        wire.exchange({peer: np.full(5, 10 * wire.me + peer, np.uint64) for peer in others}, got)
        assert all((got[peer] == 10 * peer + wire.me).all() for peer in others)
        one = np.empty((2, 3), np.uint64)
        if wire.me == 0:
            wire.exchange({2: np.arange(6, dtype=np.uint64).reshape(2, 3)}, {})
        else:
            wire.exchange({}, {0: one} if wire.me == 2 else {})
        wire.exchange({}, {})
        if wire.me == 2:
            assert np.array_equal(one, np.arange(6).reshape(2, 3))
        return wire.total

    sent = [80 + 48, 80, 80]
    heard = [80, 80, 80 + 48]
    assert together(ring(), program) == [Traffic(s, h, 3) for s, h in zip(sent, heard, strict=True)]


def test_nothing_is_said_of_nothing(ring):
    """Arrays without elements are no messages: the parties stay in step."""

    def program(wire):
        peer = 1 - wire.me
        wire.exchange({peer: np.empty(0, np.uint64)}, {peer: np.empty((0, 4), np.uint64)})
        lane = wire._lane(peer)
        assert (lane.sent, lane.received) == (0, 0)
        into = np.empty(1, np.uint64)
        wire.exchange({peer: np.array([7], np.uint64)}, {peer: into})
        return int(into[0]), wire.total.rounds

    assert together(ring(2), program) == [(7, 2)] * 2


def test_parts_are_counted_by_name(ring):
    def program(wire):
        with wire.step("epochs"):
            rotate(wire, 3)
            with wire.step("checks"):
                rotate(wire, 1)
            rotate(wire, 2)
        with wire.step("epochs"):
            rotate(wire, 1)
        return wire.by_step, wire.total

    for by_step, total in together(ring(), program):
        assert by_step == {"epochs": Traffic(48, 48, 3), "checks": Traffic(8, 8, 1)}
        assert total == by_step["epochs"] + by_step["checks"]
        assert total - by_step["checks"] == by_step["epochs"]


def test_other_sizes_and_ends_are_named(ring):
    def program(wire):
        size = 2 if wire.me == 1 else 1
        theirs = np.empty(1, np.uint64)
        try:
            wire.exchange({(wire.me - 1) % 3: np.zeros(size, np.uint64)}, {(wire.me + 1) % 3: theirs})
            wire.exchange({}, {(wire.me + 1) % 3: theirs})
        finally:
            for peer in {0, 1, 2} - {wire.me}:
                wire._lane(peer).shut()

    outcomes = together(ring(), program)
    assert isinstance(outcomes[0], ProtocolError)
    assert "p1 sends 16 bytes in round 0; due are 8 in 0" in str(outcomes[0])
    assert all(isinstance(outcome, PeerLost) for outcome in outcomes[1:]), outcomes


def test_what_would_be_said():
    """The same rounds without anybody: counted alike, and zeros are heard."""
    wire = DryWire(1, 3)
    theirs = np.ones((2, 5), np.uint64)
    with wire.step("x"):
        wire.exchange({0: np.ones(4, np.uint64)}, {2: theirs})
    assert not theirs.any()
    assert wire.total == wire.by_step["x"] == Traffic(32, 80, 1)
    assert wire.dry
    assert not LaneWire.dry


def test_wires_of_one_process_count_alike():
    assert together(wires(3), lambda wire: _kept(wire, 100)) == [Traffic(800, 800, 1)] * 3


def _kept(wire, size):
    """Play a round, then change what was sent: the receiver has a copy."""
    mine, theirs = np.full(size, wire.me, np.uint64), np.empty(size, np.uint64)
    wire.exchange({(wire.me - 1) % 3: mine}, {})
    mine[...] = np.uint64(99)
    wire._exchange({}, {(wire.me + 1) % 3: theirs})
    wire.total.received += theirs.nbytes
    assert (theirs == (wire.me + 1) % 3).all()
    return wire.total
