"""Weights in files beside a model: which they are, and that none leads out of its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from onnxsep.errors import InputError
from onnxsep.files import holds_bytes

# How the key "location" of external data is written: field 1, of eight characters.
_LOCATION_KEY = b"\x0a\x08location"


def external_files(path: Path) -> dict[str, Path]:
    """The files beside a model in which its weights are, by the name that the model calls them.

    Raises:
        InputError: The model cannot be read, or points outside its folder.
    """
    # Most models have none, and the largest of these are not read for that answer.
    if not holds_bytes(path, _LOCATION_KEY):
        return {}
    proto = onnx.load(path, load_external_data=False)
    check_external_data(proto, path)
    names = {
        entry.value
        for tensor in tensors_of(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {name: path.parent / name for name in sorted(names)}


def check_external_data(proto: onnx.ModelProto, path: Path) -> bool:
    """Refuse external data that are missing, too short, or not in the model's own folder.

    Returns:
        Whether there are any.
    """
    folder = path.parent.resolve()
    found = False
    for tensor in tensors_of(proto):
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


def graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and those inside its nodes and inside the nodes of functions."""
    yield proto.graph
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield graph
                waiting.extend(graph.node)


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in functions and subgraphs too."""
    nodes = [node for function in proto.functions for node in function.node]
    for graph in graphs_of(proto):
        yield from graph.initializer
        nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
