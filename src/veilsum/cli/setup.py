"""Verbs that prepare a party: its files, its identity, its federation, its data, its approvals."""

import datetime as dt
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from veilsum.cli import skeletons
from veilsum.cli.output import Printer
from veilsum.errors import ConfigError

if TYPE_CHECKING:
    from veilsum.node.cards import Card
    from veilsum.node.config import PartyConfig

Home = Annotated[Path, typer.Option("--home", help="The party's folder.", file_okay=False)]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command()(init)
    groups: dict[str, tuple[str, dict[str, Any]]] = {
        "identity": (
            "This party's key, certificate and card.",
            {"new": identity_new, "card": identity_card, "rotate": identity_rotate},
        ),
        "federation": (
            "The parties that may compute together.",
            {"add": federation_add, "show": federation_show},
        ),
        "data": ("This party's own data.", {"check": data_check}),
    }
    for name, (about, verbs) in groups.items():
        group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=about)
        for verb, function in verbs.items():
            group.command(verb)(function)
        app.add_typer(group, name=name)


def ask(question: str) -> str:
    """Ask on the terminal, without echo.

    Raises:
        ConfigError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the {question} is needed, and there is no terminal to ask on",
            remedy="set VEILSUM_PASSPHRASE in the environment",
        )
    return getpass.getpass(f"{question}: ")


def init(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help="What the job computes.")] = "hidden_psi",
    *,
    name: Annotated[
        str, typer.Option(help="This party's name, if there is no party.toml yet.")
    ] = "insurer-a",
    job: Annotated[str, typer.Option(help="The job file to write.")] = "job.toml",
    home: Home = HERE,
) -> None:
    """Write a job file and what is missing in party.toml, to be filled in."""
    from veilsum.node import config
    from veilsum.node.files import create_whole
    from veilsum.node.toml import nearest

    printer: Printer = ctx.obj
    if kind not in skeletons.JOBS:
        raise ConfigError(f"there is no job kind {kind!r}", remedy=nearest(kind, skeletons.JOBS))
    if (home / job).exists():  # before anything else is written
        raise ConfigError(
            f"{home / job} exists already", remedy="give another name with --job, or use that one"
        )
    home.mkdir(parents=True, exist_ok=True)
    written = _write_party(home, name, skeletons.EXAMPLES[kind])
    party = config.load_party(home)
    others = ["insurer-b" if party.name != "insurer-b" else "insurer-a"]
    if party.federation.exists():
        known = config.load_federation(party.federation, dates=False).members
        others = [other for other in known if other != party.name] or others
    expires = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=365)
    third = next(one for one in (*others[1:], "referee", "insurer-c") if one not in {party.name, others[0]})
    text = skeletons.JOBS[kind].format(own=party.name, other=others[0], third=third, expires=expires)
    create_whole(home / job, text.encode(), mode=0o644)
    written.append(home / job)
    for path in written:
        printer.say(f"wrote {path}")
    printer.say(f"fill them in and send {job} to the other parties; then: veilsum data check")
    printer.result({"written": [str(path) for path in written], "party": party.name})


def identity_new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The party's name; by default the one in party.toml.")] = "",
    *,
    address: Annotated[
        str, typer.Option(help="host:port where the others reach this party, if they can.")
    ] = "",
    person: Annotated[str, typer.Option(help="Make an approval key for this person instead.")] = "",
    federation: Annotated[str, typer.Option(help="The name of a new federation file.")] = "federation",
    home: Home = HERE,
) -> None:
    """Make this party's key, certificate and card (or a person's approval key)."""
    from veilsum.node import cards, config, identity

    printer: Printer = ctx.obj
    home.mkdir(parents=True, exist_ok=True)
    if person:
        _new_person(printer, home, person)
        return
    if address:
        config.split_address(address)  # refuse before anything is written
    known = config.load_party(home) if (home / "party.toml").exists() else None
    if known is not None and name not in {"", known.name}:
        raise ConfigError(
            f"{home / 'party.toml'} belongs to {known.name!r}, not to {name!r}",
            remedy=f"leave the name out, or make {name}'s files in a folder of their own (--home)",
        )
    if not name and known is None:
        raise ConfigError("the party needs a name", remedy="veilsum identity new NAME")
    mine = identity.new_identity(home, name or str(known and known.name), passphrase=_new_passphrase(printer))
    _write_party(home, mine.name)
    party = config.load_party(home)
    card = cards.make_card(mine, address)
    cards.write_card(party.card, card)
    _admit(party, card, federation, "")
    _show_card(printer, party, card)


def identity_card(
    ctx: typer.Context,
    *,
    address: Annotated[str, typer.Option(help="A new host:port where the others reach this party.")] = "",
    home: Home = HERE,
) -> None:
    """Show this party's card, the file to send to the others; write it again if it is lost or has moved."""
    from veilsum.node import cards, config, identity

    party = config.load_party(home)
    certificate = identity.own_certificate(party)
    card = cards.read_card(party.card) if party.card.exists() else None
    current = card is not None and card.member.certificate == certificate
    if card is None or not current or (address and address != card.address):
        mine = identity.load_identity(party, ask)
        rotation = tuple(card.rotation) if card is not None and current else ()
        card = cards.make_card(mine, address or (card.address if card is not None else ""), rotation)
        cards.write_card(party.card, card)
        _admit(party, card, "federation", "")
    _show_card(ctx.obj, party, card)


