"""Real processes: what users meet, and what never leaves a party."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys

import pytest

from e2e import insurers
from e2e.insurers import matched
from veilsum import events
from veilsum.node.config import load_party
from veilsum.node.exposure import Exposure
from veilsum.node.verification import verify_chain, verify_record
from veilsum.testing.processes import Moment, run_parties


def play(world, **options):
    return asyncio.run(run_parties(world.homes, world.job, **options))


def results(ended):
    for name, end in ended.items():
        assert end.code == 0, (name, end.answer, end.errors)
    return {name: end.answer for name, end in ended.items()}


def errors(ended):
    return {name: end.answer.get("error") for name, end in ended.items() if end.code}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that ended well everywhere."""
    world = insurers.make(tmp_path_factory.mktemp("run"))
    return world, play(world)


def test_result_and_records(finished):
    world, ended = finished
    answers = results(ended)
    artefact = answers["referee"]["artefact"]
    for name in world.ids:
        assert matched(world, name, artefact) == world.common
        assert {f["name"]: f["value"] for f in answers[name]["facts"]}["matches"] == len(world.common)
    for home in world.homes.values():
        (only,) = verify_chain(home / "state" / "records")
        assert only.record.outcome.status == "completed"
        assert len(only.record.transcripts) == 2
        assert all(line.signature for line in only.record.transcripts)
        assert verify_record(home / "results" / artefact / "record.vsr").files >= 2


def test_exposure_is_entered_once(finished):
    world, _ = finished
    for name in world.ids:
        party = load_party(world.homes[name])
        assert Exposure(party.exposure).balance("customers")["runs"] == 1


def test_leak_grep(finished):
    """No id and no value of anybody stands anywhere but in its owner's source and matched rows."""
    world, ended = finished
    secrets = {
        name: [number.removeprefix("+1") for number in numbers] + [f"secret-{name}"]
        for name, numbers in world.ids.items()
    }
    patterns = {
        name: re.compile(b"|".join(re.escape(word.encode()) for word in words))
        for name, words in secrets.items()
    }
    places = 0
    for holder, home in world.homes.items():
        for path in home.rglob("*"):
            if not path.is_file():
                continue
            places += 1
            content = path.read_bytes()
            for owner, pattern in patterns.items():
                own_rows = owner == holder and path.name in {
                    "customers.csv",
                    "matched.csv",
                    "matched.parquet",
                }
                # what both hold stands in the other's rows too, because they are the other's rows
                shared = (
                    path.name in {"customers.csv", "matched.csv", "matched.parquet"} and holder in world.ids
                )
                if not own_rows and not shared:
                    assert not pattern.search(content), (holder, path, owner)
                if owner != holder:
                    assert f"secret-{owner}".encode() not in content, (holder, path)
        said = json.dumps(ended[holder].answer) + ended[holder].errors
        said += "".join(events.encode(event).decode() for event in ended[holder].events)
        for pattern in patterns.values():
            assert not pattern.search(said.encode())
    assert places > 20


def test_journals_forget_when_everybody_has_ended(finished):
    world, _ = finished
    for home in world.homes.values():
        (folder,) = (path for path in (home / "state" / "runs").iterdir() if path.is_dir())
        assert json.loads((folder / "run.json").read_text())["state"] == "closed"
        assert not list(folder.glob("*.stage"))
        assert not list((home / "state" / "spill").iterdir() if (home / "state" / "spill").exists() else [])


def test_the_same_command_again_shows_the_result_at_once(finished):
    world, ended = finished
    again = play(world)
    assert results(again) == results(ended)
    assert all(end.seconds < 10 for end in again.values())


def test_changed_data_are_a_new_run(tmp_path):
    world = insurers.make(tmp_path)
    first = results(play(world))
    path = world.homes["insurer-a"] / "customers.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    second = results(play(world, options=("--wait", "10", "--fresh")))
    assert first["referee"]["run"] != second["referee"]["run"]
    assert len(matched(world, "insurer-b", second["referee"]["artefact"])) == len(world.common) - 1


def test_different_jobs_name_the_key(tmp_path):
    world = insurers.make(tmp_path)
    other = tmp_path / "other.toml"
    other.write_text(world.job.read_text().replace("batch = 50", "batch = 51").replace('"test"', '"else"'))
    jobs = dict.fromkeys(world.homes, world.job) | {"insurer-b": other}
    ended = asyncio.run(run_parties(world.homes, jobs))
    codes = errors(ended)
    assert set(codes) == set(world.homes)
    assert codes["insurer-b"] == "JobMismatch"
    assert "JobMismatch" in {codes["insurer-a"], codes["referee"]}
    for name, end in ended.items():
        assert end.seconds < 10
        if codes[name] == "JobMismatch":
            assert "params.batch" in end.answer["message"]
            assert "purpose" in end.answer["message"]


