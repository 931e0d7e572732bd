"""Blind RSA alignment against a plain intersection: both modes, both sides, leaks, lengths, resuming."""

import asyncio
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.mortal import Mortal, committed
from protocols.pair import SMALL, job, names, params_of, placed, plays, run
from protocols.ring import Listed
from protocols.test_dh_ring import lists_of
from veilsum.data.alignment import NO_ROW
from veilsum.errors import BudgetExceeded, ConfigError, DataError, PeerAborted, ProtocolError, StoreError
from veilsum.protocols import hidden_psi
from veilsum.protocols.hidden_psi import Params
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster
from veilsum.testing.transcripts import compare, table

replace = msgspec.structs.replace


def both(sizes, shared, seed=1):
    lists = lists_of({"s": sizes[0], "c": sizes[1]}, shared, seed)
    return lists, {name: Listed(ids) for name, ids in lists.items()}


def check_hidden_one(results, lists):
    for result in results.values():
        assert not isinstance(result, BaseException), result
    common = set(lists["s"]) & set(lists["c"])
    (signer, signer_lines), (client, client_lines) = results["s"], results["c"]
    sizes = {"s": len(lists["s"]), "c": len(lists["c"])}
    assert signer == (sizes, client.key, sizes["s"], None)
    assert client == (sizes, signer.key, sizes["s"], len(common))
    # the signer: every row once, no weight, no gap
    at_signer = placed(signer_lines)
    assert sorted(at_signer) == sorted(at_signer.values()) == list(range(sizes["s"]))
    assert all(batch.weights is None for batch in signer_lines)
    # the client: every place, weight 1 exactly where its own row stands, which has the signer's id
    positions = np.concatenate([batch.positions for batch in client_lines])
    rows = np.concatenate([batch.rows for batch in client_lines])
    weights = np.concatenate([batch.weights for batch in client_lines])
    assert positions.tolist() == list(range(sizes["s"]))
    assert np.array_equal(weights, (rows != NO_ROW).astype(np.int64))
    at_client = placed(client_lines)
    assert {lists["c"][row] for row in at_client} == common
    owner = {place: lists["s"][row] for row, place in at_signer.items()}
    assert all(owner[place] == lists["c"][row] for row, place in at_client.items())
    # one random id per place, the same at both
    assert names(signer_lines) == names(client_lines)
    assert len(set(names(signer_lines))) == sizes["s"]


def check_open(results, lists, *, share):
    for result in results.values():
        assert not isinstance(result, BaseException), result
    common = set(lists["s"]) & set(lists["c"])
    client, lines = results["c"]
    assert (client.matched, client.rows) == (len(common), len(common))
    at_client = {lists["c"][row]: place for row, place in placed(lines).items()}
    assert set(at_client) == common
    assert sorted(at_client.values()) == list(range(len(common)))
    signer, lines = results["s"]
    if share:
        assert (signer.matched, signer.rows) == (len(common), len(common))
        assert {lists["s"][row]: place for row, place in placed(lines).items()} == at_client
    else:
        assert (signer.matched, signer.rows, lines) == (None, None, None)


@pytest.mark.parametrize("shared", [0, 1, 20])
@pytest.mark.parametrize("bits", [SMALL, 1024])
def test_hidden_one(shared, bits, tmp_path):
    lists, listed = both((20, 30), shared)
    _, results = asyncio.run(run(job(batch=7, key_bits=bits), listed, tmp_path))
    check_hidden_one(results, lists)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("shared", [0, 1, 20])
def test_open(shared, share, tmp_path):
    lists, listed = both((30, 20), shared)
    agreed = job(mode="open", share_matches=share, batch=7)
    _, results = asyncio.run(run(agreed, listed, tmp_path))
    check_open(results, lists, share=share)


@pytest.mark.parametrize(("bits", "primes"), [(2048, 2), (3072, 2), (3072, 3)])
def test_keys_of_users(bits, primes, tmp_path):
    lists, listed = both((20, 30), 9)
    agreed = job(key_bits=bits, primes=primes)
    assert msgspec.convert(agreed.params, Params) == params_of(agreed)
    _, results = asyncio.run(run(agreed, listed, tmp_path))
    check_hidden_one(results, lists)


