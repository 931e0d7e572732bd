# ruff: noqa: RUF001 -- characters that look alike are what a normal form is for
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.data import forms

ANY = st.text(max_size=24) | st.text(alphabet=" aZ0９ßİẞﬁ①Ⅷ½\u00a0\u200b\u00ad\u0301éÅΣς\t\x00", max_size=12)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("  Anna\t  Karenina ", "anna karenina"),
        ("ＡＢＣ１２３", "abc123"),
        ("ﬁx", "fix"),
        ("straße", "strasse"),
        ("e\u0301", "é"),
        ("a\u200bb\ufeff", "ab"),
        ("a\u00a0\u3000b", "a b"),
        ("   ", ""),
        ("\u200b", ""),
        ("", ""),
        ("a\x00b", None),
        ("a\x7f", None),
        ("\ud800", None),
        ("x" * (forms.MAX_BYTES + 1), None),
    ],
)
def test_text(value, expected):
    assert forms.text_form(value, fold=True) == expected


def test_text_keeps_case():
    assert forms.text_form(" Ａb ", fold=False) == "Ab"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" Bob.X+tag@Example.COM ", "bob.x+tag@example.com"),
        ("ｂｏｂ＠example.com", "bob@example.com"),
        ("bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("bob@XN--BCHER-KVA.example", "bob@xn--bcher-kva.example"),
        ("bob", None),
        ("@example.com", None),
        ("bob@example", None),
        ("bob@@example.com", None),
        ("bob smith@example.com", None),
        ("bob@example..com", None),
        ("bob@ü..com", None),
        ("", ""),
    ],
)
def test_email(value, expected):
    assert forms.email_form(value, fold=True) == expected


def test_email_domain_ignores_case_always():
    assert forms.email_form("Bob@Example.COM", fold=False) == "Bob@example.com"


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [
        ("123.456.789-09", 11, "12345678909"),
        ("００１２３", 5, "00123"),
        ("٠٠٧", 3, "007"),
        ("0012", 5, None),
        ("0012", 0, "0012"),
        ("-5", 0, None),
        ("12a", 0, None),
        ("1.5e9", 0, None),
        (" ", 0, ""),
    ],
)
def test_digits(value, length, expected):
    assert forms.digits_form(value, length=length) == expected


@pytest.mark.parametrize(
    ("value", "region", "expected"),
    [
        ("(415) 555-0132", "US", "+14155550132"),
        ("+1 415-555-0132", "", "+14155550132"),
        ("+１ ４１５ ５５５ ０１３２", "US", "+14155550132"),
        ("415\u2010555\u20100132", "US", "+14155550132"),
        ("\u202a+44 20 7946 0958\u202c", "US", "+442079460958"),
        ("030 1234567", "DE", "+49301234567"),
        ("0049 30 1234567", "DE", "+49301234567"),
        ("06 1234 5678", "IT", "+390612345678"),
        ("139 1234 5678", "CN", "+8613912345678"),
        ("0 15 11 91234 5678", "BR", "+5511912345678"),
        ("415-555-0132 ext. 7", "US", None),
        ("555-0132", "US", None),
        ("415 555 0132", "", None),
        ("call me", "US", None),
        ("\u00a0", "US", ""),
    ],
)
def test_phone(value, region, expected):
    assert forms.phone_form(value, region=region) == expected


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_forms_are_idempotent_and_clean(value):
    for form in (
        lambda v: forms.text_form(v, fold=True),
        lambda v: forms.text_form(v, fold=False),
        lambda v: forms.email_form(v, fold=True),
        lambda v: forms.digits_form(v, length=0),
    ):
        once = form(value)
        if once is not None:
            assert form(once) == once
            assert unicodedata.is_normalized("NFKC", once)
            assert once == once.strip()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789+() -./９x", max_size=18), st.sampled_from(["US", "DE", "BR", "IT", ""]))
def test_phone_is_idempotent(value, region):
    once = forms.phone_form(value, region=region)
    if once:
        assert forms.phone_form(once, region=region) == once
        assert forms.phone_form(once, region="") == once
