"""The rows of a convolution as a matrix product: sampled patches of its input, and its outputs."""

from __future__ import annotations

import math

import numpy as np

from onnxsep.convolution import Geometry


class PatchSampler:
    """Chooses output positions once per batch and gathers what the convolution sees there.

    The same positions are used for the input patches and for the output values, so that rows
    belong together. Deterministic for a seed.
    """

    def __init__(self, geometry: Geometry, *, rows_per_sample: int, seed: int) -> None:
        self._geometry = geometry
        self._rows_per_sample = rows_per_sample
        self._generator = np.random.default_rng(seed)

    def choose(self, batch: int, output_size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Distinct output positions for each sample of a batch.

        Returns:
            Sample index (rows,) and flat spatial position (rows,) of every row.
        """
        pixels = math.prod(output_size)
        count = min(self._rows_per_sample, pixels)
        if count == pixels:
            positions = np.broadcast_to(np.arange(pixels), (batch, pixels))
        else:
            positions = np.stack(
                [
                    np.sort(self._generator.choice(pixels, count, replace=False, shuffle=False))
                    for _ in range(batch)
                ]
            )
        return np.repeat(np.arange(batch), count), positions.reshape(-1)

    def patches(self, values: np.ndarray, samples: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What the kernel covers at each position.

        Args:
            values: Input of the convolution, (batch, C, *spatial).
            samples: (rows,) from `choose`.
            positions: (rows,) from `choose`.

        Returns:
            (rows, C·K) float32, channels slow and kernel positions fast, as in
            ``weight.reshape(N, C * K)``.
        """
        geometry = self._geometry
        size = values.shape[2:]
        output_size = geometry.output_size(size)
        padded = np.pad(
            np.moveaxis(values, 1, -1).astype(np.float32, copy=False),
            ((0, 0), *geometry.resolve_pads(size), (0, 0)),
        )
        corner = [
            axis * stride
            for axis, stride in zip(
                np.unravel_index(positions, output_size), geometry.strides, strict=True
            )
        ]
        channels = values.shape[1]
        taps = list(np.ndindex(*geometry.kernel))
        rows = np.empty((len(positions), len(taps), channels), np.float32)
        for index, tap in enumerate(taps):
            place = tuple(
                axis + offset * dilation
                for axis, offset, dilation in zip(corner, tap, geometry.dilations, strict=True)
            )
            rows[:, index, :] = padded[(samples, *place)]
        return rows.transpose(0, 2, 1).reshape(len(positions), channels * len(taps))

    @staticmethod
    def outputs(values: np.ndarray, samples: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Output of the convolution, (batch, N, *spatial), at each position: (rows, N) float32."""
        flat = values.reshape(*values.shape[:2], -1)
        return flat[samples, :, positions].astype(np.float32, copy=False)
