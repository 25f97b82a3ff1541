"""Random fields with a power-law spectrum, the texture of natural signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FLOATS = np.float32


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
    sides = tuple(shape)
    squares = np.zeros((1,) * len(sides))
    for axis, side in enumerate(sides):
        last = axis == len(sides) - 1
        frequency = np.fft.rfftfreq(side) if last else np.fft.fftfreq(side)
        squares = (
            squares + frequency.reshape([-1 if a == axis else 1 for a in range(len(sides))]) ** 2
        )
    squares.flat[0] = 1.0  # the mean's amplitude is set to zero below
    spectrum = generator.standard_normal((*squares.shape, 2)).view(np.complex128)[..., 0]
    spectrum *= squares ** (-exponent / 2)
    spectrum.flat[0] = 0.0
    field = np.fft.irfftn(spectrum, s=sides, axes=tuple(range(len(sides))))
    deviation = field.std()
    return (field / deviation if deviation > 0 else np.zeros_like(field)).astype(_FLOATS)
