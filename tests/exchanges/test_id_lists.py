"""Lists of ids among parties: what is told of them, what is refused, and how a list is received."""

import asyncio
import datetime as dt
from typing import Annotated

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.mortal import Mortal
from protocols.ring import Listed
from veilsum.errors import DataError, PeerAborted, ProtocolError, StoreError
from veilsum.exchanges.id_lists import Size, announce, batch_count, check_own, receive
from veilsum.jobs import Job
from veilsum.net.messages import Buffer, Message, message
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster

replace = msgspec.structs.replace
MOST = {"b": 20, "a": 10}


@message(2, by="member")
class Part(Message, frozen=True):
    """A batch of the tests' lists: one number per id."""

    index: int
    numbers: Annotated[NDArray[np.uint8], Buffer("u1", (None,))]


def part(index, count):
    return Part(index, np.full(count, index, np.uint8))


def job(*, step_timeout=2.0):
    return Job(
        kind="lists",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"member": ("a", "b"), "referee": ("r",)},
        step_timeout=step_timeout,
    )


def listed(count, form="text"):
    made = Listed([f"id {i}" for i in range(count)])
    made.form = form
    return made


# -- sizes


def announcing(lists, *, journals=None, change=lambda size: size):
    """Let everybody announce its list; ``change`` is what b really sends."""

    def play(name):
        async def played(s):
            if name == "b":
                for peer in s.peers.values():
                    peer.send = lambda m, send=peer.send: send(change(m) if isinstance(m, Size) else m)
            return await announce(s, lists.get(name), MOST)

        return played

    cluster = Cluster(job(), [Size], journals=journals)
    return cluster, asyncio.run(cluster.play({name: play(name) for name in ("a", "b", "r")}))


def all_refuse(results, expected, match):
    """Everybody ends with the error, or is told of it by who was quicker."""
    kinds = [type(result) for result in results.values()]
    assert expected in kinds, results
    assert set(kinds) <= {expected, PeerAborted}, results
    assert all(match in str(r) for r in results.values() if isinstance(r, expected)), results


def test_everybody_learns_all_sizes_in_one_order():
    _, results = announcing({"a": listed(3), "b": listed(20)})
    assert all(result == {"b": 20, "a": 3} for result in results.values()), results
    assert all(list(result) == ["b", "a"] for result in results.values()), results


def test_one_message_a_receiver_says_it():
    cluster, _ = announcing({"a": listed(3), "b": listed(20)})
    said = [e for name, s in cluster.sessions.items() for e in s.transcript() if e.sender == name]
    assert sorted((e.sender, e.receiver, e.message) for e in said) == [
        (one, other, "Size") for one, other in (("a", "b"), ("a", "r"), ("b", "a"), ("b", "r"))
    ]


@pytest.mark.parametrize("size", [0, -1, -(1 << 63), 21, 1 << 40, (1 << 64) - 1])
def test_sizes_that_the_job_does_not_allow(size):
    _, results = announcing({"a": listed(3), "b": listed(5)}, change=lambda m: replace(m, ids=size))
    results.pop("b")
    all_refuse(results, ProtocolError, f"b announces {size} ids; the job allows 1 to 20")


@pytest.mark.parametrize("size", [1, 20])
def test_sizes_at_the_limits(size):
    _, results = announcing({"a": listed(10), "b": listed(size)})
    assert results["r"] == {"b": size, "a": 10}


@pytest.mark.parametrize(("size", "match"), [(0, "no usable id"), (11, "holds 11 ids, the job allows 10")])
def test_a_list_of_ones_own_that_may_not_enter(size, match):
    cluster, results = announcing({"a": listed(size), "b": listed(5)})
    assert isinstance(results["a"], DataError)
    assert match in str(results["a"])
    assert results["a"].remedy
    for name in ("b", "r"):
        assert isinstance(results[name], PeerAborted)
        assert results[name].cause == "DataError"
    # nothing of it was told
    assert not [e for e in cluster.sessions["b"].transcript() if e.sender == "a"]


def test_check_own_lets_lists_within_the_limit_pass():
    check_own(listed(1), 1, "a")
    with pytest.raises(DataError, match="no usable id"):
        check_own(listed(0), 1, "a")
    with pytest.raises(DataError, match="allows 1"):
        check_own(listed(2), 1, "a")


def test_different_forms_are_named_at_everybody():
    _, results = announcing({"a": listed(3), "b": listed(5, "digits")})
    all_refuse(results, DataError, "b: digits; a: text")


def test_a_form_that_was_only_said():
    _, results = announcing({"a": listed(3), "b": listed(5)}, change=lambda m: replace(m, form="digits"))
    results.pop("b")
    all_refuse(results, DataError, "different forms")


