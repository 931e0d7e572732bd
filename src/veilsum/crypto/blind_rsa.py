"""Blind RSA signatures of ids: a client gets H(v)^d for its ids, the signer sees only uniform numbers.

H is the full-domain encoding of RFC 9474's variant without a salt, so that equal ids get equal signatures,
and tags cut from them meet. For a blind r the client sends r^e·H(v), gets r·H(v)^d and takes r away
(D. Chaum, CRYPTO 1982). In a protocol the signer calls `gen_key` and `prove`; the client `check_key` and
`hash_ids`, then shuffles, `encode`, `draw_blinds` and `blind`; the signer `sign`; the client `unblind` and
`tags`. The signer signs and tags its own ids by itself.

Adversary: the client's ids stay hidden from any signer whose key passes `check_key`, whatever else it does,
because blinded values are uniform among the numbers coprime to n (see `rsa_proof`); that a signature is the
right one, `unblind` checks for every item. The signer's own ids stay hidden from a client up to those that it
asks for, under the one-more-RSA assumption with H a random oracle (M. Bellare et al., Journal of Cryptology
2003): m answers give m signatures and no more. A client may ask for ids that it does not have, as in every
such protocol, so that the caller is to bound the number of answers over the whole life of a key.
A key for this signs nothing else.

Numbers are rows of big-endian bytes, as wide as the modulus. Time: the private operation is constant time and
blinded besides, and arithmetic is as constant as `veilsum.arith.modexp` says; hashing shows the lengths of
ids; drawing a blind shows about its leading byte whether it is the modulus' own. What the two parties show
each other anyway (values, signatures of values) is compared in varying time.

Source: RFC 9474; RFC 8017, sections 5.2 and 9.1.1.
"""

import hashlib
import math
from typing import Final, NamedTuple

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from veilsum.arith import modexp, sha512
from veilsum.crypto.rsa_key import EXPONENT, PrivateKey, PublicKey, gen_key
from veilsum.crypto.rsa_proof import check_key, prove
from veilsum.crypto.tags import width as tag_width
from veilsum.errors import CheatingDetected, ProtocolError, VeilsumError

__all__ = [
    "EXPONENT",
    "SUITE",
    "Blinded",
    "PrivateKey",
    "PublicKey",
    "blind",
    "cache_digests",
    "check_key",
    "draw_blinds",
    "encode",
    "gen_key",
    "hash_ids",
    "prove",
    "sign",
    "tag_width",
    "tags",
    "unblind",
    "verify",
]

SUITE: Final = "RSABSSA-SHA384-PSSZERO-Deterministic"
"""The one suite; its name goes into the job, and so into the job's hash."""
HASH_BYTES: Final = 48
TAG_BYTES: Final = 32
"""Of a tag that is kept: it can be cut to any width later."""
LEAST_BITS: Final = 8 * (HASH_BYTES + 2) - 6
"""Bits of the smallest modulus that holds an encoded hash."""
TAG_LABEL: Final = b"veilsum/blind-rsa-tag/1"
CACHE_LABEL: Final = b"veilsum/blind-rsa-cache/1"
BLIND_LABEL: Final = b"veilsum/blind-rsa-blind/1"
AES_BLOCK: Final = 16
SQUARES: Final = 16
"""Base blinds that come from one draw."""
CACHED: Final = 4096
"""Blinds drawn at once, so that their candidates stay in the processor's cache."""

FEW: Final = 16
"""So many numbers are multiplied faster one by one than together."""

Rows = NDArray[np.uint8]


class Blinded(NamedTuple):
    """A batch on its way through the signer."""

    values: Rows
    """What the signer sees: r^e·H, (n, k) uint8."""
    unblinders: Rows
    """Secret: r^-1, (n, k) uint8."""


def hash_ids(data: bytes | Rows, offsets: NDArray[np.int64], *, path: str | None = None) -> Rows:
    """Hash ids with SHA-384, the first step of the encoding; hashes have one size and can be shuffled.

    Args:
        data: the normal forms of the ids end to end.
        offsets: id i is ``data[offsets[i]:offsets[i + 1]]``; shape (n + 1,) int64.
        path: of `veilsum.arith.sha512`; None takes the best of this machine.

    Returns:
        (n, 48) uint8; secret, since anybody can try ids against hashes.

    Raises:
        TypeError, ValueError: offsets of another type or outside of the data.
    """
    return sha512.digest384(data, offsets, path=path)


