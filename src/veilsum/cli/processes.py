"""Parties as processes of this machine, for the demo: started, followed by their events, and ended."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from veilsum import events
from veilsum.errors import KINDS, ConfigError, VeilsumError

if TYPE_CHECKING:
    from veilsum.node.report import RecordLine
    from veilsum.node.summary import Summary

_MARK = "made by veilsum demo\n"


def clear(folder: Path) -> None:
    """Remove an earlier demo, and nothing else.

    Raises:
        ConfigError: something else lies there.
    """
    mark = folder / ".demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise ConfigError(f"{folder} exists and is not an earlier demo", remedy="give another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.write_text(_MARK)


class _Child(NamedTuple):
    """One party's process."""

    name: str
    process: asyncio.subprocess.Process


async def play(folder: Path, job: Path, parties: Sequence[str], sink: events.Sink) -> "list[Summary]":
    """Run every party's process, pass on its events, and return what each has learnt.

    Args:
        folder: every party's home is a folder in it.
        job: the job file.
        parties: who takes part.
        sink: is told all events.

    Raises:
        VeilsumError: what the first party that failed said.
    """
    children = [await _start(folder, job, name) for name in parties]
    try:
        return list(await asyncio.gather(*(_follow(child, sink) for child in children)))
    finally:
        for child in children:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGINT)
        await asyncio.gather(*(child.process.wait() for child in children))


async def _start(folder: Path, job: Path, name: str) -> _Child:
    command = ["-m", "veilsum.cli.main", "run", str(job), "--as", name]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        "--home",
        str(folder / name),
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    return _Child(name, process)


async def _follow(child: _Child, sink: events.Sink) -> "Summary":
    from veilsum.node.summary import Summary

    assert child.process.stdout is not None
    last = b"{}"
    async for line in child.process.stdout:
        if line.startswith(b'{"event"'):
            sink(events.decode(line))
        else:
            last = line
    if await child.process.wait():
        raise _failure(child.name, last)
    return msgspec.json.decode(last, type=Summary)


def _failure(name: str, last: bytes) -> VeilsumError:
    told = msgspec.json.decode(last, type=dict[str, str | None])
    kind = KINDS.get(told.get("error") or "", VeilsumError)
    message = told.get("message") or f"the process of {name} ended without a word"
    return kind(f"{name}: {message}", remedy=told.get("remedy") or "", party=name)


def records(folder: Path, parties: Sequence[str]) -> "list[RecordLine]":
    """Verify every party's chain of records; return what a report says of them."""
    from veilsum.node.report import RecordLine
    from veilsum.node.verification import verify_chain

    lines = []
    for name in parties:
        chain = folder / name / "state" / "records"
        verified = verify_chain(chain)
        command = f"veilsum record verify {chain}"
        lines.append(
            RecordLine(
                party=name, path=str(chain), digest=verified[-1].digest, jobs=len(verified), command=command
            )
        )
    return lines
