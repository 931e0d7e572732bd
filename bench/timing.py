"""The measuring loop of every transport, ours and the peers', so that all are timed alike.

A driver process reads commands from standard input, one JSON object a line, ``{"way", "size", "rounds"}``,
and answers each with ``{"seconds": …}``, the median of one round. Only the standard library: peers run
this in environments of their own.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

ECHOED = 64 * 1024
"""A server sends back what is no longer than this, and `ACK` for anything longer."""
ACK = bytes(8)

Measure = Callable[[int, int], Awaitable[list[float]]]
"""Size in bytes and number of rounds → the seconds of every round."""


def timed(round_trip: Callable[[bytes], Awaitable[object]]) -> Measure:
    """Return the measure of one awaitable round trip."""

    async def measure(size: int, rounds: int) -> list[float]:
        payload = bytes(size)
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            await round_trip(payload)
            seconds.append(time.perf_counter() - began)
        return seconds

    return measure


def exchange_rounds(
    exchange: Callable[[bytes, bytearray], None], size: int, rounds: int | None
) -> list[float]:
    """Time blocking full-duplex rounds; None: follow the other side, whose last round begins with a 1."""
    go_on, stop, into = bytes(size), b"\1" + bytes(size - 1), bytearray(size)
    seconds: list[float] = []
    while len(seconds) != rounds:
        out = stop if rounds is not None and len(seconds) == rounds - 1 else go_on
        began = time.perf_counter()
        exchange(out, into)
        seconds.append(time.perf_counter() - began)
        if rounds is None and into[0]:
            break
    return seconds


async def answer_commands(measures: Mapping[str, Measure]) -> None:
    """Serve commands until standard input ends."""
    loop = asyncio.get_running_loop()
    reply({"ready": sorted(measures)})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        measure = measures[command["way"]]
        seconds = await measure(command["size"], command["rounds"])
        reply({"seconds": statistics.median(seconds)})


def reply(body: Mapping[str, object]) -> None:
    """Answer the benchmark with one line."""
    sys.stdout.write(json.dumps(body) + "\n")
    sys.stdout.flush()
