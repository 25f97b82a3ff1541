"""The two models of a comparison: whatever onnxruntime runs, and its graph where it can be read."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import onnx_ir as ir
import onnxruntime
from google.protobuf.message import DecodeError

from onnxsep.comparison.record import ModelRow
from onnxsep.errors import InputError
from onnxsep.model import load_model, model_bytes, serialized_bytes
from onnxsep.passes.normalize import Normalize
from onnxsep.report.build import count_parameters
from onnxsep.runtime import make_session

IN_MEMORY = "(in memory)"


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """One model.

    Attributes:
        title: What messages call it.
        source: What onnxruntime is given: the file as it is, or a model in memory.
        session: On the CPU provider, all cores.
        graph: A clean copy to look into; None where it cannot be read.
        refusal: Why not, one clause.
        facts: Path, size, parameters; no multiplications yet.
    """

    title: str
    source: ir.Model | Path
    session: onnxruntime.InferenceSession
    graph: ir.Model | None
    refusal: str
    facts: ModelRow


def open_subject(given: str | Path | ir.Model, title: str) -> Subject:
    """Open a model with onnxruntime, and read its graph if that can be done.

    A file that is against the ONNX standard, or holds what onnxsep cannot rewrite, is compared
    nevertheless as long as onnxruntime runs it.

    Args:
        given: A file, or a model in memory, which is left unchanged.
        title: What messages call it.

    Raises:
        InputError: There is no such file, its weights lie outside its folder, or onnxruntime
            cannot load it.
    """
    if isinstance(given, ir.Model):
        graph = given.clone()
        session = make_session(given, label=title)
        Normalize()(graph)
        facts = _facts(IN_MEMORY, "", serialized_bytes(given), graph)
        return Subject(title, given, session, graph, "", facts)
    path = Path(given)
    try:
        graph = load_model(path)
        size = model_bytes(path)
        Normalize()(graph)
    except InputError as refusal:
        return _unread(path, title, refusal)
    facts = _facts(str(path), _digest(path), size, graph)
    return Subject(title, path, make_session(path, label=title), graph, "", facts)


def _unread(path: Path, title: str, refusal: InputError) -> Subject:
    """A file of which only onnxruntime can make sense.

    Raises:
        InputError: The refusal, if it cannot either.
    """
    # Only what is a real file, with its weights in its own folder, is handed on.
    size = _bytes_on_disk(path, refusal)
    try:
        session = make_session(path, label=title)
    except InputError:
        raise refusal from None
    return Subject(
        title, path, session, None, str(refusal), _facts(str(path), _digest(path), size, None)
    )


def _bytes_on_disk(path: Path, refusal: InputError) -> int:
    if not path.is_file():
        raise refusal
    try:
        return model_bytes(path)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise refusal from error


def _facts(path: str, digest: str, size: int, graph: ir.Model | None) -> ModelRow:
    return ModelRow(
        path=path,
        sha256=digest,
        bytes=size,
        parameters=None if graph is None else count_parameters(graph),
        nodes=None if graph is None else len(graph.graph),
        multiplications=None,
        multiplications_by_kind={},
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
