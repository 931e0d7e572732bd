import hashlib
import itertools
import math

import pytest

from veilsum.arith import modexp
from veilsum.crypto import rsa_key, rsa_proof
from veilsum.crypto.rsa_key import PublicKey
from veilsum.errors import CheatingDetected, VeilsumError

BITS = 512
CONTEXT = b"a run"


@pytest.fixture(scope="module")
def key():
    return rsa_key.gen_key(BITS)


@pytest.fixture(scope="module")
def proof(key):
    return rsa_proof.prove(key, CONTEXT)


def prime_of(size, good=lambda _: True):
    """The least prime from 1.5 * 2^(size - 1) on that is good."""
    start = 3 << size - 2 | 1
    return next(n for n in itertools.count(start, 2) if good(n) and not rsa_key.is_composite(n, rounds=20))


def roots(public, order):
    """Nine roots as a cheat finds them who knows how many numbers are coprime to n; no root: something."""
    common = math.gcd(public.exponent, order)
    secret = pow(public.exponent // common, -1, order // common)
    found = [pow(element, secret, public.modulus) for element in rsa_proof._elements(public, CONTEXT)]
    return b"".join(root.to_bytes(public.width, "big") for root in found)


def refused(public, proof, match, *, bits=BITS, context=CONTEXT):
    with pytest.raises(CheatingDetected, match=match) as caught:
        rsa_proof.check_key(public, proof, context, bits=bits)
    assert caught.value.remedy


@pytest.mark.parametrize(("bits", "primes"), [(512, 2), (768, 3), (2048, 2), (3072, 3)])
def test_an_honest_key_passes(bits, primes):
    made = rsa_key.gen_key(bits, primes)
    shown = rsa_proof.prove(made, CONTEXT)
    assert len(shown) == 9 * made.public.width
    rsa_proof.check_key(made.public, shown, CONTEXT, bits=bits)


def test_a_proof_is_nine_roots_of_hashed_elements(key, proof):
    width, modulus = key.public.width, key.public.modulus
    for index in range(9):
        seed = (
            b"veilsum/rsa-key-proof/1" + key.public.id + (5).to_bytes(8, "big") + b"a run" + index.to_bytes(8)
        )
        stream = hashlib.shake_256(seed).digest(100 * width)
        draws = [int.from_bytes(stream[at : at + width], "big") for at in range(0, len(stream), width)]
        root = int.from_bytes(proof[width * index : width * (index + 1)], "big")
        assert pow(root, 65537, modulus) == next(draw for draw in draws if draw < modulus)
    assert rsa_proof.prove(key, CONTEXT) == proof


def test_elements_are_below_a_modulus_of_any_bits():
    for bits in (509, 512, 513):
        modulus = (1 << bits - 1) + 1
        elements = rsa_proof._elements(PublicKey(modulus), CONTEXT)
        assert all(element < modulus for element in elements)
        assert len(set(elements)) == 9


def test_a_proof_for_another_context_or_key_is_refused(key, proof):
    refused(key.public, proof, "another run", context=b"another run")
    refused(rsa_key.gen_key(BITS).public, proof, "root")
    rsa_proof.check_key(key.public, proof, CONTEXT, bits=BITS)


@pytest.mark.parametrize("index", range(9))
def test_every_root_is_checked(key, proof, index):
    width, modulus = key.public.width, key.public.modulus
    before, after = proof[: width * index], proof[width * (index + 1) :]
    right = int.from_bytes(proof[width * index : width * (index + 1)], "big")
    for root, match in [
        (0, "not a number below"),
        (modulus, "not a number below"),
        (modulus + 1, "not a number below"),
        (key._primes[0], "shares a factor"),
        (1, "root of its proof is wrong"),
        (modulus - right, "root of its proof is wrong"),
    ]:
        refused(key.public, before + root.to_bytes(width, "big") + after, match)


def test_a_proof_of_another_length_is_refused(key, proof):
    for wrong in (b"", proof[:-1], proof + b"\0", proof[: 8 * key.public.width]):
        refused(key.public, wrong, "length")


def test_a_modulus_of_other_bits_than_agreed_is_refused(key, proof):
    for bits in (BITS - 1, BITS + 1, 2048):
        refused(key.public, proof, "agreed", bits=bits)
    refused(PublicKey(-key.public.modulus), proof, "agreed")
    refused(PublicKey(0), proof, "agreed", bits=0)


@pytest.mark.parametrize("exponent", [1, 2, 3, 17, 65536, 65539, 2 * 65537, 65537**2, -65537])
def test_another_exponent_is_refused(key, proof, exponent):
    refused(PublicKey(key.public.modulus, exponent), proof, "exponent")


def test_an_exponent_sharing_a_factor_with_phi_is_refused():
    p = prime_of(256, lambda n: n % 65537 == 1)
    q = prime_of(256)
    public = PublicKey(p * q)
    assert public.bits == BITS
    refused(public, roots(public, (p - 1) * (q - 1)), "root of its proof is wrong")


def test_an_even_modulus_is_refused():
    p = prime_of(511)
    public = PublicKey(2 * p)
    refused(public, roots(public, p - 1), "even")


@pytest.mark.parametrize("small", [3, 5, 251, 257, 65521])
def test_small_factors_are_refused(small):
    p = next(
        n
        for n in itertools.count((1 << 511) // small + 1 | 1, 2)
        if not rsa_key.is_composite(n) and n * small >> 511 == 1
    )
    public = PublicKey(small * p)
    refused(public, roots(public, (small - 1) * (p - 1)), "prime factor below")


def test_a_prime_modulus_is_refused():
    public = PublicKey(prime_of(512))
    refused(public, roots(public, public.modulus - 1), "is a prime")


@pytest.mark.parametrize("degree", [2, 3, 5, 6, 29])
def test_a_power_is_refused(degree):
    p = next(
        n for n in itertools.count(int(2 ** (511 / degree)) | 1, 2)
        if n**degree >> 511 and (n < 65537 or not rsa_key.is_composite(n, rounds=20))
    )  # fmt: skip
    public = PublicKey(p**degree)
    assert public.bits == BITS
    refused(public, roots(public, p ** (degree - 1) * (p - 1)), "power")


def test_a_power_of_the_greatest_degree_and_others_are_told_apart():
    for base, degree in [(65537, 30), (65539, 17), (2**61 - 1, 2), (10**40 + 1, 7)]:
        assert rsa_proof._is_power(base**degree)
        assert not rsa_proof._is_power(base**degree + 2)
        assert not rsa_proof._is_power(base**degree - 2)


@pytest.mark.parametrize("degree", [2, 3, 7])
def test_whole_roots(degree):
    for number in [1, 2, 3, 7, 8, 9, 63, 64, 65, 10**60, 2**300 - 1, 2**300, 3**210 - 1]:
        root = rsa_proof._root(number, degree)
        assert root**degree <= number < (root + 1) ** degree


def test_small_primes_end_below_the_exponent():
    primes = rsa_proof._small_primes()
    assert primes[:6] == [2, 3, 5, 7, 11, 13]
    assert primes[-1] == 65521
    assert len(primes) == 6542


def test_a_proof_that_came_out_wrong_is_not_given_out(key, monkeypatch):
    right = modexp.private_power

    def broken(rows, *arguments, **options):
        out = right(rows, *arguments, **options)
        out[4, -1] ^= 1
        return out

    monkeypatch.setattr(modexp, "private_power", broken)
    with pytest.raises(VeilsumError, match="was not sent"):
        rsa_proof.prove(key, CONTEXT)
