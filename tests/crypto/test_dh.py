import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import cpu, x25519_twin
from veilsum.crypto import dh
from veilsum.errors import CheatingDetected, ProtocolError

PATHS = cpu.usable("x25519")
SMALL_ORDER = (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18)


def lay_out(ids):
    return b"".join(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64)


def hashed(count, prefix=b"id"):
    return dh.hash_to_points(*lay_out([prefix + b"%d" % i for i in range(count)]))


keys = st.binary(min_size=32, max_size=32).map(dh.gen_key)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=20, deadline=None)
@given(a=keys, b=keys, ids=st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_masks_commute(path, a, b, ids):
    points = dh.hash_to_points(*lay_out(ids), path=path)
    one = dh.mask(a, dh.mask(b, points, path=path), path=path)
    other = dh.mask(b, dh.mask(a, points, path=path), path=path)
    assert np.array_equal(one, other)


def test_three_masks_commute_in_every_order():
    ring = [dh.gen_key(bytes([n]) * 32) for n in (1, 2, 3)]
    results = set()
    for order in itertools.permutations(ring):
        points = hashed(5)
        for key in order:
            points = dh.mask(key, points)
        results.add(points.tobytes())
    assert len(results) == 1


def test_equal_ids_meet_and_others_do_not():
    a, b = dh.gen_key(b"a" * 32), dh.gen_key(b"b" * 32)
    left = dh.hash_to_points(*lay_out([b"ann", b"bob", b"cy", b""]))
    right = dh.hash_to_points(*lay_out([b"cy", b"dan", b"", b"bobb"]))
    width = dh.tag_width(4, 4)
    tags_left = {t.tobytes() for t in dh.tags(dh.mask(b, dh.mask(a, left)), width)}
    tags_right = {t.tobytes() for t in dh.tags(dh.mask(a, dh.mask(b, right)), width)}
    assert len(tags_left & tags_right) == 2


def test_points_follow_rfc_9380_under_the_own_tag():
    assert dh.hash_to_points(*lay_out([b"abc"])).tobytes() == x25519_twin.encode(b"abc", dh.DST)
    other = dh.hash_to_points(*lay_out([b"abc"]), domain=b"veilsum/another use")
    assert other.tobytes() == x25519_twin.encode(b"abc", b"veilsum/another use")
    assert 16 <= len(dh.DST) <= 45


def test_a_known_answer_for_the_whole_chain():
    expected = x25519_twin.mul(bytes(range(32)), x25519_twin.encode(b"id0", dh.DST))
    key = dh.gen_key(bytes(range(32)))
    assert dh.mask(key, hashed(1)).tobytes() == expected
    assert dh.tags(dh.mask(key, hashed(1)), 10).tobytes() == expected[:10]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("u", SMALL_ORDER)
@pytest.mark.parametrize("place", [0, 6, 19])
def test_a_point_of_small_order_is_cheating(path, u, place):
    points = hashed(20)
    points[place] = np.frombuffer(u.to_bytes(32, "little"), np.uint8)
    with pytest.raises(CheatingDetected) as caught:
        dh.mask(dh.gen_key(b"k" * 32), points, path=path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((3, 31), np.uint8),
        np.zeros(32, np.uint8),
        np.zeros((3, 32), np.int64),
        np.zeros((1, 3, 32), np.uint8),
    ],
)
def test_points_of_another_shape_or_type_break_the_protocol(points):
    with pytest.raises(ProtocolError):
        dh.mask(dh.gen_key(bytes(32)), points)
    with pytest.raises(ProtocolError):
        dh.tags(points, 8)


def test_points_may_be_a_view():
    points = np.zeros((4, 40), np.uint8)
    points[:, 8:] = hashed(4)
    key = dh.gen_key(b"k" * 32)
    assert np.array_equal(dh.mask(key, points[:, 8:]), dh.mask(key, hashed(4)))


def test_no_ids_are_no_points():
    points = hashed(0)
    assert points.shape == dh.mask(dh.gen_key(bytes(32)), points).shape == (0, 32)
    assert dh.tags(points, 10).shape == (0, 10)


def test_the_same_bytes_make_the_same_key_and_other_bytes_another():
    points = hashed(3)
    again = dh.mask(dh.gen_key(b"x" * 32), points)
    assert np.array_equal(dh.mask(dh.gen_key(b"x" * 32), points), again)
    assert not np.array_equal(dh.mask(dh.gen_key(b"y" * 32), points), again)


def test_a_key_shows_and_gives_away_nothing():
    key = dh.gen_key(b"secretsecretsecretsecretsecretse")
    assert repr(key) == str(key) == "Key(32 bytes)"
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(key)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_takes_32_bytes(size):
    with pytest.raises(ValueError, match="32 bytes"):
        dh.gen_key(bytes(size))


@pytest.mark.parametrize("width", [0, 33, -1])
def test_tags_have_1_to_32_bytes(width):
    with pytest.raises(ValueError, match="tag"):
        dh.tags(hashed(1), width)


def test_the_width_for_a_million_each():
    assert dh.tag_width(10**6, 10**6) == math.ceil((40 + 2 * math.log2(10**6)) / 8) == 10


def test_low_bytes_of_masked_points_look_uniform():
    masked = dh.mask(dh.gen_key(b"u" * 32), hashed(20_000))
    for column in range(dh.tag_width(10**9, 10**9)):
        counts = np.bincount(masked[:, column], minlength=256)
        chi_squared = float(((counts - 20_000 / 256) ** 2).sum() / (20_000 / 256))
        assert chi_squared < 255 + 6 * math.sqrt(2 * 255)