@settings(max_examples=20)
@given(
    st.frozensets(st.binary(min_size=1, max_size=4), min_size=1, max_size=25),
    st.frozensets(st.binary(min_size=1, max_size=4), min_size=1, max_size=25),
    st.frozensets(st.binary(min_size=1, max_size=4), max_size=25),
    st.integers(1, 9),
    st.booleans(),
)
def test_equals_plain_intersection(one, other, shared, batch, hidden):
    lists = {"s": sorted(one | shared), "c": sorted(other | shared)}
    listed = {name: Listed(ids) for name, ids in lists.items()}
    agreed = job(batch=batch) if hidden else job(batch=batch, mode="open", share_matches=True)
    with tempfile.TemporaryDirectory() as folder:
        _, results = asyncio.run(run(agreed, listed, Path(folder)))
    if hidden:
        check_hidden_one(results, lists)
    else:
        check_open(results, lists, share=True)


def test_on_disk(tmp_path):
    """With room for a few rows only, every table is partitioned."""
    lists, listed = both((2500, 2000), 700)
    agreed = job(batch=512)
    cluster = Cluster(agreed, hidden_psi.MESSAGES)
    results = asyncio.run(cluster.play(plays(agreed, listed, tmp_path, budget=1 << 16)))
    check_hidden_one(results, lists)


@pytest.mark.parametrize(
    ("params", "unsaid"),
    [
        ({"mode": "hidden_one"}, {"Places"}),
        ({"mode": "open", "share_matches": True}, {"RandomMap"}),
        ({"mode": "open"}, {"Places", "RandomMap"}),
    ],
)
def test_table(params, unsaid, tmp_path):
    _, listed = both((10, 12), 4)
    cluster, _ = asyncio.run(run(job(batch=4, **params), listed, tmp_path))
    entries = [
        entry
        for name, session in cluster.sessions.items()
        for entry in session.transcript()
        if entry.sender == name
    ]
    assert not {entry.message for entry in entries} & unsaid
    compare(entries, {"s": {"signer"}, "c": {"client"}}, table(hidden_psi), optional=unsaid)


@pytest.mark.parametrize("params", [{}, {"mode": "open", "share_matches": True}])
def test_lengths_do_not_depend_on_the_matches(params, tmp_path):
    seen = []
    for shared in (0, 5, 20):
        _, listed = both((20, 30), shared)
        cluster, _ = asyncio.run(run(job(batch=8, **params), listed, tmp_path))
        seen.append({name: sorted(session.transcript()) for name, session in cluster.sessions.items()})
    assert seen[0] == seen[1] == seen[2]


def test_the_random_map_does_not_depend_on_the_matches(tmp_path):
    """The client's secret fixed, its map is the same whatever matches: the signer can see nothing in it."""
    maps = []
    for shared in (0, 20):
        journals = {"s": MemoryJournal(), "c": MemoryJournal()}
        journals["c"].once("run secret", lambda: bytes(range(32)))
        _, listed = both((20, 30), shared)
        cluster, _ = asyncio.run(run(job(), listed, tmp_path, journals=journals))
        maps.append(cluster.journals["s"].read("random map", 0))
    assert maps[0] == maps[1]


def test_order_sent_says_nothing_about_rows(tmp_path):
    _, listed = both((5, 300), 5)
    orders = []
    for _ in range(2):
        cluster, _ = asyncio.run(run(job(), listed, tmp_path))
        records = np.frombuffer(cluster.journals["c"].read("own tags", 0), np.uint8).reshape(300, -1)
        orders.append(records[:, -8:].copy().view("<i8")[:, 0].tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(300))


def test_tags_come_sorted(tmp_path):
    _, listed = both((300, 5), 5)
    cluster, _ = asyncio.run(run(job(batch=64), listed, tmp_path))
    width = hidden_psi.tag_width({"s": 300, "c": 5})
    tags = [
        bytes(tag)
        for index in range(5)
        for tag in np.frombuffer(cluster.journals["c"].read("tags", index), np.uint8).reshape(-1, width)
    ]
    assert tags == sorted(tags)
    assert len(set(tags)) == 300


def test_runs_cannot_be_linked(tmp_path):
    """A fresh key in every run: nothing that was sent comes again."""
    _, listed = both((40, 40), 40)
    seen = []
    for _ in range(2):
        cluster, _ = asyncio.run(run(job(), listed, tmp_path))
        client = cluster.journals["c"]
        seen.append({client.read("tags", 0)[i : i + 8] for i in range(0, 320, 8)})
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("victim", ["s", "c"])
def test_resumes_after_every_write_with_the_same_bytes(victim, tmp_path):
    agreed = job(batch=6)
    lists, listed = both((14, 12), 5)

    def attempt(journals):
        cluster = Cluster(agreed, hidden_psi.MESSAGES, journals=journals)
        return asyncio.run(cluster.play(plays(agreed, listed, tmp_path)))

    writes = 0
    while True:
        kept = {name: MemoryJournal() for name in ("s", "c")}
        first = attempt(kept | {victim: Mortal(kept[victim], writes)})
        before = {name: committed(journal) for name, journal in kept.items()}
        check_hidden_one(attempt(kept), lists)
        for name, stages in before.items():
            for stage, outputs in stages.items():
                assert outputs == [kept[name].read(stage, index) for index in range(len(outputs))]
        if not isinstance(first[victim], StoreError):
            break
        writes += 1
    assert writes >= 12


