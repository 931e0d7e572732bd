"""Read what the database streams through the Arrow C data interface, without Arrow itself.

Only what id batches need: one int64 column and one large-utf8 column without nulls. The memory of a chunk
belongs to the database and is given back after it was copied.

Source: Apache Arrow, "The Arrow C data interface" and "The Arrow C stream interface".
"""

import ctypes
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from veilsum.errors import StoreError

FORMATS: Final = (b"l", b"U")
"""The interface's letters for int64 and for utf8 with 64-bit offsets."""

Chunk = tuple[npt.NDArray[np.int64], bytes, npt.NDArray[np.int64]]
"""Row numbers (n,) int64, the texts' bytes end to end, their offsets (n + 1,) int64."""


class _Schema(ctypes.Structure):
    """``struct ArrowSchema``."""


class _Array(ctypes.Structure):
    """``struct ArrowArray``."""


class _Stream(ctypes.Structure):
    """``struct ArrowArrayStream``."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Schema))),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Array))),
    ("private_data", ctypes.c_void_p),
]
_Stream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Stream), ctypes.POINTER(_Schema))),
    ("get_next", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Stream), ctypes.POINTER(_Array))),
    ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(_Stream))),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]


def read_chunks(relation: Any) -> Iterator[Chunk]:
    """Run a relation of (int64, large utf8) and yield its chunks in order.

    Args:
        relation: anything with ``__arrow_c_stream__``; the database must use 64-bit text offsets.

    Raises:
        StoreError: the stream failed, or has other columns.
    """
    capsule = relation.__arrow_c_stream__()  # its destructor releases the stream
    stream = _Stream.from_address(_pointer(capsule))
    _check_schema(stream)
    while True:
        array = _Array()
        if stream.get_next(ctypes.byref(stream), ctypes.byref(array)):
            raise StoreError("the rows could not be read to their end", remedy="see the log of the disk")
        if not array.release:
            break
        try:
            chunk = _copy(array)
        finally:
            array.release(ctypes.byref(array))
        yield chunk
    del capsule


def _pointer(capsule: Any) -> int:
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    address = get_pointer(capsule, b"arrow_array_stream")
    assert isinstance(address, int)
    return address


def _check_schema(stream: _Stream) -> None:
    schema = _Schema()
    failed = stream.get_schema(ctypes.byref(stream), ctypes.byref(schema))
    formats: tuple[bytes, ...] = ()
    if not failed:
        formats = tuple(schema.children[i].contents.format for i in range(schema.n_children))
        schema.release(ctypes.byref(schema))
    if formats != FORMATS:
        raise StoreError(
            "the database streams rows in an unknown layout", remedy="install a supported version of duckdb"
        )


def _copy(array: _Array) -> Chunk:
    rows, texts = (array.children[i].contents for i in range(2))
    length = int(array.length)
    if rows.null_count or texts.null_count:
        raise StoreError("the database streams an id that is null", remedy="report this as a defect")
    numbers = _int64(rows.buffers[1], int(rows.offset), length)
    offsets = _int64(texts.buffers[1], int(texts.offset), length + 1)
    start, size = int(offsets[0]), int(offsets[-1] - offsets[0])
    data = ctypes.string_at(texts.buffers[2] + start, size) if size else b""
    return numbers, data, offsets - start


def _int64(address: int, offset: int, length: int) -> npt.NDArray[np.int64]:
    if not length:
        return np.zeros(0, np.int64)
    source = (ctypes.c_int64 * length).from_address(address + 8 * offset)
    return np.array(np.ctypeslib.as_array(source), np.int64)
