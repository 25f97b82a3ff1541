"""Small made-up layers with the correlations that real inputs have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from onnxsep.factorize import LayerProblem, MomentAccumulator, Moments

KERNELS = st.sampled_from([(1, 1), (3,), (2, 3), (3, 3), (1, 5), (5, 5), (7, 7), (2, 2, 3)])

# What rounding and the jitter of nearly singular normal matrices may do to a relative error.
ROUNDING = 1e-8


def patches(
    channels: int, positions: int, rows: int = 400, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Input patches (rows, C * K) whose channels and positions are correlated, with a mean."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(rows, channels, positions)) + random.normal(size=(rows, 1, 1))
    mixing = random.normal(size=(channels, channels)) / np.sqrt(channels)
    mixed = np.einsum("rck,cd->rdk", base, mixing)
    smooth = mixed + np.roll(mixed, 1, axis=2) + 0.5 * mixed.mean(axis=2, keepdims=True)
    return np.asarray((smooth + 0.7).reshape(rows, -1), dtype=np.float32)


def moments_of(
    rows: npt.NDArray[np.float32], outputs: npt.NDArray[np.floating] | None = None
) -> Moments:
    """Moments of all rows in one go."""
    accumulator = MomentAccumulator(rows.shape[1], 0 if outputs is None else outputs.shape[1])
    accumulator.update(rows, outputs)
    return accumulator.result()


def random_weight(
    outputs: int, channels: int, kernel: tuple[int, ...], seed: int = 1
) -> npt.NDArray[np.float64]:
    """A random weight (N, C, *kernel)."""
    return np.random.default_rng(seed).normal(size=(outputs, channels, *kernel))


def layer(
    outputs: int,
    channels: int,
    kernel: tuple[int, ...],
    *,
    weight: npt.NDArray[np.float64] | None = None,
    shifted: bool = False,
    uneven: bool = False,
    rows: int = 400,
    seed: int = 0,
    ridge: float = 1e-4,
) -> LayerProblem:
    """A problem on made-up moments.

    Args:
        outputs: N.
        channels: C.
        kernel: Sizes of the kernel.
        weight: Its weight, random if None.
        shifted: Whether the inputs differ from those that made the wanted outputs.
        uneven: Whether the channels differ in strength by a factor of ten.
        rows: Number of samples.
        seed: Of everything random.
        ridge: As in `LayerProblem.from_moments`.
    """
    dense = random_weight(outputs, channels, kernel, seed + 1) if weight is None else weight
    if uneven:
        dense = dense * np.geomspace(1, 0.1, channels).reshape(1, channels, *[1] * len(kernel))
    flat = dense.reshape(outputs, -1)
    clean = patches(channels, flat.shape[1] // channels, rows, seed)
    if not shifted:
        return LayerProblem.from_moments(dense, None, moments_of(clean), ridge=ridge)
    noise = np.random.default_rng(seed + 2).normal(size=clean.shape)
    seen = (0.9 * clean + 0.1 * np.abs(clean) + 0.2 * noise).astype(np.float32)
    return LayerProblem.from_moments(dense, None, moments_of(seen, clean @ flat.T), ridge=ridge)
