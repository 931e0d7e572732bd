"""A disk that fills up at any durable step: the named error everywhere, and nothing is lost."""

import asyncio

import pytest

from protocols.mortal import Mortal
from protocols.ring import Listed, job, plays
from veilsum.errors import PeerAborted, StoreError
from veilsum.protocols import dh_ring
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster

PARTIES = ("a", "b", "referee")
LISTS = {name: Listed([f"{start + i}" for i in range(12)]) for name, start in (("a", 0), ("b", 7))}


def run(folder, journals):
    agreed = job(("a", "b"), "referee", share_matches=True, batch=6)
    cluster = Cluster(agreed, dh_ring.MESSAGES, journals=journals)
    return asyncio.run(cluster.play(plays(agreed, LISTS, folder)))


def test_every_write_at_every_party(tmp_path):
    journals = {name: Mortal(MemoryJournal(), 10**9) for name in PARTIES}
    run(tmp_path, journals)
    writes = {name: journal.writes for name, journal in journals.items()}
    assert min(writes.values()) > 8
    for full in PARTIES:
        for room in range(writes[full]):
            kept = {name: MemoryJournal() for name in PARTIES}
            first = run(tmp_path, kept | {full: Mortal(kept[full], room)})
            assert isinstance(first[full], StoreError), (full, room, first)
            for name in PARTIES:
                # who had all it needed before the disk was full has ended well
                assert name == full or isinstance(first[name], PeerAborted | tuple), (full, room, first)
            second = run(tmp_path, kept)
            assert set(second["a"][1]) == set(range(7, 12)), (full, room, second)
            assert set(second["b"][1]) == set(range(5)), (full, room, second)


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
