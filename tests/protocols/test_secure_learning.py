"""Secure learning played by all its parties: what comes out, who gets it, what is refused before sharing."""

import asyncio
import hashlib
import re

import msgspec
import numpy as np
import pytest

from protocols import learners
from veilsum.errors import (
    BudgetExceeded,
    ConfigError,
    DataError,
    JobMismatch,
    PeerAborted,
    ProtocolError,
)
from veilsum.learn.layers import convnet, initialise, mlp
from veilsum.learn.model import Model
from veilsum.learn.twin import forward
from veilsum.mpc import program
from veilsum.mpc.fixed import Fixed, decode, encode
from veilsum.mpc.plain import Plain
from veilsum.mpc.program import Nothing
from veilsum.mpc.shares import Arith
from veilsum.mpc.wire import DryWire
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Own, Plan, leaks, prepare
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster


def play(agreed, own, **options):
    _, results = asyncio.run(learners.run(agreed, own, **options))
    return results


def succeed(agreed, own, **options):
    results = play(agreed, own, **options)
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return results


def twin(agreed, own, graph):
    """Return the results of the same job on the reference engine."""
    params = learners.params_of(agreed)
    sizes = {name: len(one.columns["label"]) for name, one in own.items()}
    plan = Plan.of(params, sizes, graph)
    parts = [prepare(params, one.columns, name) for name, one in own.items()]
    whole = np.concatenate(parts, axis=0 if params.split == "rows" else 1)
    if plan.order is not None:
        whole = whole[:, plan.order]
    ring, engine, width = encode(whole, 18)[None], Plain(), 4
    ((_, value),) = graph.inputs.items()
    x = Fixed(engine, Arith(ring[:, :, :width].reshape(1, -1, *value.shape[1:])), 1.0)
    y = Fixed(engine, Arith(ring[:, :, width:]), 1.0)
    got = program.train(engine, DryWire(0, 1), plan.work, x, y, None, Nothing(), lambda _: None)
    return plan, {name: decode(share.parts[0], 18) for name, share in got.items()}


def check_against_twin(results, agreed, own, graph):
    plan, expected = twin(agreed, own, graph)
    count = len(plan.work.tested)
    assert np.allclose(results["a"].metrics, expected["metrics"] / count, atol=0.02)
    assert np.allclose(results["b"].predictions, expected["predictions"], atol=0.02)
    flat = np.concatenate([results["a"].model.weights[n].ravel() for n in graph.weights()])
    assert np.allclose(flat, expected["weights"], atol=0.01)
    assert results["a"].confusion.sum() == count
    # the parties see the same result, to the last bit
    assert np.array_equal(results["a"].metrics, results["b"].metrics)
    return plan


def test_three_hospitals_learn_what_the_reference_learns():
    agreed, own = learners.job(), learners.owned()
    results = succeed(agreed, own)
    plan = check_against_twin(results, agreed, own, mlp([4, 5, 2]))
    assert results["a"].rows == learners.ROWS
    assert {name: len(kept) for name, kept in results["a"].held_out.items()} == {"a": 12, "b": 10, "c": 8}
    assert results["a"].metrics[-1, 1] > 0.75
    assert len(plan.work.learnt) == 120


def test_four_computing_parties_of_which_one_may_cheat():
    parties = {"owner": ("a", "b", "c"), "computer": ("a", "b", "c", "d")}
    agreed, own = learners.job(parties, engine="rss4"), learners.owned()
    results = succeed(agreed, own)
    check_against_twin(results, agreed, own, mlp([4, 5, 2]))
    assert results["d"].metrics is None


def test_only_whom_the_job_names_gets_anything():
    results = succeed(learners.job(), learners.owned())
    assert results["a"].model is not None
    assert results["a"].predictions is None
    assert results["b"].model is None
    assert results["b"].predictions is not None
    assert (results["c"].model, results["c"].metrics, results["c"].predictions) == (None, None, None)


