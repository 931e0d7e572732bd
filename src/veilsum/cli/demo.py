"""The demo: organisations as processes of their own over mutual TLS, on real rows with generated ids."""

import asyncio
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from veilsum.cli.output import Printer
from veilsum.cli.processes import clear, play
from veilsum.cli.processes import records as chains
from veilsum.cli.progress import watching
from veilsum.errors import ConfigError, VeilsumError

if TYPE_CHECKING:
    from veilsum.node.demo_data import DemoData
    from veilsum.node.report import RecordLine
    from veilsum.node.summary import Summary

PARTIES = ("insurer-a", "insurer-b", "referee")
PLAYERS = ("insurer-a", "insurer-b")
"""Who takes part in chapter 1; the referee waits for the model."""
CHAPTERS = ("align", "learn")
"""Without a chapter the first is shown, smaller."""

JOB = """\
kind = "hidden_psi"
purpose = "demo: align both insurers' customers for a joint model"
expires = {expires}

[parties]
client = "insurer-a"
signer = "insurer-b"

[data]
insurer-a = "customers"
insurer-b = "customers"

[params]
mode = "hidden_one"
key_bits = 2048
"""

DATA = """
[data.customers]
source = "{source}"
ids = {{ columns = ["phone"], kind = "phone", region = "US", duplicates = "refuse" }}
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    ctx: typer.Context,
    chapter: Annotated[
        str, typer.Argument(help=f"One of: {', '.join(CHAPTERS)}; by default the first, smaller.")
    ] = "",
    *,
    folder: Annotated[Path, typer.Option(help="Where to work; an earlier demo there is replaced.")] = Path(
        "veilsum-demo"
    ),
    rows: Annotated[
        int, typer.Option(help="Customers of each insurer in align; 0: all there are.", min=-1)
    ] = -1,
) -> None:
    """Show a joint computation between real processes on this machine."""
    from veilsum.node.demo_data import write_demo
    from veilsum.node.report import render
    from veilsum.store.files import write_whole

    printer: Printer = ctx.obj
    if chapter and chapter not in CHAPTERS:
        raise ConfigError(f"the demo has no chapter {chapter!r}", remedy=f"built are: {', '.join(CHAPTERS)}")
    if rows < 0:
        rows = 0 if chapter else 6000  # a chapter alone is the same, larger
    began = time.monotonic()
    clear(folder)
    if chapter == "learn":
        from veilsum.cli import demo_learn

        demo_learn.tell(printer, folder)
        return
    printer.say("1  align: two insurers line their customers up, and one never learns whom they share")
    data = write_demo(folder, rows=rows or None)
    _write_parties(folder, data)
    with watching(printer) as sink:
        summaries = asyncio.run(play(folder, folder / "job.toml", PLAYERS, sink))
    records = chains(folder, PLAYERS)
    page = folder / "report.html"
    write_whole(page, render(summaries, title="veilsum demo", records=records).encode(), mode=0o644)
    _tell(printer, summaries, data, time.monotonic() - began, page, records)


def _write_parties(folder: Path, data: "DemoData") -> None:
    from veilsum.node.homes import make_homes

    sources = {"insurer-a": data.insurer_a.path.name, "insurer-b": data.insurer_b.path.name}
    more = {name: DATA.format(source=sources[name]) if name in sources else "" for name in PARTIES}
    make_homes(folder, more, name="insurers")
    expires = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=30)
    (folder / "job.toml").write_text(JOB.format(expires=expires))


def _tell(
    printer: Printer,
    summaries: "list[Summary]",
    data: "DemoData",
    seconds: float,
    page: Path,
    records: "list[RecordLine]",
) -> None:
    printer.say()
    names = list(dict.fromkeys(fact.name for s in summaries for fact in s.facts))
    told = [{fact.name: fact.value for fact in s.facts} for s in summaries]
    rows = [[name, *(_shown(facts.get(name, "")) for facts in told)] for name in names]
    rows.append(["bytes sent", *(f"{s.sent:,}" for s in summaries)])
    rows.append(["seconds", *(f"{s.seconds:.2f}" for s in summaries)])
    printer.table(["learnt by", *(s.party for s in summaries)], rows)
    printer.say()
    printer.table(["who", "will have learnt"], [[leak.who, leak.what] for leak in summaries[0].leaks])
    printer.say()
    truth = len(data.matches)
    matched = {s.party: fact.value for s in summaries for fact in s.facts if fact.name == "matches"}
    right = list(matched.values()) == [truth] and _same_customers(page.parent, summaries[0].artefact) == truth
    same = "the same customers at the same places" if right else "NOT the same"
    printer.say(f"plain join of both files, for comparison: {truth:,} matches ({same})")
    printer.say(f"report: {page}")
    printer.say(f"whole demo: {seconds:.1f} s")
    many = f"{records[0].jobs} job{'s' * (records[0].jobs != 1)}, chain OK at {len(records)} parties"
    printer.say(f"record: {many}; verify it: {records[0].command}")
    printer.result(
        {
            "artefact": summaries[0].artefact,
            "matches": matched,
            "plain_join": truth,
            "seconds": round(seconds, 2),
            "report": str(page),
            "records": [msgspec.to_builtins(line) for line in records],
        }
    )
    if not right:
        raise VeilsumError("the demo's result differs from the plain join: this is a bug")


def _same_customers(folder: Path, artefact: str) -> int:
    """Count the places where both insurers' rows have one phone number: nobody could, but for this demo."""
    import duckdb

    client, signer = (folder / name / "results" / artefact for name in ("insurer-a", "insurer-b"))
    number = r"right(regexp_replace({}.phone, '\D', '', 'g'), 10)"
    with duckdb.connect() as database:
        query = f"""
            SELECT count(*)
            FROM (SELECT position, row_number() OVER (ORDER BY position) - 1 AS nth
                  FROM read_parquet($places) WHERE weight = 1) AS place
            JOIN read_parquet($own, file_row_number = true) AS own ON own.file_row_number = place.nth
            JOIN read_parquet($all, file_row_number = true) AS other
              ON other.file_row_number = place.position
            WHERE {number.format("own")} = {number.format("other")}"""  # noqa: S608 -- fixed words alone
        files = {
            "places": str(client / "alignment.parquet"),
            "own": str(client / "matched.parquet"),
            "all": str(signer / "aligned.parquet"),
        }
        row = database.execute(query, files).fetchone()
    return int(row[0]) if row else 0


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
