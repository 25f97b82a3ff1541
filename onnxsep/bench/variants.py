"""Versions of a model that cells ask for: another precision, all dimensions fixed.

The float model of the matrix is the source. Where the matrix names no file for a precision, one is
made with our own passes, as `onnxsep optimize` would, but without separation and with min-max
ranges: fp16 with inputs and outputs kept in float32; int8 with per-channel weights,
BatchNormalization folded before, and the data types that the cell's provider takes (with others it
falls back, node by node, to the CPU).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.model import load_model, save_model
from onnxsep.passes.base import RewriteResult
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate
from onnxsep.passes.simplify import Simplify
from onnxsep.passes.to_fp16 import ToFp16
from onnxsep.runtime import Feeds

DEFAULT_TARGET = "cpu"
# The target whose types a provider takes. CUDA has no integer kernels, whatever the types are.
_TARGETS: Mapping[str, str] = {
    "NnapiExecutionProvider": "nnapi",
    "XnnpackExecutionProvider": "xnnpack",
    "TensorrtExecutionProvider": "tensorrt",
    "NvTensorRTRTXExecutionProvider": "tensorrt",
}


def int8_target(provider: str) -> str:
    """Whose int8 types a provider takes; those of the x86 CPU where nothing better is known."""
    return _TARGETS.get(provider, DEFAULT_TARGET)


def make_fp16(source: Path, destination: Path, feeds: Sequence[Feeds]) -> str:
    """Convert weights and operators to float16, inputs and outputs kept as they are.

    Args:
        source: The float model.
        destination: Where to write.
        feeds: Images on which the result must be near the model.

    Returns:
        How it was made, for the report.

    Raises:
        InputError: It cannot be converted.
    """
    model = load_model(source)
    Normalize()(model)
    _require_change(ToFp16(feeds[:1])(model), source, "made fp16")
    save_model(model, destination)
    return "made by onnxsep: float16, inputs and outputs kept in float32"


def make_int8(
    source: Path,
    destination: Path,
    feeds: Sequence[Feeds],
    target: str,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Quantize with per-channel weights and min-max ranges.

    Args:
        source: The float model.
        destination: Where to write.
        feeds: Calibration images; of ``shapes``, where these are given.
        target: Name of a target, see `int8_target`.
        shapes: What to fix the inputs to, by name; None leaves them as they are.

    Returns:
        How it was made, for the report.

    Raises:
        InputError: It cannot be quantized.
    """
    model = load_model(source)
    if shapes is not None:
        _fix(model, shapes, source.name)
    for rewrite in (Normalize(), Simplify(list(feeds[:1])), FoldBatchNorm()):
        rewrite(model)
    settings = QuantizeSettings(target=target)
    try:
        wanted = values_to_calibrate(model, settings)
    except ConfigurationError as error:
        raise InputError(f"{source.name} cannot be quantized: {error}") from error
    statistics = collect_statistics(model, feeds, wanted, threads=0)
    _require_change(Quantize(statistics, settings)(model), source, "quantized")
    save_model(model, destination)
    count = sum(len(next(iter(feed.values()))) for feed in feeds)
    return (
        f"made by onnxsep: int8 for {target}, min-max on {count} images, per-channel weights, "
        f"{settings.scheme().activation} activations"
    )


def fix_dimensions(source: Path, destination: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the model with every input of one shape.

    Args:
        source: The model.
        destination: Where to write.
        shapes: By input name.

    Raises:
        InputError: A shape contradicts the model's.
    """
    model = load_model(source)
    _fix(model, shapes, source.name)
    save_model(model, destination)


def _fix(model: ir.Model, shapes: Mapping[str, Sequence[int]], label: str) -> None:
    for value in model.graph.inputs:
        shape = shapes.get(value.name or "")
        if shape is None:
            continue
        if value.shape is not None:
            fixed = [axis if isinstance(axis, int) else None for axis in value.shape]
            if len(fixed) != len(shape) or any(
                want is not None and want != size for want, size in zip(fixed, shape, strict=True)
            ):
                raise InputError(f"the input '{value.name}' of {label} cannot be {shape}")
        value.shape = ir.Shape(shape)
    for output in model.graph.outputs:
        # Their old symbolic sizes would contradict; onnxruntime infers them again.
        if output.shape is not None:
            output.shape = ir.Shape([None] * len(output.shape))
    # The same goes for what exporters noted on the way.
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None


def _require_change(result: RewriteResult, source: Path, what: str) -> None:
    if not result.modified:
        reason = result.refusals[0].reason if result.refusals else "there is nothing to convert"
        raise InputError(f"{source.name} cannot be {what}: {reason}")
