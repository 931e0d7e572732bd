"""Hidden alignment of two parties' rows by blind RSA signatures: modes ``hidden_one`` and ``open``.

The *signer* holds the ids U and an RSA key (n, e, d), the *client*, the owner of the label, holds the ids V.
H is the encoding of RFC 9474 (RSABSSA-SHA384-PSSZERO-Deterministic), T a hash of the key's id and of a
signature, truncated to ⌈(40 + log₂|U| + log₂|V|)/8⌉ bytes.

| step | who | message |
|---|---|---|
| 1 | signer, client → signer, client | `Size(how many ids, their declared form)` |
| 1 | signer → client | `SignerKey(n, e = 65537, key proof)` |
| 2 | client → signer | `BlindedIds(r^e·H(v), in a secret random order, in fixed batches)` |
| 3 | signer → client | `SignedIds(the same to the power d)` |
| 3 | signer → client | `Tags(T(H(u)^d), sorted by value)` |
| 4 | client | unblinds, verifies s^e = H(v) for every item, compares T(s) with the tags |
| 5 | client → signer | `RandomMap(one random id per tag, in the order of the tags)`; in hidden_one |
| 5 | client → signer | `Places(per tag its place in the common order, or none)`; in open, if shared |
| 6 | signer | maps random ids to its rows, which all look alike |

``hidden_one``: the common order is that of the tags; every row of the signer stands in it, and the client
alone knows which of these places match its own rows (weight 1) and which do not (weight 0). The random ids
are drawn independently of any match. This hides the intersection from ONE side, the signer; `hidden_union`
hides it from both. ``open``: the common order holds the matches alone, and with ``share_matches`` the signer
is told its own.

Key: fresh in every run, or with ``reuse_key`` the same for all runs on the signer's data set, whose tags are
then kept. A key proof (Goldberg, Reyzin, Sagga, Baldimtsi) shows that signing is a permutation, so that no
signature can mark an id; every signature is verified. A PSI key signs nothing else.

Adversary: a semi-honest pair; beyond that, a malicious signer cannot make signatures that depend on who asks,
and a malicious client gets no more signatures in a run than ids it declared, and over the life of a reused
key no more than the signer's owner allows (``floor.max_signatures``).
Not protected: ids that a party enters without holding them, a signer that tags other ids than its own, a
client that lies about what matches.

Leaks:
    signer: the number of the client's ids; in mode ``open`` with ``share_matches``, its own matches.
    client: the number of the signer's ids, and which of its own ids match.
    with ``reuse_key``, client: which tags come and go from run to run, also other clients' runs, and whether
        an id it ever had signed is among the signer's ids now.

Source: patent CN114417364A, of which only the abstract is public here: steps 5 and 6 are a reconstruction.
Blind RSA for set intersection: E. De Cristofaro, G. Tsudik, FC 2010. Key proof: eprint 2018/057.
"""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.arith import cpu
from veilsum.crypto import blind_rsa
from veilsum.crypto.blind_rsa import Blinded, PrivateKey, PublicKey
from veilsum.data.alignment import ID_BYTES, NO_ROW
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
from veilsum.parties import PartyId, Role
from veilsum.store.files import Scratch
from veilsum.store.places import NOWHERE, Located
from veilsum.store.tables import Partitions, Shuffled, leading_words, repeats
from veilsum.store.tags import Join, tag_tables

KIND = "hidden_psi"
ADVERSARY = (
    "semi-honest parties: each follows the protocol and may study what it sees. The signer's key is proven, "
    "every signature is verified and the client's signatures are counted; not protected: a party can enter "
    "ids that are not its own, and the client can lie about what matches."
)
SIGNER, CLIENT = Role("signer"), Role("client")
BATCH_LIMIT = 16384
WIDEST = 512  # bytes of a number: RSA-4096
LEAST_FOR_A_CORE = 256
UNDER_WAY = 3  # batches that the client has blinded and not yet unblinded
REPEATED_KEY = slice(1, 17)  # of a number: bytes that are uniform, unlike the first

