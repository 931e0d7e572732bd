"""The codec: what goes in comes out, and whatever else arrives is refused as a ProtocolError."""

import contextlib
import struct
import tracemalloc
from typing import Annotated

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from veilsum.errors import ProtocolError
from veilsum.net.control import Opening
from veilsum.net.messages import Buffer, Message, decode, encode, message, schema_digest


@message(3, by="signer", limit=1 << 21)
class Mixed(Message, frozen=True):
    name: str
    count: int
    rows: Annotated[NDArray[np.uint8], Buffer("u1", (None, 3))]
    weights: Annotated[NDArray[np.float64], Buffer("f8", (None,))]


def joined(said):
    return b"".join(encode(said))


@given(
    st.text(max_size=50),
    st.integers(-(2**63), 2**64 - 1),
    hnp.arrays(np.uint8, st.tuples(st.integers(0, 40), st.just(3))),
    hnp.arrays(np.float64, st.integers(0, 40)),
)
def test_there_and_back(name, count, rows, weights):
    got = decode(Mixed, joined(Mixed(name, count, rows, weights)))
    assert (got.name, got.count) == (name, count)
    assert got.rows.tobytes() == rows.tobytes()
    assert got.rows.shape == rows.shape
    assert got.weights.tobytes() == weights.tobytes()
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        got.rows.flags.writeable = True


@given(st.binary(max_size=200))
def test_any_bytes(data):
    with contextlib.suppress(ProtocolError):
        decode(Mixed, data)


GOOD = joined(Mixed("name", 5, np.ones((4, 3), np.uint8), np.arange(3.0)))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_flipped_byte(place, change):
    spoilt = bytearray(GOOD)
    spoilt[place] ^= change
    try:
        got = decode(Mixed, bytes(spoilt))
    except ProtocolError:
        return
    assert got.rows.shape[1:] == (3,)


@given(st.integers(0, len(GOOD) - 1))
def test_any_truncation(size):
    with pytest.raises(ProtocolError):
        decode(Mixed, GOOD[:size])


def test_trailing_bytes():
    with pytest.raises(ProtocolError, match="were announced"):
        decode(Mixed, GOOD + b"\0")


def header(*plain, pad=0):
    head = msgspec.msgpack.encode(list(plain))
    return struct.pack("<I", len(head)) + head + bytes(pad)


@pytest.mark.parametrize(
    "payload",
    [
        header("a", 1, [[0, 3], [2**62]]),
        header("a", 1, [[2**64 - 1, 3], [0]]),
        header("a", 1, [[0, 3]]),
        header("a", 1, [[0, 3], [0], [0]]),
        header("a", 1, [[0, 3, 1], [0]]),
        header("a", 1, [[-1, 3], [0]]),
        header("a", 1, [[0.5, 3], [0]]),
        header("a", 1, [[0, 4], [0]]),
        header("a", 1),
        header("a", 1, [[0, 3], [0]], 7),
        header(1, 1, [[0, 3], [0]]),
        struct.pack("<I", 6) + b"\x93\xa1\xff\x01\x92\x90\x90",
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", 5) + b"\xdd\xff\xff\xff\xff",
        b"",
        b"\0\0\0\0",
    ],
)
def test_malformed(payload):
    with pytest.raises(ProtocolError):
        decode(Mixed, payload)


def test_impossible_shapes():
    @message(1)
    class Free(Message, frozen=True):
        data: Annotated[NDArray[np.uint64], Buffer("u8", (None, None))]

    for shape in ([0, 2**62], [0, 2**63], [0, 2**64 - 1], [2**40, 2**40]):
        with pytest.raises(ProtocolError):
            decode(Free, header([shape]))
    assert decode(Free, joined(Free(np.empty((0, 1000), np.uint64)))).data.shape == (0, 1000)


def test_text_that_is_none():
    with pytest.raises(ProtocolError, match="malformed"):
        decode(Opening, struct.pack("<I", 7) + b"\x95\xc4\x00\x81\xa1\xff\xc0")


@pytest.mark.parametrize("shape", [b"\x90", b"\x91\x01"])
def test_a_header_of_nothing_but_shapes_takes_no_memory(shape):
    head = b"\x94\xa1a\x01\xdd" + (500_000).to_bytes(4, "big") + shape * 500_000
    payload = struct.pack("<I", len(head)) + head
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        decode(Mixed, payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_header_over_its_limit():
    with pytest.raises(ProtocolError, match="a header of"):
        decode(Mixed, struct.pack("<I", (1 << 20) + 1) + bytes(1 << 21))
    with pytest.raises(ProtocolError, match="plain fields"):
        encode(Mixed("x" * (1 << 20), 1, np.ones((0, 3), np.uint8), np.ones(0)))


def test_over_the_limit_or_of_another_shape():
    with pytest.raises(ProtocolError, match="over its limit"):
        encode(Mixed("", 1, np.ones((1 << 20, 3), np.uint8), np.ones(0)))
    with pytest.raises(ProtocolError, match="has shape"):
        encode(Mixed("", 1, np.ones((2, 4), np.uint8), np.ones(0)))


def test_the_schema_digest():
    @message(3, by="signer", limit=1 << 21)
    class Other(Message, frozen=True):
        name: str

    digests = {schema_digest(types) for types in ([], [Mixed], [Other], [Mixed, Other], [Other, Mixed])}
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {8}
