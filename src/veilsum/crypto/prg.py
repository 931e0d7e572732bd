"""A pseudorandom generator whose holders draw the same words in the same order."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 16
_ZEROS = memoryview(bytes(1 << 18))


class Prg:
    """AES-128 in counter mode (NIST SP 800-38A) from a counter of zero, as 64-bit words.

    Two holders of a key that draw the same numbers of words get the same words; `position` shows
    whether they did.

    Args:
        key: 16 bytes, for this generator alone.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self.position = 0

    def __repr__(self) -> str:
        return f"Prg(at word {self.position})"

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """Return the next words, shape ``shape`` uint64."""
        out = np.empty(shape, np.uint64)
        self.fill(out)
        return out

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Fill a contiguous array with the next words."""
        if not out.size:
            return
        view = out.reshape(-1).data.cast("B")
        for at in range(0, len(view), len(_ZEROS)):
            part = view[at : at + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(part)], part)
        self.position += out.size
