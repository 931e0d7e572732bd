"""The alignment against a plain set intersection, its leaks, its lengths, and what it refuses."""

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ring import Listed, job, run
from veilsum.errors import ConfigError, DataError, ProtocolError
from veilsum.protocols import dh_ring
from veilsum.protocols.dh_ring import Params, Ring

NAMES = ("a", "b", "c", "d", "e", "f")


def lists_of(sizes, shared, seed=1):
    rng = random.Random(seed)
    out = {}
    for name, size in sizes.items():
        ids = [f"shared-{i}" for i in range(shared)] + [f"{name}-{i}" for i in range(size - shared)]
        rng.shuffle(ids)
        out[name] = ids
    return out


def check(results, lists, told, collector):
    common = set.intersection(*(set(ids) for ids in lists.values()))
    places = {}
    for name, result in results.items():
        assert not isinstance(result, BaseException), result
        alignment, found = result
        assert alignment.sizes == {n: len(ids) for n, ids in lists.items()}
        if name not in told:
            assert found is None
            continue
        assert {lists[name][row] for row in found} == common
        assert alignment.matched == len(common)
        places[name] = {lists[name][row]: place for row, place in found.items()}
    orders = list(places.values())
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0].values()) == list(range(len(common)))
    assert results[collector][0].cells is not None
    for combination, count in results[collector][0].cells.items():
        inside = set.intersection(*(set(lists[n]) for n in combination))
        outside = set().union(*(set(lists[n]) for n in lists if n not in combination))
        assert count == len(inside - outside)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("neutral", [False, True])
def test_every_number_of_members(count, neutral, tmp_path):
    members = NAMES[:count]
    collector = "referee" if neutral else members[-1]
    agreed = job(members, collector, share_matches=True, batch=7)
    lists = lists_of({n: 20 + 3 * i for i, n in enumerate(members)}, 11)
    _, results = asyncio.run(run(agreed, {n: Listed(ids) for n, ids in lists.items()}, tmp_path))
    check(results, lists, members, collector)


def test_only_the_collector_learns_by_default(tmp_path):
    agreed = job(("a", "b"), "b")
    lists = lists_of({"a": 30, "b": 40}, 10)
    _, results = asyncio.run(run(agreed, {n: Listed(ids) for n, ids in lists.items()}, tmp_path))
    check(results, lists, ("b",), "b")


@given(
    st.lists(
        st.frozensets(st.binary(min_size=1, max_size=6), min_size=1, max_size=30), min_size=2, max_size=3
    ),
    st.integers(1, 9),
)
def test_equals_plain_intersection(tmp_path_factory, sets, batch):
    members = NAMES[: len(sets)]
    lists = {name: sorted(ids) for name, ids in zip(members, sets, strict=True)}
    agreed = job(members, members[0], share_matches=True, batch=batch)
    folder = tmp_path_factory.mktemp("psi")
    _, results = asyncio.run(run(agreed, {n: Listed(ids) for n, ids in lists.items()}, folder))
    check(results, lists, members, members[0])


def test_lengths_do_not_depend_on_the_matches(tmp_path):
    agreed = job(("a", "b", "c"), "referee", share_matches=True, batch=8)
    seen = []
    for shared in (0, 5, 20):
        lists = lists_of({"a": 20, "b": 30, "c": 25}, shared)
        cluster, _ = asyncio.run(run(agreed, {n: Listed(ids) for n, ids in lists.items()}, tmp_path))
        seen.append({name: sorted(session.transcript()) for name, session in cluster.sessions.items()})
    assert seen[0] == seen[1] == seen[2]


def test_order_sent_says_nothing_about_rows(tmp_path):
    """Two runs over the same list send it in unrelated orders."""
    agreed = job(("a", "b"), "b", batch=1000)
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 500, "b": 500}, 500).items()}
    orders = []
    for _ in range(2):
        cluster, _ = asyncio.run(run(agreed, lists, tmp_path))
        orders.append(cluster.journals["a"].read("rows", 0))
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_bytes_an_item(tmp_path):
    agreed = job(("a", "b"), "b")
    lists = {n: Listed(ids) for n, ids in lists_of({"a": 1 << 20 >> 6, "b": 1 << 20 >> 6}, 10).items()}
    cluster, _ = asyncio.run(run(agreed, lists, tmp_path))
    sent = sum(peer.sent.size for s in cluster.sessions.values() for peer in s.peers.values())
    assert sent / (1 << 14) < 76


def test_different_forms_are_named(tmp_path):
    lists = {"a": Listed(["x"]), "b": Listed(["x"])}
    lists["b"].form = "phone (E.164, US)"
    _, results = asyncio.run(run(job(("a", "b"), "b"), lists, tmp_path))
    for error in results.values():
        assert isinstance(error, DataError)
        assert "b: phone (E.164, US)" in str(error)


def test_repeated_ids_are_refused_by_the_collector(tmp_path):
    lists = {"a": Listed(["x", "y", "x"]), "b": Listed(["x"])}
    _, results = asyncio.run(run(job(("a", "b"), "b"), lists, tmp_path))
    assert isinstance(results["b"], ProtocolError)
    assert "list of a holds 1 ids more than once" in str(results["b"])


@pytest.mark.parametrize(
    ("members", "collector", "params"),
    [
        (("a",), "a", {}),
        (("a", "a"), "a", {}),
        ((*NAMES, "g"), "a", {}),
        (("a", "b"), "referee", {}),
    ],
)
def test_roles_that_do_not_fit(members, collector, params):
    with pytest.raises(ConfigError):
        Ring.of(job(members, collector, **params), Params(**params))


def test_leak_table_is_complete():
    """Every role of every form of the job has its rows, and sharing adds exactly the members' rows."""
    for count, share, neutral in itertools.product((2, 3, 6), (False, True), (False, True)):
        members = NAMES[:count]
        params = Params(share_matches=share)
        collector = "referee" if neutral else members[0]
        if neutral and not share:
            continue
        table = dh_ring.leaks(job(members, collector, share_matches=share), params)
        matches = {leak.who for leak in table if "own ids all members hold" in leak.what}
        assert matches == (set(members) if share else {collector})
        assert {leak.who for leak in table if "number of ids of every member" in leak.what} == {
            *members,
            collector,
        }
        told_cells = [leak for leak in table if "combinations" in leak.what]
        assert bool(told_cells) == (count > 2 or neutral)