Rows = NDArray[np.uint8]
Numbers = Annotated[NDArray[np.uint8], Buffer("u1", (None, None))]
TagBytes = Annotated[NDArray[np.uint8], Buffer("u1", (None, None))]
RandomIds = Annotated[NDArray[np.uint8], Buffer("u1", (None, ID_BYTES))]
PlaceNumbers = Annotated[NDArray[np.uint32], Buffer("u4", (None,))]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parties agree on beyond their names.

    Attributes:
        mode: ``hidden_one``: only the client learns what matches; ``open``: the matches are learnt openly.
        key_bits: of the signer's RSA key.
        primes: of which the key is made; 3 is quicker, and only for 3072 bits.
        reuse_key: whether the signer's key serves all runs on its data set, so that its tags can be kept.
        share_matches: in mode ``open``, whether the signer is told its own matches.
        signer_ids: the most ids of the signer.
        client_ids: the most ids of the client, and so the most signatures that it is given.
        batch: ids per message and per durable step, at most 16384.
    """

    mode: Literal["hidden_one", "open"] = "hidden_one"
    key_bits: Literal[2048, 3072] = 3072
    primes: Literal[2, 3] = 2
    reuse_key: bool = False
    share_matches: bool = False
    signer_ids: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 2)] = 10_000_000
    client_ids: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 2)] = 10_000_000
    batch: Annotated[int, msgspec.Meta(ge=1, le=BATCH_LIMIT)] = 8192

    def __post_init__(self) -> None:
        if self.primes == 3 and self.key_bits != 3072:
            raise ValueError("three primes are offered for key_bits = 3072 only")
        if self.share_matches and self.mode != "open":
            raise ValueError("share_matches goes with mode open: hidden_one tells the signer no matches")


@message(1, by="signer", limit=16 * KIB)
class SignerKey(Message, frozen=True):
    """The signer's public key (big-endian) and the proof that it is one."""

    modulus: bytes
    exponent: int
    proof: bytes


@message(2, by="client", limit=WIDEST * BATCH_LIMIT + KIB)
class BlindedIds(Message, frozen=True):
    """One batch of the client's blinded ids; (n, width) uint8, big-endian numbers."""

    index: int
    values: Numbers


@message(3, by="signer", limit=WIDEST * BATCH_LIMIT + KIB)
class SignedIds(Message, frozen=True):
    """The blind signatures of one batch, in its order; (n, width) uint8, big-endian numbers."""

    index: int
    values: Numbers


@message(3, by="signer", limit=32 * BATCH_LIMIT + KIB)
class Tags(Message, frozen=True):
    """One batch of the signer's sorted tags; (n, tag width) uint8."""

    index: int
    tags: TagBytes


@message(5, by="client", limit=ID_BYTES * BATCH_LIMIT + KIB)
class RandomMap(Message, frozen=True):
    """The random ids of one batch of tags; (n, 16) uint8."""

    index: int
    ids: RandomIds


@message(5, by="client", limit=4 * BATCH_LIMIT + KIB)
class Places(Message, frozen=True):
    """The places of one batch of tags in the common order; (n,) uint32, `NOWHERE` for no match."""

    index: int
    places: PlaceNumbers


MESSAGES = (Size, SignerKey, BlindedIds, SignedIds, Tags, RandomMap, Places)


