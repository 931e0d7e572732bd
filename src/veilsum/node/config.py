"""The three files a party lives by: ``federation.toml``, ``party.toml``, ``job.toml``; and the environment.

Whatever is wrong with a file is one `ConfigError` that names the file, the dotted key and what to do.
"""

import datetime as dt
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from veilsum.errors import ConfigError
from veilsum.jobs import Floor, Job
from veilsum.node import certificates, toml
from veilsum.node.toml import Place, nearest, read_table
from veilsum.parties import NAME, Federation, Member, PartyId, Role
from veilsum.store.files import write_whole

if TYPE_CHECKING:
    from veilsum.data.ids import IdSchema

CPU = "VEILSUM_CPU"
PASSPHRASE = "VEILSUM_PASSPHRASE"  # noqa: S105 -- the name of the variable, not a passphrase
_LARGEST = 2**63 - 1  # TOML promises no more, and every JSON reader can hold it
_DEPTH = 16  # levels of nesting that parameters may have


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set of this party, as its file says it.

    Attributes:
        source: a Parquet or CSV file, relative to the party's folder, or a table that names a database.
        ids: the id columns and how they are normalised, as ``veilsum.data.ids.IdSchema`` reads it; none if
            the set is not for alignments.
    """

    source: str | dict[str, str]
    ids: dict[str, Any] = {}


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of this party: a file that ``veilsum.learn`` has written, relative to the party's folder."""

    file: str


class PartyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One party's own side: where its files lie and what it allows.

    Attributes:
        home: the folder of ``party.toml``.
        key: the PEM file with the private key and its certificate.
        listen: ``host:port`` to bind, where that differs from the address in the federation.
        approvers: person → raw Ed25519 public key (32 bytes).
    """

    home: Path
    name: PartyId
    key: Path
    federation: Path
    listen: str = ""
    data: dict[str, DataConfig] = {}
    models: dict[str, ModelConfig] = {}
    floor: Floor = Floor()
    approvers: dict[str, bytes] = {}

    @property
    def state(self) -> Path:
        """The private folder (0700) of everything that outlives a run."""
        return self.home / "state"

    @property
    def runs(self) -> Path:
        """One journal per run."""
        return self.state / "runs"

    @property
    def exposure(self) -> Path:
        """The exposure ledger."""
        return self.state / "exposure.db"

    @property
    def signing_keys(self) -> Path:
        """The keys of blind signatures that serve several runs, and what was signed."""
        return self.state / "signing-keys.db"

    @property
    def records(self) -> Path:
        """The chain of records."""
        return self.state / "records"

    @property
    def cards(self) -> Path:
        """The cards of the other parties as they were accepted, with their proofs of rotation."""
        return self.state / "cards"

    @property
    def card(self) -> Path:
        """This party's own card."""
        return self.home / f"{self.name}.card"

    @property
    def approvals(self) -> Path:
        """What persons of this party have signed."""
        return self.home / "approvals"

    @property
    def spill(self) -> Path:
        """Temporary files of data that does not fit the memory."""
        return self.state / "spill"

    @property
    def results(self) -> Path:
        """One folder per artefact."""
        return self.home / "results"


class _PartyFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    key: str
    federation: str = "federation.toml"
    listen: str = ""
    data: dict[str, Any] = {}
    models: dict[str, Any] = {}
    floor: dict[str, Any] = {}
    approvers: dict[str, str] = {}


class _FederationFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    party: dict[str, Any]


class _MemberTable(msgspec.Struct, forbid_unknown_fields=True):
    certificate: str
    address: str = ""


