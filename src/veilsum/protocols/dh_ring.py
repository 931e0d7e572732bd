"""Alignment of rows by a private set intersection among two or more members: mode ``open`` by Diffie-Hellman.

Two or more *members* hold ids; one *collector*, a member or a neutral party without ids, compares what
all of them have masked. Every member i has a fresh secret scalar kᵢ and sends H(x)^kᵢ for its ids x, in a
secret random order, around the ring of members; each masks it with its own scalar and passes it on in the
same order. What the last one hands in to the collector are tags of H(x)^(k₁·k₂·…·kₙ): equal for equal ids,
and useless to anybody for testing an id of his own. H is RFC 9380's curve25519_XMD:SHA-512_ELL2_NU_,
the power is X25519 (RFC 7748).

| step | who | message |
|---|---|---|
| 1 | member → member, collector | `Size(how many ids, their declared form)` |
| 2 | member → member | `MaskedPoints(H(x)^k, round 0 … n-2 of the ring, in fixed batches)` |
| 3 | member → collector | `Tags(H(x)^(k₁…kₙ), truncated)` |
| 4 | collector → member | `Places(for every id in the order sent: its place in the common order, or none)` |

Two members of which one is the collector is the well-known two-party protocol. Steps 2 and 3 go on side by
side, batch by batch. Messages 1 to 3 depend on sizes only, and so does the length of message 4.

Adversary: semi-honest. A member that deviates can put any ids into its own list, as in every such protocol;
the collector can lie about the places. No coalition learns an id that none of it holds.
A member that colludes with the collector learns which of its own ids each other member holds.

Leaks:
    members: the number of ids of every member; with ``share_matches``, which of their own ids all hold.
    collector: the number of ids of every member, and how many ids each combination of members shares
        (2ⁿ-1 cells; for two members that is the size of the intersection). A collector that is itself
        a member also learns which of its own ids each combination holds.
    Equal ids of different runs cannot be linked: the scalars are fresh in every run.

Source: C. Meadows, IEEE S&P 1986; B. Huberman, M. Franklin, T. Hogg, ACM EC 1999; the ring is the folklore
n-party form.
"""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import dh
from veilsum.data.alignment import Places as Placed
from veilsum.data.ids import IdBatch
from veilsum.errors import ConfigError, ProtocolError
from veilsum.exchanges.id_lists import (
    Ids,
    Size,
    announce,
    batch_count,
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
from veilsum.store.places import NOWHERE, Located, locate
from veilsum.store.tags import Join, tag_tables

KIND = "hidden_psi"
ADVERSARY = (
    "semi-honest parties: each follows the protocol and may study what it sees. A member can enter ids "
    "that are not its own. A member that colludes with the collector learns which of its own ids each "
    "other member holds."
)
MEMBER, COLLECTOR = Role("member"), Role("collector")
BATCH_LIMIT = 65536
LEAST_FOR_A_CORE = 2048
POINT = 32  # bytes

Points = Annotated[NDArray[np.uint8], Buffer("u1", (None, 32))]
TagBytes = Annotated[NDArray[np.uint8], Buffer("u1", (None, None))]
PlaceNumbers = Annotated[NDArray[np.uint32], Buffer("u4", (None,))]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parties agree on beyond their names.

    Attributes:
        mode: ``open``: the matches are learnt openly.
        suite: the Diffie-Hellman suite.
        share_matches: whether members other than the collector are told their own matches.
        batch: ids per message and per durable step, at most 65536.
        max_ids: the most ids of one member.
    """

    mode: Literal["open"] = "open"
    suite: Literal["X25519"] = "X25519"
    share_matches: bool = False
    batch: Annotated[int, msgspec.Meta(ge=1, le=BATCH_LIMIT)] = 32768
    max_ids: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 2)] = 200_000_000


@message(2, by="member", limit=32 * BATCH_LIMIT + KIB)
class MaskedPoints(Message, frozen=True):
    """One batch of a list on its way around the ring; (n, 32) uint8 u-coordinates."""

    round: int
    index: int
    points: Points


@message(3, by="member", limit=16 * BATCH_LIMIT + KIB)
class Tags(Message, frozen=True):
    """One batch of a list that all members have masked; (n, width) uint8."""

    index: int
    tags: TagBytes


@message(4, by="collector", limit=4 * BATCH_LIMIT + KIB)
class Places(Message, frozen=True):
    """One batch of the receiver's own list: (n,) uint32 places in the common order, or `NOWHERE`."""

    index: int
    places: PlaceNumbers


MESSAGES = (Size, MaskedPoints, Tags, Places)


class Ring(NamedTuple):
    """Who masks after whom, and who compares."""

    members: tuple[PartyId, ...]
    collector: PartyId

    @classmethod
    def of(cls, job: Job, params: Params) -> "Ring":
        """Read the ring off a job.

        Raises:
            ConfigError: the roles do not fit the protocol, or nobody would learn anything.
        """
        members, collectors = job.parties.get(MEMBER, ()), job.parties.get(COLLECTOR, ())
        if set(job.parties) != {MEMBER, COLLECTOR} or len(collectors) != 1:
            raise ConfigError(
                "a hidden_psi job in mode open has the roles member (a list) and collector (one party)",
                remedy='write for example [parties] member = ["a", "b"], collector = "a"',
            )
        if not 2 <= len(set(members)) == len(members) <= 6:
            raise ConfigError(
                "a hidden_psi job has 2 to 6 different members", remedy="correct [parties] member"
            )
        if collectors[0] not in members and not params.share_matches:
            raise ConfigError(
                f"the collector {collectors[0]} brings no ids, so that nobody would learn its matches",
                remedy="set share_matches = true in [params], or make a member the collector",
            )
        return cls(members, collectors[0])

    def neighbour(self, me: PartyId, steps: int) -> PartyId:
        """Return the member so many places after ``me``."""
        return self.members[(self.members.index(me) + steps) % len(self.members)]


class Matched(NamedTuple):
    """What a party has learnt; ``matches`` is None for one that is not told.

    Attributes:
        sizes: member → number of its ids.
        matched: how many of the own ids all members hold.
        matches: committed pairs of (own source row, place in the common order).
        cells: at the collector, members that share → number of ids that exactly these share.
    """

    sizes: dict[PartyId, int]
    matched: int | None
    matches: Stage | None
    cells: dict[tuple[PartyId, ...], int] | None


PAIR = np.dtype([("row", "<i8"), ("place", "<u4")])


def leaks(job: Job, params: Params) -> tuple[Leak, ...]:
    """Return who will have learnt what, before anything runs."""
    ring = Ring.of(job, params)
    told = "which of its own ids all members hold, and so how many"
    table = [Leak("alignment", m, "the number of ids of every member") for m in ring.members]
    table += [Leak("alignment", m, told) for m in ring.members if params.share_matches or m == ring.collector]
    if len(ring.members) > 2 or ring.collector not in ring.members:
        cells = f"how many ids each of the {2 ** len(ring.members) - 1} combinations of members shares"
        table.append(Leak("alignment", ring.collector, f"the number of ids of every member, and {cells}"))
    if len(ring.members) > 2 and ring.collector in ring.members:
        table.append(Leak("alignment", ring.collector, "which other members hold each of its own ids"))
    released = "what the model's job releases about the matched rows"
    table += [
        Leak("modelling", m, released) for m in ring.members if params.share_matches or m == ring.collector
    ]
    return tuple(table)


async def align(
    s: Session,
    params: Params,
    ids: Ids | None,
    scratch: Scratch,
    *,
    least: int = 1,
    path: str | None = None,
) -> Matched:
    """Play all roles that this party has; members bring ``ids``. ``least`` is as in `announce`."""
    ring = Ring.of(s.job, params)
    async with s.step(1, "sizes"):
        sizes = await announce(s, ids, dict.fromkeys(ring.members, params.max_ids), least=least)
    state = _Stages(s, ring, params, sizes, path)
    async with asyncio.TaskGroup() as roles:
        own = roles.create_task(member(s, state, ids, scratch)) if ids is not None else None
        compared = roles.create_task(collector(s, state, scratch)) if s.me == ring.collector else None
    matched = None if own is None else own.result()
    return Matched(
        sizes, matched, None if matched is None else state.matches, compared.result() if compared else None
    )


async def member(s: Session, state: "_Stages", ids: Ids, scratch: Scratch) -> int | None:
    """Mask one's own ids and everybody else's; learn one's own matches if told. Returns how many."""
    key = dh.gen_key(s.random.derive(0, "key", 0, 32))
    async with s.step(2, "mask and pass on"), asyncio.TaskGroup() as tasks:
        tasks.create_task(mask_own(s, state, key, ids, scratch))
        tasks.create_task(mask_others(s, state, key))
        tasks.create_task(pass_on(s, state))
        tasks.create_task(hand_in(s, state))
    if not state.told(s.me):
        return None
    async with s.step(4, "matches"):
        return await learn_matches(s, state)


async def mask_own(s: Session, state: "_Stages", key: dh.Key, ids: Ids, scratch: Scratch) -> None:
    """Put H(x)^k of all own ids, in a secret random order, into round 0; keep which row stands where."""
    points, rows = state.rounds[0], state.rows
    if points.complete and rows.complete:
        return

    def hashing(batch: IdBatch) -> NDArray[np.uint8]:
        return dh.hash_to_points(batch.data, batch.offsets, path=state.path)

    with await s.compute(shuffle, s, ids, scratch, hashing, POINT) as table:
        chunks = table.chunks(state.batch)
        for index in range(points.count):
            hashed, numbers = split(await s.compute(next, chunks))
            if index in rows.left():
                await rows.commit(index, numbers.astype("<i8").tobytes())
            if index in points.left():
                masked = await mask(s, state, key, hashed)
                await points.commit(index, masked.tobytes())


async def mask_others(s: Session, state: "_Stages", key: dh.Key) -> None:
    """Mask each other member's list as it comes from the neighbour before, in rounds 1 … n-1."""
    before = s[state.ring.neighbour(s.me, -1)]
    for number, stage in enumerate(state.rounds[1:], start=1):
        size = state.sizes[state.ring.neighbour(s.me, -number)]
        async for batch in receive(s, before, MaskedPoints, stage, size, state.batch):  # 2
            if batch.round != number - 1:
                raise ProtocolError(f"{before.name} sent round {batch.round} where {number - 1} was due")
            masked = await mask(s, state, key, batch.points)
            if number == len(state.rounds) - 1:
                masked = dh.tags(masked, state.width)
            await stage.commit(batch.index, masked.tobytes())


async def pass_on(s: Session, state: "_Stages") -> None:
    """Send rounds 0 … n-2 to the next member, in order, from where its journal stands."""
    after = s[state.ring.neighbour(s.me, 1)]
    for number, stage in enumerate(state.rounds[:-1]):

        def make(index: int, data: bytes, number: int = number) -> MaskedPoints:
            return MaskedPoints(number, index, matrix(data, POINT))

        await send(s, after, stage, f"round {number + 1}", MaskedPoints, make)  # 2


async def hand_in(s: Session, state: "_Stages") -> None:
    """Send the list that this member masks last to the collector, as tags."""
    if s.me == state.ring.collector:
        return
    to, origin = s[state.ring.collector], state.ring.neighbour(s.me, 1)

    def make(index: int, data: bytes) -> Tags:
        return Tags(index, matrix(data, state.width))

    async with s.step(3, "hand in tags"):
        await send(s, to, state.rounds[-1], f"tags of {origin}", Tags, make)  # 3


async def learn_matches(s: Session, state: "_Stages") -> int:
    """Receive one's places and keep (own row, place) of the matches; return how many."""
    if s.me == state.ring.collector:
        async for index, data in state.places[s.me].follow(state.matches.done):
            await keep_matches(state, index, np.frombuffer(data, "<u4"))
    else:
        of = s[state.ring.collector]
        async for batch in receive(s, of, Places, state.matches, state.sizes[s.me], state.batch):  # 4
            await keep_matches(state, batch.index, batch.places)
    return await count_matches(state)


async def count_matches(state: "_Stages") -> int:
    """Return the number of one's matches.

    Raises:
        ProtocolError: their places are not 0, 1, 2, … each once, as the collector owes them.
    """
    taken = np.zeros(min(state.sizes.values()), np.bool_)
    count = 0
    async for _, data in state.matches.follow():
        places = np.frombuffer(data, PAIR)["place"]
        if len(places) and places.max() >= len(taken):
            raise ProtocolError(f"{state.ring.collector} sent a place that no match can have")
        taken[places] = True
        count += len(places)
    if not taken[:count].all():
        raise ProtocolError(f"{state.ring.collector} sent places that are not each taken once")
    return count


async def keep_matches(state: "_Stages", index: int, places: NDArray[np.uint32]) -> None:
    """Commit the pairs of one batch."""
    rows = np.frombuffer(await state.rows.read(index), "<i8")
    held = places != NOWHERE
    pairs = np.empty(int(held.sum()), PAIR)
    pairs["row"], pairs["place"] = rows[held], places[held]
    await state.matches.commit(index, pairs.tobytes())


async def collector(s: Session, state: "_Stages", scratch: Scratch) -> dict[tuple[PartyId, ...], int]:
    """Gather all lists of tags, compare them, tell each member its places; return the cells' sizes."""
    ring = state.ring
    async with asyncio.TaskGroup() as tasks:
        for origin in ring.members:
            if ring.neighbour(origin, -1) != s.me:
                tasks.create_task(receive_tags(s, state, origin))
    async with s.step(3, "compare"):
        cells = await compare(s, state, scratch)
    told = [name for name in ring.members if name != s.me and state.told(name)]
    if told:
        async with s.step(4, "tell places"), asyncio.TaskGroup() as tasks:
            for name in told:
                tasks.create_task(send_places(s, state, name))
    return cells


async def receive_tags(s: Session, state: "_Stages", origin: PartyId) -> None:
    """Receive the tags of one member's list from the member that masked it last."""
    stage, last = state.tags[origin], s[state.ring.neighbour(origin, -1)]
    async for batch in receive(s, last, Tags, stage, state.sizes[origin], state.batch):  # 3
        if batch.tags.shape[1] != state.width:
            raise ProtocolError(f"{last.name} sent tags of another width than {state.width} bytes")
        await stage.commit(batch.index, batch.tags.tobytes())


async def send_places(s: Session, state: "_Stages", name: PartyId) -> None:
    """Send one member its places, from where its journal stands."""

    def make(index: int, data: bytes) -> Places:
        return Places(index, np.frombuffer(data, "<u4"))

    await send(s, s[name], state.places[name], "matches", Places, make)  # 4


# -- local steps, out of core


async def mask(s: Session, state: "_Stages", key: dh.Key, points: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiply points by one's key on all cores."""

    def part(rows: slice) -> NDArray[np.uint8]:
        return dh.mask(key, points[rows], path=state.path)

    return np.concatenate(await s.on_all_cores(part, len(points), least=LEAST_FOR_A_CORE))


async def compare(s: Session, state: "_Stages", scratch: Scratch) -> dict[tuple[PartyId, ...], int]:
    """Join all lists of tags and commit every told member's places; return the sizes of the cells."""
    members = state.ring.members
    sizes = [state.sizes[name] for name in members]
    tables = tag_tables(scratch.folder, state.width, expected=sizes, budget=scratch.budget // 2)
    for table, name in zip(tables, members, strict=True):
        async for _, data in state.tags[name].follow():
            await s.compute(table.append, matrix(data, state.width))
    places = [Located(scratch, size) for size in sizes]
    join = Join(tables)
    await s.compute(locate, join, places)
    for name, repeated in zip(members, join.duplicates, strict=True):
        if repeated:
            raise ProtocolError(f"the list of {name} holds {repeated} ids more than once", party=s.me)
    for name, located in zip(members, places, strict=True):
        stage, chunks = state.places[name], located.chunks(state.batch)
        for index in range(stage.count if state.told(name) else 0):
            chunk = await s.compute(next, chunks)
            if index in stage.left():
                await stage.commit(index, chunk.tobytes())
    for table in tables:
        table.close()
    for located in places:
        located.close()
    return {
        tuple(name for bit, name in enumerate(members) if cell >> bit & 1): int(count)
        for cell, count in enumerate(join.cells)
        if cell
    }


class _Stages:
    """The durable sequences of one run at one party."""

    def __init__(
        self, s: Session, ring: Ring, params: Params, sizes: dict[PartyId, int], path: str | None
    ) -> None:
        self.ring, self.batch, self.sizes, self._params = ring, params.batch, sizes, params
        self.path = path
        self.width = tag_width(sizes)
        batches = {name: batch_count(size, params.batch) for name, size in sizes.items()}
        self.rounds: list[Stage] = []
        self.tags: dict[PartyId, Stage] = {}
        self.places: dict[PartyId, Stage] = {}
        if s.me in ring.members:
            origins = [ring.neighbour(s.me, -number) for number in range(len(ring.members))]
            self.rounds = [s.stage(f"round {i}", batches[origin]) for i, origin in enumerate(origins)]
            self.rows = s.stage("rows", batches[s.me])
            self.matches = s.stage("matches", batches[s.me])
        if s.me == ring.collector:
            for name in ring.members:
                # the list that a collector masks last itself is in its own last round already
                own = ring.neighbour(name, -1) == s.me
                self.tags[name] = self.rounds[-1] if own else s.stage(f"tags of {name}", batches[name])
                self.places[name] = s.stage(f"places of {name}", batches[name])

    def told(self, name: PartyId) -> bool:
        """Whether a member learns its own matches."""
        return name == self.ring.collector or self._params.share_matches


def tag_width(sizes: dict[PartyId, int]) -> int:
    """Return the bytes of a tag: false matches below 2⁻⁴⁰ over the two largest lists, and at least 8."""
    return max(8, dh.tag_width(*sorted(sizes.values())[-2:]))


def places(journal: Journal, got: Matched) -> Iterator[Placed]:
    """Yield the matches batch by batch: own source rows and their places in the common order."""
    assert got.matches is not None
    for index in range(got.matches.count):
        batch = np.frombuffer(journal.read(got.matches.name, index), PAIR)
        yield Placed(batch["row"].astype(np.int64), batch["place"].astype(np.int64))
