"""Records: what a party can prove about a job afterwards, signed by it and countersigned by its peers.

Every job, completed, aborted or refused, appends one record to the party's chain (``state/records``).
The format is in ``docs/record-format.md``; it can be verified without this package.
"""

import contextlib
import datetime as dt
import fcntl
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

import veilsum
from veilsum import jobs
from veilsum.errors import ConfigError, RecordInvalid, StoreError
from veilsum.jobs import Job, Leak
from veilsum.node.approvals import Approval
from veilsum.node.files import create_whole, private_folder
from veilsum.node.identity import Identity
from veilsum.parties import Federation, PartyId, RunId
from veilsum.store.files import full_or_broken, write_whole

FORMAT = "veilsum-record/1"
NAME = "record.vsr"
FIRST = "0" * 64
_LARGEST = 16 << 20  # bytes of a record that a verifier reads


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this party and a peer said to each other, with the peer's signature under the same.

    Attributes:
        sent_hash: SHA-256 over what this party sent to the peer, 64 hex digits.
        received_hash: likewise over what it received.
        messages: in both directions.
        bytes: payload in both directions.
        signature: the peer's over both hashes, 128 hex digits; empty if the peer was lost first.
    """

    peer: PartyId
    sent_hash: str
    received_hash: str
    messages: int
    bytes: int
    signature: str = ""


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the job ended; an error's code and public text where it did not end well."""

    status: Literal["completed", "aborted", "refused"]
    code: str = ""
    text: str = ""


