"""What identifies a row: the declared schema of an id, its normal form, and batches of normal forms."""

import difflib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from veilsum.data import forms
from veilsum.errors import ConfigError

Kind = Literal["text", "phone", "email", "digits"]
Case = Literal["fold", "keep"]
Duplicates = Literal["refuse", "first"]
Form = Callable[[str], str | None]


class IdSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a data set's rows are identified; the normal form of an id depends on nothing else.

    Attributes:
        columns: one column, or several that identify a row together, in an order all parties share.
        kind: what the values are.
        kinds: for composite keys, one kind per column; empty means ``kind`` for each.
        region: ISO country in which phones without ``+`` are dialled; empty allows only ``+`` numbers.
        case: whether text and email addresses are compared without regard to case.
        duplicates: what happens to rows that repeat an id.
        length: number of digits of an id of kind ``digits``; 0 allows any.
    """

    columns: tuple[str, ...]
    kind: Kind = "text"
    kinds: tuple[Kind, ...] = ()
    region: str = ""
    case: Case = "fold"
    duplicates: Duplicates = "refuse"
    length: int = 0

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) != len(self.columns) or not all(self.columns):
            raise ConfigError(
                "the ids of a data set need one or more different column names",
                remedy='write columns = ["…"] under ids',
            )
        if self.kinds and len(self.kinds) != len(self.columns):
            raise ConfigError(
                f"ids have {len(self.columns)} columns and {len(self.kinds)} kinds",
                remedy="give one kind per column, in the same order, or one kind for all",
            )
        if not 0 <= self.length <= forms.MAX_BYTES or (self.length and "digits" not in self.each):
            raise ConfigError(
                f"length = {self.length} does not fit these ids",
                remedy="length is the number of digits of ids of kind digits",
            )
        if self.region:
            self._check_region()

    def _check_region(self) -> None:
        from phonenumbers import SUPPORTED_REGIONS

        if "phone" not in self.each or self.region not in SUPPORTED_REGIONS:
            near = difflib.get_close_matches(self.region.upper(), sorted(SUPPORTED_REGIONS), 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near and "phone" in self.each else ""
            raise ConfigError(
                f"region = {self.region!r} does not fit these ids{hint}",
                remedy="region is the two-letter ISO country in which ids of kind phone are dialled, as US",
            )

    @property
    def each(self) -> tuple[Kind, ...]:
        """The kind of every column."""
        return self.kinds or (self.kind,) * len(self.columns)

    @property
    def form(self) -> str:
        """The normal form in words; ids of two parties can only match when this is equal at both."""
        return " + ".join(self._word(kind) for kind in self.each)

    def describe(self) -> str:
        """Return the form, and the region from which phones were read; public, without column names."""
        return self.form.replace("(E.164)", f"(E.164, {self.region or 'international'})")

    def _word(self, kind: Kind) -> str:
        case = "folded" if self.case == "fold" else "kept"
        match kind:
            case "text":
                return f"text (NFKC, case {case})"
            case "email":
                return f"email (case {case})"
            case "phone":
                return "phone (E.164)"
            case "digits":
                return f"digits ({self.length or 'any number'})"

    def column_form(self, index: int) -> Form:
        """Return the normal form of one column's values, as a function on single texts."""
        fold = self.case == "fold"
        match self.each[index]:
            case "text":
                return lambda value: forms.text_form(value, fold=fold)
            case "email":
                return lambda value: forms.email_form(value, fold=fold)
            case "digits":
                return lambda value: forms.digits_form(value, length=self.length)
            case "phone":
                return lambda value: forms.phone_form(value, region=self.region)


def normalise(value: str | Sequence[str | None] | None, schema: IdSchema) -> bytes | None:
    """Return an id's normal form in UTF-8, or None for an id that never matches (absent or malformed).

    Several columns are joined as netstrings (``3:abc,`` without the comma), so that no two different keys
    give the same bytes.

    Args:
        value: the text of the one column, or one text per column.
        schema: what the id was declared to be.
    """
    values = (value,) if value is None or isinstance(value, str) else tuple(value)
    if len(values) != len(schema.columns):
        raise ConfigError(
            f"an id of {len(schema.columns)} columns was given {len(values)} values",
            remedy="give one value per declared column",
        )
    parts: list[bytes] = []
    for index, text in enumerate(values):
        part = None if text is None else schema.column_form(index)(text)
        if not part:
            return None
        parts.append(part.encode())
    if len(parts) == 1:
        return parts[0]
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class IdBatch:
    """Normal forms of some rows, end to end.

    Attributes:
        rows: row numbers in the source, from 0; shape (n,) int64.
        data: the normal forms one after the other.
        offsets: form i is ``data[offsets[i]:offsets[i + 1]]``; shape (n + 1,) int64.
    """

    rows: npt.NDArray[np.int64]
    data: bytes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"IdBatch(n={len(self.rows)}, {len(self.data)} bytes)"

    def ids(self) -> list[bytes]:
        """Return the normal forms one by one (slow: for tests and small data)."""
        ends = self.offsets.tolist()
        return [self.data[a:b] for a, b in itertools.pairwise(ends)]
