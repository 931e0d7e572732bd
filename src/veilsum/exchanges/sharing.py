"""Values of owners go to the computing parties as shares, and results come back to whom the job names.

| step | who | message |
|---|---|---|
| 3 | owner → computer | `Dealt(keys of the components that it holds; pieces of the last component)` |
| 4 | computer → computer | `Heard(a hash of every component that it holds, and of its plan)` |
| 6 | computer → receiver | `Released(its components of a result)` |

An owner's numbers stay the same sharing in every attempt of a run, so a resend is the same bytes. The hashes
are compared before anything is computed: an owner that gives two holders different components, or a holder
that says something else, ends the run. A receiver compares what several computing parties hold, too.

Leaks: the shapes of inputs and results, to everybody in the job.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from veilsum.crypto.prg import KEY_BYTES
from veilsum.errors import CheatingDetected, ProtocolError
from veilsum.mpc import inputs
from veilsum.mpc.engine import Engine
from veilsum.mpc.shares import Arith, Words
from veilsum.net.config import KIB, MIB
from veilsum.net.messages import Buffer, Message, message
from veilsum.net.session import Session
from veilsum.parties import PartyId

PIECE = 1 << 19
"""Words of one message: 4 MiB."""


@message(3, by=("owner", "modeller"), limit=8 * PIECE + 4 * KIB)
class Dealt(Message, frozen=True):
    """One piece of the last component, (n,) uint64; with the first one the keys of other components."""

    index: int
    components: list[int]
    keys: list[bytes]
    words: Annotated[NDArray[np.uint64], Buffer("u8", (None,))]


@message(4, by="computer")
class Heard(Message, frozen=True):
    """SHA-256 over all that the sender was given of each component that it holds, and of what it will do."""

    components: list[int]
    digests: list[bytes]
    plan: bytes = b""


@message(6, by="computer", limit=4 * MIB * 2 + 4 * KIB)
class Released(Message, frozen=True):
    """One piece of the sender's components of a result, (components, n) uint64."""

    name: str
    index: int
    words: Annotated[NDArray[np.uint64], Buffer("u8", (None, None))]


async def deal(
    s: Session, engine: type[Engine], computers: Sequence[PartyId], values: Words, label: str
) -> Arith | None:
    """Share an owner's ring elements among the computing parties.

    Args:
        s: the session.
        engine: the class of the engine.
        computers: the computing parties in order.
        values: ring elements of any shape, which is public.
        label: names the input in this run.

    Returns:
        The owner's own share if it computes, too.
    """
    keys = [s.random.derive(0, f"share {label}", at, KEY_BYTES) for at in range(engine.components - 1)]
    made = await s.compute(inputs.components, engine, values, keys)
    last = made[-1].reshape(-1)
    for number, name in enumerate(computers):
        if name == s.me:
            continue
        mine = [component for component in engine.held(number) if component < len(keys)]
        holds_last = engine.components - 1 in engine.held(number)
        known = [keys[component] for component in mine]
        for index, piece in enumerate(_pieces(last) if holds_last else [last[:0]]):
            first = index == 0
            await s[name].send(Dealt(index, mine if first else [], known if first else [], piece))  # 3
    if s.me not in computers:
        return None
    number = list(computers).index(s.me)
    return Arith(np.stack([made[component] for component in engine.held(number)]))


async def take(
    s: Session, engine: type[Engine], number: int, owner: PartyId, shape: tuple[int, ...]
) -> Arith:
    """Receive this computing party's share of an owner's input.

    Raises:
        ProtocolError: the owner sends other components or sizes than the job asks for.
    """
    size = math.prod(shape)
    holds_last = engine.components - 1 in engine.held(number)
    expected = [component for component in engine.held(number) if component < engine.components - 1]
    last = np.empty(size if holds_last else 0, np.uint64)
    keys: dict[int, bytes] = {}
    for index, (start, end) in enumerate(bounds(len(last))):
        got = await s[owner].recv(Dealt)  # 3
        due = expected if index == 0 else []
        wrong_keys = got.components != due or [len(key) for key in got.keys] != [KEY_BYTES] * len(due)
        if got.index != index or len(got.words) != end - start or wrong_keys:
            raise ProtocolError(f"{owner} shares an input of another shape than it announced", party=s.me)
        keys |= zip(due, got.keys, strict=True)
        last[start:end] = got.words
    return await s.compute(inputs.held, engine, number, shape, keys, last if holds_last else None)


