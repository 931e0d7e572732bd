"""The words that every room uses: errors, events, jobs, parties."""

import datetime as dt
import hashlib
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilsum import errors, events
from veilsum.errors import KINDS, PeerAborted, ProtocolError, VeilsumError
from veilsum.jobs import Floor, Job, canonical, differing, digest, job_hash, key_digests, statement
from veilsum.parties import NAME, Federation, Member

# -- errors


def test_every_error_is_known_by_its_code():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, VeilsumError)]
    assert set(KINDS.values()) == set(classes)
    assert all(KINDS[kind.__name__] is kind for kind in classes)


def test_exit_codes_tell_errors_apart():
    codes = {}
    for kind in KINDS.values():
        codes.setdefault(kind.exit_code, []).append(kind.__name__)
    assert {code: names for code, names in codes.items() if len(names) > 1} == {
        3: ["ConfigError", "JobMismatch"]
    }
    assert 0 not in codes
    assert 2 not in codes  # a shell's and a command line parser's own
    assert codes[130] == ["Interrupted"]


def test_public_texts_hold_no_room_for_data():
    for kind in KINDS.values():
        assert kind.public
        assert not re.search(r"[{%]", kind.public)


def test_where_it_happened_is_filled_in_once():
    error = ProtocolError("broken", remedy="mend it", step="sign")
    assert error.at(party="ann", step="later", run="5") is error
    assert (error.party, error.step, error.run) == ("ann", "sign", "5")
    assert str(error) == "broken [party ann, step sign, run 5]"
    assert str(ProtocolError("broken")) == "broken"
    assert error.code == "ProtocolError"


def test_a_peers_abort_has_a_cause_and_a_remedy():
    error = PeerAborted("bob stopped", cause="DataError", party="ann")
    assert (error.cause, error.party, bool(error.remedy)) == ("DataError", "ann", True)
    assert PeerAborted("bob stopped", remedy="wait").remedy == "wait"


# -- events

EVENTS = [
    events.Connected(party="ann", at=1.5, peer="bob", again=True),
    events.RunStarted(party="ann", at=1.5, run="5", kind="k", attempt=2, stages={"s": 3}),
    events.StepStarted(party="ann", at=1.5, number=1, step="key"),
    events.Progress(party="ann", at=1.5, step="key", done=1, total=2, unit="batches"),
    events.Waiting(party="ann", at=1.5, peer="bob", step="key", seconds=5.0),
    events.StepDone(party="ann", at=1.5, number=1, step="key", seconds=0.5, sent=1, received=2),
    events.RunDone(party="ann", at=1.5, artefact="align-1", folder="/f", seconds=9.0),
    events.RunFailed(party="ann", at=1.5, code="DataError", message="m", remedy="r"),
]


def test_events_there_and_back():
    for event in EVENTS:
        line = events.encode(event)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert events.decode(line) == event
    kinds = {c for c in vars(events).values() if isinstance(c, type) and issubclass(c, events.Event)}
    assert kinds - {events.Event} == {type(event) for event in EVENTS}
    events.ignore(EVENTS[0])


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"Other","party":"a","at":1}',
        b'{"event":"Connected","party":"a","at":1}',
        b'{"event":"Connected","party":"a","at":1,"peer":"b","row":"secret"}',
    ],
)
def test_the_set_of_events_is_closed(line):
    with pytest.raises(msgspec.ValidationError):
        events.decode(line)


# -- parties


def federation(**addresses):
    return Federation("f", {name: Member(name.encode(), address) for name, address in addresses.items()})


def test_who_dials():
    both = federation(ann="h:1", bob="h:2", cleo="")
    assert both.dialler("ann", "bob") == both.dialler("bob", "ann") == "bob"
    assert both.dialler("ann", "cleo") == both.dialler("cleo", "ann") == "cleo"
    assert federation(ann="", bob="").dialler("ann", "bob") is None
    assert federation(ann="", bob="h:1").dialler("ann", "bob") == "ann"


def test_fingerprints():
    assert Member(b"der").fingerprint == hashlib.sha256(b"der").hexdigest()


def test_names():
    for good in ("a", "a-b", "0", "a" * 63):
        assert NAME.fullmatch(good)
    for bad in ("", "-a", "A", "a_b", "a" * 64, "a\n", "é"):
        assert not NAME.fullmatch(bad)


# -- jobs


def job(**changes):
    fields = {
        "kind": "hidden_psi",
        "purpose": "claims",
        "expires": dt.date(2030, 1, 2),
        "parties": {"member": ("ann", "bob"), "collector": ("ann",)},
        "data": {"ann": "claims", "bob": "claims"},
        "params": {"mode": "open", "batch": 4, "deep": {"a": [1, 2], "b": True}},
    }
    return Job(**(fields | changes))


def test_members_and_roles():
    assert job().members == ("ann", "bob")
    assert job().roles("ann") == ("member", "collector")
    assert job().roles("eve") == ()


CHANGES = [
    {"kind": "other"},
    {"purpose": "fraud"},
    {"expires": dt.date(2030, 1, 3)},
    {"parties": {"member": ("bob", "ann"), "collector": ("ann",)}},
    {"data": {"ann": "claims"}},
    {"params": {"mode": "open", "batch": 5, "deep": {"a": [1, 2], "b": True}}},
    {"params": {"mode": "open", "batch": 4, "deep": {"a": [2, 1], "b": True}}},
    {"inputs": {"rows": "align-1"}},
    {"step_timeout": 1.0},
]


def test_every_field_is_in_the_hash():
    town = federation(ann="h:1", bob="")
    hashes = {job_hash(job(**change), town) for change in [{}, *CHANGES]}
    assert len(hashes) == len(CHANGES) + 1
    assert {len(value) for value in hashes} == {32}
    assert job_hash(job(), town) == job_hash(job(), federation(bob="", ann="h:1"))
    assert job_hash(job(), town) != job_hash(job(), federation(ann="h:2", bob=""))
    # somebody who takes no part does not matter
    assert job_hash(job(), town) == job_hash(job(), federation(ann="h:1", bob="", eve="h:9"))


def test_differences_have_names_and_no_values():
    town = federation(ann="h:1", bob="")
    mine = key_digests(job(), town)
    found = [differing(mine, key_digests(job(**change), town)) for change in CHANGES]
    assert found[0] == ["kind"]
    assert found[3] == ["parties.member"]
    assert found[4] == ["data.bob"]
    assert found[5] == ["params.batch"]
    assert found[6] == ["params.deep.a"]
    assert found[7] == ["inputs", "inputs.rows"] or found[7] == ["inputs.rows"]
    assert all(found)
    assert differing(mine, mine) == []
    assert {len(value) for value in mine.values()} == {8}
    assert differing(mine, key_digests(job(), federation(ann="h:2", bob=""))) == ["federation.ann.address"]


def test_the_statement_is_what_is_hashed():
    town = federation(ann="h:1", bob="")
    assert job_hash(job(), town) == digest("job", statement(job(), town))


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53), max_size=6))
def test_the_canonical_form_ignores_order(values):
    backwards = dict(reversed(values.items()))
    assert canonical(values) == canonical(backwards)
    assert b" :" not in canonical({"a": 1})
    assert digest("one", values) != digest("two", values)


def test_unknown_keys_are_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"min_group": 1, "max_rose": 2}, Floor)
    assert Floor().min_group == 1


def test_presence_of_tools():
    from conftest import present

    assert present("sh")
    assert not present("no-such-tool-anywhere")
    assert not present("cpu:no-such-flag")
