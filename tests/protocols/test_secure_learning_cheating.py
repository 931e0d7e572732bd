"""A party sends what an honest one would not: a named error at every honest party, never a result."""

import asyncio
import functools
import time

import msgspec
import numpy as np
import pytest

from protocols import learners
from protocols.tapped import TappedLinks
from veilsum.errors import (
    CheatingDetected,
    ConfigError,
    DataError,
    JobMismatch,
    PeerAborted,
    PeerLost,
    ProtocolError,
    StepTimeout,
)
from veilsum.exchanges.sharing import Dealt, Heard, Released
from veilsum.jobs import Job
from veilsum.learn.graph import Graph, Linear, MatMul, Mul, Node, Parameter, Relu, Slice, Value
from veilsum.learn.layers import initialise, mlp
from veilsum.learn.model import Model
from veilsum.mpc.fixed import encode
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Architecture, EpochDone, Learnt, Own, Published, Rows
from veilsum.store.journal import MemoryJournal
from veilsum.testing.cluster import Cluster

replace = msgspec.structs.replace

APART = {"owner": ("a", "b"), "computer": ("x", "y", "z"), "receiver": ("r",)}
ALL_TO_R = {"weights": ["r"], "metrics": ["r"], "predictions": ["r"]}
SIZES = {"a": 20, "b": 15}
MODEL = initialise(mlp([4, 3, 2]), 1)
HEAD = 16  # of a message on a lane
QUICK = {"model": {"kind": "mlp", "hidden": []}, "training": {"epochs": 1, "batch": 32}}


def job(**changes):
    return learners.job(APART, **(QUICK | {"release": ALL_TO_R} | changes))


def query(model=MODEL, public="", digest=None):
    """Return a job in which m's model answers b."""
    digest = digest or model.graph.digest().hex()
    parties = {"owner": ("b",), "modeller": ("m",), "computer": ("x", "y", "z")}
    given = {"kind": "given", "digest": digest, "public": public}
    return learners.job(parties, task="predict", model=given, release={"predictions": ["b"]})


def brought(agreed, model=MODEL):
    own = {name: Own(columns=learners.rows(SIZES[name], ord(name))) for name in agreed.parties["owner"]}
    return own | ({"m": Own(model=model)} if "modeller" in agreed.parties else {})


def cheating(part, change):
    """Play a part honestly, but for what becomes of messages: ``change(message, receiver, s)``."""

    async def play(s):
        for peer in s.peers.values():
            tamper(s, peer)
        return await part(s)

    def tamper(s, peer):
        send = peer.send

        async def tampered(message):
            for out in change(message, peer.name, s):
                await send(out)

        peer.send = tampered

    return play


def of(cls, change, to=None):
    """Change one type of message, to one party or to all."""

    def changed(message, receiver, s):
        if not isinstance(message, cls) or to not in {None, receiver}:
            return [message]
        out = change(message)
        return out if isinstance(out, list) else [out]

    return changed


def attempt(agreed, cheater=None, change=None, *, own=None, journals=None, part=None, wrap=None):
    """Play once, with one party that cheats."""
    parts = learners.plays(agreed, own or brought(agreed))
    if part is not None:
        parts[cheater] = part
    if change is not None:
        parts[cheater] = cheating(parts[cheater], change)
    cluster = Cluster(agreed, secure_learning.MESSAGES, journals=journals, wrap=wrap)
    began = time.monotonic()
    results = asyncio.run(cluster.play(parts))
    assert time.monotonic() - began < 4
    return results


def refused(results, cheater, expected, match=""):
    """Every honest party has a named error, somebody the expected one, and nobody a result."""
    honest = {name: result for name, result in results.items() if name != cheater}
    assert not isinstance(results.get(cheater), Learnt), results
    found = [result for result in honest.values() if type(result) is expected and match in str(result)]
    assert found, results
    for result in honest.values():
        assert type(result) is expected or (
            type(result) is PeerAborted and result.cause in {expected.__name__, PeerAborted.__name__}
        ), results


@functools.cache
def honest_results(agreed):
    return attempt(msgspec.json.decode(agreed, type=Job))


def ended_well(results, agreed):
    """Nobody noticed, for there was nothing to notice: the results are the honest ones."""
    for name, result in results.items():
        assert isinstance(result, Learnt), (name, result)
    honest = honest_results(msgspec.json.encode(agreed))
    for name in agreed.members:
        for field in ("metrics", "predictions"):
            one, other = getattr(results[name], field), getattr(honest[name], field)
            assert (one is None) == (other is None)
            # truncation rounds at random
            assert one is None or np.allclose(one, other, atol=2e-3)


