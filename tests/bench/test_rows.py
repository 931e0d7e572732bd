import importlib.util
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FILE = Path(__file__).parents[2] / "bench" / "rows.py"


@pytest.fixture(scope="module")
def rows():
    spec = importlib.util.spec_from_file_location("bench_rows", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_rows"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_rows"]


def test_a_ratio_says_how_many_times_better_ours_is(rows):
    assert rows.times_better("µs", 50, 200) == 4
    assert rows.times_better("MiB/s", 500, 250) == 2
    assert rows.times_better("op/s", 100, 200) == 0.5
    with pytest.raises(ValueError, match="furlongs"):
        rows.times_better("furlongs", 1, 2)


def test_no_unit_counts_both_ways(rows):
    assert not rows.LOWER_IS_BETTER & rows.HIGHER_IS_BETTER


@settings(max_examples=50)
@given(ours=st.floats(1e-3, 1e6), peer=st.floats(1e-3, 1e6), goal=st.floats(0.1, 10))
def test_a_goal_is_met_exactly_when_the_ratio_reaches_it(rows, ours, peer, goal):
    for unit in ("µs", "MiB/s"):
        row = rows.against("n", unit, ours, peer, "p", goal=goal)
        assert row.met == (row.ratio >= goal)
    lower, higher = (rows.against("n", unit, ours, peer, "p").ratio for unit in ("s", "op/s"))
    assert lower * higher == pytest.approx(1)


def test_without_a_peer_nothing_is_claimed(rows):
    row = rows.against("n", "s", 1.0, None, "p", goal=2.0, note="could not be installed")
    assert (row.peer, row.ratio, row.met, row.goal) == (None, None, None, 2.0)
    assert rows.within("n", "µs", 1.0, None, "p", margin=40).met is None
    assert rows.limited("n", "s", None, 3.0).met is None
    assert rows.against("n", "s", 1.0, 2.0, "p").met is None


def test_a_margin_is_absolute(rows):
    assert rows.within("n", "µs", 49, 10, "p", margin=40).met is True
    assert rows.within("n", "µs", 51, 10, "p", margin=40).met is False
    with_worse_peer = rows.within("n", "µs", 9, 10, "p", margin=40)
    assert with_worse_peer.met is True
    assert with_worse_peer.goal == "≤ 40 µs above the peer"


def test_another_mode_may_be_exceeded_so_many_times(rows):
    assert rows.at_most("n", "s", 12.0, 10.0, "open", times=1.2).met is True
    row = rows.at_most("n", "s", 12.1, 10.0, "open", times=1.2, note="n")
    assert (row.met, row.goal, row.note) == (False, "≤ 1.2 times the other", "n")
    assert row.ratio == pytest.approx(10 / 12.1)
    assert rows.at_most("n", "s", None, 10.0, "open", times=1.2).met is None
    reported = rows.at_most("n", "s", 20.0, 10.0, "open", times=None)
    assert (reported.met, reported.goal) == (None, None)


def test_a_limit_is_a_ceiling_or_a_floor_by_its_unit(rows):
    assert rows.limited("n", "MiB", 500, 512).met is True
    assert rows.limited("n", "MiB", 513, 512).met is False
    assert rows.limited("n", "op/s", 200, 190).met is True
    assert rows.limited("n", "op/s", 180, 190).met is False
    assert rows.limited("n", "op/s", 200, 190).goal == "≥ 190 op/s"
    assert rows.limited("n", "s", 1, None).goal is None


def test_the_document_is_json_with_every_key_of_a_row(rows, capsys):
    rows.emit("demo", [rows.against("n", "s", 1 / 3, 2, "p", goal=2.0)], {"peer": "1.2"})
    body = json.loads(capsys.readouterr().out)
    assert body["bench"] == "demo"
    assert {"cpu", "cores", "python", "openssl", "system", "versions"} == set(body["machine"])
    assert body["machine"]["versions"]["peer"] == "1.2"
    (row,) = body["rows"]
    assert row == {
        "name": "n",
        "ours": 0.3333,
        "peer": 2.0,
        "peer_name": "p",
        "unit": "s",
        "ratio": 6.0,
        "goal": 2.0,
        "met": True,
        "note": "",
    }


def test_what_a_person_reads_never_enters_the_document(rows, capsys):
    rows.say("working")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "working\n")
