"""How many private operations OpenSSL makes on all cores at once: the least that blind RSA by it would take.

One private operation is one PKCS #1 v1.5 signature of a ready digest, by ``cryptography``. As a program,
``openssl_rsa.py BITS`` is one core's process.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from processes import Talker

NAME = "OpenSSL private operations alone"
_AT_ONCE = 64  # signatures between two looks at the clock


class Rate(NamedTuple):
    """Private operations, all cores busy at once.

    Attributes:
        a_second: of all cores together.
        a_core_second: in a second of processor time.
    """

    a_second: float
    a_core_second: float


def mean(rates: Sequence[Rate]) -> Rate:
    """Return the mean of some measurements."""
    return Rate(*(statistics.fmean(numbers) for numbers in zip(*rates, strict=True)))


def measure(bits: int, seconds: float) -> Rate:
    """Sign for some seconds in one process on every core.

    Raises:
        ProcessFailed: one ended or fell silent.
    """
    cores = len(os.sched_getaffinity(0))
    command = [sys.executable, str(Path(__file__)), str(bits)]
    talkers = [Talker(command, os.environ) for _ in range(cores)]
    try:
        for talker in talkers:  # every one has its key before any of them begins
            talker.answer()
        for talker in talkers:
            talker.ask(seconds=seconds)
        answers = [talker.answer() for talker in talkers]
    finally:
        for talker in talkers:
            talker.close(kill=False)
    together = sum(answer["count"] / answer["seconds"] for answer in answers)
    a_core = sum(answer["count"] for answer in answers) / sum(answer["core_seconds"] for answer in answers)
    return Rate(together, a_core)


def main() -> None:
    """Answer orders of seconds with how many signatures were made in them."""
    key = rsa.generate_private_key(65537, int(sys.argv[1]))
    how, digest, algorithm = padding.PKCS1v15(), bytes(32), Prehashed(hashes.SHA256())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        limit, count = json.loads(line)["seconds"], 0
        began, used = time.perf_counter(), time.process_time()
        while (taken := time.perf_counter() - began) < limit:
            for _ in range(_AT_ONCE):
                key.sign(digest, how, algorithm)
            count += _AT_ONCE
        used = time.process_time() - used
        print(json.dumps({"count": count, "seconds": taken, "core_seconds": used}), flush=True)


if __name__ == "__main__":
    main()