def identity_rotate(ctx: typer.Context, *, home: Home = HERE) -> None:
    """Replace this party's key by a new one and destroy the old one; the new card proves the succession."""
    from veilsum.node import cards, config

    party = config.load_party(home)
    _, card = cards.rotate(party, ask)
    _admit(party, card, "federation", "")
    printer: Printer = ctx.obj
    printer.say("the old key is destroyed; jobs approved under it need their approvals again")
    _show_card(printer, party, card)


def federation_add(
    ctx: typer.Context,
    card: Annotated[Path, typer.Argument(help="The card that the other party sent.", dir_okay=False)],
    *,
    replace: Annotated[
        str,
        typer.Option(help="The fingerprint of a certificate that replaces a known one without its proof."),
    ] = "",
    federation: Annotated[str, typer.Option(help="The name of a new federation file.")] = "federation",
    home: Home = HERE,
) -> None:
    """Verify a card and enter its party in the federation file."""
    from veilsum.node import cards, config
    from veilsum.node.files import private_folder

    printer: Printer = ctx.obj
    party = config.load_party(home)
    verified = cards.read_card(card)
    change = _admit(party, verified, federation, replace)
    private_folder(party.state)
    if verified.name != party.name:
        cards.write_card(private_folder(party.cards) / f"{verified.name}.card", verified)
    fingerprint = verified.member.fingerprint
    printer.say(f"{verified.name}: {change} in {party.federation}")
    printer.say(f"fingerprint  sha256:{fingerprint}")
    if change in {"added", "replaced"}:
        printer.say(f"compare it with {verified.name} by telephone: it is what all trust rests on")
    printer.result({"party": verified.name, "change": change, "fingerprint": fingerprint})


def federation_show(ctx: typer.Context, *, home: Home = HERE) -> None:
    """Show the parties of the federation file."""
    from veilsum.node import certificates, config

    printer: Printer = ctx.obj
    party = config.load_party(home)
    federation = config.load_federation(party.federation, dates=False)
    rows = [
        {
            "party": str(name),
            "address": member.address,
            "valid_until": f"{certificates.validity(member.certificate)[1]:%Y-%m-%d}",
            "fingerprint": member.fingerprint,
        }
        for name, member in federation.members.items()
    ]
    printer.say(f"federation {federation.name}")
    columns = ("party", "address", "valid until", "sha256 fingerprint")
    printer.table(
        columns,
        [[row["party"], row["address"] or "-", row["valid_until"], row["fingerprint"]] for row in rows],
    )
    printer.result({"federation": federation.name, "members": rows})


