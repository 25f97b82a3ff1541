"""Layers with random weights whose BatchNormalization statistics fit the activations.

Running means and variances taken from thin air let a fifty-layer network die or explode, and so do
predicted ones, because their errors multiply from layer to layer. Every tensor therefore carries
what a few natural-like images make of it while the network is written, and a BatchNormalization
takes the mean and variance that it meets there, as training would have left them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod, sqrt

import numpy as np
import numpy_layers
import onnx
from graph_builder import FloatArray, GraphBuilder, Value

# Spread of what training would have left in a BatchNormalization.
SCALE_RANGE = (0.5, 1.5)
SHIFT_DEVIATION = 0.2
# A channel that the images never stir keeps a variance that does not blow up others.
SMALLEST_VARIANCE = 1e-4

LEAKY_SLOPE = 0.1
# Channel counts under a width multiplier are rounded to multiples of this, as MobileNet does.
CHANNEL_STEP = 8
# ... and are never rounded down by more than a tenth (Sandler et al. 2018).
LOWEST_ROUNDING = 0.9

# Pixels of all images together, and bounds on their number: a second or two of work a network.
SAMPLE_PIXELS = 4 * 224 * 224
FEWEST_IMAGES, MOST_IMAGES = 4, 16


class Activation(Enum):
    """What follows a convolution."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"
    SILU = "silu"
    SIGMOID = "sigmoid"


@dataclass(frozen=True)
class Traced(Value):
    """A tensor of the graph, and what the sample images make of it: float32 (N, *shape)."""

    sample: FloatArray


