import copy
import hashlib
import itertools
import math
import pickle

import msgspec
import pytest

from veilsum.crypto import rsa_key
from veilsum.errors import StoreError


@pytest.fixture(scope="module")
def key():
    return rsa_key.gen_key(512)


def is_prime(number):
    return not rsa_key.is_composite(number, rounds=40)


@pytest.mark.parametrize(("bits", "primes"), [(512, 2), (768, 3), (1024, 2), (1536, 3), (2048, 2), (3072, 3)])
def test_a_key_has_exactly_the_bits_and_primes_asked_for(bits, primes):
    made = rsa_key.gen_key(bits, primes)
    found = made._primes
    assert made.public.bits == bits
    assert made.public.exponent == 65537
    assert math.prod(found) == made.public.modulus == made.crt.modulus
    assert len(set(found)) == primes
    assert all(is_prime(p) and p % 65537 != 1 and p.bit_length() == bits // primes for p in found)


@pytest.mark.parametrize(
    ("bits", "primes"),
    [(2048, 3), (2048, 1), (2048, 4), (255, 2), (384, 2), (513, 2), (576, 3), (1024, 3), (4224, 2)],
)
def test_bits_that_primes_cannot_share_are_refused(bits, primes):
    with pytest.raises(ValueError, match="primes cannot make"):
        rsa_key.gen_key(bits, primes)


def test_two_calls_make_two_keys(key):
    assert rsa_key.gen_key(512).public != key.public


def test_a_key_comes_back_from_its_bytes(key):
    again = rsa_key.PrivateKey.from_bytes(key.to_bytes())
    assert again.public == key.public
    assert again._primes == key._primes
    three = rsa_key.gen_key(1536, 3)
    assert rsa_key.PrivateKey.from_bytes(three.to_bytes())._primes == three._primes


def test_any_damaged_byte_of_a_stored_key_is_noticed(key):
    data = key.to_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(StoreError) as caught:
            rsa_key.PrivateKey.from_bytes(bytes(damaged))
        assert caught.value.remedy
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("data", [b"", b"\x93", b"{}", bytes(200)])
def test_bytes_that_are_no_key_are_refused(data):
    with pytest.raises(StoreError):
        rsa_key.PrivateKey.from_bytes(data)


def test_a_stored_key_cut_short_or_of_another_version_is_refused(key):
    data = key.to_bytes()
    other = msgspec.msgpack.encode(["veilsum/rsa-key/2", *msgspec.msgpack.decode(data)[1:]])
    for changed in (data[:-1], data + b"\0", other):
        with pytest.raises(StoreError):
            rsa_key.PrivateKey.from_bytes(changed)


def test_factors_that_make_no_key_are_refused(key):
    p, q = key._primes
    step = 2 * 65537
    bad = next(n for n in itertools.count((3 << 254) // step * step + 1, step) if is_prime(n))
    for primes in [
        (p,),
        (p, p),
        (p, q + 2 if not is_prime(q + 2) else q + 4),
        (p, 4 * q),
        (p, 3),
        (p, bad),
        (p, -q),
    ]:
        with pytest.raises(ValueError, match="key"):
            rsa_key.PrivateKey(primes)


def test_a_key_shows_and_gives_away_nothing(key):
    shown = repr(key) + str(key)
    assert "PrivateKey(512 bits, 2 primes)" in shown
    assert not any(str(prime)[:8] in shown for prime in key._primes)
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(key)
    stored = msgspec.msgpack.decode(key.to_bytes(), type=rsa_key._Stored)
    assert repr(stored) == "_Stored()"


def test_the_id_is_a_hash_of_both_numbers_with_their_lengths():
    public = rsa_key.PublicKey(0x010203)
    expected = hashlib.sha256(
        b"veilsum/rsa-key-id/1" + (3).to_bytes(8, "big") + b"\1\2\3" + (3).to_bytes(8, "big") + b"\1\0\1"
    )
    assert public.id == expected.digest()
    assert rsa_key.PublicKey(0x010203, 3).id != public.id
    assert rsa_key.PublicKey(0x0102, 0x030001).id != rsa_key.PublicKey(0x010203, 0x0001).id


@pytest.mark.parametrize(("bits", "width"), [(2048, 256), (2047, 256), (2049, 257), (8, 1)])
def test_the_width_is_the_bytes_of_the_modulus(bits, width):
    public = rsa_key.PublicKey(1 << bits - 1)
    assert (public.bits, public.width) == (bits, width)


def test_the_primality_test_knows_small_numbers_and_carmichaels():
    for number in range(5, 3000, 2):
        prime = all(number % d for d in range(3, math.isqrt(number) + 1, 2))
        assert rsa_key.is_composite(number, rounds=30) is not prime
    for carmichael in (561, 41041, 825265, 321197185, 9746347772161):
        assert rsa_key.is_composite(carmichael, rounds=30)
