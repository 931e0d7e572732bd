"""What could stop a run on this machine, each with its remedy, before anybody else is kept waiting."""

import datetime as dt
import errno
import importlib
import importlib.metadata
import platform
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

import veilsum
from veilsum.errors import VeilsumError
from veilsum.node import cards, certificates, config, signing_keys
from veilsum.node.config import PartyConfig
from veilsum.node.exposure import Exposure
from veilsum.node.identity import check_membership, own_certificate
from veilsum.node.verification import verify_chain
from veilsum.parties import Federation, Member, PartyId

State = Literal["ok", "warn", "fail"]
_PATIENCE = 3.0  # seconds for a peer to answer
_SOON = dt.timedelta(days=30)  # before a certificate expires
_SKEW = 300.0  # seconds a file may lie in the future
_GIB = 1 << 30


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``remedy`` says what to do unless the state is ok."""

    name: str
    state: State
    message: str
    remedy: str = ""


def diagnose(home: Path | None, *, now: dt.datetime | None = None) -> list[Finding]:
    """Look at this machine and, with a ``home``, at everything one party needs for a run."""
    now = now or dt.datetime.now(dt.UTC)
    findings = [*_guarded("software", _software), *_guarded("processor", _processor)]
    folder = home or Path.cwd()
    findings += _guarded("disk", lambda: _disk(folder))
    if home is None:
        return findings
    findings += _guarded("clock", lambda: _clock(home, now))
    party: PartyConfig | None = None
    federation: Federation | None = None
    try:
        party = config.load_party(home)
        findings.append(Finding("party.toml", "ok", f"party {party.name}"))
        federation = config.load_federation(party.federation, dates=False)
        known = ", ".join(federation.members)
        findings.append(Finding("federation", "ok", f"{federation.name}: {known}"))
    except VeilsumError as error:
        findings.append(_failed("party.toml" if party is None else "federation", error))
    if party is not None:
        own, everyone = party, federation
        findings += _guarded("key", lambda: _key(own, everyone, now))
        findings += _guarded("ledger", lambda: _ledger(own))
        findings += _guarded("signing keys", lambda: _signing_keys(own))
        findings += _guarded("records", lambda: _records(own, everyone))
        for name in party.data:
            findings += _guarded(f"data {name}", lambda name=name: _data(own, name))  # type: ignore[misc]
        for name in party.models:
            findings += _guarded(f"model {name}", lambda name=name: _model(own, name))  # type: ignore[misc]
        if everyone is not None:
            findings += _guarded("port", lambda: _port(own, everyone))
            findings += _peers(own, everyone, now)
    return findings


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run one check; what it raises is its finding."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except VeilsumError as error:
        findings.append(_failed(name, error))
    except OSError as error:
        findings.append(Finding(name, "fail", str(error), "check the owner and permissions of that file"))
    return findings


def _failed(name: str, error: VeilsumError) -> Finding:
    return Finding(name, "fail", error.message, error.remedy)


def _software() -> Iterator[Finding]:
    packages = ("cryptography", "duckdb", "msgspec", "numpy", "typer")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    about = f"veilsum {veilsum.__version__}, Python {platform.python_version()}, {', '.join(versions)}"
    yield Finding("software", "ok", f"{about}, {ssl.OPENSSL_VERSION}")
    if not ssl.HAS_TLSv1_3:
        yield Finding("software", "fail", "OpenSSL has no TLS 1.3", "install a Python built with OpenSSL 3")


def _processor() -> Iterator[Finding]:
    try:
        cpu = importlib.import_module("veilsum.arith.cpu")
    except ImportError as error:
        yield Finding(
            "processor",
            "fail",
            f"the native kernels are not there ({error.name or 'not built'})",
            "install veilsum from its wheel, or build it where a C++20 compiler is",
        )
        return
    yield Finding("processor", "ok", str(cpu.describe(config.cpu_cap())))


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / _GIB
    message = f"{free:.1f} GiB free under {folder}"
    remedy = "free space, or move the party's folder; a run stops when the disk is full and can be resumed"
    state: State = "ok" if free >= 1 else "warn" if free >= 0.1 else "fail"
    yield Finding("disk", state, message, "" if state == "ok" else remedy)


def _clock(home: Path, now: dt.datetime) -> Iterator[Finding]:
    files = [path for path in home.iterdir() if path.is_file()]
    ahead = [path.name for path in files if path.stat().st_mtime > now.timestamp() + _SKEW]
    if ahead:
        yield Finding(
            "clock",
            "warn",
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but {ahead[0]} is from the future",
            "set the clock (for example with NTP): certificates and expiry dates depend on it",
        )
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")


def _key(party: PartyConfig, federation: Federation | None, now: dt.datetime) -> Iterator[Finding]:
    certificate = own_certificate(party)
    certificates.check_dates(certificate, now, f"the certificate of {party.name}")
    if federation is not None:
        check_membership(party.name, certificate, federation)
    last = certificates.validity(certificate)[1]
    message = f"sha256:{Member(certificate).fingerprint}, valid until {last:%Y-%m-%d}"
    if last - now < _SOON:
        yield Finding(
            "key", "warn", message, "veilsum identity rotate, and send the new card to the other parties"
        )
    else:
        yield Finding("key", "ok", message)
    if party.state.exists() and party.state.stat().st_mode & 0o077:
        yield Finding("key", "warn", f"{party.state} is open to others", f"chmod 700 {party.state}")


def _ledger(party: PartyConfig) -> Iterator[Finding]:
    ledger = Exposure(party.exposure)
    ledger.check()
    yield Finding("ledger", "ok", f"{len(ledger.entries())} entries")


def _signing_keys(party: PartyConfig) -> Iterator[Finding]:
    if party.signing_keys.exists():
        count = signing_keys.check(party.signing_keys)
        yield Finding("signing keys", "ok", f"{count} that serve several runs")


def _records(party: PartyConfig, federation: Federation | None) -> Iterator[Finding]:
    chain = verify_chain(party.records)
    if federation is not None and chain:
        mine = {Member(one).fingerprint for one in cards.trusted_certificates(party, federation)[party.name]}
        strange = [found.path.name for found in chain if found.signers.get(party.name) not in mine]
        if strange:
            yield Finding(
                "records",
                "fail",
                f"{strange[0]} is signed by a certificate that {party.name} never had",
                f"restore {party.records} and {party.card} from their backup",
            )
            return
    yield Finding("records", "ok", f"{len(chain)} records, chain OK")


def _data(party: PartyConfig, name: str) -> Iterator[Finding]:
    from veilsum.node.datasets import check_data_set, in_words

    report = check_data_set(party, name)
    yield Finding(f"data {name}", "ok", in_words(report))
    for warning in report.warnings:
        yield Finding(f"data {name}", "warn", warning, "look at the rows that `veilsum data check` lists")


def _model(party: PartyConfig, name: str) -> Iterator[Finding]:
    from veilsum.learn.model import Model
    from veilsum.node import architecture
    from veilsum.node.datasets import model_file

    yield Finding(f"model {name}", "ok", architecture.in_brief(Model.load(model_file(party, name)).graph))


def _port(party: PartyConfig, federation: Federation) -> Iterator[Finding]:
    member = federation.members.get(party.name)
    address = party.listen or (member.address if member else "")
    if not address:
        yield Finding("port", "ok", "this party has no address: it dials the others")
        return
    host, port = config.split_address(address)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in places[:1]:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
    except OSError as error:
        yield _port_taken(address, port, error)
    else:
        yield Finding("port", "ok", f"{address} is free to listen at")


def _port_taken(address: str, port: int, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        return Finding(
            "port",
            "warn",
            f"{address} is in use: a run of this party, or another program",
            f"if no run is under way, see who holds it (ss -ltnp 'sport = :{port}') or change the address",
        )
    if error.errno == errno.EACCES:
        return Finding(
            "port", "fail", f"{address} needs more rights than this user has", "use a port above 1023"
        )
    return Finding(
        "port",
        "fail",
        f"this machine cannot listen at {address}: {error.strerror or error}",
        f'behind address translation, write listen = "0.0.0.0:{port}" in party.toml',
    )


def _peers(party: PartyConfig, federation: Federation, now: dt.datetime) -> list[Finding]:
    others = [(name, member) for name, member in federation.members.items() if name != party.name]

    def look(entry: tuple[PartyId, Member]) -> list[Finding]:
        name, member = entry
        return _guarded(f"peer {name}", lambda: _peer(name, member, federation, now))

    with ThreadPoolExecutor(max_workers=8) as pool:
        return [finding for found in pool.map(look, others) for finding in found]


def _peer(name: PartyId, member: Member, federation: Federation, now: dt.datetime) -> Iterator[Finding]:
    title = f"peer {name}"
    certificates.check_dates(member.certificate, now, f"the certificate of {name}")
    if not member.address:
        yield Finding(title, "ok", "has no address: it dials this party")
        return
    try:
        shown = _shown_certificate(member.address)
    except ConnectionRefusedError:
        yield Finding(
            title,
            "warn",
            f"the machine at {member.address} answers, but {name} is not running now",
            f"nothing to do, unless {name} says that its run is waiting",
        )
    except ssl.SSLError as error:
        yield Finding(
            title,
            "fail",
            f"what answers at {member.address} does not speak TLS 1.3 ({error.reason or 'no handshake'})",
            f"ask {name} whether the address is still right, and for proxies in between",
        )
    except OSError as error:
        yield Finding(
            title,
            "warn",
            f"{member.address} cannot be reached: {error.strerror or error}",
            f"check the network and firewalls on the way; ask {name} whether the address is still right",
        )
    else:
        yield _compared(title, name, member, shown, federation)


def _compared(title: str, name: PartyId, member: Member, shown: bytes, federation: Federation) -> Finding:
    if shown == member.certificate:
        return Finding(title, "ok", f"answers at {member.address} with its certificate")
    known = [other for other, entry in federation.members.items() if entry.certificate == shown]
    who = known[0] if known else f"a stranger (sha256:{Member(shown).fingerprint[:16]}…)"
    return Finding(
        title,
        "fail",
        f"at {member.address} answers {who}, not the {name} of the federation file",
        f"ask {name} for its present card: its key was rotated, or the address is somebody else's",
    )


def _shown_certificate(address: str) -> bytes:
    """Return the certificate (DER) that a listener shows; it is compared, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["veilsum-link"])
    host, port = config.split_address(address)
    with (
        socket.create_connection((host, port), timeout=_PATIENCE) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""