class Software(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which veilsum ran: its version and `build_hash`."""

    version: str
    build: str


class Leaks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the job was declared to leak before it ran, and what it did leak."""

    before: tuple[Leak, ...]
    after: tuple[Leak, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed body; see ``docs/record-format.md`` for every field."""

    format: str
    party: PartyId
    sequence: int
    previous: str
    statement: str
    job_hash: str
    purpose: str
    expires: str
    run: RunId
    attempts: int
    veilsum: Software
    algorithms: dict[str, Any]
    data: dict[str, str]
    transcripts: tuple[Transcript, ...]
    leaks: Leaks
    approvals: tuple[Approval, ...]
    started: str
    ended: str
    outcome: Outcome
    artefacts: dict[str, dict[str, str]]


def build_hash(package: Path | None = None) -> str:
    """Return SHA-256 (64 hex digits) over the .py and .so files of the installed package, sorted by path."""
    # an editable installation keeps its compiled files in a second folder of the package
    roots = [package] if package else [Path(folder) for folder in veilsum.__path__]
    found = [(path.relative_to(root).as_posix(), path) for root in roots for path in root.rglob("*.*")]
    files = {name: path for name, path in found if path.suffix in {".py", ".so"}}
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(name.encode() + b"\0" + hashlib.sha256(files[name].read_bytes()).digest())
    return total.hexdigest()


def fingerprint_salt(state: Path, run: RunId) -> bytes:
    """Return the salt (32 bytes) with which one run's record fingerprints this party's data.

    It comes from a secret of this party, made on first use. Without it nobody can test a guess at the
    data, nor see that two runs used the same data; with it the party can prove to an auditor which data
    a record is about.

    Args:
        state: the party's private folder.
        run: 32 hex digits.

    Raises:
        StoreError: the secret cannot be read or made.
    """
    path = private_folder(state) / "salt"
    if not path.exists():
        with contextlib.suppress(ConfigError):  # another process was first, and its salt is the salt
            create_whole(path, secrets.token_bytes(32))
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise full_or_broken(error, path) from error
    if len(secret) != 32:
        raise StoreError(
            f"{path} is damaged", remedy="restore it from its backup, or remove it to make a new one"
        )
    return hmac.digest(secret, b"veilsum/fingerprint/1" + run.encode(), "sha256")


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return name → SHA-256 (64 hex digits) of files in a folder.

    Raises:
        StoreError: one cannot be read.
    """
    try:
        return {name: file_hash(folder / name) for name in sorted(names)}
    except OSError as error:
        raise full_or_broken(error, folder) from error


def write_record(
    folder: Path | None,
    chain: Path,
    *,
    identity: Identity,
    job: Job,
    federation: Federation,
    run: RunId,
    attempts: int,
    outcome: Outcome,
    started: float,
    ended: float,
    leaks_before: Sequence[Leak] = (),
    leaks_after: Sequence[Leak] = (),
    algorithms: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    transcripts: Sequence[Transcript] = (),
    approvals: Sequence[Approval] = (),
    artefacts: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Sign a record and append it to the party's chain; return its path there.

    Args:
        folder: the result folder that gets a copy (``record.vsr``), or None.
        chain: the folder of the chain.
        identity: the party that signs; its certificate must be the federation's.
        job: as it was agreed.
        federation: as it was agreed.
        run: 32 hex digits.
        attempts: how often the run was started, this time included.
        outcome: how it ended.
        started: seconds since the epoch.
        ended: seconds since the epoch.
        leaks_before: what ``explain`` said.
        leaks_after: what really became known.
        algorithms: parameters and code paths; fractions and numbers over 63 bits become texts.
        data: own data set → its fingerprint under `fingerprint_salt`, 64 hex digits.
        transcripts: one per peer.
        approvals: the ones the node accepted.
        artefacts: artefact id → file name → SHA-256, as `hash_files` gives it.

    Raises:
        ConfigError: the federation does not know this identity.
        StoreError: the chain cannot be written.
    """
    member = federation.members.get(identity.name)
    if member is None or member.certificate != identity.certificate:
        raise ConfigError(
            f"the job's federation does not hold the certificate of {identity.name}",
            remedy=f"veilsum federation add {identity.name}.card",
        )
    content = jobs.statement(job, federation)

    def body(sequence: int, previous: str) -> Record:
        return Record(
            format=FORMAT,
            party=identity.name,
            sequence=sequence,
            previous=previous,
            statement=jobs.canonical(content).decode(),
            job_hash=jobs.job_hash(job, federation).hex(),
            purpose=job.purpose,
            expires=job.expires.isoformat(),
            run=run,
            attempts=attempts,
            veilsum=Software(veilsum.__version__, build_hash()),
            algorithms=_plain(algorithms or {}),
            data=dict(data or {}),
            transcripts=tuple(sorted(transcripts, key=lambda transcript: transcript.peer)),
            leaks=Leaks(tuple(leaks_before), tuple(leaks_after)),
            approvals=tuple(approvals),
            started=_time(started),
            ended=_time(max(started, ended)),  # a clock that was set back makes no bad record
            outcome=outcome,
            artefacts={name: dict(files) for name, files in (artefacts or {}).items()},
        )

    return _append(chain, folder, run, body, identity)


def chain_files(folder: Path) -> list[Path]:
    """Return the records of a chain in order."""
    return sorted(path for path in folder.glob("*.vsr") if not path.name.startswith("."))


def file_name(sequence: int, run: str) -> str:
    """Return what a record is called in its chain."""
    return f"{sequence:06d}-{run[:8]}.vsr"


def read_lines(path: Path) -> tuple[bytes, bytes]:
    """Return the body's line and the signature (64 bytes)."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise RecordInvalid(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    lines = content.split(b"\n")
    match = re.fullmatch(rb'\{"signature":"([0-9a-f]{128})"\}', lines[1]) if len(lines) == 3 else None
    if match is None or lines[2] or len(content) > _LARGEST:
        raise invalid(path, ["it does not have the two lines of a record"])
    return lines[0], bytes.fromhex(match[1].decode())


def record_digest(line: bytes) -> bytes:
    """Return the 32 bytes that the party signs and the next record calls ``previous``."""
    return labelled_digest("record", line)


def labelled_digest(domain: str, text: bytes) -> bytes:
    """Do what `jobs.digest` does, on text that is canonical already."""
    label = f"veilsum/{domain}/1".encode()
    return hashlib.sha256(bytes([len(label)]) + label + text).digest()


def invalid(path: Path, reasons: Sequence[str]) -> RecordInvalid:
    """Return the error that lists the reasons, numbered."""
    listed = "; ".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))
    return RecordInvalid(
        f"{path} does not verify: {listed}",
        remedy="compare it with a backup and with the other parties' records of the same run",
    )


def _append(
    chain: Path, folder: Path | None, run: RunId, body: Callable[[int, str], Record], identity: Identity
) -> Path:
    private_folder(chain)
    try:
        with (chain / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of one party may end at the same time
            existing = chain_files(chain)
            last = read_lines(existing[-1])[0] if existing else b""
            previous = record_digest(last).hex() if last else FIRST
            sequence = _sequence(existing[-1], last) + 1 if last else 1
            line = jobs.canonical(msgspec.to_builtins(body(sequence, previous)))
            signature = jobs.canonical({"signature": identity.sign(record_digest(line)).hex()})
            path = chain / file_name(sequence, run)
            create_whole(path, line + b"\n" + signature + b"\n")
            if folder is not None:
                write_whole(folder / NAME, line + b"\n" + signature + b"\n", mode=0o644)
    except OSError as error:
        raise full_or_broken(error, chain) from error
    return path


def _sequence(path: Path, line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=Record).sequence
    except msgspec.MsgspecError as error:
        raise invalid(path, ["it does not have the form of a record"]) from error


def _plain(value: Any) -> Any:
    """Turn a value into texts, whole numbers, booleans, lists and tables."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and abs(value) >= 2**63:
        return str(value)  # more than many JSON readers hold
    return value if isinstance(value, (str, bool, int)) else str(value)


def _time(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def file_hash(path: Path) -> str:
    """Return SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
