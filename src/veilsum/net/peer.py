"""One peer: typed messages with limits, order, credit, signs of life, redialling and a transcript.

A connection may break and come back within `NetConfig.silence`: what the peer has not seen is sent again,
byte for byte. A peer that stays away, or comes back without its memory, is lost.
"""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from veilsum.errors import KINDS, ConfigError, PeerAborted, PeerLost, ProtocolError, StepTimeout, VeilsumError
from veilsum.net.config import NetConfig
from veilsum.net.control import FIRST_TYPE, WIRE, Abort, Beat, Bye, Credit, Hello, Opening, Resume
from veilsum.net.link import END, Glance, Header, Link, pack_header
from veilsum.net.messages import Data, Message, decode, encode
from veilsum.net.ports import Links
from veilsum.net.transcript import Conversation
from veilsum.parties import PartyId

M = TypeVar("M", bound=Message)
Item = tuple[Data | None, bool, int]  # payload (None: only an END), last, its cost in credit
_CREDIT, _SEEN = -1, -2  # what is waited for beside message types
FRAME_COST = 64  # bytes of credit that a frame costs beyond its payload, so that empty ones are bounded too


class _Frame(NamedTuple):
    """A sent frame that the peer may ask for again."""

    sequence: int
    header: bytes
    parts: list[Data]
    number: int
    cost: int


