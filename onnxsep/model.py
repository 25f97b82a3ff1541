"""Models at the door: loading what a stranger hands us, saving so that nothing is half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from onnxsep.errors import InputError, OutputError

# Protobuf refuses messages of 2 GiB; the margin leaves room for the graph around the weights.
PROTOBUF_LIMIT_BYTES = 2**31 - 2**26
_PROTOBUF_MOST_BYTES = 2**31 - 1

# Not made from the model's own name: that may be as long as the file system allows.
_TEMPORARY_PREFIX = ".onnxsep-"
_LONGEST_REASON = 240


def load_model(path: str | Path) -> ir.Model:
    """Read an ONNX file (binary protobuf, with or without external data) and check it.

    External data are memory-mapped where the whole is too large for one protobuf message, and read
    into memory otherwise, so that the file may move while we work.

    Raises:
        InputError: The file is missing, no ONNX model, truncated, or against the ONNX standard; its
            weights do not fill their shapes; or its external data are missing, too short or outside
            the model's own folder.
    """
    path = Path(path)
    data = _read(path)
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not an ONNX model, or is truncated; export or copy it again"
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise InputError(f"{path} holds no ONNX graph; is it the right file?")
    if not _is_text(proto):
        raise InputError(f"{path} holds names or texts that are not UTF-8; export it again")
    # onnx-ir would drop them without a word.
    if any(graph.sparse_initializer for graph in _graphs(proto)):
        raise InputError(
            f"{path} holds sparse initializers, which are not supported; export it with dense ones"
        )
    external = _check_external_data(proto, path)
    try:
        # Given bytes, the checker would look for external data in the current folder.
        onnx.checker.check_model(path if external else data)
        model = ir.serde.deserialize_model(proto)
        _set_base_directory(model, path.parent)
        _check_tensors(model)
        _load_external_attributes(model)
        if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
            ir.external_data.load_to_model(model)
    except Exception as error:  # the libraries raise many kinds on malformed graphs
        raise InputError(f"{path} is not a valid ONNX model: {_sentence(error)}") from error
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


def external_files(path: Path) -> dict[str, Path]:
    """The files beside a model in which its weights are, by the name that the model calls them.

    Raises:
        InputError: The model cannot be read, or points outside its folder.
    """
    proto = onnx.load(path, load_external_data=False)
    _check_external_data(proto, path)
    names = {
        entry.value
        for tensor in _tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {name: path.parent / name for name in sorted(names)}


def default_output_path(path: Path) -> Path:
    """``model.onnx`` → ``model.onnxsep.onnx`` in the same folder.

    Raises:
        InputError: ``path`` names a folder (``.`` or ``/``).
    """
    if not path.name:
        raise InputError(f"{path} is a folder, not a model; give the .onnx file")
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
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
        if weight_bytes(model) < PROTOBUF_LIMIT_BYTES:
            with atomic_file(path) as temporary:
                temporary.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
            return [path]
        data_path = path.with_name(path.name + ".data")
        _require_replaceable(path)
        _require_replaceable(data_path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_TEMPORARY_PREFIX) as folder:
            written = Path(folder, path.name)
            ir.save(model, written, format="protobuf", external_data=data_path.name)
            _sync(written.with_name(data_path.name))
            _sync(written)
            with _replaced(data_path, written.with_name(data_path.name)):
                os.replace(written, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return [path, data_path]


@contextlib.contextmanager
def _replaced(path: Path, new: Path) -> Iterator[None]:
    """``new`` takes the place of ``path``, which comes back if the block fails."""
    old = new.with_name(new.name + ".old")
    existed = path.exists()
    if existed:
        os.replace(path, old)
    try:
        os.replace(new, path)
        yield
    except BaseException:
        if existed:
            os.replace(old, path)
        else:
            path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    Raises:
        OSError: It cannot be written, or something else than a regular file is in its place.
    """
    _require_replaceable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY_PREFIX, suffix=".part")
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


def _require_replaceable(path: Path) -> None:
    # Replacing /dev/null or /dev/stdout would break the machine, not write to it.
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it exists and is no regular file", str(path))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a model; give the .onnx file")
        if not path.exists():
            raise InputError(f"no such file: {path}")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file; give the .onnx file")
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty (0 bytes); export or copy it again")
        if size > _PROTOBUF_MOST_BYTES:
            raise InputError(
                f"{path} is larger than 2 GB, which no ONNX file can be; "
                "export it with external data"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _sentence(error: Exception) -> str:
    """A library's message on one line, without the context that it adds behind an arrow."""
    text = " ".join(str(error).partition("==>")[0].split())[:_LONGEST_REASON]
    return text or type(error).__name__


def _is_text(message: Message) -> bool:
    """Whether all strings are; protobuf hands others out as bytes, and fails to write them back."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            if not all(isinstance(text, str) for text in _each(value)):
                return False
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not all(map(_is_text, _each(value))):
            return False
    return True


def _each(value: Any) -> Iterable[Any]:
    """The elements of a field that may be repeated."""
    return [value] if isinstance(value, (str, bytes, Message)) else value


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and those inside its nodes and inside the nodes of functions."""
    yield proto.graph
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield graph
                waiting.extend(graph.node)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    nodes = [node for function in proto.functions for node in function.node]
    for graph in _graphs(proto):
        yield from graph.initializer
        nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_external_data(proto: onnx.ModelProto, path: Path) -> bool:
    """Refuse external data that are missing, too short, or not in the model's own folder.

    Returns:
        Whether there are any.
    """
    folder = path.parent.resolve()
    found = False
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        found = True
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = Path(folder, location)
        if not location or Path(location).is_absolute() or not _is_inside(file, folder):
            raise InputError(
                f"{path}: weight '{tensor.name}' points outside the model's folder "
                f"({location!r}); onnxsep reads external data from that folder only"
            )
        if not _is_file(file):
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
    return found


def _is_inside(file: Path, folder: Path) -> bool:
    # resolve() follows symbolic links, so a link out of the folder is found out too.
    try:
        return file.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in the name
        return False


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _inner_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of the model: initializers, and the attributes of all nodes."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in _inner_nodes(model):
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.as_tensors()


def _inner_nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _set_base_directory(model: ir.Model, folder: Path) -> None:
    for tensor in _inner_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            # Absolute, for memory-mapped data that are opened after a change of folder.
            tensor.base_dir = folder.absolute()


def _check_tensors(model: ir.Model) -> None:
    """Refuse tensors whose data do not fill their shape; found later, that would be a traceback.

    Raises:
        ValueError: Names the tensor.
    """
    for tensor in _inner_tensors(model):
        if (
            isinstance(tensor, ir.ExternalTensor)
            and tensor.length is not None
            and tensor.length < tensor.nbytes
        ):
            raise ValueError(
                f"weight '{tensor.name}' has {tensor.length} bytes, its shape {tensor.shape} "
                f"needs {tensor.nbytes}"
            )
        try:
            tensor.numpy()
        except Exception as error:  # every type of data fails in its own way
            raise ValueError(f"weight '{tensor.name}' is malformed ({error})") from error


def _load_external_attributes(model: ir.Model) -> None:
    """Into memory, always: onnx-ir neither loads them nor writes them to a new place."""
    for node in _inner_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(
                attribute.value, ir.ExternalTensor
            ):
                (tensor,) = ir.external_data.convert_tensors_from_external([attribute.value])
                node.attributes[name] = ir.AttrTensor(name, tensor)