def test_owners_computers_and_receivers_may_be_different_parties():
    parties = {"owner": ("a", "b"), "computer": ("x", "y", "z"), "receiver": ("r",)}
    release = {"metrics": ["r"], "weights": ["r"], "predictions": ["r"]}
    own = {name: one for name, one in learners.owned().items() if name != "c"}
    results = succeed(learners.job(parties, release=release), own)
    assert results["r"].metrics.shape == (2, 2)
    assert results["r"].predictions.shape == (22, 2)
    assert results["r"].model is not None
    assert results["x"].metrics is None
    assert results["x"].traffic.rounds == results["y"].traffic.rounds
    assert results["r"].traffic is None


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_other_losses(loss):
    training = learners.TRAINING | {"loss": loss, "optimiser": {"kind": "sgd", "rate": 0.3}}
    agreed = learners.job(training=training, target_range=[0.0, 2.0])
    own = learners.owned()
    results = succeed(agreed, own)
    plan, expected = twin(agreed, own, mlp([4, 5, 1]))
    predictions = expected["predictions"]
    if loss == "mse":
        predictions = predictions + 1  # back from [-1, 1] to [0, 2]
        assert results["a"].confusion is None
    assert np.allclose(results["b"].predictions, predictions, atol=0.02)
    assert np.allclose(results["a"].metrics, expected["metrics"] / len(plan.work.tested), atol=0.02)


def test_owners_of_columns():
    holds = {"a": ["x[0-1]", "label"], "b": ["x2"], "c": ["x3"]}
    features = {"x[0-1]": [-10.0, 10.0], "x3": [-10.0, 10.0], "x2": [-10.0, 10.0]}
    agreed = learners.job(split="columns", holds=holds, features=features)
    columns = learners.rows(80, 3)
    own = {name: Own(columns=columns) for name in "abc"}
    results = succeed(agreed, own)
    check_against_twin(results, agreed, own, mlp([4, 5, 2]))


def test_owners_of_columns_bring_the_same_rows():
    holds = {"a": ["x[0-1]", "label"], "b": ["x2"], "c": ["x3"]}
    features = {"x[0-1]": [-10.0, 10.0], "x2": [-10.0, 10.0], "x3": [-10.0, 10.0]}
    agreed = learners.job(split="columns", holds=holds, features=features)
    results = play(agreed, learners.owned())
    assert isinstance(results["a"], DataError)
    assert "a 60, b 50, c 40" in str(results["a"])


def given(graph=None, seed=1):
    """Return a modeller's model, and the job that queries it."""
    model = initialise(graph or mlp([4, 6, 2]), seed)
    parties = {"owner": ("b",), "modeller": ("a",), "computer": ("a", "b", "c")}
    digest = model.graph.digest().hex()
    release = {"predictions": ["b"], "metrics": ["b"]}
    agreed = learners.job(parties, task="predict", model={"kind": "given", "digest": digest}, release=release)
    return model, agreed


@pytest.mark.parametrize(
    "graph", [mlp([4, 6, 2]), convnet((1, 2, 2), 2, channels=(3,), hidden=(4,), kernel=3)]
)
def test_a_query_of_a_private_model(graph):
    model, agreed = given(graph)
    columns = learners.rows(33, 5)
    results = succeed(agreed, {"a": Own(model=model), "b": Own(columns=columns)})
    x = np.stack([columns[f"x{at}"] for at in range(4)], axis=1) / 10
    ((name, value),) = graph.inputs.items()
    (logits,) = forward(model, {name: x.reshape(-1, *value.shape[1:])})
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(results["b"].predictions, chances, atol=2e-3)
    right = (logits.argmax(axis=1) == columns["label"]).mean()
    assert abs(results["b"].metrics[0, 1] - right) < 1e-3
    assert results["a"].predictions is None