def test_sizes_stay_what_they_were():
    journals = {name: MemoryJournal() for name in ("a", "b", "r")}
    for _ in range(2):
        _, results = announcing({"a": listed(3), "b": listed(5)}, journals=journals)
        assert results["r"] == {"b": 5, "a": 3}
    _, results = announcing({"a": listed(3), "b": listed(6)}, journals=journals)
    all_refuse(results, ProtocolError, "another size than in an earlier attempt")
    _, results = announcing(
        {"a": listed(3), "b": listed(5)}, journals=journals, change=lambda m: replace(m, ids=4)
    )
    all_refuse({name: results[name] for name in ("a", "r")}, ProtocolError, "another size")


def test_a_party_that_says_no_size():
    async def silent(s):
        await asyncio.sleep(30)

    async def play(s):
        return await announce(s, None, MOST)

    cluster = Cluster(job(step_timeout=0.5), [Size])
    results = asyncio.run(asyncio.wait_for(cluster.play({"a": silent, "b": silent, "r": play}), 10))
    assert {result.code for result in results.values()} <= {"StepTimeout", "PeerAborted"}
    assert results["r"].code == "StepTimeout"


# -- batches


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_batches_cover_a_list_exactly(size, batch):
    count = batch_count(size, batch)
    assert count * batch >= size
    assert (count - 1) * batch < size or count == 0


def receiving(sent, *, size=7, batch=3, journals=None, ends=True):
    """Let a send parts and b receive them into a stage; return what b took, its result and its journal."""
    kept = journals or {name: MemoryJournal() for name in ("a", "b")}
    got = []

    async def send(s):
        async with s.step(2, "send"):
            for one in sent:
                await s["b"].send(one)
            if ends:
                await s["b"].end(Part)
        await asyncio.sleep(0.05)

    async def take(s):
        stage = s.stage("parts", batch_count(size, batch))
        async for one in receive(s, s["a"], Part, stage, size, batch):
            got.append((one.index, len(one.numbers)))
            await stage.commit(one.index, one.numbers.tobytes())
        return stage.done

    agreed = replace(job(step_timeout=0.6), parties={"member": ("a", "b")})
    cluster = Cluster(agreed, [Part], journals=kept)
    results = asyncio.run(asyncio.wait_for(cluster.play({"a": send, "b": take}), 10))
    return got, results["b"], kept["b"]


def test_a_list_in_its_batches():
    got, result, journal = receiving([part(0, 3), part(1, 3), part(2, 1)])
    assert got == [(0, 3), (1, 3), (2, 1)]
    assert result == 3
    assert [journal.read("parts", i) for i in range(3)] == [b"\0" * 3, b"\1" * 3, b"\2"]


@pytest.mark.parametrize(("size", "batch", "last"), [(6, 3, 3), (1, 5, 1), (5, 5, 5), (4, 1, 1)])
def test_the_last_batch_holds_the_rest(size, batch, last):
    count = batch_count(size, batch)
    sent = [part(i, batch) for i in range(count - 1)] + [part(count - 1, last)]
    got, result, _ = receiving(sent, size=size, batch=batch)
    assert result == count
    assert got[-1] == (count - 1, last)


@pytest.mark.parametrize(
    "sent",
    [
        [part(1, 3)],
        [part(0, 3), part(0, 3)],
        [part(0, 3), part(2, 1)],
        [part(0, 2)],
        [part(0, 4)],
        [part(0, 0)],
        [Part(-1, np.zeros(3, np.uint8))],
        [Part(-(1 << 40), np.zeros(3, np.uint8))],
        [Part(1 << 60, np.zeros(3, np.uint8))],
        [part(0, 3), part(1, 3), part(2, 3)],
        [part(0, 3), part(1, 3), part(2, 0)],
        [part(0, 3), part(1, 3), part(2, 1), part(3, 1)],
        [part(0, 3), part(1, 3), part(2, 1), part(2, 1)],
    ],
)
def test_batches_that_are_not_due(sent):
    got, result, journal = receiving(sent)
    assert isinstance(result, ProtocolError), result
    assert "was due" in str(result)
    assert result.party == "b"
    assert got == [(i, len(m.numbers)) for i, m in enumerate(sent[:-1])]
    assert journal.done("parts") == len(got)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_list_that_ends_early(count):
    _, result, _ = receiving([part(i, 3) for i in range(count)])
    assert isinstance(result, ProtocolError)
    assert f"after {count} of 3 batches" in str(result)


def test_a_list_goes_on_where_the_stage_stands():
    kept = {name: MemoryJournal() for name in ("a", "b")}
    sent = [part(0, 3), part(1, 3), part(2, 1)]
    # a secret and a memory, then one batch
    _, result, _ = receiving(sent, journals=kept | {"b": Mortal(kept["b"], 3)})
    assert isinstance(result, StoreError)
    assert kept["b"].done("parts") == 1
    got, result, _ = receiving(sent[1:], journals=kept)
    assert (got, result) == ([(1, 3), (2, 1)], 3)


def test_a_complete_list_is_not_asked_for_again():
    kept = {name: MemoryJournal() for name in ("a", "b")}
    receiving([part(0, 3), part(1, 3), part(2, 1)], journals=kept)
    # the sender knows that all is there, and sends nothing, not even an end
    got, result, _ = receiving([], journals=kept, ends=False)
    assert (got, result) == ([], 3)
