"""One party's attempt at one run: its peers, its memory, its clock, and the end of it all.

```
async with Session(me, job, …) as session:      # connects, compares jobs, agrees on the run
    async with session.step(1, "key"):
        await session[peer].send(…)
```
Leaving it with an error tells every peer; a peer's error cancels what runs inside and is raised instead.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from veilsum import events
from veilsum.crypto.randomness import Randomness, fresh
from veilsum.errors import (
    Interrupted,
    JobMismatch,
    PeerAborted,
    PeerLost,
    ProtocolError,
    StepTimeout,
    VeilsumError,
)
from veilsum.jobs import Job, differing, digest
from veilsum.net.config import NetConfig
from veilsum.net.control import WIRE, Abort, Countersign, Hello, Opening, Resume, number
from veilsum.net.lane import Lane, run_lanes
from veilsum.net.messages import Message, schema_digest
from veilsum.net.peer import Peer
from veilsum.net.ports import Journal, Links, SocketPair
from veilsum.net.stage import Stage
from veilsum.net.transcript import Entry, statement
from veilsum.parties import PartyId, Role, RunId, SessionId

M = TypeVar("M", bound=Message)
T = TypeVar("T")
P = ParamSpec("P")


def derive_run(job_hash: bytes, inputs: dict[PartyId, bytes], generation: int) -> RunId:
    """Return the id of a run: other input data, another job or a renewed generation is another run."""
    digests = {party: value.hex() for party, value in inputs.items()}
    body = {"job": job_hash.hex(), "inputs": digests, "generation": generation}
    return RunId(digest("run", body)[:16].hex())


class Session:
    """Me, my peers, the job, randomness, clock, journal and events of one attempt.

    Args:
        job_hash: of the job and its members' entries in the federation (32 bytes).
        job_keys: dotted key → digest, so that a mismatch can be named.
        inputs: salted digest of this party's input data.
        generation: 0, or higher to begin a finished run anew; the highest of all parties counts.
        messages: the protocol's closed set of message types.
        open_journal: gives the journal of a run, and the attempt's number, once the run is known.
    """

    def __init__(
        self,
        me: PartyId,
        job: Job,
        *,
        job_hash: bytes,
        job_keys: dict[str, bytes],
        inputs: bytes,
        messages: Sequence[type[Message]],
        links: Links,
        open_journal: Callable[[RunId], tuple[Journal, int]],
        generation: int = 0,
        config: NetConfig | None = None,
        sink: events.Sink = events.ignore,
        version: str = "0",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.me, self.job, self.job_hash = me, job, job_hash
        self.config = config or NetConfig()
        self.clock, self._sink = clock, sink
        self.cores = os.cpu_count() or 1
        self._keys, self._inputs, self._generation = job_keys, inputs, generation
        self._open_journal, self._links = open_journal, links
        self._failure: VeilsumError | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled = self._ended = False
        self._lanes: list[Lane] = []
        self._on_lanes = 0, 0
        self._steps: list[str] = []
        self.run = RunId("")
        self.attempt = 0
        self.journal: Journal
        self.random: Randomness
        self._done_by: dict[PartyId, dict[str, int]] = {}
        hello = Hello(WIRE, me, SessionId(fresh(16)), schema_digest(messages), version, 0)
        numbers = number(tuple(messages))
        self.peers: dict[PartyId, Peer] = {
            peer: Peer(
                me,
                peer,
                links,
                self.config,
                hello=hello,
                numbers=numbers,
                allowed=frozenset(m for m in messages if self._may_send(peer, m)),
                on_failure=self.fail,
                on_connected=self._connected,
                on_waiting=self._waiting,
            )
            for peer in job.members
            if peer != me
        }

    def __getitem__(self, peer: PartyId) -> Peer:
        return self.peers[peer]

    def party(self, role: str) -> PartyId:
        """Return the one party of a role."""
        (only,) = self.job.parties[Role(role)]
        return only

    # -- life

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        try:
            await self._open()
        except BaseException as error:
            translated = await self._end(error)
            if translated is error:
                raise
            assert translated is not None
            raise translated from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        if error is None:
            try:
                await self._farewell()
            except BaseException as late:  # noqa: BLE001  translated like any other
                error = late
        translated = await self._end(error)
        if translated is not None and translated is not error:
            raise translated from error
        if translated is not None:
            raise translated

    def fail(self, error: VeilsumError) -> None:
        """End the session from outside its task: what runs inside is cancelled, every peer is told."""
        if self._failure is None and not self._ended:
            self._failure = error
            for lane in self._lanes:
                lane.shut()
            if self._task is not None:
                self._cancelled = self._task.cancel()

    async def _open(self) -> None:
        await self._all(peer.open() for peer in self.peers.values())
        mine = Opening(self.job_hash, self._keys, self._inputs, self._generation)
        await self.broadcast(mine)
        openings: dict[PartyId, Opening] = {}

        async def compare(peer: Peer) -> None:
            # at once, so that every party can name the keys itself before the others' aborts arrive
            openings[peer.name] = theirs = await peer.recv(Opening)
            if theirs.job_hash != self.job_hash:
                raise self._mismatch(peer.name, theirs)

        await self._all(compare(peer) for peer in self.peers.values())
        inputs = {self.me: self._inputs} | {name: theirs.inputs for name, theirs in openings.items()}
        generation = max(self._generation, *(theirs.generation for theirs in openings.values()), 0)
        self.run = derive_run(self.job_hash, inputs, generation)
        for peer in self.peers.values():
            peer.step_timeout = self.job.step_timeout
            peer.bind_run(int(self.run[:16], 16))
        self.journal, self.attempt = await self.compute(self._open_journal, self.run)
        secret = await self.once("run secret", lambda: fresh(32))
        self.random = Randomness(secret)
        memory = digest("run-memory", [self.run, secret.hex()])
        stages = self.journal.stages()
        await self.broadcast(Resume(bytes.fromhex(self.run), memory, self.attempt, stages))
        for name, resume in (await self.gather(Resume)).items():
            if resume.run.hex() != self.run:
                raise ProtocolError(f"{name} was told of other inputs than this party", party=self.me)
            await self._check_memory(name, resume.memory)
            self._done_by[name] = resume.stages
        self.emit(events.RunStarted, kind=self.job.kind, attempt=self.attempt, stages=stages)

    async def _check_memory(self, name: PartyId, memory: bytes) -> None:
        """Refuse a peer whose journal is not that of earlier attempts: its keys would differ."""
        if await self.once(f"memory of {name}", lambda: memory) != memory:
            raise PeerLost(
                f"{name} has lost its journal of this run, with which alone the run could go on",
                remedy="give the command again with --fresh at all parties",
                party=self.me,
            )

    def _in_own_words(self, error: BaseException) -> BaseException:
        """Name the differing keys also where a peer's abort came before this party had compared."""
        if isinstance(error, PeerAborted) and error.cause == JobMismatch.__name__:
            for peer in self.peers.values():
                theirs = peer.arrived(Opening)
                if theirs is not None and theirs.job_hash != self.job_hash:
                    return self._mismatch(peer.name, theirs)
        return error

    def _mismatch(self, peer: PartyId, theirs: Opening) -> JobMismatch:
        # a key that only the peer has is its own words: shown without what a terminal would obey
        keys = [key if key in self._keys else ascii(key)[:60] for key in differing(self._keys, theirs.keys)]
        shown = ", ".join(keys[:8]) or "the order of keys"
        return JobMismatch(
            f"the job differs between {self.me} and {peer} in: {shown}",
            remedy="agree on one job file and one federation file, and give both to every party",
            party=self.me,
        )

    async def refuse(self, error: VeilsumError, within: float) -> None:
        """Tell those peers that come within some seconds that this party will not take part."""

        async def tell(peer: Peer) -> None:
            with suppress(VeilsumError, OSError, TimeoutError):
                async with asyncio.timeout(within):
                    await peer.open()
                await peer.abort(Abort(error.code))

        await asyncio.gather(*(tell(peer) for peer in self.peers.values()))
        await asyncio.gather(*(peer.close() for peer in self.peers.values()), return_exceptions=True)

    @property
    def everybody_ended(self) -> bool:
        """Whether every peer has said that it ended well."""
        return all(peer.said_bye.is_set() for peer in self.peers.values())

    async def _farewell(self) -> None:
        await self._all(peer.say_bye() for peer in self.peers.values())
        # what was sent last may still be in this process's buffers
        await self._all(peer.settle() for peer in self.peers.values())
        # everything needed has arrived; a peer that cannot say so in time costs nobody the result
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.silence):
                await self._all(peer.said_bye.wait() for peer in self.peers.values())

    async def _end(self, error: BaseException | None) -> BaseException | None:
        """Close everything; return the error that the user should see."""
        self._ended = True  # from here on no peer's answer to this end can cancel it
        if error is not None:
            error = await self._translate(error)
        ending = asyncio.ensure_future(self._close(error))
        interrupted = False
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:  # it takes at most some seconds, and leaves nothing behind
                interrupted = True
        return asyncio.CancelledError() if interrupted and error is None else error

    async def _close(self, error: BaseException | None) -> None:
        if error is not None:
            # a peer's own abort has reached every party already
            await self._tell(error)
        for lane in self._lanes:
            lane.shut()
        await asyncio.gather(*(peer.close() for peer in self.peers.values()), return_exceptions=True)

    async def _translate(self, error: BaseException) -> BaseException:
        if self._cancelled and self._task is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # where `fail` cancelled and nothing has waited since
            self._task.uncancel()
        if isinstance(error, BaseExceptionGroup):
            error = _first(error)
        found_itself = isinstance(error, VeilsumError) and not isinstance(error, PeerAborted)
        if self._failure is not None and not found_itself and not isinstance(error, KeyboardInterrupt):
            error = self._failure
        error = self._in_own_words(error)
        if isinstance(error, VeilsumError):
            error.at(party=self.me, run=self.run or None, step=self._steps[-1] if self._steps else None)
        return error

    async def _tell(self, error: BaseException) -> None:
        code = "VeilsumError"
        if isinstance(error, VeilsumError):
            code = error.code
        elif isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            code = Interrupted.__name__
        for peer in self.peers.values():
            await peer.abort(Abort(code))

    # -- talking to several

    async def broadcast(self, message: Message, of: Iterable[PartyId] | None = None) -> None:
        """Send one message to all peers (or to those in ``of``)."""
        await self._all(peer.send(message) for peer in self._of(of))

    async def gather(
        self,
        cls: type[M],
        of: Iterable[PartyId] | None = None,
        *,
        quorum: int | None = None,
        within: float | None = None,
    ) -> dict[PartyId, M]:
        """Return one message of a type from every peer (or from those in ``of``).

        Args:
            cls: the type of message.
            of: the peers asked for; this party itself is passed over.
            quorum: how many are enough once ``within`` seconds have passed.
            within: seconds to wait for all of them.

        Raises:
            StepTimeout: fewer than ``quorum`` came within the time.
        """
        tasks = {peer.name: asyncio.create_task(peer.recv(cls)) for peer in self._of(of)}
        try:
            if within is None:
                await self._all(_wait(task) for task in tasks.values())
            elif tasks:
                await asyncio.wait(tasks.values(), timeout=within)
            got = {name: task.result() for name, task in tasks.items() if task.done()}
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        if len(got) < (len(tasks) if quorum is None else quorum):
            missing = ", ".join(sorted(set(tasks) - set(got)))
            raise StepTimeout(f"no {cls.__name__} from {missing} within {within} s", party=self.me)
        return got

    def _of(self, names: Iterable[PartyId] | None) -> list[Peer]:
        return list(self.peers.values()) if names is None else [self.peers[n] for n in names if n != self.me]

    async def _all(self, steps: Iterable[Awaitable[object]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(_wait(step))
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    # -- steps, memory, threads

    @asynccontextmanager
    async def step(self, number: int, name: str) -> AsyncIterator[None]:
        """Name what happens inside as step ``number`` of the protocol's table; lanes count where they end."""
        self.emit(events.StepStarted, number=number, step=name)
        began, before = time.monotonic(), self._on_lanes
        self._steps.append(name)
        yield
        self._steps.remove(name)
        sent, received = (
            said + now - earlier
            for said, now, earlier in zip(self.traffic(number), self._on_lanes, before, strict=True)
        )
        seconds = time.monotonic() - began
        self.emit(events.StepDone, number=number, step=name, seconds=seconds, sent=sent, received=received)

    def progress(self, step: str, done: int, total: int, unit: str) -> None:
        """Tell the watchers how far a step is, in public units."""
        self.emit(events.Progress, step=step, done=done, total=total, unit=unit)

    async def once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the durable value under ``key``; it is made at the first attempt only."""
        return await self.compute(self.journal.once, key, make)

    async def commit(self, stage: str, index: int, output: bytes) -> None:
        """Make the output of a stage's next index durable."""
        await self.compute(self.journal.commit, stage, index, output)

    def stage(self, name: str, count: int) -> Stage:
        """Return a durable stage of this run with its public count."""
        return Stage(self, name, count)

    def done_by(self, peer: PartyId, stage: str) -> int:
        """Return how many indices of a stage a peer had committed when this session began."""
        return self._done_by[peer].get(stage, 0)

    def stages_of(self, peer: PartyId) -> dict[str, int]:
        """Return what a peer had committed of every stage when this session began."""
        return dict(self._done_by[peer])

    async def compute(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread, so that the heart goes on beating."""
        return await asyncio.to_thread(work, *args, **kwargs)

    async def on_all_cores(self, work: Callable[[slice], T], count: int, *, least: int) -> list[T]:
        """Run blocking work on slices of ``count`` rows in threads on all cores; return what each gave.

        Args:
            work: takes the slice; it lets go of the GIL where it is heavy.
            count: of rows.
            least: rows that are worth a thread.
        """
        # more threads than cores: none waits idle for the last one where others use the cores, too
        parts = max(1, min(2 * self.cores, count // least))
        bounds = [count * part // parts for part in range(parts + 1)]
        slices = itertools.starmap(slice, itertools.pairwise(bounds))
        return list(await asyncio.gather(*(self.compute(work, rows) for rows in slices)))

    async def in_lane(
        self,
        label: str,
        program: Callable[[dict[PartyId, Lane]], T],
        of: Iterable[PartyId] | None = None,
    ) -> T:
        """Run a synchronous program in a thread with one `Lane` to every peer (or to those in ``of``).

        Cancelling closes the sockets, and the program raises `PeerAborted` at its next round.
        """
        lanes = await self._open_lanes(label, [peer.name for peer in self._of(of)])
        try:
            return await run_lanes(lanes, program)
        except PeerLost as error:
            # the heartbeat knows better than a broken socket why a peer is gone
            await self._await_reason()
            raise self._failure or error from error
        finally:
            for lane in lanes.values():
                lane.close()
                self._lanes.remove(lane)
                self._on_lanes = self._on_lanes[0] + lane.sent, self._on_lanes[1] + lane.received

    async def _open_lanes(self, label: str, names: list[PartyId]) -> dict[PartyId, Lane]:
        dialling = [asyncio.create_task(self._sockets(name, f"{self.run}/{label}")) for name in names]
        try:
            await self._all(_wait(task) for task in dialling)
        except BaseException:
            for outcome in await asyncio.gather(*dialling, return_exceptions=True):
                if isinstance(outcome, SocketPair):
                    outcome.outgoing.close()
                    outcome.incoming.close()
            raise
        limit = self.job.step_timeout
        lanes = {
            name: Lane(self.me, name, task.result(), step_timeout=limit)
            for name, task in zip(names, dialling, strict=True)
        }
        self._lanes.extend(lanes.values())
        return lanes

    async def _sockets(self, name: PartyId, label: str) -> SocketPair:
        try:
            async with asyncio.timeout(self.job.step_timeout) as clock:
                return await self._links.sockets(name, label)
        except OSError as error:
            if clock.expired():
                raise StepTimeout(f"{name} did not open its lane in time", party=self.me) from error
            raise PeerLost(f"no lane to {name} could be opened", party=self.me) from error

    async def _await_reason(self) -> None:
        try:
            await asyncio.sleep(self.config.silence + self.config.heartbeat)
        except asyncio.CancelledError:
            if self._failure is None:  # somebody else's cancelling
                raise

    # -- what was said

    def traffic(self, step: int) -> tuple[int, int]:
        """Return the payload bytes of a step's messages, sent and received, over all peers."""
        counts = [peer.said.traffic.get(step, [0, 0]) for peer in self.peers.values()]
        return sum(c[0] for c in counts), sum(c[1] for c in counts)

    def transcript(self) -> list[Entry]:
        """Return every protocol message that this party sent or received, peer by peer."""
        return [entry for peer in self.peers.values() for entry in peer.said.entries]

    async def countersign(
        self, sign: Callable[[bytes], bytes], check: Callable[[PartyId, bytes, bytes], None]
    ) -> dict[PartyId, Countersign]:
        """Exchange signatures over what was said with every peer.

        Args:
            sign: signs a statement with this party's key.
            check: raises unless (party, statement, signature) holds.

        Raises:
            ProtocolError: a peer saw other bytes than this party.
        """
        for peer in self.peers.values():
            await peer.send(self.view(peer, sign))
        got = await self.gather(Countersign)
        for name, theirs in got.items():
            peer = self.peers[name]
            if (theirs.sent, theirs.received) != (peer.received.digest(), peer.sent.digest()):
                raise ProtocolError(f"{name} signs another transcript than this party saw", party=self.me)
            check(name, self.spoken(name), theirs.signature)
        return got

    def view(self, peer: Peer, sign: Callable[[bytes], bytes]) -> Countersign:
        """Return this party's signed view of what it and a peer said to each other."""
        sent, received = peer.sent, peer.received
        return Countersign(
            sent.digest(),
            received.digest(),
            sent.messages + received.messages,
            sent.size + received.size,
            sign(self.spoken(peer.name)),
        )

    def spoken(self, name: PartyId) -> bytes:
        """Return the statement that both sides sign: run and both hashes, in order of names."""
        peer = self.peers[name]
        return statement(self.run, self.me, peer.sent.digest(), name, peer.received.digest())

    # -- events

    def emit(self, event: type[events.Event], /, **facts: Any) -> None:
        """Tell the watchers something."""
        self._sink(event(party=self.me, at=self.clock(), run=self.run, **facts))

    def _connected(self, peer: PartyId, again: bool) -> None:
        self.emit(events.Connected, peer=peer, again=again)

    def _waiting(self, peer: PartyId, seconds: float) -> None:
        step = self._steps[-1] if self._steps else "connect"
        self.emit(events.Waiting, peer=peer, step=step, seconds=round(seconds, 1))

    def _may_send(self, peer: PartyId, cls: type[Message]) -> bool:
        return not cls.wire.by or bool(set(cls.wire.by) & set(self.job.roles(peer)))


async def _wait(step: Awaitable[object]) -> None:
    await step


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that says most: an own finding before a peer's abort."""
    flat = [_first(e) if isinstance(e, BaseExceptionGroup) else e for e in errors.exceptions]
    return min(flat, key=lambda e: (isinstance(e, PeerAborted), not isinstance(e, VeilsumError)))