class _JobFile(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    purpose: str
    expires: dt.date
    parties: dict[str, str | list[str]]
    data: dict[str, str] = {}
    params: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    step_timeout: float = 3600.0


def cpu_cap() -> str | None:
    """Return the best processor path that may be used (``VEILSUM_CPU``); None: all that there are."""
    return os.environ.get(CPU) or None


def passphrase_from_environment() -> str | None:
    """Return the passphrase of the party's key if the environment holds one."""
    return os.environ.get(PASSPHRASE)


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` (``[::1]:7101`` for IPv6).

    Raises:
        ConfigError: the host or the port is missing or out of range.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    remedy = "write host:port, for example 192.0.2.7:7101 or [2001:db8::7]:7101"
    if not colon or not bare or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ConfigError(f"{address!r} is not host:port", remedy=remedy)
    plain = re.fullmatch(r"[A-Za-z0-9.:%_-]+", bare) and 1 <= int(port) <= 65535
    if not plain or (":" in bare) != (host == f"[{bare}]"):
        raise ConfigError(f"{address!r} is not host:port", remedy=remedy)
    return bare, int(port)


def load_federation(path: Path, *, now: dt.datetime | None = None, dates: bool = True) -> Federation:
    """Read ``federation.toml``; members come sorted by name, so that all copies mean the same.

    Args:
        path: the file.
        now: the time at which the certificates must be valid; this machine's clock by default.
        dates: false to accept expired certificates, for looking at the file or at old records.

    Raises:
        ConfigError: the file cannot be used as it is.
    """
    place = Place(path)
    raw = read_table(toml.read(path), _FederationFile, place)
    if not raw.name.strip():
        raise place.inner("name").error("is empty", "give the federation a name")
    members: dict[PartyId, Member] = {}
    taken: dict[str, str] = {}
    for name in sorted(raw.party):
        here = place.inner("party").inner(name)
        _check_name(name, here)
        entry = read_table(raw.party[name], _MemberTable, here)
        _check_address(entry.address, here.inner("address"))
        if entry.address and entry.address in taken:
            raise here.inner("address").error(
                f"{entry.address} is already the address of {taken[entry.address]}",
                "give every party its own port; ask the two which one is wrong",
            )
        taken[entry.address] = name
        what = f"{path.name}: the certificate of {name}"
        certificate = certificates.from_base64(entry.certificate, what)
        certificates.check_owner(certificate, name, what)
        if dates:
            certificates.check_dates(certificate, now or dt.datetime.now(dt.UTC), what)
        members[PartyId(name)] = Member(certificate=certificate, address=entry.address)
    return Federation(name=raw.name, members=members)


def save_federation(path: Path, federation: Federation) -> None:
    """Write ``federation.toml``, members sorted by name, in one atomic step.

    Raises:
        StoreError: the disk refused it.
    """
    members: dict[str, Any] = {}
    for name, member in sorted(federation.members.items()):
        address = {"address": member.address} if member.address else {}
        members[name] = {**address, "certificate": certificates.to_base64(member.certificate)}
    text = "# public, identical at every party; written by `veilsum federation add`\n"
    text += toml.dump({"name": federation.name, "party": members})
    write_whole(path, text.encode(), mode=0o644)


def load_party(path: Path) -> PartyConfig:
    """Read ``party.toml``; ``path`` is the file or its folder.

    Raises:
        ConfigError: the file cannot be used as it is, or others can read it.
    """
    file = path / "party.toml" if path.is_dir() else path
    place = Place(file)
    content = toml.read(file)
    toml.check_private(file)
    raw = read_table(content, _PartyFile, place)
    _check_name(raw.name, place.inner("name"))
    _check_address(raw.listen, place.inner("listen"))
    tables = place.inner("data")
    data = {name: read_table(entry, DataConfig, tables.inner(name)) for name, entry in raw.data.items()}
    models = {
        name: read_table(entry, ModelConfig, place.inner("models").inner(name))
        for name, entry in raw.models.items()
    }
    floor = _floor(read_table(raw.floor, Floor, place.inner("floor")), place.inner("floor"))
    approvers = _approvers(raw.approvers, place.inner("approvers"))
    if floor.approvals > len(approvers):
        raise place.inner("floor.approvals").error(
            f"asks for {floor.approvals} approvals, but only {len(approvers)} persons may approve",
            "add persons under [approvers] (`veilsum identity new --person NAME`) or lower the number",
        )
    home = file.parent
    return PartyConfig(
        home=home,
        name=PartyId(raw.name),
        key=home / raw.key,
        federation=home / raw.federation,
        listen=raw.listen,
        data=data,
        models=models,
        floor=floor,
        approvers=approvers,
    )


def load_job(path: Path, *, federation: Federation | None = None, today: dt.date | None = None) -> Job:
    """Read ``job.toml``, and with ``federation`` check that it knows every party of the job.

    Args:
        path: the file.
        federation: the organisations that a job may name.
        today: the day (UTC) on which the job must not have expired yet; today by default.

    Raises:
        ConfigError: the file cannot be used as it is, or the job has expired.
    """
    place = Place(path)
    raw = read_table(toml.read(path), _JobFile, place)
    parties = {
        Role(role): _role(value, place.inner("parties").inner(role)) for role, value in raw.parties.items()
    }
    members = {party for group in parties.values() for party in group}
    if not members:
        raise place.inner("parties").error("names no party", 'write for example client = "insurer-a"')
    for party in raw.data:
        if party not in members:
            raise (
                place.inner("data")
                .inner(party)
                .error(f"{party!r} is not in the job", nearest(party, members))
            )
    if not raw.purpose.strip():
        raise place.inner("purpose").error(
            "is empty", "say in a few words what the result is for; it is recorded"
        )
    if not (math.isfinite(raw.step_timeout) and raw.step_timeout > 0):
        raise place.inner("step_timeout").error(
            "must be a positive number of seconds", "write for example 3600"
        )
    _check_parameter(raw.params, place.inner("params"), _DEPTH)
    today = today or dt.datetime.now(dt.UTC).date()
    if raw.expires < today:
        raise place.inner("expires").error(
            f"the job expired on {raw.expires}, and this machine's clock says {today}",
            "agree on a new date with the other parties (the job then needs its approvals again)",
        )
    job = Job(
        kind=raw.kind,
        purpose=raw.purpose,
        expires=raw.expires,
        parties=parties,
        data={PartyId(party): name for party, name in raw.data.items()},
        params=raw.params,
        inputs=raw.inputs,
        step_timeout=raw.step_timeout,
    )
    if federation is not None:
        check_members(job.members, federation, path)
    return job


def declared(party: PartyConfig, data_set: str) -> DataConfig:
    """Return the declaration of a data set of this party.

    Raises:
        ConfigError: there is no such data set.
    """
    if data_set not in party.data:
        raise ConfigError(
            f"party.toml: {party.name} has no data set {data_set!r}", remedy=nearest(data_set, party.data)
        )
    return party.data[data_set]


def id_schema(party: PartyConfig, data_set: str) -> "IdSchema":
    """Return how the ids of a data set of this party are normalised.

    Raises:
        ConfigError: there is no such data set, or its ``ids`` are missing or cannot be used.
    """
    from veilsum.data.ids import IdSchema

    found = declared(party, data_set)
    place = Place(party.home / "party.toml").inner("data").inner(data_set).inner("ids")
    if not found.ids:
        raise place.error(
            "is missing, and an alignment needs it",
            'say what identifies a row: ids = { columns = ["phone"], kind = "phone", region = "US" }',
        )
    return read_table(found.ids, IdSchema, place)


def check_members(names: Iterable[PartyId], federation: Federation, file: Path) -> None:
    """Check that a federation has all the named parties; ``file`` is where they are named.

    Raises:
        ConfigError: one is missing.
    """
    for name in names:
        if name not in federation.members:
            raise ConfigError(
                f"{file.name}: {name!r} is not in the federation {federation.name!r}",
                remedy=nearest(name, federation.members) + " (`veilsum federation add CARD` adds a party)",
            )


def _check_name(name: str, place: Place) -> None:
    if not NAME.fullmatch(name):
        raise place.error(
            f"{name!r} is not a party's name",
            "use a-z, 0-9 and -, at most 63 characters, not starting with -",
        )


def _check_address(address: str, place: Place) -> None:
    if not address:
        return
    try:
        split_address(address)
    except ConfigError as error:
        raise place.error(error.message, error.remedy) from None


def _floor(floor: Floor, place: Place) -> Floor:
    for name in ("min_group", "max_rows", "max_runs", "max_signatures", "approvals"):
        if not 0 <= getattr(floor, name) <= _LARGEST:
            raise place.inner(name).error("must not be negative", "write 0 or more")
    if not (math.isfinite(floor.max_epsilon) and floor.max_epsilon >= 0):
        raise place.inner("max_epsilon").error("must be a finite number, 0 or more", "write for example 8.0")
    return floor


def _approvers(raw: dict[str, str], place: Place) -> dict[str, bytes]:
    people: dict[str, bytes] = {}
    for person, text in raw.items():
        here = place.inner(person)
        _check_name(person, here)
        key = certificates.from_base64(text, f"{place.file.name}: {here.key}")
        if len(key) != 32:
            raise here.error(
                "is not an Ed25519 public key", "copy the line that `identity new --person` printed"
            )
        if key in people.values():
            raise here.error("repeats another person's key", "every person needs a key of their own")
        people[person] = key
    return people


def _role(value: str | list[str], place: Place) -> tuple[PartyId, ...]:
    group = [value] if isinstance(value, str) else value
    for name in group:
        _check_name(name, place)
    if len(set(group)) != len(group):
        raise place.error("names a party twice", "name every party of a role once")
    return tuple(PartyId(name) for name in group)


def _check_parameter(value: Any, place: Place, depth: int) -> None:
    """Refuse what has no single JSON encoding: it could not be hashed alike everywhere."""
    if depth == 0:
        raise place.error("is nested too deeply", f"at most {_DEPTH} levels are read")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_parameter(inner, place.inner(key), depth - 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_parameter(inner, place.inner(str(number)), depth - 1)
    elif isinstance(value, (dt.date, dt.time)):
        raise place.error(f"must not be {toml.type_name(value)}", "write it as a text in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        raise place.error("must be a finite number", "write a number, or leave the key out")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise place.error("is too large", "write numbers of at most 63 bits")
