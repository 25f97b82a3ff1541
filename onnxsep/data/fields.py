"""Random fields with a power-law spectrum, the texture of natural signals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def power_law_field(
    generator: np.random.Generator, shape: Sequence[int], exponent: float
) -> np.ndarray:
    """A Gaussian field whose amplitude falls with frequency f as 1/f^exponent.

    Natural images have exponents near 1 (Field 1987). The field repeats itself at the borders.

    Args:
        generator: Source of chance.
        shape: One to three axes.
        exponent: 0 is white noise; larger is smoother.

    Returns:
        float32 of that shape with mean 0 and deviation 1; zeros if it has a single element.
    """
    axes = _frequencies(shape)
    squares = np.zeros((1,) * len(axes))
    for axis in axes:
        squares = squares + axis**2
    return _shaped_noise(generator, shape, squares, exponent)


def stretched_texture(
    generator: np.random.Generator, height: int, width: int, exponent: float, stretch: float
) -> np.ndarray:
    """Like `power_law_field`, but grains are ``stretch`` times as long as wide, in some direction.

    Returns:
        float32 (height, width) with mean 0 and deviation 1.
    """
    rows, columns = _frequencies((height, width))
    angle = generator.random() * math.pi
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    squares = along**2 * stretch + across**2 / stretch
    return _shaped_noise(generator, (height, width), squares, exponent)


def _frequencies(shape: Sequence[int]) -> list[np.ndarray]:
    """The frequencies of a real transform along every axis, each shaped to broadcast."""
    rank = len(shape)
    return [
        (np.fft.rfftfreq(side) if axis == rank - 1 else np.fft.fftfreq(side)).reshape(
            [-1 if other == axis else 1 for other in range(rank)]
        )
        for axis, side in enumerate(shape)
    ]


def _shaped_noise(
    generator: np.random.Generator, shape: Sequence[int], squares: np.ndarray, exponent: float
) -> np.ndarray:
    """White noise filtered by ``squares``, the squared frequencies, to the power −exponent/2."""
    squares = squares.copy()
    squares.flat[0] = 1.0  # any value but zero: the mean's amplitude is removed below
    spectrum = generator.standard_normal((*squares.shape, 2)).view(np.complex128)[..., 0]
    spectrum *= squares ** (-exponent / 2)
    spectrum.flat[0] = 0.0
    field = np.fft.irfftn(spectrum, s=tuple(shape), axes=tuple(range(len(shape))))
    deviation = float(field.std())
    return (field / deviation if deviation > 0 else np.zeros_like(field)).astype(np.float32)
