import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import cpu, x25519
from veilsum.arith import x25519_twin as twin

PATHS = cpu.usable("x25519")
VECTORS = Path(__file__).parents[1] / "vectors"
X25519 = json.loads((VECTORS / "rfc7748_x25519.json").read_text())
ENCODE = json.loads((VECTORS / "rfc9380_curve25519_nu.json").read_text())
P = twin.P
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER = (0, 1, P - 1, P, P + 1, *ORDER_8)  # of the curve and of its twist, and not canonical ones
EDGES = (*SMALL_ORDER, 2, 9, P - 2, P + 2, 2**255 - 1, 2**255, 2**255 + 1, 2**256 - 1)


def little(number):
    return number.to_bytes(32, "little")


def matrix(strings, width=32):
    return np.frombuffer(b"".join(strings), np.uint8).reshape(-1, width)


def rows(array):
    return [row.tobytes() for row in array]


def lay_out(messages):
    return b"".join(messages), np.cumsum([0, *map(len, messages)], dtype=np.int64)


any_point = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from(EDGES).map(little))


@pytest.mark.parametrize("path", ["twin", *PATHS])
def test_rfc7748_products(path):
    for vector in X25519["single"]:
        scalar, point, product = (bytes.fromhex(vector[key]) for key in ("scalar", "point", "product"))
        if path == "twin":
            assert twin.mul(scalar, point) == product
        else:
            assert rows(x25519.mul(scalar, matrix([point]), path=path)) == [product]


def iterate(path, count):
    k = u = little(9)
    for _ in range(count):
        k, u = x25519.mul(k, matrix([u]), path=path).tobytes(), k
    return k.hex()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [1, 1000])
def test_rfc7748_iterated(path, count):
    assert iterate(path, count) == X25519["iterated"][str(count)]


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25, deadline=None)
@given(scalar=st.binary(min_size=32, max_size=32), points=st.lists(any_point, min_size=1, max_size=20))
def test_products_agree_with_the_twin(path, scalar, points):
    assert rows(x25519.mul(scalar, matrix(points), path=path)) == [twin.mul(scalar, u) for u in points]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scalar", [bytes(32), b"\xff" * 32, little(8), little(P), bytes(31) + b"\x40"])
def test_edge_points_and_edge_scalars_agree_with_the_twin(path, scalar):
    points = [little(edge) for edge in EDGES]
    assert rows(x25519.mul(scalar, matrix(points), path=path)) == [twin.mul(scalar, u) for u in points]


@pytest.mark.parametrize("path", PATHS)
def test_points_of_small_order_give_zeros_and_do_not_disturb_their_neighbours(path):
    # 35 good points, each followed by one of small order: lanes, groups and the shared inversion are mixed
    good = [little(9 + i) for i in range(35)]
    mixed = [point for i, u in enumerate(good) for point in (u, little(SMALL_ORDER[i % len(SMALL_ORDER)]))]
    products = rows(x25519.mul(b"k" * 32, matrix(mixed), path=path))
    assert products[1::2] == [bytes(32)] * 35
    assert products[::2] == [twin.mul(b"k" * 32, u) for u in good]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 17, 511, 512, 513, 10_000])
def test_any_number_of_points(path, count):
    points = np.random.default_rng(count).integers(0, 256, (count, 32), np.uint8)
    got = x25519.mul(b"s" * 32, points, path=path)
    assert got.shape == (count, 32)
    assert np.array_equal(got, x25519.mul(b"s" * 32, points, path="portable"))


@pytest.mark.parametrize("path", PATHS)
def test_the_points_are_left_as_they_were(path):
    points = np.random.default_rng(5).integers(0, 256, (9, 32), np.uint8)
    points.flags.writeable = False
    before = points.copy()
    x25519.mul(b"s" * 32, points, path=path)
    assert np.array_equal(points, before)


@pytest.mark.parametrize("path", ["twin", *PATHS])
def test_rfc9380_encoding(path):
    dst, messages = ENCODE["dst"].encode(), [vector["msg"].encode() for vector in ENCODE["vectors"]]
    if path == "twin":
        got = [twin.encode(message, dst) for message in messages]
    else:
        got = rows(x25519.encode(*lay_out(messages), dst, path=path))
    for vector, message, q in zip(ENCODE["vectors"], messages, got, strict=True):
        assert int.from_bytes(twin.expand_message(message, dst, 48), "big") % P == int(vector["u"], 16)
        assert q == little(int(vector["Qx"], 16))
        assert twin.ladder(8, int.from_bytes(q, "little")) == int(vector["Px"], 16)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25, deadline=None)
@given(messages=st.lists(st.binary(max_size=200), max_size=20), dst=st.binary(min_size=1, max_size=255))
def test_encoding_agrees_with_the_twin(path, messages, dst):
    assert rows(x25519.encode(*lay_out(messages), dst, path=path)) == [twin.encode(m, dst) for m in messages]


@pytest.mark.parametrize("path", PATHS)
def test_the_map_takes_every_kind_of_integer(path):
    edges = [0, 1, 2, P - 1, P, P + 1, 2 * P, 2**255, 19 * P, 2**384 - 1, 2**383, (P << 128) + 5]
    numbers = edges + [pow(7, i, 2**384) for i in range(40, 140)]
    uniform = matrix([number.to_bytes(48, "big") for number in numbers], 48)
    assert rows(x25519.map_to_curve(uniform, path=path)) == [
        little(twin.map_to_curve(n % P)) for n in numbers
    ]


def test_the_twin_maps_onto_the_curve_and_not_its_twist():
    for u in range(30):
        x = twin.map_to_curve(u)
        assert twin.is_square(x**3 + twin.A * x**2 + x)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [513, 33_000])
def test_encoding_many_slices_like_few(path, count):
    messages = [b"%d" % i for i in range(count)]
    data, offsets = lay_out(messages)
    got = x25519.encode(data, offsets, b"veilsum/test", path=path)
    for i in (0, 1, 15, 16, 511, 512, count - 1):
        assert got[i].tobytes() == twin.encode(messages[i], b"veilsum/test")
    tail = x25519.encode(data, offsets[-8:], b"veilsum/test", path=path)
    assert np.array_equal(got[-7:], tail)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("points", "error"),
    [
        (np.zeros((2, 31), np.uint8), ValueError),
        (np.zeros(32, np.uint8), ValueError),
        (np.zeros((2, 64), np.uint8)[:, ::2], ValueError),
        (np.zeros((32, 2), np.uint8).T, ValueError),
        (np.zeros((2, 32), np.int8), TypeError),
        (np.zeros((2, 4), np.uint64), TypeError),
        (bytes(32), TypeError),
    ],
)
def test_points_of_another_shape_type_or_layout_are_refused(path, points, error):
    with pytest.raises(error):
        x25519.mul(bytes(32), points, path=path)
    with pytest.raises(error):
        x25519.map_to_curve(points, path=path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 31, 33])
def test_scalars_of_another_length_are_refused(path, size):
    with pytest.raises(ValueError, match="32 bytes"):
        x25519.mul(bytes(size), np.ones((1, 32), np.uint8), path=path)
