"""Versions of a model that cells ask for: another precision, all dimensions fixed.

The float model of the matrix is the source. Where the matrix names no file for a precision, one is
made with onnxruntime's own tools, as a user without anything better would: fp16 with inputs and
outputs kept in float32; int8 with per-channel weights and min-max ranges, BatchNormalization folded
before, and the data types that the cell's provider takes (FACTS: with others it falls back, node by
node, to the CPU).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxsep.errors import InputError
from onnxsep.model import load_model, save_model
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.simplify import Simplify
from onnxsep.runtime import Feeds, first_line

# Per-axis DequantizeLinear came with it.
_FEWEST_OPSET_QUANTIZED = 13


@dataclasses.dataclass(frozen=True)
class QuantizationTypes:
    """Data types of int8 that a provider takes.

    Attributes:
        name: Part of the variant's name, so that providers of one kind share a file.
        activation: ``uint8`` or ``int8``.
        symmetric: Whether activations have zero point 0.
    """

    name: str
    activation: str
    symmetric: bool


DEFAULT_TYPES = QuantizationTypes("u8", "uint8", symmetric=False)
_SIGNED = QuantizationTypes("s8", "int8", symmetric=False)
_SYMMETRIC = QuantizationTypes("s8-symmetric", "int8", symmetric=True)
_TYPES: Mapping[str, QuantizationTypes] = {
    "CPUExecutionProvider": DEFAULT_TYPES,
    "NnapiExecutionProvider": DEFAULT_TYPES,
    "XnnpackExecutionProvider": _SIGNED,
    "TensorrtExecutionProvider": _SYMMETRIC,
    "NvTensorRTRTXExecutionProvider": _SYMMETRIC,
}


def quantization_types(provider: str) -> QuantizationTypes:
    """The int8 types for a provider; those of the x86 CPU where nothing better is known."""
    return _TYPES.get(provider, DEFAULT_TYPES)


def make_fp16(source: Path, destination: Path) -> str:
    """Convert weights and operators to float16, inputs and outputs kept as they are.

    Returns:
        How it was made, for the report.

    Raises:
        InputError: onnxruntime's converter cannot do it.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = ir.to_proto(load_model(source))
    try:
        converted = convert_float_to_float16(proto, keep_io_types=True)
    except Exception as error:  # the converter raises whatever its parts raise
        raise InputError(f"{source.name} cannot be made fp16: {first_line(error)}") from error
    model = ir.from_proto(converted)
    model.graph.sort()  # the converter appends its Casts at the end
    save_model(model, destination)
    return "made with onnxruntime's float16 converter, inputs and outputs kept in float32"


def make_int8(
    source: Path, destination: Path, feeds: Sequence[Feeds], types: QuantizationTypes
) -> str:
    """Quantize with onnxruntime's ``quantize_static``: per-channel weights, min-max ranges.

    Args:
        source: The float model.
        destination: Where to write.
        feeds: Calibration images.
        types: What the provider takes.

    Returns:
        How it was made, for the report.

    Raises:
        InputError: onnxruntime cannot quantize it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = load_model(source)
    for rewrite in (Normalize(), Simplify(list(feeds[:1])), FoldBatchNorm()):
        rewrite(model)
    activation = QuantType.QUInt8 if types.activation == "uint8" else QuantType.QInt8
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        cleaned, quantized = Path(folder, "cleaned.onnx"), Path(folder, "quantized.onnx")
        save_model(model, cleaned)
        _raise_opset(cleaned)
        try:
            quantize_static(
                str(cleaned),
                str(quantized),
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=activation,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": types.symmetric},
            )
        except Exception as error:  # the quantizer raises whatever its parts raise
            raise InputError(f"{source.name} cannot be quantized: {first_line(error)}") from error
        save_model(load_model(quantized), destination)
    count = sum(len(next(iter(feed.values()))) for feed in feeds)
    return (
        f"made with onnxruntime's quantize_static: min-max on {count} images, per-channel weights, "
        f"{types.activation} activations"
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
    for value in model.graph.inputs:
        shape = shapes.get(value.name or "")
        if shape is None:
            continue
        if value.shape is not None:
            fixed = [axis if isinstance(axis, int) else None for axis in value.shape]
            if len(fixed) != len(shape) or any(
                want is not None and want != size for want, size in zip(fixed, shape, strict=True)
            ):
                raise InputError(f"the input '{value.name}' of {source.name} cannot be {shape}")
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
    save_model(model, destination)


class _Reader:
    """Images for onnxruntime's calibrators, one feed at a time."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed, None at the end."""
        feed = next(self._feeds, None)
        return None if feed is None else {name: np.asarray(value) for name, value in feed.items()}


def _raise_opset(path: Path) -> None:
    proto = onnx.load(path)
    if any(
        entry.domain in ("", "ai.onnx") and entry.version < _FEWEST_OPSET_QUANTIZED
        for entry in proto.opset_import
    ):
        onnx.save(onnx.version_converter.convert_version(proto, _FEWEST_OPSET_QUANTIZED), path)
