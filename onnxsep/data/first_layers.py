"""The first layers behind an input: found, and cut out to be run on their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxsep.constants import constant_array

if TYPE_CHECKING:
    import onnx_ir as ir

# How far behind the input a layer may stand. Exporters put a few casts, pads and
# arithmetic nodes in between; behind a second convolution drawn and real images part ways.
_MAX_NODES = 12
_MAX_CONVOLUTIONS = 1
# Operators that may stand in between, all their other inputs constant.
_TRANSPARENT = frozenset(
    {"Add", "Cast", "Conv", "Div", "Dropout", "Gather", "Identity", "LeakyRelu", "Mul", "Neg",
     "Pad", "Relu", "Slice", "Sub", "Transpose"}
)  # fmt: skip
_DEFAULT_DOMAINS = ("", "ai.onnx")
# Inputs of BatchNormalization and Conv, and the axis of the channels.
_MEAN, _VARIANCE = 3, 4
_BIAS = 2
_CHANNEL_AXIS = 1
# Images in one run.
_BATCH = 16

_INPUT, _OUTPUT = "onnxsep_images", "onnxsep_values"


@dataclass(frozen=True, eq=False)
class FirstLayers:
    """The layers between a model's input and one of its first values, as a model of their own.

    Attributes:
        model: One input, one output.
    """

    model: ir.Model

    def measure(self, sets: Iterable[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Mean and variance per channel of what the layers give for each of several sets of inputs.

        Args:
            sets: Each a set of samples for the model's input, in the input's own type.

        Returns:
            For each set mean and variance, float64 (channels,).

        Raises:
            InputError: onnxruntime cannot run the layers.
        """
        from onnxsep.runtime import make_session, run  # loads onnxruntime, which takes its time

        label = "the model's first layers"
        session = make_session(self.model, threads=1, label=label)
        measured = []
        for inputs in sets:
            total: np.ndarray | float = 0.0
            squares: np.ndarray | float = 0.0
            count = 0
            for first in range(0, len(inputs), _BATCH):
                (values,) = run(session, {_INPUT: inputs[first : first + _BATCH]}, label=label)
                rows = np.moveaxis(values, _CHANNEL_AXIS, 0).astype(np.float64)
                rows = rows.reshape(len(rows), -1)
                total = total + rows.sum(axis=1)
                squares = squares + (rows**2).sum(axis=1)
                count += rows.shape[1]
            mean = np.asarray(total) / count
            measured.append((mean, np.maximum(np.asarray(squares) / count - mean**2, 0.0)))
        return measured


@dataclass(frozen=True, eq=False)
class FirstBatchNorm:
    """A BatchNormalization with the statistics it keeps.

    Attributes:
        name: Name of the node, or of its output.
        mean: The running mean: float64 (channels,).
        variance: The running variance: float64 (channels,).
        before: The layers before it.
    """

    name: str
    mean: np.ndarray
    variance: np.ndarray
    before: FirstLayers


@dataclass(frozen=True, eq=False)
class FirstConvolution:
    """A convolution with a constant bias.

    Attributes:
        name: Name of the node, or of its output.
        bias: float64 (channels,).
        upto: The layers up to it, itself included.
    """

    name: str
    bias: np.ndarray
    upto: FirstLayers


def find_first_batchnorm(model: ir.Model, input_name: str) -> FirstBatchNorm | None:
    """The BatchNormalization nearest to an input with only simple layers in between, or None."""
    for node, value, path in _reached(model, input_name):
        if node.op_type == "BatchNormalization" and node.inputs[0] is value:
            mean, variance = (_default_array(node.inputs[i]) for i in (_MEAN, _VARIANCE))
            if mean is not None and variance is not None:
                before = FirstLayers(_cut(model, input_name, value, path))
                statistics = mean.astype(np.float64), variance.astype(np.float64)
                return FirstBatchNorm(_name(node), *statistics, before)
    return None


def find_first_convolution(model: ir.Model, input_name: str) -> FirstConvolution | None:
    """The convolution nearest to an input with only simple layers in between, or None."""
    for node, value, path in _reached(model, input_name):
        if node.op_type == "Conv" and len(node.inputs) > _BIAS and _transparent(node, value):
            bias = _default_array(node.inputs[_BIAS])
            if bias is not None:
                upto = FirstLayers(_cut(model, input_name, node.outputs[0], (*path, node)))
                return FirstConvolution(_name(node), bias.astype(np.float64), upto)
    return None


def _reached(
    model: ir.Model, input_name: str
) -> Iterator[tuple[ir.Node, ir.Value, tuple[ir.Node, ...]]]:
    """Every node behind an input, nearest first: the node, what it reads, the way to that.

    Branches of an If are looked into.
    """
    waiting: deque[tuple[ir.Value, tuple[ir.Node, ...]]] = deque([(_input(model, input_name), ())])
    while waiting:
        value, path = waiting.popleft()
        for node in value.consumers():
            if node.domain not in _DEFAULT_DOMAINS:
                continue
            yield node, value, path
            longer = (*path, node)
            convolutions = sum(step.op_type == "Conv" for step in longer)
            if (
                _transparent(node, value)
                and len(longer) <= _MAX_NODES
                and convolutions <= _MAX_CONVOLUTIONS
            ):
                waiting.append((node.outputs[0], longer))


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _transparent(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type in _TRANSPARENT and all(
        other is None or other is value or _default_array(other) is not None
        for other in node.inputs
    )


def _default_array(value: ir.Value | None) -> np.ndarray | None:
    """Like `constant_array`, but initializers that are listed as inputs count with their value.

    Files of IR version 3 list them all. Nobody overrides running statistics.
    """
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return value.const_value.numpy()
    return constant_array(value)


def _cut(model: ir.Model, input_name: str, last: ir.Value, path: Sequence[ir.Node]) -> ir.Model:
    """The nodes of ``path`` between an input and ``last``, copied into a model of their own.

    Copied rather than extracted, since they may lie in different graphs (the branch of an If).
    """
    import onnx_ir as ir

    source = _input(model, input_name)
    feed = ir.Value(name=_INPUT, type=source.type, shape=ir.Shape([None] * len(source.shape or ())))
    known: dict[ir.Value, ir.Value] = {source: feed}
    constants: list[ir.Value] = []
    nodes: list[ir.Node] = []
    for step in path:
        inputs: list[ir.Value | None] = []
        for value in step.inputs:
            if value is not None and value not in known:
                array = _default_array(value)
                if array is None:
                    raise AssertionError("the path holds nodes with constant other inputs only")
                name = f"constant_{len(constants)}"
                tensor = ir.tensor(np.ascontiguousarray(array), name=name)
                constant = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
                constant.type = ir.TensorType(tensor.dtype)
                constants.append(constant)
                known[value] = constant
            inputs.append(None if value is None else known[value])
        node = ir.Node("", step.op_type, inputs, list(step.attributes.values()))
        node.outputs[0].name = f"step_{len(nodes)}"
        known[step.outputs[0]] = node.outputs[0]
        nodes.append(node)
    end = ir.Node("", "Cast", [known[last]], [ir.AttrInt64("to", ir.DataType.FLOAT)])
    end.outputs[0].name = _OUTPUT
    end.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [feed],
        [end.outputs[0]],
        nodes=[*nodes, end],
        initializers=constants,
        opset_imports=dict(model.opset_imports),
        name="first_layers",
    )
    return ir.Model(graph, ir_version=model.ir_version)
