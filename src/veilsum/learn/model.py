"""A graph with its weights, in memory and in one file that holds nothing executable.

The file is an uncompressed zip archive: ``graph.json`` and one ``NAME.npy`` per weight, so that
``numpy.load(path, allow_pickle=False)`` opens the weights. The same model always gives the same bytes.
"""

import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError, DataError
from veilsum.learn.graph import Graph, Shape
from veilsum.learn.shapes import MOST_NODES, infer

Weights = Mapping[str, NDArray[np.floating[Any]]]

_FORMAT: Final = "veilsum-model/1"
_GRAPH: Final = "graph.json"
_MOST_GRAPH: Final = 64 << 20  # bytes of graph.json
_MOST_HEADER: Final = 4096  # bytes before the numbers of one .npy
_DTYPES: Final = (np.dtype("<f4"), np.dtype("<f8"))
_AGAIN: Final = "save the model again with Model.save, or ask its owner for the file again"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    graph: Graph


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Model:
    """A graph with a finite float32 or float64 array for each of its parameters and buffers.

    Raises:
        ConfigError: the graph contradicts itself.
        DataError: a weight is missing, too many, of another shape or type, or not finite.
    """

    graph: Graph
    weights: Weights

    def __post_init__(self) -> None:
        infer(self.graph)
        expected = self.graph.weights()
        _check_names(expected, self.weights)
        for name, shape in expected.items():
            _check_weight(name, self.weights[name], shape)

    def __repr__(self) -> str:
        count = sum(math.prod(shape) for shape in self.graph.weights().values())
        return f"Model({len(self.graph.nodes)} nodes, {count} numbers)"

    def save(self, path: Path | str) -> None:
        """Write the model into one file, which appears only when it is complete.

        Raises:
            OSError: the file cannot be written.
        """
        target = Path(path)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with zipfile.ZipFile(draft, "x") as archive:
                _put(archive, _GRAPH, msgspec.json.encode(_File(_FORMAT, self.graph)))
                for name in self.graph.weights():
                    weight = self.weights[name]
                    little = np.asarray(weight, weight.dtype.newbyteorder("<"), order="C")
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, little, (1, 0), allow_pickle=False)
                    _put(archive, f"{name}.npy", buffer.getvalue())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a model, checking every size before memory is taken for it.

        Raises:
            ConfigError: there is no such file, or its graph contradicts itself.
            DataError: the file is not a whole model of this format, or its weights do not fit its graph.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                entries = _entries(archive)
                graph = _read_graph(archive, entries)
                names = {name.removesuffix(".npy") for name in entries if name != _GRAPH}
                _check_names(graph.weights(), names)
                weights = {
                    name: _read_weight(archive, entries[f"{name}.npy"], name, shape)
                    for name, shape in graph.weights().items()
                }
        except FileNotFoundError:
            raise ConfigError(f"there is no model file {path}", remedy="check the path") from None
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
            raise DataError(f"{path} is not a whole model file: {error}", remedy=_AGAIN) from None
        return cls(graph, weights)


def _check_names(expected: Mapping[str, Shape], given: Mapping[str, Any] | set[str]) -> None:
    missing = [name for name in expected if name not in given]
    surplus = [name for name in given if name not in expected]
    for what, names in (("lacks", missing), ("has more than its graph asks for:", surplus)):
        if names:
            listed = ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
            raise DataError(f"the model {what} {listed}", remedy="give each weight of the graph, no other")


def _check_weight(name: str, weight: Any, shape: Shape) -> None:
    if not isinstance(weight, np.ndarray) or weight.dtype.newbyteorder("<") not in _DTYPES:
        raise DataError(f"the weight {name!r} is no array of float32 or float64", remedy="convert it")
    if weight.shape != shape:
        raise DataError(
            f"the weight {name!r} has the shape {weight.shape}, and the graph asks for {shape}",
            remedy="take weights and graph from the same model",
        )
    if not np.isfinite(weight).all():
        raise DataError(
            f"the weight {name!r} holds NaN or infinity", remedy="train again with a lower learning rate"
        )


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), content)  # the fixed date keeps the bytes the same


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    listed = archive.infolist()
    entries = {info.filename: info for info in listed}
    if _GRAPH not in entries:
        raise DataError("the file is no model of veilsum: it has no graph", remedy=_AGAIN)
    if len(entries) != len(listed) or len(listed) > 5 * MOST_NODES:
        raise DataError("the model file names an entry twice, or too many", remedy=_AGAIN)
    for info in listed:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DataError(f"the entry {info.filename!r} of the model file is compressed", remedy=_AGAIN)
        if info.filename != _GRAPH and not info.filename.endswith(".npy"):
            raise DataError(f"the model file holds a foreign entry {info.filename!r}", remedy=_AGAIN)
    return entries


def _read_graph(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> Graph:
    if entries[_GRAPH].file_size > _MOST_GRAPH:
        raise DataError("the graph in the model file is too long", remedy=_AGAIN)
    content = archive.read(_GRAPH)
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise DataError(f"the graph in the model file cannot be read: {error}", remedy=_AGAIN) from None
    if file.format != _FORMAT:
        raise DataError(
            f"the model file has the format {file.format!r}, and this version reads {_FORMAT!r}",
            remedy="read it with the version of veilsum that wrote it",
        )
    infer(file.graph)
    return file.graph


def _read_weight(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, shape: Shape
) -> NDArray[np.floating[Any]]:
    if info.file_size > 8 * math.prod(shape) + _MOST_HEADER:
        raise DataError(f"the weight {name!r} is longer than its shape {shape}", remedy=_AGAIN)
    content = io.BytesIO(archive.read(info))  # checks the entry's CRC
    try:
        version = np.lib.format.read_magic(content)
        found, fortran, dtype = np.lib.format.read_array_header_1_0(content)
    except ValueError as error:
        raise DataError(f"the weight {name!r} cannot be read: {error}", remedy=_AGAIN) from None
    body = content.read()
    plain = version == (1, 0) and dtype in _DTYPES and not fortran
    if not plain or found != shape or len(body) != dtype.itemsize * math.prod(shape):
        raise DataError(f"the weight {name!r} in the file is not {shape} floats", remedy=_AGAIN)
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))
