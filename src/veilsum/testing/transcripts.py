"""Whether what the parties really sent is what the table in a protocol's docstring says."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from veilsum.net.transcript import Entry

_ROW = re.compile(r"^\s*\|\s*(\d+)\s*\|([^|]*)\|(.*)\|\s*$", re.MULTILINE)
_MESSAGE = re.compile(r"`\s*([A-Za-z_]\w*)")
_ARROW = re.compile("→|->")


class Row(NamedTuple):
    """One step of a protocol's table; a local step has no receivers and no messages."""

    step: int
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    messages: tuple[str, ...]


def table(module: ModuleType) -> list[Row]:
    """Return the numbered message table of a protocol's module docstring.

    Raises:
        AssertionError: there is none, or its steps are not numbered upward.
    """
    rows = []
    for step, who, cell in _ROW.findall(module.__doc__ or ""):
        senders, _, receivers = _ARROW.sub("→", who).partition("→")
        messages = tuple(_MESSAGE.findall(cell)) if receivers else ()
        rows.append(Row(int(step), _names(senders), _names(receivers), messages))
    if not rows:
        raise AssertionError(f"{module.__name__} has no table | step | who | message | in its docstring")
    if [row.step for row in rows] != sorted(row.step for row in rows):
        raise AssertionError(f"the steps of {module.__name__}'s table are not in order")
    return rows


def _names(cell: str) -> tuple[str, ...]:
    return tuple(name.strip(" `*") for name in re.split(r",| and ", cell) if name.strip())


def compare(
    entries: Iterable[Entry],
    roles: Mapping[str, Collection[str]],
    rows: Sequence[Row],
    *,
    optional: Collection[str] = (),
) -> None:
    """Compare a recorded transcript with a table.

    Every entry is a message of the table between parties of its roles. Per direction between two parties
    a step's first message comes after those of the steps before it; later ones may interleave, because
    streams of different types do. Every message of the table occurs, but for the ``optional`` ones.

    Args:
        entries: of one party or of several, in the order sent within each direction.
        roles: party → the roles that it plays.
        rows: what `table` returns.
        optional: messages that a run may lack.

    Raises:
        AssertionError: the first deviation, in words.
    """
    reached: dict[tuple[str, str], int] = {}
    seen: dict[tuple[str, str], set[str]] = {}
    for place, entry in enumerate(entries):
        direction = (entry.sender, entry.receiver)
        steps = [row.step for row in rows if _fits(row, entry, roles)]
        what = f"message {place} ({entry.message}, {entry.sender} → {entry.receiver}, {entry.size} bytes)"
        if not steps:
            raise AssertionError(f"{what} is in no row of the table")
        if entry.message in seen.setdefault(direction, set()):
            continue
        seen[direction].add(entry.message)
        due = [step for step in steps if step >= reached.get(direction, 0)]
        if not due:
            raise AssertionError(
                f"{what} belongs to step {steps[-1]}, but step {reached[direction]} has begun"
            )
        reached[direction] = due[0]
    said = set().union(*seen.values()) if seen else set()
    for row in rows:
        for message in row.messages:
            if message not in said and message not in optional:
                raise AssertionError(f"step {row.step} says {message}, which nobody sent")


def _fits(row: Row, entry: Entry, roles: Mapping[str, Collection[str]]) -> bool:
    return (
        entry.message in row.messages
        and not set(row.senders).isdisjoint(roles.get(entry.sender, ()))
        and not set(row.receivers).isdisjoint(roles.get(entry.receiver, ()))
    )
