"""Measure the native kernels on one core, every path of this machine, beside OpenSSL and the portable paths.

Each row takes turns with its peer (ours, peer, ours, peer, …); what is reported is the best of each.
"""

import argparse
import hashlib
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rows import Row, against, emit, limited, say
from veilsum.arith import cpu, sha512, x25519

SCALAR = bytes(range(32))
DST = b"veilsum/bench/kernels"
MULTIPLY_GOAL = 190_000.0  # op/s of a core, on the ifma path
ENCODE_GOAL = 1_000_000.0


def rates(repetitions: int, *contenders: tuple[Callable[[], object], int]) -> list[float]:
    """Return the best operations per second of every (work, operations in it), taking turns."""
    best = [0.0] * len(contenders)
    for _ in range(repetitions):
        for i, (work, operations) in enumerate(contenders):
            began = time.perf_counter()
            work()
            best[i] = max(best[i], operations / (time.perf_counter() - began))
    return best


def multiply(repetitions: int, count: int) -> list[Row]:
    points = np.random.default_rng(1).integers(0, 256, (count, 32), np.uint8)
    few = [X25519PublicKey.from_public_bytes(row.tobytes()) for row in points[:500]]
    key = X25519PrivateKey.from_private_bytes(SCALAR)

    def exchanges() -> None:
        for point in few:
            key.exchange(point)

    found = []
    for path in cpu.usable("x25519"):
        some = points if path != "portable" else points[:500]
        ours, peer = rates(
            repetitions,
            (lambda path=path, some=some: x25519.mul(SCALAR, some, path=path), len(some)),  # type: ignore[misc]
            (exchanges, len(few)),
        )
        found.append(against(f"x25519 multiply, {path}", "op/s", ours, peer, "OpenSSL by cryptography"))
        if path == "ifma":
            found.append(limited("x25519 multiply, ifma, a core", "op/s", ours, MULTIPLY_GOAL))
    return found


def encode(repetitions: int, count: int) -> list[Row]:
    messages = [b"%012d" % i for i in range(count)]
    data, offsets = b"".join(messages), np.arange(count + 1, dtype=np.int64) * 12
    found = []
    for path in cpu.usable("x25519"):
        ours, portable = rates(
            repetitions,
            (lambda path=path: x25519.encode(data, offsets, DST, path=path), count),  # type: ignore[misc]
            (lambda: x25519.encode(data, offsets[:5001], DST, path="portable"), 5000),
        )
        if path == "portable":
            found.append(limited("x25519 encode, portable", "op/s", ours, None))
            continue
        found.append(against(f"x25519 encode, {path}", "op/s", ours, portable, "the portable path"))
        found.append(limited(f"x25519 encode, {path}, a core", "op/s", ours, ENCODE_GOAL))
    return found


def digest(repetitions: int, count: int) -> list[Row]:
    messages = [b"%012d" % i for i in range(count)]
    data, offsets = b"".join(messages), np.arange(count + 1, dtype=np.int64) * 12

    def library() -> None:
        for message in messages:
            hashlib.sha512(message).digest()

    found = []
    for path in cpu.usable("sha512"):
        ours, peer = rates(
            repetitions,
            (lambda path=path: sha512.digest(data, offsets, path=path), count),  # type: ignore[misc]
            (library, count),
        )
        found.append(against(f"sha512 of 12 bytes, {path}", "op/s", ours, peer, "hashlib, a Python loop"))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a few seconds")
    repetitions, count = (5, 4096) if parser.parse_args().quick else (20, 16384)
    rows: list[Row] = []
    for measure in (multiply, encode, digest):
        say(f"{measure.__name__} …")
        rows += measure(repetitions, count)
    emit("kernels", rows)


if __name__ == "__main__":
    main()
