"""The kind ``secure_learning`` at one party: what it brings, says beforehand, writes and draws."""

import datetime as dt
import json

import duckdb
import msgspec
import numpy as np
import pytest

from veilsum.errors import BudgetExceeded, ConfigError, DataError, JobMismatch
from veilsum.jobs import Job, canonical
from veilsum.learn.layers import initialise, mlp
from veilsum.learn.model import Model
from veilsum.mpc.wire import Traffic
from veilsum.node import architecture, config, learnt, local
from veilsum.node.kinds import kind_of, params_of
from veilsum.node.learning import cautions
from veilsum.node.report import render
from veilsum.parties import Federation, Member
from veilsum.protocols.secure_learning import Cast, Learnt, Params

NAMES = ("ann", "bob", "cleo")
COMPUTERS = {"computer": NAMES}
PARTY = """\
name = "{name}"
key = "k"
[data.rows]
source = "rows.csv"
[models.scorer]
file = "scorer.vsm"
[floor]
max_rows = 40
"""
FEATURES = {"x[0-1]": [-1, 1]}


def job(parties=None, *, inputs=None, **params):
    asked = {"features": FEATURES, "target": "y", "model": {"kind": "mlp", "hidden": [3]}} | params
    return Job(
        kind="secure_learning",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"owner": NAMES[:2], **COMPUTERS} if parties is None else parties,
        data=dict.fromkeys(NAMES, "rows"),
        params=asked,
        inputs=inputs or {},
    )


def given(graph, **params):
    parties = {"owner": ("ann",), "modeller": "bob", **COMPUTERS}
    parties["modeller"] = ("bob",)
    model = {"kind": "given", "digest": graph.digest().hex()}
    return job(parties, inputs={"model": "scorer"}, task="predict", model=model, target="", **params)


@pytest.fixture
def home(tmp_path):
    def make(name="ann", rows=30):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        generator = np.random.default_rng(len(name))
        x = generator.uniform(-1, 1, (rows, 2))
        lines = [f"{a},{b},{int(a > b)}" for a, b in x]
        (folder / "rows.csv").write_text("\n".join(["x0,x1,y", *lines]) + "\n")
        path = folder / "party.toml"
        path.touch(mode=0o600)
        path.write_text(PARTY.format(name=name))
        return config.load_party(folder)

    return make


def brought(party, job):
    return kind_of(job).open(party, job, params_of(job), 128)


def checked(party, job):
    found = brought(party, job)
    try:
        found.check()
        return found
    finally:
        found.close()


# -- what a party brings


def test_an_owner_brings_the_jobs_columns(home):
    found = checked(home(), job())
    assert list(found.columns) == ["x0", "x1", "y"]
    assert found.amounts() == {"rows": {"runs": 1, "rows": 30}}
    assert checked(home("cleo"), job()).columns is None  # it only computes


def test_an_owner_of_columns_reads_its_own_alone(home):
    split = {"split": "columns", "holds": {"ann": ["x0"], "bob": ["x1", "y"]}}
    asked = job(**split | {"features": {"x0": [-1, 1], "x1": [-1, 1]}})
    assert list(checked(home(), asked).columns) == ["x0"]
    assert list(checked(home("bob"), asked).columns) == ["x1", "y"]


def test_the_fingerprint_follows_the_data(home):
    prints = [brought(home(rows=rows), job()).fingerprints(b"s")["rows"] for rows in (20, 20, 21)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"features": {"x[0-1]": [-0.5, 1]}}, DataError, "outside"),
        ({"features": {"x[0-2]": [-1, 1]}}, DataError, "no column 'x2'"),
        ({"target": "x1"}, DataError, "outside"),
        ({"model": {"kind": "mlp", "hidden": [3], "activation": "tan"}}, ConfigError, "tan"),
        ({"ranges": {"weights": 1e13}}, ConfigError, "range"),
        ({"engine": "rss9"}, ConfigError, "rss3"),
        ({"holdout": 1.5}, ConfigError, "holdout"),
    ],
)
def test_what_does_not_fit_is_found_before_anybody_is_met(home, params, error, said):
    with pytest.raises(error) as refused:
        checked(home(), job(**params))
    assert said in str(refused.value) + refused.value.remedy


def test_a_floor_of_rows_holds(home):
    with pytest.raises(BudgetExceeded, match="41 rows"):
        checked(home(rows=41), job())


