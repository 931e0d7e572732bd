"""The library's front door: one call, all roles in this process. Only here is anything synchronous."""

import asyncio
import csv
import datetime as dt
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from veilsum.data.ids import IdSchema
from veilsum.errors import ConfigError, DataError
from veilsum.jobs import Job, Parameter
from veilsum.node import local
from veilsum.node.alignments import Ids
from veilsum.node.summary import Summary
from veilsum.parties import NAME, PartyId, Role
from veilsum.store.sources import Source, open_source

Rows = str | os.PathLike[str] | Mapping[str, Any] | Iterable[str | None]


class Aligned(NamedTuple):
    """What `align` gives back.

    Attributes:
        matched: how many ids all parties hold.
        summaries: party → what it learnt, with steps and leak table.
        folders: party → the folder with its ``alignment.parquet`` and its rows in the common order, in
            ``matched.parquet`` and ``matched.csv``, or ``aligned.*`` where it does not know what matches.
    """

    matched: int
    summaries: dict[str, Summary]
    folders: dict[str, Path]


def align(
    data: Mapping[str, Rows],
    ids: str | Sequence[str] = "id",
    *,
    kind: Literal["text", "phone", "email", "digits"] = "text",
    region: str = "",
    duplicates: Literal["refuse", "first"] = "refuse",
    mode: Literal["open", "hidden_one", "hidden_union"] = "open",
    results: str | os.PathLike[str] = "results",
    purpose: str = "alignment in one process",
) -> Aligned:
    """Find the rows that all parties hold, with every role of the real protocol in this process.

    For trying things out, teaching and tests: whoever runs this sees all the data anyway.

    Args:
        data: party → a CSV or Parquet file, ``{"duckdb": file, "query": "SELECT …"}``, or the ids themselves.
        ids: the id column, or the columns of a composite id, the same at every party.
        kind: how ids are written; they are compared in this kind's normal form.
        region: ISO country whose national numbers are meant (``kind="phone"``).
        duplicates: refuse repeated ids, or take the first row of each.
        mode: who learns the matches: all parties (``open``), of two parties the first alone (``hidden_one``,
            by blind RSA with 2048 bits), or neither of two (``hidden_union``).
        results: folder under which every party's result folder is made.
        purpose: goes into the results.

    Raises:
        ConfigError: fewer than two parties, or a declaration that does not fit.
        DataError: a party's data cannot be used.
    """
    if len(data) < 2:
        raise ConfigError(
            "align needs the data of two or more parties", remedy="give data = {'a': …, 'b': …}"
        )
    for name in data:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be a party's name", remedy="use small letters, digits and hyphens"
            )
    schema = IdSchema(
        columns=(ids,) if isinstance(ids, str) else tuple(ids),
        kind=kind,
        region=region,
        duplicates=duplicates,
    )
    parties = tuple(PartyId(name) for name in data)
    job = Job(
        kind="hidden_psi",
        purpose=purpose,
        expires=dt.datetime.now(dt.UTC).date(),
        parties=_roles(mode, parties),
        data=dict.fromkeys(parties, "rows"),
        params={"mode": mode} | _PARAMS[mode],
    )
    sources: dict[PartyId, Source] = {}
    with tempfile.TemporaryDirectory(prefix="veilsum-") as work:
        try:
            for name in parties:
                sources[name] = _open(data[name], schema, Path(work), name)
            folders = {name: Path(results) / name for name in parties}
            brought = {name: Ids("rows", source) for name, source in sources.items()}
            summaries = asyncio.run(local.play(job, brought, Path(work), folders))
        finally:
            for source in sources.values():
                source.close()
    facts = [fact for summary in summaries for fact in summary.facts]
    matched = next(fact.value for fact in facts if fact.name in {"matches", "ids in common"})
    return Aligned(
        int(matched),
        {s.party: s for s in summaries},
        {s.party: folders[PartyId(s.party)] / s.artefact for s in summaries},
    )


_PARAMS: Mapping[str, dict[str, Parameter]] = MappingProxyType(
    {"open": {"share_matches": True}, "hidden_one": {"key_bits": 2048}, "hidden_union": {}}
)


def _roles(mode: str, parties: tuple[PartyId, ...]) -> dict[Role, tuple[PartyId, ...]]:
    """Return who plays what; the first party is the one that learns."""
    if mode == "open":
        return {Role("member"): parties, Role("collector"): parties[:1]}
    if mode == "hidden_one":
        return {Role("client"): parties[:1], Role("signer"): parties[1:]}
    return {Role("member"): parties}


def _open(rows: Rows, schema: IdSchema, work: Path, name: str) -> Source:
    """Open a party's rows; ids that are given as they are go through a file first, like everybody's."""
    if isinstance(rows, Mapping):
        return open_source(dict(rows), schema, base=Path(), spill=work / name)
    if isinstance(rows, str | os.PathLike):
        return open_source(os.fspath(rows), schema, base=Path(), spill=work / name)
    if len(schema.columns) != 1:
        raise DataError("composite ids cannot be given as one list", remedy="give a file with the columns")
    path = work / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(schema.columns)
        writer.writerows(("" if value is None else str(value),) for value in rows)
    return open_source(str(path), schema, base=Path(), spill=work / name)
