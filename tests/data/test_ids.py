import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.data.ids import IdBatch, IdSchema, normalise
from veilsum.errors import ConfigError


def test_reads_as_in_the_party_file():
    schema = msgspec.convert(
        {"columns": ["phone"], "kind": "phone", "region": "US", "duplicates": "refuse"}, IdSchema
    )
    assert schema == IdSchema(columns=("phone",), kind="phone", region="US")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"columns": ["phone"], "regoin": "US"}, IdSchema)


@pytest.mark.parametrize(
    ("schema", "described", "form"),
    [
        (IdSchema(columns=("p",), kind="phone", region="US"), "phone (E.164, US)", "phone (E.164)"),
        (IdSchema(columns=("p",), kind="phone"), "phone (E.164, international)", "phone (E.164)"),
        (IdSchema(columns=("p",), kind="digits", length=11), "digits (11)", "digits (11)"),
        (
            IdSchema(columns=("a", "b"), kinds=("text", "email"), case="keep"),
            "text (NFKC, case kept) + email (case kept)",
            "text (NFKC, case kept) + email (case kept)",
        ),
    ],
)
def test_describe(schema, described, form):
    assert schema.describe() == described
    assert schema.form == form


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"columns": ()}, "column names"),
        ({"columns": ("a", "a")}, "column names"),
        ({"columns": ("a", ""), "kind": "text"}, "column names"),
        ({"columns": ("a", "b"), "kinds": ("text",)}, "2 columns and 1 kinds"),
        ({"columns": ("a",), "length": 3}, "length = 3"),
        ({"columns": ("a",), "kind": "digits", "length": -1}, "length = -1"),
        ({"columns": ("a",), "kind": "phone", "region": "us"}, "did you mean US"),
        ({"columns": ("a",), "region": "US"}, "region = 'US'"),
    ],
)
def test_contradictions_are_named(declared, words):
    with pytest.raises(ConfigError, match=words) as caught:
        IdSchema(**declared)
    assert caught.value.remedy


def test_absent_and_malformed_never_match():
    text, phone = IdSchema(columns=("a",)), IdSchema(columns=("a",), kind="phone", region="US")
    assert normalise(None, text) is None
    assert normalise(" ", text) is None
    assert normalise("n/a", phone) is None
    pair = IdSchema(columns=("a", "b"))
    assert normalise(("x", None), pair) is None
    assert normalise(("", "x"), pair) is None
    with pytest.raises(ConfigError):
        normalise(("x",), pair)


def test_one_column_may_come_in_a_sequence():
    assert normalise(("Ä ",), IdSchema(columns=("a",))) == "ä".encode()


WORD = st.text(alphabet="a1:é", min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(st.tuples(WORD, WORD, WORD), st.tuples(WORD, WORD, WORD))
def test_composite_keys_never_collide(one, other):
    schema = IdSchema(columns=("a", "b", "c"))
    assert (normalise(one, schema) == normalise(other, schema)) == (one == other)


def test_composite_layout():
    schema = IdSchema(columns=("a", "b"), kinds=("digits", "text"))
    assert normalise(("00-7", "É"), schema) == b"3:0072:\xc3\xa9"


def test_batch_hides_its_content():
    batch = IdBatch(np.array([4, 7]), b"annabob", np.array([0, 4, 7]))
    assert batch.ids() == [b"anna", b"bob"]
    assert len(batch) == 2
    assert repr(batch) == "IdBatch(n=2, 7 bytes)"
