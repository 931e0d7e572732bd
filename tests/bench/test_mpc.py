import importlib
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from veilsum.mpc.plain import Plain
from veilsum.mpc.shares import Arith

BENCH = Path(__file__).parents[2] / "bench"
SMALL = {
    "products": {"n": 50},
    "matmul": {"n": 7},
    "relu": {"n": 50},
    "relu-narrow": {"n": 50},
    "logistic": {"rows": 200, "features": 100},
    "mlp-inference": {"rows": 3},
    "mlp-training": {"rows": 150},
    "lenet": {"rows": 2},
}


@pytest.fixture(scope="module")
def mpc():
    """The benchmark; it and its neighbours are gone afterwards."""
    # the folder of tests beside this one has the same name
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "mpc"}
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("mpc")
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.modules.update(hidden)


@pytest.fixture(scope="module")
def work(mpc):
    return importlib.import_module("mpc_work")


@pytest.fixture(scope="module")
def arrays(mpc):
    return importlib.import_module("mpc_inputs")


def on_plain(work, arrays, name):
    given = arrays.inputs(name, **SMALL[name])
    engine = Plain()
    results = work.WORK[name](engine, work.shared(engine, name, given))
    return given, [one.share.parts[0].view(np.int64) / 2.0**18 for one in results]


def linear(x, w, name):
    return x @ w[f"w{name}"].T + w[f"b{name}"]


def mlp(x, w):
    hidden = []
    for name in "12":
        x = np.maximum(linear(x, w, name), 0)
        hidden.append(x)
    return linear(x, w, "3"), hidden


