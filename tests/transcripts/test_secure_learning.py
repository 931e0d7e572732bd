"""What the parties of secure learning say is what the docstring's table says; data never decide how much."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from protocols import learners
from protocols.tapped import listened
from veilsum.learn.layers import initialise, mlp
from veilsum.learn.model import Model
from veilsum.mpc.fixed import encode
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Own
from veilsum.testing.transcripts import compare, table

APART = {"owner": ("a", "b", "c"), "computer": ("x", "y", "z"), "receiver": ("r",)}
ALL_TO_R = {"weights": ["r"], "metrics": ["r"], "predictions": ["r"]}
ASKED = {"owner": ("b",), "modeller": ("m",), "computer": ("a", "b", "c")}
MODEL = initialise(mlp([4, 6, 2]), 1)
TRAINED = ("metrics", "confusion", "predictions", "weights")


def together():
    return learners.job()


def apart():
    return learners.job(APART, release=ALL_TO_R)


def four():
    parties = APART | {"computer": ("w", "x", "y", "z")}
    return learners.job(parties, release=ALL_TO_R, engine="rss4")


def asked(public=""):
    given = {"kind": "given", "digest": MODEL.graph.digest().hex(), "public": public}
    return learners.job(ASKED, task="predict", model=given, release={"predictions": ["b", "m"]})


def asked_of_all():
    """Return a job whose model's weights are public."""
    flat = np.concatenate([MODEL.weights[name].ravel() for name in MODEL.graph.weights()])
    return asked(secure_learning.digest_of(encode(flat, secure_learning.FRACTION)))


JOBS = {"together": together, "apart": apart, "four": four, "asked": asked, "public": asked_of_all}
LACKING = {
    "together": {"Architecture", "Published", "EpochDone"},
    "apart": {"Architecture", "Published"},
    "four": {"Architecture", "Published"},
    "asked": {"Published"},
    "public": set(),
}


def brought(agreed, made=learners.rows):
    sizes = {name: count for name, count in learners.ROWS.items() if name in agreed.parties["owner"]}
    own = {name: Own(columns=made(count, ord(name))) for name, count in sizes.items()}
    if "modeller" in agreed.parties:
        own["m"] = Own(model=MODEL)
    return own


def play(agreed, own):
    """Return everything said, in the order of each direction: messages, and bytes on lanes."""
    on_lanes = []
    cluster, results = asyncio.run(learners.run(agreed, own, wrap=listened(on_lanes)))
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    said = [
        entry
        for name, session in sorted(cluster.sessions.items())
        for entry in session.transcript()
        if entry.sender == name
    ]
    return said, on_lanes, results


def roles_of(agreed):
    """Return what the table calls the parties of a job."""
    release = learners.params_of(agreed).release
    receivers = {*release.weights, *release.metrics, *release.predictions}
    computers = agreed.parties["computer"]
    return {
        name: {*agreed.roles(name), "everybody", "computer" if name in computers else "others"}
        | ({"receiver"} if name in receivers else set())
        for name in agreed.members
    }


@pytest.mark.parametrize("case", JOBS)
def test_table(case):
    agreed = JOBS[case]()
    said, _, _ = play(agreed, brought(agreed))
    compare(said, roles_of(agreed), table(secure_learning), optional=LACKING[case])
    assert not LACKING[case] & {entry.message for entry in said}


def test_every_message_of_parties_that_play_all_roles():
    said, _, _ = play(together(), brought(together()))
    got = Counter((entry.sender, entry.receiver, entry.message) for entry in said)
    pairs = [(s, r) for s in "abc" for r in "abc" if s != r]
    expected = Counter({(s, r, message): 1 for s, r in pairs for message in ("Rows", "Dealt", "Heard")})
    results = {"a": ("metrics", "confusion", "weights"), "b": ("metrics", "confusion", "predictions")}
    expected |= Counter({(s, r, "Released"): len(results[r]) for s, r in pairs if r in results})
    assert got == expected


def test_every_message_of_parties_that_are_apart():
    said, _, _ = play(apart(), brought(apart()))
    got = Counter((entry.sender, entry.receiver, entry.message) for entry in said)
    everybody, epochs = apart().members, 2
    expected = Counter({(s, r, "Rows"): 1 for s in "abc" for r in everybody if s != r})
    expected |= Counter({(s, r, "Dealt"): 1 for s in "abc" for r in "xyz"})
    expected |= Counter({(s, r, "Heard"): 1 for s in "xyz" for r in "xyz" if s != r})
    expected |= Counter({("x", r, "EpochDone"): epochs for r in "abcr"})
    expected |= Counter({(s, "r", "Released"): len(TRAINED) for s in "xyz"})
    assert got == expected


@pytest.mark.parametrize("case", ["asked", "public"])
def test_every_message_of_a_query(case):
    agreed = JOBS[case]()
    said, _, _ = play(agreed, brought(agreed))
    got = Counter((entry.sender, entry.receiver, entry.message) for entry in said)
    expected = Counter({("b", r, "Rows"): 1 for r in "acm"} | {("m", r, "Architecture"): 1 for r in "abc"})
    expected |= Counter({("b", r, "Dealt"): 1 for r in "ac"})
    expected |= Counter({("m", r, "Dealt" if case == "asked" else "Published"): 1 for r in "abc"})
    expected |= Counter({(s, r, "Heard"): 1 for s in "abc" for r in "abc" if s != r})
    expected |= Counter({("a", "m", "EpochDone"): 1})
    expected |= Counter({(s, r, "Released"): 1 for s in "abc" for r in "bm" if s != r})
    assert got == expected


def odd_rows(count, seed):
    """Return columns that are as unlike others as the job allows."""
    del seed
    columns = {f"x{at}": np.full(count, 10.0) for at in range(4)}
    return columns | {"label": np.zeros(count)}


@pytest.mark.parametrize("case", JOBS)
def test_how_much_is_said_depends_on_shapes_alone(case):
    agreed = JOBS[case]()
    plain, odd = brought(agreed), brought(agreed, odd_rows)
    if case == "asked":
        odd["m"] = Own(model=Model(MODEL.graph, {name: 0 * array for name, array in MODEL.weights.items()}))
    said, on_lanes, first = play(agreed, plain)
    said_too, on_lanes_too, second = play(agreed, odd)
    assert said == said_too
    for direction in [(s, r) for s in agreed.members for r in agreed.members if s != r]:
        sizes, sizes_too = (
            [one[2] for one in log if one[:2] == direction] for log in (on_lanes, on_lanes_too)
        )
        assert sizes == sizes_too
        assert bool(sizes) == (set(direction) <= set(agreed.parties["computer"])), direction
    for name in agreed.members:
        assert (first[name].traffic, first[name].by_step) == (second[name].traffic, second[name].by_step)


def test_the_counted_traffic_is_what_lanes_carry():
    _, on_lanes, results = play(together(), brought(together()))
    for name in "abc":
        sent = sum(size for sender, _, size in on_lanes if sender == name)
        traffic = results[name].traffic
        # every message has a head of 16 bytes, and a round sends to one peer or two
        assert 0 < sent - traffic.sent <= 2 * 16 * traffic.rounds
        assert sum(part.sent for part in results[name].by_step.values()) == traffic.sent
        assert sum(part.rounds for part in results[name].by_step.values()) == traffic.rounds
    total = [sum(getattr(results[name].traffic, way) for name in "abc") for way in ("sent", "received")]
    assert total[0] == total[1]
