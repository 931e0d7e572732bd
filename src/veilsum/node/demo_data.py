"""The demo's two customer files: real rows, generated ids.

The rows are those of the RAND Health Insurance Experiment (``demo/README.md``), each taken for one
customer. The ids are generated phone numbers from the blocks 555-0100 to 555-0199, which are set aside for
fiction: valid in form, nobody's. The same seed gives the same files on every machine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import duckdb

from veilsum.errors import ConfigError, StoreError
from veilsum.node.files import private_folder
from veilsum.parties import PartyId

ROWS = 20_190
"""How many rows the data set has."""

PLAN = ("mdvis", "lncoins", "idp", "lpi", "fmde")
"""Columns at insurer-a: doctor's visits (the label) and the insurance plan."""
HEALTH = ("physlm", "disea", "hlthg", "hlthf", "hlthp")
"""Columns at insurer-b: the customers' health."""

# Area codes of the United States.
_CODES = """
201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231 234 239 240 248 251
252 253 254 256 260 262 267 269 270 276 281 301 302 303 304 305 307 308 309 310 312 313 314 315 316 317 318
319 320 321 323 325 330 331 334 336 337 339 347 351 352 360 361 386 401 402 404 405 406 407 408 409 410 412
413 414 415 417 419 423 424 425 430 432 434 435 440 443 469 478 479 480 484 501 502 503 504 505 507 508 509
510 512 513 515 516 517 518 520 530 540 541 551 559 561 562 563 567 570 571 573 574 575 580 585 586 601 602
603 605 606 607 608 609 610 612 614 615 616 617 618 619 620 623 626 630 631 636 641 646 650 651 660 661 662
678 682 701 702 703 704 706 707 708 712 713 714 715 716 717 718 719 720 724 727 731 732 734 740 754 757 760
762 763 765 769 770 772 773 774 775 781 785 786 801 802 803 804 805 806 808 810 812 813 814 815 816 817 818
828 830 831 832 843 845 847 848 850 856 857 858 859 860 862 863 864 865 870 901 903 904 906 907 908 909 910
"""
AREAS = tuple(_CODES.split())

NULLS = {"insurer-a": 12, "insurer-b": 9}
MALFORMED = {
    "insurer-a": ("n/a", "555-0132", "+1 415-555", "unknown", "415-555-01322"),
    "insurer-b": ("n/a", "(415) 555-01", "555-0199", "call back", "123", "see notes", "ext. 132"),
}
"""Ids as real customer files have them: rows that a run must count and leave out."""


@dataclass(frozen=True)
class CustomerFile:
    """One party's file.

    Attributes:
        columns: the id column ``phone`` first.
        rows: in all; ``usable`` of them have a valid id, ``nulls`` none, ``malformed`` one that is no number.
    """

    party: PartyId
    path: Path
    columns: tuple[str, ...]
    usable: int
    nulls: int
    malformed: int

    @property
    def rows(self) -> int:
        """All rows of the file."""
        return self.usable + self.nulls + self.malformed


@dataclass(frozen=True)
class DemoData:
    """Both files, and the truth that a test compares a run with; the truth is in no file.

    Attributes:
        matches: the numbers that both files hold, as E.164 (``+14155550132``).
    """

    insurer_a: CustomerFile
    insurer_b: CustomerFile
    matches: frozenset[str] = field(repr=False)


