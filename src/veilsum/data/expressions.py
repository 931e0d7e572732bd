"""Normal forms as database expressions: the fast path of :mod:`veilsum.data.forms`, which stays its oracle.

An expression decides the plain cases itself and hands every other row to the Python form through a function
registered on the connection; so both paths give the same bytes, which a differential test holds them to.
"""
# ruff: noqa: S608 -- statements are built from fixed words and quoted column names

from typing import Any, Final

from veilsum.data.forms import MAX_BYTES, SEPARATORS
from veilsum.data.ids import IdSchema
from veilsum.data.phones import Layer, literal, phone_layers

PLAIN: Final = "!-~À-ÖØ-Þà-öø-ÿ一-鿿"
"""Characters that NFKC leaves alone next to each other, and whose lower case is their case-folded form."""

PLAIN_TEXT: Final = f"[{PLAIN}]+( [{PLAIN}]+)*"
PLAIN_EMAIL: Final = r"[A-Za-z0-9._%+'=!#$&*/?^{|}~-]+@[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+"
PLAIN_DIGITS: Final = rf"[0-9][0-9{SEPARATORS}]*"


def register_forms(connection: Any, schema: IdSchema) -> None:
    """Make the Python forms callable from the database as ``normal_form_0``, ``normal_form_1``, ….

    The connection must be closed in the end: the database keeps the functions until then.
    """
    for index in range(len(schema.columns)):
        connection.create_function(
            f"normal_form_{index}",
            schema.column_form(index),
            ["VARCHAR"],
            "VARCHAR",
            null_handling="special",
        )


def normal_form_query(relation: str, schema: IdSchema) -> str:
    """Return a query of one VARCHAR column ``id``, one row per row of ``relation``, in its order.

    ``id`` is the normal form, ``''`` where a value is absent, NULL where one is malformed.

    Args:
        relation: what stands after FROM.
        schema: names columns of the relation.
    """
    values = ", ".join(
        f'CAST("{column.replace(chr(34), chr(34) * 2)}" AS VARCHAR) AS v{index}'
        for index, column in enumerate(schema.columns)
    )
    query = f"SELECT {values} FROM {relation}"
    for index in range(len(schema.columns)):
        for name, expression in _layers(schema, index):
            query = f"SELECT *, {expression} AS {name} FROM ({query})"
    return f"SELECT {_joined(len(schema.columns))} AS id FROM ({query})"


def _layers(schema: IdSchema, index: int) -> list[Layer]:
    value, plain = f"v{index}", f"p{index}"
    kind = schema.each[index]
    layers: list[Layer] = []
    if kind == "phone":
        layers += phone_layers(value, plain, schema.region)
    elif kind == "text":
        layers.append((plain, _text(value, fold=schema.case == "fold")))
    elif kind == "email":
        layers.append((plain, _email(value, fold=schema.case == "fold")))
    else:
        layers.append((plain, _digits(value)))
    slow = f"normal_form_{index}({value})"
    found = f"CASE WHEN {value} IS NULL OR {value} = '' THEN '' WHEN {plain} IS NULL THEN {slow} "
    if kind == "digits" and schema.length:
        found += f"WHEN strlen({plain}) <> {schema.length} THEN NULL "
    layers.append((f"f{index}", f"{found}ELSE {plain} END"))
    return layers


def _plain(value: str, pattern: str, then: str) -> str:
    return (
        f"CASE WHEN strlen({value}) <= {MAX_BYTES} AND regexp_full_match({value}, {literal(pattern)}) "
        f"THEN {then} END"
    )


def _text(value: str, *, fold: bool) -> str:
    return _plain(value, PLAIN_TEXT, f"lower({value})" if fold else value)


def _email(value: str, *, fold: bool) -> str:
    keep = f"split_part({value}, '@', 1) || '@' || lower(split_part({value}, '@', 2))"
    return _plain(value, PLAIN_EMAIL, f"lower({value})" if fold else keep)


def _digits(value: str) -> str:
    return _plain(value, PLAIN_DIGITS, f"translate({value}, '{SEPARATORS}', '')")


def _joined(count: int) -> str:
    if count == 1:
        return "f0"
    forms = [f"f{index}" for index in range(count)]
    absent = " OR ".join(f"{form} = ''" for form in forms)
    malformed = " OR ".join(f"{form} IS NULL" for form in forms)
    netstrings = " || ".join(f"strlen({form}) || ':' || {form}" for form in forms)
    return f"CASE WHEN {absent} THEN '' WHEN {malformed} THEN NULL ELSE {netstrings} END"
