import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import cpu, sha512, x25519_twin

PATHS = cpu.usable("sha512")


FUNCTIONS = [(sha512.digest, hashlib.sha512), (sha512.digest384, hashlib.sha384)]


def lay_out(messages):
    return b"".join(messages), np.cumsum([0, *map(len, messages)], dtype=np.int64)


def rows(array):
    return [row.tobytes() for row in array]


@pytest.fixture(scope="module")
def every_length():
    source = random.Random(1)
    return [source.randbytes(length) for length in range(301)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("digest", "oracle"), FUNCTIONS)
def test_digests_of_every_length_agree_with_hashlib(path, digest, oracle, every_length):
    expected = [oracle(message).digest() for message in every_length]
    assert rows(digest(*lay_out(every_length), path=path)) == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
@pytest.mark.parametrize(("digest", "oracle"), FUNCTIONS)
def test_any_number_of_messages_in_any_mixture_of_lengths(path, digest, oracle, count, every_length):
    messages = [every_length[97 * i % 301] for i in range(count)]
    expected = [oracle(message).digest() for message in messages]
    assert rows(digest(*lay_out(messages), path=path)) == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 45, 46, 47, 108, 255])
def test_expansion_agrees_with_the_twin_for_every_length(path, size, every_length):
    dst = bytes(range(size))
    expected = [x25519_twin.expand_message(message, dst, 48) for message in every_length]
    assert rows(sha512.expand(*lay_out(every_length), dst, 48, path=path)) == expected


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None)
@given(
    messages=st.lists(st.binary(max_size=140), max_size=20),
    dst=st.binary(min_size=1, max_size=255),
    length=st.integers(1, 64),
)
def test_expansion_agrees_with_the_twin(path, messages, dst, length):
    expected = [x25519_twin.expand_message(message, dst, length) for message in messages]
    assert rows(sha512.expand(*lay_out(messages), dst, length, path=path)) == expected


@pytest.mark.parametrize("path", PATHS)
def test_messages_may_start_anywhere_in_the_buffer_and_leave_bytes_behind(path):
    got = sha512.digest(bytearray(b"xxabcyyy"), np.array([2, 5], np.int64), path=path)
    assert rows(got) == [hashlib.sha512(b"abc").digest()]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "offsets",
    [
        np.array([], np.int64),
        np.array([-1, 2], np.int64),
        np.array([0, 4], np.int64),
        np.array([2, 1], np.int64),
        np.array([0, 2, 1, 3], np.int64),
    ],
)
def test_offsets_outside_of_the_data_are_refused(path, offsets):
    for digest, _ in FUNCTIONS:
        with pytest.raises(ValueError, match="offsets"):
            digest(b"abc", offsets, path=path)


@pytest.mark.parametrize("path", PATHS)
def test_arrays_of_another_type_or_layout_are_refused(path):
    with pytest.raises(TypeError):
        sha512.digest(b"abc", np.array([0, 3], np.int32), path=path)
    with pytest.raises(TypeError):
        sha512.digest(b"abc", np.array([0, 9, 3], np.int64)[::2], path=path)
    with pytest.raises(TypeError):
        sha512.digest(np.zeros(3, np.int8), np.array([0, 3], np.int64), path=path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("dst", "length"), [(b"", 48), (bytes(256), 48), (b"x", 0), (b"x", 65)])
def test_tags_and_lengths_out_of_bounds_are_refused(path, dst, length):
    with pytest.raises(ValueError, match="bytes"):
        sha512.expand(b"abc", np.array([0, 3], np.int64), dst, length, path=path)
