"""Private set intersection by hand: the cryptography of the mode ``open`` without its network.

Alice learns which of her ids Bob has too; Bob learns only how many ids she has. The steps are those of
C. Meadows (IEEE S&P 1986); in the real protocol, ``veilsum/protocols/dh_ring.py``, the arrays travel over
TLS in batches, and one party may be a neutral collector.

    python examples/psi_by_hand.py 100000
"""

import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import dh

Points = NDArray[np.uint8]  # shape (n, 32): u-coordinates on Curve25519


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print a step and how long it took."""
    began = time.perf_counter()
    yield
    print(f"{text:<70}{1000 * (time.perf_counter() - began):8.1f} ms")


def hash_ids(ids: Sequence[str]) -> Points:
    """Hash ids to points: the same id gives the same point, and nobody knows how two points are related."""
    forms = [text.encode() for text in ids]
    offsets = np.cumsum([0, *map(len, forms)]).astype(np.int64)
    return dh.hash_to_points(b"".join(forms), offsets)


def intersect(alice: list[str], bob: list[str]) -> set[str]:
    """Return what Alice learns: which of her ids Bob has too."""
    width = dh.tag_width(len(alice), len(bob))

    with step("1  both choose a secret scalar and shuffle their ids"):
        key_a, key_b = dh.gen_key(secrets.token_bytes(32)), dh.gen_key(secrets.token_bytes(32))
        secrets.SystemRandom().shuffle(alice)
        secrets.SystemRandom().shuffle(bob)

    with step("2  Alice -> Bob: H(x)^a for each of her ids x"):
        from_alice = dh.mask(key_a, hash_ids(alice))

    with step("3  Bob -> Alice: H(y)^b for each of his ids y"):
        from_bob = dh.mask(key_b, hash_ids(bob))

    with step("4  Bob -> Alice: H(x)^(ab), in Alice's order, cut to tags"):
        tags_alice = dh.tags(dh.mask(key_b, from_alice), width)

    with step("5  Alice masks Bob's points: H(y)^(ba), and compares"):
        tags_bob = {bytes(tag) for tag in dh.tags(dh.mask(key_a, from_bob), width)}
        shared = {x for x, tag in zip(alice, tags_alice, strict=True) if bytes(tag) in tags_bob}

    print(f"   {32 * (len(alice) + len(bob)) + width * len(alice):,} bytes would have travelled")
    return shared


def main() -> None:
    """Intersect two lists of which half is shared."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    alice = [f"user-{number}" for number in range(size)]
    bob = [f"user-{number}" for number in range(size // 2, size // 2 + size)]
    expected = set(alice) & set(bob)
    shared = intersect(alice, bob)
    assert shared == expected
    print(
        f"Alice has {size:,} ids and shares {len(shared):,} of them with Bob; the others look random to her"
    )


if __name__ == "__main__":
    main()
