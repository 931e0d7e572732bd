"""Real processes in the hidden modes: results, what stays hidden, reused keys, quotas, odd ids."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys

import pytest

from e2e import insurers
from e2e.test_crash_matrix import RIGHT
from e2e.test_runs import errors, play, results
from veilsum import events
from veilsum.node.config import load_party
from veilsum.node.exposure import Exposure
from veilsum.node.verification import verify_chain
from veilsum.testing.processes import run_parties

MODES = ("hidden_one", "hidden_union")
OWN_ROWS = {"customers.csv", "matched.csv", "matched.parquet", "aligned.csv", "aligned.parquet"}


@pytest.fixture(scope="module", params=MODES)
def finished(request, tmp_path_factory):
    world = insurers.make(tmp_path_factory.mktemp(request.param), mode=request.param)
    return request.param, world, play(world)


def facts(answer):
    return {fact["name"]: fact["value"] for fact in answer["facts"]}


def test_result_and_records(finished):
    mode, world, ended = finished
    answers = results(ended)
    RIGHT[mode](world, answers["insurer-a"]["artefact"])
    for name, home in world.homes.items():
        (only,) = verify_chain(home / "state" / "records")
        assert only.record.outcome.status == "completed"
        assert {leak.part for leak in only.record.leaks.before} == {"alignment", "modelling"}
        assert answers[name]["mode"].startswith(mode)


def test_who_is_told_what(finished):
    mode, world, ended = finished
    told = {name: facts(answer) for name, answer in results(ended).items()}
    if mode == "hidden_union":
        assert all(told[name]["ids in common"] == len(world.common) for name in world.ids)
        assert not any("matches" in told[name] for name in world.ids)
    else:
        assert told["insurer-a"]["matches"] == len(world.common)
        assert not {"matches", "ids in common"} & set(told["insurer-b"])


def test_leak_grep(finished):
    """No id and no value of anybody stands anywhere but in its owner's source and rows."""
    _, world, ended = finished
    patterns = {}
    for name, numbers in world.ids.items():
        words = [*(number.removeprefix("+1") for number in numbers), f"secret-{name}"]
        patterns[name] = re.compile(b"|".join(re.escape(word.encode()) for word in words))
    places = 0
    for holder, home in world.homes.items():
        for path in filter(lambda path: path.is_file(), home.rglob("*")):
            places += 1
            content = path.read_bytes()
            if path.name not in OWN_ROWS:
                assert not any(pattern.search(content) for pattern in patterns.values()), (holder, path)
            assert not any(f"secret-{owner}".encode() in content for owner in world.ids if owner != holder), (
                holder,
                path,
            )
        said = json.dumps(ended[holder].answer) + ended[holder].errors
        said += "".join(events.encode(event).decode() for event in ended[holder].events)
        assert not any(pattern.search(said.encode()) for pattern in patterns.values())
    assert places > 15


def test_files_of_a_hidden_side_say_nothing(tmp_path):
    """Whatever matches, the signer of hidden_one has the same files and is told the same."""
    seen = []
    for shared in (0, 45, 90):
        world = insurers.make(tmp_path / str(shared), mode="hidden_one", sizes=(90, 90), shared=shared)
        answers = results(play(world))
        artefact = answers["insurer-b"]["artefact"]
        folder = world.homes["insurer-b"] / "results" / artefact
        lines = insurers.lines(world, "insurer-b", artefact)
        assert sorted(line["row"] for line in lines) == list(range(90))
        assert [set(line) for line in lines] == [{"row", "position", "id"}] * 90
        assert sorted(insurers.phones(world, "insurer-b", artefact, "aligned.csv")) == world.ids["insurer-b"]
        said = {name: value for name, value in facts(answers["insurer-b"]).items() if name != "seconds"}
        seen.append((sorted(path.name for path in folder.iterdir()), said))
    assert seen[0] == seen[1] == seen[2]


def test_exposure_counts_signatures_at_the_signer(tmp_path):
    world = insurers.make(tmp_path, mode="hidden_one")
    results(play(world))
    given = {n: Exposure(load_party(h).exposure).balance("customers") for n, h in world.homes.items()}
    assert given["insurer-b"] == {"runs": 1, "rows": 100, "signatures": 90}
    assert given["insurer-a"] == {"runs": 1, "rows": 90}


