"""Approvals: a person signs a job's hash, and the node refuses a job without the ones its policy asks for."""

import datetime as dt
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from veilsum import jobs
from veilsum.errors import ApprovalMissing, ConfigError
from veilsum.node.config import PartyConfig
from veilsum.parties import NAME
from veilsum.store.files import full_or_broken, write_whole

_LARGEST = 65536  # bytes of an approval file; a real one has about 500


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One person's signature under one job.

    Attributes:
        job: the job's hash, 64 hex digits.
        time: UTC, ISO 8601 to the second.
        note: what the person wanted to say with it.
        public_key: raw Ed25519 key, 64 hex digits.
        signature: Ed25519 over `digest` ("approval", the other fields), 128 hex digits.
    """

    job: str
    person: str
    time: str
    note: str
    public_key: str
    signature: str = ""


def approve(
    job_hash: bytes, person: str, key: Ed25519PrivateKey, note: str, *, now: dt.datetime | None = None
) -> Approval:
    """Sign a job hash (32 bytes) with a person's key.

    Raises:
        ConfigError: the person's name cannot be used.
    """
    if not NAME.fullmatch(person):
        raise ConfigError(f"{person!r} is not a person's name here", remedy="use the name under [approvers]")
    time = (now or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    unsigned = Approval(
        job=job_hash.hex(),
        person=person,
        time=f"{time:%Y-%m-%dT%H:%M:%SZ}",
        note=note,
        public_key=public.hex(),
    )
    return msgspec.structs.replace(unsigned, signature=key.sign(_digest(unsigned)).hex())


def save_approval(folder: Path, approval: Approval) -> Path:
    """Write an approval into a folder and return its path; the same person's later one replaces it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise full_or_broken(error, folder) from error
    path = folder / f"{approval.job[:16]}-{approval.person}.approval"
    write_whole(path, jobs.canonical(msgspec.to_builtins(approval)) + b"\n", mode=0o644)
    return path


def check(job_hash: bytes, party: PartyConfig, folder: Path | None = None) -> list[Approval]:
    """Return the valid approvals of a job, at least as many as the party's floor asks for.

    Args:
        job_hash: 32 bytes.
        party: says who may approve and how many must.
        folder: where the approvals lie; the party's own folder by default.

    Raises:
        ApprovalMissing: there are too few.
        ConfigError: an approval of this job is malformed, does not verify or comes from a stranger.
    """
    folder = party.approvals if folder is None else folder
    found: dict[str, Approval] = {}
    for path in sorted(folder.glob(f"{job_hash.hex()[:16]}-*.approval")):
        approval = read_approval(path)
        if approval.job != job_hash.hex():
            continue
        if party.approvers.get(approval.person, b"").hex() != approval.public_key:
            raise ConfigError(
                f"{path}: {approval.person!r} with this key may not approve for {party.name}",
                remedy="remove the file, or add the person's public key under [approvers] in party.toml",
            )
        found[approval.person] = approval
    missing = party.floor.approvals - len(found)
    if missing > 0:
        waiting = sorted(party.approvers.keys() - found.keys())
        raise ApprovalMissing(
            f"{party.name} asks for {party.floor.approvals} approvals of this job and has {len(found)}; "
            f"these persons may approve: {', '.join(waiting)}",
            remedy=f"veilsum approve JOB --person {waiting[0] if waiting else 'NAME'}",
            party=party.name,
        )
    return [found[person] for person in sorted(found)]


def read_approval(path: Path) -> Approval:
    """Read an approval file and verify its signature.

    Raises:
        ConfigError: it is unreadable or malformed, or its signature does not verify.
    """
    try:
        content = path.read_bytes()[: _LARGEST + 1]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", remedy="check its owner") from error
    try:
        approval = msgspec.json.decode(content, type=Approval)
        verify(approval)
    except (msgspec.MsgspecError, ValueError, InvalidSignature) as error:
        raise ConfigError(
            f"{path} is not a valid approval", remedy="remove it and let the person approve the job again"
        ) from error
    return approval


def verify(approval: Approval) -> None:
    """Verify an approval's signature under the key it names.

    Raises:
        InvalidSignature: it does not verify.
        ValueError: a field is not what it should be.
    """
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(approval.public_key))
    key.verify(bytes.fromhex(approval.signature), _digest(approval))


def _digest(approval: Approval) -> bytes:
    return jobs.digest("approval", msgspec.to_builtins(msgspec.structs.replace(approval, signature="")))