def write_demo(
    folder: Path,
    *,
    seed: int = 7,
    rows: int | tuple[int, int] | None = 6_000,
    overlap: float = 0.6,
) -> DemoData:
    """Write ``insurer-a/customers.parquet`` and ``insurer-b/customers.csv`` into a folder.

    The files write the same number differently (``+1 415-555-0132``, ``(415) 555-0132``), their rows are in
    unrelated orders, and some rows have no id or a malformed one.

    Args:
        folder: made if absent; existing files are replaced.
        seed: decides which rows, numbers and orders.
        rows: with a valid id, at each party or at insurer-a and insurer-b; None shares out all rows.
        overlap: the part of the smaller file's valid ids that the other file holds as well.

    Raises:
        ConfigError: the sizes ask for more rows than the data set has, or for none.
        StoreError: the disk refused a file.
    """
    if not 0 <= overlap <= 1:
        raise ConfigError(f"an overlap is a part, not {overlap:g}", remedy="choose it from 0 to 1")
    spare = sum(NULLS.values()) + sum(map(len, MALFORMED.values()))
    if rows is None:
        rows = int((ROWS - spare) / (2 - overlap))
    sizes = rows if isinstance(rows, tuple) else (rows, rows)
    both = round(overlap * min(sizes))
    customers = sum(sizes) - both
    if min(sizes) < 1 or customers + spare > ROWS:
        raise ConfigError(
            f"the demo cannot make files of {sizes[0]:,} and {sizes[1]:,} rows that share {both:,}",
            remedy=f"ask for 1 to {(ROWS - spare) // 2:,} rows a party",
        )
    real = shuffled(ROWS, seed, "rows")
    pool = shuffled(100 * len(AREAS), seed, "numbers")
    numbers = [(AREAS[number // 100], f"{100 + number % 100:04}") for number in pool]
    first = [*range(sizes[0])]  # the customers at insurer-a, those of both parties before the others
    second = [*range(both), *range(sizes[0], customers)]
    left = [f"+1 {area}-555-{line}" for area, line in (numbers[c] for c in first)]
    right = [f"({area}) 555-{line}" for area, line in (numbers[c] for c in second)]
    unused = real[customers:]
    left_rows = [*(real[c] for c in first), *unused]
    right_rows = [*(real[c] for c in second), *unused[::-1]]
    one, two = PartyId("insurer-a"), PartyId("insurer-b")
    return DemoData(
        insurer_a=_write(one, folder / one / "customers.parquet", PLAN, left, left_rows, seed),
        insurer_b=_write(two, folder / two / "customers.csv", HEALTH, right, right_rows, seed),
        matches=frozenset(f"+1{area}555{line}" for area, line in numbers[:both]),
    )


def _write(
    party: PartyId, path: Path, columns: Sequence[str], phones: Sequence[str], real: Sequence[int], seed: int
) -> CustomerFile:
    """Write one file: a row per phone, then those without a usable id, all in an order of its own.

    Args:
        party: whose file it is.
        path: its suffix decides the format.
        columns: of the data set.
        phones: valid ids.
        real: the row of the data set behind each phone, then at least as many more as unusable ids follow.
        seed: decides the order.
    """
    ids = [*phones, *([None] * NULLS[party]), *MALFORMED[party]]
    order = shuffled(len(ids), seed, party)
    private_folder(path.parent)
    how = "FORMAT parquet, COMPRESSION zstd" if path.suffix == ".parquet" else "FORMAT csv, HEADER"
    source = resources.files("veilsum.node").joinpath("demo/randhie.parquet")
    with resources.as_file(source) as data, duckdb.connect() as database:
        try:
            database.execute(
                f"COPY (SELECT phone, {', '.join(columns)} "  # noqa: S608 - names from this file only
                "FROM (SELECT unnest($real) AS file_row_number, unnest($ids) AS phone, "
                "unnest(range($n)) AS place) JOIN read_parquet($data, file_row_number = true) "
                "USING (file_row_number) ORDER BY place) "
                f"TO $path ({how})",
                {
                    "real": [real[place] for place in order],
                    "ids": [ids[place] for place in order],
                    "n": len(order),
                    "data": str(data),
                    "path": str(path),
                },
            )
        except duckdb.IOException as error:
            raise StoreError(
                f"{path} cannot be written", remedy="check the owner and the free space of the disk"
            ) from error
    path.chmod(0o600)
    return CustomerFile(party, path, ("phone", *columns), len(phones), NULLS[party], len(MALFORMED[party]))


def shuffled(size: int, seed: int, purpose: str) -> list[int]:
    """Return 0 … size - 1 in the order of their hashes, which no library's version changes."""
    return sorted(
        range(size),
        key=lambda place: hashlib.sha256(f"veilsum/demo/{seed}/{purpose}/{place}".encode()).digest(),
    )