def test_a_query_of_a_public_model():
    model, agreed = given()
    flat = np.concatenate([model.weights[name].ravel() for name in model.graph.weights()])
    digest = hashlib.sha256(encode(flat, 18).tobytes()).hexdigest()
    brought = {"a": Own(model=model), "b": Own(columns=learners.rows(33, 5))}
    secret = succeed(agreed, brought)
    kind = agreed.params["model"] | {"public": digest}
    public = succeed(msgspec.structs.replace(agreed, params=agreed.params | {"model": kind}), brought)
    assert np.allclose(public["b"].predictions, secret["b"].predictions, atol=1e-3)
    kind = agreed.params["model"] | {"public": "00" * 32}
    results = play(msgspec.structs.replace(agreed, params=agreed.params | {"model": kind}), brought)
    assert isinstance(results["a"], JobMismatch)


def test_the_forecast_is_what_a_run_says():
    agreed = learners.job()
    forecast = secure_learning.forecast(agreed, learners.params_of(agreed), learners.ROWS)
    results = succeed(agreed, learners.owned())
    setup = results["a"].by_step["keys"]
    for number, name in enumerate("abc"):
        said = results[name].traffic - results[name].by_step["keys"]
        assert said.sent == forecast.sent[number]
        assert said.rounds == forecast.rounds
    assert setup.rounds == 1
    assert forecast.seconds > forecast.computing > 0


def test_another_model_than_agreed():
    _, agreed = given()
    other = initialise(mlp([4, 7, 2]), 1)
    results = play(agreed, {"a": Own(model=other), "b": Own(columns=learners.rows(9, 5))})
    assert isinstance(results["a"], JobMismatch)
    assert all(isinstance(results[name], JobMismatch | PeerAborted) for name in "bc")


def test_weights_beyond_the_declared_range():
    model, agreed = given()
    weights = {name: array * 1000.0 for name, array in model.weights.items()}
    results = play(
        agreed, {"a": Own(model=Model(model.graph, weights)), "b": Own(columns=learners.rows(9, 5))}
    )
    assert isinstance(results["a"], DataError)
    assert "declared range" in str(results["a"])


