"""Models at the door: loading what a stranger hands us, saving so that nothing is half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxsep.errors import InputError, OutputError

# Protobuf refuses messages of 2 GiB; the margin leaves room for the graph around the weights.
PROTOBUF_LIMIT_BYTES = 2**31 - 2**26


def load_model(path: str | Path) -> ir.Model:
    """Read an ONNX file (binary protobuf, with or without external data).

    External data are memory-mapped where the whole is too large for one protobuf message, and read
    into memory otherwise, so that the file may move while we work.

    Raises:
        InputError: The file is missing, no ONNX model, truncated, or its external data are missing,
            too short or outside the model's own folder.
    """
    path = Path(path)
    _require_readable_file(path)
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not an ONNX model, or is truncated; export or copy it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise InputError(f"{path} holds no ONNX graph; is it the right file?")
    _check_external_data(proto, path)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:  # onnx-ir raises many kinds on malformed graphs
        raise InputError(
            f"{path} is not a valid ONNX model: {str(error).splitlines()[0][:200]}"
        ) from error
    _set_base_directory(model, path.parent)
    if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
        ir.external_data.load_to_model(model)
    return model


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, subgraphs included."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def model_bytes(path: Path, model: ir.Model) -> int:
    """Bytes on disk of the file at ``path`` and, where its weights lie outside, of these."""
    size = path.stat().st_size
    weights = weight_bytes(model)
    return size if size >= weights else size + weights


def serialized_bytes(model: ir.Model) -> int:
    """Bytes that `save_model` writes, the weights included."""
    weights = weight_bytes(model)
    if weights >= PROTOBUF_LIMIT_BYTES:
        return weights
    return int(ir.to_proto(model).ByteSize())


def default_output_path(path: Path) -> Path:
    """``model.onnx`` → ``model.onnxsep.onnx`` in the same folder."""
    return path.with_name(f"{path.stem}.onnxsep.onnx")


def save_model(model: ir.Model, path: str | Path) -> list[Path]:
    """Write ``model`` to ``path`` in one step: whoever looks sees the old file or the new one.

    Weights beyond the limit of one protobuf message go to ``<name>.data`` beside the file.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
    try:
        if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
            with atomic_file(path) as temporary:
                temporary.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
            return [path]
        data_path = path.with_name(path.name + ".data")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnxsep-") as folder:
            written = Path(folder, path.name)
            ir.save(model, written, format="protobuf", external_data=data_path.name)
            _sync(written.with_name(data_path.name))
            _sync(written)
            os.replace(written.with_name(data_path.name), data_path)
            os.replace(written, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return [path, data_path]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}-", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes files private; a result should be as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _require_readable_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a model; give the .onnx file")
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; give the .onnx file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); export or copy it again")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _tensors(attribute.g)
        for subgraph in attribute.graphs:
            yield from _tensors(subgraph)


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse external data that are missing, too short, or not in the model's own folder."""
    tensors = list(_tensors(proto.graph))
    for function in proto.functions:
        for node in function.node:
            tensors.extend(_attribute_tensors(node))
    folder = path.parent.resolve()
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = Path(folder, location)
        if not location or Path(location).is_absolute() or not _is_inside(file, folder):
            raise InputError(
                f"{path}: weight '{tensor.name}' points outside the model's folder "
                f"({location!r}); onnxsep reads external data from that folder only"
            )
        if not file.is_file():
            raise InputError(
                f"{path}: its weights are in {location!r}, which is missing; "
                "put that file beside the model"
            )
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError as error:
            raise InputError(f"{path}: weight '{tensor.name}' has a malformed offset") from error
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise InputError(
                f"{path}: {location!r} is too short for weight '{tensor.name}'; copy it again"
            )


def _is_inside(file: Path, folder: Path) -> bool:
    # resolve() follows symbolic links, so a link out of the folder is found out too.
    return file.resolve().is_relative_to(folder)


def _set_base_directory(model: ir.Model, folder: Path) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.base_dir = folder
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(
                    attribute.value, ir.ExternalTensor
                ):
                    attribute.value.base_dir = folder