def without(seconds):
    return replace(job(), step_timeout=seconds)


# -- jobs

NUMBERS = {
    "rows of a step": {"training": {"batch": 0}},
    "fewer than no rows of a step": {"training": {"batch": -1}},
    "no epochs": {"training": {"epochs": 0}},
    "endless epochs": {"training": {"epochs": 10**12}},
    "a seed below zero": {"training": {"seed": -1}},
    "a rate that is none": {"training": {"optimiser": {"kind": "sgd", "rate": float("nan")}}},
    "a rate without end": {"training": {"optimiser": {"kind": "adam", "rate": float("inf")}}},
    "a rate below zero": {"training": {"optimiser": {"kind": "sgd", "rate": -0.1}}},
    "a momentum of one": {"training": {"optimiser": {"kind": "sgd", "momentum": 1.0}}},
    "steps of no epochs": {"training": {"schedule": {"kind": "step", "every": 0}}},
    "no range": {"ranges": {"activations": 0.0}},
    "a range that is none": {"ranges": {"weights": float("nan")}},
    "no bandwidth": {"link": {"bandwidth": 0.0}},
    "all held out": {"holdout": 1.0},
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_no_job_has(case):
    with pytest.raises(msgspec.ValidationError, match="Expected"):
        learners.params_of(learners.job(**NUMBERS[case]))


def test_rows_that_are_all_held_out():
    agreed = job(holdout=0.99)
    results = attempt(agreed)
    assert all(isinstance(result, DataError | PeerAborted) for result in results.values()), results
    assert "all rows are kept out of training" in str(results.values())


# -- owners

DEALT = {
    "another last component to one": (
        "y",
        lambda m: replace(m, words=m.words + np.uint64(1)),
        CheatingDetected,
    ),
    "one bit of one word": (
        "z",
        lambda m: replace(m, words=m.words ^ (np.arange(len(m.words)) == 7).astype(np.uint64)),
        CheatingDetected,
    ),
    "another key to one": ("x", lambda m: replace(m, keys=[m.keys[0], bytes(16)]), CheatingDetected),
    "another first key to one": ("z", lambda m: replace(m, keys=[bytes(16)]), CheatingDetected),
    "keys exchanged": ("x", lambda m: replace(m, keys=m.keys[::-1]), CheatingDetected),
    "a word less": ("y", lambda m: replace(m, words=m.words[:-1]), ProtocolError),
    "a word more": ("y", lambda m: replace(m, words=np.append(m.words, np.uint64(0))), ProtocolError),
    "no words": ("y", lambda m: replace(m, words=m.words[:0]), ProtocolError),
    "words to whom none are due": ("x", lambda m: replace(m, words=np.zeros(9, np.uint64)), ProtocolError),
    "a piece of another number": (None, lambda m: replace(m, index=1), ProtocolError),
    "a piece below zero": (None, lambda m: replace(m, index=-1), ProtocolError),
    "a piece far away": (None, lambda m: replace(m, index=1 << 62), ProtocolError),
    "a key a byte short": (None, lambda m: replace(m, keys=[k[1:] for k in m.keys]), ProtocolError),
    "a key a byte long": (None, lambda m: replace(m, keys=[k + b"x" for k in m.keys]), ProtocolError),
    "empty keys": (None, lambda m: replace(m, keys=[b""] * len(m.keys)), ProtocolError),
    "giant keys": (None, lambda m: replace(m, keys=[bytes(400_000)] * 2), ProtocolError),
    "no keys": (None, lambda m: replace(m, keys=[]), ProtocolError),
    "a key less": ("x", lambda m: replace(m, keys=m.keys[:1]), ProtocolError),
    "a key more": ("y", lambda m: replace(m, keys=[*m.keys, bytes(16)]), ProtocolError),
    "no components": (None, lambda m: replace(m, components=[]), ProtocolError),
    "other components": ("y", lambda m: replace(m, components=[0]), ProtocolError),
    "components in another order": ("x", lambda m: replace(m, components=[1, 0]), ProtocolError),
    "a component twice": ("x", lambda m: replace(m, components=[0, 0]), ProtocolError),
    "a component and its double": (
        "y",
        lambda m: replace(m, components=[1, 1], keys=m.keys * 2),
        ProtocolError,
    ),
    "components below zero": (None, lambda m: replace(m, components=[-1] * len(m.keys)), ProtocolError),
    "components that do not end": (None, lambda m: replace(m, components=[1] * 200_000), ProtocolError),
    "the last component as a key": (
        "y",
        lambda m: replace(m, components=[1, 2], keys=[*m.keys, bytes(16)]),
        ProtocolError,
    ),
}


@pytest.mark.parametrize("case", DEALT)
def test_an_owner_that_deals_wrongly(case):
    to, change, expected = DEALT[case]
    refused(attempt(job(), "a", of(Dealt, change, to)), "a", expected)


@pytest.mark.parametrize("whose", ["b", "y"])
def test_other_words_of_one_owner_among_several(whose):
    """Also where the owner computes: what it dealt is compared with what it says it holds itself."""
    parties = {"owner": ("b", "y"), "computer": ("x", "y", "z"), "receiver": ("r",)}
    agreed = learners.job(parties, **(QUICK | {"release": ALL_TO_R}))
    own = {name: Own(columns=learners.rows(12, 3)) for name in "by"}
    to = "z" if whose == "y" else "y"
    change = of(Dealt, lambda m: replace(m, words=m.words + np.uint64(1)), to)
    refused(attempt(agreed, whose, change, own=own), whose, CheatingDetected)


def test_an_owner_that_deals_nothing():
    results = attempt(without(1.0), "a", of(Dealt, lambda m: [], "y"))
    refused(results, "a", StepTimeout)


def test_an_owner_that_deals_twice_changes_nothing():
    ended_well(attempt(job(), "a", of(Dealt, lambda m: [m, replace(m, index=5)])), job())


ROWS = {
    "none": lambda m: Rows(0),
    "below zero": lambda m: Rows(-1),
    "more than the job allows": lambda m: Rows(1001),
    "giant": lambda m: Rows(1 << 62),
}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("to", [None, "r"])
def test_how_many_rows_are_refused(case, to):
    results = attempt(job(max_rows=1000), "a", of(Rows, ROWS[case], to))
    refused(results, "a", ProtocolError, "rows, which the job does not allow")


@pytest.mark.parametrize(
    ("to", "expected"), [("x", CheatingDetected), ("y", ProtocolError), ("r", ProtocolError)]
)
def test_another_number_of_rows_to_one(to, expected):
    """Who counts other rows expects other sizes, or draws other components from its keys."""
    refused(attempt(job(), "a", of(Rows, lambda m: Rows(m.rows + 10), to)), "a", expected)


@pytest.mark.parametrize("more", [-1, 1])
def test_other_rows_than_announced(more):
    results = attempt(job(), "a", of(Rows, lambda m: Rows(m.rows + more)))
    refused(results, "a", ProtocolError)


# -- modellers


def text(graph):
    return [Architecture(np.frombuffer(graph, np.uint8))]


def json(change):
    """Return the honest graph with changes, as JSON."""
    return lambda m: text(msgspec.json.encode(change(msgspec.json.decode(m.graph.tobytes()))))


def node(m, **changes):
    return m | {"nodes": [m["nodes"][0] | changes, *m["nodes"][1:]]}


EMPTY = {"op": {"type": "relu"}, "inputs": [], "output": ""}
GRAPHS = {
    "another": (lambda m: text(msgspec.json.encode(mlp([4, 9, 2]))), JobMismatch),
    "one with another weight": (
        json(lambda g: g | {"parameters": g["parameters"] | {"more": {"shape": [3]}}}),
        JobMismatch,
    ),
    "no bytes": (lambda m: text(b""), ProtocolError),
    "half of it": (lambda m: text(m.graph.tobytes()[: len(m.graph) // 2]), ProtocolError),
    "a byte more": (lambda m: text(m.graph.tobytes() + b"}"), ProtocolError),
    "null": (lambda m: text(b"null"), ProtocolError),
    "a list": (lambda m: text(b"[]"), ProtocolError),
    "an empty object": (lambda m: text(b"{}"), ProtocolError),
    "zeros": (lambda m: text(bytes(1000)), ProtocolError),
    "no unicode": (
        lambda m: text(m.graph.tobytes().replace(b"layers", b"\xff\xfe\xfd\x80\x80\x80")),
        ProtocolError,
    ),
    "half a surrogate": (lambda m: text(m.graph.tobytes().replace(b"layers", b"\\ud800")), ProtocolError),
    "a field more": (json(lambda g: g | {"code": "import os"}), ProtocolError),
    "an unknown operation": (json(lambda g: node(g, op={"type": "exec"})), ProtocolError),
    "an operation of numbers": (json(lambda g: node(g, op=7)), ProtocolError),
    "a giant number": (
        lambda m: text(m.graph.tobytes().replace(b'"shape":[-1,4]', b'"shape":[-1,' + b"9" * 60 + b"]")),
        JobMismatch,
    ),
    "a number of a million digits": (
        lambda m: text(m.graph.tobytes().replace(b'"shape":[-1,4]', b'"shape":[-1,' + b"9" * 10**6 + b"]")),
        ProtocolError,
    ),
    "nested lists": (lambda m: text(b"[" * 1_000_000), ProtocolError),
    "nested objects": (lambda m: text(b'{"inputs":' * 500_000), ProtocolError),
    "nested lists in a known field": (lambda m: text(b'{"outputs":' + b"[" * 2_000_000), ProtocolError),
    "nested lists in an unknown field": (lambda m: text(b'{"z":' + b"[" * 15_000_000), ProtocolError),
    "weights in another order": (
        json(lambda g: g | {"parameters": dict(reversed(g["parameters"].items()))}),
        JobMismatch,
    ),
    "many nodes": (
        json(lambda g: g | {"nodes": [*g["nodes"], *([EMPTY] * 50_000)]}),
        JobMismatch,
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_is_refused(case):
    change, expected = GRAPHS[case]
    refused(attempt(query(), "m", of(Architecture, change)), "m", expected)


@pytest.mark.parametrize("case", ["another", "weights in another order"])
def test_another_graph_to_one_party(case):
    change, expected = GRAPHS[case]
    refused(attempt(query(), "m", of(Architecture, change, "y")), "m", expected)


def graph(nodes, outputs=("y",), inputs=None, weights=None):
    shapes = weights or {"w": (2, 4)}
    given = {"x": Value((-1, 4))} if inputs is None else inputs
    return Graph(given, tuple(nodes), tuple(outputs), {n: Parameter(s) for n, s in shapes.items()})


LINEAR = Node(Linear(), ("x", "w"), "y")
UNFIT = {
    "an output of a weight": graph([LINEAR], outputs=["w"]),
    "an output of the batch and its rows": graph(
        [Node(MatMul(), ("w", "v"), "y")], weights={"w": (2, 4), "v": (4, 2)}
    ),
    "an input that does not end": graph([LINEAR], inputs={"x": Value((-1, 2**62))}),
    "an input of a single number": graph([LINEAR], inputs={"x": Value(())}),
    "an input of other numbers": graph([LINEAR], inputs={"x": Value((4,))}),
    "an input of twice the batch": graph([LINEAR], inputs={"x": Value((-2, 4))}),
    "an input of indices": graph([LINEAR], inputs={"x": Value((-1, 4), index=True)}),
    "no input": graph([], outputs=["w"], inputs={}),
    "two inputs": graph([LINEAR], inputs={"x": Value((-1, 4)), "z": Value((-1, 4))}),
    "two outputs": graph([LINEAR, Node(Relu(), ("y",), "z")], outputs=["y", "z"]),
    "one output twice": graph([LINEAR], outputs=["y", "y"]),
    "no output": graph([LINEAR], outputs=[]),
    "a circle": graph([Node(Relu(), ("z",), "y"), Node(Relu(), ("y",), "z")]),
    "a name twice": graph([LINEAR, LINEAR]),
    "a name with orders for a terminal": graph([LINEAR, Node(Relu(), ("y",), "\x1b[2J")]),
    "a place with orders for a terminal": graph([Node(Linear(), ("x", "w"), "y", place="\x1b[2J")]),
    "a place that does not end": graph([Node(Linear(), ("x", "w"), "y", place="y" * 501)]),
    "a layer of nothing": graph(
        [LINEAR, Node(Linear(), ("y", "v"), "z")], outputs=["z"], weights={"w": (0, 4), "v": (2, 0)}
    ),
    "weights of 2^62 numbers": graph([LINEAR], weights={"w": (2, 4), "v": (2**31, 2**31)}),
    "weights of less than nothing": graph([LINEAR], weights={"w": (2, 4), "v": (-3,)}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_agreed_graph_that_cannot_be(case):
    """The digest is the agreed one: only the graph itself can be refused."""
    bad = UNFIT[case]
    agreed = query(digest=bad.digest().hex())
    send_bad = of(Architecture, lambda m: text(msgspec.json.encode(bad)))

    async def modeller(s):
        params = learners.params_of(query())  # it agrees with its own graph
        return await secure_learning.learn(s, params, Own(model=MODEL))

    results = attempt(agreed, "m", send_bad, part=modeller)
    refused(results, "m", ConfigError)
    assert "\x1b" not in str(results)


ODD = {
    "no weights": Graph({"x": Value((-1, 4))}, (Node(Slice(1, 0, 2), ("x",), "y"),), ("y",)),
    "frozen weights": Graph({"x": Value((-1, 4))}, (LINEAR,), ("y",), {"w": Parameter((2, 4), False)}),
    "only buffers": Graph({"x": Value((-1, 4))}, (LINEAR,), ("y",), {}, {"w": (2, 4)}),
    "a weight of nothing": graph([LINEAR], weights={"w": (2, 4), "v": (0, 3)}),
    "a weight without axes": graph(
        [LINEAR, Node(Mul(), ("y", "v"), "z")], outputs=["z"], weights={"w": (2, 4), "v": ()}
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_graphs_are_graphs(case):
    bare = ODD[case]
    model = Model(bare, {name: np.ones(shape, np.float32) for name, shape in bare.weights().items()})
    agreed = query(model)
    results = attempt(agreed, own=brought(agreed, model))
    assert results["b"].predictions.shape == (15, 2)


WEIGHTS = {
    "a word less": (lambda m: replace(m, words=m.words[:-1]), ProtocolError),
    "another number": (lambda m: replace(m, index=3), ProtocolError),
    "others to one": (lambda m: replace(m, words=m.words + np.uint64(1)), CheatingDetected),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_modeller_that_deals_wrongly(case):
    change, expected = WEIGHTS[case]
    refused(attempt(query(), "m", of(Dealt, change, "y")), "m", expected)


PUBLISHED = {
    "others": (None, lambda m: replace(m, words=m.words + np.uint64(1)), JobMismatch),
    "others to one": ("z", lambda m: replace(m, words=m.words ^ np.uint64(1)), JobMismatch),
    "a word less": ("x", lambda m: replace(m, words=m.words[1:]), ProtocolError),
    "another number": ("x", lambda m: replace(m, index=-1), ProtocolError),
    "no words": (None, lambda m: replace(m, words=m.words[:0]), ProtocolError),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_public_weights_are_refused(case):
    to, change, expected = PUBLISHED[case]
    flat = np.concatenate([MODEL.weights[name].ravel() for name in MODEL.graph.weights()])
    agreed = query(public=secure_learning.digest_of(encode(flat, secure_learning.FRACTION)))
    refused(attempt(agreed, "m", of(Published, change, to)), "m", expected)


# -- computers

HEARD = {
    "another hash": (lambda m: replace(m, digests=[bytes(32), m.digests[1]]), CheatingDetected),
    "hashes exchanged": (lambda m: replace(m, digests=m.digests[::-1]), CheatingDetected),
    "short hashes": (lambda m: replace(m, digests=[d[:8] for d in m.digests]), CheatingDetected),
    "empty hashes": (lambda m: replace(m, digests=[b"", b""]), CheatingDetected),
    "a hash less": (lambda m: replace(m, digests=m.digests[:1]), ProtocolError),
    "a hash more": (lambda m: replace(m, digests=[*m.digests, bytes(32)]), ProtocolError),
    "nothing": (lambda m: Heard([], []), ProtocolError),
    "other components": (lambda m: replace(m, components=[0, 1]), ProtocolError),
    "all components": (lambda m: Heard([0, 1, 2], [*m.digests, bytes(32)]), ProtocolError),
    "components that are not": (lambda m: replace(m, components=[-1, 1 << 60]), ProtocolError),
}


@pytest.mark.parametrize("case", HEARD)
@pytest.mark.parametrize("to", [None, "x"])
def test_a_computer_that_says_it_heard_something_else(case, to):
    change, expected = HEARD[case]
    refused(attempt(job(), "y", of(Heard, change, to)), "y", expected)


def test_a_computer_that_does_not_say_what_it_heard():
    refused(attempt(without(1.0), "y", of(Heard, lambda m: [], "x")), "y", StepTimeout)


def only(name, change):
    """Change one result."""
    return lambda m: change(m) if m.name == name else m


RELEASED = {
    **{
        f"other {name}": (only(name, lambda m: replace(m, words=m.words + np.uint64(1))), CheatingDetected)
        for name in ("metrics", "confusion", "predictions", "weights")
    },
    "one word": (
        lambda m: replace(m, words=m.words ^ (np.arange(m.words.size) == 1).reshape(m.words.shape)),
        CheatingDetected,
    ),
    "components exchanged": (lambda m: replace(m, words=m.words[::-1].copy()), CheatingDetected),
    "a component less": (lambda m: replace(m, words=m.words[:1]), ProtocolError),
    "a component more": (lambda m: replace(m, words=np.concatenate([m.words, m.words])), ProtocolError),
    "a number less": (lambda m: replace(m, words=m.words[:, :-1].copy()), ProtocolError),
    "no numbers": (lambda m: replace(m, words=m.words[:, :0].copy()), ProtocolError),
    "another name": (lambda m: replace(m, name="weights"), ProtocolError),
    "a name that does not end": (lambda m: replace(m, name="w" * 500_000), ProtocolError),
    "a name with orders for a terminal": (lambda m: replace(m, name="\x1b[2J"), ProtocolError),
    "another number of a piece": (lambda m: replace(m, index=1), ProtocolError),
    "the first twice": (only("metrics", lambda m: [m, m]), ProtocolError),
    "the first left out": (only("metrics", lambda m: []), ProtocolError),
}


@pytest.mark.parametrize("case", RELEASED)
@pytest.mark.parametrize("who", ["x", "z"])
def test_a_computer_that_releases_something_else(case, who):
    change, expected = RELEASED[case]
    results = attempt(job(), who, of(Released, change))
    refused(results, who, expected)
    assert "\x1b" not in str(results)


def test_a_computer_that_does_not_release():
    results = attempt(job(), "z", of(Released, lambda m: []))
    assert isinstance(results.pop("z"), Learnt | PeerAborted)  # it may have ended before
    refused(results, "z", ProtocolError, "ended without sending a Released")


def test_a_computer_that_receives_compares_others_with_itself():
    release = {"weights": ["x"], "predictions": ["x", "y"]}
    change = of(Released, lambda m: replace(m, words=m.words + np.uint64(1)), "x")
    refused(attempt(job(release=release), "y", change), "y", CheatingDetected)


def test_a_release_to_nobody_and_too_early():
    """What nobody asked for lies unread; what comes early is what comes."""
    nothing = np.zeros((2, 3), np.uint64)

    def change(message, receiver, s):
        early = [Released("weights", 0, nothing)] if isinstance(message, Heard) else []
        return [message, *early]

    ended_well(attempt(job(), "y", change), job())


COUNTS = {
    "from zero": lambda m: EpochDone(0),
    "from below": lambda m: EpochDone(-1),
    "giant": lambda m: EpochDone(1 << 62),
}


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("to", [None, "r"])
def test_epochs_counted_in_another_way(case, to):
    results = attempt(job(), "x", of(EpochDone, COUNTS[case], to))
    refused(results, "x", ProtocolError, "counts epochs")


def test_epochs_that_nobody_counts():
    refused(attempt(job(), "x", of(EpochDone, lambda m: [], "b")), "x", ProtocolError, "ended without")


def test_a_flood_of_epochs_is_left_unread():
    ended_well(attempt(job(), "x", of(EpochDone, lambda m: [m] * 2000)), job())


def test_a_flood_of_epochs_beyond_all_credit_ends_by_the_clock():
    """Who waits for a result has an error; others may have ended before."""
    results = attempt(without(1.0), "x", of(EpochDone, lambda m: [m] * 70_000, "r"))
    assert isinstance(results["r"], StepTimeout | PeerAborted), results["r"]
    assert not isinstance(results["x"], Learnt)


def test_epochs_told_by_another_than_the_first():
    def change(message, receiver, s):
        return [EpochDone(7), message] if isinstance(message, Heard | Released) else [message]

    ended_well(attempt(job(), "y", change), job())


# -- other programs on the lanes

PROGRAMS = {
    "more epochs": {"training": {"epochs": 3, "batch": 32}},
    "fewer rows a step": {"training": {"epochs": 1, "batch": 9}},
    "another loss": {"training": {"epochs": 1, "batch": 32, "loss": "bce"}},
    "another model": {"model": {"kind": "mlp", "hidden": [7]}},
    "more results": {"release": ALL_TO_R | {"metrics": []}},
    "other deep adders": {"link": {"round_trip": 10.0, "bandwidth": 1.0}},
    "fewer held out": {"holdout": 0.4},
}


@pytest.mark.parametrize("case", PROGRAMS)
@pytest.mark.parametrize("who", ["x", "z"])
def test_a_computer_that_runs_another_program(case, who):
    other = learners.params_of(job(**PROGRAMS[case]))

    async def part(s):
        return await secure_learning.learn(s, other, Own())

    results = attempt(job(), who, part=part)
    # whoever notices first tells the others, be it the odd one itself
    assert {type(results[name]) for name in results} & {ProtocolError, CheatingDetected}, results
    for result in results.values():
        assert isinstance(result, ProtocolError | CheatingDetected | PeerAborted), results


def on_lanes(program):
    """Play a computing party whose program on the lanes is another."""

    async def part(s):
        async def in_lane(label, honest, of=None):
            return await type(s).in_lane(s, label, program(honest), of)

        s.in_lane = in_lane
        return await secure_learning.learn(s, learners.params_of(job()), Own())

    return part


class Broken(Exception):
    """What no honest program raises."""


def says(data):
    def program(honest):
        def run(lanes):
            for lane in lanes.values():
                lane._out.sendall(data)
            time.sleep(0.2)
            return honest(lanes)

        return run

    return program


def ends(honest):
    return lambda lanes: honest({})


def raises(honest):
    def run(lanes):
        raise Broken

    return run


LANES = {
    "another number of a round": (
        says((7).to_bytes(8, "little") + (16).to_bytes(8, "little") + bytes(16)),
        ProtocolError,
    ),
    "another size": (says(bytes(8) + (8).to_bytes(8, "little") + bytes(8)), ProtocolError),
    "a giant size": (says(bytes(8) + b"\xff" * 8), ProtocolError),
    "nothing but zeros": (says(bytes(100_000)), ProtocolError),
    "half a head": (says(b"\0\0\0"), ProtocolError),
}


@pytest.mark.parametrize("case", LANES)
def test_a_computer_that_says_something_else_on_lanes(case):
    program, expected = LANES[case]
    refused(attempt(job(), "y", part=on_lanes(program)), "y", expected)


@pytest.mark.parametrize("program", [raises, ends])
def test_a_program_that_ends_in_the_middle(program):
    """Whatever it was: the others hear a name, not what it was."""
    results = attempt(job(), "y", part=on_lanes(program))
    assert not isinstance(results["y"], Learnt | PeerAborted)
    for name, result in results.items():
        assert name == "y" or isinstance(result, PeerAborted), results


def test_a_computer_that_only_listens():
    def silent(honest):
        return lambda lanes: time.sleep(1.8)

    results = attempt(without(1.0), "y", part=on_lanes(silent))
    refused(results, "y", StepTimeout)


# -- four computing parties, of which one may do anything

FOUR = {"owner": ("a", "b"), "computer": ("w", "x", "y", "z"), "receiver": ("r",)}


def four(**changes):
    return learners.job(FOUR, **(QUICK | {"release": ALL_TO_R, "engine": "rss4"} | changes))


def wrong_word(m):
    return replace(m, words=m.words ^ (np.arange(m.words.size) == 1).reshape(m.words.shape).astype(np.uint64))


OF_FOUR = {
    "an owner deals others to one": ("a", Dealt, wrong_word, "y", CheatingDetected),
    "an owner gives one another key": (
        "a",
        Dealt,
        lambda m: replace(m, keys=[*m.keys[:-1], bytes(16)]),
        "z",
        CheatingDetected,
    ),
    "an owner gives one less": ("a", Dealt, lambda m: replace(m, keys=m.keys[:-1]), "z", ProtocolError),
    "one says it heard others": (
        "y",
        Heard,
        lambda m: replace(m, digests=[bytes(32)] * 3),
        None,
        CheatingDetected,
    ),
    "one says it heard less": (
        "y",
        Heard,
        lambda m: Heard(m.components[:2], m.digests[:2]),
        "x",
        ProtocolError,
    ),
    "the first releases others": ("w", Released, wrong_word, None, CheatingDetected),
    "the last releases others": ("z", Released, wrong_word, None, CheatingDetected),
    "one releases less": ("x", Released, lambda m: replace(m, words=m.words[:2]), None, ProtocolError),
}


@pytest.mark.parametrize("case", OF_FOUR)
def test_one_of_four(case):
    who, cls, change, to, expected = OF_FOUR[case]
    refused(attempt(four(), who, of(cls, change, to)), who, expected)


def spoiling(who, strike=0, bit=0):
    """Return a ``wrap`` that flips a bit in the n-th message of a party on lanes, and what was counted."""
    count = []

    def wrap(me, links):
        def on_send(peer):
            def note(sock, data):
                if me == who and len(data) > HEAD:
                    count.append(peer)
                    if len(count) == strike:
                        spoilt = bytearray(data)
                        spoilt[HEAD + (len(data) - HEAD) // 2] ^= 1 << bit
                        data = bytes(spoilt)
                sock.pass_on(data)

            return note

        return TappedLinks(links, on_send)

    return wrap, count


@pytest.mark.parametrize("who", ["w", "y"])
def test_any_word_of_one_of_four(who):
    """A bit of any message on a lane: nobody gets a result, and at least one honest party says why."""
    wrap, count = spoiling(who)
    ended_well(attempt(four(), wrap=wrap), four())
    for bit, strike in enumerate(np.linspace(1, len(count), 8, dtype=int)):
        wrap, _ = spoiling(who, strike, bit)
        results = attempt(four(), wrap=wrap)
        if strike == len(count):
            # a vote about others: one false one is outvoted
            ended_well(results, four())
            continue
        honest = [result for name, result in results.items() if name != who]
        # the cheater itself may be the first to see that the words do not fit
        assert any(isinstance(one, CheatingDetected | ProtocolError) for one in results.values()), results
        assert all(isinstance(r, CheatingDetected | ProtocolError | PeerAborted) for r in honest), results


# -- journals


class Claiming(MemoryJournal):
    """Says that it has stages that it does not have."""

    def __init__(self, claimed):
        super().__init__()
        self.claimed = claimed

    def stages(self):
        return super().stages() | self.claimed


class Dying(MemoryJournal):
    """Dies after so many epochs."""

    def __init__(self, epochs=99):
        super().__init__()
        self.left = epochs

    def commit(self, stage, index, output):
        if stage.startswith("shares"):
            if self.left == 0:
                raise Broken
            self.left -= 1
        super().commit(stage, index, output)


CLAIMS = {
    "no series": {"shares 0": 4, "shares 01": 4, "shares -1": 4, "shares": 4, "shares x": 4, " shares 1": 4},
    "too long a number": {"shares 99999999999": 3},
    "the largest number": {"shares 999999999": 3},
    "other digits": {"shares ٣": 3, "shares 1٣": 3},
    "more epochs than there are": {"shares 1": 1 << 62},
    "many": {f"shares {number}": number for number in range(1, 5000)},
    "a series of nothing": {"shares 1": 0},
}


@pytest.mark.parametrize("case", CLAIMS)
def test_stages_that_a_peer_only_claims(case):
    """It costs at most what was done before."""
    journals = {name: MemoryJournal() for name in job().members} | {"y": Claiming(CLAIMS[case])}
    ended_well(attempt(job(), journals=journals), job())


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_after_a_death(case):
    agreed = job(training={"epochs": 3, "batch": 32})
    journals = {name: MemoryJournal() for name in agreed.members} | {name: Dying() for name in "xyz"}
    journals["z"].left = 2
    assert all(isinstance(one, BaseException) for one in attempt(agreed, journals=journals).values())
    journals["z"].left = 99
    claiming = Claiming(CLAIMS[case])
    claiming._once, claiming._stages = journals["y"]._once, journals["y"]._stages
    results = attempt(agreed, journals=journals | {"y": claiming})
    # a peer that claims more than it has keeps to what it really has, or cannot go on
    if case == "more epochs than there are":
        assert isinstance(results["r"], PeerAborted | Learnt)
    else:
        ended_well(results, agreed)


def test_stages_below_zero_are_no_stages():
    journals = {name: MemoryJournal() for name in job().members} | {"y": Claiming({"shares 1": -5})}
    refused(attempt(job(), journals=journals), "y", ProtocolError, "malformed Resume")


@pytest.mark.parametrize("who", ["z", "r", "a"])
def test_a_journal_that_was_lost(who):
    agreed = job(training={"epochs": 3, "batch": 32})
    journals = {name: MemoryJournal() for name in agreed.members} | {name: Dying() for name in "xyz"}
    journals["x"].left = 1
    assert all(isinstance(one, BaseException) for one in attempt(agreed, journals=journals).values())
    journals["x"].left = 99
    results = attempt(agreed, journals=journals | {who: MemoryJournal()})
    refused(results, who, PeerLost, "has lost its journal")
    ended_well(attempt(agreed, journals=journals), agreed)
