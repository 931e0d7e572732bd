"""Verify records and chains, with every reason why one does not."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature

from veilsum import jobs
from veilsum.errors import ConfigError
from veilsum.net.transcript import statement
from veilsum.node import approvals, certificates
from veilsum.node.record import (
    FIRST,
    FORMAT,
    NAME,
    Record,
    chain_files,
    file_hash,
    file_name,
    invalid,
    labelled_digest,
    read_lines,
    record_digest,
)
from veilsum.parties import Member, PartyId


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A record that verifies.

    Attributes:
        digest: the record's SHA-256, 64 hex digits: what its successor calls ``previous``.
        signers: party → fingerprint of the certificate that signed here (its own, countersigning peers).
        files: how many artefact files beside it were compared with their hashes.
    """

    path: Path
    record: Record
    digest: str
    signers: dict[PartyId, str]
    files: int


def verify_record(
    path: Path, *, trusted: Mapping[PartyId, Sequence[bytes]] | None = None, files: bool = True
) -> Verified:
    """Verify one record: its form, signatures, hashes, and the artefact files that lie beside it.

    Args:
        path: the record, or a result folder with one.
        trusted: party → the certificates (DER) that may sign for it. Without it the record is only
            checked to be consistent with the certificates it names itself, whose fingerprints are
            returned for the reader to compare.
        files: compare artefact files, if the record lies in a result folder.

    Raises:
        RecordInvalid: with every reason, numbered.
    """
    path = path / NAME if path.is_dir() else path
    line, signature = read_lines(path)
    try:
        record = msgspec.json.decode(line, type=Record)
        members = msgspec.convert(json.loads(record.statement)["federation"], dict[PartyId, Member])
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid(path, ["it does not have the form of a record"]) from error
    if not re.fullmatch(r"[0-9a-f]{32}", record.run):
        raise invalid(path, ["its run id is not one"])
    reasons = [*_form(record, line), *_signatures(record, line, signature, members)]
    signers = {record.party, *(transcript.peer for transcript in record.transcripts if transcript.signature)}
    prints = {name: members[name].fingerprint for name in sorted(signers) if name in members}
    if trusted is not None:
        strange = [name for name in prints if members[name].certificate not in trusted.get(name, ())]
        reasons += [f"the certificate of {name} ({prints[name][:16]}…) is not trusted" for name in strange]
    compared = 0
    if files and path.name == NAME:
        broken, compared = _files(path.parent, record)
        reasons += broken
    if reasons:
        raise invalid(path, reasons)
    return Verified(
        path=path, record=record, digest=record_digest(line).hex(), signers=prints, files=compared
    )


def verify_chain(folder: Path, *, trusted: Mapping[PartyId, Sequence[bytes]] | None = None) -> list[Verified]:
    """Verify all records of a party's chain and that none is missing, added or moved.

    That the newest records were cut off shows only to those who noted the head's digest elsewhere.

    Raises:
        RecordInvalid: with the first record that does not verify, or every break of the chain.
    """
    verified: list[Verified] = []
    reasons: list[str] = []
    for number, path in enumerate(chain_files(folder), start=1):
        found = verify_record(path, trusted=trusted, files=False)
        record = found.record
        if path.name != file_name(record.sequence, record.run):
            reasons.append(f"{path.name} holds record {record.sequence} of run {record.run[:8]}")
        if record.sequence != number:
            reasons.append(f"{path.name} stands in place {number}")
        if record.previous != (verified[-1].digest if verified else FIRST):
            reasons.append(f"{path.name} does not follow the record before it")
        if verified and record.party != verified[0].record.party:
            reasons.append(f"{path.name} belongs to {record.party}")
        verified.append(found)
    if reasons:
        raise invalid(folder, reasons)
    return verified


def _form(record: Record, line: bytes) -> Iterator[str]:
    """Check what can be checked without any key."""
    if record.format != FORMAT:
        yield f"its format is not {FORMAT}"
    if jobs.canonical(msgspec.json.decode(line)) != line or _has_float(msgspec.json.decode(line)):
        yield "it is not in canonical form"
    content = json.loads(record.statement)
    if jobs.canonical(msgspec.json.decode(record.statement)).decode() != record.statement:
        yield "its statement is not in canonical form"
    if labelled_digest("job", record.statement.encode()).hex() != record.job_hash:
        yield "the job hash is not that of its statement"
    job = content.get("job")
    if not isinstance(job, dict) or (job.get("purpose"), job.get("expires")) != (
        record.purpose,
        record.expires,
    ):
        yield "its purpose or expiry is not the statement's"
    if (record.outcome.status == "completed") != (not record.outcome.code):
        yield "its outcome contradicts its error code"
    for time in (record.started, record.ended):
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time):
            yield f"{time!r} is not a time"
    if record.ended < record.started:
        yield "it ended before it started"


def _signatures(
    record: Record, line: bytes, signature: bytes, members: dict[PartyId, Member]
) -> Iterator[str]:
    """Check the party's signature, its peers' and its approvers'."""
    if not _signed(members.get(record.party), record.party, signature, record_digest(line)):
        yield f"the signature of {record.party} does not verify"
    for transcript in record.transcripts:
        peer = transcript.peer
        if not transcript.signature:
            if record.outcome.status == "completed":
                yield f"{peer} did not countersign a completed run"
            continue
        hashes = _hex(transcript.sent_hash), _hex(transcript.received_hash)
        said = statement(record.run, record.party, hashes[0], peer, hashes[1])
        if not _signed(members.get(peer), peer, _hex(transcript.signature), said):
            yield f"the countersignature of {peer} does not verify"
    for approval in record.approvals:
        try:
            approvals.verify(approval)
        except (InvalidSignature, ValueError):
            yield f"the approval of {approval.person} does not verify"
        if approval.job != record.job_hash:
            yield f"the approval of {approval.person} is of another job"


def _files(folder: Path, record: Record) -> tuple[list[str], int]:
    reasons: list[str] = []
    compared = 0
    for files in record.artefacts.values():
        for name, expected in files.items():
            if name != Path(name).name or name in {"", ".", ".."}:
                reasons.append(f"{name!r} is not a file of the folder")
                continue
            try:
                actual = file_hash(folder / name)
            except OSError:
                reasons.append(f"{name} is missing")
                continue
            compared += 1
            if actual != expected:
                reasons.append(f"{name} has been changed")
    return reasons, compared


def _signed(member: Member | None, name: str, signature: bytes, message: bytes) -> bool:
    if member is None:
        return False
    try:
        certificates.check_owner(member.certificate, name)
        certificates.public_key(member.certificate).verify(signature, message)
    except (ConfigError, InvalidSignature):
        return False
    return True


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_float(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_has_float(inner) for inner in value)
    return isinstance(value, float)
