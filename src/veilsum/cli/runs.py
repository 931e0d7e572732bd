"""Verbs about jobs and their runs: explain, run, simulate, status, report."""

import asyncio
import signal
import webbrowser
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from veilsum.cli.output import Printer
from veilsum.cli.progress import watching
from veilsum.cli.setup import HERE, Home, ask
from veilsum.errors import ConfigError

if TYPE_CHECKING:
    from veilsum.jobs import Job
    from veilsum.node.config import PartyConfig
    from veilsum.node.summary import Summary
    from veilsum.parties import Federation

T = TypeVar("T")
JobFile = Annotated[Path, typer.Argument(help="The job file.")]
As = Annotated[str, typer.Option("--as", help="The party to run as; must be the one of party.toml.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin a finished job anew; give it at every party.")]
Memory = Annotated[int, typer.Option(help="MiB that a run may use; what is larger goes to disk.", min=64)]
Wait = Annotated[float, typer.Option(help="Seconds to wait for parties that have not come yet.", min=0.1)]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (explain, run, simulate, status, report):
        app.command()(verb)


def explain(
    ctx: typer.Context,
    job: JobFile,
    *,
    home: Home = HERE,
    rows: Annotated[
        int, typer.Option(help="Rows of each owner for which costs are said, where a kind knows them.", min=1)
    ] = 1000,
) -> None:
    """Say what a job does and who will have learnt what, before anything runs."""
    from veilsum.jobs import job_hash
    from veilsum.node.kinds import kind_of, params_of

    printer: Printer = ctx.obj
    party, agreed, federation = _read(home, job)
    kind, params = kind_of(agreed), params_of(agreed)
    bringers, leaks = kind.bringers(agreed, params), kind.leaks(agreed, params)
    about = kind.about(agreed, params, party, rows)
    cautions = kind.cautions(agreed, params, federation)
    digest = job_hash(agreed, federation).hex()
    printer.say(f"{agreed.kind} ({kind.mode(params)}): {agreed.purpose}; expires {agreed.expires}")
    for role, names in agreed.parties.items():
        printer.say(f"  {role}: {', '.join(names)}")
    printer.say(f"  data from: {', '.join(f'{p} ({agreed.data.get(p, chr(63))})' for p in bringers)}")
    printer.say()
    printer.table(["part", "who", "will have learnt"], [[row.part, row.who, row.what] for row in leaks])
    printer.say()
    printer.say(f"withstands: {kind.adversary}")
    for title, text in about:
        printer.say(f"{title}: {text}")
    for caution in cautions:
        printer.say(f"note: {caution}")
    printer.say(f"job hash: {digest}")
    if party.floor.approvals:
        printer.say(f"{party.name} asks for {party.floor.approvals} approvals: veilsum approve {job}")
    printer.result(
        {
            "job": msgspec.to_builtins(agreed),
            "job_hash": digest,
            "mode": kind.mode(params),
            "adversary": kind.adversary,
            "about": [list(line) for line in about],
            "cautions": list(cautions),
            "brings_data": list(bringers),
            "leaks": [msgspec.to_builtins(row) for row in leaks],
        }
    )


def run(
    ctx: typer.Context,
    job: JobFile,
    *,
    party: As = "",
    home: Home = HERE,
    fresh: Fresh = False,
    memory: Memory = 512,
    wait: Wait = 120.0,
) -> None:
    """Run this party's part of a job; the same command again goes on where it stands."""
    from veilsum.net.config import NetConfig
    from veilsum.node import identity, runs
    from veilsum.node.config import passphrase_from_environment

    printer: Printer = ctx.obj
    own, agreed, federation = _read(home, job)
    if party and party != own.name:
        raise ConfigError(
            f"{own.home}/party.toml belongs to {own.name}, not to {party}",
            remedy=f"give --home with the folder of {party}, or --as {own.name}",
        )
    key = identity.load_identity(own, lambda question: passphrase_from_environment() or ask(question))
    order = runs.Order(
        own,
        agreed,
        federation,
        key,
        fresh=fresh,
        config=NetConfig(connect_timeout=wait),
        memory=memory << 20,
    )
    with watching(printer) as sink:
        summary = _until_stopped(runs.run(order, sink))
    show(printer, summary)


