"""Weights that are too many for memory: mapped from their files, changed ones kept on disk.

A model whose weights take more than 2 GB would otherwise be in memory several times over: as it
came, as it was changed, and in the session that runs it. Mapped weights take memory only while they
are read, and `drop_pages` gives that back; the numbers stay in their files.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

# Protobuf refuses messages of 2 GiB; the margin leaves room for the graph around the weights.
PROTOBUF_LIMIT_BYTES = 2**31 - 2**26

# Under this key of a graph's meta data is its `Scratch`.
_SCRATCH_KEY = "onnxsep.scratch"
# So many times its own weights may be written for a model: every trial of a search has its own.
_SCRATCH_TIMES = 16
_PAGE = 4096
# Smaller weights stay in the model's own file, where readers look for shapes and axes.
_LEAST_BESIDE_BYTES = 1024
# Memory is given back after so many bytes were written.
_DROP_EVERY_BYTES = 2**26
# Of these several values share a byte; NumPy cannot look at them in place.
_WHOLE_BYTE_BITS = 8


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, subgraphs included."""
    return sum(tensor.nbytes for _, tensor in _initializers(model))


def is_large(model: ir.Model) -> bool:
    """Whether the weights are too many for one protobuf message."""
    return weight_bytes(model) >= PROTOBUF_LIMIT_BYTES


def map_weights(model: ir.Model) -> None:
    """Take external weights for arrays that are mapped from their files, in place.

    One map serves all weights of a file, however many: files that a process may hold open are
    limited in number. What is mapped is there as long as the model, even if the file is removed.

    Raises:
        OSError: A file cannot be mapped.
    """
    maps: dict[str, mmap.mmap] = {}
    for value, tensor in _initializers(model):
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = _mapped(tensor, maps)
    model.graph.meta[_SCRATCH_KEY] = Scratch(_SCRATCH_TIMES * weight_bytes(model))


def kept_array(graph: ir.Graph, array: np.ndarray) -> np.ndarray:
    """``array``, or a read-only view of a copy on disk where the graph's weights are mapped."""
    scratch = graph.meta.get(_SCRATCH_KEY)
    if not isinstance(scratch, Scratch) or array.nbytes < _LEAST_BESIDE_BYTES:
        return array
    return scratch.keep(array)


def drop_pages(model: ir.Model) -> None:
    """Give back the memory that reading mapped weights has taken; they can be read again."""
    for area in {id(area): area for area in _maps(model)}.values():
        _drop(area)


def write_weights(model: ir.Model, file: BinaryIO, location: str) -> ir.Model:
    """Write the larger weights to ``file``, packed one behind the other.

    Args:
        model: Left unchanged.
        file: Open for writing, empty.
        location: What the model shall call that file.

    Returns:
        A copy of the model that says where in the file its weights are.

    Raises:
        OSError: The disk is full.
    """
    outside = model.clone()
    places: dict[int, tuple[int, ir.TensorProtocol]] = {}
    written = 0
    for value, tensor in _initializers(outside):
        if tensor.nbytes < _LEAST_BESIDE_BYTES or tensor.dtype == ir.DataType.STRING:
            continue
        if id(tensor) not in places:
            padding = -file.tell() % _PAGE
            file.write(bytes(padding))
            # The tensor is kept too, so that its id remains its own.
            places[id(tensor)] = file.tell(), tensor
            _write(tensor, file)
            written += tensor.nbytes
            if written >= _DROP_EVERY_BYTES:
                drop_pages(model)
                written = 0
        value.const_value = ir.ExternalTensor(
            location,
            places[id(tensor)][0],
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )
    file.flush()
    drop_pages(model)
    return outside


def save_beside(model: ir.Model, folder: Path) -> Path:
    """Write a large model into an empty folder as two files; the path of the model.

    Raises:
        OSError: The disk is full.
    """
    path = folder / "model.onnx"
    with (folder / "model.data").open("wb") as file:
        outside = write_weights(model, file, "model.data")
    path.write_bytes(ir.to_proto(outside).SerializeToString(deterministic=True))
    return path


class Scratch:
    """A file without a name that arrays are moved to; the system removes it with the process."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._file: BinaryIO | None = None
        self._map: mmap.mmap | None = None

    def keep(self, array: np.ndarray) -> np.ndarray:
        """A read-only view of a copy on disk, or the array itself once the file is full.

        Raises:
            OSError: The disk is full.
        """
        if self._used + array.nbytes > self._capacity:
            return array
        if self._file is None:
            self._open()
        if self._file is None or self._map is None:
            return array
        offset = self._used
        # Written, not stored through the map: on a full disk that would kill the process.
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._file.flush()
        self._used += array.nbytes + -array.nbytes % _PAGE
        view = np.frombuffer(self._map, dtype=array.dtype, count=array.size, offset=offset)
        return view.reshape(array.shape)

    def _open(self) -> None:
        try:
            file = tempfile.TemporaryFile(prefix="onnxsep-")  # noqa: SIM115 - kept open
            # A hole: takes no space until it is written to.
            file.truncate(self._capacity)
            self._map = mmap.mmap(file.fileno(), self._capacity, access=mmap.ACCESS_READ)
        except OSError:  # a file system without holes or maps: then memory must do
            self._capacity = 0
            return
        self._file = file


def _initializers(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _mapped(tensor: ir.ExternalTensor, maps: dict[str, mmap.mmap]) -> ir.TensorProtocol:
    kind = tensor.dtype
    if tensor.nbytes == 0 or kind.bitwidth < _WHOLE_BYTE_BITS:
        (inside,) = ir.external_data.convert_tensors_from_external([tensor])
        return inside
    path = os.path.realpath(tensor.path)
    if path not in maps:
        with open(path, "rb") as file:
            maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(
        maps[path],
        dtype=np.dtype(kind.numpy()).newbyteorder("<"),
        count=tensor.size,
        offset=tensor.offset or 0,
    )
    return ir.Tensor(array.reshape(tensor.shape.numpy()), dtype=kind, name=tensor.name)


def _write(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    array = tensor.numpy()
    plain = tensor.dtype.bitwidth >= _WHOLE_BYTE_BITS and array.flags.c_contiguous
    if plain and sys.byteorder == "little":
        file.write(array.reshape(-1).view(np.uint8).data)
    else:
        file.write(tensor.tobytes())


def _maps(model: ir.Model) -> Iterator[mmap.mmap]:
    for _, tensor in _initializers(model):
        if isinstance(tensor, ir.ExternalTensor):
            if tensor.raw is not None:
                yield tensor.raw
            continue
        holder: Any = tensor.raw
        while isinstance(holder, np.ndarray | memoryview):
            holder = holder.base if isinstance(holder, np.ndarray) else holder.obj
        if isinstance(holder, mmap.mmap):
            yield holder


def _drop(area: mmap.mmap) -> None:
    if hasattr(area, "madvise"):  # not on Windows
        area.madvise(mmap.MADV_DONTNEED)
