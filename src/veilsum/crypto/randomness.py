"""Where randomness comes from: one seam to the system, and deterministic streams below it."""

import secrets

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray


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

    def numbers(self, attempt: int, stage: str, index: int, count: int) -> NDArray[np.uint64]:
        """Return ``count`` independent uniform 64-bit numbers, from a ChaCha20 key stream (RFC 8439)."""
        key = self.derive(attempt, stage, index, 32)
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
        return np.frombuffer(stream, "<u8")