def test_no_match_is_a_warning_that_names_the_format(tmp_path):
    world = insurers.make(tmp_path, shared=0, collector="insurer-a")
    answers = results(play(world))
    for name in world.ids:
        assert "E.164" in answers[name]["warnings"][0]
        assert matched(world, name, answers[name]["artefact"]) == set()


@pytest.mark.parametrize("who", ["insurer-a", "referee"])
def test_interrupt_is_a_clean_abort_everywhere(tmp_path, who):
    world = insurers.make(tmp_path, sizes=(4000, 4000), shared=10)
    clean = play(world)
    index = next(i for i, e in enumerate(clean[who].events) if isinstance(e, events.StepStarted))
    shutil.rmtree(tmp_path)
    world = insurers.make(tmp_path, sizes=(4000, 4000), shared=10)
    ended = play(world, at=Moment(who, index, "interrupt"))
    assert ended[who].code == 130
    assert errors(ended)[who] == "Interrupted"
    for name, end in ended.items():
        if name != who:
            assert end.code == 8, (name, end.answer)
            assert end.events[-1].at - ended[who].events[-1].at < 5
        (only,) = verify_chain(world.homes[name] / "state" / "records")
        assert only.record.outcome.status == "aborted"


def test_a_missing_approval_is_told_to_everybody(tmp_path):
    world = insurers.make(
        tmp_path, more="[floor]\napprovals = 1\n[approvers]\n" + 'alice = "' + "A" * 43 + '="'
    )
    ended = play(world, options=("--wait", "8"))
    codes = errors(ended)
    assert codes["insurer-a"] == codes["insurer-b"] == "ApprovalMissing"
    assert codes["referee"] == "PeerAborted"
    (only,) = verify_chain(world.homes["insurer-a"] / "state" / "records")
    assert (only.record.outcome.status, only.record.outcome.code) == ("refused", "ApprovalMissing")


def test_an_exposure_limit_holds(tmp_path):
    world = insurers.make(tmp_path, more="[floor]\nmax_runs = 1\n")
    results(play(world))
    ended = play(world, options=("--wait", "8", "--fresh"))
    codes = errors(ended)
    assert "BudgetExceeded" in codes.values()
    assert set(codes.values()) <= {"BudgetExceeded", "PeerAborted"}
    assert set(codes) == set(world.homes)


def test_repeated_ids_are_refused_before_anything_is_sent(tmp_path):
    world = insurers.make(tmp_path)
    path = world.homes["insurer-a"] / "customers.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    ended = play(world, options=("--wait", "8"))
    codes = errors(ended)
    assert codes["insurer-a"] == "DataError"
    assert codes["insurer-b"] == codes["referee"] == "PeerAborted"
    assert not any(isinstance(e, events.StepStarted) for end in ended.values() for e in end.events)


def test_a_taken_port_is_named(tmp_path):
    world = insurers.make(tmp_path)
    text = (world.homes["insurer-a"] / "federation.toml").read_text()
    port = int(re.findall(r'address = "127.0.0.1:(\d+)"', text.partition("insurer-a")[2])[0])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ended = play(world, options=("--wait", "3"))
    assert ended["insurer-a"].answer["error"] == "ConfigError"
    assert str(port) in ended["insurer-a"].answer["message"]
    assert set(errors(ended).values()) <= {"ConfigError", "PeerLost", "PeerAborted"}


def test_simulate_gives_the_same_matches(tmp_path):
    world = insurers.make(tmp_path)
    command = [sys.executable, "-m", "veilsum.cli.main", "simulate", str(world.job)]
    for home in world.homes.values():
        command += ["--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (world.homes["insurer-a"] / "results").iterdir()
    assert matched(world, "insurer-a", folder.name) == world.common
    assert not (world.homes["insurer-a"] / "state" / "records").exists()


def test_a_lost_journal_is_noticed(tmp_path):
    """Who lost its memory would mask the rest of a run with another key: nobody goes on with it."""
    world = insurers.make(tmp_path)
    first = play(world, at=Moment("insurer-a", 11))
    assert first["insurer-a"].code == -9
    shutil.rmtree(world.homes["insurer-a"] / "state" / "runs")
    codes = errors(play(world, options=("--wait", "8")))
    assert set(codes) == set(world.homes)
    assert "PeerLost" in codes.values()
    assert set(codes.values()) <= {"PeerLost", "PeerAborted"}
    answers = results(play(world, options=("--wait", "8", "--fresh")))
    assert matched(world, "insurer-a", answers["insurer-a"]["artefact"]) == world.common
