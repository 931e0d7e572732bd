"""From where a computation goes on: the newest that all have of one series, whatever a peer claims."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilsum.errors import StoreError
from veilsum.exchanges.checkpoints import Checkpoints
from veilsum.store.journal import FileJournal, MemoryJournal


def state(number):
    return [np.array([number], np.uint64), np.full((2, 3), number, np.uint64), np.empty((2, 0), np.uint64)]


def begin(journals, claims=None):
    """Return every party's checkpoints, each from its own journal and what the others say."""
    said = [dict(journal.stages()) for journal in journals]
    for party, claim in (claims or {}).items():
        said[party] = claim
    return [
        Checkpoints(journal, journal.stages(), [s for other, s in enumerate(said) if other != me])
        for me, journal in enumerate(journals)
    ]


def train(journals, epochs, deaths=(), claims=None):
    """Play an attempt of so many epochs in all; a party that dies saves no more, and all stop there."""
    memories = begin(journals, claims)
    starts = {memory.epochs for memory in memories}
    for memory in memories:
        if memory.epochs:
            assert all(np.array_equal(a, b) for a, b in zip(memory.load(), state(memory.epochs), strict=True))
    for epoch in range(memories[0].epochs, epochs):
        dead = [party for party, last in dict(deaths).items() if last == epoch]
        for party, memory in enumerate(memories):
            if party not in dead:
                memory.save(state(epoch + 1))
        if dead:
            break
    return starts


@pytest.fixture(params=["memory", "files"])
def journals(request, tmp_path):
    if request.param == "memory":
        yield [MemoryJournal() for _ in range(3)]
        return
    made = [FileJournal(tmp_path / str(party)) for party in range(3)]
    yield made
    for journal in made:
        journal.close()


def test_nothing_is_kept_at_first(journals):
    assert [memory.epochs for memory in begin(journals)] == [0, 0, 0]


def test_all_go_on_from_what_all_have(journals):
    assert train(journals, 5, {1: 3}) == {0}
    assert [journal.stages() for journal in journals] == [{"shares 1": 4}, {"shares 1": 3}, {"shares 1": 4}]
    assert train(journals, 5) == {3}
    assert [journal.stages()["shares 2"] for journal in journals] == [2, 2, 2]
    assert train(journals, 5) == {5}


def test_a_newer_series_that_not_all_have_is_passed_over(journals):
    train(journals, 9, {0: 4})
    train(journals, 9, {1: 4})  # one epoch is kept by two, nothing by the third
    assert "shares 2" not in journals[1].stages()
    assert train(journals, 9, {2: 6}) == {4}
    assert sorted(journals[0].stages()) == ["shares 1", "shares 2", "shares 3"]
    assert train(journals, 9) == {6}


def test_series_are_never_mixed(journals):
    """An attempt that saved nothing anywhere leaves its number to the next; any other takes a new one."""
    train(journals, 4, {0: 0, 1: 0, 2: 0})
    assert train(journals, 4, {0: 2}) == {0}
    assert set(journals[0].stages()) == {"shares 1"}
    assert train(journals, 4, {1: 2, 2: 2}) == {2}
    assert set(journals[0].stages()) == {"shares 1", "shares 2"}
    assert set(journals[1].stages()) == {"shares 1"}
    assert train(journals, 4) == {2}
    assert set(journals[1].stages()) == {"shares 1", "shares 3"}


@given(st.lists(st.dictionaries(st.integers(0, 2), st.integers(0, 6), max_size=3), max_size=6))
def test_any_deaths(attempts):
    """Every attempt begins at one epoch everywhere, with the state of that epoch, and the last one ends."""
    journals = [MemoryJournal() for _ in range(3)]
    before = 0
    for deaths in attempts:
        (start,) = train(journals, 6, deaths)
        assert start >= before
        before = start
    (start,) = train(journals, 6)
    assert train(journals, 6) == {6}


CLAIMS = {
    "no numbers": {
        "shares x": 4,
        "shares 0": 4,
        "shares 007": 4,
        "shares -1": 4,
        "shares": 4,
        "shares 1 ": 4,
    },
    "other stages": {"rows": 9, "": 9, "shares\n1": 9},
    "too large": {"shares 99999999999": 4, "shares " + "9" * 5000: 4},
    "the largest": {"shares 999999999": 4},
    "more than it has": {"shares 1": 1 << 63},
    "all numbers": {f"shares {number}": 1 for number in range(1, 3000)},
    "less than nothing": {"shares 1": -7},
    "nothing": {},
    "other digits": {"shares ¹": 3, "shares ٣": 3},
}


@pytest.mark.parametrize("case", CLAIMS)
def test_what_a_peer_only_claims(case):
    """It never makes an honest party read what it does not have."""
    journals = [MemoryJournal() for _ in range(3)]
    train(journals, 3)
    memories = begin(journals, {2: CLAIMS[case]})[:2]
    assert {memory.epochs for memory in memories} <= {0, 1, 3}
    assert len({memory.epochs for memory in memories}) == 1
    for memory in memories:
        if memory.epochs:
            assert memory.load()[0] == memory.epochs
        memory.save(state(memory.epochs + 1))


def test_arrays_come_back_as_they_were(journals):
    arrays = [
        np.arange(24, dtype=np.uint64).reshape(2, 3, 4)[:, ::2],
        np.array((1 << 64) - 1, np.uint64),
        np.empty((2, 0, 5), np.uint64),
        np.zeros(100_000, np.uint64),
    ]
    for memory in begin(journals):
        memory.save(arrays)
    for memory in begin(journals):
        assert memory.epochs == 1
        for kept, array in zip(memory.load(), arrays, strict=True):
            assert kept.dtype == np.uint64
            assert kept.shape == array.shape
            assert np.array_equal(kept, array)
            assert kept.flags.writeable


@pytest.mark.parametrize("spoilt", [b"", b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"done": 1})])
def test_an_unreadable_checkpoint_is_named(spoilt):
    journals = [MemoryJournal() for _ in range(3)]
    for journal in journals:
        journal.commit("shares 1", 0, spoilt)
    with pytest.raises(StoreError, match="a checkpoint in the journal cannot be read") as found:
        begin(journals)
    assert "--fresh" in found.value.remedy
