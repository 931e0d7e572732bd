"""Hidden alignment of two members' rows on their union: mode ``hidden_union`` (Private-ID).

Both *members* get the same list of random ids, one per id that either of them holds, and each knows which of
these are its own. Neither learns which of its own ids the other holds. Each member has two fresh scalars: k
for matching, r for naming (`veilsum.crypto.private_id`); O is the owner of a list, X the other member.

| step | who | message |
|---|---|---|
| 1 | member → member | `Size(how many ids, their declared form)` |
| 2 | member → member | `MaskedPoints(H(x)^kO, in the owner's secret random order)` |
| 3 | member → member | `NamedPoints(H(x)^(kO·kX·rX), in the order received)` |
| 3 | member → member | `MatchedPoints(H(x)^(kO·kX), in X's own secret random order)` |
| 4 | member → member | `ExclusivePoints(H(x)^(kO·kX·rO), of the ids that only O holds, shuffled again)` |
| 5 | member → member | `Union(how many random ids, and their hash)` |

After step 3 each member compares its own list, which the other has shuffled, with the other's list, whose
order is the other's secret: it sees how many are common, and the matched points of its own exclusive ids
without knowing which these are. In step 4 the other member learns their names, and so the whole union. Names
of own ids come by the separate path of `NamedPoints`, which nothing links to the comparison. The common order
is that of the random ids.

Adversary: two semi-honest members. The hash of the union shows a member that computed something else.
Not protected: ids that a member enters without holding them (it learns how many of them the other holds).

Leaks:
    members: the number of ids of both, and how many they have in common; so the size of the union.
    Equal ids of different runs cannot be linked: the scalars are fresh in every run.

Source: P. Buddhavarapu et al., "Private Matching for Compute", eprint 2020/599, protocol Private-ID.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import dh, private_id
from veilsum.crypto.private_id import NAME_BYTES, Keys
from veilsum.data.alignment import NO_ROW
from veilsum.data.alignment import Places as Placed
from veilsum.data.ids import IdBatch
from veilsum.errors import CheatingDetected, ConfigError, ProtocolError
from veilsum.exchanges.id_lists import (
    Ids,
    Size,
    announce,
    batch_count,
    join,
    matrix,
    receive,
    send,
    shuffle,
    split,
)
from veilsum.jobs import Job, Leak
from veilsum.net.config import KIB
from veilsum.net.messages import Buffer, Message, message
from veilsum.net.ports import Journal
from veilsum.net.session import Session
from veilsum.net.stage import Stage
from veilsum.parties import PartyId, Role
from veilsum.store.files import Scratch
from veilsum.store.places import Located
from veilsum.store.tables import Shuffled, leading_words
from veilsum.store.tags import Join, TagTable, tag_tables

KIND = "hidden_psi"
ADVERSARY = (
    "semi-honest parties: each follows the protocol and may study what it sees. A member can enter ids that "
    "are not its own, and learns how many of them the other holds."
)
MEMBER = Role("member")
BATCH_LIMIT = 65536
LEAST_FOR_A_CORE = 2048
POINT = 32  # bytes

Points = Annotated[NDArray[np.uint8], Buffer("u1", (None, POINT))]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parties agree on beyond their names.

    Attributes:
        mode: ``hidden_union``: neither member learns what matches.
        suite: the Diffie-Hellman suite.
        batch: ids per message and per durable step, at most 65536.
        max_ids: the most ids of one member.
    """

    mode: Literal["hidden_union"] = "hidden_union"
    suite: Literal["X25519"] = "X25519"
    batch: Annotated[int, msgspec.Meta(ge=1, le=BATCH_LIMIT)] = 32768
    max_ids: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 200_000_000


@message(2, by="member", limit=POINT * BATCH_LIMIT + KIB)
class MaskedPoints(Message, frozen=True):
    """One batch of the sender's list, masked by it; (n, 32) uint8 u-coordinates."""

    index: int
    points: Points


@message(3, by="member", limit=POINT * BATCH_LIMIT + KIB)
class NamedPoints(Message, frozen=True):
    """One batch of the receiver's list, matched and half named, in the receiver's order; (n, 32) uint8."""

    index: int
    points: Points


@message(3, by="member", limit=POINT * BATCH_LIMIT + KIB)
class MatchedPoints(Message, frozen=True):
    """One batch of the receiver's list, matched, in the sender's order; (n, 32) uint8."""

    index: int
    points: Points


@message(4, by="member", limit=POINT * BATCH_LIMIT + KIB)
class ExclusivePoints(Message, frozen=True):
    """One batch of those ids that only the sender holds, matched and half named; (n, 32) uint8."""

    index: int
    points: Points


