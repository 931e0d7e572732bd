import itertools
import math
import pickle

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import _native, cpu, modexp
from veilsum.arith import modexp_twin as twin

PATHS = cpu.usable("modexp")
E = 65537
MERSENNE = 2**521 - 1  # a prime that is no multiple of 64 bits long
P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
SHAPES = [(2, 256), (2, 320), (3, 256), (2, 1024), (3, 1024), (2, 1536), (2, 2048)]  # primes, bits of each


def prime_numbers(bits, count):
    """The same primes every time: the first above fixed starts for which E is invertible."""
    found = []
    for i in range(count):
        p = gmpy2.next_prime((0xC5A3 + 0x1357 * i) << (bits - 16) | 0x5EED)
        while math.gcd(p - 1, E) != 1:
            p = gmpy2.next_prime(p)
        found.append(int(p))
    return found


PRIMES = {shape: prime_numbers(shape[1], shape[0]) for shape in SHAPES}
KEYS = {shape: modexp.CrtKey(primes, E) for shape, primes in PRIMES.items()}
MODULI = {
    **{f"{key.modulus.bit_length()} bits of {shape[0]} primes": key.modulus for shape, key in KEYS.items()},
    "512 bits": 2**512 - 569,
    "521 bits": MERSENNE,
    "all ones": 2**2048 - 1,
    "barely 2048 bits": 2**2047 + 1,
    "2041 bits": 2**2041 - 1,
    "all ones, 3072": 2**3072 - 1,
    "barely 3072 bits": 2**3071 + 1,
    "4096 bits": 2**4096 - 1,
}


