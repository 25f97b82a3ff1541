"""Models at the door: loading what a stranger hands us, saving so that nothing is half-written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from onnxsep.errors import InputError, OutputError
from onnxsep.external_data import check_external_data, external_files, graphs_of, tensors_of
from onnxsep.files import (
    atomic_file,
    claimed,
    finish,
    folder_lock,
    sync_folder,
    unfinished_file,
)
from onnxsep.weights import (
    PROTOBUF_LIMIT_BYTES,
    is_large,
    map_weights,
    weight_bytes,
    write_weights,
)

__all__ = [
    "PROTOBUF_LIMIT_BYTES",
    "atomic_file",
    "default_output_path",
    "external_files",
    "is_large",
    "load_model",
    "model_bytes",
    "save_model",
    "serialized_bytes",
    "weight_bytes",
]

_PROTOBUF_MOST_BYTES = 2**31 - 1
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
    if any(graph.sparse_initializer for graph in graphs_of(proto)):
        raise InputError(
            f"{path} holds sparse initializers, which are not supported; export it with dense ones"
        )
    _check_interface(proto, path)
    external = check_external_data(proto, path)
    try:
        # Given bytes, the checker would look for external data in the current folder.
        onnx.checker.check_model(path if external else data)
        model = ir.serde.deserialize_model(proto)
        _set_base_directory(model, path.parent)
        _check_tensors(model)
        _load_external_attributes(model)
        if is_large(model):
            map_weights(model)
        else:
            ir.external_data.load_to_model(model)
    except Exception as error:  # the libraries raise many kinds on malformed graphs
        raise InputError(f"{path} is not a valid ONNX model: {_sentence(error)}") from error
    return model


def model_bytes(path: Path) -> int:
    """Bytes on disk of the file at ``path`` and of the files beside it that hold its weights."""
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(path).values())


def serialized_bytes(model: ir.Model) -> int:
    """Bytes that `save_model` writes, the weights included."""
    if is_large(model):
        return weight_bytes(model)
    return int(ir.to_proto(model).ByteSize())


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

    Weights beyond the limit of one protobuf message go to a file beside it: ``<name>.data``, or
    ``<name>.1.data`` and so on where that name is taken, since a model and its weights can be
    replaced in one step only if the new weights have a name of their own. Those of the model that
    was replaced are removed, if no other model in the folder mentions them.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
        if is_large(model):
            return [path, _save_beside(model, path)]
        with atomic_file(path) as temporary:
            temporary.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return [path]


def _save_beside(model: ir.Model, path: Path) -> Path:
    """Write a model and, into another file, its weights; the path of these."""
    with unfinished_file(path) as weights, unfinished_file(path) as unfinished:
        with weights.open("wb") as file:
            proto = ir.to_proto(write_weights(model, file, weights.name))
        finish(weights)
        with folder_lock(path.parent):
            old = _weights_of(path)
            new = _free_name(path)
            for tensor in tensors_of(proto):
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = new
            unfinished.write_bytes(proto.SerializeToString(deterministic=True))
            finish(unfinished)
            with claimed(path, [new, *old]):
                os.replace(weights, path.with_name(new))
                sync_folder(path.parent)
                os.replace(unfinished, path)
                sync_folder(path.parent)
    return path.with_name(new)


def _free_name(path: Path) -> str:
    """``<name>.data`` or the next one that is free: what is there may be another model's."""
    name, number = f"{path.name}.data", 0
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = f"{path.name}.{number}.data"
    return name


def _weights_of(path: Path) -> list[str]:
    """Files of weights that an earlier `save_model` wrote beside ``path``."""
    pattern = re.compile(re.escape(path.name) + r"(\.[0-9]+)?\.data")
    try:
        return [name for name in external_files(path) if pattern.fullmatch(name)]
    except (InputError, OSError, DecodeError, ValueError):  # no model, or none that can be read
        return []


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


def _check_interface(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse inputs and outputs without a shape, which the checker does without naming them."""
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind == "tensor_type" and not value.type.tensor_type.HasField("shape"):
                raise InputError(
                    f"{path}: the {what} '{value.name}' declares no shape; export the model again, "
                    "or let onnx.shape_inference fill it in"
                )


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
        if isinstance(tensor, ir.ExternalTensor):
            # Each holds a file open, and the number of these is limited.
            tensor.release()


def _load_external_attributes(model: ir.Model) -> None:
    """Into memory, always: onnx-ir neither loads them nor writes them to a new place."""
    for node in _inner_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(
                attribute.value, ir.ExternalTensor
            ):
                (tensor,) = ir.external_data.convert_tensors_from_external([attribute.value])
                node.attributes[name] = ir.AttrTensor(name, tensor)
