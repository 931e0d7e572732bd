"""Where randomness comes from: one seam to the system, and deterministic streams below it."""

import secrets

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


def fresh(size: int) -> bytes:
    """Return ``size`` bytes from the system's generator: the only place where they enter."""
    return secrets.token_bytes(size)


class Randomness:
    """Streams derived from one secret of a run by HKDF-SHA-256 (RFC 5869, expand only).

    The same (attempt, stage, index) gives the same bytes, other ones are independent.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return f"Randomness({len(self._secret)} bytes)"

    def derive(self, attempt: int, stage: str, index: int, size: int) -> bytes:
        """Return ``size`` bytes, at most 8160."""
        info = f"veilsum/randomness/1/{attempt}/{index}/{stage}".encode()
        return HKDFExpand(hashes.SHA256(), size, info).derive(self._secret)
