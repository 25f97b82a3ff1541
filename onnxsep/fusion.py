"""What a runtime really made of a quantized model: which layers run on integers, and which do not.

A model in QDQ form computes in float unless the runtime melts DequantizeLinear → Conv →
QuantizeLinear into an integer kernel, which it does or leaves in silence.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.runtime import first_line

# onnxruntime's own bound (since 1.28) on how far the scale of a bias may be off.
BIAS_SCALE_TOLERANCE = 0.01
_SILENT = 4
_ROUNDING = 1e-6
_INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger", "QLinearConvTranspose")
# Layout transforms and fusions append to a node's name.
_SUFFIX = re.compile(r"(_nhwc|_nchwc|_quant|_token_\d+|_transformed)+$")


@dataclasses.dataclass(frozen=True)
class Unfused:
    """A convolution between quantized values that runs in float all the same.

    Attributes:
        node: Its name in the model.
        code: The reason, for programs.
        reason: The same for people, one clause.
    """

    node: str
    code: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FusionReport:
    """What became of a model's convolutions.

    Attributes:
        provider: Of onnxruntime.
        convolutions: How many there are, quantized or not.
        fused: Names of those that run on integers.
        unfused: Those with quantized input that run in float.
        in_float: Names of those that were never quantized.
        operators: How often each operator stands in the runtime's graph.
    """

    provider: str
    convolutions: int
    fused: tuple[str, ...]
    unfused: tuple[Unfused, ...]
    in_float: tuple[str, ...]
    operators: dict[str, int]


def fusion_report(model: ir.Model, provider: str = "CPUExecutionProvider") -> FusionReport:
    """Load ``model`` and look at the graph that would run.

    Args:
        model: Left unchanged.
        provider: Name of an onnxruntime provider of this machine.

    Raises:
        ConfigurationError: The provider is not in this machine's onnxruntime.
        InputError: onnxruntime cannot load the model.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ConfigurationError(
            f"{provider} is not in this machine's onnxruntime; there are {', '.join(available)}"
        )
    running = _optimized(model, provider)
    fused, unfused, in_float = [], [], []
    for node in model.graph:
        if node.op_type != "Conv":
            continue
        name = node.name or node.outputs[0].name or ""
        if name in running.integer_names or _result_names(node) & running.integer_results:
            fused.append(name)
        elif _dequantizes(node.inputs[0]) is None and _dequantizes(node.inputs[1]) is None:
            in_float.append(name)
        else:
            unfused.append(_why_not_fused(node, name))
    return FusionReport(
        provider=provider,
        convolutions=len(fused) + len(unfused) + len(in_float),
        fused=tuple(fused),
        unfused=tuple(unfused),
        in_float=tuple(in_float),
        operators=dict(running.operators),
    )


@dataclasses.dataclass(frozen=True)
class _Running:
    """The graph that runs: its operators, and its integer convolutions by name and result."""

    operators: Counter[str]
    integer_names: set[str]
    integer_results: set[str]


def _optimized(model: ir.Model, provider: str) -> _Running:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    # QDQ is melted at the level "extended"; "all" is what a user's session has.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "optimized.onnx")
        ir.save(model, source, format="protobuf", external_data="model.data")
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(source, options, providers=[provider], enable_fallback=0)
            graph = onnx.load(target, load_external_data=False).graph
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"onnxruntime cannot load the model: {first_line(error)}") from error
    integer = [node for node in graph.node if node.op_type in _INTEGER_CONVOLUTIONS]
    return _Running(
        operators=Counter(node.op_type for node in graph.node),
        integer_names={_SUFFIX.sub("", node.name) for node in integer},
        integer_results={name for node in integer for name in node.output},
    )


def _result_names(node: ir.Node) -> set[str]:
    """Names of the integers that ``node`` gives, behind an activation or none."""
    names: set[str] = set()
    values = [node.outputs[0]]
    for value in values:
        for reader in value.consumers():
            if reader.op_type in ("Relu", "Clip"):
                values.append(reader.outputs[0])
            elif reader.op_type == "QuantizeLinear":
                names.add(reader.outputs[0].name or "")
    return names


def _dequantizes(value: ir.Value | None) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _why_not_fused(node: ir.Node, name: str) -> Unfused:
    inputs = [_dequantizes(value) for value in (*node.inputs[:3], None, None)][:3]
    data, weight, bias = inputs
    if data is None:
        return Unfused(name, "input-not-quantized", "its input comes in float")
    if weight is None:
        return Unfused(name, "weight-not-quantized", "its weight is float")
    value, activation = node.outputs[0], None
    readers = list(value.consumers())
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        activation = readers[0]
        readers = list(activation.outputs[0].consumers())
    quantizers = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
    others = sorted({r.op_type for r in readers if r.op_type != "QuantizeLinear"})
    if not quantizers or others or value.is_graph_output():
        what = f"read by {', '.join(others)}" if others else "an output of the model"
        return Unfused(name, "result-not-quantized", f"its result is {what} in float")
    given, wanted = _integer_type(data), _integer_type(quantizers[0])
    if given != wanted:
        return Unfused(name, "types-differ", f"its input is {given}, its output {wanted}")
    if bias is not None and not _bias_scale_fits(data, weight, bias):
        reason = "the scale of its bias is not that of its input times that of its weight"
        return Unfused(name, "bias-scale", reason)
    if activation is not None and _reaches_beyond(quantizers[0], activation):
        return Unfused(
            name,
            "activation-between",
            f"the range behind it reaches beyond what {activation.op_type} lets through, so that "
            "stays between Conv and QuantizeLinear",
        )
    return Unfused(name, "unknown", "the runtime left it as it was without a reason we know of")


def _integer_type(node: ir.Node) -> str:
    """Of the integers that a QuantizeLinear gives or a DequantizeLinear takes."""
    if len(node.inputs) > 2:
        array = constant_array(node.inputs[2])
        if array is not None:
            return str(array.dtype)
    return "uint8"


def _reaches_beyond(quantizer: ir.Node, activation: ir.Node) -> bool:
    """Whether the ends of the integers stand for numbers that a Relu or Clip holds back."""
    scale, zero = constant_array(quantizer.inputs[1]), constant_array(quantizer.inputs[2])
    if scale is None or zero is None or scale.size != 1:
        return True
    limits = np.iinfo(zero.dtype)
    step, middle = float(scale.item()), int(zero.item())
    low, high = step * (limits.min - middle), step * (limits.max - middle)
    bounds: list[np.ndarray | None] = [np.zeros(1), None]
    if activation.op_type == "Clip":
        bounds = [constant_array(value) for value in (*activation.inputs[1:], None, None)][:2]
    least, most = bounds
    slack = _ROUNDING * max(abs(low), abs(high))
    return (least is not None and low < float(least.item()) - slack) or (
        most is not None and high > float(most.item()) + slack
    )


def _bias_scale_fits(data: ir.Node, weight: ir.Node, bias: ir.Node) -> bool:
    scales = [constant_array(node.inputs[1]) for node in (data, weight, bias)]
    if any(scale is None for scale in scales):
        return False
    wanted = np.asarray(scales[0], np.float64) * np.asarray(scales[1], np.float64)
    found = np.asarray(scales[2], np.float64)
    return bool(np.all(np.abs(found - wanted) <= BIAS_SCALE_TOLERANCE * np.abs(wanted)))