def test_no_id_is_blinded_twice(tmp_path):
    """A client that is killed in the middle sends the rest only, and the signer signs every batch once."""
    agreed = job(batch=6)
    lists, listed = both((14, 40), 5)
    journals = {name: MemoryJournal() for name in ("s", "c")}
    # run secret, memory of s, sizes, key, then three batches of seven
    asyncio.run(run(agreed, listed, tmp_path, journals=journals | {"c": Mortal(journals["c"], 7)}))
    signed = journals["s"].done("signed")
    assert 0 < signed <= 7
    cluster, results = asyncio.run(run(agreed, listed, tmp_path, journals=journals))
    check_hidden_one(results, lists)
    sent = [e for e in cluster.sessions["c"].transcript() if e.message == "BlindedIds" and e.sender == "c"]
    assert len([e for e in sent if e.size > 100]) == 7 - signed


class Keys:
    """A signer's memory over runs, for tests."""

    def __init__(self, limit=10**9):
        self.limit, self.made, self.given, self.tags = limit, {}, 0, {}
        self.asked = 0

    def reusable(self, bits, primes):
        if (bits, primes) not in self.made:
            self.made[bits, primes] = hidden_psi.blind_rsa.gen_key(bits, primes).to_bytes()
        return self.made[bits, primes]

    def allow(self, key, count):
        if self.given + count > self.limit:
            raise BudgetExceeded("too many signatures", remedy="ask the owner")
        self.given += count

    def cached(self, key, digests):
        self.asked += len(digests)
        rows = [self.tags.get(bytes(digest), bytes(32)) for digest in digests]
        found = np.array([bytes(digest) in self.tags for digest in digests], np.bool_)
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32).copy(), found

    def keep(self, key, digests, tags):
        self.tags |= {bytes(d): bytes(t) for d, t in zip(digests, tags, strict=True)}


def test_a_reused_key_keeps_its_tags(tmp_path, monkeypatch):
    keys = Keys()
    agreed = job(reuse_key=True, batch=8)
    lists, listed = both((30, 20), 7)
    first, results = asyncio.run(run(agreed, listed, tmp_path, keys=keys))
    check_hidden_one(results, lists)
    assert (keys.given, len(keys.tags)) == (20, 30)
    grown = lists | {"s": [*lists["s"][5:], "new-1", "new-2"]}
    signed = []
    real = hidden_psi.blind_rsa.sign
    monkeypatch.setattr(
        hidden_psi.blind_rsa,
        "sign",
        lambda key, v, *a, **k: (signed.append(len(v)), real(key, v, *a, **k))[1],
    )
    second, results = asyncio.run(
        run(agreed, {name: Listed(ids) for name, ids in grown.items()}, tmp_path, keys=keys)
    )
    check_hidden_one(results, grown)
    # only the client's ids and the two new ones of the signer were signed
    assert sum(signed) == 20 + 2
    assert (keys.given, len(keys.tags)) == (40, 32)
    # the leak row: the client sees which tags stayed
    width = hidden_psi.tag_width({"s": 30, "c": 20})
    tags = [
        {
            bytes(t)
            for i in range(cluster.journals["c"].done("tags"))
            for t in np.frombuffer(cluster.journals["c"].read("tags", i), np.uint8).reshape(-1, width)
        }
        for cluster in (first, second)
    ]
    assert len(tags[0] & tags[1]) == 25


def test_a_kept_tag_says_nothing_without_the_key(tmp_path):
    """Neither digests nor tags of the cache are plain hashes of ids."""
    import hashlib

    keys = Keys()
    _, listed = both((10, 5), 5)
    asyncio.run(run(job(reuse_key=True), listed, tmp_path, keys=keys))
    kept = {*keys.tags, *keys.tags.values()}
    for name in ("sha256", "sha384", "sha512"):
        for i in range(5):
            digest = hashlib.new(name, f"shared-{i}".encode()).digest()
            assert not any(value in digest or digest[:16] in value for value in kept)