@message(5, by="member")
class Union(Message, frozen=True):
    """How many random ids the union has, and the SHA-256 of them all in order."""

    size: int
    digest: bytes


PointsMessage = MaskedPoints | NamedPoints | MatchedPoints | ExclusivePoints
MESSAGES = (Size, MaskedPoints, NamedPoints, MatchedPoints, ExclusivePoints, Union)


class Aligned(NamedTuple):
    """What a party has learnt; see `places` for the alignment itself.

    Attributes:
        sizes: member → number of its ids.
        common: how many ids both hold.
        rows: places in the common order: ids that either holds.
        lines: the committed lines of the alignment.
    """

    sizes: dict[PartyId, int]
    common: int
    rows: int
    lines: Stage


LINE = np.dtype([("id", "u1", (NAME_BYTES,)), ("row", "<i8")])


def members(job: Job) -> tuple[PartyId, PartyId]:
    """Return the two members of a job.

    Raises:
        ConfigError: the roles do not fit the protocol.
    """
    named = job.parties.get(MEMBER, ())
    if set(job.parties) != {MEMBER} or len(named) != 2 or named[0] == named[1]:
        raise ConfigError(
            "a hidden_psi job in mode hidden_union has the role member, with two different parties",
            remedy='write [parties] member = ["a", "b"]',
        )
    return named[0], named[1]


def leaks(job: Job, params: Params) -> tuple[Leak, ...]:
    """Return who will have learnt what, before anything runs."""
    del params
    both = members(job)
    table = [
        Leak("alignment", who, "the number of ids of both members, and how many they have in common")
        for who in both
    ]
    released = "what the model's job releases; which rows match enters it under secret sharing only"
    return tuple(table + [Leak("modelling", who, released) for who in both])


async def align(
    s: Session, params: Params, ids: Ids, scratch: Scratch, *, least: int = 1, path: str | None = None
) -> Aligned:
    """Play a member; both do the same with each other's list. ``least`` is as in `announce`."""
    other = next(name for name in members(s.job) if name != s.me)
    async with s.step(1, "sizes"):
        sizes = await announce(s, ids, dict.fromkeys(members(s.job), params.max_ids), least=least)
    keys = private_id.gen_keys(s.random.derive(0, "matching", 0, 32), s.random.derive(0, "naming", 0, 32))
    state = _Stages(s, other, keys, params.batch, sizes, path)
    async with s.step(2, "mask and match"), asyncio.TaskGroup() as tasks:
        tasks.create_task(mask_own(s, state, ids, scratch))
        tasks.create_task(send_points(s, state, MaskedPoints, state.masked, "their matched"))
        tasks.create_task(match_theirs(s, state))
        tasks.create_task(name_theirs(s, state))
        tasks.create_task(send_points(s, state, NamedPoints, state.named, "own names"))
        tasks.create_task(finish_own(s, state))
    async with s.step(3, "shuffle and compare"), asyncio.TaskGroup() as tasks:
        tasks.create_task(shuffle_theirs(s, state, scratch))
        tasks.create_task(send_points(s, state, MatchedPoints, state.shuffled, "own matched"))
        tasks.create_task(receive_matched(s, state))
    async with s.step(4, "exclusive ids"):
        common, their_names = await exchange_exclusive(s, state, scratch)
    async with s.step(5, "union"):
        return await agree_on_union(s, state, their_names, scratch, common)


async def mask_own(s: Session, state: "_Stages", ids: Ids, scratch: Scratch) -> None:
    """Put H(x)^k of all own ids in a secret random order; keep which row stands where."""
    if state.masked.complete and state.rows.complete:
        return

    def hashing(batch: IdBatch) -> NDArray[np.uint8]:
        return dh.hash_to_points(batch.data, batch.offsets, path=state.path)

    with await s.compute(shuffle, s, ids, scratch, hashing, POINT) as table:
        chunks = table.chunks(state.batch)
        for index in range(state.masked.count):
            points, rows = split(await s.compute(next, chunks))
            if index in state.rows.left():
                await state.rows.commit(index, rows.astype("<i8").tobytes())
            if index in state.masked.left():
                masked = await apply(s, state, private_id.mask, points)
                await state.masked.commit(index, masked.tobytes())


async def match_theirs(s: Session, state: "_Stages") -> None:
    """Match the other's list as it comes, in its order."""
    other, stage = s[state.other], state.their_matched
    async for batch in receive(s, other, MaskedPoints, stage, state.sizes[other.name], state.batch):  # 2
        matched = await apply(s, state, private_id.match, batch.points)
        await stage.commit(batch.index, matched.tobytes())


