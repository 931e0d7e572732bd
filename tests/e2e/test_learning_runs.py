"""Real processes that learn on shares: results, what stays hidden, crashes, refusals."""

import asyncio
import json
import re

import numpy as np
import pytest

from e2e import hospitals
from veilsum import events
from veilsum.learn.model import Model
from veilsum.learn.twin import forward
from veilsum.node.config import load_party
from veilsum.node.exposure import Exposure
from veilsum.node.verification import verify_chain
from veilsum.testing.processes import Moment, run_parties

QUESTION = """\
task = "predict"
model = {{ kind = "given", digest = "{digest}" }}
"""


def play(world, job=None, **options):
    return asyncio.run(run_parties(world.homes, job or world.job, **options))


def results(ended):
    for name, end in ended.items():
        assert end.code == 0, (name, end.answer, end.errors)
    return {name: end.answer for name, end in ended.items()}


def errors(ended):
    return {name: end.answer.get("error") for name, end in ended.items() if end.code}


def facts(answer):
    return {fact["name"]: fact["value"] for fact in answer["facts"]}


def folder(world, name, answer):
    return world.homes[name] / "results" / answer["artefact"]


def scaled(rows):
    """Return the features of rows as a model reads them, from their range [-4, 4]."""
    return np.array(rows, float)[:, : hospitals.COLUMNS] / 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    world = hospitals.make(tmp_path_factory.mktemp("trained"))
    return world, play(world)


@pytest.fixture(scope="module")
def asked(trained):
    """hospital-b asks the model that hospital-a has from the training."""
    world, ended = trained
    answer = results(ended)["hospital-a"]
    model = Model.load(folder(world, "hospital-a", answer) / "model.vsm")
    job = world.folder / "predict.toml"
    hospitals.write_job(
        job,
        params=QUESTION.format(digest=model.graph.digest().hex()),
        release='predictions = ["hospital-b"]',
        owners=("hospital-b",),
        target="",
        parties='modeller = "hospital-a"',
        inputs=f'inputs = {{ model = "{answer["artefact"]}" }}',
    )
    return world, model, job, play(world, job)


def test_everybody_has_what_the_job_releases_and_nothing_else(trained):
    world, ended = trained
    answers = results(ended)
    files = {
        name: {p.name for p in folder(world, name, answer).iterdir()} for name, answer in answers.items()
    }
    always = {"metrics.json", "record.vsr", "report.html", "result.json"}
    assert files == {
        "hospital-a": always | {"model.vsm"},
        "hospital-b": always | {"predictions.csv", "predictions.parquet"},
        "hospital-c": always,
    }
    measured = {(folder(world, n, a) / "metrics.json").read_text() for n, a in answers.items()}
    assert len(measured) == 1
    found = json.loads(measured.pop())
    assert (found["rows"], len(found["loss"]), np.sum(found["confusion"])) == (45, 3, 45)
    assert found["loss"][-1] < found["loss"][0]
    for name, home in world.homes.items():
        (only,) = verify_chain(home / "state" / "records")
        assert only.record.outcome.status == "completed"
        assert {leak.part for leak in only.record.leaks.before} == {"modelling", "release"}
        assert (folder(world, name, answers[name]) / "model.vsm").exists() == (name == "hospital-a")


def test_the_predictions_are_those_of_the_released_model(trained):
    world, ended = trained
    answers = results(ended)
    found = hospitals.table(folder(world, "hospital-b", answers["hospital-b"]) / "predictions.parquet")
    assert list(found) == ["owner", "row", "p0", "p1", "class"]
    rows = [world.rows[owner][row] for owner, row in zip(found["owner"], found["row"], strict=True)]
    assert len(rows) == 45
    model = Model.load(folder(world, "hospital-a", answers["hospital-a"]) / "model.vsm")
    (logits,) = forward(model, {"x": scaled(rows)})
    powers = np.exp(logits)
    expected = powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(np.stack([found["p0"], found["p1"]], 1), expected, atol=1e-3)
    truth = [int(row[hospitals.COLUMNS]) for row in rows]
    counted = np.zeros((2, 2), int)
    np.add.at(counted, (truth, found["class"]), 1)
    measured = json.loads((folder(world, "hospital-c", answers["hospital-c"]) / "metrics.json").read_text())
    assert counted.tolist() == measured["confusion"]
    assert facts(answers["hospital-c"])["held-out accuracy"] == round(100 * np.trace(counted) / 45, 2)


def test_bytes_and_rounds_are_told(trained):
    answers = results(trained[1])
    for answer in answers.values():
        told = facts(answer)
        sent = {step["step"]: step["sent"] for step in answer["steps"]}
        assert told["rounds of computing"] > 100
        assert sent["compute"] >= told["sent in computing"] > 10_000
        assert {chart["type"] for chart in answer["charts"]} == {"curve", "grid", "bars"}
        assert any("at one address (127.0.0.1)" in warning for warning in answer["warnings"])
    assert len({facts(answer)["rounds of computing"] for answer in answers.values()}) == 1


