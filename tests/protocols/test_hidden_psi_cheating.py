"""A signer or a client sends what an honest one would not: a named error at both, never a wrong result."""

import asyncio
import math
import time
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from crypto.test_rsa_proof import prime_of
from protocols.mortal import Mortal
from protocols.pair import SMALL, job, plays
from protocols.ring import Listed
from protocols.test_hidden_psi import both, check_hidden_one, check_open
from veilsum.crypto import blind_rsa, rsa_proof
from veilsum.crypto.blind_rsa import PublicKey
from veilsum.errors import CheatingDetected, PeerAborted, PeerLost, ProtocolError, StepTimeout
from veilsum.net.link import Glance
from veilsum.net.messages import Message, encode
from veilsum.protocols import hidden_psi
from veilsum.protocols.hidden_psi import (
    BlindedIds,
    Places,
    RandomMap,
    SignedIds,
    SignerKey,
    Size,
    Tags,
    context,
)
from veilsum.store.journal import MemoryJournal
from veilsum.store.places import NOWHERE
from veilsum.testing.cluster import Cluster

replace = msgspec.structs.replace

KEY = blind_rsa.gen_key(SMALL)
N, WIDTH = KEY.public.modulus, KEY.public.width
SIZES = {"s": 14, "c": 12}
SHARED = 5
BATCH = 5  # three batches each: five, five and the rest


class Raw(NamedTuple):
    """Bytes that no honest encoder makes."""

    cls: type[Message]
    parts: list


def cheating(part, cls, change, *, ends=True):
    """Play a part honestly, but for what becomes of one type of message on its way out."""

    async def play(s):
        for peer in s.peers.values():
            tamper(s, peer)
        return await part(s)

    def tamper(s, peer):
        send, end = peer.send, peer.end

        async def tampered(message):
            for out in change(message, s) if isinstance(message, cls) else [message]:
                await (peer._post(out.cls, out.parts, 0) if isinstance(out, Raw) else send(out))

        async def ended(kind):
            if ends or kind is not cls:
                await end(kind)

        peer.send, peer.end = tampered, ended

    return play


def journals(key=KEY):
    kept = {"s": MemoryJournal(), "c": MemoryJournal()}
    kept["s"].once("signing key", key.to_bytes)
    return kept


def lists_and(sizes=SIZES, shared=SHARED):
    return both((sizes["s"], sizes["c"]), shared)


def attempt(agreed, folder, kept, cheat=None, listed=None):
    """Play once; ``cheat`` is (who, the type of message, what becomes of it)."""
    parts = plays(agreed, listed or lists_and()[1], folder)
    if cheat is not None:
        who, *how = cheat
        parts[who] = cheating(parts[who], *how)
    began = time.monotonic()
    results = asyncio.run(Cluster(agreed, hidden_psi.MESSAGES, journals=kept).play(parts))
    assert time.monotonic() - began < agreed.step_timeout
    return results


def refused(results, cheater, expected, match=""):
    """The honest party has the named error, and the cheat is told its name."""
    honest = "c" if cheater == "s" else "s"
    assert type(results[honest]) is expected, results
    assert match in str(results[honest]), results
    told = results[cheater]
    assert (type(told) is PeerAborted and told.cause == expected.__name__) or type(told) is expected, results


def numbers(*values, width=WIDTH):
    return np.frombuffer(b"".join(value.to_bytes(width, "big") for value in values), np.uint8).reshape(
        -1, width
    )


def with_row(rows, value, at=2):
    rows = rows.copy()
    rows[at] = value if isinstance(value, np.ndarray) else numbers(value)[0]
    return rows


# -- keys