class SigningKeys(Protocol):
    """The signer's memory over runs, for one of its data sets and this run's client."""

    def reusable(self, bits: int, primes: int) -> bytes:
        """Return the secret form of the data set's durable key, made at the first call ever."""

    def allow(self, key: bytes, count: int) -> None:
        """Count signatures of this run under a key's id, durably, before the first is given.

        Raises:
            BudgetExceeded: the client would get more under this key than the owner allows.
        """

    def cached(self, key: bytes, digests: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Return the tags (n, 32) kept under digests (n, 32), and which were found (n,)."""

    def keep(self, key: bytes, digests: Rows, tags: Rows) -> None:
        """Keep tags (n, 32) under digests (n, 32), durably."""


class Pair(NamedTuple):
    """Who signs, and who learns what matches."""

    signer: PartyId
    client: PartyId

    @classmethod
    def of(cls, job: Job) -> "Pair":
        """Read the pair off a job.

        Raises:
            ConfigError: the roles do not fit the protocol.
        """
        signers, clients = job.parties.get(SIGNER, ()), job.parties.get(CLIENT, ())
        if set(job.parties) != {SIGNER, CLIENT} or len(signers) != 1 or len(clients) != 1:
            raise ConfigError(
                "a hidden_psi job by blind RSA has the roles signer and client, one party each",
                remedy='write [parties] signer = "a", client = "b"; the client learns what matches',
            )
        if signers == clients:
            raise ConfigError(f"{signers[0]} is signer and client", remedy="name two parties")
        return cls(signers[0], clients[0])


class Aligned(NamedTuple):
    """What a party has learnt; see `places` for the alignment itself.

    Attributes:
        sizes: party → number of its ids.
        key: the id of the signer's public key.
        rows: places in the common order; None for one that is not told the alignment.
        matched: how many ids match; None for one that is not told.
    """

    sizes: dict[PartyId, int]
    key: bytes
    rows: int | None
    matched: int | None


def leaks(job: Job, params: Params) -> tuple[Leak, ...]:
    """Return who will have learnt what, before anything runs."""
    signer, client = Pair.of(job)
    table = [Leak("alignment", signer, f"the number of ids of {client}")]
    if params.share_matches:
        table.append(Leak("alignment", signer, "which of its own ids match, and so how many"))
    table += [
        Leak("alignment", client, f"the number of ids of {signer}"),
        Leak("alignment", client, "which of its own ids match, and so how many"),
    ]
    if params.reuse_key:
        kept = (
            f"which tags of {signer} come and go between runs, for whichever client, and whether ids that "
            "it ever had signed match now"
        )
        table.append(Leak("alignment", client, kept))
    if params.mode == "hidden_one":
        table += [
            Leak("modelling", signer, "nothing about what matches: all its rows enter, weighted unseen"),
            Leak(
                "modelling",
                client,
                "what the model's job releases; errors and counts in it tell about how many match",
            ),
        ]
    else:
        told = (signer, client) if params.share_matches else (client,)
        table += [
            Leak("modelling", who, "what the model's job releases about the matched rows") for who in told
        ]
    return tuple(table)


async def align(
    s: Session,
    params: Params,
    ids: Ids,
    scratch: Scratch,
    keys: SigningKeys | None = None,
    *,
    least: int = 1,
    path: str | None = None,
) -> Aligned:
    """Play this party's role.

    Args:
        s: the session.
        params: of the job.
        ids: this party's own.
        scratch: room for tables.
        keys: the signer's memory over runs; without it no key can be reused.
        least: the fewest ids of the other party with which this one takes part.
        path: of the kernels.
    """
    pair = Pair.of(s.job)
    async with s.step(1, "sizes"):
        most = {pair.signer: params.signer_ids, pair.client: params.client_ids}
        sizes = await announce(s, ids, most, least=least)
    state = _Stages(s, pair, params, sizes, path)
    if s.me == pair.signer:
        return await signer(s, state, ids, scratch, keys)
    return await client(s, state, ids, scratch)


# -- the signer


async def signer(
    s: Session, state: "_Stages", ids: Ids, scratch: Scratch, keys: SigningKeys | None
) -> Aligned:
    """Sign blinded ids, tag one's own, and learn the common order if the mode gives it."""
    client = s[state.pair.client]
    async with s.step(1, "key"):
        key = await s.compute(open_key, s, state, keys)
        proof = await s.compute(blind_rsa.prove, key, context(s))
        modulus = key.public.modulus.to_bytes(key.public.width, "big")
        await client.send(SignerKey(modulus, key.public.exponent, proof))  # 1
    async with s.step(2, "sign blinded ids"), asyncio.TaskGroup() as tasks:
        tasks.create_task(sign_blinded(s, state, key, scratch))
        tasks.create_task(send(s, client, state.signed, "own tags", SignedIds, state.signatures))  # 3
        tasks.create_task(tag_own(s, state, key, ids, keys))
    async with s.step(3, "send sorted tags"):
        await sort_tags(s, state, scratch)
        await send(s, client, state.sorted, "tags", Tags, state.sorted_tags)  # 3
    rows = matched = None
    if state.hidden:
        async with s.step(5, "random map"):
            await receive_map(s, state, scratch)
        rows = state.sizes[s.me]
    elif state.shared:
        async with s.step(5, "matches"):
            rows = matched = await receive_places(s, state)
    return Aligned(state.sizes, key.public.id, rows, matched)


def open_key(s: Session, state: "_Stages", keys: SigningKeys | None) -> PrivateKey:
    """Return the run's key, with as many signatures allowed under it as the client has ids."""
    bits, primes = state.params.key_bits, state.params.primes
    if not state.params.reuse_key:
        key = PrivateKey.from_bytes(
            s.journal.once("signing key", lambda: blind_rsa.gen_key(bits, primes).to_bytes())
        )
    elif keys is not None:
        key = PrivateKey.from_bytes(keys.reusable(bits, primes))
    else:
        raise ConfigError(
            "a key can be reused only where a party keeps its keys", remedy="set reuse_key = false"
        )
    if keys is not None:
        keys.allow(key.public.id, state.sizes[state.pair.client])
    return key


async def sign_blinded(s: Session, state: "_Stages", key: PrivateKey, scratch: Scratch) -> None:
    """Sign every batch of blinded ids once, whatever happens; refuse values that come twice.

    Raises:
        CheatingDetected: a value is repeated, or is none that an honest client sends.
    """
    client, stage = s[state.pair.client], state.signed
    seen = Partitions(
        scratch.folder, 16, expected=state.sizes[client.name], budget=scratch.budget // 8, key=8
    )
    try:
        for index in range(stage.done):
            seen.append(_repeated_keys(matrix(await stage.read(index), key.public.width)))
        async with asyncio.TaskGroup() as writing:
            written: asyncio.Task[None] | None = None
            async for batch in receive(
                s, client, BlindedIds, stage, state.sizes[client.name], state.batch
            ):  # 2
                signed = await sign(s, state, key, batch.values, f"blinded {batch.index}")
                seen.append(_repeated_keys(signed))
                if written is not None:
                    await written  # one batch is written while the next one is signed
                written = writing.create_task(stage.commit(batch.index, signed.tobytes()))
        # signing is a permutation: equal signatures are those of equal values
        if await s.compute(repeats, seen):
            raise CheatingDetected(
                f"{client.name} sent a blinded id more than once",
                remedy="an honest client never does; do not run this job with it again",
                party=s.me,
            )
    finally:
        seen.close()


async def tag_own(s: Session, state: "_Stages", key: PrivateKey, ids: Ids, keys: SigningKeys | None) -> None:
    """Tag one's own ids, batch by batch, and keep which row each tag belongs to."""
    batches = ids.batches(state.batch)
    for index in range(state.own.count):
        batch = await s.compute(next, batches)
        if index in state.own.left():
            tags = await own_tags(s, state, key, batch, keys if state.params.reuse_key else None)
            await state.own.commit(index, join(tags[:, : state.tag], batch.rows).tobytes())


async def own_tags(
    s: Session, state: "_Stages", key: PrivateKey, batch: IdBatch, keys: SigningKeys | None
) -> Rows:
    """Return the tags (n, 32) of a batch of own ids; those kept from earlier runs are not made again."""
    hashes = await s.compute(blind_rsa.hash_ids, batch.data, batch.offsets, path=state.hashing)
    tags = np.zeros((len(hashes), blind_rsa.TAG_BYTES), np.uint8)
    missing = np.ones(len(hashes), np.bool_)
    if keys is not None:
        digests = await s.compute(blind_rsa.cache_digests, key, hashes)
        tags, found = await s.compute(keys.cached, key.public.id, digests)
        missing = ~found
    if missing.any():
        encoded = await s.compute(blind_rsa.encode, hashes[missing], key.public.bits, path=state.hashing)
        signed = await sign(s, state, key, encoded, f"own {int(batch.rows[0])}")
        tags[missing] = await s.compute(
            blind_rsa.tags, key.public, signed, blind_rsa.TAG_BYTES, path=state.hashing
        )
        if keys is not None:
            await s.compute(keys.keep, key.public.id, digests[missing], tags[missing])
    return tags


async def sign(s: Session, state: "_Stages", key: PrivateKey, values: Rows, what: str) -> Rows:
    """Sign numbers on all cores."""

    def part(rows: slice) -> Rows:
        seed = s.random.derive(s.attempt, f"base blinding {what}", rows.start, 32)
        return blind_rsa.sign(key, values[rows], seed, path=state.path)

    return np.concatenate(await s.on_all_cores(part, len(values), least=LEAST_FOR_A_CORE))


async def sort_tags(s: Session, state: "_Stages", scratch: Scratch) -> None:
    """Sort all tags by their value, which is an order that says nothing about the rows."""
    if state.sorted.complete:
        return
    size = state.sizes[s.me]
    table = Shuffled(scratch.folder, state.tag + 8, expected=size, budget=scratch.budget // 2)
    try:
        async for _, data in state.own.follow():
            records = matrix(data, state.tag + 8)
            await s.compute(table.append, records, leading_words(records))
        chunks = table.chunks(state.batch, start=state.sorted.done)
        for index in state.sorted.left():
            chunk = await s.compute(next, chunks)
            await state.sorted.commit(index, chunk.tobytes())
    finally:
        table.close()


async def receive_map(s: Session, state: "_Stages", scratch: Scratch) -> None:
    """Keep the random id of every tag.

    Raises:
        CheatingDetected: an id comes twice, so that it could mark rows.
    """
    client, size = s[state.pair.client], state.sizes[s.me]
    async for batch in receive(s, client, RandomMap, state.map, size, state.batch):  # 5
        await state.map.commit(batch.index, batch.ids.tobytes())
    with Partitions(scratch.folder, ID_BYTES, expected=size, budget=scratch.budget // 2) as seen:
        async for _, data in state.map.follow():
            seen.append(matrix(data, ID_BYTES))
        if await s.compute(repeats, seen):
            raise CheatingDetected(
                f"{client.name} sent a random id more than once",
                remedy="repeated ids could mark rows; do not run this job with it again",
                party=s.me,
            )


async def receive_places(s: Session, state: "_Stages") -> int:
    """Keep the places of one's matches; return how many there are.

    Raises:
        ProtocolError: they are not 0, 1, 2, … in the order of the tags.
    """
    client = s[state.pair.client]
    async for batch in receive(s, client, Places, state.map, state.sizes[s.me], state.batch):  # 5
        await state.map.commit(batch.index, batch.places.tobytes())
    count = 0
    async for _, data in state.map.follow():
        places = np.frombuffer(data, "<u4")
        held = places[places != NOWHERE]
        if not np.array_equal(held, np.arange(count, count + len(held))):
            raise ProtocolError(f"{client.name} sent places that are not 0, 1, 2, …", party=s.me)
        count += len(held)
    if count > state.sizes[client.name]:
        raise ProtocolError(f"{client.name} sent more places than it has ids", party=s.me)
    return count


# -- the client


class _UnderWay(NamedTuple):
    """One batch between blinding and unblinding."""

    rows: NDArray[np.int64]
    blinded: list[Blinded]


async def client(s: Session, state: "_Stages", ids: Ids, scratch: Scratch) -> Aligned:
    """Have one's ids signed blindly, compare them with the signer's tags, and give the common order."""
    signer = s[state.pair.signer]
    async with s.step(1, "key"):
        public = await receive_key(s, state)
    under_way: asyncio.Queue[_UnderWay] = asyncio.Queue(UNDER_WAY)
    async with s.step(2, "blind and unblind ids"), asyncio.TaskGroup() as tasks:
        tasks.create_task(blind_ids(s, state, public, ids, scratch, under_way))
        tasks.create_task(unblind_ids(s, state, public, under_way))
        tasks.create_task(receive_tags(s, state))
    async with s.step(4, "compare"):
        matched = await compare(s, state, scratch)
    if state.hidden:
        async with s.step(5, "random map"):
            await draw_map(s, state)
            await send(s, signer, state.map, "random map", RandomMap, state.random_ids)  # 5
    elif state.shared:
        async with s.step(5, "share matches"):
            await send(s, signer, state.map, "places", Places, state.numbers)  # 5
    rows = state.sizes[state.pair.signer] if state.hidden else matched
    return Aligned(state.sizes, public.id, rows, matched)


async def receive_key(s: Session, state: "_Stages") -> PublicKey:
    """Return the signer's key, once its proof has been checked.

    Raises:
        CheatingDetected: it is not a key of the agreed size, its proof is wrong, or it has changed.
    """
    signer = s[state.pair.signer]
    got = await signer.recv(SignerKey)  # 1
    public = PublicKey(int.from_bytes(got.modulus, "big"), got.exponent)
    await s.compute(blind_rsa.check_key, public, got.proof, context(s), bits=state.params.key_bits)
    if await s.once("key of the signer", lambda: public.id) != public.id:
        raise CheatingDetected(f"{signer.name} shows another key than in an earlier attempt", party=s.me)
    return public


async def blind_ids(
    s: Session,
    state: "_Stages",
    public: PublicKey,
    ids: Ids,
    scratch: Scratch,
    under_way: "asyncio.Queue[_UnderWay]",
) -> None:
    """Blind one's ids in a secret random order; send what no earlier attempt has got signed."""
    if state.own.complete:
        return
    signer = s[state.pair.signer]
    signed = s.done_by(signer.name, "signed")
    seed = s.random.derive(0, "blinds", 0, 32)  # the same in every attempt: what was sent stays what it was

    def hashing(batch: IdBatch) -> Rows:
        return blind_rsa.hash_ids(batch.data, batch.offsets, path=state.hashing)

    with await s.compute(shuffle, s, ids, scratch, hashing, blind_rsa.HASH_BYTES) as table:
        chunks = table.chunks(state.batch, start=state.own.done)
        for index in state.own.left():
            hashes, numbers = split(await s.compute(next, chunks))

            def part(rows: slice, hashes: Rows = hashes, first: int = index * state.batch) -> Blinded:
                encoded = blind_rsa.encode(hashes[rows], public.bits, path=state.hashing)
                blinds = blind_rsa.draw_blinds(seed, first + rows.start, len(encoded), public)
                return blind_rsa.blind(public, encoded, blinds, path=state.path)

            blinded = await s.on_all_cores(part, len(hashes), least=LEAST_FOR_A_CORE)
            await under_way.put(_UnderWay(numbers, blinded))
            if index >= signed:
                await signer.send(BlindedIds(index, np.concatenate([b.values for b in blinded])))  # 2
        if signed < state.own.count:
            await signer.end(BlindedIds)


async def unblind_ids(
    s: Session, state: "_Stages", public: PublicKey, under_way: "asyncio.Queue[_UnderWay]"
) -> None:
    """Verify and unblind the signatures as they come, and keep the tags of one's own ids.

    Raises:
        CheatingDetected: a signature is wrong.
    """
    signer, size = s[state.pair.signer], state.sizes[s.me]
    async for batch in receive(s, signer, SignedIds, state.own, size, state.batch):  # 3
        rows, blinded = await under_way.get()

        async def part(start: int, one: Blinded, signed: Rows = batch.values) -> Rows:
            mine = signed[start : start + len(one.values)]
            signatures = await s.compute(blind_rsa.unblind, public, one, mine, path=state.path)
            return await s.compute(blind_rsa.tags, public, signatures, state.tag, path=state.hashing)

        starts = np.cumsum([0, *(len(one.values) for one in blinded)])[:-1].tolist()
        tags = await asyncio.gather(*map(part, starts, blinded))
        await state.own.commit(batch.index, join(np.concatenate(tags), rows).tobytes())


async def receive_tags(s: Session, state: "_Stages") -> None:
    """Receive the signer's sorted tags."""
    signer = s[state.pair.signer]
    async for batch in receive(s, signer, Tags, state.tags, state.sizes[signer.name], state.batch):  # 3
        _check_width(batch.tags, state.tag)
        await state.tags.commit(batch.index, batch.tags.tobytes())


async def draw_map(s: Session, state: "_Stages") -> None:
    """Draw one random id per tag; nothing about the matches enters."""
    size = state.sizes[state.pair.signer]
    for index in state.map.left():
        count = min(state.batch, size - index * state.batch)
        await state.map.commit(index, s.random.numbers(0, "random map", index, 2 * count).tobytes())


# -- local steps, out of core


def context(s: Session) -> bytes:
    """Return what a key proof is bound to: this run, of these two parties."""
    return f"veilsum/hidden_psi/1/{s.run}".encode()


async def compare(s: Session, state: "_Stages", scratch: Scratch) -> int:
    """Join the signer's tags with one's own; keep the own row of every tag, and in mode ``open`` its place.

    Returns:
        How many tags match.

    Raises:
        ProtocolError: a tag of the signer comes twice.
    """
    sizes = [state.sizes[state.pair.signer], state.sizes[s.me]]
    theirs, own = tag_tables(scratch.folder, state.tag, expected=sizes, budget=scratch.budget // 2)
    async for _, data in state.tags.follow():
        await s.compute(theirs.append, matrix(data, state.tag))
    async for _, data in state.own.follow():
        tags, rows = split(matrix(data, state.tag + 8))
        await s.compute(own.append, tags, rows)
    join = Join((theirs, own))
    located = Located(scratch, sizes[0], missing=np.int64(NO_ROW))

    def locate() -> None:
        for common in join:
            located.append(common.positions[:, 0], common.positions[:, 1])

    try:
        await s.compute(locate)
        if join.duplicates[0]:
            raise ProtocolError(f"the list of {state.pair.signer} holds ids more than once", party=s.me)
        await keep_matches(s, state, located)
    finally:
        for table in (theirs, own, located):
            table.close()
    return int(join.cells[0b11])


async def keep_matches(s: Session, state: "_Stages", located: Located) -> None:
    """Commit the own row of every tag, and in mode ``open`` the places of the matches."""
    chunks, count = located.chunks(state.batch), 0
    for index in range(state.matches.count):
        rows = await s.compute(next, chunks)
        held = rows != NO_ROW
        if index in state.matches.left():
            await state.matches.commit(index, rows.astype("<i8").tobytes())
        if not state.hidden and index in state.map.left():
            places = np.full(len(rows), NOWHERE, "<u4")
            places[held] = np.arange(count, count + int(held.sum()), dtype=np.uint32)
            await state.map.commit(index, places.tobytes())
        count += int(held.sum())


class _Stages:
    """The durable sequences of one run at one party."""

    def __init__(
        self, s: Session, pair: Pair, params: Params, sizes: dict[PartyId, int], path: str | None
    ) -> None:
        self.pair, self.params, self.sizes, self.batch = pair, params, sizes, params.batch
        self.path, self.hashing = path, None if path is None else cpu.best("sha512", cap=path)
        self.hidden = params.mode == "hidden_one"
        self.shared = params.share_matches
        self.width = -(-params.key_bits // 8)
        self.tag = tag_width(sizes)
        ours, theirs = batch_count(sizes[s.me], self.batch), batch_count(sizes[pair.signer], self.batch)
        self.own = s.stage("own tags", ours)
        if s.me == pair.signer:
            self.signed = s.stage("signed", batch_count(sizes[pair.client], self.batch))
            self.sorted = s.stage("sorted tags", theirs)
        else:
            self.tags = s.stage("tags", theirs)
            self.matches = s.stage("matches", theirs)
        if self.hidden or self.shared or s.me == pair.client:
            self.map = s.stage("random map" if self.hidden else "places", theirs)

    # what is sent of each stage

    def signatures(self, index: int, data: bytes) -> SignedIds:
        return SignedIds(index, matrix(data, self.width))

    def sorted_tags(self, index: int, data: bytes) -> Tags:
        return Tags(index, split(matrix(data, self.tag + 8))[0])

    def random_ids(self, index: int, data: bytes) -> RandomMap:
        return RandomMap(index, matrix(data, ID_BYTES))

    def numbers(self, index: int, data: bytes) -> Places:
        return Places(index, np.frombuffer(data, "<u4"))


def _repeated_keys(numbers: Rows) -> Rows:
    return np.ascontiguousarray(numbers[:, REPEATED_KEY])


def _check_width(rows: Rows, width: int) -> None:
    if rows.shape[1] != width:
        raise ProtocolError(f"rows of {rows.shape[1]} bytes were sent where {width} were due")


def tag_width(sizes: dict[PartyId, int]) -> int:
    """Return the bytes of a tag: false matches below 2⁻⁴⁰, and at least 8."""
    return max(8, blind_rsa.tag_width(*sizes.values()))


def places(journal: Journal, params: Params, got: Aligned, *, client: bool) -> Iterator[Placed]:
    """Yield the lines of one's alignment, batch by batch.

    ``hidden_one``: every place, with its random id and at the client its weight and own row or `NO_ROW`.
    ``open``: the places of the matches.
    """
    size = next(iter(got.sizes.values()))
    width = tag_width(got.sizes)
    for index in range(batch_count(size, params.batch)):
        if client:
            rows = np.frombuffer(journal.read("matches", index), "<i8").astype(np.int64)
        else:
            _, rows = split(matrix(journal.read("sorted tags", index), width + 8))
        if params.mode == "hidden_one":
            positions = np.arange(index * params.batch, index * params.batch + len(rows), dtype=np.int64)
            weights = (rows != NO_ROW).astype(np.int64) if client else None
            yield Placed(rows, positions, matrix(journal.read("random map", index), ID_BYTES), weights)
        else:
            numbers = np.frombuffer(journal.read("places", index), "<u4")
            held = numbers != NOWHERE
            yield Placed(rows[held], numbers[held].astype(np.int64))