def encode(hashes: Rows, bits: int, *, path: str | None = None) -> Rows:
    """Finish the encoding of hashed ids: EMSA-PSS with SHA-384, MGF1 and no salt, in bits - 1 bits.

    Args:
        hashes: (n, 48) uint8, from `hash_ids`.
        bits: of the modulus, at least 394.
        path: of `veilsum.arith.sha512`.

    Returns:
        (n, k) uint8, numbers below 2^(bits - 1), and so below any modulus of these bits.

    Raises:
        ValueError: a modulus too small for the encoding, or hashes of another shape.
    """
    if bits < LEAST_BITS:
        raise ValueError(f"a modulus of {bits} bits does not hold the encoding; it takes {LEAST_BITS}")
    count = len(hashes)
    padded = np.zeros((count, 8 + HASH_BYTES), np.uint8)
    padded[:, 8:] = hashes
    inner = _digest384(padded, path)
    length = -(-(bits - 1) // 8)
    encoded = np.zeros((count, -(-bits // 8)), np.uint8)
    message = encoded[:, -length:]
    # the data block is zeros and a one, so that masking it is writing the mask down and flipping a bit
    block = message[:, : length - HASH_BYTES - 1]
    seed = np.zeros((count, HASH_BYTES + 4), np.uint8)
    seed[:, :HASH_BYTES] = inner
    for counter, start in enumerate(range(0, block.shape[1], HASH_BYTES)):
        seed[:, HASH_BYTES:] = np.frombuffer(counter.to_bytes(4, "big"), np.uint8)
        part = block[:, start : start + HASH_BYTES]
        part[:] = _digest384(seed, path)[:, : part.shape[1]]
    block[:, -1] ^= 1
    block[:, 0] &= 0xFF >> (8 * length - (bits - 1))
    message[:, -HASH_BYTES - 1 : -1] = inner
    message[:, -1] = 0xBC
    return encoded


def draw_blinds(seed: bytes, start: int, count: int, public: PublicKey) -> Rows:
    """Draw the blinds of the items ``start`` to ``start + count``, each uniform from 1 to n - 1.

    Candidate a of item i is AES-256 of (i, a, 0), (i, a, 1) and so on, under a key derived from the seed and
    the public key; the first candidate from 1 to n - 1 is the blind. So it depends on nothing but seed, key
    and i, however items are cut into batches. A blind must serve one id only: of two ids under one blind, the
    signer would see the quotient.

    Args:
        seed: secret uniform bytes, at least 32, for one run.
        start: index of the first item, 0 to 2^63 - 1.
        count: of items.
        public: the signer's key.

    Returns:
        (count, k) uint8; secret.

    Raises:
        ValueError: a seed of less than 32 bytes.
    """
    if len(seed) < 32:
        raise ValueError(f"a seed of blinds has at least 32 bytes, not {len(seed)}")
    key = HKDFExpand(hashes.SHA256(), 32, BLIND_LABEL + public.id).derive(seed)
    cipher = Cipher(algorithms.AES256(key), modes.ECB())  # noqa: S305 -- no mode: a function of counters
    blinds = np.empty((count, public.width), np.uint8)
    for at in range(0, count, CACHED):
        part = blinds[at : at + CACHED]
        missing, attempt = np.arange(len(part)), 0
        while len(missing):
            candidates = _candidates(cipher, start + at + missing, attempt, public)
            good = _below(candidates, public.modulus) & candidates.any(axis=1)
            part[missing[good]] = candidates[good]
            missing = missing[~good]
            attempt += 1
    return blinds


def blind(public: PublicKey, encoded: Rows, blinds: Rows, *, path: str | None = None) -> Blinded:
    """Blind encoded ids for the signer: r^e·H modulo n.

    Args:
        public: the signer's key, after `check_key`.
        encoded: (n, k) uint8, from `encode`.
        blinds: (n, k) uint8, from `draw_blinds`, for these ids only.
        path: of `veilsum.arith.modexp`; None takes the best of this machine.

    Raises:
        ProtocolError: arrays of another shape or type.
        CheatingDetected: an id or a blind shares a factor with the modulus, which only a modulus with a small
            prime factor makes likely.
    """
    _check_shape(public, encoded, blinds)
    modulus = public.modulus
    try:
        unblinders = modexp.inverse(blinds, modulus, path=path)
    except ValueError:
        unblinders = None
    if unblinders is None or _common_factor(encoded, modulus, path) != 1:
        raise CheatingDetected(
            "the signer's modulus has a small prime factor, which breaks blinding; nothing was sent",
            remedy="ask the signer what its software is; do not run this job with it again",
        )
    masks = modexp.power(blinds, public.exponent, modulus, path=path)
    return Blinded(modexp.product(masks, encoded, modulus, path=path), unblinders)


def sign(key: PrivateKey, values: Rows, seed: bytes, *, path: str | None = None) -> Rows:
    """Sign values, a client's blinded ones or one's own encoded ones: v^d modulo n.

    Every private operation is constant time and blinded by a factor of its own (of these one in 16 is drawn,
    the others are its repeated squares, as is usual for base blinding), and every result is checked by the
    public operation: a single wrong result of a CRT computation would give the primes away (D. Boneh,
    R. DeMillo and R. Lipton, EUROCRYPT 1997). Checks of values take varying time.

    Args:
        key: the signer's.
        values: (n, k) uint8, from 2 to n - 2, coprime to n and different from each other.
        seed: at least 32 secret uniform bytes, fresh for every call.
        path: of `veilsum.arith.modexp`.

    Returns:
        (n, k) uint8.

    Raises:
        ProtocolError: an array of another shape or type.
        CheatingDetected: a value out of bounds, not coprime to n, or there twice.
        VeilsumError: the processor or memory computed wrong; no result is given out.
        ValueError: a seed of less than 32 bytes.
    """
    public = key.public
    _check_shape(public, values)
    _check_values(public, values, path)
    masks, unmasks = _base_blinds(public, seed, len(values), path)
    masked = modexp.product(values, masks, public.modulus, path=path)
    signed = modexp.private_power(masked, key.crt, path=path)
    signed = modexp.product(signed, unmasks, public.modulus, path=path)
    if _count_wrong(public, values, signed, path):
        raise VeilsumError(
            "a signature came out wrong and was not given out",
            remedy="check this machine's memory and processor, then resume; the key itself is not to blame",
        )
    return signed


def _base_blinds(public: PublicKey, seed: bytes, count: int, path: str | None) -> tuple[Rows, Rows]:
    """Return factors to the power e, and their inverses, (count, k) uint8 each."""
    drawn = draw_blinds(seed, 0, -(-count // SQUARES), public)
    mask = modexp.power(drawn, public.exponent, public.modulus, path=path)
    unmask = modexp.inverse(drawn, public.modulus, path=path)
    masks, unmasks = [mask], [unmask]
    for _ in range(SQUARES - 1):
        masks.append(modexp.product(masks[-1], masks[-1], public.modulus, path=path))
        unmasks.append(modexp.product(unmasks[-1], unmasks[-1], public.modulus, path=path))
    return np.concatenate(masks)[:count], np.concatenate(unmasks)[:count]


def unblind(public: PublicKey, blinded: Blinded, signed: Rows, *, path: str | None = None) -> Rows:
    """Check that the signer signed every value, and take the blinds away.

    Multiplying by unblinders is constant time.

    Args:
        public: the signer's key, after `check_key`.
        blinded: this batch as `blind` made it.
        signed: (n, k) uint8, what the signer sent back, in the same order.
        path: of `veilsum.arith.modexp`.

    Returns:
        (n, k) uint8: H^d for every id. Secret up to what tags show.

    Raises:
        ProtocolError: arrays of another shape or type.
        CheatingDetected: some value was not signed, or signed with another key; the message says how many.
    """
    verify(public, blinded.values, signed, path=path)
    return modexp.product(signed, blinded.unblinders, public.modulus, path=path)


def verify(public: PublicKey, encoded: Rows, signatures: Rows, *, path: str | None = None) -> None:
    """Check signatures of values, (n, k) uint8 each: s^e = v and s below n for every item.

    Raises:
        ProtocolError: arrays of another shape or type.
        CheatingDetected: some are wrong; the message says how many, not which.
    """
    _check_shape(public, encoded, signatures)
    wrong = _count_wrong(public, encoded, signatures, path)
    if wrong:
        raise CheatingDetected(
            f"{wrong} of {len(encoded)} signatures are wrong",
            remedy="ask the signer what its software is; do not run this job with it again",
        )


def tags(public: PublicKey, signatures: Rows, width: int, *, path: str | None = None) -> Rows:
    """Hash signatures to tags for comparison: SHA-512 of a label, the key's id and the signature, cut.

    SHA-512 because it is the hash at hand for whole batches; cut, it is as good as SHA-256.

    Args:
        public: the key they were made with.
        signatures: (n, k) uint8, of ids, unblinded.
        width: bytes of a tag, 1 to 64; see `tag_width`.
        path: of `veilsum.arith.sha512`.

    Returns:
        (n, width) uint8, contiguous; as good as random to whoever lacks the signature.

    Raises:
        ProtocolError: an array of another shape or type.
        ValueError: another width.
    """
    _check_shape(public, signatures)
    if not 1 <= width <= 64:
        raise ValueError(f"a tag has 1 to 64 bytes, not {width}")
    prefix = np.frombuffer(TAG_LABEL + public.id, np.uint8)
    messages = np.empty((len(signatures), len(prefix) + public.width), np.uint8)
    messages[:, : len(prefix)] = prefix
    messages[:, len(prefix) :] = signatures
    return np.ascontiguousarray(sha512.digest(messages.reshape(-1), _offsets(messages), path=path)[:, :width])


def cache_digests(key: PrivateKey, hashed: Rows, *, path: str | None = None) -> Rows:
    """Name one's own ids for a cache of their tags: a keyed hash, useless to whoever lacks the private key.

    Args:
        key: the signer's own.
        hashed: (n, 48) uint8, from `hash_ids`.
        path: of `veilsum.arith.sha512`.

    Returns:
        (n, 32) uint8.
    """
    secret = hashlib.sha512(CACHE_LABEL + key.to_bytes()).digest()
    messages = np.empty((len(hashed), len(secret) + HASH_BYTES), np.uint8)
    messages[:, : len(secret)] = np.frombuffer(secret, np.uint8)
    messages[:, len(secret) :] = hashed
    return np.ascontiguousarray(sha512.digest(messages.reshape(-1), _offsets(messages), path=path)[:, :32])


def _offsets(rows: Rows) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    return offsets


def _digest384(rows: Rows, path: str | None) -> Rows:
    return sha512.digest384(rows.reshape(-1), _offsets(rows), path=path)


def _candidates(cipher: Cipher[modes.ECB], items: NDArray[np.int64], attempt: int, public: PublicKey) -> Rows:
    blocks = -(-public.width // AES_BLOCK)
    counters = np.empty((len(items), blocks, 2), ">u8")
    counters[:, :, 0] = items[:, None]
    counters[:, :, 1] = (attempt << 32) + np.arange(blocks)
    stream = np.frombuffer(cipher.encryptor().update(counters.data.cast("B")), np.uint8)
    drawn = stream.reshape(len(items), -1)[:, : public.width].copy()
    drawn[:, 0] &= 0xFF >> (8 * public.width - public.bits)
    return drawn


def _below(rows: Rows, bound: int) -> NDArray[np.bool_]:
    """Return for every row whether it is a smaller number: the first byte that differs decides."""
    limit = np.frombuffer(bound.to_bytes(rows.shape[1], "big"), np.uint8)
    column = (rows != limit).argmax(axis=1)
    less: NDArray[np.bool_] = rows[np.arange(len(rows)), column] < limit[column]
    return less


def _count_wrong(public: PublicKey, values: Rows, signatures: Rows, path: str | None) -> int:
    right = _below(signatures, public.modulus)
    found = modexp.power(signatures * right[:, None], public.exponent, public.modulus, path=path)
    return int(np.count_nonzero(~right | (found != values).any(axis=1)))


def _common_factor(rows: Rows, modulus: int, path: str | None) -> int:
    """Return the greatest common divisor of the modulus and the product of all rows."""
    while len(rows) > FEW:
        half = len(rows) // 2
        product = modexp.product(rows[:half], rows[half : 2 * half], modulus, path=path)
        rows = np.concatenate([product, rows[2 * half :]]) if len(rows) % 2 else product
    return math.gcd(math.prod(int.from_bytes(row.tobytes(), "big") for row in rows) % modulus, modulus)


def _check_values(public: PublicKey, values: Rows, path: str | None) -> None:
    one = (1).to_bytes(public.width, "big")
    inside = _below(values, public.modulus - 1) & values.any(axis=1)
    rule = ""
    if not inside.all() or (values == np.frombuffer(one, np.uint8)).all(axis=1).any():
        rule = "is out of bounds"
    elif _common_factor(values, public.modulus, path) != 1:
        rule = "shares a factor with the modulus"
    elif len(np.unique(values.view(f"V{public.width}"))) != len(values):
        rule = "is there twice"
    if rule:
        raise CheatingDetected(
            f"a value to be signed {rule}, which no blinded id does",
            remedy="ask the party that sent it what its software is; do not run this job with it again",
        )


def _check_shape(public: PublicKey, *arrays: Rows) -> None:
    for array in arrays:
        expected = (len(arrays[0]), public.width)
        if array.dtype != np.uint8 or array.shape != expected or not array.flags.c_contiguous:
            raise ProtocolError(
                f"numbers have shape {array.shape} and type {array.dtype}, not {expected} uint8 in one piece",
                remedy="compare the versions of veilsum at both parties",
            )
