"""Numbers of owners on their way to computing parties, and results on theirs back, in pieces."""

import asyncio
import datetime as dt

import numpy as np
import pytest

from veilsum.crypto.prg import Prg
from veilsum.errors import CheatingDetected, PeerAborted
from veilsum.exchanges import sharing
from veilsum.exchanges.sharing import Dealt, Heard, Released
from veilsum.jobs import Job
from veilsum.mpc.engines import ENGINES
from veilsum.mpc.shares import Arith
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster

MESSAGES = (Dealt, Heard, Released)
NAMES = {"rss3": ("x", "y", "z"), "rss4": ("w", "x", "y", "z")}
PIECE = sharing.PIECE
ALL = pytest.mark.parametrize("kind", ENGINES)
RNG = np.random.default_rng(3)


def job(kind, owner="o", receivers=("r",)):
    return Job(
        kind="sharing",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"owner": (owner,), "computer": NAMES[kind], "receiver": tuple(receivers)},
        step_timeout=10.0,
    )


def play(agreed, program, journals=None):
    """Run one program, which is given the session, at every party."""
    cluster = Cluster(agreed, MESSAGES, journals=journals)
    results = asyncio.run(cluster.play(dict.fromkeys(agreed.members, program)))
    return cluster, results


def passing(kind, values, owner="o", receivers=("r",), label="rows", spoil=None):
    """Return a program: an owner shares, all compare, and the receivers get the same numbers back."""
    engine, computers = ENGINES[kind], NAMES[kind]

    async def program(s):
        share = None
        if s.me == owner:
            share = await sharing.deal(s, engine, computers, values, label)
        elif s.me in computers:
            share = await sharing.take(s, engine, computers.index(s.me), owner, values.shape)
        if s.me in computers:
            await sharing.compare(s, engine, computers, computers.index(s.me), [share], b"plan")
            if spoil == s.me:
                share.parts[-1].reshape(-1)[-1] ^= np.uint64(1)
            await sharing.release(s, receivers, "again", share)
        if s.me in receivers:
            return await sharing.collect(s, engine, computers, "again", values.shape, share)
        return share

    return program


@ALL
@pytest.mark.parametrize("shape", [(3, 4), (1,), (0, 7), (5, 0), (PIECE,), (PIECE + 1,), (3, PIECE // 2)])
def test_there_and_back(kind, shape):
    values = RNG.integers(0, 1 << 64, shape, dtype=np.uint64)
    cluster, results = play(job(kind), passing(kind, values))
    assert np.array_equal(results["r"], values), results
    for name, number in zip(NAMES[kind], range(9), strict=False):
        assert results[name].parts.shape == (len(ENGINES[kind].held(number)), *shape)
    # the last component goes in pieces of 4 MiB to those that hold it, and one message to those that do not
    pieces = {name: -(-max(values.size, 1) // PIECE) for name in NAMES[kind]}
    dealt = [e.receiver for e in cluster.sessions["o"].transcript() if e.message == "Dealt"]
    for number, name in enumerate(NAMES[kind]):
        holds = ENGINES[kind].components - 1 in ENGINES[kind].held(number)
        assert dealt.count(name) == (pieces[name] if holds else 1)


@ALL
def test_an_owner_that_computes_and_receives(kind):
    values = RNG.integers(0, 1 << 64, (40, 5), dtype=np.uint64)
    agreed = job(kind, owner="y", receivers=("x", "y"))
    _, results = play(agreed, passing(kind, values, owner="y", receivers=("x", "y")))
    assert np.array_equal(results["x"], values), results
    assert np.array_equal(results["y"], values)


@ALL
def test_keys_are_the_components_of_an_owner_that_computes(kind):
    values = RNG.integers(0, 1 << 64, (6,), dtype=np.uint64)
    agreed = job(kind, owner="x")
    _, results = play(agreed, passing(kind, values, owner="x"))
    by_component = {}
    for number, name in enumerate(NAMES[kind]):
        for component, part in zip(ENGINES[kind].held(number), results[name].parts, strict=True):
            assert np.array_equal(by_component.setdefault(component, part), part)
    assert np.array_equal(np.add.reduce(list(by_component.values())), values)


def test_attempts_of_a_run_deal_the_same_and_other_runs_do_not():
    values = RNG.integers(0, 1 << 64, (50,), dtype=np.uint64)
    agreed = job("rss3")
    journals = {name: MemoryJournal() for name in agreed.members}
    first, second, other = (
        play(agreed, passing("rss3", values), kept)[1] for kept in (journals, journals, None)
    )
    for name in NAMES["rss3"]:
        assert np.array_equal(first[name].parts, second[name].parts)
        assert not np.array_equal(first[name].parts, other[name].parts)


def test_other_labels_have_other_keys():
    """Two inputs of one owner never share a mask."""
    values = np.zeros(30, np.uint64)
    engine, computers = ENGINES["rss3"], NAMES["rss3"]

    async def program(s):
        if s.me == "o":
            for label in ("rows o", "weights"):
                await sharing.deal(s, engine, computers, values, label)
            return None
        if s.me not in computers:
            return None
        number = computers.index(s.me)
        return [await sharing.take(s, engine, number, "o", (30,)) for _ in range(2)]

    _, results = play(job("rss3"), program)
    for name in computers:
        one, two = results[name]
        assert not np.isin(one.parts, two.parts).any()


@ALL
@pytest.mark.parametrize("last", [True, False])
def test_a_party_that_releases_something_else(kind, last):
    liar = NAMES[kind][-1 if last else 0]
    values = RNG.integers(0, 1 << 64, (PIECE // 2 + 5, 2), dtype=np.uint64)
    _, results = play(job(kind), passing(kind, values, spoil=liar))
    assert isinstance(results["r"], CheatingDetected)
    assert results["r"].party == "r"
    assert all(isinstance(results[name], PeerAborted | Arith) for name in NAMES[kind])


@ALL
def test_nobody_else_gets_a_result(kind):
    values = RNG.integers(0, 1 << 64, (7,), dtype=np.uint64)
    agreed = job(kind, receivers=("r", "q"))
    cluster, results = play(agreed, passing(kind, values, receivers=("r",)))
    assert np.array_equal(results["r"], values)
    assert results["q"] is None
    assert not cluster.sessions["q"].transcript()


def test_keys_say_nothing_of_the_numbers():
    """Who holds no last component could draw the same from its keys alone, whatever the numbers are."""
    engine, computers = ENGINES["rss3"], NAMES["rss3"]
    values = RNG.integers(0, 1 << 64, (20,), dtype=np.uint64)
    seen = []

    async def program(s):
        if s.me == "o":
            await sharing.deal(s, engine, computers, values, "rows")
        elif s.me == "x":
            got = await s["o"].recv(Dealt)
            seen.append(got)
        elif s.me in computers:
            await sharing.take(s, engine, computers.index(s.me), "o", (20,))

    play(job("rss3"), program)
    (got,) = seen
    assert got.components == [0, 1]
    assert got.words.size == 0
    rest = values - Prg(got.keys[0]).words(20) - Prg(got.keys[1]).words(20)
    assert len(np.unique(rest)) == 20  # what it lacks is as random as its keys are
