"""Verbs that look after a job or before it: approvals, exposure, records, and what the doctor says."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from veilsum.cli.output import Printer
from veilsum.cli.setup import HERE, Home, ask
from veilsum.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (approve, exposure, doctor):
        app.command()(verb)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Signed records of past jobs.")
    group.callback()(_record)
    group.command("verify")(record_verify)
    app.add_typer(group, name="record")


def approve(
    ctx: typer.Context,
    job: Annotated[Path, typer.Argument(help="The job file.", dir_okay=False)],
    *,
    person: Annotated[str, typer.Option(help="Who approves; must stand under [approvers].")],
    key: Annotated[Path | None, typer.Option(help="The person's key; by default HOME/PERSON.key.")] = None,
    note: Annotated[str, typer.Option(help="A remark that goes into the record.")] = "",
    home: Home = HERE,
) -> None:
    """Sign a job in the name of a person, so that this party takes part in it."""
    from veilsum import jobs
    from veilsum.node import approvals, config, identity
    from veilsum.node.toml import nearest

    printer: Printer = ctx.obj
    party = config.load_party(home)
    federation = config.load_federation(party.federation)
    found = config.load_job(job, federation=federation)
    config.check_members([party.name], federation, job)
    if person not in party.approvers:
        raise ConfigError(
            f"{person!r} may not approve for {party.name}",
            remedy=f"{nearest(person, party.approvers)}; persons stand under [approvers] in party.toml",
        )
    signed = approvals.approve(
        jobs.job_hash(found, federation),
        person,
        identity.load_person(key or home / f"{person}.key", ask),
        note,
    )
    if bytes.fromhex(signed.public_key) != party.approvers[person]:
        raise ConfigError(
            f"this key is not the one of {person} under [approvers]",
            remedy="name the right key with --key, or correct party.toml",
        )
    path = approvals.save_approval(party.approvals, signed)
    printer.say(f"{person} approves {found.kind} of {', '.join(found.members)}: {found.purpose}")
    printer.say(f"job hash  {signed.job}")
    printer.say(f"wrote {path}")
    printer.result({**msgspec.to_builtins(signed), "path": str(path)})


def exposure(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="One data set; all of them by default.")] = "",
    *,
    home: Home = HERE,
) -> None:
    """Show what others may have learnt from this party's data, and what its limits leave."""
    from veilsum.node import config
    from veilsum.node.exposure import Exposure

    printer: Printer = ctx.obj
    party = config.load_party(home)
    ledger = Exposure(party.exposure)
    entries = ledger.entries(name or None)
    sets = [name] if name else list(dict.fromkeys([*party.data, *(entry.data_set for entry in entries)]))
    balances = {one: ledger.balance(one) for one in sets}
    rows = [
        (
            entry.time,
            entry.data_set,
            entry.kind,
            ", ".join(entry.peers),
            _amounts(entry.amounts),
            entry.purpose,
        )
        for entry in entries
    ]
    if rows:
        printer.table(("time", "data set", "kind", "learnt by", "amounts", "purpose"), rows)
        printer.say()
    floor = msgspec.to_builtins(party.floor)
    for one, balance in balances.items():
        left = f"{balance.get('runs', 0):g} of {floor['max_runs']} runs, "
        left += f"epsilon {balance.get('epsilon', 0):g} of {floor['max_epsilon']:g}"
        printer.say(f"{one}: {left}; in all {_amounts(balance)}")
    printer.result({"entries": msgspec.to_builtins(entries), "balance": balances, "floor": floor})


def doctor(ctx: typer.Context, *, home: Home = HERE) -> None:
    """Look for everything that could stop a run, and say what to do about it."""
    from veilsum.node.doctor import diagnose

    printer: Printer = ctx.obj
    findings = diagnose(home)
    for found in findings:
        printer.finding(found.state, found.name, found.message, found.remedy)
    failed = sum(found.state == "fail" for found in findings)
    printer.say("nothing stops a run" if not failed else f"{failed} of these must be put right first")
    printer.result({"findings": msgspec.to_builtins(findings), "failed": failed})
    if failed:
        raise typer.Exit(1)


def record_verify(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A record, a result folder, or the folder of a chain.")],
    *,
    home: Home = HERE,
) -> None:
    """Verify a record or a whole chain; with a party's folder also against the federation's certificates."""
    from veilsum.node import cards, config
    from veilsum.node.record import NAME
    from veilsum.node.verification import verify_chain, verify_record

    printer: Printer = ctx.obj
    trusted = None
    if (home / "party.toml").exists():
        party = config.load_party(home)
        if party.federation.exists():
            federation = config.load_federation(party.federation, dates=False)
            trusted = cards.trusted_certificates(party, federation)
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist", remedy="name a record.vsr, a result folder or state/records"
        )
    whole = path.is_dir() and not (path / NAME).exists()
    found = verify_chain(path, trusted=trusted) if whole else [verify_record(path, trusted=trusted)]
    if not found:
        raise ConfigError(
            f"{path} holds no record", remedy="name a record.vsr, a result folder or state/records"
        )
    for one in found:
        record = one.record
        printer.say(f"ok  {one.path.name}  {record.ended}  {record.outcome.status}  {record.purpose}")
    for signer, fingerprint in sorted({pair for one in found for pair in one.signers.items()}):
        printer.say(f"signed by {signer}  sha256:{fingerprint}")
    if trusted is None:
        printer.say("there is no federation file here: compare the fingerprints with the parties yourself")
    elif not whole:
        printer.say(f"{found[0].files} files compared")
    if whole:
        printer.say(f"{len(found)} records, chain OK; its head is {found[-1].digest}")
    summary = [
        {"path": str(one.path), "digest": one.digest, "signers": one.signers, "files": one.files}
        for one in found
    ]
    printer.result({"records": summary, "chain": whole, "trusted": trusted is not None})


def _record() -> None:
    """Keep `verify` a verb of its own, though it is the only one."""


def _amounts(amounts: dict[str, float]) -> str:
    return ", ".join(f"{unit} {amount:g}" for unit, amount in amounts.items()) or "nothing"
