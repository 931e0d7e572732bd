"""Measure the native kernels on one core, every path of this machine, beside OpenSSL and the portable paths.

Each row takes turns with its peer (ours, peer, ours, peer, …); what is reported is the best of each.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rows import Row, against, emit, limited, say
from veilsum.arith import cpu, modexp, ring, ring_twin, sha512, x25519

SCALAR = bytes(range(32))
DST = b"veilsum/bench/kernels"
MULTIPLY_GOAL = 190_000.0  # op/s of a core, on the ifma path
ENCODE_GOAL = 1_000_000.0
PUBLIC_EXPONENT = 65537
PRIVATE_GOAL = 2.5  # times OpenSSL's RSA-2048
ROOTS_GOAL = {2048: 8_000.0, 3072: 2_600.0}  # op/s of a core, on the ifma path, with two primes
THREE_PRIMES_GOAL = 5_500.0
POWER_GOAL = 250_000.0
PRODUCT_GOAL = 1_000_000.0
MATMUL_GOALS = {"amx": 20e9, "avx512": 8e9}  # products of words a second, of a core
PLANES_GOAL = 0.5e9  # words a second, all 64 planes, on the avx512 path


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


def numbers(key: modexp.CrtKey, count: int) -> modexp.Rows:
    rows = np.random.default_rng(2).integers(0, 256, (count, key.width), np.uint8)
    rows[:, 0] = 0  # below every modulus
    return rows


def roots(repetitions: int, count: int) -> list[Row]:
    found = []
    for bits in (2048, 3072):
        signer = rsa.generate_private_key(PUBLIC_EXPONENT, bits)
        private = signer.private_numbers()
        keys = {"two primes": modexp.CrtKey([private.p, private.q], PUBLIC_EXPONENT)}
        if bits == 3072:
            keys["three primes"] = modexp.CrtKey(_three_primes(), PUBLIC_EXPONENT)

        def sign(signer: rsa.RSAPrivateKey = signer) -> None:
            for _ in range(32):
                signer.sign(b"", padding.PKCS1v15(), hashes.SHA256())

        for name, key in keys.items():
            for path in cpu.usable("modexp"):
                rows = numbers(key, count // 64 if path != "portable" else 4)
                ours, peer = rates(
                    repetitions,
                    (partial(modexp.private_power, rows, key, path=path), len(rows)),
                    (sign, 32),
                )
                label = f"RSA-{bits} private, {name}, {path}"
                goal = PRIVATE_GOAL if (bits, path) == (2048, "ifma") else None
                found.append(against(label, "op/s", ours, peer, "OpenSSL by cryptography", goal=goal))
                if path == "ifma":
                    limit = ROOTS_GOAL[bits] if name == "two primes" else THREE_PRIMES_GOAL
                    found.append(limited(f"{label}, a core", "op/s", ours, limit))
    return found


def _three_primes() -> list[int]:
    """Return three primes of 1024 bits."""
    pair = [rsa.generate_private_key(PUBLIC_EXPONENT, 2048).private_numbers() for _ in range(2)]
    return [pair[0].p, pair[0].q, pair[1].p]


def powers(repetitions: int, count: int) -> list[Row]:
    found = []
    for bits in (2048, 3072):
        modulus = rsa.generate_private_key(PUBLIC_EXPONENT, bits).public_key().public_numbers().n
        for path in cpu.usable("modexp"):
            rows = np.random.default_rng(3).integers(0, 256, (count, bits // 8), np.uint8)
            rows[:, 0] = 0  # below the modulus
            few = rows[: count // 4 if path != "portable" else 64]
            power, product = rates(
                repetitions,
                (partial(modexp.power, few, PUBLIC_EXPONENT, modulus, path=path), len(few)),
                (partial(modexp.product, rows, rows, modulus, path=path), count),
            )
            goals = (POWER_GOAL, PRODUCT_GOAL) if (bits, path) == (2048, "ifma") else (None, None)
            found.append(limited(f"RSA-{bits} public, {path}", "op/s", power, goals[0]))
            found.append(limited(f"product modulo {bits} bits, {path}", "op/s", product, goals[1]))
    return found


def matrices(repetitions: int, count: int) -> list[Row]:
    del count  # the size decides what is measured: 512 by 512 by 512
    size, few = 512, 64
    a, b = np.random.default_rng(4).integers(0, 2**64 - 1, (2, size, size), np.uint64, endpoint=True)
    out = np.empty_like(a)
    found = []
    for path in cpu.usable("ring"):
        ours, peer = rates(
            repetitions,
            (partial(ring.matmul, a, b, out=out, path=path), size**3),
            (lambda: a[:few] @ b, few * size**2),
        )
        label = f"ring matmul {size}, {path}"
        found.append(against(label, "op/s", ours, peer, "numpy uint64", note="products of words"))
        if path in MATMUL_GOALS:
            found.append(limited(f"{label}, a core", "op/s", ours, MATMUL_GOALS[path]))
    return found


def bit_planes(repetitions: int, count: int) -> list[Row]:
    x = np.random.default_rng(5).integers(0, 2**64 - 1, 64 * count, np.uint64, endpoint=True)
    out = np.empty((64, count), np.uint64)
    found = []
    for path in cpu.usable("ring"):
        if path == "amx":
            continue  # the same kernels as avx512
        ours, peer = rates(
            repetitions,
            (partial(ring.planes, x, out=out, path=path), len(x)),
            (lambda: ring_twin.planes(x[:count]), count),
        )
        found.append(against(f"64 bit planes, {path}", "op/s", ours, peer, "the numpy twin"))
        if path == "avx512":
            found.append(limited(f"64 bit planes, {path}, a core", "op/s", ours, PLANES_GOAL))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a few seconds")
    repetitions, count = (5, 4096) if parser.parse_args().quick else (20, 16384)
    rows: list[Row] = []
    for measure in (multiply, encode, digest, roots, powers, matrices, bit_planes):
        say(f"{measure.__name__} …")
        rows += measure(repetitions, count)
    emit("kernels", rows)


if __name__ == "__main__":
    main()
