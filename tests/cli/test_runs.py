"""The verbs about jobs, without a network."""

import json

import pytest

from e2e import insurers
from veilsum.cli.main import main


@pytest.fixture
def world(tmp_path):
    return insurers.make(tmp_path)


def veilsum(capsys, *words):
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_explain_says_who_learns_what(world, capsys):
    code, out, _ = veilsum(capsys, "explain", world.job, "--home", world.homes["insurer-a"])
    assert code == 0
    for word in ("insurer-a", "referee", "which of its own ids all members hold", "semi-honest", "job hash"):
        assert word in out
    code, out, _ = veilsum(capsys, "explain", world.job, "--home", world.homes["insurer-b"], "--json")
    told = json.loads(out)
    assert told["mode"] == "open, X25519"
    assert {row["who"] for row in told["leaks"]} == {"insurer-a", "insurer-b", "referee"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share_matches", "share_matchs", "share_matches"),
        ("batch = 50", "batch = 0", "batch"),
        ("batch = 50", 'batch = "many"', "batch"),
        ("batch = 50", 'mode = "hidden_one"', "mode"),
        ('kind = "hidden_psi"', 'kind = "hiden_psi"', "hidden_psi"),
        ('collector = "referee"', 'colector = "referee"', "collector"),
        ('collector = "referee"', 'collector = "insurer-c"', "insurer-"),
        ("share_matches = true", "share_matches = false", "share_matches"),
    ],
)
def test_a_wrong_job_is_explained(world, capsys, old, new, said):
    world.job.write_text(world.job.read_text().replace(old, new))
    code, _, err = veilsum(capsys, "explain", world.job, "--home", world.homes["insurer-a"])
    assert code == 3
    assert said in err
    assert "remedy:" in err
    assert "Traceback" not in err


def test_as_must_be_the_party_of_the_folder(world, capsys):
    home = world.homes["insurer-a"]
    code, _, err = veilsum(capsys, "run", world.job, "--as", "insurer-b", "--home", home)
    assert code == 3
    assert "belongs to insurer-a" in err


def test_a_data_set_that_is_not_declared(world, capsys):
    world.job.write_text(world.job.read_text().replace('insurer-a = "customers"', 'insurer-a = "custmers"'))
    home = world.homes["insurer-a"]
    code, _, err = veilsum(capsys, "run", world.job, "--home", home, "--wait", "1")
    assert code == 3
    assert "customers" in err


def test_status_and_report_before_any_run(world, capsys):
    home = world.homes["referee"]
    assert veilsum(capsys, "status", "--home", home)[1].strip().endswith("no run has begun here")
    code, _, err = veilsum(capsys, "report", "--home", home)
    assert code == 3
    assert "no finished run" in err


def test_a_lonely_party_is_told_whom_it_waits_for(world, capsys):
    code, out, _ = veilsum(
        capsys, "run", world.job, "--home", world.homes["insurer-a"], "--wait", "1", "--json"
    )
    assert code == 7
    answer = json.loads(out.splitlines()[-1])
    assert answer["error"] == "PeerLost"
    assert "did not come" in answer["message"]