def conv(x, w, bias, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    seen = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
    made = np.maximum(np.einsum("ncijkl,ockl->noij", seen, w) + bias[:, None, None], 0)
    n, o, height, width = made.shape
    return made.reshape(n, o, height // 2, 2, width // 2, 2).max(axis=(3, 5))


def test_every_work_has_sizes_and_a_title(mpc, work, arrays):
    assert set(work.WORK) == set(arrays.FULL) == set(arrays.QUICK) == set(mpc.TITLES) == set(SMALL)
    assert set(mpc.GOALS) < set(mpc.TITLES)


def test_works_compute_what_they_are_called(work, arrays):
    given, (found,) = on_plain(work, arrays, "products")
    assert found == pytest.approx(given["x"] * given["y"], abs=1e-4)
    given, (found,) = on_plain(work, arrays, "matmul")
    assert found == pytest.approx(given["x"] @ given["y"], abs=1e-4)
    for name in ("relu", "relu-narrow"):
        given, (found,) = on_plain(work, arrays, name)
        assert found == pytest.approx(np.maximum(given["x"], 0), abs=1e-5)


def test_models_compute_what_they_are_called(work, arrays):
    given, (found,) = on_plain(work, arrays, "mlp-inference")
    assert found == pytest.approx(mlp(given["x"], given)[0], abs=1e-3)
    given, (found,) = on_plain(work, arrays, "lenet")
    x = conv(given["x"], given["wc1"], given["bc1"], 2)
    x = conv(x, given["wc2"], given["bc2"], 0).reshape(len(x), -1)
    for name in ("f1", "f2"):
        x = np.maximum(linear(x, given, name), 0)
    assert found == pytest.approx(linear(x, given, "f3"), abs=1e-3)


def test_training_learns_as_in_clear(work, arrays):
    given, found = on_plain(work, arrays, "logistic")
    w, b = given["w"], given["b"]
    for at in (0, 128):
        x, y = given["x"][at : at + 128], given["y"][at : at + 128]
        error = (1 / (1 + np.exp(-(x @ w.T + b))) - y) * 0.1 / len(x)
        w, b = w - error.T @ x, b - error.sum(0)
    assert found[0] == pytest.approx(w, abs=1e-3)
    assert found[1] == pytest.approx(b, abs=1e-3)
    given, found = on_plain(work, arrays, "mlp-training")
    w = {name: value for name, value in given.items() if name not in {"x", "y"}}
    for at in (0, 128):
        x, y = given["x"][at : at + 128], given["y"][at : at + 128]
        logits, hidden = mlp(x, w)
        odds = np.exp(logits)
        slope = (odds / odds.sum(1, keepdims=True) - y) * 0.1 / len(x)
        moved = {}
        for name, before in zip("321", (hidden[1], hidden[0], x), strict=True):
            moved |= {f"w{name}": slope.T @ before, f"b{name}": slope.sum(0)}
            slope = (slope @ w[f"w{name}"]) * (before > 0)
        w = {name: value - moved[name] for name, value in w.items()}
    for value, one in zip(w.values(), found, strict=True):
        assert one == pytest.approx(value, abs=1e-4)


def test_a_digest_of_learnt_weights_is_of_what_they_learnt(arrays):
    w = {"w": np.ones((2, 3)), "b": np.zeros(2)}
    given = {"x": np.ones((4, 3)), "y": np.ones((4, 2))} | w
    assert arrays.digest(given, [w["w"] + 0.5, w["b"] - 0.5]) == 4
    assert arrays.digest(given, [np.full((4, 2), -2.0)]) == 16


class Careless(Plain):
    """Truncates two summands apart, as local truncation does: it fails with probability |z| / 2^64."""

    def truncate(self, x, drop):
        mask = self._random.integers(0, 1 << 64, x.shape, dtype=np.uint64)
        first, second = ((part.view(np.int64) >> drop).view(np.uint64) for part in (x.parts[0] - mask, mask))
        return Arith((first + second + np.uint64(1))[None])


def test_wrong_truncations_are_found(work):
    assert work.wrong_truncations(Plain(), 20_000, 1) == 0
    wrong = work.wrong_truncations(Careless(), 20_000, 1)
    assert wrong == pytest.approx(20_000 / 8, rel=0.2)


def test_a_part_is_asked_for_by_its_name_or_its_beginning(mpc, tmp_path):
    made = list(mpc.parts(None, tmp_path, quick=True, profile=False))
    assert mpc.chosen(made, ["mlp"]) == ["mlp-inference", "mlp-training"]
    assert mpc.chosen(made, ["relu", "accuracy"]) == ["relu", "relu-narrow", "accuracy"]


def cost(mpc, wall, digest=100.0):
    return mpc.Cost(wall, 2 * wall, 32_000_000, 5, digest)


def test_whoever_computes_something_else_is_found(mpc):
    mpc.check("relu", {"ours": cost(mpc, 1.0), mpc.SPU: cost(mpc, 1.0, 101.0)})
    with pytest.raises(mpc.ProcessFailed, match="SPU ABY3 finds 110 for relu, in clear it is 100"):
        mpc.check("relu", {"ours": cost(mpc, 1.0), mpc.SPU: cost(mpc, 1.0, 110.0)})
    with pytest.raises(mpc.ProcessFailed, match="ours finds"):
        mpc.check("relu", {"ours": cost(mpc, 1.0, 0.0), mpc.TORCH: cost(mpc, 1.0)})


class Absent:
    problems: ClassVar = {"SPU ABY3": "could not be installed"}


def test_rows_compare_with_the_peer_of_the_same_run(mpc, monkeypatch):
    peers = {mpc.SPU: cost(mpc, 0.5)}
    monkeypatch.setattr(mpc, "race", lambda *_, **__: (cost(mpc, 0.1), peers))
    wall, gate, cores, size = mpc.speed(Absent, "mlp-training", quick=False, profile=False)
    assert (wall.ours, wall.peer, wall.ratio, wall.met, wall.goal) == (100, 500, 5, True, 4)
    assert (gate.ratio, gate.goal, gate.met) == (5, 2, True)
    assert (cores.unit, cores.ratio) == ("core-s", 5)
    assert (size.unit, size.ratio) == ("MiB", 1)
    peers.clear()
    wall, *_, each = mpc.speed(Absent, "products", quick=False, profile=False)
    assert (wall.peer, wall.met, wall.note) == (None, None, "could not be installed")
    assert (each.unit, each.ours, each.met) == ("B/item", 32, True)


def test_computing_parties_are_processes_over_tls(mpc, tmp_path):
    with mpc.Contenders(tmp_path) as contenders:
        ours = contenders.ours("rss3")
        first = ours.prepare("products", {"n": 1000})
        ours.go()
        found = ours.cost()
        assert found.digest == pytest.approx(16_000, rel=0.1)
        assert found.sent == sum(answer["sent"] for answer in first) == pytest.approx(26_000, rel=0.1)
        assert found.wall > 0
        assert found.rounds == sum(rounds for _, rounds in first[0]["steps"].values())
        assert [answer["wrong"] for answer in ours.order("truncate", count=1000, seed=3)] == [0] * 3
