"""Where the time goes: the model profiled in a process of its own, kernels led back to layers."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxsep.bench.job import Answer, Job
from onnxsep.bench.prepare import INPUTS_FILE, MODEL_FILE
from onnxsep.bench.transport import Failure, LocalTransport
from onnxsep.data.files import write_npz
from onnxsep.errors import InputError, OutputError
from onnxsep.inspection.record import Layer
from onnxsep.inspection.sizes import Sizes
from onnxsep.model import save_model

_TIMEOUT_SECONDS = 300.0
_PLACE = "profile"
# Layout transforms, fusions and casts add these to the name of a node or of its result.
_SUFFIX = re.compile(r"(_nhwc|_nchwc|_quant|_transformed|_token_\d+)+$")
_PREFIX = re.compile(r"^(InsertedPrecisionFreeCast_|fused )+")
# A convolution that was fused with what is behind it has the name of that one's result.
_FUSED_BEHIND = 4
_KINDS = ("standard", "pointwise", "depthwise", "grouped", "ConvTranspose")
_CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Times of one run.

    Attributes:
        total_ms: Of all kernels.
        layers: Milliseconds by name of a layer.
        others: Of what is no convolution, by type of operator.
        unattributed_ms: Of convolutions that no layer's name leads to.
    """

    total_ms: float
    layers: Mapping[str, float]
    others: Mapping[str, float]
    unattributed_ms: float


def profile_layers(model: ir.Model, sizes: Sizes, layers: Sequence[Layer], threads: int) -> Profile:
    """Run the model on this machine's CPU provider under onnxruntime's profiler.

    Args:
        model: Normalized.
        sizes: Has the inputs.
        layers: To find the kernels' names among.
        threads: Threads inside one operator.

    Raises:
        InputError: The model does not run.
        OutputError: There is no room for the files of the job.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
            transport = LocalTransport(Path(folder))
            place = Path(folder, _PLACE)
            place.mkdir()
            save_model(model, place / MODEL_FILE)
            write_npz(place / INPUTS_FILE, sizes.feeds)
            job = Job(task="profile", model=MODEL_FILE, inputs=INPUTS_FILE, intra_threads=threads)
            answer = transport.run(_PLACE, job, _TIMEOUT_SECONDS)
    except OSError as error:
        raise OutputError(f"cannot profile the model: {error.strerror or error}") from error
    if isinstance(answer, Failure) or answer.status != "ok":
        raise InputError(f"the model could not be profiled: {answer.reason}")
    return _attributed(answer, model, layers)


def _attributed(answer: Answer, model: ir.Model, layers: Sequence[Layer]) -> Profile:
    names = {layer.name for layer in layers}
    makers: dict[str, ir.Node] = {
        value.name: node for node in model.graph.all_nodes() for value in node.outputs if value.name
    }
    times: dict[str, float] = {}
    others: dict[str, float] = {}
    lost = total = 0.0
    for kernel in answer.kernels:
        milliseconds = _milliseconds(kernel)
        if kernel.get("op_type") in _CONTROL_FLOW:
            continue  # What is inside has rows of its own.
        total += milliseconds
        kind = str(kernel.get("kind", ""))
        if kind not in _KINDS:
            others[kind] = others.get(kind, 0.0) + milliseconds
            continue
        layer = layer_of_kernel(str(kernel.get("name", "")), names, makers)
        if layer is None:
            lost += milliseconds
        else:
            times[layer] = times.get(layer, 0.0) + milliseconds
    return Profile(total, times, others, lost)


def layer_of_kernel(name: str, layers: set[str], makers: Mapping[str, ir.Node]) -> str | None:
    """The layer behind the name of a kernel in the graph that really runs; None if none is found.

    Args:
        name: Of the kernel.
        layers: Names of the convolutions' nodes.
        makers: Node by name of its result.
    """
    for plain in (name, _PREFIX.sub("", _SUFFIX.sub("", name))):
        if plain in layers:
            return plain
        node = makers.get(plain)
        for _ in range(_FUSED_BEHIND):
            if node is None:
                break
            if node.name in layers:
                return node.name
            sources = [value.producer() for value in node.inputs if value is not None]
            before = [source for source in sources if source is not None]
            close = [source for source in before if source.name in layers]
            node = next(iter(close or before), None)
    return None


def _milliseconds(kernel: Mapping[str, Any]) -> float:
    runs = kernel.get("runs") or 1
    value = float(kernel.get("microseconds") or 0) / float(runs) / 1000
    return value if math.isfinite(value) else 0.0