def test_a_modeller_brings_its_model_by_name_or_artefact(home):
    party = home("bob")
    graph = mlp([2, 3, 2])
    asked = given(graph)
    with pytest.raises(ConfigError, match="no model file"):
        checked(party, asked)
    initialise(graph, 1).save(party.home / "scorer.vsm")
    found = checked(party, asked)
    assert found.model.graph == graph
    assert found.amounts() == {"model scorer": {"runs": 1, "queries": 10_000_000}}
    before = found.fingerprints(b"s")
    initialise(graph, 2).save(party.home / "scorer.vsm")
    assert brought(party, asked).fingerprints(b"s") != before
    trained = party.results / "model-1234"
    trained.mkdir(parents=True)
    initialise(graph, 1).save(trained / "model.vsm")
    by_id = msgspec.structs.replace(asked, inputs={"model": "model-1234"})
    assert checked(party, by_id).model.graph == graph
    for name in ("../bob/results/model-1234", "scorr", ""):
        with pytest.raises(ConfigError, match="models"):
            checked(party, msgspec.structs.replace(asked, inputs={"model": name}))
    with pytest.raises(ConfigError, match=r"\[inputs\]"):
        checked(party, msgspec.structs.replace(asked, inputs={}))


def test_a_model_that_does_not_fit_is_refused(home):
    party = home("bob")
    graph = mlp([2, 3, 2])
    initialise(mlp([2, 4, 2]), 1).save(party.home / "scorer.vsm")
    with pytest.raises(JobMismatch, match="digest"):
        checked(party, given(graph))
    wide = mlp([3, 3, 2])
    initialise(wide, 1).save(party.home / "scorer.vsm")
    with pytest.raises(ConfigError, match="takes"):
        checked(party, given(wide))
    model = initialise(graph, 1)
    weights = {name: array * 1e4 for name, array in model.weights.items()}
    Model(graph, weights).save(party.home / "scorer.vsm")
    with pytest.raises(DataError):
        checked(party, given(graph))


def test_a_set_without_ids_is_refused_for_alignments_alone(home):
    party = home()
    with pytest.raises(ConfigError, match=r"data\.rows\.ids: is missing") as refused:
        config.id_schema(party, "rows")
    assert "ids = {" in refused.value.remedy
    with pytest.raises(ConfigError, match="no data set"):
        config.id_schema(party, "row")


# -- what is said beforehand


def test_explain_says_who_computes_under_which_assumption_and_what_it_costs(home):
    asked = job()
    lines = kind_of(asked).about(asked, params_of(asked), home(), 100)
    told = {title: text for title, text in lines if title != "model"}
    assert told["computing parties"] == "ann, bob, cleo"
    assert "no two of ann, bob, cleo work together" in told["assumption"]
    costs = [text for title, text in lines if title.startswith("cost with 100 rows of each owner")]
    for word, text in zip(("rounds", "MiB", "params.link"), costs, strict=True):
        assert word in text
    model = [text for title, text in lines if title == "model"]
    assert "17 numbers" in model[0]
    assert any("linear" in text and "9 numbers" in text for text in model[1:])


def test_explain_shows_a_given_model_to_its_modeller_alone(home):
    graph = mlp([2, 3, 2])
    asked = given(graph)
    initialise(graph, 1).save(home("bob").home / "scorer.vsm")
    mine = kind_of(asked).about(asked, params_of(asked), home("bob"), 100)
    theirs = kind_of(asked).about(asked, params_of(asked), home("ann"), 100)
    assert any("linear" in text for _, text in mine)
    assert not any("linear" in text for _, text in theirs)
    assert any(graph.digest().hex() in text for _, text in theirs)


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (("h:1", "h:2", "g:1"), ["ann and bob compute at one address (h)"]),
        (("a.one.org:1", "b.one.org:1", ""), ["ann and bob compute under one domain (one.org)"]),
        (("a.one.org:1", "b.two.org:1", "10.0.0.1:1"), []),
        (("10.0.0.1:1", "10.0.0.2:1", ""), []),
        (("one.org:1", "two.org:1", ""), []),
    ],
)
def test_computing_parties_that_look_alike_are_named(addresses, said):
    members = {name: Member(name.encode(), at) for name, at in zip(NAMES, addresses, strict=True)}
    asked = job()
    found = cautions(asked, params_of(asked), Federation("f", members))
    assert [words in line for words, line in zip(said, found, strict=True)] == [True] * len(said)


def test_the_mode_names_task_engine_and_model():
    asked = job()
    assert kind_of(asked).mode(params_of(asked)) == "train on rss3, an mlp 2-3-2"
    linear = job(model={"kind": "mlp", "hidden": []})
    assert kind_of(linear).mode(params_of(linear)) == "train on rss3, a linear model 2-2"


def test_two_engines_two_adversaries():
    four = {"owner": ("ann",), "computer": (*NAMES, "dora")}
    kinds = kind_of(job()), kind_of(job(four, engine="rss4"))
    assert "semi-honest" in kinds[0].adversary
    assert "malicious" in kinds[1].adversary


# -- what is left


