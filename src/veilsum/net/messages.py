"""Message types and their bytes: a msgpack header, then raw little-endian buffers. Nothing executable.

A message is a frozen struct. Fields annotated with `Buffer` travel as raw bytes behind the header and
arrive as read-only numpy views on the received frame (no copy); every other field travels in the header.

```
uint32  length of the header
header  msgpack array: the plain fields in order, then one shape per buffer
…       each buffer at the next multiple of 8, zero padding between
```
"""

import hashlib
import struct
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ProtocolError
from veilsum.net.config import KIB, MIB

ALIGN = 8
_LENGTH = struct.Struct("<I")
_HEADER_LIMIT = MIB  # of plain fields: what they grow to in memory is many times their bytes

Data = bytes | bytearray | memoryview


class Buffer(NamedTuple):
    """Marks a field as raw data: ``Annotated[NDArray[np.uint8], Buffer("u1", (None, 32))]``.

    A ``None`` in the shape is free; the sizes are bounded by the message's ``limit``.
    """

    dtype: str
    shape: tuple[int | None, ...]


class _Wire(NamedTuple):
    """How one message type travels."""

    step: int
    by: tuple[str, ...]
    limit: int
    header: type[msgspec.Struct]
    decoder: "msgspec.msgpack.Decoder[Any]"
    plain: tuple[str, ...]
    buffers: tuple[tuple[str, Buffer, np.dtype[Any]], ...]


class Message(msgspec.Struct, frozen=True):
    """The base of all message types; each is made one by the decorator `message`."""

    wire: ClassVar[_Wire]


M = TypeVar("M", bound=Message)


def message(
    step: int, *, by: str | Sequence[str] = (), limit: int = 64 * KIB
) -> Callable[[type[M]], type[M]]:
    """Make a struct a message of a protocol.

    Args:
        step: the number of its row in the protocol's table.
        by: the role or roles that may send it (empty: any).
        limit: the most bytes of one message, checked at the receiver before allocation.
    """

    def register(cls: type[M]) -> type[M]:
        hints = typing.get_type_hints(cls, include_extras=True)
        plain: list[tuple[str, Any]] = []
        buffers: list[tuple[str, Buffer, np.dtype[Any]]] = []
        for name in cls.__struct_fields__:
            mark = next((m for m in getattr(hints[name], "__metadata__", ()) if isinstance(m, Buffer)), None)
            if mark is None:
                plain.append((name, hints[name]))
            else:
                buffers.append((name, mark, np.dtype("<" + mark.dtype)))
        # counted before anything is allocated for them
        shape = Annotated[
            list[int], msgspec.Meta(max_length=max((len(b.shape) for _, b, _ in buffers), default=0))
        ]
        shapes = Annotated[list[shape], msgspec.Meta(max_length=len(buffers))]
        fields = [*plain, ("shapes_", shapes)]
        header = msgspec.defstruct(
            cls.__name__ + "Header", fields, array_like=True, frozen=True, forbid_unknown_fields=True
        )
        roles = (by,) if isinstance(by, str) else tuple(by)
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(header)
        cls.wire = _Wire(step, roles, limit, header, decoder, tuple(n for n, _ in plain), tuple(buffers))
        return cls

    return register


_encoder = msgspec.msgpack.Encoder()
_NOTHING = memoryview(b"")
_FREE = (None,)


def encode(message: Message) -> list[Data]:
    """Return the message as byte strings and views to be sent one after the other.

    Raises:
        ProtocolError: a buffer has another shape than its type declares, or the whole is over the limit.
    """
    wire = message.wire
    shapes: list[tuple[int, ...]] = []
    views: list[memoryview] = []
    for name, mark, dtype in wire.buffers:
        array = getattr(message, name)
        if array.dtype is not dtype or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array, dtype=dtype)
        shape = array.shape
        _check_shape(message, name, mark, shape)
        shapes.append(shape)
        views.append(array.data.cast("B") if array.size else _NOTHING)
    # a header struct travels as an array: the same bytes without making one
    head = _encoder.encode([*[getattr(message, name) for name in wire.plain], shapes])
    if len(head) > _HEADER_LIMIT:
        raise ProtocolError(f"the plain fields of a {type(message).__name__} take {len(head)} bytes")
    parts: list[Data] = [_LENGTH.pack(len(head)) + head]
    total = len(parts[0])
    for view in views:
        pad = -total % ALIGN
        if pad:
            parts.append(bytes(pad))
        parts.append(view)
        total += pad + len(view)
    if total > wire.limit:
        raise ProtocolError(f"a {type(message).__name__} of {total} bytes is over its limit of {wire.limit}")
    return parts


def decode(cls: type[M], payload: Data) -> M:
    """Read a message back; buffers are read-only views on ``payload``.

    Raises:
        ProtocolError: the bytes are not exactly such a message.
    """
    wire, view, name = cls.wire, memoryview(payload), cls.__name__
    try:
        (length,) = _LENGTH.unpack_from(view)
        if length > _HEADER_LIMIT:
            raise ProtocolError(f"a {name} with a header of {length} bytes arrived")
        head = wire.decoder.decode(view[4 : 4 + length])
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a malformed {name} arrived") from error
    if len(head.shapes_) != len(wire.buffers) or 4 + length > len(view):
        raise ProtocolError(f"a {name} with missing or additional parts arrived")
    values = {field: getattr(head, field) for field in wire.plain}
    at = 4 + length
    for (field, mark, dtype), shape in zip(wire.buffers, head.shapes_, strict=True):
        _check_shape(cls, field, mark, shape)
        at += -at % ALIGN
        values[field], at = _take(view, at, dtype, shape, name)
    if at != len(view):
        raise ProtocolError(f"a {name} of {len(view)} bytes arrived where {at} were announced")
    return cls(**values)


def _take(
    view: memoryview, at: int, dtype: np.dtype[Any], shape: list[int], name: str
) -> tuple[NDArray[Any], int]:
    count = 1
    for size in shape:
        count *= size
    end = at + count * dtype.itemsize
    if end > len(view):
        raise ProtocolError(f"a {name} announces more data than it brings")
    try:
        array = np.frombuffer(view, dtype, count, at)
        if len(shape) != 1:
            array = array.reshape(shape)
    except ValueError as error:  # nothing in one direction, and more than memory has in another
        raise ProtocolError(f"a {name} of an impossible shape arrived") from error
    if not view.readonly:
        array.flags.writeable = False
    return array, end


def _check_shape(what: Any, field: str, mark: Buffer, shape: Sequence[int]) -> None:
    if len(shape) == 1 and mark.shape == _FREE and shape[0] >= 0:
        return
    fits = len(shape) == len(mark.shape)
    for got, want in zip(shape, mark.shape, strict=False):
        if got < 0 or (want is not None and got != want):
            fits = False
    if not fits:
        name = what.__name__ if isinstance(what, type) else type(what).__name__
        raise ProtocolError(f"{name}.{field} has shape {tuple(shape)}, not {mark.shape}")


def schema_digest(types: Sequence[type[Message]]) -> bytes:
    """Return 8 bytes that differ when two parties' versions speak different message sets."""
    text = repr(
        [
            (
                t.__name__,
                t.wire.step,
                t.wire.by,
                t.wire.limit,
                t.wire.plain,
                [(n, m) for n, m, _ in t.wire.buffers],
            )
            for t in types
        ]
    )
    return hashlib.sha256(text.encode()).digest()[:8]