class Peer:
    """The other end of all conversation with one party.

    Args:
        hello: this party's first frame, without ``seen``.
        numbers: message type → number on the wire (the closed set of this session).
        allowed: the protocol messages that this peer's roles may send.
        on_failure: told once when the peer is lost, aborts or breaks the wire's rules.
        on_connected: told when a link stands, and whether it had stood before.
        on_waiting: told the seconds for which a live peer has kept a receiver waiting.
    """

    def __init__(
        self,
        me: PartyId,
        name: PartyId,
        links: Links,
        config: NetConfig,
        *,
        hello: Hello,
        numbers: dict[type[Message], int],
        allowed: frozenset[type[Message]],
        on_failure: Callable[[VeilsumError], None],
        on_connected: Callable[[PartyId, bool], None],
        on_waiting: Callable[[PartyId, float], None],
    ) -> None:
        self.me, self.name = me, name
        self._links, self._config, self._hello = links, config, hello
        self._numbers = numbers
        self._types = {number: cls for cls, number in numbers.items()}
        self._allowed = allowed
        self._on_failure, self._on_connected, self._on_waiting = on_failure, on_connected, on_waiting
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._broken = asyncio.Event()
        self._their_session: bytes | None = None
        self._task: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self._failure: VeilsumError | None = None
        self._ending = False
        self.said_bye = asyncio.Event()
        # sending
        self._next_out = 1
        self._unseen: deque[_Frame] = deque()
        self._run_out = 0
        self._windows = {number: self._window(cls) for cls, number in numbers.items()}
        self._allowance = dict(self._windows)
        self._unseen_cost = dict.fromkeys(self._allowance, 0)
        # receiving
        self._next_in = 1
        self._glance = Glance()
        self._run_in: int | None = None
        self._early_run: int | None = None
        self._granted = dict(self._allowance)
        self._consumed = dict.fromkeys(self._allowance, 0)
        self._queues: dict[int, deque[Item]] = {number: deque() for number in self._types}
        self._waiters: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        self._since: dict[object, float] = {}
        # what was said
        self.step_timeout = float("inf")
        self.said = Conversation(me, name, self._types)
        self.sent, self.received = self.said.sent, self.said.received

    # -- the four verbs of a protocol

    def send(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send one message; returns once it is under way. Its buffers must not change afterwards.

        Raises:
            PeerLost, PeerAborted, ProtocolError: what ended the session, if it has ended.
        """
        return self._post(type(message), encode(message), 0)  # not one layer more: this is the hot path

    async def recv(self, cls: type[M]) -> M:
        """Return the peer's next message of this type.

        Raises:
            ProtocolError: it is malformed, or the peer ended its stream or the session instead.
        """
        message, last = await self._next(cls)
        if message is None or last:
            raise ProtocolError(f"{self.name} ended a stream where a {cls.__name__} was due", party=self.me)
        return message

    def arrived(self, cls: type[M]) -> M | None:
        """Return the next message of this type if it is here already, and leave it there."""
        queue = self._queues[self._numbers[cls]]
        return decode(cls, queue[0][0]) if queue and queue[0][0] is not None else None

    async def send_all(self, cls: type[M], messages: AsyncIterable[M] | Iterable[M]) -> None:
        """Send a stream of messages of one type, and its end."""
        if isinstance(messages, AsyncIterable):
            async for message in messages:
                await self.send(message)
        else:
            for message in messages:
                await self.send(message)
        await self.end(cls)

    async def end(self, cls: type[M]) -> None:
        """End a stream of messages of one type."""
        await self._post(cls, [], END)

    async def stream(self, cls: type[M]) -> AsyncIterator[M]:
        """Yield the peer's messages of this type until it ends the stream."""
        while True:
            message, last = await self._next(cls)
            if message is not None:
                yield message
            if last:
                return

    # -- its life, run by the session

    async def open(self) -> None:
        """Connect for the first time, however long the peer takes up to ``connect_timeout``."""
        self._task = asyncio.create_task(self._keep_connected(), name=f"link {self.name}")
        self._beat = asyncio.create_task(self._heartbeat(), name=f"heartbeat {self.name}")
        await self._up.wait()
        if self._failure is not None:
            raise self._failure

    def bind_run(self, tag: int) -> None:
        """From here on both directions carry the run's tag."""
        if self._early_run not in {None, tag}:
            raise ProtocolError(f"{self.name} sent frames of another run", party=self.me)
        self._run_out = self._run_in = tag

    async def say_bye(self) -> None:
        """Tell the peer that this side has ended well."""
        await self._post(Bye, encode(Bye()), 0)

    async def settle(self) -> None:
        """Wait until everything sent has arrived at the peer, or it has ended well itself.

        Raises:
            PeerLost, PeerAborted, ProtocolError: what ended the session instead.
        """
        while self._unseen and not self.said_bye.is_set():
            await self._wait(_SEEN)

    async def abort(self, abort: Abort) -> None:
        """Tell the peer, if it can be reached at once, that the run has stopped."""
        link, parts = self._link, encode(abort)
        if link is not None:
            header = pack_header(0, self._numbers[Abort], len(parts[0]), self._next_out, self._run_out)
            with suppress(PeerLost):
                link.post(header, parts)

    async def close(self) -> None:
        """End all tasks and the connection."""
        self._ending = True
        tasks = [task for task in (self._task, self._beat) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.said.close()
        if self._link is not None:
            self._link.close()
            await self._link.wait_closed()

    def fail(self, error: VeilsumError) -> None:
        """Stop with an error; everything waiting for this peer raises it."""
        if self._failure is None and not self._ending:
            self._failure = error.at(party=self.me)
            self._up.set()
            for waiters in self._waiters.values():
                _wake(waiters)
            self._on_failure(error)

    # -- sending

    async def _post(self, cls: type[Message], parts: list[Data], flags: int) -> None:
        number, size = self._numbers[cls], sum(map(len, parts))
        if number >= FIRST_TYPE:
            while self._allowance[number] < size + FRAME_COST:
                if self._failure is None and self.said_bye.is_set():
                    raise ProtocolError(f"{self.name} ended while there was more for it", party=self.me)
                await self._wait(_CREDIT)
        link = self._put(number, parts, size, flags)
        if link is not None and link.backlogged:
            # a break is not this sender's business: the frame goes out again with the next link
            with suppress(PeerLost):
                await self._timed(link.drain())

    def _put(self, number: int, parts: list[Data], size: int, flags: int) -> Link | None:
        """Number a frame and post it, in one go: whoever is cancelled leaves no gap."""
        if self._failure is not None:
            raise self._failure
        sequence, self._next_out = self._next_out, self._next_out + 1
        header = pack_header(flags, number, size, sequence, self._run_out)
        cost = size + FRAME_COST
        if number >= FIRST_TYPE:
            self._allowance[number] -= cost
            self.said.note(self.sent, number, flags, size, parts)
        self._unseen.append(_Frame(sequence, header, parts, number, cost))
        self._unseen_cost[number] += cost
        link = self._link
        if link is not None:
            try:  # noqa: SIM105 -- suppress() takes as long as encoding the message
                link.post(header, parts)
            except PeerLost:
                pass
        return link

    async def _wait(self, what: int) -> None:
        """Sleep until something has happened to a message type (or to credit, or to what was seen)."""
        if self._failure is not None:
            raise self._failure
        if self.said_bye.is_set() and what != _SEEN:
            return  # nothing will happen any more; its last word may have come just before this call
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters[what].append(future)
        self._since[future] = loop.time()
        try:
            await future
        finally:
            del self._since[future]
            self._waiters[what].remove(future)

    async def _timed(self, step: Awaitable[None]) -> None:
        """Await something that depends on the peer, under the eyes of the heartbeat."""
        token = object()
        self._since[token] = asyncio.get_running_loop().time()
        try:
            await step
        finally:
            del self._since[token]

    # -- receiving

    async def _next(self, cls: type[M]) -> tuple[M | None, bool]:
        number = self._numbers[cls]
        queue = self._queues[number]
        while not queue:
            if self._failure is None and self.said_bye.is_set():
                raise ProtocolError(f"{self.name} ended without sending a {cls.__name__}", party=self.me)
            await self._glance.until(self._link, queue, self._wait, number)
        payload, last, cost = queue.popleft()
        if number >= FIRST_TYPE:
            self._consumed[number] += cost
        if self._consumed[number] * 4 >= self._windows[number] and self._failure is None:
            grant, self._consumed[number] = self._consumed[number], 0
            self._granted[number] += grant
            parts = encode(Credit(number, grant, self._next_in))
            self._put(self._numbers[Credit], parts, sum(map(len, parts)), 0)
        return (None if payload is None else decode(cls, payload)), last

    def _admit(self, header: Header) -> None:
        """Refuse a frame by its header alone, before anything is allocated for it."""
        cls = self._types.get(header.type)
        if cls is None or cls is Hello:
            raise self._refusal(f"a frame of unknown type {header.type}")
        name = cls.__name__
        if header.flags & ~END or (header.flags and header.type < FIRST_TYPE):
            raise self._refusal(f"a {name} with flags {header.flags}")
        if header.length > cls.wire.limit:
            raise self._refusal(f"a {name} of {header.length} bytes, over the limit of {cls.wire.limit}")
        if cls is Beat:
            return
        if header.sequence != self._next_in:
            how = "replayed" if header.sequence < self._next_in else "reordered"
            raise self._refusal(f"a {how} frame (number {header.sequence}, due {self._next_in})")
        self._admit_run(header, cls)
        if header.type < FIRST_TYPE:
            if self._queues[header.type]:
                raise self._refusal(f"a second {name}")
        elif cls not in self._allowed:
            raise self._refusal(f"a {name}, which is not its role's to send")
        elif header.length + FRAME_COST > self._granted[header.type]:
            raise self._refusal(f"a {name} beyond its credit")

    def _admit_run(self, header: Header, cls: type[Message]) -> None:
        if self._run_in is None:
            # a faster peer may be past the opening already; its tag is compared when the run is known
            if cls not in {Opening, Resume, Abort, Credit} and header.run == 0:
                raise self._refusal(f"a {cls.__name__} before the run was opened")
            if header.run:
                self._early_run = header.run if self._early_run in {None, header.run} else -1
        elif header.run != self._run_in and not (cls is Abort and header.run == 0):
            raise self._refusal("a frame of another run")

    def _refusal(self, what: str) -> ProtocolError:
        error = ProtocolError(f"{self.name} sent {what}", party=self.me)
        self.fail(error)
        return error

    def _deliver(self, header: Header, payload: Data) -> None:
        number = header.type
        cls = self._types[number]
        if cls is Beat:
            self._forget(decode(Beat, payload).seen)
            return
        self._next_in += 1
        cost = header.length + FRAME_COST
        if number >= FIRST_TYPE:
            self._granted[number] -= cost
            self.said.note(self.received, number, header.flags, header.length, [payload])
        elif self._control(cls, payload):
            return
        last = bool(header.flags & END)
        self._queues[number].append((None if last and not header.length else payload, last, cost))
        _wake(self._waiters[number])

    def _control(self, cls: type[Message], payload: Data) -> bool:
        """Handle what is not for the session; True if done."""
        if cls is Credit:
            credit = decode(Credit, payload)
            self._forget(credit.seen)
            known = self._types.get(credit.kind)
            if known is None or credit.size < 0:
                raise self._refusal("credit for nothing")
            allowance = self._allowance[credit.kind] + credit.size
            # whoever credits bytes has seen them: more than a window is never under way or kept for resending
            if allowance + self._unseen_cost[credit.kind] > self._window(known):
                raise self._refusal(f"more credit for {known.__name__} than was used")
            self._allowance[credit.kind] = allowance
            _wake(self._waiters[_CREDIT])
        elif cls is Abort:
            abort = decode(Abort, payload)
            self.fail(_aborted(self.name, abort))
        elif cls is Bye:
            self.said_bye.set()
            for waiters in self._waiters.values():
                _wake(waiters)
        else:
            return False
        return True

    def _forget(self, seen: int) -> None:
        if seen > self._next_out:
            raise self._refusal("word of frames that were never sent")
        while self._unseen and self._unseen[0].sequence < seen:
            frame = self._unseen.popleft()
            self._unseen_cost[frame.number] -= frame.cost
        if not self._unseen:
            _wake(self._waiters[_SEEN])

    def _window(self, cls: type[Message]) -> int:
        return max(self._config.window, 2 * (cls.wire.limit + FRAME_COST))

    # -- connecting and staying so

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.connect_timeout
        try:
            for again in itertools.count():
                link = await self._connect(deadline, first=again == 0)
                self._stand(link, again=again > 0)
                await self._broken.wait()
                self._link = None
                if self.said_bye.is_set():
                    return
                deadline = loop.time() + self._config.silence
                await asyncio.sleep(
                    self._config.redial_pause
                )  # a peer that only comes and goes gains nothing
        except VeilsumError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001  without its links a peer would wait for ever
            self.fail(_unforeseen(self.name, error))

    def _stand(self, link: Link, *, again: bool) -> None:
        """Begin on a new link, all in one go: what is posted later queues behind what is sent again."""
        self._broken.clear()
        self._link = link
        link.attach(self._admit, self._deliver, lambda error: self._on_break(link, error))
        with suppress(PeerLost):
            for frame in self._unseen:
                link.post(frame.header, frame.parts)
        self._up.set()
        self._on_connected(self.name, again)

    async def _connect(self, deadline: float, *, first: bool) -> Link:
        loop = asyncio.get_running_loop()
        began = warned = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + self._patience(first))):
                    return await self._handshake(await self._links.link(self.name, "control"))
            except (OSError, PeerLost, TimeoutError):  # worth another attempt
                if self._failure is not None:
                    raise self._failure from None
            now = loop.time()
            if now >= deadline:
                raise self._away(now - began, first=first)
            if now - warned >= self._config.waiting_after:
                warned = now
                self._on_waiting(self.name, now - began)
            await asyncio.sleep(self._config.redial_pause)

    def _patience(self, first: bool) -> float:
        return self._config.waiting_after if first else self._config.silence

    def _away(self, seconds: float, *, first: bool) -> PeerLost:
        how = "did not come" if first else "went away and did not come back"
        return PeerLost(
            f"{self.name} {how} within {seconds:.0f} s",
            remedy=f"see that {self.name} runs and is reachable, then give the same command again everywhere",
            party=self.me,
        )

    async def _handshake(self, link: Link) -> Link:
        try:
            hello = Hello(**{**_fields(self._hello), "seen": self._next_in})
            parts = encode(hello)
            await link.send(pack_header(0, 0, sum(map(len, parts)), 0, 0), parts)
            async with asyncio.timeout(self._config.handshake_timeout if self._their_session else None):
                header, payload = await link.recv()
            if header.type != 0:
                _not_hello(self.name, self.me)
            self._check_hello(decode(Hello, payload))
        except BaseException as error:
            link.fail(error)
            raise
        return link

    def _check_hello(self, theirs: Hello) -> None:
        mine = self._hello
        if (theirs.wire_version, theirs.schema) != (WIRE, mine.schema):
            raise ConfigError(
                f"{self.name} runs veilsum {theirs.version!r}, this party {mine.version!r}, which differ",
                remedy="install the same version at all parties",
                party=self.me,
            )
        if theirs.party != self.name:
            raise ProtocolError(f"{self.name} calls itself {theirs.party!r}", party=self.me)
        oldest = self._unseen[0].sequence if self._unseen else self._next_out
        begun = self._next_in > 1 or oldest > 1  # before, it has nothing to remember
        if begun and self._their_session != theirs.session:
            self.fail(_restarted(self.name, self.me))
            raise PeerLost(f"{self.name} was started again")
        self._their_session = theirs.session
        self._forget(theirs.seen)
        if theirs.seen < (self._unseen[0].sequence if self._unseen else self._next_out):
            raise ProtocolError(f"{self.name} has forgotten frames that it had seen", party=self.me)

    def _on_break(self, link: Link, error: BaseException) -> None:
        if isinstance(error, VeilsumError) and not isinstance(error, PeerLost):
            self.fail(error)  # the link stays until the session has told the peer why
        elif link is self._link and not self._ending:
            self._broken.set()

    async def _heartbeat(self) -> None:
        try:
            await self._beat_for_ever()
        except Exception as error:  # noqa: BLE001  without its heart a peer could hang unnoticed
            self.fail(_unforeseen(self.name, error))

    async def _beat_for_ever(self) -> None:
        loop, config = asyncio.get_running_loop(), self._config
        waiting = 0.0
        while True:
            asleep = loop.time()
            await asyncio.sleep(config.heartbeat)
            late = loop.time() - asleep - config.heartbeat
            link = self._link
            if link is None:
                continue
            if loop.time() - link.heard > config.silence + late:
                # late: this process itself was held up, which says nothing about the peer
                self._on_silence(link)
                continue
            if not link.busy:  # else the bytes under way are the sign of life
                beat = encode(Beat(self._next_in))
                with suppress(PeerLost):
                    link.post(pack_header(0, self._numbers[Beat], len(beat[0]), 0, 0), beat)
            waiting = self._report_waiting(waiting)

    def _on_silence(self, link: Link) -> None:
        self.fail(
            PeerLost(
                f"{self.name} has been silent for {self._config.silence:.0f} s",
                remedy=f"look after {self.name} and the network, then give the same command again everywhere",
                party=self.me,
            )
        )
        link.fail(PeerLost("silent"))

    def _report_waiting(self, reported: float) -> float:
        since = min(self._since.values(), default=None)
        if since is None:
            return 0.0
        seconds = asyncio.get_running_loop().time() - since
        if seconds > self.step_timeout:
            self.fail(
                StepTimeout(
                    f"{self.name} is alive but has not sent what is due for {seconds:.0f} s",
                    remedy="raise step_timeout in the job, or ask that party what keeps it",
                    party=self.me,
                )
            )
        elif seconds - reported >= self._config.waiting_after or (seconds < reported):
            if seconds >= self._config.waiting_after:
                self._on_waiting(self.name, seconds)
            return seconds
        return reported


def _fields(hello: Hello) -> dict[str, Any]:
    return {name: getattr(hello, name) for name in hello.__struct_fields__}


def _aborted(peer: PartyId, abort: Abort) -> PeerAborted:
    # a peer's words are shown only where this party knows them itself
    kind = KINDS.get(abort.code, VeilsumError)
    return PeerAborted(f"{peer} stopped: {kind.public} ({kind.__name__})", cause=kind.__name__)


def _restarted(peer: PartyId, me: PartyId) -> PeerLost:
    return PeerLost(
        f"{peer} was started again and no longer knows this attempt",
        remedy="give the same command again here: the run goes on where its journals stand",
        party=me,
    )


def _not_hello(peer: PartyId, me: PartyId) -> None:
    raise ProtocolError(f"{peer} did not begin with a Hello", party=me)


def _unforeseen(peer: PartyId, error: Exception) -> VeilsumError:
    failure = VeilsumError(
        f"the connection with {peer} ended by an unforeseen {type(error).__name__}",
        remedy="report this as a bug of veilsum, with the lines above",
    )
    failure.__cause__ = error
    return failure


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
