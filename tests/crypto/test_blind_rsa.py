import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import cpu, modexp
from veilsum.crypto import blind_rsa, dh
from veilsum.crypto.blind_rsa import PublicKey
from veilsum.errors import CheatingDetected, ProtocolError, VeilsumError

PATHS = cpu.usable("modexp")
HASH_PATHS = cpu.usable("sha512")
SEED = b"seed" * 8
VECTOR = json.loads((Path(__file__).parent.parent / "vectors/rfc9474_psszero.json").read_text())["vectors"][0]


@pytest.fixture(scope="module", params=[(512, 2), (2048, 2), (3072, 2), (3072, 3)], ids=str)
def any_key(request):
    return blind_rsa.gen_key(*request.param)


@pytest.fixture(scope="module")
def key():
    return blind_rsa.gen_key(512)


def lay_out(ids):
    return b"".join(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64)


def encoded(ids, bits):
    return blind_rsa.encode(blind_rsa.hash_ids(*lay_out(ids)), bits)


def some(count, public, prefix=b"id"):
    return encoded([prefix + b"%d" % i for i in range(count)], public.bits)


def row(number, public):
    return np.frombuffer(number.to_bytes(public.width, "big"), np.uint8)


def numbers(rows):
    return [int.from_bytes(one.tobytes(), "big") for one in rows]