BAD = {
    "nan": (
        lambda c: c | {"x1": np.where(np.arange(60) == 3, np.nan, c["x1"])},
        "1 of 60 values of column 'x1'",
    ),
    "range": (lambda c: c | {"x2": c["x2"] * 2}, "outside of"),
    "class": (lambda c: c | {"label": c["label"] + 0.5}, "outside of|no classes"),
    "missing": (lambda c: {name: v for name, v in c.items() if name != "x3"}, "no column 'x3'"),
    "empty": (lambda c: {name: v[:0] for name, v in c.items()}, "no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_named_before_anything_is_shared(case):
    spoil, message = BAD[case]
    own = learners.owned()
    own["a"] = Own(columns=spoil(own["a"].columns))
    said = []
    results = play(learners.job(), own, sink=said.append)
    assert isinstance(results["a"], DataError)
    assert re.search(message, str(results["a"]))
    assert all(isinstance(results[name], PeerAborted) for name in "bc")
    assert results["b"].cause == "DataError"
    assert not [one for one in said if getattr(one, "step", "") == "share"]


REFUSED = {
    "computers": ({"parties": {"owner": ("a",), "computer": ("a", "b")}}, "3 computers"),
    "receiver": ({"release": {"weights": ["nobody"]}}, "not in the job"),
    "range": ({"features": {"x0": [1.0, 1.0]}}, "is not \\[low, high\\]"),
    "target": ({"target": ""}, "target column"),
    "twice": ({"features": {"x0": [0.0, 1.0], "x[0-1]": [0.0, 1.0]}}, "named twice"),
    "predict": ({"task": "predict"}, "predictions need one"),
    "holds": ({"split": "columns", "holds": {"a": ["x[0-3]"]}}, "exactly one owner"),
    "classes": ({"classes": 1}, "two classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_jobs_that_cannot_be(case):
    changes, message = REFUSED[case]
    parties = changes.get("parties")
    agreed = learners.job(parties, **{key: value for key, value in changes.items() if key != "parties"})
    with pytest.raises(ConfigError, match=message):
        leaks(agreed, learners.params_of(agreed))


def test_a_model_that_does_not_fit_the_columns():
    model, agreed = given(mlp([9, 2]))
    results = play(agreed, {"a": Own(model=model), "b": Own(columns=learners.rows(9, 5))})
    assert isinstance(results["a"], ConfigError)
    assert "takes [9] numbers a row, the job has 4 features" in str(results["a"])


def test_ranges_that_cannot_hold_name_the_place():
    agreed = learners.job(ranges={"activations": 1e6, "weights": 1e6})
    results = play(agreed, learners.owned())
    named = [one for one in results.values() if isinstance(one, ConfigError)]
    assert named
    assert "layer" in str(named[0])


def test_a_party_answers_to_no_small_owner():
    agreed = learners.job()

    async def careful(s):
        params = learners.params_of(agreed)
        return await secure_learning.learn(s, params, learners.owned()["a"], least=45)

    async def main():
        plays = learners.plays(agreed, learners.owned()) | {"a": careful}
        return await Cluster(agreed, secure_learning.MESSAGES).play(plays)

    results = asyncio.run(main())
    assert isinstance(results["a"], BudgetExceeded)
    assert "c brings only 40 rows" in str(results["a"])


class Dying(MemoryJournal):
    """Dies after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def commit(self, stage, index, output):
        if stage.startswith("shares"):
            if self.left == 0:
                raise ProtocolError("killed")
            self.left -= 1
        super().commit(stage, index, output)


@pytest.mark.parametrize("deaths", [{"a": 0}, {"b": 1}, {"a": 2, "c": 1}, {"a": 1, "b": 2, "c": 3}])
def test_a_killed_job_goes_on_from_the_last_common_checkpoint(deaths):
    agreed, own = learners.job(training=learners.TRAINING | {"epochs": 4}), learners.owned()
    journals = {name: Dying(deaths.get(name, 9)) for name in "abc"}
    results = play(agreed, own, journals=journals)
    assert all(isinstance(one, BaseException) for one in results.values())
    for journal in journals.values():
        journal.left = 99
    before = min(sum(journal.stages().values()) for journal in journals.values())
    results = succeed(agreed, own, journals=journals)
    check_against_twin(results, agreed, own, mlp([4, 5, 2]))
    # only what not everybody had is done again
    for journal in journals.values():
        newest = max(stage for stage in journal.stages() if stage.startswith("shares"))
        assert journal.stages()[newest] == 4 - before
    assert results["a"].metrics.shape == (4, 2)


def test_training_goes_on_twice():
    """Series of checkpoints of three attempts, of which the second is newer but not everybody's."""
    agreed, own = learners.job(training=learners.TRAINING | {"epochs": 5}), learners.owned()
    journals = {name: Dying(99) for name in "abc"}
    for deaths in ({"a": 2}, {"b": 1}, {"c": 0}):
        for name, journal in journals.items():
            journal.left = deaths.get(name, 99)
        assert all(isinstance(one, BaseException) for one in play(agreed, own, journals=journals).values())
    for journal in journals.values():
        journal.left = 99
    results = succeed(agreed, own, journals=journals)
    check_against_twin(results, agreed, own, mlp([4, 5, 2]))
    # 2 epochs, then 1, then 0, then the last 2
    assert journals["c"].stages()[max(s for s in journals["c"].stages() if s.startswith("shares"))] == 2


def test_the_leak_table_names_who_computes_and_who_gets_what():
    agreed = learners.job()
    table = leaks(agreed, learners.params_of(agreed))
    collusion = [leak for leak in table if "any two" in leak.what]
    assert [leak.who for leak in collusion] == ["a", "b", "c"]
    assert {(leak.who, leak.part) for leak in table if leak.part == "release"} == {
        ("a", "release"),
        ("b", "release"),
    }


def test_parameters_survive_their_file_form():
    params = learners.params_of(learners.job())
    assert msgspec.convert(msgspec.to_builtins(params), type(params)) == params
