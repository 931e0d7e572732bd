"""The verbs about models, and what `explain` says of a job that learns."""

import json

import pytest

from e2e import hospitals
from veilsum.cli.main import main
from veilsum.learn.layers import initialise, mlp
from veilsum.node.architecture import weights_digest


def veilsum(capsys, *words):
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_show_tells_digests_and_layers_and_no_weight(tmp_path, capsys):
    model = initialise(mlp([4, 3, 2], "sigmoid"), 5)
    model.save(tmp_path / "m.vsm")
    code, out, _ = veilsum(capsys, "model", "show", tmp_path / "m.vsm")
    assert code == 0
    for word in (model.graph.digest().hex(), weights_digest(model), "linear", "sigmoid", "23 numbers"):
        assert word in out
    code, out, _ = veilsum(capsys, "model", "show", tmp_path / "m.vsm", "--json")
    told = json.loads(out)
    assert told["inputs"] == {"x": "n, 4"}
    assert [layer["numbers"] for layer in told["layers"]] == [15, 0, 8]
    weight = float(model.weights["layers.0.weight"][0, 0])
    assert f"{weight:.4f}" not in out


@pytest.mark.parametrize("content", [None, b"no model"])
def test_what_is_no_model_is_a_sentence(tmp_path, capsys, content):
    path = tmp_path / "m.vsm"
    if content is not None:
        path.write_bytes(content)
    code, _, err = veilsum(capsys, "model", "show", path)
    assert code in {3, 4}
    assert "m.vsm" in err
    assert "Traceback" not in err


def test_import_keeps_what_is_there_and_names_what_is_missing(tmp_path, capsys):
    there = tmp_path / "there.vsm"
    there.write_text("mine")
    code, _, err = veilsum(capsys, "model", "import-onnx", tmp_path / "a.onnx", "-o", there)
    assert (code, "exists already" in err, there.read_text()) == (3, True, "mine")
    code, _, err = veilsum(capsys, "model", "import-onnx", tmp_path / "a.onnx", "-o", tmp_path / "b.vsm")
    assert code == 3
    assert "onnx" in err
    assert not (tmp_path / "b.vsm").exists()


def test_explain_says_assumption_layers_and_cost(tmp_path, capsys):
    world = hospitals.make(tmp_path)
    home = world.homes["hospital-a"]
    code, out, err = veilsum(capsys, "explain", world.job, "--home", home, "--rows", "50")
    assert code == 0, err
    for word in (
        "computing parties: hospital-a, hospital-b, hospital-c",
        "assumption: no two of hospital-a, hospital-b, hospital-c work together",
        "an mlp 6-4-2",
        "38 numbers in weights",
        "cost with 50 rows of each owner",
        "note: hospital-a and hospital-b and hospital-c compute at one address",
    ):
        assert word in out
    assert not (home / "state").exists()
    code, out, _ = veilsum(capsys, "explain", world.job, "--home", home, "--json")
    told = json.loads(out)
    assert len(told["cautions"]) == 1
    assert ["computing parties", "hospital-a, hospital-b, hospital-c"] in told["about"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('target = "ill"', 'taget = "ill"', "target"),
        ('kind = "mlp"', 'kind = "mpl"', "model.kind"),
        ("hidden = [4]", "hiden = [4]", "hiden"),
        ("[-4, 4]", "[4, -4]", "[low, high]"),
        ('weights = ["hospital-a"]', 'weights = ["clinic"]', "clinic"),
        ('computer = ["hospital-a", ', "computer = [", "3 computers"),
        ("holdout = 0.25", 'engine = "rss5"', "rss3"),
        ("rate = 0.4", 'rate = "high"', "rate"),
    ],
)
def test_a_wrong_job_is_explained(tmp_path, capsys, old, new, said):
    world = hospitals.make(tmp_path)
    text = world.job.read_text()
    assert old in text
    world.job.write_text(text.replace(old, new))
    code, _, err = veilsum(capsys, "explain", world.job, "--home", world.homes["hospital-a"])
    assert code == 3
    assert said in err
    assert "Traceback" not in err


def test_data_without_ids_are_checked_and_refused_for_alignments(tmp_path, capsys):
    world = hospitals.make(tmp_path)
    home = world.homes["hospital-a"]
    code, out, _ = veilsum(capsys, "data", "check", "--home", home)
    assert (code, "60 rows, no ids declared; 7 columns of numbers, 1 other" in out) == (0, True)
    assert "secret" not in out
    job = tmp_path / "align.toml"
    job.write_text(
        'kind = "hidden_psi"\npurpose = "t"\nexpires = 2099-12-31\n'
        'parties = { client = "hospital-a", signer = "hospital-b" }\n'
        'data = { hospital-a = "patients", hospital-b = "patients" }\n'
    )
    code, _, err = veilsum(capsys, "run", job, "--home", home, "--wait", "1")
    assert code == 3
    assert "data.patients.ids: is missing" in err
