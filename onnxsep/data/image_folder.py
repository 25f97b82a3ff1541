"""A folder of image files as a source of images, decoded one at a time."""

from __future__ import annotations

import functools
import os
import statistics
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from onnxsep.data.image_column import as_array, fit
from onnxsep.data.inputs import ImageGeometry
from onnxsep.data.preprocessing import Preprocessing
from onnxsep.errors import InputError

#: File name extensions that are taken for images.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
# Only these decoders may look at a file, whatever its bytes claim to be: some of Pillow's others
# start external programs.
_DECODERS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM")

# Transparent parts show the paper that images are usually looked at on.
_PAPER = (255, 255, 255, 255)
# A JPEG may be decoded at a fraction of its size as long as it stays this much larger than needed.
_DECODED_MARGIN = 2

# A model of dynamic size: large images are shrunk to this longest side, since every byte of the
# network's activations grows with it.
_LONGEST_SIDE = 1024
# Networks that halve the size again and again and join the branches need multiples of this.
_SIZE_MULTIPLE = 32
# EXIF orientation, and its values that turn the image on its side.
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# 16-bit grey to 8 bits.
_HIGH_BYTE = 8


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files, decoded when asked for and fitted to one size."""

    paths: Sequence[Path]
    height: int
    width: int
    channels: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """One image: uint8 (height, width, channels).

        Raises:
            InputError: The file cannot be decoded.
        """
        path = self.paths[index]
        with _opened(path) as image:
            margin = _DECODED_MARGIN / self.preprocessing.kept_fraction(self.height, self.width)
            side = round(max(self.height, self.width) * margin)
            image.draft(None, (side, side))
            upright = ImageOps.exif_transpose(image)
            plain = _flattened(upright, "L" if self.channels == 1 else "RGB")
        return as_array(fit(plain, self.height, self.width, self.preprocessing))


def find_images(folder: Path) -> list[Path]:
    """All image files in ``folder`` and its sub-folders, sorted by path; hidden ones are left out.

    Raises:
        InputError: There is none, or the folder cannot be read.
    """
    found = []
    try:
        for here, below, files in os.walk(folder, onerror=_reraise):
            below[:] = [name for name in below if not name.startswith(".")]
            found += [
                Path(here, name)
                for name in files
                if name.lower().endswith(EXTENSIONS)
                and not name.startswith(".")
                and Path(here, name).is_file()  # no pipe or device, which would never end
            ]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise InputError(
            f"{folder}: no images in it or its sub-folders; supported: {', '.join(EXTENSIONS)}"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def common_size(paths: Sequence[Path], geometry: ImageGeometry) -> tuple[int, int, str]:
    """Height and width to feed a model with, and a note where the model did not decide it.

    Where the model's height or width is dynamic, the images' own size is taken if all have the
    same, else the median. Both are shrunk to `_LONGEST_SIDE` and cut down to multiples of 32.

    Raises:
        InputError: A file is no image.
    """
    if geometry.height is not None and geometry.width is not None:
        return geometry.height, geometry.width, ""
    sizes = [_upright_size(path) for path in paths]
    height = statistics.median_low([size[0] for size in sizes])
    width = statistics.median_low([size[1] for size in sizes])
    shrink = min(1.0, _LONGEST_SIDE / max(height, width))
    height = geometry.height or _friendly(height * shrink)
    width = geometry.width or _friendly(width * shrink)
    if set(sizes) == {(height, width)}:
        return height, width, ""
    return height, width, f", fitted to {height}×{width} because the model's size is dynamic"


def _friendly(side: float) -> int:
    whole = max(int(side), 1)
    return whole - whole % _SIZE_MULTIPLE if whole >= _SIZE_MULTIPLE else whole


def _upright_size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        width, height = image.size
        sideways = image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """``image`` as 8-bit ``L`` or ``RGB`` without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        values = np.clip(np.asarray(image).astype(np.int64) >> _HIGH_BYTE, 0, 255)
        image = Image.fromarray(values.astype(np.uint8))
    elif "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, _PAPER), layer)
    return image if image.mode == mode else image.convert("RGB").convert(mode)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and turn everything Pillow may say against it into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_decoders()) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; remove it or make it smaller"
        ) from error
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, struct.error) as error:
        # Pillow's decoders answer damaged files with any of these.
        raise InputError(f"{path}: cannot be decoded as an image; remove or replace it") from error


@functools.cache
def _decoders() -> tuple[str, ...]:
    """Those of `_DECODERS` that this build of Pillow has (WebP is optional)."""
    Image.init()
    return tuple(name for name in _DECODERS if name in Image.OPEN)


def _reraise(error: OSError) -> None:
    raise error
