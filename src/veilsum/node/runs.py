"""One party's run of one job, from its files to its result folder and its record."""

import asyncio
import hmac
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature

import veilsum
from veilsum import events
from veilsum.crypto.rsa_key import gen_key
from veilsum.errors import (
    ApprovalMissing,
    BudgetExceeded,
    CheatingDetected,
    ConfigError,
    DataError,
    Interrupted,
    JobMismatch,
    PeerAborted,
    PeerLost,
    StoreError,
    VeilsumError,
)
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.net.config import NetConfig
from veilsum.net.control import Countersign
from veilsum.net.ports import Journal, Links
from veilsum.net.session import Session
from veilsum.net.tls import TlsLinks
from veilsum.node import approvals, certificates, record, runstate
from veilsum.node.config import PartyConfig, load_federation
from veilsum.node.exposure import Exposure
from veilsum.node.files import private_folder
from veilsum.node.identity import Identity
from veilsum.node.kind import Brought, Finished, Inputs, Kind, artefact_id
from veilsum.node.kinds import kind_of, params_of
from veilsum.node.report import render
from veilsum.node.runstate import RunState
from veilsum.node.signing_keys import SigningKeys
from veilsum.node.summary import StepTime, Summary
from veilsum.parties import Federation, PartyId, RunId
from veilsum.store.database import LEAST_MEMORY_MB
from veilsum.store.files import Scratch, full_or_broken, write_whole
from veilsum.store.journal import FileJournal

UNKNOWN_RUN = RunId("0" * 32)
REFUSAL_WAIT = 3.0
"""Seconds that a party which will not take part waits for others, to tell them so."""
MEMORY = 512 << 20
"""Bytes that a run may use. Three eighths go to the database that reads the source (which takes some 100 MiB
more than it is told), a quarter to the tables of the protocol, and the rest is the process itself."""


class Order(NamedTuple):
    """Everything that one party's run needs to begin."""

    party: PartyConfig
    job: Job
    federation: Federation
    identity: Identity
    fresh: bool = False
    config: NetConfig = NetConfig()
    memory: int = MEMORY

    @property
    def hash(self) -> bytes:
        """The job's hash (32 bytes)."""
        return job_hash(self.job, self.federation)


class _Prepared(NamedTuple):
    """What is known before anybody is contacted."""

    kind: Kind
    params: Any
    brought: Brought | None
    inputs: bytes
    approvals: list[approvals.Approval]


def order(party: PartyConfig, job: Job, identity: Identity, **options: Any) -> Order:
    """Put an order together, reading the party's federation."""
    return Order(party, job, load_federation(party.federation), identity, **options)


async def run(order: Order, sink: events.Sink = events.ignore) -> Summary:
    """Run one party's part of a job, or go on with it; return what it learnt.

    Raises:
        VeilsumError: the run was refused or ended; a record of that is in the chain.
    """
    watch = _Watch(order, sink)
    try:
        prepared = watch.prepared = await _prepare_or_refuse(order, watch)
        done = _already_closed(order, prepared)
        if done is not None:
            watch.found(done)
            return done
        return await _attempt(order, prepared, watch)
    except VeilsumError as error:
        watch.failed(error.at(party=order.party.name))
        raise
    except asyncio.CancelledError:
        watch.failed(Interrupted("stopped by its user", party=order.party.name))
        raise
    except Exception:
        watch.failed(VeilsumError("a mistake in veilsum itself ended the run", party=order.party.name))
        raise
    finally:
        watch.close()


async def _prepare_or_refuse(order: Order, watch: "_Watch") -> _Prepared:
    try:
        return await asyncio.to_thread(prepare, order)
    except (ApprovalMissing, BudgetExceeded, DataError, JobMismatch) as error:
        # the others are already waiting, or will be soon: better told than kept waiting
        kind = kind_of(order.job)
        with suppress(VeilsumError):
            async with _links(order) as links:
                unmade = _Prepared(kind, params_of(order.job), None, b"", [])
                await make_session(order, unmade, links, 0, watch).refuse(error, REFUSAL_WAIT)
        raise


