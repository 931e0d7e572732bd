"""The exposure ledger: one durable account, per party, of what others may have learnt from its data.

Every job of every kind enters what it is about to reveal before anything is revealed, and the limits of
the data's owner (`Floor`) are checked against all entries of that data set. An entry that was made and
then not used stays counted until the run settles it: the ledger may overstate, never understate.
"""

import datetime as dt
import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from veilsum.errors import BudgetExceeded, ConfigError
from veilsum.jobs import Floor, canonical
from veilsum.node.ledger_file import LedgerFile
from veilsum.parties import PartyId, RunId

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "runs": "jobs that learn something about the data set",
        "rows": "rows that enter a job",
        "signatures": "blind signatures or other oracle answers on ids",
        "queries": "predictions or memberships asked for chosen ids",
        "statistics": "released figures",
        "epsilon": "differential-privacy budget",
    }
)
_ROUNDING = 1e-9  # of epsilon: many small amounts may add up to the limit exactly

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    data_set TEXT NOT NULL,
    kind TEXT NOT NULL,
    peers TEXT NOT NULL,
    purpose TEXT NOT NULL,
    run TEXT NOT NULL,
    amounts TEXT NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run, data_set)
) STRICT
"""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one run may have taught its peers about one data set; ``time`` is UTC, ISO 8601."""

    time: str
    data_set: str
    kind: str
    peers: tuple[PartyId, ...]
    purpose: str
    run: RunId
    amounts: dict[str, float]
    settled: bool