def held(**changes):
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    fields = {
        "rows": {"ann": 5, "bob": 5},
        "graph": mlp([2, 3, 2]),
        "epochs": 2,
        "held_out": {"ann": np.array([1, 4]), "bob": np.array([0])},
        "traffic": Traffic(10, 20, 3),
        "by_step": {"epochs": Traffic(8, 10, 2), "checks": Traffic(2, 10, 1)},
        "metrics": np.array([[0.7, 0.34], [0.5, 0.66]]),
        "confusion": np.array([[1, 1], [0, 1]]),
        "predictions": answers,
    }
    return Learnt(**fields | changes)


def params(**changes):
    return msgspec.convert({"features": FEATURES, "target": "y"} | changes, Params)


def read(path):
    with duckdb.connect() as database:
        return database.execute(f"SELECT * FROM '{path}'").fetchall()


def test_files_of_a_receiver(tmp_path):
    got = held(model=initialise(mlp([2, 3, 2]), 1))
    files = learnt.write(got, params(), tmp_path)
    assert set(files.values()) == {p.name for p in tmp_path.iterdir()}
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in files.values())
    expected = [("ann", 1, 0.9, 0.1, 0), ("ann", 4, 0.2, 0.8, 1), ("bob", 0, 0.4, 0.6, 1)]
    assert read(tmp_path / "predictions.parquet") == read(tmp_path / "predictions.csv") == expected
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == {"rows": 3, "loss": [0.7, 0.5], "accuracy": [0.34, 2 / 3], "confusion": [[1, 1], [0, 1]]}
    assert Model.load(tmp_path / "model.vsm").graph == got.graph


def test_who_gets_nothing_has_no_files(tmp_path):
    nothing = held(metrics=None, confusion=None, predictions=None)
    assert learnt.write(nothing, params(), tmp_path) == {}
    assert [chart.title for chart in learnt.charts(nothing, params())] == [
        "Bytes of computing, by part",
        "Rounds of computing, by part",
    ]


def test_bits_and_numbers_have_their_own_columns():
    bit = held(predictions=np.array([[0.9], [0.2], [0.5]]))
    found = learnt.predicted(bit, params(training={"loss": "bce"}))
    assert {name: list(column) for name, column in found.items()} == {
        "owner": ["ann", "ann", "bob"],
        "row": [1, 4, 0],
        "p": [0.9, 0.2, 0.5],
        "class": [1, 0, 0],
    }
    number = learnt.predicted(bit, params(training={"loss": "mse"}))
    assert list(number) == ["owner", "row", "value"]
    rows = np.array([1, 3])
    same = held(held_out={"ann": rows, "bob": rows}, predictions=np.array([[1.0], [2.0]]))
    by_columns = params(training={"loss": "mse"}, split="columns", holds={"ann": ["x[0-1]"], "bob": ["y"]})
    assert {name: list(c) for name, c in learnt.predicted(same, by_columns).items()} == {
        "row": [1, 3],
        "value": [1.0, 2.0],
    }


def test_a_model_that_learnt_nothing_is_named():
    (at_chance,) = learnt.warnings(held(), params())  # two of three right, two of three are of one class
    assert "no better than the commonest class would (66.7 %)" in at_chance
    useless = held(confusion=np.array([[2, 0], [1, 0]]), metrics=np.array([[0.5, 0.6], [0.7, 0.6]]))
    found = learnt.warnings(useless, params())
    assert ["no better than the commonest class" in found[0], "the loss grew" in found[1]] == [True, True]
    fine = held(confusion=np.array([[2, 0], [0, 1]]))
    assert learnt.warnings(fine, params()) == ()


def test_the_report_draws_curves_confusion_and_traffic(home, tmp_path):
    import asyncio
    import xml.etree.ElementTree as ET

    asked = job(release={"metrics": ["ann"]}, training={"epochs": 2, "batch": 8})
    parties = [home(name) for name in NAMES]
    summaries = asyncio.run(local.simulate(asked, parties))
    page = render(summaries, title="learning")
    tree = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    titles = {element.text for element in tree.iter() if element.tag.endswith("title")}
    for title in ("Held-out loss after each epoch, at ann", "Confusion matrix, at ann"):
        assert title in titles
    assert any(title.startswith("Rounds of computing") for title in titles)
    assert canonical(summaries[0])  # every picture has an encoding
    cast = Cast.of(asked, params_of(asked))
    facts = {fact.name: fact.value for fact in summaries[0].facts}
    assert facts["computing parties"] == ", ".join(cast.computers)
    assert facts["rows held out, all owners"] == 12


# -- model files in words


def test_layers_count_every_weight_once():
    graph = mlp([2, 3, 2])
    layers = architecture.layers(graph)
    assert [layer.numbers for layer in layers] == [9, 0, 8]
    assert [layer.shape for layer in layers] == ["n, 3", "n, 3", "n, 2"]
    assert architecture.in_brief(graph).startswith("3 operations, 17 numbers")
    long = architecture.lines(mlp([2] * 40))
    assert len(long) < 30
    assert any("more" in line for line in long)