def data_check(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="One data set; all of them by default.")] = "",
    *,
    home: Home = HERE,
) -> None:
    """Read this party's data sets and say what their ids or columns look like, on this machine alone."""
    from veilsum.node import config
    from veilsum.node.datasets import check_data_set, in_words
    from veilsum.store.id_table import DataReport

    printer: Printer = ctx.obj
    party = config.load_party(home)
    if not name and not party.data:
        raise ConfigError(
            "party.toml names no data set",
            remedy="veilsum init writes an example [data.customers]",
            party=party.name,
        )
    found: dict[str, Any] = {}
    for one in [name] if name else party.data:
        report = found[one] = check_data_set(party, one)
        printer.finding("ok", one, in_words(report))
        printer.table(("column", "type"), list(report.columns.items()))
        for warning in report.warnings:
            printer.finding("warn", one, warning)
        if not isinstance(report, DataReport):
            continue
        odd = {
            "no id": report.null_rows,
            "malformed": report.malformed_rows,
            "repeated": report.duplicate_rows,
        }
        for word, rows in odd.items():
            if rows:
                printer.say(f"{word} in rows {', '.join(map(str, rows))}, … (from 0)")
    printer.result({"data": msgspec.to_builtins(found)})


def _write_party(home: Path, name: str, example: str = "") -> list[Path]:
    """Write party.toml, or add an example data set to one that has none; return what was written."""
    from veilsum.node import config
    from veilsum.node.files import create_whole
    from veilsum.parties import NAME
    from veilsum.store.files import write_whole

    path = home / "party.toml"
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a party's name", remedy="use a-z, 0-9 and -, at most 63 characters"
        )
    data = example.format()
    if not path.exists():
        create_whole(path, (skeletons.PARTY.format(name=name) + data).encode())
        return [path]
    if data and not config.load_party(home).data:
        write_whole(path, (path.read_text() + data).encode())
        return [path]
    return []


def _new_passphrase(printer: Printer) -> str:
    """Ask for a passphrase twice; without a terminal or with an empty answer the key is not encrypted."""
    from veilsum.node import config

    known = config.passphrase_from_environment()
    if known is not None:
        return known
    if sys.stdin.isatty():
        first = ask("passphrase for the new key (empty: none)")
        if first != (ask("the same again") if first else ""):
            raise ConfigError("the two passphrases differ", remedy="give the command again")
        if first:
            return first
    printer.note("note: the key is not encrypted; the file's permissions (0600) alone protect it")
    return ""


def _new_person(printer: Printer, home: Path, person: str) -> None:
    from veilsum.node import certificates, identity

    public = certificates.to_base64(identity.new_person(home, person, passphrase=_new_passphrase(printer)))
    printer.say(f"wrote {home / f'{person}.key'}: {person} keeps it, away from the party's node")
    printer.say("the party's party.toml gets:")
    printer.say(f'[approvers]\n{person} = "{public}"')
    printer.result({"person": person, "key": str(home / f"{person}.key"), "public_key": public})


def _admit(party: "PartyConfig", card: "Card", name: str, replace: str) -> str:
    """Enter a card in the party's federation file, which is made if there is none; return what changed."""
    from veilsum.node import cards, config
    from veilsum.parties import Federation

    known: Federation = Federation(name=name, members={})
    if party.federation.exists():
        known = config.load_federation(party.federation, dates=False)
    federation, change = cards.admit(known, card, replace=replace)
    if change != "unchanged":
        config.save_federation(party.federation, federation)
    return change


def _show_card(printer: Printer, party: "PartyConfig", card: "Card") -> None:
    fingerprint = card.member.fingerprint
    printer.say(f"card         {party.card}")
    printer.say(f"party        {card.name}{f' at {card.address}' if card.address else ', which only dials'}")
    printer.say(f"fingerprint  sha256:{fingerprint}")
    printer.say("send the card to the other parties and read them the fingerprint")
    content = {
        "card": str(party.card),
        "party": card.name,
        "address": card.address,
        "fingerprint": fingerprint,
    }
    printer.result(content)
