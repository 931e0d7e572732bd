"""Tables of docstrings against recorded transcripts."""

from types import ModuleType

import pytest

from conformance import made_up
from veilsum.net.transcript import Entry
from veilsum.protocols import dh_ring
from veilsum.testing.transcripts import Row, compare, table

ROLES = {"sara": {"server"}, "carl": {"client"}, "olga": {"observer"}}
ROWS = table(made_up)
GOOD = [
    Entry("sara", "carl", "PublicKey", 300),
    Entry("carl", "sara", "BlindedIds", 800),
    Entry("carl", "sara", "Count", 9),
    Entry("carl", "sara", "BlindedIds", 800),
    Entry("carl", "sara", "BlindedIds", 0),
    Entry("sara", "carl", "SignedIds", 700),
    Entry("sara", "olga", "SignedIds", 0),
    Entry("olga", "sara", "Done", 5),
    Entry("sara", "carl", "SignedIds", 700),
    Entry("carl", "sara", "Done", 5),
]


def test_table():
    assert [
        Row(1, ("server",), ("client",), ("PublicKey",)),
        Row(2, ("client",), ("server",), ("BlindedIds", "Count")),
        Row(3, ("server",), (), ()),
        Row(4, ("server",), ("client", "observer"), ("SignedIds",)),
        Row(5, ("client", "observer"), ("server",), ("Done",)),
    ] == ROWS


def test_a_real_protocol_has_one():
    rows = table(dh_ring)
    assert all(row.messages for row in rows)
    assert {name for row in rows for name in row.messages} <= set(dir(dh_ring))


@pytest.mark.parametrize("words", [None, "No table.", "| step | who | message |\n|---|---|---|\n"])
def test_no_table(words):
    with pytest.raises(AssertionError, match="no table"):
        table(ModuleType("silent", words))


def test_steps_out_of_order():
    with pytest.raises(AssertionError, match="not in order"):
        table(ModuleType("m", "| 2 | a → b | `X()` |\n| 1 | a → b | `Y()` |\n"))


def test_as_the_table_says():
    compare(GOOD, ROLES, ROWS)
    # the order between directions is nobody's business
    compare(sorted(GOOD, key=lambda entry: entry[:2]), ROLES, ROWS)


def deviations():
    yield "in no row", [*GOOD, Entry("carl", "sara", "Opened", 1)]
    yield "in no row", [*GOOD, Entry("sara", "carl", "Done", 1)]
    yield "in no row", [*GOOD, Entry("carl", "olga", "SignedIds", 1)]
    yield "in no row", [*GOOD, Entry("mallory", "carl", "PublicKey", 1)]
    yield "in no row", [*GOOD, Entry("carl", "sara", "Code", 1)]
    yield "step 2 says Count, which nobody sent", [e for e in GOOD if e.message != "Count"]
    yield "step 5 has begun", [GOOD[0], GOOD[-1], *GOOD[1:-1]]
    yield "message 1 .PublicKey.*belongs to step 1, but step 4", [GOOD[5], GOOD[0], *GOOD[1:]]
    yield "step 1 says PublicKey", []


@pytest.mark.parametrize(("words", "entries"), list(deviations()))
def test_deviations(words, entries):
    with pytest.raises(AssertionError, match=words):
        compare(entries, ROLES, ROWS)


def test_optional_messages_and_several_roles():
    without = [entry for entry in GOOD if entry.message != "Count"]
    compare(without, ROLES, ROWS, optional={"Count"})
    both = {"sara": {"server"}, "carl": {"client", "observer"}, "olga": {"observer"}}
    compare(GOOD, both, ROWS)


def test_one_message_in_two_steps():
    rows = [
        Row(1, ("a",), ("b",), ("X",)),
        Row(2, ("a",), ("b",), ("Y",)),
        Row(3, ("a",), ("b",), ("X", "Z")),
    ]
    roles = {"p": {"a"}, "q": {"b"}}
    entries = [Entry("p", "q", name, 1) for name in "XYXZ"]
    compare(entries, roles, rows)
    compare(entries[1:], roles, rows)  # X of step 3 alone
    with pytest.raises(AssertionError, match="belongs to step 2"):
        compare([entries[3], *entries[1:]], roles, rows)