def test_a_reused_key_and_its_quota(tmp_path):
    world = insurers.make(
        tmp_path, mode="hidden_one", params="reuse_key = true", more="[floor]\nmax_signatures = 200\n"
    )
    first = results(play(world))
    again = results(play(world, options=("--wait", "8", "--fresh")))
    assert first["insurer-b"]["run"] != again["insurer-b"]["run"]
    keys = {answer["algorithms"]["key"] for answer in (*first.values(), *again.values())}
    assert len(keys) == 1
    RIGHT["hidden_one"](world, again["insurer-a"]["artefact"])
    store = world.homes["insurer-b"] / "state" / "signing-keys.db"
    assert store.stat().st_mode & 0o777 == 0o600
    assert not (world.homes["insurer-a"] / "state" / "signing-keys.db").exists()
    ended = play(world, options=("--wait", "8", "--fresh"))
    assert errors(ended) == {"insurer-b": "BudgetExceeded", "insurer-a": "PeerAborted"}
    assert "max_signatures" in ended["insurer-b"].answer["message"]


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_few_is_not_answered(mode, tmp_path):
    """Whose floor asks for ten ids does not answer a question about three."""
    world = insurers.make(tmp_path, mode=mode, sizes=(3, 100), shared=2, more="[floor]\nmin_group = 10\n")
    ended = play(world, options=("--wait", "8"))
    assert errors(ended) == {"insurer-b": "BudgetExceeded", "insurer-a": "PeerAborted"}
    assert "min_group" in ended["insurer-b"].answer["remedy"]
    sent = [e for e in ended["insurer-a"].events if isinstance(e, events.StepDone)]
    assert not [event for event in sent if event.number > 1]


def test_fresh_keys_differ(tmp_path):
    world = insurers.make(tmp_path, mode="hidden_one")
    first = results(play(world))
    again = results(play(world, options=("--wait", "8", "--fresh")))
    assert first["insurer-a"]["algorithms"]["key"] != again["insurer-a"]["algorithms"]["key"]


def test_odd_ids_are_counted_for_their_owner_alone(tmp_path):
    """Full-width digits are read, 3 % malformed ids counted, the first of repeated ones taken."""
    world = insurers.make(tmp_path, mode="hidden_one", sizes=(300, 200), shared=150, duplicates="first")
    path = world.homes["insurer-a"] / "customers.csv"
    head, *rows = path.read_text().splitlines()
    wide = str.maketrans("0123456789", "".join(chr(0xFF10 + i) for i in range(10)))
    rows = [row.replace(row.split(",")[0], row.split(",")[0].translate(wide), 1) for row in rows]
    odd = [f"call {i},secret-insurer-a-odd" for i in range(9)]
    rows += [*odd, rows[0], ",secret-insurer-a-none", ",secret-insurer-a-none"]
    random.Random(1).shuffle(rows)
    path.write_text("\n".join([head, *rows]) + "\n")
    answers = results(play(world))
    told = {name: facts(answer) for name, answer in answers.items()}
    assert told["insurer-a"]["matches"] == 150
    mine = ("own rows", "own rows without id", "own malformed ids", "own repeated ids")
    assert [told["insurer-a"][name] for name in mine] == [312, 2, 9, 1]
    assert [told["insurer-b"][name] for name in mine] == [200, 0, 0, 0]
    assert told["insurer-b"]["ids of insurer-a"] == 300
    assert any("malformed" in w or "not phone" in w for w in answers["insurer-a"]["warnings"])
    assert not answers["insurer-b"]["warnings"]


@pytest.mark.parametrize("mode", MODES)
def test_changed_data_are_a_new_run(mode, tmp_path):
    world = insurers.make(tmp_path, mode=mode)
    first = results(play(world))
    path = world.homes["insurer-a"] / "customers.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    second = results(play(world, options=("--wait", "10", "--fresh")))
    assert first["insurer-b"]["run"] != second["insurer-b"]["run"]


@pytest.mark.parametrize("mode", MODES)
def test_explain_names_both_parts_before_anything_runs(mode, tmp_path):
    world = insurers.make(tmp_path, mode=mode)
    command = [sys.executable, "-m", "veilsum.cli.main", "explain", str(world.job)]
    done = subprocess.run(
        [*command, "--home", str(world.homes["insurer-b"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    for word in (mode, "alignment", "modelling", "insurer-a", "insurer-b", "withstands: semi-honest"):
        assert word in done.stdout
    assert not (world.homes["insurer-b"] / "state").exists()


def test_two_parties_that_mean_different_modes(tmp_path):
    world = insurers.make(tmp_path, mode="hidden_one")
    other = tmp_path / "other.toml"
    other.write_text(world.job.read_text().replace("key_bits = 2048", "key_bits = 3072"))
    ended = asyncio.run(
        run_parties(world.homes, dict.fromkeys(world.homes, world.job) | {"insurer-b": other})
    )
    assert "JobMismatch" in errors(ended).values()
    assert set(errors(ended)) == set(world.homes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("key_bits = 2048", "key_bits = 1024"), "key_bits"),
        (('mode = "hidden_one"', 'mode = "hidden"'), "hidden_one, hidden_union, open"),
        (("key_bits = 2048", 'suite = "X25519"'), "suite"),
        (('client = "insurer-a"\n', 'helper = "insurer-a"\n'), "signer and client"),
    ],
)
def test_a_job_that_does_not_fit_is_refused_in_words(change, says, tmp_path):
    world = insurers.make(tmp_path, mode="hidden_one")
    world.job.write_text(world.job.read_text().replace(*change))
    command = [sys.executable, "-m", "veilsum.cli.main", "explain", str(world.job)]
    done = subprocess.run(
        [*command, "--home", str(world.homes["insurer-a"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done
    assert says in done.stderr
