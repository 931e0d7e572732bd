"""Everything that can go wrong on a wire, as a closed list, done to any backend from the sender's side.

`FaultyLinks` stands around one party's `Links` and spoils its n-th protocol frame (or its n-th of one
type). What the parties then must end with stands beside each fault: healed, or a named error everywhere.

```
for fault in FAULTS:
    for nth in range(1, frames[party] + 1):
        outcome = await play_with_fault(make_cluster, fault, party, nth)
        check(outcome, expected)
```
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

import msgspec

from veilsum.errors import PeerAborted, PeerLost, ProtocolError, StepTimeout, VeilsumError
from veilsum.net.control import CONTROL, FIRST_TYPE, Beat, Bye, Credit, Hello
from veilsum.net.link import END, Header, Link
from veilsum.net.messages import Data, Message, encode
from veilsum.net.peer import FRAME_COST
from veilsum.net.ports import Links, SocketPair
from veilsum.parties import PartyId
from veilsum.testing.cluster import Cluster, Play

_HEADER = struct.Struct("<BBHIQQ")
_HELLO, _BEAT, _CREDIT, _BYE = (CONTROL.index(cls) for cls in (Hello, Beat, Credit, Bye))


class Frame(NamedTuple):
    """A frame on its way out."""

    header: Header
    payload: bytes

    def post(self, link: Link, **changes: int) -> None:
        """Post it, with changed fields of its header if any are given."""
        header = self.header._replace(**changes)
        link.post(_HEADER.pack(*header), [self.payload] if self.payload else [])

    def with_payload(self, payload: bytes) -> "Frame":
        """Return it with another payload, whose length its header tells."""
        return Frame(self.header._replace(length=len(payload)), payload)


class Script:
    """What one party's links are to do wrong; it outlives each of its connections.

    Args:
        fault: what happens.
        nth: to which protocol frame of the party, counted from 1 over all peers.
        kind: count only frames of this number.
        forbidden: a message number that the party's roles may not send.
        limits: message number → the most bytes of one message.
    """

    def __init__(
        self,
        fault: "Fault",
        nth: int,
        *,
        kind: int | None = None,
        forbidden: int | None = None,
        limits: Mapping[int, int] | None = None,
    ) -> None:
        self.fault, self.nth, self.kind = fault, nth, kind
        self.forbidden, self.limits = forbidden, limits or {}
        self.victim: PartyId | None = None
        self.struck_at = 0.0
        self._counted: set[tuple[PartyId, int]] = set()
        self.frames = 0
        self.window = 0
        self.unreachable: set[PartyId] = set()
        self.muted: set[PartyId] = set()
        self.stalled: set[PartyId] = set()

    def strikes(self, peer: PartyId, header: Header) -> bool:
        """Whether this frame is the one; frames that are sent again count once."""
        if header.type < FIRST_TYPE or self.kind not in {None, header.type}:
            return False
        if (peer, header.sequence) in self._counted:
            return False
        self._counted.add((peer, header.sequence))
        self.frames += 1
        if self.frames != self.nth:
            return False
        self.victim, self.struck_at = peer, time.monotonic()
        return True


class FaultyLinks(Links):
    """The links of one party, with a script of what goes wrong."""

    def __init__(self, inner: Links, script: Script) -> None:
        self._inner, self._script = inner, script

    async def link(self, peer: PartyId, purpose: str) -> Link:
        """Return a link, unless the script has cut the peer off for ever."""
        if peer in self._script.unreachable:
            raise ConnectionRefusedError
        return cast("Link", FaultyLink(await self._inner.link(peer, purpose), peer, self._script))

    async def sockets(self, peer: PartyId, label: str) -> SocketPair:
        """Return a blocking pair, unless the script has cut the peer off for ever."""
        if peer in self._script.unreachable:
            raise ConnectionRefusedError
        return await self._inner.sockets(peer, label)


class FaultyLink:
    """A link around another one: all that is sent passes by the script; all else is the inner link's."""

    def __init__(self, inner: Link, peer: PartyId, script: Script) -> None:
        self.inner, self.peer, self.script = inner, peer, script
        self.kept: Frame | None = None

    def __getattr__(self, name: str) -> Any:
        """Hand on."""
        return getattr(self.inner, name)

    async def send(self, header: bytes, parts: list[Data]) -> None:
        """Send a frame as the script has it."""
        self.post(header, parts)

    def post(self, header: bytes, parts: list[Data]) -> None:
        """Post a frame as the script has it."""
        script = self.script
        frame = Frame(Header(*_HEADER.unpack(header)), b"".join(parts))
        unheard = script.stalled if frame.header.type in {_HELLO, _BEAT} else script.stalled | script.muted
        if self.peer in unheard:
            return
        if script.strikes(self.peer, frame.header):
            with suppress(PeerLost):
                script.fault.strike(self, frame)
        elif self.kept is not None and frame.header.type not in {_HELLO, _BEAT}:
            kept, self.kept = self.kept, None
            frame.post(self.inner)
            kept.post(self.inner)
        else:
            self.inner.post(header, parts)