def matrix(numbers, modulus):
    width = -(-modulus.bit_length() // 8)
    return np.frombuffer(b"".join(n.to_bytes(width) for n in numbers), np.uint8).reshape(-1, width)


def integers(rows):
    return [int.from_bytes(row.tobytes()) for row in rows]


def numbers_below(modulus, count, seed=1):
    draw = np.random.default_rng(seed)
    return [int.from_bytes(draw.bytes(modulus.bit_length() // 8 + 8)) % modulus for _ in range(count)]


def edges(modulus):
    top = 1 << modulus.bit_length() - 1
    return [0, 1, 2, modulus - 1, modulus - 2, modulus // 2, top - 1, top, (1 << 52) - 1, 1 << 52, 1 << 64]


each_path = pytest.mark.parametrize("path", PATHS)
each_modulus = pytest.mark.parametrize("modulus", MODULI.values(), ids=MODULI)
each_key = pytest.mark.parametrize("shape", SHAPES)


@each_path
@each_modulus
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 6, E, 2**63, 2**64 - 1])
def test_powers_agree_with_the_twin(path, modulus, exponent):
    rows = edges(modulus) + numbers_below(modulus, 3)
    assert integers(modexp.power(matrix(rows, modulus), exponent, modulus, path=path)) == [
        twin.power(row, exponent, modulus) for row in rows
    ]


@each_path
@each_modulus
def test_products_agree_with_the_twin(path, modulus):
    pairs = list(itertools.product([*edges(modulus), *numbers_below(modulus, 2)], repeat=2))
    a, b = (matrix(numbers, modulus) for numbers in zip(*pairs, strict=True))
    assert integers(modexp.product(a, b, modulus, path=path)) == [
        twin.product(x, y, modulus) for x, y in pairs
    ]
    for factor in (0, 1, modulus - 1, pairs[-1][0]):
        got = modexp.product(a, matrix([factor], modulus), modulus, path=path)
        assert integers(got) == [twin.product(x, factor, modulus) for x, _ in pairs]


@each_path
@each_key
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 31])
def test_inverses_agree_with_the_twin(path, shape, count):
    modulus = KEYS[shape].modulus
    rows = [1, modulus - 1, *numbers_below(modulus, 29)][:count]
    got = modexp.inverse(matrix(rows, modulus), modulus, path=path)
    assert integers(got) == [twin.inverse(row, modulus) for row in rows]


@each_path
@each_key
@pytest.mark.parametrize("at", [0, 4])
def test_rows_that_have_no_inverse_are_refused(path, shape, at):
    modulus, primes = KEYS[shape].modulus, PRIMES[shape]
    for bad in (0, primes[0], modulus - primes[-1]):
        rows = numbers_below(modulus, 5)
        rows[at] = bad
        with pytest.raises(ValueError, match="some row is not invertible") as caught:
            modexp.inverse(matrix(rows, modulus), modulus, path=path)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@each_path
def test_a_modulus_with_small_factors_is_blinded_by_a_unit(path):
    modulus = 3**323  # two of three numbers would be no use as a blind
    rows = [x - x % 3 + 1 for x in numbers_below(modulus, 6)]
    got = modexp.inverse(matrix(rows, modulus), modulus, path=path)
    assert integers(got) == [twin.inverse(row, modulus) for row in rows]


@each_path
@each_key
def test_roots_agree_with_gmpy2_and_the_twin(path, shape):
    key, primes = KEYS[shape], PRIMES[shape]
    n = key.modulus
    multiples = [primes[0], n - primes[0], primes[-1], 7 * primes[1], n // primes[0], n // primes[-1]]
    rows = [*edges(n), *multiples, *numbers_below(n, 2)]
    got = integers(modexp.private_power(matrix(rows, n), key, path=path))
    secret = pow(E, -1, math.lcm(*(p - 1 for p in primes)))
    assert got == [int(gmpy2.powmod_sec(row, secret, n)) for row in rows]
    assert [twin.power(root, E, n) for root in got] == rows
    assert got[-2:] == [twin.private_power(row, primes, E) for row in rows[-2:]]


@each_path
@pytest.mark.parametrize("exponent", [3, 5, 2**64 + 13, 2**255 - 19])
def test_roots_for_other_exponents(path, exponent):
    primes = [p for p in prime_numbers(256, 40) if math.gcd(exponent, p - 1) == 1][:2]
    key = modexp.CrtKey(primes, exponent)
    rows = numbers_below(key.modulus, 9)
    got = modexp.private_power(matrix(rows, key.modulus), key, path=path)
    assert integers(got) == [twin.private_power(row, primes, exponent) for row in rows]


@each_path
@each_key
def test_the_order_of_the_primes_does_not_matter(path, shape):
    rows = matrix(numbers_below(KEYS[shape].modulus, 3), KEYS[shape].modulus)
    want = modexp.private_power(rows, KEYS[shape], path="portable")
    for primes in itertools.permutations(PRIMES[shape]):
        got = modexp.private_power(rows, modexp.CrtKey(primes, E), path=path)
        assert np.array_equal(got, want)


@each_path
@pytest.mark.parametrize(("shape", "share"), [((2, 1024), 1), ((3, 1024), 1), ((2, 1536), 0)])
def test_primes_at_both_ends_of_their_length(path, shape, share):
    # the largest and the smallest primes of that length: carries and borrows as far as they go
    count, bits = shape
    low = [p for p in prime_run(1 << (bits - 1), 3) if math.gcd(p - 1, E) == 1]
    high = [p for p in prime_run((1 << bits) - 20_000, 3) if math.gcd(p - 1, E) == 1]
    primes = [*high[:1], *low[:1], *high[1 : 1 + share]][:count]
    assert len(primes) == count
    key = modexp.CrtKey(primes, E)
    rows = [*edges(key.modulus), *numbers_below(key.modulus, 6)]
    got = integers(modexp.private_power(matrix(rows, key.modulus), key, path=path))
    assert [twin.power(root, E, key.modulus) for root in got] == rows


def prime_run(start, count):
    found = [int(gmpy2.next_prime(start))]
    while len(found) < count:
        found.append(int(gmpy2.next_prime(found[-1])))
    return found


@each_path
@pytest.mark.parametrize("bits", [2048, 3072])
def test_roots_are_the_signatures_of_the_library(path, bits):
    private = rsa.generate_private_key(E, bits)
    numbers = private.private_numbers()
    key = modexp.CrtKey([numbers.p, numbers.q], E)
    # EMSA-PKCS1-v1_5 of SHA-256 (RFC 8017, section 9.2)
    head = bytes.fromhex("3031300d060960864801650304020105000420")
    padded, signatures = [], []
    for i in range(9):
        message = b"message %d" % i
        digest = hashes.Hash(hashes.SHA256())
        digest.update(message)
        tail = head + digest.finalize()
        padded.append(b"\0\1" + b"\xff" * (key.width - 3 - len(tail)) + b"\0" + tail)
        signatures.append(private.sign(message, padding.PKCS1v15(), hashes.SHA256()))
    rows = np.frombuffer(b"".join(padded), np.uint8).reshape(-1, key.width)
    roots = modexp.private_power(rows, key, path=path)
    assert [root.tobytes() for root in roots] == signatures
    assert np.array_equal(modexp.power(roots, E, key.modulus, path=path), rows)


@each_path
@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 17, 33])
@pytest.mark.parametrize("shape", [(2, 256), (2, 1024)])
def test_any_number_of_rows(path, shape, count):
    key = KEYS[shape]
    rows = matrix(numbers_below(key.modulus, count, seed=count), key.modulus)
    rows.flags.writeable = False
    before = rows.copy()
    for function in (
        lambda path: modexp.power(rows, E, key.modulus, path=path),
        lambda path: modexp.product(rows, rows[::-1].copy(), key.modulus, path=path),
        lambda path: modexp.inverse(rows, key.modulus, path=path),
        lambda path: modexp.private_power(rows, key, path=path),
    ):
        got = function(path)
        assert got.shape == (count, key.width)
        assert np.array_equal(got, function("portable"))
        assert np.array_equal(rows, before)