def proof_of(modulus, exponent, order, s, *, run=None):
    """The best proof that a cheat makes who knows how many numbers are coprime to its modulus."""
    public = PublicKey(modulus, exponent)
    common = math.gcd(exponent, order)
    secret = pow(exponent // common, -1, order // common)
    found = [pow(element, secret, modulus) for element in rsa_proof._elements(public, run or context(s))]
    return b"".join(root.to_bytes(public.width, "big") for root in found)


def shown(modulus, exponent, proof):
    return [SignerKey(modulus.to_bytes(-(-modulus.bit_length() // 8), "big"), exponent, proof)]


def key_of(factors, s, *, exponent=65537, run=None):
    """A key of (prime, power) factors with the best proof."""
    modulus = math.prod(prime**power for prime, power in factors)
    order = math.prod(prime ** (power - 1) * (prime - 1) for prime, power in factors)
    return shown(modulus, exponent, proof_of(modulus, exponent, order, s, run=run))


P, Q = KEY._primes
SHARING = prime_of(256, lambda n: n % 65537 == 1)
FINE = prime_of(256)
OTHER_FINE = prime_of(256, lambda n: n != FINE)
FACTOR_3 = prime_of(510, lambda n: 3 * n >> 511 == 1 and n % 65537 != 1)
FACTOR_65521 = prime_of(496, lambda n: 65521 * n >> 511 == 1 and n % 65537 != 1)
CUBED = prime_of(171, lambda n: n**3 >> 511 == 1 and n % 65537 != 1)
SHORT = prime_of(255), prime_of(256)
ANOTHER = blind_rsa.gen_key(SMALL)
BIG = blind_rsa.gen_key(640)


def with_root(message, change, at=4):
    roots = [bytes(message.proof[i : i + WIDTH]) for i in range(0, len(message.proof), WIDTH)]
    roots[at] = change(int.from_bytes(roots[at], "big")).to_bytes(WIDTH, "big")
    return [replace(message, proof=b"".join(roots))]


KEYS = {
    "e shares a factor with phi(n)": (lambda m, s: key_of([(SHARING, 1), (FINE, 1)], s), "is wrong"),
    "e is even": (lambda m, s: [replace(m, exponent=65536)], "exponent"),
    "e is 0": (lambda m, s: [replace(m, exponent=0)], "exponent"),
    "e is 1": (lambda m, s: key_of([(P, 1), (Q, 1)], s, exponent=1), "exponent"),
    "e is below 0": (lambda m, s: [replace(m, exponent=-65537)], "exponent"),
    "e is another prime": (lambda m, s: key_of([(P, 1), (Q, 1)], s, exponent=65539), "exponent"),
    "e is a power": (lambda m, s: key_of([(P, 1), (Q, 1)], s, exponent=65537**2), "exponent"),
    "n is a prime": (lambda m, s: key_of([(prime_of(512), 1)], s), "a prime"),
    "n is even": (lambda m, s: key_of([(2, 1), (prime_of(511), 1)], s), "even"),
    "n is a multiple of 3": (lambda m, s: key_of([(3, 1), (FACTOR_3, 1)], s), "factor below"),
    "n is a multiple of 65521": (lambda m, s: key_of([(65521, 1), (FACTOR_65521, 1)], s), "factor below"),
    "n is a square": (lambda m, s: key_of([(FINE, 2)], s), "a power"),
    "n is a cube": (lambda m, s: key_of([(CUBED, 3)], s), "a power"),
    "n is a bit too small": (lambda m, s: key_of([(SHORT[0], 1), (SHORT[1], 1)], s), "agreed 512 bits"),
    "n is too big": (
        lambda m, s: shown(BIG.public.modulus, 65537, blind_rsa.prove(BIG, context(s))),
        "agreed 512 bits",
    ),
    "n is empty": (lambda m, s: [replace(m, modulus=b"")], "agreed 512 bits"),
    "n is giant": (lambda m, s: [replace(m, modulus=b"\xff" * 8000)], "agreed 512 bits"),
    "a proof of another run": (
        lambda m, s: [replace(m, proof=blind_rsa.prove(KEY, b"veilsum/hidden_psi/1/" + b"0" * 32))],
        "for another run",
    ),
    "a proof without a context": (lambda m, s: [replace(m, proof=blind_rsa.prove(KEY, b""))], "another run"),
    "a proof of another key": (
        lambda m, s: [replace(m, proof=blind_rsa.prove(ANOTHER, context(s)))],
        "root of its proof",
    ),
    "a key of another proof": (
        lambda m, s: [replace(m, modulus=ANOTHER.public.modulus.to_bytes(WIDTH, "big"))],
        "root of its proof",
    ),
    "no proof": (lambda m, s: [replace(m, proof=b"")], "another length"),
    "eight roots": (lambda m, s: [replace(m, proof=m.proof[:-WIDTH])], "another length"),
    "ten roots": (lambda m, s: [replace(m, proof=m.proof + m.proof[:WIDTH])], "another length"),
    "roots in another order": (
        lambda m, s: [replace(m, proof=m.proof[WIDTH:] + m.proof[:WIDTH])],
        "is wrong",
    ),
    "a root of 0": (lambda m, s: with_root(m, lambda _: 0), "not a number below"),
    "a root of n": (lambda m, s: with_root(m, lambda _: N), "not a number below"),
    "a root over n": (lambda m, s: with_root(m, lambda _: (1 << SMALL) - 1), "not a number below"),
    "a root that p divides": (lambda m, s: with_root(m, lambda _: P), "shares a factor"),
    "a root negated": (lambda m, s: with_root(m, lambda root: N - root), "is wrong"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_refused(name, tmp_path):
    change, match = KEYS[name]
    results = attempt(job(batch=BATCH), tmp_path, journals(), ("s", SignerKey, change))
    refused(results, "s", CheatingDetected, match)


def test_no_blinded_id_leaves_the_client_before_its_signer_is_trusted(tmp_path):
    parts = plays(job(batch=BATCH), lists_and()[1], tmp_path)
    parts["s"] = cheating(parts["s"], SignerKey, lambda m, s: [replace(m, exponent=3)])
    cluster = Cluster(job(batch=BATCH), hidden_psi.MESSAGES, journals=journals())
    asyncio.run(cluster.play(parts))
    sent = {entry.message for entry in cluster.sessions["c"].transcript() if entry.sender == "c"}
    assert sent == {"Size"}


def test_an_honest_key_of_another_size_than_agreed(tmp_path):
    results = attempt(
        job(batch=BATCH, key_bits=640),
        tmp_path,
        journals(BIG),
        ("s", SignerKey, lambda m, s: shown(N, 65537, blind_rsa.prove(KEY, context(s)))),
    )
    refused(results, "s", CheatingDetected, "agreed 640 bits")


def test_leading_zeros_make_no_other_key(tmp_path):
    results = attempt(
        job(batch=BATCH),
        tmp_path,
        journals(),
        ("s", SignerKey, lambda m, s: [replace(m, modulus=b"\0" + m.modulus)]),
    )
    check_hidden_one(results, lists_and()[0])


@pytest.mark.parametrize("writes", [4, 5, 6, 8])
def test_another_key_on_resume(writes, tmp_path):
    """The client remembers the key from the moment it has accepted it, whatever came after."""
    kept = journals()
    first = attempt(job(batch=BATCH), tmp_path, kept | {"c": Mortal(kept["c"], writes)})
    assert not isinstance(first["c"], tuple)
    assert "key of the signer" in kept["c"]._once
    kept["s"]._once["signing key"] = ANOTHER.to_bytes()
    refused(attempt(job(batch=BATCH), tmp_path, kept), "s", CheatingDetected, "another key")


# -- signatures

SIGNED = {
    "one wrong bit": (lambda v: with_row(v, v[2] ^ (np.arange(WIDTH) == WIDTH - 1)), CheatingDetected),
    "the first of a batch": (lambda v: with_row(v, v[1], at=0), CheatingDetected),
    "zeros": (np.zeros_like, CheatingDetected),
    "a zero": (lambda v: with_row(v, 0), CheatingDetected),
    "a one": (lambda v: with_row(v, 1), CheatingDetected),
    "n - 1": (lambda v: with_row(v, N - 1), CheatingDetected),
    "n": (lambda v: with_row(v, N), CheatingDetected),
    "more than n": (lambda v: with_row(v, (1 << SMALL) - 1), CheatingDetected),
    "negated": (lambda v: with_row(v, N - int.from_bytes(v[2].tobytes(), "big")), CheatingDetected),
    "swapped": (lambda v: v[::-1].copy(), CheatingDetected),
    "too short a batch": (lambda v: v[:-1], ProtocolError),
    "too long a batch": (lambda v: np.concatenate([v, v[:1]]), ProtocolError),
    "an empty batch": (lambda v: v[:0], ProtocolError),
    "numbers a byte shorter": (lambda v: v[:, 1:].copy(), ProtocolError),
    "numbers a byte longer": (
        lambda v: np.concatenate([np.zeros((len(v), 1), np.uint8), v], axis=1),
        ProtocolError,
    ),
    "numbers of no bytes": (lambda v: v[:, :0].copy(), ProtocolError),
}


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("index", [0, 1])
def test_signatures_are_refused(name, index, tmp_path):
    change, expected = SIGNED[name]
    cheat = ("s", SignedIds, lambda m, s: [replace(m, values=change(m.values))] if m.index == index else [m])
    refused(attempt(job(batch=BATCH), tmp_path, journals(), cheat), "s", expected)


BATCHES = {
    "twice": lambda m: [m, m],
    "the second left out": lambda m: [] if m.index == 1 else [m],
    "the last left out": lambda m: [] if m.index == 2 else [m],
    "all left out": lambda m: [],
    "numbered from one": lambda m: [replace(m, index=m.index + 1)],
    "numbered from below": lambda m: [replace(m, index=m.index - 1)],
    "one more": lambda m: [m, replace(m, index=3)] if m.index == 2 else [m],
    "a number far away": lambda m: [replace(m, index=1 << 62)],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    ("who", "cls"), [("s", SignedIds), ("s", Tags), ("c", BlindedIds), ("c", RandomMap), ("c", Places)]
)
def test_batches_are_refused(name, who, cls, tmp_path):
    """Of the five streams: a batch that is not the next one, and a stream of another length."""
    agreed = job(batch=BATCH, mode="open", share_matches=True) if cls is Places else job(batch=BATCH)
    cheat = (who, cls, lambda m, s: BATCHES[name](m))
    refused(attempt(agreed, tmp_path, journals(), cheat), who, ProtocolError)


@pytest.mark.parametrize(
    ("who", "cls", "expected"),
    [
        ("s", SignedIds, StepTimeout),
        ("s", Tags, StepTimeout),
        ("c", BlindedIds, StepTimeout),
        ("c", RandomMap, ProtocolError),  # the cheat ends instead, and says so
    ],
)
@pytest.mark.parametrize("looking", [False, True])
def test_a_stream_that_does_not_end(who, cls, expected, looking, tmp_path, monkeypatch):
    """Also where the last word of the cheat arrives while a receiver looks at its socket before it sleeps."""
    agreed = replace(job(batch=BATCH), step_timeout=1.0)
    parts = plays(agreed, lists_and()[1], tmp_path)
    cheat = cheating(parts[who], cls, lambda m, s: [m], ends=False)

    async def lingering(s):
        result = await cheat(s)
        await asyncio.sleep(0.05)  # so that its last word finds the other one waiting
        return result

    parts[who] = lingering

    async def until(self, link, queue, sleep, *what):
        for _ in range(100):  # a long look, in which others of this process have their turn
            if queue:
                return
            await asyncio.sleep(0.001)
        await sleep(*what)

    if looking:
        monkeypatch.setattr(Glance, "until", until)

    async def play():
        async with asyncio.timeout(4):
            return await Cluster(agreed, hidden_psi.MESSAGES, journals=journals()).play(parts)

    results = asyncio.run(play())
    kinds = {type(result) for result in results.values()}
    # who is waited for may itself have waited for the rest as long
    assert expected in kinds, results
    assert kinds <= {expected, PeerAborted, PeerLost}, results


def test_a_signer_that_proves_one_key_and_signs_with_another(tmp_path, monkeypatch):
    order = math.prod(prime - 1 for prime in ANOTHER._primes)
    secret = pow(65537, -1, order)

    def sign(key, values, seed, *, path=None):
        signed = [pow(int.from_bytes(v.tobytes(), "big"), secret, ANOTHER.public.modulus) for v in values]
        return numbers(*(number % N for number in signed))

    monkeypatch.setattr(hidden_psi.blind_rsa, "sign", sign)
    results = attempt(job(batch=BATCH), tmp_path, journals())
    refused(results, "s", CheatingDetected, "5 of 5 signatures are wrong")


# -- tags


class Kept:
    """Lets a change use what an earlier message of the same cheat held."""

    def __init__(self, field):
        self.field, self.first = field, None

    def __call__(self, message, s):
        rows = getattr(message, self.field)
        if self.first is None:
            self.first = rows[0].copy()
            return [message]
        return [replace(message, **{self.field: with_row(rows, self.first, at=1)})]


TAGS = {
    "a tag twice in a batch": lambda t: with_row(t, t[0]),
    "one tag for all": lambda t: np.repeat(t[:1], len(t), axis=0),
    "a byte shorter": lambda t: t[:, 1:].copy(),
    "a byte longer": lambda t: np.concatenate([t, t[:, :1]], axis=1),
    "no bytes": lambda t: t[:, :0].copy(),
    "too few": lambda t: t[:-1],
    "too many": lambda t: np.concatenate([t, t[:1] ^ 1]),
}


@pytest.mark.parametrize("mode", ["hidden_one", "open"])
@pytest.mark.parametrize("name", TAGS)
def test_tags_are_refused(name, mode, tmp_path):
    cheat = ("s", Tags, lambda m, s: [replace(m, tags=TAGS[name](m.tags))] if m.index == 1 else [m])
    results = attempt(job(batch=BATCH, mode=mode), tmp_path, journals(), cheat)
    honest = results["c"]
    assert type(honest) is ProtocolError, results
    # in mode open the signer has no more to wait for, and may have ended by then
    assert isinstance(results["s"], PeerAborted) or mode == "open", results


def test_a_tag_twice_across_batches(tmp_path):
    results = attempt(job(batch=BATCH), tmp_path, journals(), ("s", Tags, Kept("tags")))
    refused(results, "s", ProtocolError, "the list of s holds ids more than once")


@pytest.mark.parametrize("mode", ["hidden_one", "open"])
def test_the_client_does_not_rely_on_the_order_of_tags(mode, tmp_path, monkeypatch):
    """Sorting tags hides the signer's own order: who leaves it out harms itself, not the result."""
    monkeypatch.setattr(hidden_psi, "leading_words", lambda records: np.arange(len(records), dtype=np.uint64))
    kept = journals()
    options = {"mode": mode, "share_matches": mode == "open"}
    results = attempt(job(batch=BATCH, **options), tmp_path, kept)
    sent = b"".join(kept["c"].read("tags", index) for index in range(3))
    width = len(sent) // SIZES["s"]
    tags = [sent[at : at + width] for at in range(0, len(sent), width)]
    assert tags != sorted(tags)
    lists = lists_and()[0]
    if mode == "open":
        check_open(results, lists, share=True)
    else:
        check_hidden_one(results, lists)


def test_tags_of_other_ids_only_take_matches_away(tmp_path):
    """What a signer tags is its own business (as documented): the client's part stays consistent."""
    cheat = ("s", Tags, lambda m, s: [replace(m, tags=m.tags ^ 1)])
    results = attempt(job(batch=BATCH), tmp_path, journals(), cheat)
    assert results["c"][0].matched == 0
    assert results["c"][0].rows == SIZES["s"]


# -- blinded values

BLINDED = {
    "0": (lambda v: with_row(v, 0), CheatingDetected),
    "1": (lambda v: with_row(v, 1), CheatingDetected),
    "n - 1": (lambda v: with_row(v, N - 1), CheatingDetected),
    "n": (lambda v: with_row(v, N), CheatingDetected),
    "n + 1": (lambda v: with_row(v, N + 1), CheatingDetected),
    "the largest": (lambda v: with_row(v, (1 << SMALL) - 1), CheatingDetected),
    "p": (lambda v: with_row(v, P), CheatingDetected),
    "a multiple of q": (lambda v: with_row(v, Q * (P - 2)), CheatingDetected),
    "p and q, whose product is 0": (lambda v: with_row(with_row(v, P), Q, at=0), CheatingDetected),
    "a value twice": (lambda v: with_row(v, v[0]), CheatingDetected),
    "one value only": (lambda v: np.repeat(v[:1], len(v), axis=0), CheatingDetected),
    "a byte shorter": (lambda v: v[:, 1:].copy(), ProtocolError),
    "a byte longer": (
        lambda v: np.concatenate([np.zeros((len(v), 1), np.uint8), v], axis=1),
        ProtocolError,
    ),
    "no bytes": (lambda v: v[:, :0].copy(), ProtocolError),
    "too few": (lambda v: v[:-1], ProtocolError),
    "too many": (lambda v: np.concatenate([v, v[:1] ^ 1]), ProtocolError),
    "none": (lambda v: v[:0], ProtocolError),
}


@pytest.mark.parametrize("name", BLINDED)
@pytest.mark.parametrize("index", [0, 1])
def test_blinded_values_are_refused(name, index, tmp_path):
    change, expected = BLINDED[name]
    kept = journals()
    cheat = ("c", BlindedIds, lambda m, s: [replace(m, values=change(m.values))] if m.index == index else [m])
    refused(attempt(job(batch=BATCH), tmp_path, kept, cheat), "c", expected)
    # nothing of the batch was signed
    assert kept["s"].done("signed") <= index


def test_a_value_twice_across_batches(tmp_path, monkeypatch):
    """It gets no second signature of its own: equal values have equal ones. And it is told."""
    monkeypatch.setattr(
        blind_rsa, "verify", lambda *_, **__: None
    )  # such a client does not mind what it gets
    kept = journals()
    refused(
        attempt(job(batch=BATCH), tmp_path, kept, ("c", BlindedIds, Kept("values"))),
        "c",
        CheatingDetected,
        "more than once",
    )
    # nor is it forgotten by the next attempt, which refuses before any tag
    assert kept["s"].done("signed") == 3
    results = attempt(job(batch=BATCH), tmp_path, kept)
    refused(results, "c", CheatingDetected, "more than once")
    assert kept["c"].done("tags") == 0


@pytest.mark.parametrize("writes", [8, 9])
@pytest.mark.parametrize("other", [False, True])
def test_a_batch_again_on_resume(writes, other, tmp_path):
    """Neither its old bytes nor other values get another signature, and what was signed stays."""
    kept = journals()
    attempt(job(batch=BATCH), tmp_path, kept | {"c": Mortal(kept["c"], writes)})
    done = kept["s"].done("signed")
    assert done >= 1
    signed = [kept["s"].read("signed", index) for index in range(done)]
    rows = np.frombuffer(signed[0], np.uint8).reshape(-1, WIDTH)
    blinded = numbers(*(pow(int.from_bytes(row.tobytes(), "big"), 65537, N) for row in rows))
    again = BlindedIds(0, numbers(*range(2, 7)) if other else blinded)
    # with all signed an honest client sends no blinded id at all: then the batch comes with the size
    cheat = ("c", BlindedIds if done < 3 else Size, lambda m, s: [again, m])
    results = attempt(job(batch=BATCH), tmp_path, kept, cheat)
    if done < 3:
        refused(results, "c", ProtocolError, "batch 0 of 5 where batch")
    else:
        check_hidden_one(results, lists_and()[0])
    assert [kept["s"].read("signed", index) for index in range(done)] == signed


def test_a_signer_that_died_before_committing_signs_the_batch_once(tmp_path):
    """A client that blinds anew after the crash of the signer gets as many signatures as it announced."""
    kept = journals()
    attempt(job(batch=BATCH), tmp_path, kept | {"s": Mortal(kept["s"], 4)})
    assert kept["s"].done("signed") < 3
    cheat = (
        "c",
        BlindedIds,
        lambda m, s: [
            replace(m, values=numbers(*range(1000 * m.index + 2, 1000 * m.index + 2 + len(m.values))))
        ],
    )
    results = attempt(job(batch=BATCH), tmp_path, kept, cheat)
    # its own check is the first to notice what it got
    assert type(results["c"]) is CheatingDetected
    refused(results, "s", CheatingDetected)
    assert sum(len(kept["s"].read("signed", i)) for i in range(kept["s"].done("signed"))) <= 12 * WIDTH


def test_signatures_beyond_what_was_announced(tmp_path):
    """A client that announces fewer ids than it has gets no more signatures than it announced."""
    kept = journals()
    cheat = ("c", Size, lambda m, s: [replace(m, ids=10)])
    results = attempt(job(batch=BATCH), tmp_path, kept, cheat)
    # whichever notices first: the signer one batch too many, the client one too few
    assert ProtocolError in {type(result) for result in results.values()}, results
    assert all(isinstance(result, ProtocolError | PeerAborted) for result in results.values()), results
    assert kept["s"].done("signed") <= 2


# -- the random map

MAPS = {
    "an id twice": (lambda i: with_row(i, i[0]), CheatingDetected),
    "one id for all": (lambda i: np.repeat(i[:1], len(i), axis=0), CheatingDetected),
    "too few": (lambda i: i[:-1], ProtocolError),
    "too many": (lambda i: np.concatenate([i, i[:1] ^ 1]), ProtocolError),
    "none": (lambda i: i[:0], ProtocolError),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_random_map_is_refused(name, tmp_path):
    change, expected = MAPS[name]
    cheat = ("c", RandomMap, lambda m, s: [replace(m, ids=change(m.ids))] if m.index == 1 else [m])
    refused(attempt(job(batch=BATCH), tmp_path, journals(), cheat), "c", expected)


def test_a_random_id_twice_across_batches(tmp_path):
    kept = journals()
    results = attempt(job(batch=BATCH), tmp_path, kept, ("c", RandomMap, Kept("ids")))
    refused(results, "c", CheatingDetected, "random id more than once")
    # it stays refused in every later attempt
    refused(attempt(job(batch=BATCH), tmp_path, kept), "c", CheatingDetected, "random id more than once")


class Narrow(Message, frozen=True):
    """Makes the bytes of ids that are not 16 wide."""

    index: int
    ids: np.ndarray


@pytest.mark.parametrize("shape", [(5, 15), (5, 17), (80,), (1, 5, 16), (-5, 16), (1 << 62, 16), (5, 0)])
def test_random_ids_of_another_shape(shape, tmp_path):
    def reshaped(message, s):
        head = msgspec.msgpack.encode([message.index, [list(shape)]])
        start = len(head).to_bytes(4, "little") + head
        return [Raw(RandomMap, [start + bytes(-len(start) % 8) + message.ids.tobytes()])]

    honest = encode(RandomMap(1, np.zeros((2, 16), np.uint8)))
    (made,) = reshaped(RandomMap(1, np.zeros((2, 16), np.uint8)), None)[0].parts
    assert len(made) >= len(b"".join(honest)) - 8
    results = attempt(job(batch=BATCH), tmp_path, journals(), ("c", RandomMap, reshaped))
    refused(results, "c", ProtocolError)


# -- places


def held(places):
    return np.flatnonzero(places != NOWHERE)


def place(places, at, value):
    places = places.copy()
    places[held(places)[at]] = value
    return places


def crossed(places):
    places, at = places.copy(), held(places)
    places[at[:2]] = places[at[1::-1]]
    return places


PLACES = {
    "twice": lambda p: place(p, 1, p[held(p)[0]]),
    "too far": lambda p: place(p, -1, len(p) + 100),
    "far too far": lambda p: place(p, 0, 0xFFFFFFFE),
    "not increasing": crossed,
    "not from 0": lambda p: place(p, 0, 1),
    "too few": lambda p: p[:-1],
    "too many": lambda p: np.concatenate([p, p[:1]]),
    "none": lambda p: p[:0],
}


@pytest.mark.parametrize("name", PLACES)
def test_places_are_refused(name, tmp_path):
    agreed = job(mode="open", share_matches=True)  # one batch, so that it holds matches for sure
    cheat = ("c", Places, lambda m, s: [replace(m, places=PLACES[name](m.places))])
    refused(attempt(agreed, tmp_path, journals(), cheat), "c", ProtocolError)


def test_more_matches_than_the_client_has_ids(tmp_path):
    """12 ids cannot match 14: that is no lie about what matches but an impossible answer."""
    agreed = job(mode="open", share_matches=True)
    cheat = ("c", Places, lambda m, s: [replace(m, places=np.arange(14, dtype=np.uint32))])
    refused(attempt(agreed, tmp_path, journals(), cheat), "c", ProtocolError)


# -- roles, modes and sizes

FOREIGN = {
    "a key": ("c", SignerKey(b"\xff", 65537, b"")),
    "signatures": ("c", SignedIds(0, numbers(2, 3))),
    "tags": ("c", Tags(0, np.zeros((5, 10), np.uint8))),
    "blinded ids": ("s", BlindedIds(0, numbers(2, 3))),
    "a random map": ("s", RandomMap(0, np.zeros((5, 16), np.uint8))),
    "places": ("s", Places(0, np.arange(5, dtype=np.uint32))),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_the_senders_role(name, tmp_path):
    who, message = FOREIGN[name]
    results = attempt(job(batch=BATCH), tmp_path, journals(), (who, Size, lambda m, s: [m, message]))
    honest = results["c" if who == "s" else "s"]
    assert type(honest) is ProtocolError, results
    assert "not its role's to send" in str(honest)
    # refused by its header alone: the connection ends there and then, and may not carry the reason
    assert isinstance(results[who], PeerAborted | PeerLost), results


@pytest.mark.parametrize(
    ("mode", "share", "stray"),
    [
        ("open", False, RandomMap(0, np.zeros((5, 16), np.uint8))),
        ("open", True, RandomMap(0, np.zeros((5, 16), np.uint8))),
        ("open", False, Places(0, np.arange(5, dtype=np.uint32))),
        ("hidden_one", False, Places(0, np.arange(5, dtype=np.uint32))),
    ],
)
def test_what_the_mode_does_not_send_is_not_used(mode, share, stray, tmp_path):
    """The signer reads no message of another mode: its result is that of an honest run."""
    kept = journals()
    agreed = job(batch=BATCH, mode=mode, share_matches=share)
    results = attempt(agreed, tmp_path, kept, ("c", Size, lambda m, s: [m, stray]))
    lists = lists_and()[0]
    if mode == "open":
        check_open(results, lists, share=share)
    else:
        check_hidden_one(results, lists)
    used = {"hidden_one": {"random map"}, "open": {"places"} if share else set()}[mode]
    assert {"random map", "places"} & set(kept["s"].stages()) == used


@pytest.mark.parametrize("who", ["s", "c"])
@pytest.mark.parametrize("size", [0, -1, -(1 << 63), 10_000_001, 1 << 62, (1 << 64) - 1])
def test_sizes_are_refused(who, size, tmp_path):
    cheat = (who, Size, lambda m, s: [replace(m, ids=size)])
    refused(attempt(job(batch=BATCH), tmp_path, journals(), cheat), who, ProtocolError, "announces")


@pytest.mark.parametrize("who", ["s", "c"])
@pytest.mark.parametrize("by", [-1, 1, 40])
def test_a_size_that_is_not_the_lists(who, by, tmp_path):
    """The announced size is the size of all that follows."""
    cheat = (who, Size, lambda m, s: [replace(m, ids=m.ids + by)])
    results = attempt(replace(job(batch=BATCH), step_timeout=4.0), tmp_path, journals(), cheat)
    refused(results, who, ProtocolError)


@pytest.mark.parametrize("who", ["s", "c"])
def test_a_size_that_changes_between_attempts(who, tmp_path):
    kept = journals()
    attempt(job(batch=BATCH), tmp_path, kept | {"c": Mortal(kept["c"], 6)})
    lists = lists_and()[0]
    lists[who] = [*lists[who], "new"]
    results = attempt(
        job(batch=BATCH), tmp_path, kept, listed={name: Listed(ids) for name, ids in lists.items()}
    )
    kinds = {type(result) for result in results.values()}
    assert kinds <= {ProtocolError, PeerAborted}, results
    assert ProtocolError in kinds, results
    # the honest one notices, too, where only the message changes
    results = attempt(job(batch=BATCH), tmp_path, kept, (who, Size, lambda m, s: [replace(m, ids=m.ids + 1)]))
    refused(results, who, ProtocolError, "another size than in an earlier attempt")