async def compare(
    s: Session,
    engine: type[Engine],
    computers: Sequence[PartyId],
    number: int,
    shares: Sequence[Arith],
    plan: bytes,
) -> None:
    """Compare what the computing parties were given, and what they are about to do.

    Args:
        s: the session.
        engine: the class of the engine.
        computers: the computing parties in order.
        number: this one's.
        shares: of all inputs, in an order that is the same everywhere.
        plan: the digest of everything public that decides what happens, where it goes on included.

    Raises:
        CheatingDetected: two holders of a component have different ones.
        ProtocolError: a peer names other components than it holds, or has another plan.
    """
    mine = await s.compute(inputs.digests, engine, number, shares)
    others = [name for name in computers if name != s.me]
    await s.broadcast(Heard(list(mine), list(mine.values()), plan), of=others)  # 4
    got = await s.gather(Heard, of=others)  # 4
    theirs = {}
    for name, heard in got.items():
        peer = list(computers).index(name)
        if heard.components != list(engine.held(peer)) or len(heard.digests) != len(heard.components):
            raise ProtocolError(f"{name} says that it holds other components than it does", party=s.me)
        theirs[peer] = dict(zip(heard.components, heard.digests, strict=True))
    inputs.compare(engine, number, mine, theirs)
    for name, heard in got.items():
        if heard.plan != plan:
            raise ProtocolError(
                f"{name} is about to compute something else, or to go on from another checkpoint",
                remedy="give all commands again; if it stays, with --fresh at all parties",
                party=s.me,
            )


async def release(s: Session, receivers: Sequence[PartyId], name: str, share: Arith) -> None:
    """Give this party's components of a result to those that may have it."""
    flat = np.ascontiguousarray(share.parts.reshape(share.parts.shape[0], -1))
    width = PIECE // len(flat)
    for receiver in receivers:
        if receiver == s.me:
            continue
        for index, (start, end) in enumerate(bounds(flat.shape[1], width)):
            await s[receiver].send(Released(name, index, flat[:, start:end]))  # 6


async def collect(
    s: Session,
    engine: type[Engine],
    computers: Sequence[PartyId],
    name: str,
    shape: tuple[int, ...],
    own: Arith | None,
) -> Words:
    """Put a released result together.

    Args:
        s: the session.
        engine: the class of the engine.
        computers: the computing parties in order.
        name: of the result.
        shape: of the result.
        own: this party's own share, if it computes, too.

    Raises:
        CheatingDetected: two computing parties gave different components.
        ProtocolError: one sends another result or size.
    """
    parts: dict[int, Words] = {}
    for number, peer in enumerate(computers):
        if peer == s.me:
            assert own is not None
            parts[number] = own.parts.reshape(own.parts.shape[0], *shape)
            continue
        held, size = len(engine.held(number)), math.prod(shape)
        words = np.empty((held, size), np.uint64)
        for index, (start, end) in enumerate(bounds(size, PIECE // held)):
            got = await s[peer].recv(Released)  # 6
            if (got.name, got.index, got.words.shape) != (name, index, (held, end - start)):
                raise ProtocolError(f"{peer} releases something else than the job says", party=s.me)
            words[:, start:end] = got.words
        parts[number] = words.reshape(held, *shape)
    try:
        return await s.compute(inputs.together, engine, parts)
    except CheatingDetected as error:
        raise error.at(party=s.me) from None


def _pieces(words: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start, end in bounds(len(words)):
        yield words[start:end]


def bounds(size: int, width: int = PIECE) -> list[tuple[int, int]]:
    """Return the bounds of pieces; of nothing there is one empty piece."""
    return [(start, min(start + width, size)) for start in range(0, max(size, 1), width)]