def prepare(order: Order) -> _Prepared:
    """Check a job against this party's own files, policy and data; nobody is contacted.

    Raises:
        ConfigError, DataError, ApprovalMissing: what must be put right first.
    """
    party, job = order.party, order.job
    kind, params = kind_of(job), params_of(job)
    if party.name not in job.members:
        raise ConfigError(
            f"{party.name} has no role in this job", remedy=f"its parties are {', '.join(job.members)}"
        )
    kind.bringers(job, params)
    given = approvals.check(order.hash, party)
    brought = kind.open(party, job, params, max(LEAST_MEMORY_MB, 3 * (order.memory >> 20) // 8))
    content = b""
    if brought is not None:
        try:
            brought.check()
            content = b"".join(_fingerprints(party, brought, UNKNOWN_RUN).values())
        except BaseException:
            brought.close()
            raise
    # peers see this digest: it depends on the job, so that they cannot tell equal data in different jobs
    inputs = hmac.digest(order.hash, content, "sha256")
    return _Prepared(kind, params, brought, inputs, given)


def _fingerprints(party: PartyConfig, brought: Brought, run: RunId) -> dict[str, bytes]:
    return brought.fingerprints(record.fingerprint_salt(party.state, run))


async def _attempt(order: Order, prepared: _Prepared, watch: "_Watch") -> Summary:
    earlier = runstate.latest(order.party, order.hash.hex())
    generation = 0 if earlier is None else earlier.generation + order.fresh
    async with _links(order) as links:
        try:
            async with make_session(order, prepared, links, generation, watch) as session:
                summary = await _play(order, prepared, session, watch)
        except (PeerLost, PeerAborted):
            # a result that all have signed and that lies on disk stands; others' troubles come too late
            folder = watch.finished_folder or _finished_earlier(order, prepared, earlier)
            if folder is None:
                raise
            return load_summary(folder)
        if session.everybody_ended:
            watch.change(state="closed")
            watch.journal.forget()
    return summary


def _finished_earlier(order: Order, prepared: _Prepared, earlier: RunState | None) -> Path | None:
    if order.fresh or earlier is None or earlier.inputs != prepared.inputs.hex():
        return None
    return Path(earlier.folder) if earlier.state == "finished" else None


def _links(order: Order) -> TlsLinks:
    load_key, listen = order.identity.load_into, order.party.listen or None
    return TlsLinks(order.party.name, order.federation, load_key, listen=listen, config=order.config)


def make_session(
    order: Order, prepared: _Prepared, links: Links, generation: int, watch: "_Watch"
) -> Session:
    """Return the session of this attempt, not yet entered."""

    def open_journal(run: RunId) -> tuple[Journal, int]:
        return watch.begin(run, prepared, generation)

    return Session(
        order.party.name,
        order.job,
        job_hash=order.hash,
        job_keys=key_digests(order.job, order.federation),
        inputs=prepared.inputs,
        messages=prepared.kind.messages,
        links=links,
        open_journal=open_journal,
        generation=generation,
        config=order.config,
        sink=watch,
        version=veilsum.__version__,
    )


async def _play(order: Order, prepared: _Prepared, session: Session, watch: "_Watch") -> Summary:
    party, kind = order.party, prepared.kind
    watch.session = session
    ledger, peers = Exposure(party.exposure), tuple(session.peers)
    for name, amounts in prepared.brought.amounts().items() if prepared.brought is not None else ():
        ledger.reserve(name, kind.name, peers, order.job.purpose, session.run, amounts, party.floor)
    artefact = artefact_id(kind.prefix, session.run)
    folder = party.results / artefact
    part = _empty(party.results / f"{artefact}.part")
    scratch = Scratch(_empty(party.runs / session.run / "scratch"), order.memory // 4)
    signing = partial(_signing_keys, order, session)
    inputs = Inputs(prepared.brought, scratch, part, signing, max(1, party.floor.min_group))
    finished = await kind.play(session, prepared.params, inputs)
    shutil.rmtree(scratch.folder, ignore_errors=True)
    for name, amounts in finished.spent.items():
        ledger.settle(name, session.run, amounts)
    watch.countersigned = await session.countersign(order.identity.sign, _checker(order.federation))
    summary = _summary(order, prepared, session, finished, watch, artefact)
    write_whole(part / "result.json", msgspec.json.format(msgspec.json.encode(summary)))
    write_whole(part / "report.html", render([summary], title=f"{artefact} at {party.name}").encode())
    watch.completed(part, finished)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    watch.change(state="finished", artefact=artefact, folder=str(folder))
    seconds = time.time() - watch.started
    session.emit(events.RunDone, artefact=artefact, folder=str(folder), seconds=round(seconds, 3))
    return summary


def _signing_keys(order: Order, session: Session, peer: PartyId) -> SigningKeys:
    """Return this party's keys for signing a peer's ids; what they sign is entered as exposure, too."""
    party, job = order.party, order.job
    name, peers = job.data[party.name], tuple(session.peers)

    def enter(count: int) -> None:
        amounts = {"signatures": count}
        Exposure(party.exposure).reserve(
            name, job.kind, peers, job.purpose, session.run, amounts, party.floor
        )

    return SigningKeys(
        party.signing_keys,
        data_set=name,
        peer=peer,
        run=session.run,
        limit=party.floor.max_signatures,
        make=lambda bits, primes: gen_key(bits, primes).to_bytes(),
        enter=enter,
    )


def _checker(federation: Federation) -> Callable[[PartyId, bytes, bytes], None]:
    def check(name: PartyId, statement: bytes, signature: bytes) -> None:
        key = certificates.public_key(federation.members[name].certificate)
        try:
            key.verify(signature, statement)
        except InvalidSignature:
            raise CheatingDetected(
                f"{name} signed its transcript with another key than the federation's"
            ) from None

    return check


def _summary(
    order: Order, prepared: _Prepared, session: Session, finished: Finished, watch: "_Watch", artefact: str
) -> Summary:
    job = order.job
    return Summary(
        artefact=artefact,
        kind=job.kind,
        mode=prepared.kind.mode(prepared.params),
        adversary=prepared.kind.adversary,
        purpose=job.purpose,
        run=session.run,
        attempt=session.attempt,
        party=session.me,
        roles=job.roles(session.me),
        parties={role: tuple(names) for role, names in job.parties.items()},
        started=watch.started,
        seconds=round(time.time() - watch.started, 3),
        steps=tuple(watch.steps),
        facts=finished.facts,
        leaks=prepared.kind.leaks(job, prepared.params),
        warnings=prepared.kind.cautions(job, prepared.params, order.federation) + finished.warnings,
        files=finished.files,
        algorithms=finished.algorithms,
        charts=finished.charts,
    )


def load_summary(folder: Path) -> Summary:
    """Read the result of a finished run."""
    try:
        return msgspec.json.decode((folder / "result.json").read_bytes(), type=Summary)
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no result", remedy="run the job again with --fresh") from None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(
            f"the result in {folder} cannot be read", remedy="run the job again with --fresh"
        ) from error


def _already_closed(order: Order, prepared: _Prepared) -> Summary | None:
    """Return the result of a run that every party has finished, unless a fresh one is wanted."""
    state = None if order.fresh else runstate.latest(order.party, order.hash.hex())
    if state is None or state.state != "closed" or state.inputs != prepared.inputs.hex():
        return None
    return load_summary(Path(state.folder))


def _empty(folder: Path) -> Path:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise full_or_broken(error, folder) from error
    return folder


class _Watch:
    """Follows one attempt: its events, its state on disk, and the record at its end."""

    state: RunState
    journal: FileJournal

    def __init__(self, order: Order, sink: events.Sink) -> None:
        self._order, self._sink = order, sink
        self.started = time.time()
        self.steps: list[StepTime] = []
        self.session: Session | None = None
        self.prepared: _Prepared | None = None
        self.countersigned: dict[PartyId, Countersign] = {}
        self._begun = False

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StepDone):
            self.steps.append(
                StepTime(event.number, event.step, round(event.seconds, 4), event.sent, event.received)
            )
        self._sink(event)

    def begin(self, run: RunId, prepared: _Prepared, generation: int) -> tuple[Journal, int]:
        """Enter the attempt and open its journal (in a thread)."""
        order = self._order
        private_folder(order.party.state)
        private_folder(order.party.runs)
        self.journal = FileJournal(order.party.runs / run)
        self.state = runstate.begin(
            order.party,
            RunState(
                run=run,
                job=order.hash.hex(),
                kind=order.job.kind,
                purpose=order.job.purpose,
                inputs=prepared.inputs.hex(),
                generation=generation,
                attempt=1,
                state="running",
                began=self.started,
                changed=self.started,
            ),
        )
        self._begun = True
        return self.journal, self.state.attempt

    def change(self, **fields: object) -> None:
        """Save what has changed about the run."""
        self.state = runstate.change(self._order.party, self.state, **fields)

    def found(self, summary: Summary) -> None:
        """Tell the watchers that there is nothing left to do."""
        folder = str(self._order.party.results / summary.artefact)
        self._sink(
            events.RunDone(
                party=summary.party,
                at=time.time(),
                run=summary.run,
                artefact=summary.artefact,
                folder=folder,
                seconds=0,
                earlier=True,
            )
        )

    @property
    def finished_folder(self) -> Path | None:
        """The result folder, once this party has finished the run, now or in an earlier attempt."""
        return Path(self.state.folder) if self._begun and self.state.state == "finished" else None

    def completed(self, folder: Path, finished: Finished) -> None:
        """Write the record of a run that ended well."""
        names = [*finished.files.values(), "result.json", "report.html"]
        self._record(record.Outcome("completed"), folder, finished, record.hash_files(folder, names))

    def failed(self, error: VeilsumError) -> None:
        """Tell the watchers, the run's state and the chain of records how it ended."""
        status: Literal["aborted", "refused"] = "aborted" if self._begun else "refused"
        self._sink(
            events.RunFailed(
                party=self._order.party.name,
                at=time.time(),
                run=self.state.run if self._begun else "",
                code=error.code,
                message=str(error),
                remedy=error.remedy,
            )
        )
        if self._begun and self.state.state == "running":
            with suppress(VeilsumError):
                self.change(state="failed", code=error.code)
        with suppress(VeilsumError):
            self._record(record.Outcome(status, error.code, error.public), None, None, {})

    def close(self) -> None:
        """Let go of the journal and the data."""
        if self._begun:
            self.journal.close()
        if self.prepared is not None and self.prepared.brought is not None:
            self.prepared.brought.close()

    def _record(
        self, outcome: record.Outcome, folder: Path | None, finished: Finished | None, files: dict[str, str]
    ) -> None:
        order, prepared, session = self._order, self.prepared, self.session
        before = prepared.kind.leaks(order.job, prepared.params) if prepared else ()
        after = finished.leaks if finished else ()
        run = self.state.run if self._begun else UNKNOWN_RUN
        data: dict[str, str] = {}
        if prepared is not None and prepared.brought is not None:
            found = _fingerprints(order.party, prepared.brought, run)
            data = {name: digest.hex() for name, digest in found.items()}
        record.write_record(
            folder,
            order.party.records,
            identity=order.identity,
            job=order.job,
            federation=order.federation,
            run=run,
            attempts=self.state.attempt if self._begun else 0,
            outcome=outcome,
            started=self.started,
            ended=time.time(),
            leaks_before=before,
            leaks_after=after,
            algorithms=finished.algorithms if finished else {},
            data=data,
            transcripts=self._transcripts(session) if session is not None else (),
            approvals=prepared.approvals if prepared else (),
            artefacts={folder.name.removesuffix(".part"): files} if folder else {},
        )

    def _transcripts(self, session: Session) -> list[record.Transcript]:
        lines = []
        for name, peer in session.peers.items():
            signed = self.countersigned.get(name)
            lines.append(
                record.Transcript(
                    name,
                    peer.sent.digest().hex(),
                    peer.received.digest().hex(),
                    peer.sent.messages + peer.received.messages,
                    peer.sent.size + peer.received.size,
                    signed.signature.hex() if signed else "",
                )
            )
        return lines