@each_path
@settings(max_examples=25, deadline=None)
@given(shape=st.sampled_from([(2, 256), (2, 320), (2, 1024)]), data=st.data())
def test_everything_agrees_with_the_twin(path, shape, data):
    key, primes = KEYS[shape], PRIMES[shape]
    n = key.modulus
    row = st.one_of(
        st.integers(0, n - 1),
        st.integers(0, n.bit_length() - 1).map(lambda bit: (1 << bit) - 1),
        st.integers(0, primes[1] - 1).map(lambda factor: factor * primes[0]),
    )
    rows = data.draw(st.lists(row, max_size=10))
    exponent = data.draw(st.integers(0, 2**64 - 1))
    factor = data.draw(row)
    got = modexp.power(matrix(rows, n), exponent, n, path=path)
    assert integers(got) == [twin.power(x, exponent, n) for x in rows]
    got = modexp.product(matrix(rows, n), matrix([factor], n), n, path=path)
    assert integers(got) == [twin.product(x, factor, n) for x in rows]
    roots = modexp.private_power(matrix(rows, n), key, path=path)
    assert [twin.power(root, E, n) for root in integers(roots)] == rows


@each_path
@pytest.mark.parametrize("shape", [(2, 256), (2, 1024)])
def test_rows_from_the_modulus_on_are_refused_and_not_shown(path, shape):
    key = KEYS[shape]
    n = key.modulus
    good, full = matrix(numbers_below(n, 3), n), (1 << 8 * key.width) - 1
    for bad in (n, n + 1, full):
        mixed = np.concatenate([good, matrix([bad], n), good])
        for call in (
            lambda mixed: modexp.power(mixed, 3, n, path=path),
            lambda mixed: modexp.product(mixed, mixed, n, path=path),
            lambda mixed: modexp.product(good, mixed[3:4], n, path=path),
            lambda mixed: modexp.inverse(mixed, n, path=path),
            lambda mixed: modexp.private_power(mixed, key, path=path),
        ):
            with pytest.raises(ValueError, match=r"^rows must be below the modulus$"):
                call(mixed)


@each_path
@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (np.zeros((2, 63), np.uint8), ValueError),
        (np.zeros((2, 65), np.uint8), ValueError),
        (np.zeros(64, np.uint8), ValueError),
        (np.zeros((2, 128), np.uint8)[:, ::2], ValueError),
        (np.zeros((64, 2), np.uint8).T, ValueError),
        (np.zeros((2, 64), np.int8), TypeError),
        (np.zeros((2, 8), np.uint64), TypeError),
        (bytes(64), TypeError),
    ],
)
def test_rows_of_another_shape_type_or_layout_are_refused(path, rows, error):
    key = KEYS[2, 256]
    good = np.ones((2, 64), np.uint8)
    for call in (
        lambda: modexp.power(rows, 3, key.modulus, path=path),
        lambda: modexp.product(rows, good, key.modulus, path=path),
        lambda: modexp.product(good, rows, key.modulus, path=path),
        lambda: modexp.inverse(rows, key.modulus, path=path),
        lambda: modexp.private_power(rows, key, path=path),
    ):
        with pytest.raises(error):
            call()


def test_factors_of_another_number_are_refused():
    key = KEYS[2, 256]
    rows = np.ones((4, key.width), np.uint8)
    for count in (0, 2, 3, 5):
        with pytest.raises(ValueError, match="rows are multiplied by"):
            modexp.product(rows, np.ones((count, key.width), np.uint8), key.modulus)


@pytest.mark.parametrize("exponent", [-1, 2**64])
def test_exponents_out_of_bounds_are_refused(exponent):
    key = KEYS[2, 256]
    with pytest.raises(ValueError, match="exponent"):
        modexp.power(np.ones((1, key.width), np.uint8), exponent, key.modulus)


