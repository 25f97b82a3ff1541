"""8-bit images as a column of a data set: where they come from, and a bounded memory of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from onnxsep.data.preprocessing import Preprocessing, luma

# Decoding or drawing costs more than inference for small networks, and a calibration walks over
# the data several times. Images are kept up to this many bytes, whatever their number.
KEPT_BYTES = 256 * 2**20

# Enlarging or shrinking by less than this only blurs: the image is cut instead, if large enough.
_RESAMPLING_WORTH = 0.05
# Pillow may shrink by whole factors first as long as this much resolution is left for filtering.
_REDUCING_GAP = 3.0


class ImageSource(Protocol):
    """A sequence of 8-bit images of one size."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> np.ndarray:
        """One image: uint8 of shape (H, W, C)."""
        ...


@dataclass(eq=False)
class ImageColumn:
    """Images, preprocessed when they are taken.

    The first `KEPT_BYTES` of 8-bit images stay in memory. Keeping the first ones, rather than
    the most recent, is what helps when the same data are walked over again and again.
    """

    images: ImageSource
    preprocessing: Preprocessing
    dtype: np.dtype
    kept_bytes: int = KEPT_BYTES
    _kept: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _used: int = field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """Network inputs of the given images, stacked."""
        values = self.preprocessing.apply(np.stack([self._image(index) for index in indices]))
        if self.dtype.kind == "u":
            values = np.rint(values).clip(0, np.iinfo(self.dtype).max)
        return values.astype(self.dtype, copy=False)

    def _image(self, index: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        image = self.images.image(index)
        if self._used + image.nbytes <= self.kept_bytes:
            self._kept[index] = image
            self._used += image.nbytes
        return image


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images out of an array, uint8 (N, H, W, C) or (N, H, W), fitted to a size and channels."""

    array: np.ndarray
    height: int
    width: int
    channels: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.array)

    def image(self, index: int) -> np.ndarray:
        """One image, fitted: uint8 (height, width, channels)."""
        pixels = np.asarray(self.array[index])
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, self.channels, axis=-1)
        elif self.channels == 1:
            pixels = luma(pixels)
        if pixels.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(pixels)
        gray = pixels.shape[-1] == 1
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels))
        return as_array(fit(image, self.height, self.width, self.preprocessing))


def fit(image: Image.Image, height: int, width: int, preprocessing: Preprocessing) -> Image.Image:
    """Resize and cut ``image`` to ``height`` × ``width`` the way ``preprocessing`` says."""
    if image.size == (width, height):
        return image
    kept = preprocessing.kept_fraction(height, width)
    vertical, horizontal = height / kept / image.height, width / kept / image.width
    if preprocessing.resize == "cover":
        vertical = horizontal = max(vertical, horizontal)
        if abs(vertical - 1.0) <= _RESAMPLING_WORTH and _covers(image, height, width):
            first_column, first_row = (image.width - width) // 2, (image.height - height) // 2
            return image.crop((first_column, first_row, first_column + width, first_row + height))
    box_width, box_height = width / horizontal, height / vertical
    # The limits catch rounding errors only.
    left = max((image.width - box_width) / 2, 0.0)
    top = max((image.height - box_height) / 2, 0.0)
    right, bottom = min(left + box_width, image.width), min(top + box_height, image.height)
    box = (left, top, right, bottom)
    return image.resize(
        (width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP
    )


def as_array(image: Image.Image) -> np.ndarray:
    """The pixels of an ``L`` or ``RGB`` image: uint8 (H, W, 1) or (H, W, 3)."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def _covers(image: Image.Image, height: int, width: int) -> bool:
    return image.height >= height and image.width >= width
