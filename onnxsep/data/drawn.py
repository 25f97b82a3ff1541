"""Data where the user has none: drawn images, and plain chance for inputs that are no images.

=====================================  =====================================================
input                                  values
=====================================  =====================================================
rank 4, float or uint8                 drawn images (see `leaves`), preprocessed
rank 3 or 5, float                     1/f signals or volumes per channel, deviation 1
other floats                           Gaussian, deviation 1
integers                               0 or 1, which every embedding and every length allows
booleans                               both values
without a batch axis: float            one Gaussian array for all samples (a single value: 1)
without a batch axis: integer, boolean 1 (true) in the first half of the samples, 0 in the rest;
                                       1 in all where the model's batch has a fixed size above 1
=====================================  =====================================================

Sample i depends on the seed and on i alone, whatever the number of samples; the last line of the
table is the exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsep.data.dataset import Column, ConstantColumn, Dataset, check_samples
from onnxsep.data.fields import power_law_field
from onnxsep.data.image_column import ImageColumn
from onnxsep.data.inputs import (
    InputSpec,
    image_geometry,
    image_input,
    leading_input,
    static_batch,
    unbatched_inputs,
)
from onnxsep.data.leaves import draw_image
from onnxsep.data.preprocessing import Preprocessing, assume_preprocessing
from onnxsep.errors import ConfigurationError

# Sizes for dynamic axes. An image of 224 pixels fits nearly every network: classifiers with a
# fully connected end were made for it, and it can be halved five times.
DYNAMIC_SIDE = 224
_DYNAMIC_SIGNAL = 1024
_DYNAMIC_VOLUME_SIDE = 32
_DYNAMIC_AXIS = 16
_SIGNAL_RANK, _IMAGE_RANK, _VOLUME_RANK = 3, 4, 5
# Exponents of 1/f signals and volumes.
_EXPONENTS = (0.8, 1.6)


@dataclass(frozen=True)
class DrawnImages:
    """Drawn images for the input at ``position`` in the model; two inputs never get the same."""

    seed: int
    count: int
    position: int
    height: int
    width: int
    channels: int

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> np.ndarray:
        """One image: uint8 (height, width, channels)."""
        generator = np.random.default_rng((self.seed, index, self.position))
        return draw_image(generator, self.height, self.width, self.channels)


@dataclass(frozen=True)
class DrawnValues:
    """Arrays of chance for the input at ``position`` in the model."""

    seed: int
    count: int
    position: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The values of the given samples, stacked."""
        return np.stack([self._sample(index) for index in indices])

    def _sample(self, index: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, index, self.position))
        if self.dtype.kind != "f":
            return generator.integers(0, 2, self.shape).astype(self.dtype)
        if len(self.shape) + 1 in (_SIGNAL_RANK, _VOLUME_RANK):
            exponent = generator.uniform(*_EXPONENTS)
            channels, *sides = self.shape
            fields = [power_law_field(generator, sides, exponent) for _ in range(channels)]
            return np.stack(fields).astype(self.dtype)
        return generator.standard_normal(self.shape).astype(self.dtype)


@dataclass(frozen=True)
class HalvesColumn:
    """1 (true) for the first half of the samples, 0 (false) for the rest."""

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The values of the given samples, stacked."""
        first = 2 * np.asarray(indices) < self.count
        values = first.reshape(-1, *(1 for _ in self.shape))
        return np.broadcast_to(values, (len(first), *self.shape)).astype(self.dtype)


def draw_dataset(
    model_inputs: Sequence[InputSpec],
    *,
    preprocessing: Preprocessing | None,
    samples: int,
    seed: int,
) -> Dataset:
    """Samples made up for the model's inputs; see the module's table.

    Args:
        model_inputs: What the model wants.
        preprocessing: How images become inputs; None takes what custom suggests (the data set
            then says ``assumed``).
        samples: How many; they are drawn when asked for.
        seed: Not negative; the same seed gives the same samples.

    Raises:
        InputError: The model has no inputs.
        ConfigurationError: ``samples`` is below 1, ``seed`` is negative, or the preprocessing does
            not fit the model.
    """
    check_samples(samples)
    if seed < 0:
        raise ConfigurationError(f"the seed must not be negative: {seed}")
    leading_input(model_inputs)
    unbatched = unbatched_inputs(model_inputs)
    columns: dict[str, Column] = {}
    used: Preprocessing | None = None
    image = image_input(model_inputs)
    # A batch ends where the value of an input without a batch axis changes: a model that insists
    # on its batch size cannot be fed with the pieces.
    changes = static_batch(model_inputs) in (None, 1)
    for position, spec in enumerate(model_inputs):
        batched = spec.name not in unbatched
        column = (
            _batched(spec, position, preprocessing, samples, seed, is_image=spec is (image or spec))
            if batched
            else _unbatched(spec, position, samples, seed, changes=changes)
        )
        if isinstance(column, ImageColumn) and used is None:
            used = column.preprocessing
        columns[spec.name] = column
    kind = "drawn 1/f signals" if used is None else "drawn images (dead leaves)"
    return Dataset(
        columns=columns,
        source=f"{samples} {kind}, seed {seed}",
        indices=np.arange(samples),
        drawn=True,
        preprocessing=used,
        unbatched=unbatched,
    )


def _batched(
    spec: InputSpec,
    position: int,
    preprocessing: Preprocessing | None,
    samples: int,
    seed: int,
    *,
    is_image: bool,
) -> Column:
    geometry = image_geometry(spec)
    if geometry is None:
        return DrawnValues(seed, samples, position, _static_shape(spec.shape[1:]), spec.dtype)
    # Means of an image's three channels say nothing about a mask beside it.
    if preprocessing is None or not (is_image or _fits(preprocessing, geometry.channels)):
        preprocessing, _ = assume_preprocessing(geometry)
    images = DrawnImages(
        seed,
        samples,
        position,
        geometry.height or DYNAMIC_SIDE,
        geometry.width or DYNAMIC_SIDE,
        geometry.channels,
    )
    return ImageColumn(images, preprocessing.resolve(geometry, spec.name), spec.dtype)


def _fits(preprocessing: Preprocessing, channels: int) -> bool:
    return max(len(preprocessing.mean), len(preprocessing.std)) in (1, channels)


def _unbatched(spec: InputSpec, position: int, samples: int, seed: int, *, changes: bool) -> Column:
    shape = _static_shape(spec.shape)
    if spec.dtype.kind != "f" and changes:
        return HalvesColumn(samples, shape, spec.dtype)
    if not shape or spec.dtype.kind != "f":
        return ConstantColumn(np.ones(shape, spec.dtype), samples)
    generator = np.random.default_rng((seed, position))
    return ConstantColumn(generator.standard_normal(shape).astype(spec.dtype), samples)


def _static_shape(shape: tuple[int | str | None, ...]) -> tuple[int, ...]:
    """``shape`` (without the batch axis) with sizes for its dynamic axes."""
    side = {
        _SIGNAL_RANK: _DYNAMIC_SIGNAL,
        _IMAGE_RANK: DYNAMIC_SIDE,
        _VOLUME_RANK: _DYNAMIC_VOLUME_SIDE,
    }.get(len(shape) + 1, _DYNAMIC_AXIS)
    return tuple(
        axis if isinstance(axis, int) else (side if place else _DYNAMIC_AXIS)
        for place, axis in enumerate(shape)
    )
