import datetime as dt
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from veilsum.errors import BudgetExceeded, ConfigError, StoreError
from veilsum.jobs import Floor
from veilsum.node import ledger_file
from veilsum.node.exposure import Exposure
from veilsum.parties import PartyId, RunId

BOB = (PartyId("bob"),)


def reserve(ledger, run, floor=None, data_set="customers", **amounts):
    ledger.reserve(
        data_set, "hidden_psi", BOB, "pricing", RunId(run), amounts or {"runs": 1}, floor or Floor()
    )


def settle(ledger, run):
    ledger.settle("customers", RunId(run), {"runs": 1})


@pytest.fixture
def ledger(tmp_path):
    return Exposure(tmp_path / "state" / "exposure.db")


def test_an_entry_says_who_may_have_learnt_what(ledger):
    now = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    ledger.reserve(
        "customers", "hidden_psi", BOB, "pricing", RunId("r1"), {"runs": 1, "epsilon": 0.5}, Floor(), now=now
    )
    (entry,) = ledger.entries()
    assert (entry.time, entry.data_set, entry.kind, entry.peers, entry.purpose, entry.run, entry.settled) == (
        "2030-01-02T03:04:05Z",
        "customers",
        "hidden_psi",
        ("bob",),
        "pricing",
        "r1",
        False,
    )
    assert entry.amounts == {"runs": 1, "epsilon": 0.5}
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert ledger.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_resumed_run_counts_once(ledger):
    floor = Floor(max_runs=1, max_epsilon=1.0)
    for _ in range(3):
        reserve(ledger, "r1", floor, runs=1, epsilon=1.0)
    assert ledger.balance("customers") == {"runs": 1, "epsilon": 1.0}
    reserve(ledger, "r1", floor, runs=1, signatures=7)  # what it asks for in addition counts
    assert ledger.balance("customers") == {"runs": 1, "signatures": 7, "epsilon": 1.0}
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "r1", floor, epsilon=1.5)
    assert ledger.balance("customers")["epsilon"] == 1.0


@pytest.mark.parametrize(
    ("floor", "amounts", "word"),
    [
        (Floor(max_runs=2), {"runs": 1}, "max_runs"),
        (Floor(max_epsilon=1.0), {"epsilon": 0.5}, "max_epsilon"),
    ],
)
def test_limits_hold_over_all_jobs_of_one_data_set(ledger, floor, amounts, word):
    reserve(ledger, "r1", floor, **amounts)
    reserve(ledger, "r2", floor, **amounts)
    with pytest.raises(BudgetExceeded, match=word) as caught:
        reserve(ledger, "r3", floor, **amounts)
    assert "exposure" in caught.value.remedy
    assert len(ledger.entries()) == 2  # nothing was entered
    reserve(ledger, "r3", floor, data_set="other", **amounts)


def test_rows_are_limited_in_every_job(ledger):
    floor = Floor(max_rows=100)
    for number in range(3):
        reserve(ledger, f"r{number}", floor, rows=100)
    with pytest.raises(BudgetExceeded, match="max_rows"):
        reserve(ledger, "r9", floor, rows=101)


def test_many_small_amounts_reach_the_limit_exactly(ledger):
    floor = Floor(max_epsilon=1.0)
    for number in range(10):
        reserve(ledger, f"r{number}", floor, epsilon=0.1)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "more", floor, epsilon=0.0001)


def test_settling_gives_back_what_was_not_used(ledger):
    floor = Floor(max_epsilon=1.0)
    reserve(ledger, "r1", floor, epsilon=1.0)
    ledger.settle("customers", RunId("r1"), {"epsilon": 0.25})
    reserve(ledger, "r2", floor, epsilon=0.75)
    assert [entry.settled for entry in ledger.entries("customers")] == [True, False]
    with pytest.raises(ConfigError, match="reserved nothing"):
        ledger.settle("customers", RunId("r9"), {"runs": 1})


def test_the_ledger_tells_the_truth_even_about_a_mistake(ledger):
    reserve(ledger, "r1", queries=10)
    with pytest.raises(BudgetExceeded, match="queries"):
        ledger.settle("customers", RunId("r1"), {"queries": 11})
    assert ledger.balance("customers") == {"queries": 11}


@pytest.mark.parametrize(
    "amounts",
    [{"rnus": 1}, {"runs": -1}, {"runs": 1.5}, {"epsilon": float("nan")}, {"epsilon": float("inf")}],
)
def test_what_is_no_amount_is_refused(ledger, amounts):
    with pytest.raises(ConfigError):
        reserve(ledger, "r1", **amounts)
    assert ledger.entries() == []


def test_what_is_reserved_survives_the_death_of_the_process(ledger):
    code = (
        "import os, pathlib, sys\n"
        "from veilsum.jobs import Floor\n"
        "from veilsum.node.exposure import Exposure\n"
        "Exposure(pathlib.Path(sys.argv[1])).reserve('d', 'k', ['bob'], 'p', 'r', {'runs': 1}, Floor())\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, "-c", code, ledger.path], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert ended.returncode == -9
    assert ledger.balance("d") == {"runs": 1}


def test_two_runs_at_once_do_not_pass_a_limit_together(ledger):
    outcomes = []

    def run(number):
        try:
            reserve(ledger, f"r{number}", Floor(max_runs=3), runs=1)
            outcomes.append(True)
        except BudgetExceeded:
            outcomes.append(False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes) == 3
    assert ledger.balance("customers") == {"runs": 3}


def test_a_ledger_in_use_is_named(ledger, monkeypatch):
    monkeypatch.setattr(ledger_file, "_WAIT", 0.05)
    reserve(ledger, "r1")
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="in use"):
        reserve(ledger, "r2")
    other.close()
    reserve(ledger, "r2")


def test_a_damaged_ledger_is_named_and_not_replaced(ledger):
    reserve(ledger, "r1")
    content = b"this is no database" * 100
    ledger.path.write_bytes(content)
    for call in (ledger.entries, ledger.check, lambda: reserve(ledger, "r2")):
        with pytest.raises(StoreError) as caught:
            call()
        assert "backup" in caught.value.remedy
    assert ledger.path.read_bytes() == content


def test_a_row_that_is_damaged_is_named(ledger):
    reserve(ledger, "r1")
    with sqlite3.connect(ledger.path) as database:
        database.execute("UPDATE entry SET amounts = '{'")
    database.close()
    for call in (ledger.entries, lambda: reserve(ledger, "r2"), lambda: settle(ledger, "r1")):
        with pytest.raises(StoreError, match="damaged"):
            call()


def test_a_full_disk_is_named(ledger, monkeypatch):
    reserve(ledger, "r1")
    original = sqlite3.connect

    def small(*arguments, **options):
        database = original(*arguments, **options)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(StoreError, match="full"):
        reserve(ledger, "r2" * 100_000)


def test_no_ledger_yet_is_an_empty_one(ledger):
    assert ledger.entries() == []
    assert ledger.balance("customers") == {}
    ledger.check()
    assert not ledger.path.exists()
