"""Phone numbers to E.164 inside the database, from the metadata of the phone number library.

The expressions cover what the library does for digits, ordinary separators and a leading plus, and answer
NULL wherever they are not certain; the library itself is then asked for that one row. They follow its
documented parse: international prefix, country code (also without a plus), national prefix.
"""

import re
from typing import Any, Final

from veilsum.data.forms import MAX_BYTES

PLAIN: Final = r"[ (]*\+?[0-9 ()./-]*"
LONGEST: Final = 250
"""Characters that the library reads at most."""
assert LONGEST <= MAX_BYTES

Layer = tuple[str, str]
"""A new column's name and its expression over the columns before it."""


def literal(text: str) -> str:
    """Return an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def phone_layers(value: str, name: str, region: str) -> list[Layer]:
    """Return columns that lead from ``value`` to ``name``: E.164, or NULL where the library must decide.

    Args:
        value: name of a VARCHAR column.
        name: prefix of the columns added; the last one is ``name`` itself.
        region: ISO country, or empty.
    """
    n = name
    layers = [
        (
            f"{n}_d",
            (
                f"CASE WHEN strlen({value}) <= {LONGEST} AND regexp_full_match({value}, {literal(PLAIN)}) "
                f"THEN translate({value}, ' ()./-', '') END"
            ),
        )
    ]
    if not region:
        return [*layers, (n, _international(f"{n}_d"))]
    plan = _Plan(region)
    code, digits = plan.code, f"{n}_d"
    layers += [
        (f"{n}_a", plan.without_idd(digits)),
        # the country code without a plus counts only where the number makes no sense otherwise
        (f"{n}_c", f"CASE WHEN starts_with({digits}, '{code}') THEN substr({digits}, {len(code) + 1}) END"),
        (f"{n}_b", plan.strip(f"{n}_c", checked=False)),
        (
            f"{n}_q",
            (
                f"CASE WHEN starts_with({digits}, '+') THEN {digits} "
                f"WHEN {n}_a <> {digits} AND NOT starts_with({n}_a, '0') THEN '+' || {n}_a "
                f"WHEN {n}_c IS NOT NULL AND {n}_b IS NULL THEN '+' "
                f"WHEN {n}_b IS NOT NULL AND ((NOT {plan.viable(digits)} AND {plan.viable(f'{n}_b')}) "
                f"OR strlen({digits}) > {plan.longest}) THEN '+{code}' || {n}_b END"
            ),
        ),
        (f"{n}_e", _international(f"{n}_q")),
        (f"{n}_n", plan.national(f"{n}_e", f"{n}_q", digits)),
        (f"{n}_s", plan.strip(f"{n}_n", checked=True)),
        (f"{n}_f", plan.stable(f"{n}_s")),
        (n, f"coalesce({n}_e, {n}_f)"),
    ]
    return layers


class _Plan:
    """One region's numbering plan as expressions."""

    def __init__(self, region: str) -> None:
        plan = _metadata(region)
        self.code = str(plan.country_code)
        self.main = _main_region(plan.country_code) == region
        self.idd = plan.international_prefix or ""
        self.prefix = plan.national_prefix_for_parsing or ""
        self.transforms = bool(plan.national_prefix_transform_rule)
        self.general = plan.general_desc.national_number_pattern
        self.lengths = plan.general_desc.possible_length
        self.longest = self.lengths[-1]

    def viable(self, x: str) -> str:
        return f"regexp_full_match({x}, {literal(self.general)})"

    def without_idd(self, x: str) -> str:
        return f"regexp_replace({x}, {literal(f'^(?:{self.idd})')}, '')" if self.idd else x

    def strip(self, x: str, *, checked: bool) -> str:
        """Remove the national prefix; NULL where the library would rewrite the number instead."""
        if not self.prefix:
            return x
        pattern = literal(f"^(?:{self.prefix})")
        rest = f"regexp_replace({x}, {pattern}, '')"
        cases = [f"WHEN NOT regexp_matches({x}, {pattern}) THEN {x}"]
        if self.transforms:
            group = re.compile(self.prefix).groups
            cases.append(f"WHEN regexp_extract({x}, {pattern}, {group}) <> '' THEN NULL")
        cases.append(f"WHEN {self.viable(x)} AND NOT {self.viable(rest)} THEN {x}")
        if checked:
            lengths = ", ".join(map(str, self.lengths))
            cases.append(
                f"WHEN strlen({rest}) NOT IN ({lengths}) AND strlen({rest}) <= {self.longest} THEN {x}"
            )
        return f"CASE WHEN {x} IS NULL THEN NULL {' '.join(cases)} ELSE {rest} END"

    def national(self, sure: str, plus: str, digits: str) -> str:
        """Return the number within the country where the international form is not yet certain."""
        home = f"WHEN starts_with({plus}, '+{self.code}') THEN substr({plus}, {len(self.code) + 2}) "
        return (
            f"CASE WHEN {sure} IS NOT NULL THEN NULL WHEN {plus} IS NULL THEN {digits} "
            f"{home if self.main else ''}END"
        )

    def stable(self, x: str) -> str:
        """Return E.164 if the national number is possible and would be read back as itself."""
        number = f"('+{self.code}' || {x})"
        if not self.main:
            return _international(number)
        lengths = ", ".join(map(str, self.lengths))
        again = self.strip(x, checked=True)
        return f"CASE WHEN strlen({x}) IN ({lengths}) AND {again} = {x} THEN {number} END"


def _international(x: str) -> str:
    """Return ``x``, a plus and digits, where it is E.164 already; otherwise NULL."""
    lengths: list[str] = []
    prefixes: list[str] = []
    for code, plan in _plans():
        lengths.append(f"{code}(?:{_repeat(plan.general_desc.possible_length)})")
        if plan.national_prefix_for_parsing:
            prefixes.append(f"{code}(?:{plan.national_prefix_for_parsing})")
    possible, unsure = literal(rf"\+(?:{'|'.join(lengths)})"), literal(rf"^\+(?:{'|'.join(prefixes)})")
    return f"CASE WHEN regexp_full_match({x}, {possible}) AND NOT regexp_matches({x}, {unsure}) THEN {x} END"


def _repeat(lengths: tuple[int, ...]) -> str:
    """Return the expression for that many digits: (7, 9, 10) gives ``[0-9]{7}|[0-9]{9,10}``."""
    runs: list[list[int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length - 1:
            runs[-1][1] = length
        else:
            runs.append([length, length])
    return "|".join(f"[0-9]{{{a},{b}}}" for a, b in runs)


def _plans() -> list[tuple[int, Any]]:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE
    from phonenumbers.phonemetadata import PhoneMetadata

    return [
        (code, PhoneMetadata.metadata_for_region_or_calling_code(code, regions[0]))
        for code, regions in sorted(COUNTRY_CODE_TO_REGION_CODE.items())
    ]


def _metadata(region: str) -> Any:
    from phonenumbers.phonemetadata import PhoneMetadata

    return PhoneMetadata.metadata_for_region(region)


def _main_region(code: int) -> str:
    from phonenumbers import region_code_for_country_code

    return str(region_code_for_country_code(code))
