"""The demo's hospitals: whose rows lie where, and the twin that trains in the clear."""

import duckdb
import numpy as np
import pytest

from veilsum.learn.layers import mlp
from veilsum.learn.twin import forward
from veilsum.mpc.optimisers import Schedule, Sgd
from veilsum.mpc.training import Training
from veilsum.node import demo_hospitals
from veilsum.node.demo_hospitals import HOSPITALS, NEW, RANGES, SIZES, TARGET, softmax, train_in_the_clear


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    return folder, demo_hospitals.write_hospitals(folder)


def table(path):
    with duckdb.connect() as database:
        found = database.execute("SELECT * FROM read_parquet(?)", [str(path)])
        names = [about[0] for about in found.description]
        return names, np.array(found.fetchall(), float)


def test_every_patient_is_at_one_place(written):
    folder, patients = written
    seen = []
    for hospital, size in zip(HOSPITALS, SIZES, strict=True):
        names, rows = table(folder / hospital / "patients.parquet")
        assert names == [TARGET, *RANGES]
        assert len(rows) == size
        assert np.array_equal(rows, np.stack(list(patients.columns[hospital].values()), 1))
        seen += [tuple(row[1:]) for row in rows]
    names, new = table(folder / "hospital-b" / "new.parquet")
    assert names == list(RANGES)  # nobody there knows the diagnosis
    assert len(new) == NEW == len(patients.new[TARGET])
    seen += [tuple(row) for row in new]
    assert len(seen) == len(set(seen)) == 569
    assert all((folder / h / "patients.parquet").stat().st_mode & 0o777 == 0o600 for h in HOSPITALS)


def test_every_value_keeps_its_range(written):
    _, patients = written
    for columns in (*patients.columns.values(), patients.new):
        for name, (low, high) in RANGES.items():
            assert low <= columns[name].min() <= columns[name].max() <= high, name
        assert set(np.unique(columns[TARGET])) == {0, 1}


def test_the_same_seed_gives_the_same_files(written, tmp_path):
    again = demo_hospitals.write_hospitals(tmp_path)
    other = demo_hospitals.write_hospitals(tmp_path, seed=8)
    first = written[1].columns["hospital-a"]["mean_area"]
    assert np.array_equal(first, again.columns["hospital-a"]["mean_area"])
    assert not np.array_equal(first, other.columns["hospital-a"]["mean_area"])


@pytest.mark.parametrize("hidden", [[], [5], [5, 4]])
def test_a_step_in_the_clear_follows_the_slope(hidden):
    """One epoch of one batch moves the weights against the numerical gradient, times the rate."""
    generator = np.random.default_rng(3)
    graph = mlp([3, *hidden, 2])
    x = generator.normal(size=(20, 3))
    y = np.eye(2)[generator.integers(0, 2, 20)]

    def loss(model):
        return -np.log((softmax(forward(model, {"x": x})[0]) * y).sum(1)).mean()

    still = Training(epochs=0, batch=20, optimiser=Sgd(rate=0.5))
    moved = Training(epochs=1, batch=20, optimiser=Sgd(rate=0.5))
    before, after = (train_in_the_clear(graph, how, x, y) for how in (still, moved))
    for name, weight in before.weights.items():
        slope = np.zeros_like(weight)
        for at in np.ndindex(weight.shape):
            found = []
            for sign in (1, -1):
                weight[at] += sign * 1e-6
                found.append(loss(before))
                weight[at] -= sign * 1e-6
            slope[at] = (found[0] - found[1]) / 2e-6
        np.testing.assert_allclose(weight - after.weights[name], 0.5 * slope, atol=1e-7)


def test_momentum_and_schedule_are_as_declared():
    x, y = np.array([[1.0]]), np.array([[1.0, 0.0]])
    graph = mlp([1, 2])
    how = Training(
        epochs=2,
        batch=1,
        optimiser=Sgd(rate=0.1, momentum=0.5),
        schedule=Schedule(kind="step", every=1, factor=0.1),
    )
    once, twice = (
        train_in_the_clear(
            graph, Training(**{f: getattr(how, f) for f in how.__struct_fields__} | {"epochs": n}), x, y
        )
        for n in (1, 2)
    )
    start = train_in_the_clear(graph, Training(epochs=0), x, y)
    first = (start.weights["layers.0.weight"] - once.weights["layers.0.weight"]) / 0.1
    slope = (softmax(forward(once, {"x": x})[0]) - y).T @ x
    second = (once.weights["layers.0.weight"] - twice.weights["layers.0.weight"]) / 0.01
    np.testing.assert_allclose(second, 0.5 * first + slope, atol=1e-12)
