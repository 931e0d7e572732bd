"""The membership game: what may not be told of one's own rows cannot be guessed from all that one sees."""

import asyncio

import msgspec
import numpy as np
import pytest

from protocols import pair, union
from protocols.ring import Listed
from veilsum.crypto.rsa_key import PrivateKey
from veilsum.data.alignment import NO_ROW
from veilsum.protocols import hidden_psi, hidden_union
from veilsum.store.journal import MemoryJournal
from veilsum.testing import membership
from veilsum.testing.cluster import Cluster

BATCH = 2048
# fixed, so that a run of the game is always the same one
KEY = PrivateKey(
    (
        0xC2BB350127DFA69ACB30AF60A28279DE26EFB265225596AF99E5E89980903DF9,
        0xFEB80BF5DC60D6151B684EB76ED707801E8FAEF32158D447CC9A91A29418DCF3,
    )
)


def lists_with(rows, extra, seed):
    """Half of the rows of two parties match; ids say nothing, and both hold them in the order of ids.

    Returns:
        both lists, and per row of either whether it matches.
    """
    rng = np.random.default_rng(seed)
    ids = rng.permutation(rng.choice(10**12, 3 * rows, replace=False))
    shared = set(ids[: rows // 2].tolist())
    one = sorted(ids[:rows].tolist())
    other = sorted([*shared, *ids[rows : rows + extra].tolist()])
    truth = [np.array([i in shared for i in held]) for held in (one, other)]
    return [Listed([b"%012d" % i for i in held]) for held in (one, other)], truth


def run(agreed, messages, plays, listeners, seed):
    """Play with fixed secrets; return the cluster, the results and what each listener heard."""
    journals = {name: MemoryJournal() for name in agreed.members}
    for name, journal in journals.items():
        journal.once("run secret", lambda name=name: np.random.default_rng([seed, *name.encode()]).bytes(32))
    if "s" in journals:
        journals["s"].once("signing key", KEY.to_bytes)
    heard = {name: [] for name in listeners}
    for name in listeners:
        plays[name] = membership.listening(plays[name], heard[name])
    cluster = Cluster(agreed, messages, journals=journals)
    results = asyncio.run(cluster.play(plays))
    for result in results.values():
        assert isinstance(result, tuple), result
    return cluster, results, heard


def signers_game(folder, runs, rows, **params):
    """Return the features of the signer's rows in several runs, and the truth."""
    seen, matched = [], []
    for seed in range(runs):
        (own, others), (truth, _) = lists_with(rows, rows // 10, seed)
        agreed = msgspec.structs.replace(pair.job(batch=BATCH, **params), step_timeout=60.0)
        parts = pair.plays(agreed, {"s": own, "c": others}, folder)
        cluster, results, heard = run(agreed, hidden_psi.MESSAGES, parts, ["s"], seed)
        assert results["c"][0].matched == truth.sum() == rows // 2
        sizes = {"s": own.count, "c": others.count}
        view = membership.signer_view(cluster.journals["s"], heard["s"], KEY.public, sizes, BATCH)
        seen.append(membership.features(view))
        matched.append(truth)
    return np.concatenate(seen), np.concatenate(matched)


def members_game(folder, runs, rows, listeners):
    """Return the features of the rows of one member or of both in several runs, and the truth."""
    seen, matched = [], []
    for seed in range(runs):
        listed, truths = lists_with(rows, rows - rows // 2, seed)
        agreed = msgspec.structs.replace(union.job(batch=BATCH), step_timeout=60.0)
        parts = union.plays(agreed, dict(zip("ab", listed, strict=True)), folder)
        cluster, results, heard = run(agreed, hidden_union.MESSAGES, parts, listeners, seed)
        assert results["a"][0].common == rows // 2
        for name in listeners:
            seen.append(
                membership.features(membership.member_view(cluster.journals[name], heard[name], rows, BATCH))
            )
            matched.append(truths["ab".index(name)])
    return np.concatenate(seen), np.concatenate(matched)


# -- what must not be told


def test_hidden_one_tells_its_signer_nothing(tmp_path):
    seen, matched = signers_game(tmp_path, runs=5, rows=20_000)
    score = membership.play(seen, matched, seed=1)
    assert score.held_out >= 40_000
    assert score.upper <= 0.02, score


def test_hidden_union_tells_its_members_nothing(tmp_path):
    seen, matched = members_game(tmp_path, runs=2, rows=20_000, listeners="ab")
    score = membership.play(seen, matched, seed=1)
    assert score.held_out >= 40_000
    assert score.upper <= 0.02, score


# -- that the game would notice


def test_shared_matches_are_read_off(tmp_path):
    seen, matched = signers_game(tmp_path, runs=1, rows=4000, mode="open", share_matches=True)
    assert membership.play(seen, matched, seed=1).advantage > 0.9


async def marking_map(s, state):
    """Draw random ids whose first bit is off more often where a tag matches."""
    size = state.sizes[state.pair.signer]
    for index in state.map.left():
        count = min(state.batch, size - index * state.batch)
        ids = s.random.numbers(0, "random map", index, 2 * count).view(np.uint8).reshape(count, 16).copy()
        rows = np.frombuffer(await state.matches.read(index), "<i8")
        marked = (rows != NO_ROW) & (ids[:, 15] < 128)
        ids[marked, 0] &= 0x7F
        await state.map.commit(index, ids.tobytes())


def test_marked_random_ids_are_noticed(tmp_path, monkeypatch):
    """Half of the matched tags lose the first bit of their ids: an advantage of a quarter is to be had."""
    monkeypatch.setattr(hidden_psi, "draw_map", marking_map)
    seen, matched = signers_game(tmp_path, runs=1, rows=10_000)
    score = membership.play(seen, matched, seed=1)
    assert 0.1 < score.advantage < 0.35, score


def test_a_client_that_does_not_blind_is_noticed(tmp_path, monkeypatch):
    """What it sends are then the encoded ids themselves, whose signatures give its own ids' tags."""

    def ones(seed, start, count, public):
        rows = np.zeros((count, public.width), np.uint8)
        rows[:, -1] = 1
        return rows

    monkeypatch.setattr(hidden_psi.blind_rsa, "draw_blinds", ones)
    seen, matched = signers_game(tmp_path, runs=1, rows=4000)
    assert membership.play(seen, matched, seed=1).advantage > 0.9


async def passing_on(s, state, scratch, *, real=hidden_union.shuffle_theirs):
    """Leave the other's list in its order, at member b alone."""
    if s.me != "b":
        await real(s, state, scratch)
        return
    async for index, data in state.their_matched.follow(state.shuffled.done):
        await state.shuffled.commit(index, data)


def test_a_member_that_does_not_shuffle_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(hidden_union, "shuffle_theirs", passing_on)
    seen, matched = members_game(tmp_path, runs=1, rows=4000, listeners="a")
    assert membership.play(seen, matched, seed=1).advantage > 0.9
    # the other member, whose list is shuffled, still sees nothing: 4000 rows show no advantage over .1
    seen, matched = members_game(tmp_path, runs=1, rows=4000, listeners="b")
    assert membership.play(seen, matched, seed=1).advantage < 0.1


# -- that it counts right


@pytest.mark.parametrize("advantage", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("together", [False, True])
def test_a_known_advantage_is_found(advantage, together):
    """In one feature, or spread over the sign of twenty together."""
    rng = np.random.default_rng(3)
    matched = rng.permutation(np.arange(20_000) < 10_000)
    seen = rng.normal(size=(20_000, 40)).astype(np.float32)
    right = np.where(rng.random(20_000) < (1 + advantage) / 2, matched, ~matched)
    if together:
        seen[:, :20] *= np.where(seen[:, :20].sum(axis=1) > 0, 1, -1)[:, None]
        seen[:, :20] *= np.where(right, 1, -1)[:, None]
    else:
        seen[:, 7] = right + np.float32(0.1) * seen[:, 7]
    score = membership.play(seen, matched, seed=2)
    assert score.held_out == 13_000
    # what twenty noisy features say together is not learnt whole
    assert advantage - (0.1 if together else 0.03) < score.advantage < advantage + 0.03
    assert score.advantage < score.upper < score.advantage + 0.02


def test_a_bound_holds_nineteen_times_in_twenty():
    rng = np.random.default_rng(4)
    for advantage in (0.0, 0.05, 0.9, 1.0):
        accuracies = rng.binomial(2000, (1 + advantage) / 2, 4000) / 2000
        held = [membership.score("", accuracy, 2000).upper >= advantage for accuracy in accuracies.tolist()]
        assert np.mean(held) >= 0.94


def test_a_constant_guess_is_worth_nothing():
    matched = np.arange(9000) < 6000
    score = membership.play(np.zeros((9000, 3), np.float32), matched, seed=1)
    assert score.advantage == 0.0
    assert score.held_out == 2 * (3000 - 1050)