@pytest.mark.parametrize("modulus", [0, 1, 3, 2**511 - 1, 2**512, 2**1024 - 2, 2**4096 + 1, -(2**1023) - 1])
def test_moduli_out_of_bounds_are_refused(modulus):
    rows = np.ones((1, 64), np.uint8)
    for call in (
        lambda: modexp.power(rows, 3, modulus),
        lambda: modexp.product(rows, rows, modulus),
        lambda: modexp.inverse(rows, modulus),
    ):
        with pytest.raises(ValueError, match="a modulus is odd"):
            call()


@pytest.mark.parametrize("path", ["", "avx512", "IFMA", "nonsense"])
def test_a_path_the_family_does_not_have_is_refused(path):
    key = KEYS[2, 256]
    rows = np.ones((1, key.width), np.uint8)
    with pytest.raises(ValueError, match="path"):
        modexp.private_power(rows, key, path=path or "x")
    with pytest.raises(ValueError, match="path"):
        modexp.power(rows, 3, key.modulus, path=path or "x")


@pytest.mark.parametrize(
    ("primes", "exponent", "message"),
    [
        ([P256], E, "two or three"),
        ([*PRIMES[3, 256], P256], E, "two or three"),
        ([P256, P256], E, "distinct"),
        ([MERSENNE, P256], E, "one bit length"),
        ([MERSENNE, 2**521 - 3], E, "one bit length"),
        ([PRIMES[2, 1024][0], P256], E, "one bit length"),
        ([2**255, P256], E, "odd"),
        ([-P256, P256 + 2], E, "one bit length"),
        (PRIMES[2, 256], 2, "invertible"),
        (PRIMES[2, 256], 0, "invertible"),
        (PRIMES[2, 256], PRIMES[2, 256][1] - 1, "invertible"),
        ([3 * 2**254 + 3, 3 * 2**254 + 9], 1, "prime to one another"),
        ([2**127 + 29, 2**127 + 45], E, "bits"),
        ([2**2111 + 15, 2**2111 + 17], 1, "bits"),
    ],
)
def test_keys_that_are_none_are_refused(primes, exponent, message):
    with pytest.raises(ValueError, match=message) as caught:
        modexp.CrtKey(primes, exponent)
    assert not any(str(abs(p)) in str(caught.value) for p in primes)


@each_key
def test_a_key_shows_sizes_only_and_is_not_copied(shape):
    key = KEYS[shape]
    assert repr(key) == str(key) == f"CrtKey({shape[0]} primes of {shape[1]} bits)"
    assert (key.modulus, key.exponent) == (math.prod(PRIMES[shape]), E)
    assert key.width == -(-key.modulus.bit_length() // 8)
    with pytest.raises(TypeError):
        pickle.dumps(key)


@each_path
def test_the_sizes_of_the_kernels(path):
    """The wide kernels are for some sizes, the portable ones for all that are offered."""
    sizes = [
        (primes, words)
        for primes in range(5)
        for words in range(70)
        if _native.modexp_shift(path, primes, words)
    ]
    if path == "portable":
        assert {(1, words) for words in range(8, 65)} <= set(sizes)
        assert {(2, 16), (2, 24), (2, 32), (3, 16)} <= set(sizes)
        return
    assert sizes == [(1, 32), (1, 48), (2, 16), (2, 24), (3, 16)]


@each_path
def test_the_kernels_check_what_they_are_handed(path):
    rows, words = np.ones((2, 256), np.uint8), bytes(256)
    for call in (
        lambda: _native.modexp_power(path, rows, words[8:], words, 3, rows.copy()),
        lambda: _native.modexp_power(path, rows, words, words[1:], 3, rows.copy()),
        lambda: _native.modexp_power(path, rows, words, words, 3, rows[1:].copy()),
        lambda: _native.modexp_power(path, rows[:, 8:].copy(), words, words, 3, rows.copy()),
        lambda: _native.modexp_product(path, rows, rows[:, 1:].copy(), words, words, rows.copy()),
        lambda: _native.modexp_product(path, rows, rows[:0].copy(), words, words, rows.copy()),
        lambda: _native.modexp_private_power(path, rows, bytes(12 * 128 - 1), 2, rows.copy()),
        lambda: _native.modexp_private_power(path, rows, bytes(12 * 120), 2, rows.copy()),
        lambda: _native.modexp_private_power(path, rows, bytes(12 * 128), 1, rows.copy()),
        lambda: _native.modexp_private_power(path, rows, bytes(12 * 128), 2, rows[1:].copy()),
        lambda: _native.modexp_below(rows, bytes(8 * 65)),
    ):
        with pytest.raises(ValueError):
            call()
