"""The front door to training: the same results as the protocol between parties, and clear refusals."""

import numpy as np
import pytest

import veilsum
from protocols.learners import rows
from veilsum.errors import ConfigError, DataError
from veilsum.learn.layers import initialise, mlp
from veilsum.learn.twin import forward
from veilsum.mpc.optimisers import Sgd
from veilsum.mpc.training import Training

FEATURES = {"x[0-3]": (-10.0, 10.0)}
HOW = Training(epochs=4, batch=32, optimiser=Sgd(rate=0.5))


def test_training_in_one_process():
    data = {"north": rows(120, 1), "south": rows(80, 2)}
    got = veilsum.train(data, FEATURES, "label", training=HOW)
    assert got.metrics.shape == (4, 2)
    assert got.metrics[-1, 1] > 0.85
    assert got.confusion.sum() == 40
    assert got.traffic.rounds > 0
    # the released model answers as the released predictions say
    kept = [np.stack([data[n][f"x{at}"][r] for at in range(4)], 1) for n, r in got.held_out.items()]
    (logits,) = forward(got.model, {"x": np.concatenate(kept) / 10})
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(got.predictions, chances, atol=2e-3)


def test_training_goes_on_from_a_model_of_ones_own():
    data = {"north": rows(120, 1), "south": rows(80, 2)}
    first = veilsum.train(data, FEATURES, "label", training=HOW)
    second = veilsum.train(data, FEATURES, "label", training=HOW, model=first.model, engine="rss4")
    assert second.metrics[-1, 0] < first.metrics[-1, 0]
    fresh = veilsum.train(data, FEATURES, "label", training=HOW, model=initialise(mlp([4, 32, 2]), 0))
    assert np.allclose(fresh.metrics, first.metrics, atol=1e-3)


def test_what_does_not_fit_is_named():
    data = {"north": rows(20, 1), "south": rows(20, 2)}
    with pytest.raises(DataError, match="outside of"):
        veilsum.train(data, {"x[0-3]": (-1.0, 1.0)}, "label")
    with pytest.raises(DataError, match="no column 'nothing'"):
        veilsum.train(data, FEATURES, "nothing")
    with pytest.raises(ConfigError, match="cannot be a party's name"):
        veilsum.train({"North!": data["north"]}, FEATURES, "label")
    with pytest.raises(ConfigError, match="different lengths"):
        veilsum.train({"north": data["north"] | {"x1": [1.0]}}, FEATURES, "label")