async def name_theirs(s: Session, state: "_Stages") -> None:
    """Give the other's list this member's half of its names, in the other's order."""
    async for index, data in state.their_matched.follow(state.named.done):
        named = await apply(s, state, private_id.name, matrix(data, POINT))
        await state.named.commit(index, named.tobytes())


async def finish_own(s: Session, state: "_Stages") -> None:
    """Complete the names of one's own ids as they come back in one's own order."""
    other, stage = s[state.other], state.own_names
    async for batch in receive(s, other, NamedPoints, stage, state.sizes[s.me], state.batch):  # 3
        names = await apply(s, state, private_id.finish, batch.points)
        await stage.commit(batch.index, names.tobytes())


async def shuffle_theirs(s: Session, state: "_Stages", scratch: Scratch) -> None:
    """Put the other's matched points in an order that only this member knows."""
    stage = state.shuffled
    if stage.complete:
        return
    size = state.sizes[state.other]
    with Shuffled(scratch.folder, POINT, expected=size, budget=scratch.budget // 2) as table:
        async for index, data in state.their_matched.follow():
            points = matrix(data, POINT)
            await s.compute(table.append, points, s.random.numbers(0, "shuffle", index, len(points)))
        await commit_chunks(s, state, table, stage)


async def receive_matched(s: Session, state: "_Stages") -> None:
    """Receive one's own list, matched and shuffled by the other."""
    other, stage = s[state.other], state.own_matched
    async for batch in receive(s, other, MatchedPoints, stage, state.sizes[s.me], state.batch):  # 3
        await stage.commit(batch.index, batch.points.tobytes())


async def exchange_exclusive(s: Session, state: "_Stages", scratch: Scratch) -> tuple[int, Stage]:
    """Name for the other what only this member holds; learn the names of what only the other holds.

    Returns:
        How many ids both hold, and the committed names.
    """
    sizes = state.sizes
    lengths = [sizes[s.me], sizes[state.other]]
    own, theirs = tag_tables(scratch.folder, POINT, expected=lengths, budget=scratch.budget // 2)
    shared = Located(scratch, sizes[s.me], missing=np.uint8(0))
    try:
        common = await find_common(s, state, own, theirs, shared)
        exclusive = s.stage("exclusive", batch_count(sizes[s.me] - common, state.batch))
        their_names = s.stage("their names", batch_count(sizes[state.other] - common, state.batch))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(name_exclusive(s, state, exclusive, shared, scratch))
            tasks.create_task(send_points(s, state, ExclusivePoints, exclusive, "their names"))
            tasks.create_task(finish_theirs(s, state, their_names, sizes[state.other] - common))
    finally:
        own.close()
        theirs.close()
        shared.close()
    return common, their_names


async def find_common(s: Session, state: "_Stages", own: TagTable, theirs: TagTable, shared: Located) -> int:
    """Join both matched lists; mark in one's own (in the other's order) what is shared; return how many.

    Raises:
        ProtocolError: a list holds an id twice.
    """
    async for _, data in state.own_matched.follow():
        await s.compute(own.append, matrix(data, POINT))
    async for _, data in state.their_matched.follow():
        await s.compute(theirs.append, matrix(data, POINT))
    join = Join((own, theirs))

    def mark() -> None:
        for both in join:
            shared.append(both.positions[:, 0], np.ones(len(both), np.uint8))

    await s.compute(mark)
    for name, repeated in zip((s.me, state.other), join.duplicates.tolist(), strict=True):
        if repeated:
            raise ProtocolError(f"the list of {name} holds {repeated} ids more than once", party=s.me)
    return int(join.cells[0b11])


async def name_exclusive(
    s: Session, state: "_Stages", exclusive: Stage, shared: Located, scratch: Scratch
) -> None:
    """Name what only this member holds, in a new secret order, without knowing which of its ids these are."""
    if exclusive.complete:
        return
    size = state.sizes[s.me]
    with Shuffled(scratch.folder, POINT, expected=size, budget=scratch.budget // 4) as table:
        marks = shared.chunks(state.batch)
        async for index, data in state.own_matched.follow():
            points, mark = matrix(data, POINT), await s.compute(next, marks)
            order = s.random.numbers(0, "exclusive", index, len(points))
            await s.compute(table.append, points[mark == 0], order[mark == 0])
        chunks = table.chunks(state.batch, start=exclusive.done)
        for index in exclusive.left():
            named = await apply(s, state, private_id.name, await s.compute(next, chunks))
            await exclusive.commit(index, named.tobytes())


async def finish_theirs(s: Session, state: "_Stages", stage: Stage, size: int) -> None:
    """Complete the names of the ids that only the other member holds."""
    async for batch in receive(s, s[state.other], ExclusivePoints, stage, size, state.batch):  # 4
        names = await apply(s, state, private_id.finish, batch.points)
        await stage.commit(batch.index, names.tobytes())


async def agree_on_union(
    s: Session, state: "_Stages", their_names: Stage, scratch: Scratch, common: int
) -> Aligned:
    """Sort all random ids, with one's own rows where they stand, and compare the list with the other's.

    Raises:
        CheatingDetected: a random id comes twice.
        ProtocolError: the other member has another list.
    """
    size = sum(state.sizes.values()) - common
    lines = s.stage("lines", batch_count(size, state.batch))
    if not lines.complete:
        with Shuffled(scratch.folder, LINE.itemsize, expected=size, budget=scratch.budget // 2) as table:
            await gather_names(s, state, their_names, table)
            await commit_chunks(s, state, table, lines)
    digest, last = hashlib.sha256(), b""
    async for _, data in lines.follow():
        names = np.ascontiguousarray(np.frombuffer(data, LINE)["id"])
        keys = [last, *names.view(f"V{NAME_BYTES}")[:, 0].tolist()]
        if any(one >= other for one, other in itertools.pairwise(keys)):
            raise CheatingDetected("a random id comes more than once, which could mark rows", party=s.me)
        digest.update(names.tobytes())
        last = keys[-1]
    mine = Union(size, digest.digest())
    await s.broadcast(mine)  # 5
    if (await s[state.other].recv(Union)) != mine:  # 5
        raise ProtocolError(f"{state.other} has computed another union", party=s.me)
    return Aligned(state.sizes, common, size, lines)


async def gather_names(s: Session, state: "_Stages", their_names: Stage, table: Shuffled) -> None:
    """Put all names into a table that sorts them, one's own with their rows."""
    async for index, data in state.own_names.follow():
        rows = np.frombuffer(await state.rows.read(index), "<i8")
        names = matrix(data, NAME_BYTES)
        await s.compute(table.append, join(names, rows), leading_words(names))
    async for _, data in their_names.follow():
        names = matrix(data, NAME_BYTES)
        lines = join(names, np.full(len(names), NO_ROW, np.int64))
        await s.compute(table.append, lines, leading_words(names))


# -- local steps


async def send_points(
    s: Session, state: "_Stages", cls: type[PointsMessage], stage: Stage, theirs: str
) -> None:
    """Send the other member a list of points, from where its own stage ``theirs`` stands."""
    await send(s, s[state.other], stage, theirs, cls, lambda index, data: cls(index, matrix(data, POINT)))


async def apply(
    s: Session, state: "_Stages", step: Callable[..., NDArray[np.uint8]], points: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Apply a step of Private-ID to points on all cores."""

    def part(rows: slice) -> NDArray[np.uint8]:
        return step(state.keys, points[rows], path=state.path)

    return np.concatenate(await s.on_all_cores(part, len(points), least=LEAST_FOR_A_CORE))


async def commit_chunks(s: Session, state: "_Stages", table: Shuffled, stage: Stage) -> None:
    """Commit what a table gives in its order, from where the stage stands."""
    chunks = table.chunks(state.batch, start=stage.done)
    for index in stage.left():
        chunk = await s.compute(next, chunks)
        await stage.commit(index, chunk.tobytes())


class _Stages:
    """The durable sequences of one run at one member, whose names the other member knows too."""

    def __init__(
        self, s: Session, other: PartyId, keys: Keys, batch: int, sizes: dict[PartyId, int], path: str | None
    ) -> None:
        self.other, self.keys, self.batch, self.sizes, self.path = other, keys, batch, sizes, path
        own, theirs = batch_count(sizes[s.me], batch), batch_count(sizes[other], batch)
        self.rows = s.stage("rows", own)
        self.masked = s.stage("masked", own)
        self.own_names = s.stage("own names", own)
        self.own_matched = s.stage("own matched", own)
        self.their_matched = s.stage("their matched", theirs)
        self.named = s.stage("named", theirs)
        self.shuffled = s.stage("shuffled", theirs)


def places(journal: Journal, got: Aligned) -> Iterator[Placed]:
    """Yield every place of the common order, batch by batch, with one's own row there or `NO_ROW`."""
    start = 0
    for index in range(got.lines.count):
        lines = np.frombuffer(journal.read(got.lines.name, index), LINE)
        positions = np.arange(start, start + len(lines), dtype=np.int64)
        yield Placed(lines["row"].astype(np.int64), positions, np.ascontiguousarray(lines["id"]))
        start += len(lines)