# -- the faults

Strike = Callable[[FaultyLink, Frame], None]
Kinds = frozenset[type[VeilsumError]]


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        name: as in the design.
        strike: is given the chosen frame, and posts (or does not) what goes out in its place.
        named: the errors of which at least one party must end with one; empty if the fault heals.
        victim: what the party at the receiving end may end with.
        others: what everybody else may end with.
        timed: whether it is noticed only by a time running out.
    """

    name: str
    strike: Strike
    named: Kinds
    victim: Kinds
    others: Kinds
    timed: bool = False

    @property
    def heals(self) -> bool:
        """Whether the run must end with the right result."""
        return not self.named

    def __repr__(self) -> str:
        return self.name


def _cut(link: FaultyLink, frame: Frame) -> None:
    del frame
    link.fail(ConnectionResetError("cut before a frame"))


def _cut_within(link: FaultyLink, frame: Frame) -> None:
    link.inner.post(_HEADER.pack(*frame.header), [frame.payload[: len(frame.payload) // 2]])
    link.fail(ConnectionResetError("cut within a frame"))


def _cut_after(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner)
    link.fail(ConnectionResetError("cut after a frame"))


def _cut_for_ever(link: FaultyLink, frame: Frame) -> None:
    del frame
    link.script.unreachable.add(link.peer)
    link.fail(ConnectionResetError("cut for ever"))


def _stall(link: FaultyLink, frame: Frame) -> None:
    del frame
    link.script.stalled.add(link.peer)


def _mute(link: FaultyLink, frame: Frame) -> None:
    del frame
    link.script.muted.add(link.peer)


def _mute_then_close(link: FaultyLink, frame: Frame) -> None:
    _stall(link, frame)
    asyncio.get_running_loop().call_later(0.2, _cut_for_ever, link, frame)


def _drop(link: FaultyLink, frame: Frame) -> None:
    del link, frame


def _replay(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner)
    frame.post(link.inner)


def _reorder(link: FaultyLink, frame: Frame) -> None:
    link.kept = frame


def _corrupt(link: FaultyLink, frame: Frame) -> None:
    spoilt = bytearray(frame.payload or b"\x00")
    spoilt[-1] ^= 1
    frame.with_payload(bytes(spoilt)).post(link.inner)


def _forge(link: FaultyLink, frame: Frame) -> None:
    # below TLS, as somebody on the path would
    raw = link.inner._sock  # noqa: SLF001  a forger asks nobody
    with suppress(OSError):
        socket.socket.send(raw, b"\x17\x03\x03\x00\x40" + bytes(64))
    del frame


def _oversize(link: FaultyLink, frame: Frame) -> None:
    limit = link.script.limits.get(frame.header.type, 0x7FFFFFFF)
    Frame(frame.header, b"\x00" * 64).post(link.inner, length=limit + 1)


def _largest(link: FaultyLink, frame: Frame) -> None:
    Frame(frame.header, b"\x00" * 64).post(link.inner, length=0xFFFFFFFF)


def _unknown_type(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner, type=0xFFFE)


def _wrong_run(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner, run=frame.header.run ^ 1)


def _wrong_role(link: FaultyLink, frame: Frame) -> None:
    kind = link.script.forbidden
    frame.post(link.inner, type=0xFFFE if kind is None else kind)


def _wrong_magic(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner, magic=0x57)


def _wrong_flags(link: FaultyLink, frame: Frame) -> None:
    frame.post(link.inner, flags=0x82)


def _truncate(link: FaultyLink, frame: Frame) -> None:
    frame.with_payload(frame.payload[:-1] or b"\x01").post(link.inner)


def _trailing(link: FaultyLink, frame: Frame) -> None:
    # an END without payload becomes one with a malformed payload
    frame.with_payload(frame.payload + b"\x00").post(link.inner)


def _wrong_shape(link: FaultyLink, frame: Frame) -> None:
    if not frame.payload:
        _trailing(link, frame)
        return
    size = int.from_bytes(frame.payload[:4], "little")
    plain = msgspec.msgpack.decode(frame.payload[4 : 4 + size])
    plain[-1] = [[*shape, 1] for shape in plain[-1]] or [[1]]
    head = msgspec.msgpack.encode(plain)
    frame.with_payload(len(head).to_bytes(4, "little") + head + frame.payload[4 + size :]).post(link.inner)


def _malformed(link: FaultyLink, frame: Frame) -> None:
    # 0xC1 is the one byte that msgpack never uses
    frame.with_payload(frame.payload[:4] + b"\xc1" + frame.payload[5:]).post(link.inner)


def _flood(link: FaultyLink, frame: Frame) -> None:
    size = link.script.limits.get(frame.header.type, 1 << 16)
    full = frame.with_payload(bytes(size))
    for more in range(link.script.window // (size + FRAME_COST) + 3):
        full.post(link.inner, sequence=frame.header.sequence + more, flags=0)


def _early_end(link: FaultyLink, frame: Frame) -> None:
    # where an end was due, a message that is none
    flags = END if frame.payload or not frame.header.flags else 0
    frame.with_payload(b"").post(link.inner, flags=flags)


def _control(kind: int, message: Message, *, sequenced: bool = True) -> Strike:
    payload = b"".join(encode(message))

    def strike(link: FaultyLink, frame: Frame) -> None:
        sequence = frame.header.sequence if sequenced else 0
        Frame(Header(frame.header.magic, 0, kind, len(payload), sequence, frame.header.run), payload).post(
            link.inner
        )
        if not sequenced:
            frame.post(link.inner)

    return strike


def _credit_too_much(link: FaultyLink, frame: Frame) -> None:
    # for whatever the party sends: each side's number of the first protocol message
    _control(_CREDIT, Credit(FIRST_TYPE, 1 << 62, frame.header.sequence))(link, frame)


_LOST: Kinds = frozenset({PeerLost})
_BROKEN: Kinds = frozenset({ProtocolError})
_TOLD: Kinds = frozenset({PeerAborted})
_LATE: Kinds = frozenset({StepTimeout})
_NOBODY: Kinds = frozenset()

_BREAKS: dict[str, Strike] = {
    "replay": _replay,
    "oversize": _oversize,
    "largest": _largest,
    "unknown type": _unknown_type,
    "wrong run": _wrong_run,
    "wrong role": _wrong_role,
    "wrong magic": _wrong_magic,
    "wrong flags": _wrong_flags,
    "truncate": _truncate,
    "trailing": _trailing,
    "wrong shape": _wrong_shape,
    "malformed": _malformed,
    "flood": _flood,
    "early end": _early_end,
    "early bye": _control(_BYE, Bye()),
    "second hello": _control(_HELLO, Hello(1, "x", b"", b"", "0", 0)),
    "credit for nothing": _control(_CREDIT, Credit(999, 1, 0)),
    "credit below zero": _control(_CREDIT, Credit(FIRST_TYPE, -1, 0)),
    "credit too much": _credit_too_much,
    "seen too much": _control(_BEAT, Beat(1 << 62), sequenced=False),
}

FAULTS: tuple[Fault, ...] = (
    Fault("cut", _cut, _NOBODY, _NOBODY, _NOBODY),
    Fault("cut within", _cut_within, _NOBODY, _NOBODY, _NOBODY),
    Fault("cut after", _cut_after, _NOBODY, _NOBODY, _NOBODY),
    Fault("cut for ever", _cut_for_ever, _LOST, _LOST | _TOLD, _LOST | _TOLD, timed=True),
    Fault("stall", _stall, _LOST, _LOST | _TOLD, _LOST | _TOLD, timed=True),
    Fault("mute then close", _mute_then_close, _LOST, _LOST | _TOLD, _LOST | _TOLD, timed=True),
    Fault("mute", _mute, _LATE, _LATE | _TOLD | _LOST, _LATE | _TOLD, timed=True),
    # noticed by the next frame, if the sender gets as far as to have one
    Fault("drop", _drop, _BROKEN | _LATE, _BROKEN | _LATE | _TOLD, _LATE | _TOLD, timed=True),
    Fault("reorder", _reorder, _BROKEN | _LATE, _BROKEN | _LATE | _TOLD, _LATE | _TOLD, timed=True),
    Fault("corrupt", _corrupt, _BROKEN, _BROKEN, _BROKEN | _TOLD),
    *(Fault(name, strike, _BROKEN, _BROKEN, _TOLD) for name, strike in _BREAKS.items()),
)
"""Every fault that a backend lets through; ``corrupt`` is one that only a check of content can notice."""

FORGE = Fault("forge", _forge, _NOBODY, _NOBODY, _NOBODY)
"""On TLS alone: a forged record breaks the connection, which heals like any other break."""

NO_FAULT = Fault("none", lambda link, frame: frame.post(link.inner), _NOBODY, _NOBODY, _NOBODY)


# -- playing

Wrap = Callable[[PartyId, Links], Links]
MakeCluster = Callable[[Wrap], tuple[Cluster, Mapping[PartyId, Play]]]


class Outcome(NamedTuple):
    """What became of a run with a fault.

    Attributes:
        results: party → what it returned, or the error that it ended with.
        victim: who was sent the spoilt frame (None: there was no such frame).
        seconds: from the fault to the end at the last party.
        frames: how many protocol frames the faulty party sent.
    """

    fault: Fault
    party: PartyId
    results: dict[PartyId, Any]
    victim: PartyId | None
    seconds: float
    frames: int


async def play_with_fault(
    make_cluster: MakeCluster,
    fault: Fault,
    party: PartyId,
    nth: int,
    *,
    kind: type[Message] | None = None,
) -> Outcome:
    """Play a protocol once, with one fault at one party.

    Args:
        make_cluster: is given what to put around links, and returns a cluster and every party's part.
        fault: one of `FAULTS`.
        party: whose frame is spoilt.
        nth: which of its protocol frames, from 1.
        kind: count only messages of this type.
    """
    script = Script(fault, nth)

    def wrap(me: PartyId, links: Links) -> Links:
        return FaultyLinks(links, script) if me == party else links

    cluster, plays = make_cluster(wrap)
    numbers = {cls: FIRST_TYPE + place for place, cls in enumerate(cluster.messages)}
    roles = set(cluster.job.roles(party))
    script.kind = None if kind is None else numbers[kind]
    script.window = max(cluster.config.window, 2 * (max(cls.wire.limit for cls in numbers) + FRAME_COST))
    script.limits = {number: cls.wire.limit for cls, number in numbers.items()}
    script.forbidden = next(
        (number for cls, number in numbers.items() if cls.wire.by and roles.isdisjoint(cls.wire.by)), None
    )
    results = await cluster.play(plays)
    return Outcome(fault, party, results, script.victim, time.monotonic() - script.struck_at, script.frames)


async def count_frames(make_cluster: MakeCluster, party: PartyId, kind: type[Message] | None = None) -> int:
    """Return how many protocol frames a party sends when nothing goes wrong."""
    return (await play_with_fault(make_cluster, NO_FAULT, party, 0, kind=kind)).frames


def check(outcome: Outcome, expected: Mapping[PartyId, Any], *, within: float = 5.0) -> None:
    """Compare what became of a run with what its fault declares.

    Args:
        outcome: of `play_with_fault`.
        expected: every party's result of a run in which nothing goes wrong.
        within: seconds from the fault in which everybody must have ended.

    Raises:
        AssertionError: a party ended otherwise, or too late.
    """
    fault, results = outcome.fault, outcome.results
    story = f"{fault.name!r} by {outcome.party} at {outcome.victim}: {results}"
    if fault.heals or outcome.victim is None:
        if results != dict(expected):
            raise AssertionError(f"not healed: {story}")
        return
    for name, result in results.items():
        allowed = fault.victim if name == outcome.victim else fault.others
        if name == outcome.party:
            allowed |= _BROKEN  # it may be the first to find its own traffic odd
        if type(result) not in allowed:
            raise AssertionError(f"{name} may end with {[kind.__name__ for kind in allowed]}; {story}")
    if fault.named.isdisjoint({type(result) for result in results.values()}):
        raise AssertionError(f"nobody ended with {[kind.__name__ for kind in fault.named]}; {story}")
    if outcome.seconds > within:
        raise AssertionError(f"it took {outcome.seconds:.1f} s; {story}")