class RandomNetwork:
    """A network under construction; every method adds one layer and returns its result."""

    def __init__(
        self, name: str, *, size: int, width: float, seed: int, epsilon: float = 1e-5
    ) -> None:
        """Start with an RGB input (batch, 3, size, size), normalised to mean 0 and variance 1.

        ``width`` multiplies the channel counts that `channels` is asked for; ``epsilon`` goes into
        every BatchNormalization.
        """
        self._graph = GraphBuilder(name, (3, size, size))
        self._generator = np.random.default_rng(seed)
        self._width = width
        self._epsilon = epsilon
        wanted = SAMPLE_PIXELS // (size * size)
        images = numpy_layers.sample_images(
            self._generator, min(max(wanted, FEWEST_IMAGES), MOST_IMAGES), size
        )
        self.input = _traced(self._graph.input, images)

    def channels(self, count: int) -> int:
        """``count`` times the width, to a multiple of 8; just ``count`` at width 1."""
        wanted = count * self._width
        rounded = max(CHANNEL_STEP, int(wanted / CHANNEL_STEP + 0.5) * CHANNEL_STEP)
        if rounded < LOWEST_ROUNDING * wanted:
            rounded += CHANNEL_STEP
        return count if self._width == 1 else rounded

    def conv(
        self,
        x: Traced,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        name: str,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = True,
    ) -> Traced:
        """Convolution with He initialisation and a bias of zeros.

        It is padded to keep the size of its input at stride 1 unless told otherwise.
        """
        window = (kernel, kernel) if isinstance(kernel, int) else kernel
        border = (window[0] // 2, window[1] // 2) if padding is None else padding
        weight = self._he_normal((channels, x.channels // groups, *window))
        zeros = np.zeros(channels, np.float32) if bias else None
        y = self._graph.conv(
            x, weight, zeros, name=name, stride=stride, padding=border, groups=groups
        )
        return _traced(y, numpy_layers.conv(x.sample, weight, stride, border, groups))

    def conv_norm(
        self,
        x: Traced,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        name: str,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
        activation: Activation = Activation.RELU,
        gain: float = 1.0,
    ) -> Traced:
        """Convolution, BatchNormalization, activation.

        ``gain`` multiplies the normalisation's scale: the last layer of a residual branch learns a
        small one.
        """
        y = self.conv(
            x,
            channels,
            kernel,
            name=f"{name}.conv",
            stride=stride,
            padding=padding,
            groups=groups,
            bias=bias,
        )
        y = self.batch_norm(y, name=f"{name}.bn", gain=gain)
        return self.activate(y, activation, name=f"{name}.act")

    def batch_norm(self, x: Traced, *, name: str, gain: float = 1.0) -> Traced:
        """BatchNormalization with random scale and shift and the statistics of the sample."""
        mean = x.sample.mean(axis=(0, 2, 3))
        variance = np.maximum(x.sample.var(axis=(0, 2, 3)), np.float32(SMALLEST_VARIANCE))
        draw = self._generator
        scale = (gain * draw.uniform(*SCALE_RANGE, x.channels)).astype(np.float32)
        shift = (SHIFT_DEVIATION * draw.standard_normal(x.channels)).astype(np.float32)
        y = self._graph.batch_norm(
            x, scale, shift, mean, variance, name=name, epsilon=self._epsilon
        )
        factor = scale / np.sqrt(variance + np.float32(self._epsilon))
        offset = shift - factor * mean
        return _traced(y, x.sample * factor[:, None, None] + offset[:, None, None])

    def activate(self, x: Traced, activation: Activation, *, name: str) -> Traced:
        """Apply ``activation``; SiLU becomes Sigmoid and Mul, as exporters write it."""
        graph, sample = self._graph, x.sample
        if activation is Activation.NONE:
            return x
        if activation is Activation.RELU:
            return _traced(graph.relu(x, name=name), np.maximum(sample, 0))
        if activation is Activation.RELU6:
            return _traced(graph.relu6(x, name=name), np.clip(sample, 0, 6))
        if activation is Activation.LEAKY_RELU:
            leaky = np.maximum(sample, np.float32(LEAKY_SLOPE) * sample)
            return _traced(graph.leaky_relu(x, LEAKY_SLOPE, name=name), leaky)
        if activation is Activation.SIGMOID:
            return _traced(graph.sigmoid(x, name=name), numpy_layers.sigmoid(sample))
        gate = self.activate(x, Activation.SIGMOID, name=f"{name}.sigmoid")
        return self.multiply(x, gate, name=f"{name}.mul")

    def add(self, a: Traced, b: Traced, *, name: str) -> Traced:
        """Sum of two tensors."""
        return _traced(self._graph.add(a, b, name=name), a.sample + b.sample)

    def multiply(self, a: Traced, b: Traced, *, name: str) -> Traced:
        """Product of a tensor and another, or of a tensor and one gate per channel."""
        return _traced(self._graph.multiply(a, b, name=name), a.sample * b.sample)

    def concat(self, values: Sequence[Traced], *, name: str) -> Traced:
        """Stack along the channels."""
        stacked = np.concatenate([value.sample for value in values], axis=1)
        return _traced(self._graph.concat(values, name=name), stacked)

    def max_pool(
        self, x: Traced, kernel: int, *, name: str, stride: int, padding: int = 0
    ) -> Traced:
        """Largest value of a square window."""
        y = self._graph.max_pool(x, kernel, stride, padding, name=name)
        return _traced(y, numpy_layers.max_pool(x.sample, kernel, stride, padding))

    def average_pool(
        self, x: Traced, kernel: int, *, name: str, stride: int, padding: int = 0
    ) -> Traced:
        """Mean of a square window, the padding counted as zeros."""
        y = self._graph.average_pool(x, kernel, stride, padding, name=name)
        return _traced(y, numpy_layers.average_pool(x.sample, kernel, stride, padding))

    def global_average_pool(self, x: Traced, *, name: str) -> Traced:
        """Mean over height and width, (channels, 1, 1)."""
        y = self._graph.global_average_pool(x, name=name)
        return _traced(y, x.sample.mean(axis=(2, 3), keepdims=True))

    def upsample(self, x: Traced, factor: int, *, name: str) -> Traced:
        """Repeat every pixel ``factor`` times along height and width."""
        larger = x.sample.repeat(factor, axis=2).repeat(factor, axis=3)
        return _traced(self._graph.upsample(x, factor, name=name), larger)

    def flatten(self, x: Traced, *, name: str) -> Traced:
        """All dimensions but the batch become one."""
        return _traced(self._graph.flatten(x, name=name), x.sample.reshape(len(x.sample), -1))

    def linear(self, x: Traced, features: int, *, name: str) -> Traced:
        """Fully connected layer with He initialisation and a bias of zeros."""
        weight = self._he_normal((features, x.channels))
        y = self._graph.gemm(x, weight, np.zeros(features, np.float32), name=name)
        return _traced(y, x.sample @ weight.T)

    def classifier(self, x: Traced, classes: int) -> Traced:
        """Global average, then one score per class."""
        pooled = self.flatten(self.global_average_pool(x, name="pool"), name="flatten")
        return self.linear(pooled, classes, name="classifier")

    def model(self, outputs: Mapping[str, Traced], metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished model; ``outputs`` maps each output's name to its tensor."""
        return self._graph.model(outputs, metadata)

    def _he_normal(self, shape: tuple[int, ...]) -> FloatArray:
        """He et al. 2015: variance 2 / fan-in keeps a Relu network's activations in range."""
        weight = self._generator.standard_normal(shape, dtype=np.float32)
        weight *= np.float32(sqrt(2 / prod(shape[1:])))
        return weight


def _traced(value: Value, sample: FloatArray) -> Traced:
    if sample.shape[1:] != value.shape or sample.dtype != np.float32:
        raise ValueError(
            f"{value.name} should be float32 {value.shape} but is {sample.dtype} {sample.shape[1:]}"
        )
    return Traced(value.name, value.shape, sample)
