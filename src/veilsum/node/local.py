"""All roles of a job in one process: the same scripts, sessions and codecs, with pipes instead of TLS."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veilsum import events
from veilsum.errors import ConfigError
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.net.memory import MemoryHub
from veilsum.net.ports import Journal
from veilsum.net.session import Session
from veilsum.node.config import PartyConfig
from veilsum.node.kind import Brought, Finished, Inputs, Kind, artefact_id
from veilsum.node.kinds import kind_of, params_of
from veilsum.node.runs import MEMORY
from veilsum.node.summary import StepTime, Summary
from veilsum.parties import Federation, Member, PartyId, RunId
from veilsum.store.files import Scratch
from veilsum.store.journal import FileJournal


async def simulate(
    job: Job, parties: Sequence[PartyConfig], sink: events.Sink = events.ignore
) -> list[Summary]:
    """Run a job with the data of parties whose folders are all at hand.

    Nothing is signed, approved or entered into exposure ledgers: this is for trying a job out.

    Raises:
        ConfigError: a party of the job is missing.
    """
    known = {party.name: party for party in parties}
    missing = [name for name in job.members if name not in known]
    if missing:
        raise ConfigError(
            f"the folder of {', '.join(missing)} was not given", remedy="give --home for each party"
        )
    kind, params = kind_of(job), params_of(job)
    kind.bringers(job, params)
    brought: dict[PartyId, Brought] = {}
    try:
        for name in job.members:
            opened = kind.open(known[name], job, params, MEMORY >> 20)
            if opened is not None:
                brought[name] = opened
                opened.check()
        with tempfile.TemporaryDirectory(prefix="veilsum-") as folder:
            results = {name: known[name].results for name in job.members}
            return await play(job, brought, Path(folder), results, sink)
    finally:
        for opened in brought.values():
            opened.close()


async def play(
    job: Job,
    brought: Mapping[PartyId, Brought],
    work: Path,
    results: Mapping[PartyId, Path],
    sink: events.Sink = events.ignore,
) -> list[Summary]:
    """Play every party of a job; each one's files go to its own folder of results."""
    kind, params = kind_of(job), params_of(job)
    kind.bringers(job, params)
    hub = MemoryHub()
    federation = Federation("one process", {name: Member(name.encode()) for name in job.members})
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    _one(
                        name, job, federation, kind, params, brought.get(name), hub, work, results[name], sink
                    )
                )
                for name in job.members
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        hub.close()
    return [task.result() for task in tasks]


async def _one(
    name: PartyId,
    job: Job,
    federation: Federation,
    kind: Kind,
    params: Any,
    brought: Brought | None,
    hub: MemoryHub,
    work: Path,
    results: Path,
    sink: events.Sink,
) -> Summary:
    started = time.time()
    steps: list[StepTime] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepDone):
            steps.append(
                StepTime(event.number, event.step, round(event.seconds, 4), event.sent, event.received)
            )
        sink(event)

    journals: list[FileJournal] = []

    def open_journal(run: RunId) -> tuple[Journal, int]:
        journals.append(FileJournal(work / name / run))
        return journals[0], 1

    session = Session(
        name,
        job,
        job_hash=job_hash(job, federation),
        job_keys=key_digests(job, federation),
        inputs=b"",
        messages=kind.messages,
        links=hub.links(name),
        open_journal=open_journal,
        sink=watch,
    )
    try:
        async with session:
            artefact = artefact_id(f"{kind.prefix}-simulated", session.run)
            part = results / f"{artefact}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True, mode=0o700)
            scratch = Scratch(work / name / "scratch", MEMORY)
            scratch.folder.mkdir(parents=True, exist_ok=True)
            finished: Finished = await kind.play(session, params, Inputs(brought, scratch, part))
    finally:
        for journal in journals:
            journal.close()
    shutil.rmtree(results / artefact, ignore_errors=True)
    part.replace(results / artefact)
    return Summary(
        artefact=artefact,
        kind=job.kind,
        mode=kind.mode(params) + ", SIMULATED in one process",
        adversary=kind.adversary,
        purpose=job.purpose,
        run=session.run,
        attempt=1,
        party=name,
        roles=job.roles(name),
        parties={role: tuple(names) for role, names in job.parties.items()},
        started=started,
        seconds=round(time.time() - started, 3),
        steps=tuple(steps),
        facts=finished.facts,
        leaks=kind.leaks(job, params),
        warnings=finished.warnings,
        files=finished.files,
        algorithms=finished.algorithms,
        charts=finished.charts,
    )