def pss(message, bits):
    """EMSA-PSS-ENCODE of RFC 8017, section 9.1.1, without a salt."""

    def sha384(data):
        return hashlib.sha384(data).digest()

    length = -(-(bits - 1) // 8)
    inner = sha384(bytes(8) + sha384(message))
    block = bytes(length - 48 - 2) + b"\1"
    mask = b"".join(sha384(inner + i.to_bytes(4, "big")) for i in range(len(block) // 48 + 1))
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=False))
    masked[0] &= 0xFF >> (8 * length - (bits - 1))
    return (bytes(masked) + inner + b"\xbc").rjust(-(-bits // 8), b"\0")


@pytest.mark.parametrize("path", PATHS)
def test_the_vector_of_rfc_9474(path):
    key = blind_rsa.PrivateKey((int(VECTOR["p"], 16), int(VECTOR["q"], 16)))
    public = key.public
    assert public.modulus == int(VECTOR["n"], 16)
    assert public.exponent == int(VECTOR["e"], 16)
    ids = [bytes.fromhex(VECTOR["msg"])]
    rows = encoded(ids, public.bits)
    assert rows.tobytes().hex() == VECTOR["encoded_msg"]
    blinds = row(pow(int(VECTOR["inv"], 16), -1, public.modulus), public)[None]
    batch = blind_rsa.blind(public, rows, blinds, path=path)
    assert batch.values.tobytes().hex() == VECTOR["blinded_msg"]
    assert batch.unblinders.tobytes().hex() == VECTOR["inv"]
    signed = blind_rsa.sign(key, batch.values, SEED, path=path)
    assert signed.tobytes().hex() == VECTOR["blind_sig"]
    assert blind_rsa.unblind(public, batch, signed, path=path).tobytes().hex() == VECTOR["sig"]


def test_the_vectors_numbers_belong_together():
    p, q, n, e, d = (int(VECTOR[name], 16) for name in "pqned")
    assert p * q == n
    assert e * d % math.lcm(p - 1, q - 1) == 1
    assert pow(int(VECTOR["sig"], 16), e, n) == int(VECTOR["encoded_msg"], 16)


@pytest.mark.parametrize("path", PATHS)
def test_a_round_trip_gives_the_signatures_that_cryptography_verifies(path, any_key):
    public = any_key.public
    ids = [b"", b"ann", b"bob", b"c" * 300, *(b"%d" % i for i in range(13))]
    rows = encoded(ids, public.bits)
    blinds = blind_rsa.draw_blinds(SEED, 7, len(ids), public)
    batch = blind_rsa.blind(public, rows, blinds, path=path)
    signed = blind_rsa.sign(any_key, batch.values, SEED, path=path)
    found = blind_rsa.unblind(public, batch, signed, path=path)
    blind_rsa.verify(public, rows, found, path=path)
    assert np.array_equal(found, blind_rsa.sign(any_key, rows, SEED[::-1], path=path))
    assert not np.array_equal(batch.values, rows)
    if public.bits >= 1024:
        oracle = rsa.RSAPublicNumbers(public.exponent, public.modulus).public_key()
        scheme = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=0)
        for signature, one in zip(found, ids, strict=True):
            oracle.verify(signature.tobytes(), one, scheme, hashes.SHA384())


@pytest.mark.parametrize("path", PATHS)
def test_blinding_is_what_the_formula_says(path, key):
    public = key.public
    rows = some(9, public)
    blinds = blind_rsa.draw_blinds(SEED, 0, 9, public)
    batch = blind_rsa.blind(public, rows, blinds, path=path)
    n = public.modulus
    pairs = list(zip(numbers(rows), numbers(blinds), strict=True))
    assert numbers(batch.values) == [pow(r, 65537, n) * m % n for m, r in pairs]
    assert numbers(batch.unblinders) == [pow(r, -1, n) for _, r in pairs]


@pytest.mark.parametrize("path", HASH_PATHS)
@pytest.mark.parametrize("bits", [394, 400, 401, 402, 512, 1017, 1024, 1025, 2048, 3072])
def test_the_encoding_follows_rfc_8017_for_any_bits(path, bits):
    ids = [b"%d" % i * i for i in range(20)]
    rows = blind_rsa.encode(blind_rsa.hash_ids(*lay_out(ids), path=path), bits, path=path)
    assert [one.tobytes() for one in rows] == [pss(one, bits) for one in ids]


@pytest.mark.parametrize("bits", [0, 256, 393])
def test_a_modulus_too_small_for_the_encoding_is_refused(bits):
    with pytest.raises(ValueError, match="hold"):
        blind_rsa.encode(np.zeros((1, 48), np.uint8), bits)


def test_hashes_of_another_shape_are_refused():
    with pytest.raises(ValueError):
        blind_rsa.encode(np.zeros((2, 64), np.uint8), 512)


def reference_blind(seed, index, public):
    key = HKDFExpand(hashes.SHA256(), 32, b"veilsum/blind-rsa-blind/1" + public.id).derive(seed)
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    for attempt in range(1000):
        counters = [
            index.to_bytes(8, "big") + (attempt << 32 | block).to_bytes(8, "big")
            for block in range(-(-public.width // 16))
        ]
        drawn = encryptor.update(b"".join(counters))[: public.width]
        number = int.from_bytes(drawn, "big") % (1 << public.bits)
        if 0 < number < public.modulus:
            return number
    raise AssertionError


@pytest.mark.parametrize(
    "modulus", [2**511 + 1, 2**512 - 1, 2**516 + 12345, 2**2047 + 9, 2**3072 - 2**3071 // 3]
)
def test_a_blind_depends_on_nothing_but_seed_key_and_index(modulus):
    public = PublicKey(modulus)
    whole = blind_rsa.draw_blinds(SEED, 2**40 - 3, 50, public)
    parts = [
        blind_rsa.draw_blinds(SEED, 2**40 - 3 + at, n, public)
        for at, n in [(0, 1), (1, 30), (31, 0), (31, 19)]
    ]
    assert np.array_equal(whole, np.concatenate(parts))
    assert numbers(whole) == [reference_blind(SEED, 2**40 - 3 + i, public) for i in range(50)]
    assert all(0 < blind < modulus for blind in numbers(whole))


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2**62), cut=st.integers(0, 40), bits=st.integers(394, 600))
def test_blinds_do_not_change_with_the_batches(start, cut, bits):
    public = PublicKey(2**bits - 2 ** (bits - 1) // 3)
    whole = blind_rsa.draw_blinds(SEED, start, 40, public)
    first = blind_rsa.draw_blinds(SEED, start, cut, public)
    assert np.array_equal(
        whole, np.vstack([first, blind_rsa.draw_blinds(SEED, start + cut, 40 - cut, public)])
    )


def test_more_blinds_than_are_drawn_at_once_are_as_the_single_ones():
    public = PublicKey(2**511 + 1)
    many = blind_rsa.draw_blinds(SEED, 0, 2 * blind_rsa.CACHED + 5, public)
    assert len(np.unique(many, axis=0)) == len(many)
    for index in (0, 1, 4095, 4096, 4097, 8191, 8192, 8196):
        assert np.array_equal(many[index], blind_rsa.draw_blinds(SEED, index, 1, public)[0])


def test_every_blind_from_1_to_n_minus_1_occurs_and_no_other():
    drawn = blind_rsa.draw_blinds(SEED, 0, 3000, PublicKey(11))
    assert set(drawn.ravel().tolist()) == set(range(1, 11))


def test_other_seeds_and_other_keys_draw_other_blinds():
    public = PublicKey(2**512 - 1)
    draws = [
        blind_rsa.draw_blinds(SEED, 0, 10, public),
        blind_rsa.draw_blinds(b"S" + SEED[1:], 0, 10, public),
        blind_rsa.draw_blinds(SEED + b"x", 0, 10, public),
        blind_rsa.draw_blinds(SEED, 10, 10, public),
        blind_rsa.draw_blinds(SEED, 0, 10, PublicKey(2**512 - 3)),
    ]
    assert len(np.unique(np.concatenate(draws), axis=0)) == 50


def test_a_short_seed_is_refused(key):
    with pytest.raises(ValueError, match="32 bytes"):
        blind_rsa.draw_blinds(bytes(31), 0, 1, key.public)
    with pytest.raises(ValueError, match="32 bytes"):
        blind_rsa.sign(key, some(1, key.public), bytes(31))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["encoded", "blinds"])
@pytest.mark.parametrize("place", [0, 4, 17, 38, 40])
def test_a_factor_of_the_modulus_in_an_id_or_a_blind_stops_the_client(path, where, place, key):
    public = key.public
    batch = {"encoded": some(41, public), "blinds": blind_rsa.draw_blinds(SEED, 0, 41, public)}
    batch[where][place] = row(3 * key._primes[1], public)
    with pytest.raises(CheatingDetected, match="small prime factor") as caught:
        blind_rsa.blind(public, **batch, path=path)
    assert caught.value.remedy


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 33, 66])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (lambda key: 0, "bounds"),
        (lambda key: 1, "bounds"),
        (lambda key: key.public.modulus - 1, "bounds"),
        (lambda key: key.public.modulus, "bounds"),
        (lambda key: key.public.modulus + 2, "bounds"),
        (lambda key: (1 << 512) - 1, "bounds"),
        (lambda key: key._primes[0], "factor"),
        (lambda key: 5 * key._primes[1], "factor"),
    ],
)
def test_values_that_no_honest_client_sends_are_not_signed(path, place, value, rule, key):
    values = some(67, key.public)
    values[place] = row(value(key), key.public)
    with pytest.raises(CheatingDetected, match=rule) as caught:
        blind_rsa.sign(key, values, SEED, path=path)
    assert caught.value.remedy


