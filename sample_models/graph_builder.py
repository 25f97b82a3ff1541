"""Writes ONNX graphs layer by layer: one method per operator, shapes tracked along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

OPSET = 17
# The IR version that came with opset 17: every runtime that knows the operators reads the file.
IR_VERSION = 8
BATCH = "batch"
# Metadata entry with a JSON object: the input is (pixel * scale - mean) / std.
PREPROCESSING_KEY = "onnxsep.preprocessing"

FloatArray = npt.NDArray[np.float32]
Attributes = Mapping[str, int | float | str | Sequence[int]]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name and its shape without the batch dimension."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """The first dimension after the batch."""
        return self.shape[0]


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output length of a convolution or pooling window along one axis.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    result = (size + 2 * padding - kernel) // stride + 1
    if result < 1:
        raise ValueError(
            f"a window of {kernel} does not fit an input of {size} with padding {padding}: "
            "choose a larger input size"
        )
    return result


class GraphBuilder:
    """Collects the nodes and weights of one feed-forward network.

    The layer called ``name`` becomes the node ``name``, its result ``name.output`` and its weights
    ``name.weight``, ``name.bias`` and so on, as a PyTorch state dict would call them.
    """

    def __init__(self, name: str, input_shape: tuple[int, int, int], input_name: str = "input"):
        """Start a graph with one float32 input of ``(batch, *input_shape)``."""
        # Filled in place: protobuf copies whatever is handed to it whole.
        self._model = onnx.ModelProto(
            ir_version=IR_VERSION,
            opset_import=[helper.make_opsetid("", OPSET)],
            producer_name="onnxsep-sample-models",
        )
        self._graph = self._model.graph
        self._graph.name = name
        self._weight_names: set[str] = set()
        self.input = Value(input_name, input_shape)
        self._graph.input.append(_float_tensor(input_name, input_shape))

    def conv(
        self,
        x: Value,
        weight: FloatArray,
        bias: FloatArray | None = None,
        *,
        name: str,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> Value:
        """2-D convolution; ``weight`` is (out, in / groups, kernel height, kernel width)."""
        kernel = weight.shape[2:]
        if weight.shape[1] * groups != x.channels:
            raise ValueError(f"{name}: weight {weight.shape} does not fit input {x.shape}")
        inputs = [x.name, self._weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self._weight(f"{name}.bias", bias))
        window = _window(kernel, stride, padding)
        shape = (weight.shape[0], *_slide(x, kernel, stride, padding))
        return self._node("Conv", inputs, shape, name, {**window, "group": groups})

    def batch_norm(
        self,
        x: Value,
        scale: FloatArray,
        shift: FloatArray,
        mean: FloatArray,
        variance: FloatArray,
        *,
        name: str,
        epsilon: float = 1e-5,
    ) -> Value:
        """At inference, scale * (x - mean) / sqrt(variance + epsilon) + shift."""
        inputs = [
            x.name,
            self._weight(f"{name}.weight", scale),
            self._weight(f"{name}.bias", shift),
            self._weight(f"{name}.running_mean", mean),
            self._weight(f"{name}.running_var", variance),
        ]
        return self._node("BatchNormalization", inputs, x.shape, name, {"epsilon": epsilon})

    def relu(self, x: Value, *, name: str) -> Value:
        """max(x, 0)."""
        return self._node("Relu", [x.name], x.shape, name)

    def relu6(self, x: Value, *, name: str) -> Value:
        """min(max(x, 0), 6)."""
        low = self._weight(f"{name}.min", np.float32(0))
        high = self._weight(f"{name}.max", np.float32(6))
        return self._node("Clip", [x.name, low, high], x.shape, name)

    def leaky_relu(self, x: Value, slope: float, *, name: str) -> Value:
        """X where positive, else slope * x."""
        return self._node("LeakyRelu", [x.name], x.shape, name, {"alpha": slope})

    def sigmoid(self, x: Value, *, name: str) -> Value:
        """1 / (1 + exp(-x))."""
        return self._node("Sigmoid", [x.name], x.shape, name)

    def add(self, a: Value, b: Value, *, name: str) -> Value:
        """Sum of two tensors of one shape."""
        return self._node("Add", [a.name, b.name], _same_shape(name, a, b), name)

    def multiply(self, a: Value, b: Value, *, name: str) -> Value:
        """Product; ``b`` has the shape of ``a`` or one element per channel, (channels, 1, 1)."""
        if b.shape not in (a.shape, (a.channels, 1, 1)):
            raise ValueError(f"{name}: {b.shape} does not broadcast to {a.shape}")
        return self._node("Mul", [a.name, b.name], a.shape, name)

    def concat(self, values: Sequence[Value], *, name: str) -> Value:
        """Stack along the channels."""
        planes = {value.shape[1:] for value in values}
        if len(planes) != 1:
            raise ValueError(f"{name}: the inputs differ in height or width: {sorted(planes)}")
        shape = (sum(value.channels for value in values), *planes.pop())
        return self._node("Concat", [value.name for value in values], shape, name, {"axis": 1})

    def max_pool(self, x: Value, kernel: int, stride: int, padding: int = 0, *, name: str) -> Value:
        """Largest value of a square window."""
        return self._pool("MaxPool", x, kernel, stride, padding, name)

    def average_pool(
        self, x: Value, kernel: int, stride: int, padding: int = 0, *, name: str
    ) -> Value:
        """Mean of a square window, the padding counted as zeros."""
        return self._pool("AveragePool", x, kernel, stride, padding, name)

    def global_average_pool(self, x: Value, *, name: str) -> Value:
        """Mean over height and width, which stay as dimensions of 1."""
        return self._node("GlobalAveragePool", [x.name], (x.channels, 1, 1), name)

    def flatten(self, x: Value, *, name: str) -> Value:
        """All dimensions but the batch become one."""
        return self._node("Flatten", [x.name], (prod(x.shape),), name, {"axis": 1})

    def gemm(self, x: Value, weight: FloatArray, bias: FloatArray, *, name: str) -> Value:
        """Fully connected layer; ``weight`` is (out, in)."""
        if x.shape != (weight.shape[1],):
            raise ValueError(f"{name}: weight {weight.shape} does not fit input {x.shape}")
        inputs = [
            x.name,
            self._weight(f"{name}.weight", weight),
            self._weight(f"{name}.bias", bias),
        ]
        return self._node("Gemm", inputs, (weight.shape[0],), name, {"transB": 1})

    def upsample(self, x: Value, factor: int, *, name: str) -> Value:
        """Repeat every pixel ``factor`` times along height and width (nearest neighbour)."""
        scales = np.array([1, 1, factor, factor], dtype=np.float32)
        inputs = [x.name, "", self._weight(f"{name}.scales", scales)]
        shape = (x.channels, x.shape[1] * factor, x.shape[2] * factor)
        attributes: Attributes = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self._node("Resize", inputs, shape, name, attributes)

    def model(
        self, outputs: Mapping[str, Value], metadata: Mapping[str, str] | None = None
    ) -> onnx.ModelProto:
        """The finished model; ``outputs`` maps each output's name to its tensor.

        To be called once, at the end: later layers would change the model handed out.
        """
        names = {value.name: name for name, value in outputs.items()}
        for node in self._graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        self._graph.output.extend(
            _float_tensor(name, value.shape) for name, value in outputs.items()
        )
        helper.set_model_props(self._model, dict(metadata or {}))
        return self._model

    def _pool(
        self, op_type: str, x: Value, kernel: int, stride: int, padding: int, name: str
    ) -> Value:
        square = (kernel, kernel)
        border = (padding, padding)
        attributes = dict(_window(square, stride, border))
        if op_type == "AveragePool":
            attributes["count_include_pad"] = 1
        shape = (x.channels, *_slide(x, square, stride, border))
        return self._node(op_type, [x.name], shape, name, attributes)

    def _weight(self, name: str, array: FloatArray | np.float32) -> str:
        if name in self._weight_names:
            raise ValueError(f"there is already a weight called {name}")
        self._weight_names.add(name)
        values = np.asarray(array, dtype="<f4")  # raw tensor data are little-endian
        self._graph.initializer.add(
            name=name,
            data_type=TensorProto.FLOAT,
            dims=values.shape,
            raw_data=values.tobytes(),
        )
        return name

    def _node(
        self,
        op_type: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        name: str,
        attributes: Attributes | None = None,
    ) -> Value:
        result = Value(f"{name}.output", shape)
        node = helper.make_node(op_type, inputs, [result.name], name=name)
        for key, value in (attributes or {}).items():
            node.attribute.append(helper.make_attribute(key, value))
        self._graph.node.append(node)
        return result


def _window(kernel: Sequence[int], stride: int, padding: tuple[int, int]) -> Attributes:
    return {
        "kernel_shape": list(kernel),
        "strides": [stride, stride],
        "pads": [*padding, *padding],
    }


def _slide(
    x: Value, kernel: Sequence[int], stride: int, padding: tuple[int, int]
) -> tuple[int, int]:
    height, width = (
        convolved_size(size, window, stride, border)
        for size, window, border in zip(x.shape[1:], kernel, padding, strict=True)
    )
    return height, width


def _same_shape(name: str, a: Value, b: Value) -> tuple[int, ...]:
    if a.shape != b.shape:
        raise ValueError(f"{name}: the inputs differ in shape: {a.shape} and {b.shape}")
    return a.shape


def _float_tensor(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape])