class Exposure:
    """The ledger in one SQLite file; every method is one durable transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LedgerFile(
            path, [_SCHEMA], name="exposure ledger", without="no job may use this party's data"
        )

    def reserve(
        self,
        data_set: str,
        kind: str,
        peers: Sequence[PartyId],
        purpose: str,
        run: RunId,
        amounts: Mapping[str, float],
        floor: Floor,
        *,
        now: dt.datetime | None = None,
    ) -> None:
        """Enter what a run is about to reveal, durably; call this before anything is revealed.

        A second call for the same run and data set (a resumed run) adds nothing, except where it asks
        for more than before.

        Raises:
            BudgetExceeded: an amount passes a limit of ``floor``; nothing is entered then.
            ConfigError: an amount is not one of `UNITS`, negative or not a number.
            StoreError: the ledger cannot be used.
        """
        asked = _checked(amounts)
        time = f"{(now or dt.datetime.now(dt.UTC)).astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
        with self._file.transaction() as database:
            others: list[dict[str, float]] = []
            for other_run, text in database.execute(
                "SELECT run, amounts FROM entry WHERE data_set = ?", (data_set,)
            ):
                if other_run == run:
                    asked = _larger(asked, _amounts(text))
                else:
                    others.append(_amounts(text))
            _check_floor(data_set, asked, _sum(others), floor)
            database.execute(
                "INSERT INTO entry (time, data_set, kind, peers, purpose, run, amounts)"
                " VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (run, data_set) DO UPDATE SET amounts = excluded.amounts, settled = 0"
                " WHERE amounts <> excluded.amounts",
                (time, data_set, kind, canonical(list(peers)).decode(), purpose, run, _text(asked)),
            )

    def settle(self, data_set: str, run: RunId, amounts: Mapping[str, float]) -> None:
        """Replace what a run reserved by what it really revealed, once that is certain.

        Raises:
            BudgetExceeded: it revealed more than it had reserved (the ledger says so from now on).
            ConfigError: the run has reserved nothing, or an amount is not one.
            StoreError: the ledger cannot be used.
        """
        actual = _checked(amounts)
        with self._file.transaction() as database:
            row = database.execute(
                "SELECT amounts FROM entry WHERE run = ? AND data_set = ?", (run, data_set)
            ).fetchone()
            if row is None:
                raise ConfigError(
                    f"run {run} has reserved nothing of {data_set!r}",
                    remedy="this is a mistake in the job kind: it must reserve before it reveals",
                )
            reserved = _amounts(row[0])
            database.execute(
                "UPDATE entry SET amounts = ?, settled = 1 WHERE run = ? AND data_set = ?",
                (_text(actual), run, data_set),
            )
        over = sorted(unit for unit, amount in actual.items() if amount > reserved.get(unit, 0) + _ROUNDING)
        if over:
            raise BudgetExceeded(
                f"the run revealed more of {data_set!r} than it had reserved: {', '.join(over)}",
                remedy="this is a mistake in the job kind; the ledger holds the true amounts",
                run=run,
            )

    def entries(self, data_set: str | None = None) -> list[Entry]:
        """Return the entries, oldest first.

        Raises:
            StoreError: the ledger cannot be used.
        """
        if not self.path.exists():
            return []
        query = "SELECT time, data_set, kind, peers, purpose, run, amounts, settled FROM entry"
        with self._file.transaction() as database:
            if data_set is None:
                rows = database.execute(query + " ORDER BY id").fetchall()
            else:
                rows = database.execute(query + " WHERE data_set = ? ORDER BY id", (data_set,)).fetchall()
            return [
                Entry(
                    time=time,
                    data_set=name,
                    kind=kind,
                    peers=tuple(_parsed(peers)),
                    purpose=purpose,
                    run=RunId(run),
                    amounts=_amounts(text),
                    settled=bool(settled),
                )
                for time, name, kind, peers, purpose, run, text, settled in rows
            ]

    def balance(self, data_set: str) -> dict[str, float]:
        """Return the sum over all runs of every unit that a data set has given."""
        return _sum([entry.amounts for entry in self.entries(data_set)])

    def check(self) -> None:
        """Check the whole file.

        Raises:
            StoreError: it is damaged.
        """
        self._file.check()


def _checked(amounts: Mapping[str, float]) -> dict[str, float]:
    for unit, amount in amounts.items():
        if unit not in UNITS or not math.isfinite(amount) or amount < 0:
            raise ConfigError(
                f"{unit} = {amount} is not an amount of exposure", remedy=f"the units are {', '.join(UNITS)}"
            )
        if unit != "epsilon" and amount != int(amount):
            raise ConfigError(f"{unit} = {amount} is not a whole number", remedy="count it")
    return dict(amounts)


def _check_floor(data_set: str, asked: dict[str, float], others: dict[str, float], floor: Floor) -> None:
    limits = (
        ("runs", "max_runs", floor.max_runs, others.get("runs", 0), 0.0),
        ("rows", "max_rows", floor.max_rows, 0, 0.0),  # per job: rows do not add up over jobs
        # not signatures: `SigningKeys` limits them, for every key and peer; here stands their sum
        ("epsilon", "max_epsilon", floor.max_epsilon, others.get("epsilon", 0), _ROUNDING),
    )
    for unit, key, limit, given, slack in limits:
        amount = asked.get(unit, 0)
        if amount and given + amount > limit + slack:
            already = f" after {given:g} in earlier jobs" if given else ""
            raise BudgetExceeded(
                f"{data_set!r} would give {unit} {amount:g}{already}; floor.{key} allows {limit:g}",
                remedy=f"`veilsum exposure` shows the account; its owner alone can raise floor.{key}",
            )


def _sum(many: list[dict[str, float]]) -> dict[str, float]:
    units = [unit for unit in UNITS if any(unit in amounts for amounts in many)]
    totals = {unit: math.fsum(amounts.get(unit, 0) for amounts in many) for unit in units}
    return {unit: total if unit == "epsilon" else int(total) for unit, total in totals.items()}


def _larger(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {unit: max(one.get(unit, 0), other.get(unit, 0)) for unit in UNITS if unit in one or unit in other}


def _text(amounts: dict[str, float]) -> str:
    return canonical(amounts).decode()


def _amounts(text: str) -> dict[str, float]:
    found: dict[str, float] = _parsed(text)
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # becomes what a damaged page becomes
        raise sqlite3.DatabaseError("an entry is damaged") from error