@pytest.mark.parametrize("path", PATHS)
def test_the_least_and_the_greatest_value_are_signed(path, key):
    n = key.public.modulus
    values = np.stack([row(2, key.public), row(n - 2, key.public)])
    assert numbers(modexp.power(blind_rsa.sign(key, values, SEED, path=path), 65537, n)) == [2, n - 2]


def test_a_value_twice_in_a_batch_is_not_signed(key):
    values = some(6, key.public)
    blind_rsa.sign(key, values, SEED)
    values[1] = values[5]
    with pytest.raises(CheatingDetected, match="twice"):
        blind_rsa.sign(key, values, SEED)


def test_values_that_differ_in_their_last_or_first_byte_only_are_not_twice(key):
    values = np.repeat(some(1, key.public), 3, axis=0)
    values[1, -1] ^= 1
    values[2, 0] ^= 1
    blind_rsa.verify(key.public, values, blind_rsa.sign(key, values, SEED))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 4])
def test_a_fault_in_the_private_operation_gives_no_signature(path, place, key, monkeypatch):
    right = modexp.private_power

    def broken(rows, *arguments, **options):
        out = right(rows, *arguments, **options)
        n, p = key.public.modulus, key._primes[0]
        wrong = (numbers(out)[place] + p) % n  # right modulo one prime only, as a CRT fault has it
        out[place] = row(wrong, key.public)
        return out

    monkeypatch.setattr(modexp, "private_power", broken)
    with pytest.raises(VeilsumError, match="not given out") as caught:
        blind_rsa.sign(key, some(5, key.public), SEED, path=path)
    assert type(caught.value) is VeilsumError
    assert caught.value.remedy


def test_the_private_operation_never_sees_the_value_itself(key, monkeypatch):
    seen, right = [], modexp.private_power

    def watched(rows, *arguments, **options):
        seen.append(rows.copy())
        return right(rows, *arguments, **options)

    monkeypatch.setattr(modexp, "private_power", watched)
    values = some(5, key.public)
    signed = [blind_rsa.sign(key, values, seed) for seed in (SEED, SEED[::-1])]
    assert np.array_equal(*signed)
    assert len(np.unique(np.concatenate([values, *seen]), axis=0)) == 15