def test_a_question_is_answered_to_the_asker_alone(asked):
    world, model, _, ended = asked
    answers = results(ended)
    found = hospitals.table(folder(world, "hospital-b", answers["hospital-b"]) / "predictions.parquet")
    (logits,) = forward(model, {"x": scaled(world.rows["hospital-b"])})
    powers = np.exp(logits)
    np.testing.assert_allclose(found["p1"], (powers / powers.sum(1, keepdims=True))[:, 1], atol=1e-3)
    for name in ("hospital-a", "hospital-c"):
        files = {path.name for path in folder(world, name, answers[name]).iterdir()}
        assert files == {"record.vsr", "report.html", "result.json"}
    ledgers = {name: Exposure(load_party(home).exposure) for name, home in world.homes.items()}
    trained_on = {"runs": 1, "rows": 60}
    assert ledgers["hospital-b"].balance("patients") == {"runs": 2, "rows": 120}
    assert ledgers["hospital-c"].balance("patients") == trained_on
    (entry,) = [e for e in ledgers["hospital-a"].entries() if e.data_set.startswith("model ")]
    assert (entry.amounts, entry.settled) == ({"runs": 1, "queries": 60}, True)


def test_leak_grep(asked):
    """No value of anybody's row and no name stands anywhere but in its owner's source."""
    world, _, _, ended = asked
    words = {
        name: [f"secret-{name}", *(value.lstrip("-") for row in rows for value in row[: hospitals.COLUMNS])]
        for name, rows in world.rows.items()
    }
    pattern = re.compile(b"|".join(re.escape(word.encode()) for some in words.values() for word in some))
    places = 0
    for holder, home in world.homes.items():
        for path in filter(lambda path: path.is_file(), home.rglob("*")):
            places += 1
            if path.name != "patients.csv":
                assert not pattern.search(path.read_bytes()), (holder, path)
        said = json.dumps(ended[holder].answer) + ended[holder].errors
        said += "".join(events.encode(event).decode() for event in ended[holder].events)
        assert not pattern.search(said.encode())
    assert places > 40


def test_another_model_than_the_jobs_is_refused_before_anything_is_shared(asked, tmp_path):
    world, _, job, _ = asked
    other = tmp_path / "other.toml"
    other.write_text(re.sub(r'digest = "....', 'digest = "0000', job.read_text()))
    ended = play(world, other, options=("--wait", "8"))
    assert errors(ended) == {
        "hospital-a": "JobMismatch",
        "hospital-b": "PeerAborted",
        "hospital-c": "PeerAborted",
    }
    assert "digest" in ended["hospital-a"].answer["message"]
    assert not [e for end in ended.values() for e in end.events if isinstance(e, events.StepStarted)]


def test_a_value_beyond_its_range_is_named_at_its_owner_before_anything_is_shared(tmp_path):
    world = hospitals.make(tmp_path)
    rows = [list(row) for row in world.rows["hospital-b"]]
    rows[7][2] = "71.25"
    hospitals.write(world.homes["hospital-b"], rows)
    ended = play(world, options=("--wait", "8"))
    assert errors(ended) == {
        "hospital-a": "PeerAborted",
        "hospital-b": "DataError",
        "hospital-c": "PeerAborted",
    }
    assert "1 of 60 values of column 'x2' are outside of [-4, 4]" in ended["hospital-b"].answer["message"]
    assert not [e for end in ended.values() for e in end.events if isinstance(e, events.StepStarted)]
    said = json.dumps([end.answer for end in ended.values()]) + "".join(end.errors for end in ended.values())
    assert "71.25" not in said


def test_a_killed_computing_party_goes_on_from_the_last_epoch(trained, tmp_path):
    """Killed after its second epoch: the same commands again train the third alone, and end as ever."""
    world = hospitals.make(tmp_path)
    clean = trained[1]["hospital-c"].events
    index = [i for i, e in enumerate(clean) if isinstance(e, events.Progress) and e.step == "compute"][1]
    first = play(world, at=Moment("hospital-c", index))
    assert first["hospital-c"].code == -9
    assert set(errors(first).values()) <= {"PeerLost", "PeerAborted", None}
    second = results(play(world))
    again = facts(second["hospital-c"])
    whole = facts(results(trained[1])["hospital-c"])
    assert again["epochs"] == whole["epochs"] == 3
    assert again["rounds of computing"] < whole["rounds of computing"]
    assert abs(again["held-out loss"] - whole["held-out loss"]) < 5e-3
    measured = json.loads((folder(world, "hospital-a", second["hospital-a"]) / "metrics.json").read_text())
    assert len(measured["loss"]) == 3
