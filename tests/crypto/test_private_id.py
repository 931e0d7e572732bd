import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.test_dh import SMALL_ORDER, hashed, lay_out
from veilsum.arith import cpu, x25519_twin
from veilsum.crypto import dh, private_id
from veilsum.crypto.private_id import NAME_BYTES, Keys
from veilsum.errors import CheatingDetected, ProtocolError

PATHS = cpu.usable("x25519")
SCALARS = [bytes([n]) * 32 for n in (3, 5, 7, 11)]
A = private_id.gen_keys(SCALARS[0], SCALARS[1])
B = private_id.gen_keys(SCALARS[2], SCALARS[3])
ids_of = st.lists(st.binary(max_size=20), min_size=1, max_size=12, unique=True)


def points_of(ids):
    return dh.hash_to_points(*lay_out(ids))


def names_of(owner, other, points, *, path=None):
    """The way of `NamedPoints`: an owner's own list."""
    matched = private_id.match(other, private_id.mask(owner, points, path=path), path=path)
    return private_id.finish(owner, private_id.name(other, matched, path=path), path=path)


def names_of_exclusive(owner, other, points):
    """The way of `ExclusivePoints`: what only its owner holds, finished at the other."""
    matched = private_id.match(other, private_id.mask(owner, points))
    return private_id.finish(other, private_id.name(owner, matched))


def rows(array):
    return [row.tobytes() for row in array]


@settings(max_examples=20)
@given(one=ids_of, other=ids_of, shared=ids_of)
def test_equal_ids_have_equal_names_and_others_do_not(one, other, shared):
    at_a = list(dict.fromkeys(one + shared))
    at_b = list(dict.fromkeys(shared[::-1] + other))
    named = dict(zip(at_a, rows(names_of(A, B, points_of(at_a))), strict=True))
    again = dict(zip(at_b, rows(names_of(B, A, points_of(at_b))), strict=True))
    for i in set(at_a) & set(at_b):
        assert named[i] == again[i]
    assert len(set(named.values()) | set(again.values())) == len({*at_a, *at_b})


@settings(max_examples=20)
@given(ids_of)
def test_both_ways_give_the_same_names(ids):
    """Own names come by one way, the other member's by another: the union is one list at both."""
    points = points_of(ids)
    own = names_of(A, B, points)
    assert np.array_equal(own, names_of_exclusive(A, B, points))
    assert np.array_equal(own, names_of_exclusive(B, A, points))


def test_lists_match_whoever_begins():
    points = points_of([b"ann", b"bob"])
    assert np.array_equal(
        private_id.match(B, private_id.mask(A, points)), private_id.match(A, private_id.mask(B, points))
    )


def test_every_order_of_the_four_scalars_gives_the_same_point():
    results = set()
    for order in itertools.permutations([A.matching, A.naming, B.matching, B.naming]):
        points = hashed(3)
        for key in order:
            points = dh.mask(key, points)
        results.add(points.tobytes())
    assert len(results) == 1
    assert results.pop()[:NAME_BYTES] == names_of(A, B, hashed(3))[0].tobytes()


@pytest.mark.parametrize("path", PATHS)
def test_names_are_products_of_dh_on_every_path(path):
    points = hashed(40)
    expected = points
    for key in (A.matching, B.matching, B.naming, A.naming):
        expected = dh.mask(key, expected)
    found = names_of(A, B, points, path=path)
    assert (found.dtype, found.shape) == (np.uint8, (40, NAME_BYTES))
    assert np.array_equal(found, expected[:, :NAME_BYTES])


def test_names_and_every_step_before_in_plain_integers():
    ka, ra, kb, rb = SCALARS
    steps = [
        (private_id.mask, A, ka),
        (private_id.match, B, kb),
        (private_id.name, B, rb),
        (private_id.finish, A, ra),
    ]
    for i in (b"", b"ann", b"\xff" * 40):
        points, plain = points_of([i]), x25519_twin.encode(i, dh.DST)
        for step, keys, scalar in steps:
            points, plain = step(keys, points), x25519_twin.mul(scalar, plain)
            assert plain.startswith(points.tobytes())
        assert points.shape == (1, NAME_BYTES)


