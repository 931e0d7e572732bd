"""Normal forms of single values: the plain Python twin of the expressions that run inside the database.

Every form maps a text to its normal form, to ``ABSENT`` (nothing is there: never matches) or to ``None``
(something is there, but not what the schema declares). Each form is idempotent.
"""

import re
import unicodedata
from typing import Final

ABSENT: Final = ""
MAX_BYTES: Final = 4096
"""Longer values are malformed: it bounds what a batch of ids can weigh."""

SEPARATORS: Final = " ./-"
"""What people write between the digits of a number."""

DOMAIN: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
ROUNDS: Final = 8


def text_form(value: str, *, fold: bool) -> str | None:
    """Return the NFKC form without format characters, whitespace folded, case folded on demand.

    Format characters (category Cf: zero-width and direction marks, soft hyphens, byte-order marks) are
    invisible and travel with copied text; control characters that are not whitespace make it malformed.
    """
    if _oversize(value):
        return None
    for _ in range(ROUNDS):
        folded = _text_once(value, fold=fold)
        if folded == value:
            break
        value = folded
    else:
        return None
    return None if _oversize(value) or _has_control(value) else value


def email_form(value: str, *, fold: bool) -> str | None:
    """Return ``local@domain``: the domain in lower-case ASCII (IDNA), the local part folded on demand."""
    text = text_form(value, fold=fold)
    if not text:
        return text
    local, at, domain = text.rpartition("@")
    if not (local and at) or "@" in local or " " in text:
        return None
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    domain = domain.lower()
    return f"{local}@{domain}" if DOMAIN.fullmatch(domain) else None


def digits_form(value: str, *, length: int) -> str | None:
    """Return the ASCII digits of a number whose leading zeros count; ``length`` 0 allows any."""
    text = text_form(value, fold=False)
    if not text:
        return text
    if unicodedata.decimal(text[0], None) is None:
        return None
    digits: list[str] = []
    for character in text:
        if character in SEPARATORS:
            continue
        digit = unicodedata.decimal(character, None)
        if digit is None:
            return None
        digits.append(str(digit))
    return "".join(digits) if length in {0, len(digits)} else None


def phone_form(value: str, *, region: str) -> str | None:
    """Return E.164 for a number as dialled in ``region`` (ISO country; empty: only ``+`` numbers).

    Malformed are numbers of impossible length, numbers with an extension (two people behind one switchboard
    are not one), and numbers whose E.164 form would be read as yet another number.
    """
    text = text_form(value, fold=False)
    if not text:
        return text
    number = _e164(text, region)
    if number is None or _e164(number, "") != number:
        return None
    return number


def _e164(text: str, region: str) -> str | None:
    import phonenumbers as library

    try:
        parsed = library.parse(text, region or None)
    except library.NumberParseException:
        return None
    if parsed.extension or (
        library.is_possible_number_with_reason(parsed) != library.ValidationResult.IS_POSSIBLE
    ):
        return None
    return str(library.format_number(parsed, library.PhoneNumberFormat.E164))


def _text_once(value: str, *, fold: bool) -> str:
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value)
        if not value.isprintable():
            value = "".join(c for c in value if unicodedata.category(c) != "Cf")
        if fold:
            value = unicodedata.normalize("NFKC", value.casefold())
    elif fold:
        value = value.lower()
    return " ".join(value.split())


def _has_control(value: str) -> bool:
    return not value.isprintable() and any(unicodedata.category(c) == "Cc" for c in value)


def _oversize(value: str) -> bool:
    try:
        return len(value.encode()) > MAX_BYTES
    except UnicodeEncodeError:  # a lone surrogate is no text
        return True
