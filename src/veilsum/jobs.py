"""A job: what is computed, by whom, on which data sets, for what purpose; and its canonical hash."""

import datetime as dt
import hashlib
from typing import Any

import msgspec

from veilsum.parties import Federation, PartyId, Role

Parameter = bool | int | float | str | list[Any] | dict[str, Any]


class Leak(msgspec.Struct, frozen=True):
    """One row of a leak table: after the run, ``who`` knows ``what``.

    Attributes:
        part: ``alignment``, ``modelling``, … (the part of the job that leaks it).
        who: a role of the protocol.
        what: in words a compliance officer reads.
    """

    part: str
    who: str
    what: str


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same at every party; it names data sets, never paths.

    Attributes:
        parties: role → the parties that play it, in order.
        data: party → the name of its data set, for those that bring one.
        inputs: a name → the id of an artefact of an earlier job.
        step_timeout: seconds a live but slow peer may take for one step.
    """

    kind: str
    purpose: str
    expires: dt.date
    parties: dict[Role, tuple[PartyId, ...]]
    data: dict[PartyId, str] = {}
    params: dict[str, Parameter] = {}
    inputs: dict[str, str] = {}
    step_timeout: float = 3600.0

    @property
    def members(self) -> tuple[PartyId, ...]:
        """Every party of the job once, in the order of roles."""
        return tuple(dict.fromkeys(party for group in self.parties.values() for party in group))

    def roles(self, party: PartyId) -> tuple[Role, ...]:
        """Return the roles that a party plays (none if it is not in the job)."""
        return tuple(role for role, group in self.parties.items() if party in group)


class Floor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no job can lower at this party.

    Attributes:
        min_group: the smallest number of rows a released figure may rest on, and of ids that a peer may bring
            into an alignment.
        max_epsilon: the most differential-privacy budget a data set gives, in all.
        max_rows: the most rows of one data set that enter a job.
        max_runs: the most jobs that may learn something about one data set, in all.
        max_signatures: the most blind signatures that one peer is given under one key of a data set, over
            the whole life of the key; for a key that is made anew in every run, the most of one run.
        approvals: how many persons of this party must sign a job before its node takes part.
    """

    min_group: int = 1
    max_epsilon: float = 8.0
    max_rows: int = 2_000_000_000
    max_runs: int = 1_000_000
    max_signatures: int = 2_000_000_000
    approvals: int = 0


def canonical(value: Any) -> bytes:
    """Return the one encoding that is hashed and signed: JSON, sorted keys, no spaces, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def digest(domain: str, value: Any) -> bytes:
    """Return SHA-256 over a domain and the canonical encoding (32 bytes)."""
    label = f"veilsum/{domain}/1".encode()
    return hashlib.sha256(bytes([len(label)]) + label + canonical(value)).digest()


def statement(job: Job, federation: Federation) -> dict[str, Any]:
    """Return what the parties agree on: the job, and the federation's entries of its members."""
    members = {p: federation.members[p] for p in job.members if p in federation.members}
    body: dict[str, Any] = msgspec.to_builtins({"job": job, "federation": members})
    return body


def job_hash(job: Job, federation: Federation) -> bytes:
    """Return the job's hash (32 bytes), which every party compares before anything else."""
    return digest("job", statement(job, federation))


def key_digests(job: Job, federation: Federation) -> dict[str, bytes]:
    """Return an 8-byte digest per dotted key, so that a mismatch can be named without showing values."""
    leaves: dict[str, bytes] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            leaves[prefix] = digest("job-key", [prefix, value])[:8]

    walk("", statement(job, federation))
    return {key.removeprefix("job."): leaf for key, leaf in leaves.items()}


def differing(mine: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    """Return the dotted keys in which two jobs differ, sorted."""
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
