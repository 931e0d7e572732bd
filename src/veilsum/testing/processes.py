"""Parties as real processes over TLS, and a hand that ends one of them with ``kill -9`` at a chosen moment.

The crash matrix of every protocol: run once and note each party's events; then, for every party and every
moment, kill it there, watch the others end with a named error, give the same commands again, and find the
right result.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from veilsum import events
from veilsum.cli import main, progress

SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}


class Moment(NamedTuple):
    """The n-th event (from 0) that a party tells, and what its process gets then."""

    party: str
    event: int
    signal: str = "kill"


class Ended(NamedTuple):
    """How one party's process ended.

    Attributes:
        code: exit code; negative for a signal.
        events: what it told.
        answer: its last line: the result, or the error.
        seconds: from the start of all processes.
        errors: what it wrote to standard error.
    """

    code: int
    events: list[events.AnyEvent]
    answer: dict[str, Any]
    seconds: float
    errors: str


async def run_parties(
    homes: Mapping[str, Path],
    job: Path | Mapping[str, Path],
    *,
    at: Moment | None = None,
    options: Sequence[str] = ("--wait", "20"),
    limit: float = 60,
) -> dict[str, Ended]:
    """Run every party's part of a job in a process of its own and wait for all of them."""
    began = time.monotonic()
    jobs = job if isinstance(job, Mapping) else dict.fromkeys(homes, job)
    async with asyncio.timeout(limit):
        ended = await asyncio.gather(
            *(_run_one(name, home, jobs[name], at, options, began) for name, home in homes.items())
        )
    return dict(zip(homes, ended, strict=True))


async def _run_one(
    name: str, home: Path, job: Path, at: Moment | None, options: Sequence[str], began: float
) -> Ended:
    hook = [str(at.event), at.signal] if at is not None and at.party == name else ["-1", "kill"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __name__, *hook, "run", str(job), "--as", name, "--home", str(home), "--json", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    lines = out.splitlines()
    told = [events.decode(line) for line in lines if line.startswith(b'{"event"')]
    last = next((line for line in reversed(lines) if not line.startswith(b'{"event"')), b"{}")
    assert process.returncode is not None
    seconds = time.monotonic() - began
    return Ended(process.returncode, told, json.loads(last), seconds, err.decode())


def _hooked(arguments: Sequence[str]) -> int:
    """Run the command line in this process, and signal it at its n-th event."""
    due, name = int(arguments[0]), arguments[1]
    if name == "interrupt":
        # who was started in the background has inherited that interrupts are ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    tell, count = progress.as_json, -1

    def hook(event: events.Event) -> None:
        nonlocal count
        tell(event)
        count += 1
        if count == due:
            os.kill(os.getpid(), SIGNALS[name])

    progress.as_json = hook
    return main.main(arguments[2:])


if __name__ == "__main__":
    sys.exit(_hooked(sys.argv[1:]))
