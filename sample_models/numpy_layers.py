"""The forward pass of each layer on numpy arrays, float32 (N, C, H, W).

Slow and plain: only there to see what a few images make of a network under construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from graph_builder import FloatArray


def sample_images(generator: np.random.Generator, count: int, size: int) -> FloatArray:
    """Colour images like photographs, and every fourth one white noise, as benchmarks feed it.

    The spectrum of the others falls as 1/f, as photographs' does (Field 1987); brightness and
    contrast differ from image to image.

    Returns:
        float32 (count, 3, size, size) of about mean 0 and variance 1.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf  # no mean: brightness is drawn below
    white = generator.standard_normal((count, 4, size, size))
    texture = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(size, size))
    texture /= texture.std(axis=(2, 3), keepdims=True)
    # One shared plane makes the three colours correlate as much as they do in photographs.
    luminance_share = 0.9
    images = np.sqrt(luminance_share) * texture[:, :1]
    images = images + np.sqrt(1 - luminance_share) * texture[:, 1:]
    contrast = generator.uniform(0.6, 1.2, (count, 1, 1, 1))
    brightness = 0.4 * generator.standard_normal((count, 1, 1, 1))
    images = contrast * images + brightness
    images[3::4] = white[3::4, 1:]
    result: FloatArray = images.astype(np.float32)
    return result


def conv(
    x: FloatArray, weight: FloatArray, stride: int, padding: tuple[int, int], groups: int
) -> FloatArray:
    """2-D convolution without bias, dense or depthwise with one filter a channel."""
    if groups not in (1, len(weight)) or weight.shape[1] * groups != x.shape[1]:
        raise ValueError(f"{groups} groups of {x.shape[1]} channels: neither 1 nor depthwise")
    # Image by image in buffers that are used again: large new arrays cost more than the sums.
    return np.stack([_conv_image(image, weight, stride, padding, groups) for image in x])


def max_pool(x: FloatArray, kernel: int, stride: int, padding: int) -> FloatArray:
    """Largest value of a square window."""
    return _reduce_windows(np.maximum, x, kernel, stride, padding, -np.inf)


def average_pool(x: FloatArray, kernel: int, stride: int, padding: int) -> FloatArray:
    """Mean of a square window, the padding counted as zeros."""
    total = _reduce_windows(np.add, x, kernel, stride, padding, 0.0)
    return total / np.float32(kernel * kernel)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), written so that nothing overflows."""
    result: FloatArray = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return result


def _conv_image(
    image: FloatArray, weight: FloatArray, stride: int, padding: tuple[int, int], groups: int
) -> FloatArray:
    windows = list(_windows(image, weight.shape[2:], stride, padding, 0.0))
    shape = windows[0][2].shape[1:]
    result = np.zeros((len(weight), *shape), np.float32)
    part = np.empty_like(result)
    pixels = np.empty((image.shape[0], *shape), np.float32)
    for row, column, window in windows:
        taps = np.ascontiguousarray(weight[:, :, row, column])
        if groups == 1:
            np.copyto(pixels, window)
            flat = pixels.reshape(len(pixels), -1)
            np.matmul(taps, flat, out=part.reshape(len(part), -1))
        else:
            np.multiply(window, taps[:, :, None], out=part)
        result += part
    return result


def _windows(
    x: FloatArray,
    kernel: tuple[int, ...],
    stride: int,
    padding: tuple[int, int],
    border: float,
) -> Iterator[tuple[int, int, FloatArray]]:
    """For every place in the window: its row and column, and the pixels that lie there."""
    rows, columns = padding
    untouched = [(0, 0)] * (x.ndim - 2)
    padded = np.pad(x, [*untouched, (rows, rows), (columns, columns)], constant_values=border)
    height = (padded.shape[-2] - kernel[0]) // stride + 1
    width = (padded.shape[-1] - kernel[1]) // stride + 1
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            last_row, last_column = row + stride * height, column + stride * width
            yield row, column, padded[..., row:last_row:stride, column:last_column:stride]


def _reduce_windows(
    combine: Callable[[FloatArray, FloatArray], FloatArray],
    x: FloatArray,
    kernel: int,
    stride: int,
    padding: int,
    border: float,
) -> FloatArray:
    windows = _windows(x, (kernel, kernel), stride, (padding, padding), border)
    _, _, result = next(windows)
    for _, _, window in windows:
        result = combine(result, window)
    return result