def test_a_quota_that_is_reached(tmp_path):
    keys = Keys(limit=25)
    _, listed = both((10, 20), 5)
    agreed = job(reuse_key=True)
    asyncio.run(run(agreed, listed, tmp_path, keys=keys))
    _, results = asyncio.run(run(agreed, listed, tmp_path, keys=keys))
    assert isinstance(results["s"], BudgetExceeded)
    assert isinstance(results["c"], PeerAborted)
    assert results["c"].cause == "BudgetExceeded"


def test_a_key_is_reused_only_where_keys_are_kept(tmp_path):
    _, listed = both((10, 20), 5)
    _, results = asyncio.run(run(job(reuse_key=True), listed, tmp_path))
    assert isinstance(results["s"], ConfigError)


@pytest.mark.parametrize(("limit", "who"), [({"signer_ids": 9}, "s"), ({"client_ids": 19}, "c")])
def test_more_ids_than_declared(limit, who, tmp_path):
    _, listed = both((10, 20), 5)
    _, results = asyncio.run(run(job(**limit), listed, tmp_path))
    assert isinstance(results[who], DataError)
    other = results["c" if who == "s" else "s"]
    assert isinstance(other, PeerAborted)


def test_changed_ids_are_refused(tmp_path):
    _, listed = both((10, 20), 5)
    cluster, _ = asyncio.run(run(job(), listed, tmp_path))
    _, more = both((10, 21), 5)
    again = Cluster(job(), hidden_psi.MESSAGES, journals=cluster.journals)
    results = asyncio.run(again.play(plays(job(), more, tmp_path)))
    assert all(isinstance(result, ProtocolError | PeerAborted) for result in results.values())


def test_different_forms_are_named(tmp_path):
    _, listed = both((10, 20), 5)
    listed["c"].form = "phone (E.164)"
    _, results = asyncio.run(run(job(), listed, tmp_path))
    for error in results.values():
        assert isinstance(error, DataError)
        assert "c: phone (E.164)" in str(error)


@pytest.mark.parametrize(
    "parties",
    [
        {"signer": ("a",)},
        {"signer": ("a",), "client": ("a",)},
        {"signer": ("a", "b"), "client": ("c",)},
        {"signer": ("a",), "client": ("b",), "collector": ("c",)},
        {"member": ("a", "b")},
    ],
)
def test_roles_that_do_not_fit(parties):
    with pytest.raises(ConfigError):
        hidden_psi.leaks(replace(job(), parties=parties), Params())


@pytest.mark.parametrize(
    "params", [{"primes": 3, "key_bits": 2048}, {"share_matches": True}, {"key_bits": 1024}, {"primes": 4}]
)
def test_params_that_do_not_fit(params):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, Params)


def test_leak_table_in_both_parts():
    for mode, share, reuse in (("hidden_one", False, True), ("open", True, False), ("open", False, True)):
        leaks = hidden_psi.leaks(job(), Params(mode=mode, share_matches=share, reuse_key=reuse))
        assert {leak.part for leak in leaks} == {"alignment", "modelling"}
        told = {leak.who for leak in leaks if leak.part == "alignment" and "own ids match" in leak.what}
        assert told == ({"c", "s"} if share else {"c"})
        assert any("come and go" in leak.what for leak in leaks) == reuse
        assert any(leak.who == "s" and "nothing about what matches" in leak.what for leak in leaks) == (
            mode == "hidden_one"
        )


def test_what_is_sent_again_is_the_same_bytes(tmp_path):
    """Blinded ids that were under way when the signer died come again as they were, so do its answers."""
    agreed = job(batch=6)
    lists, listed = both((14, 40), 5)
    said = {}

    def listening(part, me):
        async def play(s):
            for peer in s.peers.values():
                peer.send = lambda message, send=peer.send: heard(me, message, send)
            return await part(s)

        async def heard(me, message, send):
            name, index = type(message).__name__, getattr(message, "index", None)
            if index is not None:
                body = b"".join(getattr(message, field).tobytes() for field, _, _ in message.wire.buffers)
                again = said.setdefault((me, name, index), body)
                assert again == body, (me, name, index)
                repeated.append(name)
            await send(message)

        return play

    counts = []
    for victim, room in (("s", 6), ("s", 9), ("c", 9), ("c", 14), ("s", 15)):
        journals = {name: MemoryJournal() for name in ("s", "c")}
        said.clear()
        repeated = []
        for attempt in (journals | {victim: Mortal(journals[victim], room)}, journals):
            parts = {name: listening(part, name) for name, part in plays(agreed, listed, tmp_path).items()}
            results = asyncio.run(Cluster(agreed, hidden_psi.MESSAGES, journals=attempt).play(parts))
        check_hidden_one(results, lists)
        counts.append(len(repeated) - len(said))
    assert sum(counts) > 3  # something did come again
