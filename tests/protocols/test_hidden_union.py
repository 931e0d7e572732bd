"""The hidden union against a plain one, its leaks, its lengths, what it refuses and what it resumes."""

import asyncio

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mortal import Mortal, committed
from protocols.ring import Listed
from protocols.test_dh_ring import lists_of
from protocols.test_dh_ring_cheating import tampering
from protocols.union import job, plays, run
from veilsum.errors import CheatingDetected, ConfigError, DataError, PeerAborted, ProtocolError, VeilsumError
from veilsum.protocols import hidden_union
from veilsum.protocols.hidden_union import (
    ExclusivePoints,
    MaskedPoints,
    MatchedPoints,
    NamedPoints,
    Params,
    Size,
    Union,
)
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster
from veilsum.testing.transcripts import compare, table

replace = msgspec.structs.replace


def check(results, lists):
    union = set(lists["a"]) | set(lists["b"])
    common = set(lists["a"]) & set(lists["b"])
    orders = {}
    for name, result in results.items():
        assert not isinstance(result, BaseException), result
        got, found, names = result
        assert got.sizes == {n: len(ids) for n, ids in lists.items()}
        assert (got.common, got.rows) == (len(common), len(union))
        assert len(names) == len(set(names)) == len(union)
        assert names == sorted(names)
        orders[name] = {lists[name][row]: place for row, place in found.items()}
        assert set(orders[name]) == set(lists[name])
    assert results["a"][2] == results["b"][2]
    # equal ids stand at equal places, and every place is somebody's
    assert {i for i in orders["a"] if orders["a"][i] == orders["b"].get(i)} == common
    places = set(orders["a"].values()) | set(orders["b"].values())
    assert places == set(range(len(union)))


@given(
    st.frozensets(st.binary(min_size=1, max_size=4), min_size=1, max_size=25),
    st.frozensets(st.binary(min_size=1, max_size=4), min_size=1, max_size=25),
    st.frozensets(st.binary(min_size=1, max_size=4), max_size=25),
    st.integers(1, 9),
)
def test_equals_the_plain_union(tmp_path_factory, one, other, both, batch):
    lists = {"a": sorted(one | both), "b": sorted(other | both)}
    folder = tmp_path_factory.mktemp("union")
    _, results = asyncio.run(run(job(batch=batch), {n: Listed(ids) for n, ids in lists.items()}, folder))
    check(results, lists)


@pytest.mark.parametrize("shared", [0, 1, 20])
def test_none_some_and_all_in_common(shared, tmp_path):
    lists = lists_of({"a": 20, "b": 20}, shared)
    _, results = asyncio.run(run(job(batch=7), {n: Listed(ids) for n, ids in lists.items()}, tmp_path))
    check(results, lists)


def test_on_disk(tmp_path):
    """With room for a few rows only, every table is partitioned."""
    lists = lists_of({"a": 3000, "b": 2500}, 700)
    agreed = job(batch=512)
    listed = {n: Listed(ids) for n, ids in lists.items()}
    cluster = Cluster(agreed, hidden_union.MESSAGES)
    results = asyncio.run(cluster.play(plays(agreed, listed, tmp_path, budget=1 << 16)))
    check(results, lists)


def test_table(tmp_path):
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 10, "b": 12}, 4).items()}
    cluster, _ = asyncio.run(run(job(batch=4), lists, tmp_path))
    entries = [
        entry
        for name, session in cluster.sessions.items()
        for entry in session.transcript()
        if entry.sender == name
    ]
    # masking and naming go on side by side, list by list
    rows = [row._replace(step=2) if "NamedPoints" in row.messages else row for row in table(hidden_union)]
    rows.sort(key=lambda row: row.step)
    compare(entries, {"a": {"member"}, "b": {"member"}}, rows)


def test_lengths_depend_on_sizes_alone(tmp_path):
    """With equal sizes and as many common ids, which ones are common changes no length."""
    seen = []
    for seed in (1, 2, 3):
        lists = {n: Listed(ids) for n, ids in lists_of({"a": 20, "b": 30}, 9, seed).items()}
        cluster, _ = asyncio.run(run(job(batch=8), lists, tmp_path))
        seen.append({name: sorted(session.transcript()) for name, session in cluster.sessions.items()})
    assert seen[0] == seen[1] == seen[2]


def test_no_message_links_lists_or_runs(tmp_path):
    """What crosses the wire is different in every run, and no point of one list comes in another."""
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 50, "b": 50}, 25).items()}
    points = []
    for _ in range(2):
        cluster, _ = asyncio.run(run(job(), lists, tmp_path))
        journal = cluster.journals["a"]
        for stage in ("masked", "their matched", "own matched", "named", "exclusive"):
            data = np.frombuffer(journal.read(stage, 0), np.uint8).reshape(-1, 32)
            points.append({bytes(point) for point in data})
    # a's own list and b's meet in the two matched lists, as they must, and nowhere else
    assert len(points[1] & points[2]) == 25
    assert sum(map(len, points)) - len(set().union(*points)) == 2 * 25


def bad(points):
    points = points.copy()
    points[1] = 0
    return points


def repeated(points):
    points = points.copy()
    points[1] = points[0]
    return points


def swapped(m):
    return [replace(m, points=m.points[::-1].copy())]


