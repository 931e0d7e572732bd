"""Hospitals with rows in memory and their computing parties, for playing secure learning without files."""

import datetime as dt

import msgspec
import numpy as np

from veilsum.jobs import Job
from veilsum.parties import PartyId
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Own, Params
from veilsum.testing.cluster import Cluster

ROWS = {"a": 60, "b": 50, "c": 40}
TRAINING = {"epochs": 2, "batch": 32, "optimiser": {"kind": "sgd", "rate": 0.5}}
PARAMS = {
    "features": {"x[0-3]": [-10.0, 10.0]},
    "target": "label",
    "model": {"kind": "mlp", "hidden": [5]},
    "training": TRAINING,
    "release": {"weights": ["a"], "metrics": ["a", "b"], "predictions": ["b"]},
}


def job(parties=None, **params):
    return Job(
        kind="secure_learning",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties=parties or {"owner": ("a", "b", "c"), "computer": ("a", "b", "c")},
        data={"a": "rows", "b": "rows", "c": "rows"},
        params=PARAMS | params,
        step_timeout=20.0,
    )


def params_of(agreed):
    return msgspec.convert(agreed.params, Params)


def rows(count, seed, features=4):
    """Return columns x0 … and a label that depends on them."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-10, 10, (count, features))
    columns = {f"x{at}": x[:, at] for at in range(features)}
    return columns | {"label": (x @ np.arange(1, features + 1) + rng.normal(size=count) > 0).astype(float)}


def owned(sizes=ROWS):
    """Return party → what it brings."""
    return {name: Own(columns=rows(count, ord(name))) for name, count in sizes.items()}


def plays(agreed, own):
    params = params_of(agreed)

    def play(name):
        async def part(s):
            return await secure_learning.learn(s, params, own.get(name, Own()))

        return part

    return {PartyId(name): play(name) for name in agreed.members}


async def run(agreed, own, **options):
    cluster = Cluster(agreed, secure_learning.MESSAGES, **options)
    return cluster, await cluster.play(plays(agreed, own))
