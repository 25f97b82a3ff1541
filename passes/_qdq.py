"""QuantizeLinear and DequantizeLinear as onnxruntime.quantization writes them, at our places.

The library is asked to write what `Placement` decided, with our ranges and our weight scales: it
knows the axes of weights, names, biases and pairs of its own for every reader.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from onnxsep.errors import InputError
from onnxsep.runtime import first_line
from onnxsep.targets.quantization import QuantizationScheme

_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
_INFERENCE_KEY = "onnx.infer"

Range = tuple[float, float]


def write_qdq(
    proto: onnx.ModelProto,
    *,
    scheme: QuantizationScheme,
    nodes: Sequence[str],
    values: Sequence[str],
    ranges: Mapping[str, Range],
    scales: Mapping[str, tuple[int, npt.NDArray[np.float32]]],
) -> onnx.ModelProto:
    """Insert the pairs; the nodes between them stay as they are.

    Args:
        proto: Changed. Weights and biases of ``nodes`` are initializers.
        scheme: Types and form.
        nodes: Names of nodes that run on integers.
        values: Names of activations that become integers.
        ranges: For each of these the real numbers at the ends.
        scales: Initializer → axis of its output channels and their scales, (N,).

    Raises:
        InputError: The library fails on the model.
    """
    producer = proto.producer_name, proto.producer_version
    proto = onnx.shape_inference.infer_shapes(proto)
    add_infer_metadata(proto)  # or the library writes the model to disk, to infer once more
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    overrides = {
        name: [
            {"axis": axis, "quant_type": QuantType.QInt8, "scale": scale, "zero_point": 0}
            for scale in channel_scales
        ]
        for name, (axis, channel_scales) in scales.items()
    }
    with _quiet():
        try:
            quantizer = _Quantizer(
                proto,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=_TYPES[scheme.activation],
                tensors_range=TensorsData(None, data),
                nodes_to_quantize=list(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=sorted(scheme.operators),
                extra_options={
                    "ActivationSymmetric": scheme.symmetric,
                    "WeightSymmetric": True,
                    "ForceQuantizeNoInputCheck": True,
                    "TensorQuantOverrides": overrides,
                    "DedicatedQDQPair": scheme.inputs_only,
                    "AddQDQPairToWeight": scheme.inputs_only,
                    "QuantizeBias": scheme.integer_bias,
                },
            )
            quantizer.place(values)
            result: onnx.ModelProto = quantizer.quantize_model()
        except Exception as error:  # the library raises many kinds
            raise InputError(f"onnxruntime.quantization fails: {first_line(error)}") from error
    result.producer_name, result.producer_version = producer
    for entry in list(result.metadata_props):
        if entry.key == _INFERENCE_KEY:
            result.metadata_props.remove(entry)
    return result


class _Quantizer(QDQQuantizer):  # type: ignore[misc]  # onnxruntime has no annotations
    """Writes pairs for the activations named, not for all that its operators would have."""

    def place(self, values: Sequence[str]) -> None:
        """Take note of all activations that become integers."""
        self._values = set(values)
        for name in values:
            self.quantize_activation_tensor(name)

    def quantize_activation_tensor(self, tensor_name: str) -> None:
        """Only where asked; constants beside activations always."""
        if tensor_name in self._values or tensor_name in self.initializers:
            super().quantize_activation_tensor(tensor_name)

    def quantize_output_same_as_input(
        self, output_name: str, input_name: str, node_name: str
    ) -> None:
        """Through its own range, which is the same: so it may be left out, too."""
        del input_name, node_name
        self.quantize_activation_tensor(output_name)


def keep_floats(
    model: ir.Model, values: Sequence[str], quantized_nodes: set[str], *, float_results: bool
) -> None:
    """Let nodes in float read values that come in float as they came, not rounded.

    The library hands the rounded value to every reader.

    Args:
        model: With the pairs, changed in place.
        values: The activations that became integers.
        quantized_nodes: Names of the nodes that run on integers.
        float_results: Whether these hand out float.
    """
    named = {value.name: value for value in _all_values(model.graph)}
    for name in values:
        value = named.get(name)
        if value is None:
            continue
        producer = value.producer()
        if producer is not None and not float_results and _belongs(producer, quantized_nodes):
            continue
        for pair in [node for node in value.consumers() if node.op_type == "QuantizeLinear"]:
            for back in pair.outputs[0].consumers():
                for use in list(back.outputs[0].uses()):
                    if not _belongs(use.node, quantized_nodes):
                        use.node.replace_input_with(use.idx, value)


def _belongs(node: ir.Node, quantized_nodes: set[str]) -> bool:
    """Whether it runs on integers, or is the Relu or Clip that a quantized node's result meets."""
    if node.name in quantized_nodes:
        return True
    source = node.inputs[0] if node.inputs else None
    producer = None if source is None else source.producer()
    return (
        node.op_type in ("Relu", "Clip")
        and producer is not None
        and producer.name in quantized_nodes
    )


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library warns on the root logger about what was decided here on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
