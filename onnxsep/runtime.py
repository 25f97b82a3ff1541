"""The one door to onnxruntime: sessions with explicit threads, models cut between two values."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxsep.errors import InputError, OutputError
from onnxsep.weights import is_large, save_beside

_SILENT = 4  # onnxruntime's log severity "fatal": what matters reaches the user as our own error

Feeds = Mapping[str, np.ndarray]


def make_session(
    model: ir.Model | Path, *, threads: int = 0, label: str = "the model"
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU provider.

    Args:
        model: Left unchanged; or the file of one, which is then taken as it is.
        threads: Threads inside one operator; 0 leaves the choice to onnxruntime (all cores).
        label: What the error message calls the model.

    Raises:
        InputError: onnxruntime cannot load the model.
        OutputError: The temporary folder has no room for the weights of a large one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # Spinning pools of several sessions take the cores from each other and from the solvers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _serialized(model) as source:
        try:
            if isinstance(model, ir.Model) and isinstance(source, str):
                source = _fused(model, Path(source))
            return onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"onnxruntime cannot load {label}: {first_line(error)}") from error


@contextlib.contextmanager
def _serialized(model: ir.Model | Path) -> Iterator[bytes | str]:
    """The model as bytes, or as a temporary file where it is too large for one message."""
    if isinstance(model, Path):
        yield str(model)
        return
    if not is_large(model):
        yield ir.to_proto(model).SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        try:
            path = save_beside(model, Path(folder))
        except OSError as error:
            raise OutputError(
                f"a model above 2 GB needs as much room again in {tempfile.gettempdir()} "
                f"({error.strerror or error}); set TMPDIR to a folder with more"
            ) from error
        yield str(path)


def _fused(model: ir.Model, path: Path) -> str:
    """The file of a large model with BatchNormalization fused by onnxruntime, and nothing else.

    In one go onnxruntime would hold the weights twice: fused, and again in the order its kernels
    like. Written down between the two, they are in memory once; the session is the same.
    """
    if not any(node.op_type == "BatchNormalization" for node in model.graph.all_nodes()):
        return str(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    fused = path.with_name("fused.onnx")
    options.optimized_model_filepath = str(fused)
    beside = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{beside}file_name", "fused.data")
    options.add_session_config_entry(f"{beside}min_size_in_bytes", "1024")
    options.add_session_config_entry("session.disable_prepacking", "1")
    onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    for file in path.parent.iterdir():
        if not file.name.startswith("fused"):
            file.unlink()
    return str(fused)


def run(session: onnxruntime.InferenceSession, feeds: Feeds, *, label: str) -> list[np.ndarray]:
    """Run once, onnxruntime's failures turned into one sentence.

    Raises:
        InputError: The data do not fit the model, or an operator fails on them.
    """
    try:
        # onnxruntime takes no NumPy scalars, which is what indexing makes of single values.
        return list(session.run(None, {name: np.asarray(value) for name, value in feeds.items()}))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{label} fails on the data: {first_line(error)}") from error


def cut_model(model: ir.Model, examples: Sequence[Feeds], outputs: Sequence[str]) -> ir.Model:
    """The part of the main graph that computes ``outputs`` from inputs, as a model of its own.

    Args:
        model: Left unchanged; its weights are shared, not copied.
        examples: One array or more for each input, any values of the main graph: they give type
            and shape. The first axis is the batch and stays free, and so does every other in which
            the examples differ.
        outputs: Any values of the main graph that depend on nothing but the inputs.
    """
    graph = ir.convenience.extract(model.graph, list(examples[0]), outputs)
    for value in graph.inputs:
        arrays = [example[value.name or ""] for example in examples]
        shapes = {array.shape for array in arrays}
        value.dtype = ir.DataType.from_numpy(arrays[0].dtype)
        # Without names: where two sizes share one, onnxruntime reuses memory as if they were equal.
        value.shape = ir.Shape(
            [
                sizes[0] if axis > 0 and len(set(sizes)) == 1 else None
                for axis, sizes in enumerate(zip(*shapes, strict=True))
            ]
        )
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def first_line(error: BaseException) -> str:
    """The part of a library's message that fits into one sentence, without its own prefix."""
    text = str(error).strip()
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    lines = text.splitlines()
    return lines[0][:240] if lines else type(error).__name__
