"""Who takes part: names, addresses and certificates. All of it is public."""

import hashlib
import re
from typing import NewType

import msgspec

PartyId = NewType("PartyId", str)
Role = NewType("Role", str)
RunId = NewType("RunId", str)
"""32 hex digits that every party of a run derives alike."""
SessionId = NewType("SessionId", bytes)
"""16 random bytes: one process's one attempt at a run."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party as the others know it.

    Attributes:
        certificate: the self-signed Ed25519 X.509 certificate, DER.
        address: ``host:port`` to be dialled at, or empty for a party that only dials.
    """

    certificate: bytes
    address: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate as 64 hex digits: derived and shown, never typed."""
        return hashlib.sha256(self.certificate).hexdigest()


class Federation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The organisations that may compute together; the file is identical everywhere."""

    name: str
    members: dict[PartyId, Member]

    def dialler(self, one: PartyId, other: PartyId) -> PartyId | None:
        """Return which of two parties dials, or None when neither has an address.

        The one without an address dials; with two addresses the later in the file does.
        """
        reachable = [party for party in self.members if party in {one, other} and self.members[party].address]
        if not reachable:
            return None
        return other if reachable[0] == one else one
