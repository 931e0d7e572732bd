import importlib
import sys
from pathlib import Path

import pytest

from veilsum.node import config
from veilsum.node.homes import make_homes
from veilsum.node.kinds import kind_of, params_of

BENCH = Path(__file__).parents[2] / "bench"
PARTS = ["dh", "union", "rsa-2048", "rsa-3072", "memory-dh", "memory-rsa"]


@pytest.fixture(scope="module")
def psi():
    """The benchmark; it and its neighbours are gone afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("psi")
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_part_is_asked_for_by_its_name_or_its_beginning(psi):
    assert psi.chosen(PARTS, []) == PARTS
    assert psi.chosen(PARTS, ["rsa"]) == ["rsa-2048", "rsa-3072"]
    assert psi.chosen(PARTS, ["memory-rsa", "dh"]) == ["dh", "memory-rsa"]
    assert psi.chosen(PARTS, ["rsa", "rsa-2048"]) == ["rsa-2048", "rsa-3072"]


@pytest.mark.parametrize("word", ["rs", "sa", "2048", "rsa-2", ""])
def test_a_part_that_there_is_not_is_refused(psi, word):
    with pytest.raises(ValueError, match="there are dh, union"):
        psi.chosen(PARTS, [word])


def test_the_groups_of_parts_make_up_the_whole(psi, tmp_path):
    parts = list(psi.Bench(tmp_path, quick=True).parts)
    for word in ("dh", "rsa", "union", "memory", "game", "kernels"):
        assert psi.chosen(parts, [word])
    taken = [
        part
        for word in ("dh", "rsa", "union", "memory", "game", "kernels")
        for part in psi.chosen(parts, [word])
    ]
    assert sorted(taken) == sorted(parts)


@pytest.mark.parametrize(
    ("mode", "bits", "primes", "reuse"),
    [("hidden_one", 2048, 2, False), ("open", 3072, 3, False), ("hidden_one", 2048, 2, True)],
)
def test_a_job_by_blind_rsa_is_one_that_veilsum_takes(psi, tmp_path, mode, bits, primes, reuse):
    wanted = psi.blind_rsa.blind_rsa(mode, bits, primes=primes, reuse_key=reuse)
    params = params_of(job_of(wanted, tmp_path))
    assert (params.mode, params.key_bits, params.primes, params.reuse_key) == (mode, bits, primes, reuse)


def test_the_other_jobs_are_of_the_constructions_that_they_name(psi, tmp_path):
    names = {}
    for mode in (psi.DH_OPEN, psi.HIDDEN_UNION, psi.HIDDEN_ONE):
        folder = tmp_path / mode.title.replace(" ", "_")
        folder.mkdir()
        job = job_of(mode, folder)
        names[mode.title] = kind_of(job).mode(params_of(job))
    assert names == {
        "DH": "open, X25519",
        "hidden_union": "hidden_union, X25519",
        "blind RSA-2048 hidden_one": "hidden_one, blind RSA-2048",
    }


def job_of(mode, folder):
    federation = make_homes(folder, dict.fromkeys(("first", "second"), ""))
    path = folder / "job.toml"
    path.write_text(mode.job())
    return config.load_job(path, federation=federation)


def test_files_are_made_once_and_share_every_second_id(psi, tmp_path):
    files = psi.Files(tmp_path)
    first, second = files.ids(101)
    held = [path.read_text().split()[1:] for path in (first, second)]
    assert [len(set(ids)) for ids in held] == [101, 101]
    assert len(set(held[0]) & set(held[1])) == psi.intersections.common(101) == 50
    first.write_text("")
    assert files.ids(101)[0].read_text() == ""
    assert files.fresh() != files.fresh()


@pytest.mark.parametrize("found", [[], [4], [5, 4]])
def test_a_wrong_number_of_matches_fails(psi, found):
    with pytest.raises(psi.IntersectionFailed, match="of 5"):
        psi.intersections.check("it", found, 10)
    psi.intersections.check("it", [5], 10)
    psi.intersections.check("it", [5, 5], 10)


def test_openssl_is_scaled_to_the_operations_of_both_parties(psi):
    rsa = psi.blind_rsa
    rate = rsa.openssl_rsa.mean([rsa.Rate(5000.0, 2600.0), rsa.Rate(7000.0, 3400.0)])
    assert rate == (6000.0, 3000.0)
    wall, cores = rsa.against_openssl("n", rsa.Cost(5.0, 8.0), rate, 60_000, note="more")
    assert (wall.unit, wall.peer, wall.ratio) == ("s", 10.0, 2.0)
    assert (cores.unit, cores.peer, cores.ratio) == ("core-s", 20.0, 2.5)
    assert "60,000 operations" in wall.note
    assert wall.note.endswith("; more")


def test_openssl_is_measured_on_every_core(psi):
    rate = psi.blind_rsa.openssl_rsa.measure(2048, 0.05)
    assert rate.a_core_second > 50
    assert rate.a_second > 0


def test_memory_takes_a_run_that_was_made_already(psi, tmp_path):
    files = psi.Files(tmp_path)
    files.costs[psi.DH_OPEN, 7] = psi.Cost(1.0, 2.0, 500.0)
    (row,) = psi.memory(files, psi.DH_OPEN, [7])
    assert (row.ours, row.met, row.unit) == (500.0, True, "MiB")


def test_kernels_that_belong_here_are_those_of_both_alignments(psi):
    assert "x25519 multiply, ifma".startswith(psi.KERNELS)
    assert "RSA-2048 private, two primes, ifma".startswith(psi.KERNELS)
    assert not "x25519 encode, ifma".startswith(psi.KERNELS)
    assert not "RSA-2048 public, ifma".startswith(psi.KERNELS)


def test_every_part_measures_the_size_that_was_asked_for(psi, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(psi, "memory", lambda files, mode, counts: sizes.append(tuple(counts)))
    for bench in (
        psi.Bench(tmp_path, quick=False),
        psi.Bench(tmp_path, quick=True),
        psi.Bench(tmp_path, quick=False, count=77),
    ):
        bench.parts["memory-dh"]()
        bench.parts["memory-rsa"]()
    assert sizes == [psi.MEMORY_AT, psi.RSA_MEMORY_AT, (20_000,), (4_000,), (77,), (77,)]


def test_the_bound_of_the_game_holds_for_its_whole_size(psi, monkeypatch):
    from protocols import test_membership_game as game
    from veilsum.testing.membership import Score

    played = []
    for name in ("signers_game", "members_game"):
        monkeypatch.setattr(game, name, lambda *given, name=name: (played.append((name, *given[1:])), None))
    score = Score("a coin", 200_000, 0.5, 0.001, 0.0099)
    monkeypatch.setattr(psi.game.membership, "play", lambda *_, **__: score)
    whole, quick = psi.game.rows(quick=False), psi.game.rows(quick=True)
    assert [(row.ours, row.met, row.unit) for row in whole] == [(0.0099, True, "advantage")] * 2
    assert [row.met for row in quick] == [None] * 2
    assert played == [
        ("signers_game", 16, 20_000),
        ("members_game", 8, 20_000, "ab"),
        ("signers_game", 1, 20_000),
        ("members_game", 1, 20_000, "ab"),
    ]