@pytest.mark.parametrize("missing", range(4))
def test_a_name_takes_all_four_scalars(missing):
    keys = [A.matching, B.matching, B.naming, A.naming]
    keys[missing] = dh.gen_key(bytes([99]) * 32)
    points = hashed(5)
    right = set(rows(names_of(A, B, points)))
    for key in keys:
        points = dh.mask(key, points)
    assert not right & set(rows(points[:, :NAME_BYTES]))


def test_matching_alone_names_nothing():
    points = hashed(30)
    matched = private_id.match(B, private_id.mask(A, points))
    half = private_id.name(B, matched)
    seen = {row[:NAME_BYTES] for part in (points, matched, half) for row in rows(part)}
    assert not seen & set(rows(names_of(A, B, points)))


def test_rows_keep_their_order():
    points, order = hashed(50), np.random.default_rng(1).permutation(50)
    for step in (private_id.mask, private_id.match, private_id.name, private_id.finish):
        assert np.array_equal(step(A, points)[order], step(A, points[order]))


@pytest.mark.parametrize("step", [private_id.mask, private_id.match, private_id.name, private_id.finish])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("u", SMALL_ORDER)
def test_points_of_small_order_are_cheating(step, path, u):
    points = hashed(9)
    points[4] = np.frombuffer(u.to_bytes(32, "little"), np.uint8)
    with pytest.raises(CheatingDetected) as caught:
        step(A, points, path=path)
    assert caught.value.remedy


@pytest.mark.parametrize("step", [private_id.mask, private_id.match, private_id.name, private_id.finish])
def test_points_of_another_shape_break_the_protocol(step):
    for points in (np.zeros((3, 31), np.uint8), np.zeros(32, np.uint8), np.zeros((3, 32), np.int64)):
        with pytest.raises(ProtocolError):
            step(A, points)
    assert len(step(A, hashed(0))) == 0


def test_the_two_scalars_are_used_where_they_belong():
    points = hashed(2)
    for step in (private_id.mask, private_id.match):
        assert np.array_equal(step(A, points), dh.mask(A.matching, points))
    assert np.array_equal(private_id.name(A, points), dh.mask(A.naming, points))
    assert np.array_equal(private_id.finish(A, points), dh.mask(A.naming, points)[:, :NAME_BYTES])
    assert not np.array_equal(private_id.mask(A, points), private_id.name(A, points))


def test_one_scalar_does_not_serve_for_both():
    with pytest.raises(ValueError, match="independent"):
        private_id.gen_keys(bytes(32), bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_scalars_take_32_bytes(size):
    for pair in ((b"x" * size, b"y" * 32), (b"x" * 32, b"y" * size)):
        with pytest.raises(ValueError, match="32 bytes"):
            private_id.gen_keys(*pair)


def test_keys_show_nothing():
    keys = private_id.gen_keys(b"secretsecretsecretsecretsecretma", b"secretsecretsecretsecretsecretna")
    for text in (repr(keys), str(keys), f"{keys}", repr((keys, [keys]))):
        assert "secret" not in text
        assert b"secret".hex() not in text
    assert repr(keys) == "Keys(matching=Key(32 bytes), naming=Key(32 bytes))"
    for copying in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(keys)


def test_the_same_bytes_make_the_same_scalars():
    again = private_id.gen_keys(SCALARS[0], SCALARS[1])
    assert isinstance(again, Keys)
    assert np.array_equal(private_id.mask(again, hashed(3)), private_id.mask(A, hashed(3)))
    assert np.array_equal(private_id.name(again, hashed(3)), private_id.name(A, hashed(3)))


def test_names_look_uniform():
    """A name is a random id: no byte of it may tell anything."""
    names = names_of(A, B, hashed(20_000))
    for column in range(NAME_BYTES):
        counts = np.bincount(names[:, column], minlength=256)
        assert float(((counts - 20_000 / 256) ** 2).sum() / (20_000 / 256)) < 255 + 6 * (2 * 255) ** 0.5
