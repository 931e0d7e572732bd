"""A disk that fills up at any durable step: the named error everywhere, and nothing is lost."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from protocols import pair, ring, union
from protocols.mortal import Mortal
from protocols.ring import Listed
from veilsum.crypto import blind_rsa
from veilsum.errors import PeerAborted, StoreError
from veilsum.protocols import dh_ring, hidden_psi, hidden_union
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster

LISTS = [Listed([f"{start + i}" for i in range(12)]) for start in (0, 7)]
COMMON = {0: set(range(7, 12)), 1: set(range(5))}
KEY = blind_rsa.gen_key(pair.SMALL)


class Script(NamedTuple):
    """A protocol, a job of it, how it is played, and the own rows that its two parties with lists place."""

    messages: Any
    job: Any
    parts: Callable[..., Any]
    rows: Callable[[Any], Any]
    writes: int
    expected: dict[str, set[int]]


SCRIPTS = {
    "dh_ring": Script(
        dh_ring.MESSAGES,
        ring.job(("a", "b"), "referee", share_matches=True, batch=6),
        ring.plays,
        lambda result: set(result[1]),
        8,
        {"a": COMMON[0], "b": COMMON[1]},
    ),
    "hidden_one": Script(
        hidden_psi.MESSAGES,
        pair.job(batch=6),
        pair.plays,
        lambda result: set(pair.placed(result[1])),
        10,
        {"s": set(range(12)), "c": COMMON[1]},
    ),
    "open": Script(
        hidden_psi.MESSAGES,
        pair.job(batch=6, mode="open", share_matches=True),
        pair.plays,
        lambda result: set(pair.placed(result[1])),
        10,
        {"s": COMMON[0], "c": COMMON[1]},
    ),
    "hidden_union": Script(
        hidden_union.MESSAGES,
        union.job(batch=6),
        union.plays,
        lambda result: set(result[1]),
        16,
        {"a": set(range(12)), "b": set(range(12))},
    ),
}


def fresh(script):
    journals = {name: MemoryJournal() for name in script.job.members}
    if "s" in journals:
        journals["s"].once("signing key", KEY.to_bytes)
    return journals


def run(script, folder, journals):
    lists = dict(zip(script.expected, LISTS, strict=True))
    cluster = Cluster(script.job, script.messages, journals=journals)
    return asyncio.run(cluster.play(script.parts(script.job, lists, folder)))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_write_at_every_party(name, tmp_path):
    script = SCRIPTS[name]
    journals = {party: Mortal(journal, 10**9) for party, journal in fresh(script).items()}
    run(script, tmp_path, journals)
    writes = {party: journal.writes for party, journal in journals.items()}
    assert min(writes.values()) > script.writes
    for full, last in writes.items():
        for room in range(last):
            kept = fresh(script)
            first = run(script, tmp_path, kept | {full: Mortal(kept[full], room)})
            assert isinstance(first[full], StoreError), (full, room, first)
            for party in kept:
                # who had all it needed before the disk was full has ended well
                assert party == full or isinstance(first[party], PeerAborted | tuple), (full, room, first)
            second = run(script, tmp_path, kept)
            for party, rows in script.expected.items():
                assert isinstance(second[party], tuple), (full, room, second)
                assert script.rows(second[party]) == rows, (full, room, second)


@pytest.mark.parametrize("code", [28, 122])
def test_the_system_says_full(code, tmp_path, monkeypatch):
    from veilsum.store import journal

    def full(*_):
        raise OSError(code, "full")

    with journal.FileJournal(tmp_path / "run") as kept:
        monkeypatch.setattr(journal.os, "pwrite", full)
        with pytest.raises(StoreError, match="is full"):
            kept.commit("s", 0, bytes(100_000))
        monkeypatch.undo()
        kept.commit("s", 0, b"x" * 100_000)
        assert kept.read("s", 0) == b"x" * 100_000
