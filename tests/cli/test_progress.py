"""How events look to people and programs."""

import io

from veilsum import events
from veilsum.cli.output import Printer
from veilsum.cli.progress import Bars, describe, watching

SOME = [
    events.Connected(party="a", at=1.0, peer="b"),
    events.RunStarted(party="a", at=1.0, run="ab" * 16, kind="hidden_psi", attempt=2),
    events.StepStarted(party="a", at=1.0, number=1, step="sizes"),
    events.Progress(party="a", at=1.0, step="round 0", done=1, total=4, unit="batches"),
    events.Waiting(party="a", at=1.0, peer="b", step="sizes", seconds=7),
    events.StepDone(party="a", at=1.0, number=1, step="sizes", seconds=0.5, sent=1, received=2),
    events.RunDone(party="a", at=1.0, artefact="align-1", folder="f", seconds=2),
    events.RunFailed(party="a", at=1.0, code="PeerLost", message="gone", remedy="wait"),
]


def test_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with watching(Printer(), err=out) as sink:
        for event in SOME:
            sink(event)
    text = out.getvalue()
    for words in ("connected to b", "attempt 2: goes on", "waiting for b in step sizes, 7 s", "align-1"):
        assert words in text


def test_json_lines_come_back_as_events(capsysbinary):
    with watching(Printer(as_json=True)) as sink:
        for event in SOME:
            sink(event)
    lines = capsysbinary.readouterr().out.splitlines()
    assert [events.decode(line) for line in lines] == SOME


def test_bars_hold_every_event(capsys):
    with Bars() as bars:
        for event in SOME:
            bars(event)
        (task,) = bars._tasks.values()
        assert bars._progress.tasks[task].completed == 1
    assert "waiting for b" in capsys.readouterr().err


def test_who_has_finished_before_is_told_how_to_begin_anew():
    done = events.RunDone(party="a", at=1.0, artefact="align-1", folder="f", seconds=0, earlier=True)
    assert "--fresh" in describe(done)
