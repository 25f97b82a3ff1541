"""How far each channel is scaled up, on arrays; knows no ONNX.

All channels of an activation share one scale, so its rounding error is as large in a channel that
never exceeds 0.1 as in one that reaches 10. Scaled up to the width of the widest, a channel loses
less, by its factor; nothing is lost at the layer that makes it, whose weights have a scale for each
output channel. The layer that reads it divides its weights by the factor, and where several input
channels share the scale of an output channel, rounding these weights then counts for more: their
error is multiplied with an activation that is larger by the factor. `choose_exponent` weighs the
two against each other by their predicted size, assuming rounding errors independent and uniform.

Factors after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, who equalize the ranges of weights; the exponent after Xiao et al.,
"SmoothQuant", 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

# Steps of eight bits; which of them a target has makes no difference to what is best.
_ACTIVATION_STEPS = 255
_WEIGHT_STEPS = 127
# Further up a channel's error no longer counts beside the others', but what few images of the
# calibration set it off would decide its factor.
LARGEST_FACTOR = 16.0
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TINY = 1e-30


@dataclasses.dataclass(frozen=True, eq=False)
class ReaderWeights:
    """A layer behind the channels.

    Attributes:
        weight: (G, N/G, C/G, K) float64: groups, output and input channels of each, taps.
        first: Where the channels begin among its G·C/G input channels.
    """

    weight: Float64Array
    first: int


def full_factors(
    lows: Sequence[Float64Array],
    highs: Sequence[Float64Array],
    ends: Sequence[tuple[float, float]],
) -> Float64Array:
    """Largest factors, 1 to `LARGEST_FACTOR`, that leave the range of every value as it is.

    Args:
        lows: For each value in which the channels appear, their smallest elements, (C,).
        highs: Their largest, (C,).
        ends: The range of that value, (low, high), low ≤ 0 ≤ high.
    """
    factors = np.full(len(lows[0]), LARGEST_FACTOR)
    for low, high, (lowest, highest) in zip(lows, highs, ends, strict=True):
        below = np.where(low < 0, lowest / np.minimum(low, -_TINY), np.inf)
        above = np.where(high > 0, highest / np.maximum(high, _TINY), np.inf)
        limit = np.minimum(below, above)
        # A channel of zeros gains nothing.
        factors = np.minimum(factors, np.where(np.isfinite(limit), limit, 1.0))
    return np.asarray(np.maximum(factors, 1.0))


def predicted_noise(
    readers: Sequence[ReaderWeights],
    factors: Float64Array,
    width: float,
    power: Float64Array,
) -> tuple[float, float]:
    """Noise at the layers behind, from rounding the activation and from rounding the weights.

    Each output channel counts relative to its own signal, as far as these channels make it.

    Args:
        readers: The layers.
        factors: (C,) of the channels.
        width: Of the range of the activation, which the factors leave as it is.
        power: (C,) mean square of the elements as the layers see them, before scaling.
    """
    step = width / _ACTIVATION_STEPS
    activation = weights = 0.0
    channels = len(factors)
    for reader in readers:
        groups, outputs, inputs, _ = reader.weight.shape
        every = np.ones(groups * inputs)
        place = slice(reader.first, reader.first + channels)
        every[place] = factors
        own = np.zeros(groups * inputs)
        own[place] = 1.0
        powers = np.zeros(groups * inputs)
        powers[place] = power
        shape = (groups, 1, inputs)
        energy = np.square(reader.weight).sum(axis=3)
        signal = (energy * powers.reshape(shape)).sum(axis=2)
        importance = np.where(signal > 0, 1 / np.maximum(signal, _TINY), 0.0)
        noise = (energy * (own / every**2).reshape(shape)).sum(axis=2) * step**2 / 12
        activation += float((noise * importance).sum()) / (groups * outputs)
        largest = (np.abs(reader.weight).max(axis=3) / every.reshape(shape)).max(axis=2)
        taps = reader.weight.shape[3]
        spread = (powers * every**2).reshape(groups, 1, inputs).sum(axis=2) * taps
        noise = np.square(largest / _WEIGHT_STEPS) / 12 * spread
        weights += float((noise * importance).sum()) / (groups * outputs)
    return activation, weights


def choose_exponent(
    readers: Sequence[ReaderWeights],
    full: Float64Array,
    width: float,
    power: Float64Array,
) -> tuple[float, float]:
    """The exponent of ``full`` with the least predicted noise, and the ratio to none in dB."""
    noises = [sum(predicted_noise(readers, full**each, width, power)) for each in EXPONENTS]
    best = int(np.argmin(noises))
    if not noises[best] > 0:
        return 0.0, 0.0
    return EXPONENTS[best], float(10 * np.log10(noises[0] / noises[best]))