def simulate(
    ctx: typer.Context,
    job: JobFile,
    *,
    home: Annotated[
        list[Path] | None, typer.Option(help="Every party's folder; by default those below here.")
    ] = None,
) -> None:
    """Run all roles of a job in one process, with the same protocol code and no network."""
    from veilsum.node import config, local

    printer: Printer = ctx.obj
    homes = home or sorted(path.parent for path in Path().glob("*/party.toml"))
    if not homes:
        raise ConfigError(
            "no party's folder was given, and none is below this one",
            remedy="give --home once for each party",
        )
    parties = [config.load_party(path) for path in homes]
    federation = config.load_federation(parties[0].federation)
    agreed = config.load_job(job, federation=federation)
    with watching(printer) as sink:
        summaries = _until_stopped(local.simulate(agreed, parties, sink))
    for summary in summaries:
        show(printer, summary)


def status(ctx: typer.Context, *, home: Home = HERE) -> None:
    """Show the runs of this party and how each stands."""
    from veilsum.node import config, runstate

    printer: Printer = ctx.obj
    states = runstate.all_runs(config.load_party(home))
    rows = [
        [
            s.run[:8],
            s.kind,
            s.state + (f" ({s.code})" if s.code and s.state == "failed" else ""),
            s.attempt,
            s.artefact or "-",
            s.purpose,
        ]
        for s in states
    ]
    printer.table(["run", "kind", "state", "attempt", "artefact", "purpose"], rows)
    if not rows:
        printer.say("no run has begun here")
    printer.result({"runs": [msgspec.to_builtins(state) for state in states]})


def report(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Argument(help="An artefact's id or the beginning of a run's; the latest by default.")
    ] = "",
    *,
    home: Home = HERE,
    browser: Annotated[bool, typer.Option("--open", help="Show the HTML report in a browser.")] = False,
) -> None:
    """Show the result of a finished run and where its report lies."""
    from veilsum.node import config, runs, runstate

    printer: Printer = ctx.obj
    finished = [s for s in runstate.all_runs(config.load_party(home)) if s.folder]
    chosen = [s for s in finished if not run or s.artefact == run or s.run.startswith(run)]
    if not chosen:
        shown = ", ".join(s.artefact for s in finished[:5]) or "none has finished yet"
        raise ConfigError(
            f"there is no finished run {run!r}" if run else "there is no finished run",
            remedy=f"known here: {shown}",
        )
    folder = Path(chosen[0].folder)
    show(printer, runs.load_summary(folder))
    printer.say(f"report: {folder / 'report.html'}")
    if browser:
        webbrowser.open((folder / "report.html").absolute().as_uri())


def show(printer: Printer, summary: "Summary") -> None:
    """Write one party's result: what it learnt, who learnt what, and what deserves a look."""
    printer.say()
    printer.say(
        f"{summary.artefact} at {summary.party}: {summary.mode}, {summary.seconds:.1f} s, "
        f"{summary.sent:,} bytes sent, {summary.received:,} received"
    )
    printer.table(["learnt", "value", "unit"], [[f.name, f.value, f.unit] for f in summary.facts])
    printer.say()
    printer.table(["part", "who", "has learnt"], [[row.part, row.who, row.what] for row in summary.leaks])
    for warning in summary.warnings:
        printer.say(f"note: {warning}")
    for name, file in summary.files.items():
        printer.say(f"{name}: {file}")
    printer.result(msgspec.to_builtins(summary))


def _read(home: Path, job: Path) -> "tuple[PartyConfig, Job, Federation]":
    from veilsum.node import config

    party = config.load_party(home)
    federation = config.load_federation(party.federation)
    return party, config.load_job(job, federation=federation), federation


def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C and a terminate signal cancel it, so that every peer is told."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
