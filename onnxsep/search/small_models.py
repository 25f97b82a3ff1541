"""One convolution, or what could take its place, as a network of its own to be timed.

A layer alone lies: its input and output would be in the plain layout, and the blocked one that ONNX
Runtime's kernels work in would have to be made and unmade for this one layer. So it stands between
two pointwise convolutions, from few channels to those of the layer and back to few. They make and
take what neighbours in a network do, blocked or not, and cost little themselves; what they cost is
timed too, as the frame without the layer, and taken off.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxsep.constants import add_initializer, remove_if_unused
from onnxsep.convolution import Geometry, find_convolutions
from onnxsep.decision import Decision
from onnxsep.errors import InputError
from onnxsep.factorize import (
    Activation,
    ActivationKind,
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
)
from onnxsep.passes.lowering import replace_by_factors
from onnxsep.search.candidates import LayerChoices
from onnxsep.surroundings import find_surroundings
from onnxsep.targets import Target

INPUT = "input"
# HardSwish came with 14, and everything that per-channel int8 needs before.
_OPSET, _IR_VERSION = 17, 8
# Of the frame's input and output: fewer than a block (16 on AVX-512) are read as they come, without
# a change of layout, and 8 is a multiple that the int8 kernels like.
_FRAME_CHANNELS = 8
# Weights repeat so many numbers: drawing millions takes longer than timing them. A prime, so that
# no two channels are alike.
_POOL = 4093
# Uniform numbers from -1 to 1 have this deviation.
_UNIFORM_DEVIATION = 1 / math.sqrt(3)
# Halved by a Relu, the energy of activations stays what it was.
_GAIN = math.sqrt(2)


_Attributes = dict[str, str | int | float | Sequence[int] | Sequence[float]]


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """All that the time of a layer depends on, whatever its weights.

    Attributes:
        batch: Images at a time.
        in_channels: C.
        out_channels: N.
        geometry: Kernel, stride and so on.
        input_size: Spatial size of the input.
        activation: What follows.
    """

    batch: int
    in_channels: int
    out_channels: int
    geometry: Geometry
    input_size: tuple[int, ...]
    activation: Activation

    @classmethod
    def of(cls, choices: LayerChoices, batch: int = 1) -> LayerShape:
        """The shape of a layer of a network for so many images at a time."""
        site = choices.site
        return cls(
            batch=batch,
            in_channels=site.in_channels,
            out_channels=site.out_channels,
            geometry=site.geometry,
            input_size=choices.input_size,
            activation=find_surroundings(site.node).activation,
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.geometry.output_size(self.input_size)

    def padded(self, multiple: int) -> LayerShape:
        """The layer with both numbers of channels rounded up to a multiple."""
        return dataclasses.replace(
            self,
            in_channels=-(-self.in_channels // multiple) * multiple,
            out_channels=-(-self.out_channels // multiple) * multiple,
        )


def layer_model(shape: LayerShape, decision: Decision | None, target: Target) -> ir.Model:
    """The layer in its frame, with arbitrary weights.

    Args:
        shape: Of the layer.
        decision: The form that takes its place, None for the convolution itself.
        target: Decides the graph form.

    Returns:
        A model with one input `INPUT` (batch, 8, *input size) and one output, float32.
    """
    builder = _Builder(shape.batch, shape.input_size)
    value = builder.pointwise(builder.input, _FRAME_CHANNELS, shape.in_channels, "head")
    value = builder.convolution(value, shape)
    value = builder.activation(value, shape.activation)
    value = builder.pointwise(value, shape.out_channels, _FRAME_CHANNELS, "tail")
    model = builder.model(value, shape.output_size)
    if decision is not None:
        site = next(site for site in find_convolutions(model.graph)[0] if site.name == _LAYER)
        factors = arbitrary_factors(
            decision, shape.out_channels, shape.in_channels, math.prod(shape.geometry.kernel)
        )
        bias = _numbers(shape.out_channels)
        constants = list(site.node.inputs[1:])
        replace_by_factors(model.graph, site, factors, bias, target.repeat)
        for constant in constants:
            remove_if_unused(constant)
    return model


def frame_models(shape: LayerShape) -> tuple[ir.Model, ir.Model]:
    """Two models that together take twice as long as the frame alone.

    The frame goes to C channels at the size of the layer's input, and comes back from N at the size
    of its output; a model that ends there must do both ways at either.
    """
    models = []
    for size, channels in (
        (shape.input_size, shape.in_channels),
        (shape.output_size, shape.out_channels),
    ):
        builder = _Builder(shape.batch, size)
        value = builder.pointwise(builder.input, _FRAME_CHANNELS, channels, "head")
        value = builder.pointwise(value, channels, _FRAME_CHANNELS, "tail")
        models.append(builder.model(value, size))
    return models[0], models[1]


def arbitrary_factors(decision: Decision, outputs: int, channels: int, positions: int) -> Factors:
    """Factors of a form with numbers that neither vanish nor grow on their way.

    Args:
        decision: Form and rank.
        outputs: N.
        channels: C.
        positions: K.
    """
    rank = decision.rank
    match decision.form:
        case "depthwise-pointwise":
            return DepthwisePointwise(
                _weight((channels, rank, positions), positions),
                _weight((outputs, channels, rank), channels * rank),
            )
        case "pointwise-depthwise":
            return PointwiseDepthwise(
                _weight((outputs, rank, channels), channels),
                _weight((outputs, rank, positions), rank * positions),
            )
        case "cp":
            return CanonicalPolyadic(
                _weight((rank, channels), channels),
                _weight((rank, positions), positions),
                _weight((outputs, rank), rank),
            )


def example_input(model: ir.Model) -> npt.NDArray[np.float32]:
    """Something to feed `INPUT`."""
    (value,) = model.graph.inputs
    shape = value.shape
    if shape is None:
        raise InputError("the small model has lost the shape of its input")
    sizes = [int(size) for size in shape if isinstance(size, int)]
    return _numbers(math.prod(sizes)).reshape(sizes).astype(np.float32)


_LAYER = "layer"


class _Builder:
    """A chain of nodes on one input."""

    def __init__(self, batch: int, size: tuple[int, ...]) -> None:
        self._batch = batch
        self._axes = len(size)
        self.input = ir.val(INPUT, ir.DataType.FLOAT, (batch, _FRAME_CHANNELS, *size))
        self._graph = ir.Graph([self.input], [], nodes=[], name="layer", opset_imports={"": _OPSET})

    def pointwise(self, value: ir.Value, inputs: int, outputs: int, name: str) -> ir.Value:
        """A pointwise convolution with bias."""
        kernel = (1,) * self._axes
        return self._convolve(value, (outputs, inputs, *kernel), {"kernel_shape": kernel}, name)

    def convolution(self, value: ir.Value, shape: LayerShape) -> ir.Value:
        """The layer itself."""
        geometry = shape.geometry
        attributes: _Attributes = {
            "kernel_shape": geometry.kernel,
            "strides": geometry.strides,
            "dilations": geometry.dilations,
        }
        if geometry.auto_pad == "NOTSET" and geometry.pads is not None:
            before, behind = zip(*geometry.pads, strict=True)
            attributes["pads"] = (*before, *behind)
        else:
            attributes["auto_pad"] = geometry.auto_pad
        weight = (shape.out_channels, shape.in_channels, *geometry.kernel)
        return self._convolve(value, weight, attributes, _LAYER)

    def activation(self, value: ir.Value, activation: Activation) -> ir.Value:
        """What follows the layer, as networks write it."""
        match activation.kind:
            case ActivationKind.HARD_SWISH:
                return self._node("HardSwish", [value])
            case ActivationKind.SILU:
                return self._node("Mul", [value, self._node("Sigmoid", [value])])
        if activation == Activation.identity():
            return value
        if activation.leak:
            return self._node("LeakyRelu", [value], {"alpha": activation.leak})
        if activation == Activation.relu():
            return self._node("Relu", [value])
        bounds = [
            self._constant(name, np.array(max(min(bound, _LARGEST), -_LARGEST), np.float32))
            for name, bound in (("low", activation.low), ("high", activation.high))
        ]
        return self._node("Clip", [value, *bounds])

    def model(self, result: ir.Value, size: tuple[int, ...]) -> ir.Model:
        """The model that hands out ``result``."""
        result.name, result.dtype = "output", ir.DataType.FLOAT
        result.shape = ir.Shape((self._batch, _FRAME_CHANNELS, *size))
        self._graph.outputs.append(result)
        return ir.Model(self._graph, ir_version=_IR_VERSION)

    def _convolve(
        self,
        value: ir.Value,
        shape: tuple[int, ...],
        attributes: _Attributes,
        name: str,
    ) -> ir.Value:
        weight = _weight(shape, math.prod(shape[1:])).astype(np.float32)
        inputs = [
            value,
            self._constant(f"{name}_weight", weight),
            self._constant(f"{name}_bias", _numbers(shape[0]).astype(np.float32)),
        ]
        return self._node("Conv", inputs, attributes, name)

    def _node(
        self,
        operator: str,
        inputs: list[ir.Value],
        attributes: _Attributes | None = None,
        name: str = "",
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes or {}, name=name or operator.lower())
        node.outputs[0].name = f"{node.name}_output"
        self._graph.append(node)
        return node.outputs[0]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, name, array)


_LARGEST = float(np.finfo(np.float32).max)


@functools.cache
def _pool() -> npt.NDArray[np.float64]:
    numbers = np.random.default_rng(0).uniform(-1.0, 1.0, _POOL)
    numbers.flags.writeable = False
    return numbers


def _numbers(count: int) -> npt.NDArray[np.float64]:
    return np.resize(_pool(), count)


def _weight(shape: tuple[int, ...], summands: int) -> npt.NDArray[np.float64]:
    scale = _GAIN / (_UNIFORM_DEVIATION * math.sqrt(summands))
    return scale * np.resize(_pool(), shape)
