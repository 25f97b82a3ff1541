"""Small models on integers, written directly.

The `quantize` pass can do it and takes fifty milliseconds a model, for hundreds of models. These
are chains of convolutions between which every value becomes an integer, with ranges that nobody
measured; tests hold that the nodes are those which the pass would write.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.constants import NameScope, add_initializer, constant_array, remove_if_unused
from onnxsep.errors import ConfigurationError
from onnxsep.passes._placement import clip_bounds, clipping_behind
from onnxsep.targets.quantization import WEIGHTED, QuantizationScheme, get_scheme, weight_bits

# Ends of every range, within what a Clip in front leaves of it.
_LOW, _HIGH = -8.0, 8.0
_LEVELS = 255


def to_int8(model: ir.Model, target: str) -> None:
    """Quantize a small model in place: all activations, weights per channel, biases as int32.

    Args:
        model: A chain of convolutions, activations, Concat and Add, opset 13 or later.
        target: Name of the target, for types and bits.

    Raises:
        ConfigurationError: The target runs no integers, or otherwise than in chains of pairs.
    """
    scheme = get_scheme(target)
    if not scheme.operators or scheme.inputs_only or not scheme.integer_bias:
        raise ConfigurationError(
            f"layers cannot be timed in int8 for the target {target!r}: {scheme.why}"
        )
    writer = _Writer(model.graph, scheme)
    nodes = list(model.graph)
    for value in [*model.graph.inputs, *(output for node in nodes for output in node.outputs)]:
        if clipping_behind(value) is None and not _stays_float(value, scheme):
            writer.quantize_activation(value)
    for node in nodes:
        if node.op_type == "Conv":
            writer.quantize_weights(node)


class _Writer:
    """Adds the pairs to one graph."""

    def __init__(self, graph: ir.Graph, scheme: QuantizationScheme) -> None:
        self._graph = graph
        self._names = NameScope.of_values(graph)
        self._signed = scheme.activation == "int8"
        self._symmetric = scheme.symmetric
        self._largest_weight = 2 ** (weight_bits(scheme) - 1) - 1
        self._scales: dict[ir.Value, float] = {}

    def quantize_activation(self, value: ir.Value) -> None:
        """A pair behind ``value``; whoever read it reads the pair's result."""
        low, high = _range(value)
        if self._symmetric:
            low, high = -max(-low, high), max(-low, high)
        scale = (high - low) / _LEVELS
        kind = np.int8 if self._signed else np.uint8
        zero = np.clip(np.rint(np.iinfo(kind).min - low / scale), *_limits(kind)).astype(kind)
        parameters = [
            self._constant(f"{value.name}_scale", np.array(scale, np.float32)),
            self._constant(f"{value.name}_zero_point", np.array(zero, kind)),
        ]
        forward = ir.node("QuantizeLinear", [value, *parameters])
        back = ir.node("DequantizeLinear", [forward.outputs[0], *parameters])
        result = back.outputs[0]
        forward.outputs[0].name = self._names.take(f"{value.name}_quantized")
        result.name = self._names.take(f"{value.name}_dequantized")
        # Only the model's output must say what it is; the others are inferred.
        result.type, result.shape = value.type, value.shape
        uses = [use for use in value.uses() if use.node is not forward]
        for use in uses:
            use.node.replace_input_with(use.idx, result)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [forward, back])
        else:
            self._graph.insert_after(producer, [forward, back])
        if value.is_graph_output():
            # The model's output keeps its name.
            self._graph.outputs[self._graph.outputs.index(value)] = result
        self._scales[result] = scale

    def quantize_weights(self, node: ir.Node) -> None:
        """Integers and a DequantizeLinear in the place of weight and bias."""
        source, array = node.inputs[0], constant_array(node.inputs[1])
        if source is None or array is None:
            raise ConfigurationError(f"the convolution '{node.name}' has no constant weight")
        largest = np.abs(array).reshape(len(array), -1).max(axis=1)
        scales = (largest / self._largest_weight).astype(np.float32)
        steps = scales.reshape(-1, *[1] * (array.ndim - 1))
        self._constant_input(node, 1, np.rint(array / steps).astype(np.int8), scales)
        offset = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        if offset is None:
            return
        bias_scales = (self._scales[source] * scales).astype(np.float32)
        self._constant_input(node, 2, np.rint(offset / bias_scales).astype(np.int32), bias_scales)

    def _constant_input(
        self, node: ir.Node, index: int, integers: np.ndarray, scales: npt.NDArray[np.float32]
    ) -> None:
        old = node.inputs[index]
        name = f"{node.name}_input_{index}"
        inputs = [
            self._constant(f"{name}_quantized", integers),
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero_point", np.zeros(len(scales), integers.dtype)),
        ]
        back = ir.node("DequantizeLinear", inputs, {"axis": 0})
        back.outputs[0].name = self._names.take(f"{name}_dequantized")
        self._graph.insert_before(node, [back])
        node.replace_input_with(index, back.outputs[0])
        remove_if_unused(old)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, name, array, names=self._names)


def _stays_float(value: ir.Value, scheme: QuantizationScheme) -> bool:
    """Whether it is the sum that only an activation without integer kernel reads."""
    producer = value.producer()
    return (
        producer is not None
        and producer.op_type not in WEIGHTED
        and not any(node.op_type in scheme.operators for node in value.consumers())
    )


def _range(value: ir.Value) -> tuple[float, float]:
    producer = value.producer()
    bounds = None
    if producer is not None and producer.op_type in ("Relu", "Clip"):
        bounds = clip_bounds(producer)
    low, high = bounds or (_LOW, _HIGH)
    return max(low, _LOW), min(high, _HIGH)


def _limits(kind: type[np.int8] | type[np.uint8]) -> tuple[int, int]:
    info = np.iinfo(kind)
    return int(info.min), int(info.max)
