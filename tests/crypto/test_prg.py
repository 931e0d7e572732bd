"""The generator is AES in counter mode, whatever the pieces in which it is drawn."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from veilsum.crypto.prg import KEY_BYTES, Prg

# NIST SP 800-38A, F.5.1, CTR-AES128.Encrypt: key, first counter and the output blocks
NIST_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_STREAM = bytes.fromhex(
    "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
    "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
)


def stream(key, size, counter=bytes(16)):
    """Return the key stream by encrypting counters one by one."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    start = int.from_bytes(counter, "big")
    blocks = (((start + at) % (1 << 128)).to_bytes(16, "big") for at in range(-(-size // 16)))
    return b"".join(block.update(one) for one in blocks)[:size]


def test_the_standards_example():
    """The counters of the test's own stream are the standard's, and the generator's is that stream from 0."""
    assert stream(NIST_KEY, 64, NIST_COUNTER) == NIST_STREAM
    assert Prg(NIST_KEY).words(8).tobytes() == stream(NIST_KEY, 64)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_000])
def test_words_are_the_key_stream(count):
    key = bytes(range(16))
    words = Prg(key).words(count)
    assert words.dtype == np.uint64
    assert words.astype("<u8").tobytes() == stream(key, 8 * count)


@given(st.lists(st.integers(0, 70_000), max_size=6))
def test_splits_do_not_matter(sizes):
    split, whole = Prg(bytes(16)), Prg(bytes(16))
    parts = [split.words(size) for size in sizes]
    assert np.array_equal(np.concatenate([np.empty(0, np.uint64), *parts]), whole.words(sum(sizes)))
    assert split.position == whole.position == sum(sizes)
    assert np.array_equal(split.words(3), whole.words(3))


def test_shapes_and_places():
    one, other = Prg(bytes(16)), Prg(bytes(16))
    into = np.zeros((4, 5, 6), np.uint64)
    other.fill(into[1])
    assert np.array_equal(one.words(5, 6), into[1])
    assert not into[[0, 2, 3]].any()
    assert one.words().shape == ()
    assert one.position == 31
    assert other.position == 30


def test_other_keys_are_other_streams():
    words = {Prg(bytes([at]) + bytes(15)).words(4).tobytes() for at in range(50)}
    assert len(words) == 50


def test_what_it_shows_is_no_secret():
    generator = Prg(b"secret key 16 by")
    generator.words(12)
    assert repr(generator) == "Prg(at word 12)"
    assert KEY_BYTES == 16


@pytest.mark.parametrize("size", [0, 15, 17])
def test_keys_of_other_sizes(size):
    with pytest.raises(ValueError, match="key size"):
        Prg(bytes(size))