@pytest.mark.parametrize("path", PATHS)
def test_wrong_signatures_are_counted_and_not_unblinded(path, key):
    public = key.public
    batch = blind_rsa.blind(public, some(8, public), blind_rsa.draw_blinds(SEED, 0, 8, public), path=path)
    signed = blind_rsa.sign(key, batch.values, SEED, path=path)
    swapped = signed[[0, 1, 2, 3, 4, 5, 7, 6]]
    changed = signed.copy()
    changed[[0, 3, 7], [0, 20, 63]] ^= 1
    outside = signed.copy()
    outside[2] = 0xFF
    outside[5] = row(public.modulus, public)
    other = blind_rsa.sign(blind_rsa.gen_key(512), some(8, public), SEED)
    for wrong, count in [(swapped, 2), (changed, 3), (outside, 2), (other, 8), (signed * 0, 8)]:
        with pytest.raises(CheatingDetected, match=f"^{count} of 8 signatures") as caught:
            blind_rsa.unblind(public, batch, np.ascontiguousarray(wrong), path=path)
        assert caught.value.remedy
        with pytest.raises(CheatingDetected):
            blind_rsa.verify(public, batch.values, np.ascontiguousarray(wrong), path=path)


def test_a_signature_plus_the_modulus_is_wrong():
    key = next(
        made for made in iter(lambda: blind_rsa.gen_key(512), None) if made.public.modulus < 0.8 * 2**512
    )
    rows = some(100, key.public)
    signed = blind_rsa.sign(key, rows, SEED)
    sums = [number + key.public.modulus for number in numbers(signed)]
    place = next(i for i, number in enumerate(sums) if number < 2**512)
    signed[place] = row(sums[place], key.public)
    with pytest.raises(CheatingDetected, match=r"^1 of 100"):
        blind_rsa.verify(key.public, rows, signed)


@pytest.mark.parametrize("path", HASH_PATHS)
@pytest.mark.parametrize("width", [1, 10, 64])
def test_tags_are_hashes_of_the_label_the_key_and_the_signature(path, width, key):
    rows = some(9, key.public)
    found = blind_rsa.tags(key.public, rows, width, path=path)
    prefix = b"veilsum/blind-rsa-tag/1" + key.public.id
    assert [one.tobytes() for one in found] == [
        hashlib.sha512(prefix + one.tobytes()).digest()[:width] for one in rows
    ]
    assert found.flags.c_contiguous


@pytest.mark.parametrize("width", [0, 65, -1])
def test_tags_have_1_to_64_bytes(width, key):
    with pytest.raises(ValueError, match="tag"):
        blind_rsa.tags(key.public, some(1, key.public), width)


def test_equal_ids_meet_in_tags_and_others_do_not(key):
    public = key.public
    width = blind_rsa.tag_width(4, 4)
    mine = blind_rsa.tags(
        public, blind_rsa.sign(key, encoded([b"ann", b"bob", b"cy", b""], 512), SEED), width
    )
    batch = blind_rsa.blind(
        public, encoded([b"cy", b"dan", b"", b"bobb"], 512), blind_rsa.draw_blinds(SEED, 0, 4, public)
    )
    theirs = blind_rsa.tags(
        public, blind_rsa.unblind(public, batch, blind_rsa.sign(key, batch.values, SEED)), width
    )
    assert len({tag.tobytes() for tag in mine} & {tag.tobytes() for tag in theirs}) == 2
    assert width == dh.tag_width(4, 4) == 6


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((3, 63), np.uint8),
        np.zeros(64, np.uint8),
        np.zeros((3, 64), np.int64),
        np.zeros((6, 64), np.uint8)[::2],
    ],
)
def test_numbers_of_another_shape_or_type_break_the_protocol(values, key):
    public = key.public
    good = some(3, public)
    for call in (
        lambda: blind_rsa.sign(key, values, SEED),
        lambda: blind_rsa.blind(public, good, values),
        lambda: blind_rsa.blind(public, values, good),
        lambda: blind_rsa.verify(public, good, values),
        lambda: blind_rsa.unblind(public, blind_rsa.Blinded(good, good), values),
        lambda: blind_rsa.tags(public, values, 10),
        lambda: blind_rsa.verify(public, good, good[:2]),
    ):
        with pytest.raises(ProtocolError):
            call()


@pytest.mark.parametrize("path", PATHS)
def test_no_ids_pass_through_every_step(path, key):
    public = key.public
    rows = some(0, public)
    batch = blind_rsa.blind(public, rows, blind_rsa.draw_blinds(SEED, 0, 0, public), path=path)
    found = blind_rsa.unblind(public, batch, blind_rsa.sign(key, batch.values, SEED, path=path), path=path)
    assert rows.shape == batch.values.shape == found.shape == (0, 64)
    assert blind_rsa.tags(public, found, 10).shape == (0, 10)