CHEATS = {
    "a point of small order": (MaskedPoints, lambda m: [replace(m, points=bad(m.points))], CheatingDetected),
    "a named point of small order": (
        NamedPoints,
        lambda m: [replace(m, points=bad(m.points))],
        CheatingDetected,
    ),
    "an exclusive point of small order": (
        ExclusivePoints,
        lambda m: [replace(m, points=bad(m.points))],
        CheatingDetected,
    ),
    "an id twice": (MaskedPoints, lambda m: [replace(m, points=repeated(m.points))], ProtocolError),
    "a matched id twice": (MatchedPoints, lambda m: [replace(m, points=repeated(m.points))], ProtocolError),
    "a name twice": (NamedPoints, lambda m: [replace(m, points=repeated(m.points))], CheatingDetected),
    "an exclusive id twice": (
        ExclusivePoints,
        lambda m: [replace(m, points=repeated(m.points))],
        CheatingDetected,
    ),
    "too few exclusive ids": (ExclusivePoints, lambda m: [replace(m, points=m.points[:-1])], ProtocolError),
    "a batch twice": (MatchedPoints, lambda m: [m, m], ProtocolError),
    "a batch left out": (NamedPoints, lambda m: [] if m.index == 1 else [m], ProtocolError),
    "a giant size": (Size, lambda m: [replace(m, ids=1 << 60)], ProtocolError),
    "another union": (Union, lambda m: [replace(m, digest=bytes(32))], ProtocolError),
    "another size of the union": (Union, lambda m: [replace(m, size=m.size + 1)], ProtocolError),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_noticed(cheat, tmp_path):
    cls, change, expected = CHEATS[cheat]
    agreed = job(batch=10)
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 40, "b": 35}, 12).items()}
    parts = plays(agreed, lists, tmp_path)
    parts["a"] = tampering(parts["a"], cls, change)
    results = asyncio.run(Cluster(agreed, hidden_union.MESSAGES).play(parts))
    assert all(isinstance(result, VeilsumError) for result in results.values()), results
    # where both notice at once, either may have told the other first
    assert any(isinstance(result, expected) for result in results.values()), results
    assert isinstance(results["b"], expected | PeerAborted), results


def test_permuted_names(tmp_path):
    """A member that permutes the other's names spoils the result without learning more: as documented."""
    agreed = job(batch=100)
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 10, "b": 10}, 5).items()}
    parts = plays(agreed, lists, tmp_path)
    parts["a"] = tampering(parts["a"], NamedPoints, swapped)
    results = asyncio.run(Cluster(agreed, hidden_union.MESSAGES).play(parts))
    assert results["a"][2] == results["b"][2]


@pytest.mark.parametrize(
    "parties",
    [
        {"member": ("a",)},
        {"member": ("a", "a")},
        {"member": ("a", "b", "c")},
        {"member": ("a", "b"), "collector": ("a",)},
        {"signer": ("a",), "client": ("b",)},
    ],
)
def test_roles_that_do_not_fit(parties):
    with pytest.raises(ConfigError, match="hidden_union"):
        hidden_union.leaks(replace(job(), parties=parties), Params())


def test_leak_table_says_the_same_of_both_members():
    leaks = hidden_union.leaks(job(), Params())
    assert {leak.part for leak in leaks} == {"alignment", "modelling"}
    for part in ("alignment", "modelling"):
        assert {leak.who for leak in leaks if leak.part == part} == {"a", "b"}
        assert len({leak.what for leak in leaks if leak.part == part}) == 1


def test_different_forms_are_named(tmp_path):
    lists = {"a": Listed(["x"]), "b": Listed(["x"])}
    lists["b"].form = "phone (E.164, US)"
    _, results = asyncio.run(run(job(), lists, tmp_path))
    assert all(isinstance(error, DataError) for error in results.values())


def test_resumes_after_every_write_with_the_same_bytes(tmp_path):
    agreed = job(batch=6)
    lists = lists_of({"a": 14, "b": 12}, 5)
    listed = {n: Listed(ids) for n, ids in lists.items()}

    def attempt(journals):
        cluster = Cluster(agreed, hidden_union.MESSAGES, journals=journals)
        return asyncio.run(cluster.play(plays(agreed, listed, tmp_path)))

    writes = 0
    while True:
        kept = {name: MemoryJournal() for name in ("a", "b")}
        first = attempt(kept | {"a": Mortal(kept["a"], writes)})
        before = {name: committed(journal) for name, journal in kept.items()}
        second = attempt(kept)
        check(second, lists)
        for name, stages in before.items():
            for stage, outputs in stages.items():
                assert outputs == [kept[name].read(stage, i) for i in range(len(outputs))]
        if not isinstance(first["a"], VeilsumError):
            break
        writes += 1
    assert writes > 20


def test_changed_ids_are_refused(tmp_path):
    first = {"a": Listed(["x", "y"]), "b": Listed(["y"])}
    cluster, _ = asyncio.run(run(job(), first, tmp_path))
    again = Cluster(job(), hidden_union.MESSAGES, journals=cluster.journals)
    results = asyncio.run(again.play(plays(job(), first | {"a": Listed(["x", "y", "z"])}, tmp_path)))
    assert all(isinstance(result, ProtocolError | PeerAborted) for result in results.values())
