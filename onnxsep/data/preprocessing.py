"""From 8-bit images to the tensor a network wants: scale, mean, deviation, layout, colour.

One rule everywhere, per channel::

    y = (x · scale − mean) / std        with x from 0 to 255

so ``mean`` and ``std`` are in the units of the *scaled* image: 0 to 1 with ``scale = 1/255``,
0 to 255 with ``scale = 1``. They are given in the order in which the network sees its channels
(blue first for ``color="bgr"``). One entry serves every channel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from onnxsep.data.inputs import ImageGeometry
from onnxsep.errors import ConfigurationError

Color = Literal["rgb", "bgr", "gray"]
Resize = Literal["cover", "stretch"]

# ITU-R BT.601, which is also what Pillow and OpenCV use for grey.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)

# Classifiers of photographs are evaluated on the middle of a slightly larger image (224 of 256
# pixels); small images such as 32×32 are used whole. The border between the two customs.
CROPPED_SIDE = 128
CROPPED_FRACTION = 0.875


@dataclass(frozen=True)
class Preprocessing:
    """How an 8-bit image becomes an input: ``(x · scale − mean) / std``, per channel.

    Attributes:
        mean: One entry, or one per channel in the network's order, in units of ``x · scale``.
        std: The same; positive.
        scale: Factor on the 0 to 255 values, before anything else.
        layout: Axis order of the input; ``"auto"`` takes the one the input's shape shows.
        color: Order of the three channels, or ``"gray"``: luma, repeated if the network has three
            channels. A network of one channel always gets luma.
        name: How the report calls it.
        assumed: True if nothing but custom speaks for it.
        resize: ``"cover"`` keeps the proportions and cuts off what is too much on two sides,
            ``"stretch"`` does not keep them.
        crop: Fraction of the resized image's side that is kept, from its middle. None: 0.875 for
            inputs of at least 128 pixels, the whole below. Images that already have the input's
            size are never resampled.

    Raises:
        ConfigurationError: A number makes no sense, or ``mean`` and ``std`` differ in length.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    layout: Literal["auto", "NCHW", "NHWC"] = "auto"
    color: Color = "rgb"
    name: str = "custom"
    assumed: bool = False
    resize: Resize = "cover"
    crop: float | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.mean), len(self.std)}
        if 0 in lengths or len(lengths - {1}) > 1:
            raise ConfigurationError(
                f"mean and std need one number, or one per channel: "
                f"mean has {len(self.mean)}, std has {len(self.std)}"
            )
        if not all(math.isfinite(number) for number in (*self.mean, *self.std, self.scale)):
            raise ConfigurationError("mean, std and scale must be finite numbers")
        if min(self.std) <= 0 or self.scale <= 0:
            raise ConfigurationError("std and scale must be positive")
        if self.crop is not None and not 0.0 < self.crop <= 1.0:
            raise ConfigurationError(f"crop must lie between 0 and 1, not {self.crop}")
        for option, value, known in (
            ("layout", self.layout, ("auto", "NCHW", "NHWC")),
            ("color", self.color, ("rgb", "bgr", "gray")),
            ("resize", self.resize, ("cover", "stretch")),
        ):
            if value not in known:
                raise ConfigurationError(f"{option} must be one of {', '.join(known)}: '{value}'")

    def resolve(self, geometry: ImageGeometry, input_name: str) -> Preprocessing:
        """This preprocessing with the layout settled for one input, after a check that it fits.

        Raises:
            ConfigurationError: Layout or number of channels contradict the input.
        """
        if self.layout not in ("auto", geometry.layout):
            raise ConfigurationError(
                f"the layout {self.layout} does not fit the model's input '{input_name}', "
                f"whose shape is {geometry.layout}"
            )
        channels = max(len(self.mean), len(self.std))
        if channels not in (1, geometry.channels):
            raise ConfigurationError(
                f"the preprocessing '{self.name}' has mean and std for {channels} channels, but "
                f"the model's input '{input_name}' has {geometry.channels}; give one number, or "
                "one per channel"
            )
        return dataclasses.replace(self, layout=geometry.layout)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Turn 8-bit images into network inputs.

        Args:
            images: uint8 of shape (n, H, W, C); C = 3 is RGB.

        Returns:
            float32 of shape (n, C, H, W), or (n, H, W, C) if ``layout`` is NHWC.
        """
        if images.shape[-1] == 3 and self.color == "bgr":
            images = images[..., ::-1]
        elif images.shape[-1] == 3 and self.color == "gray":
            images = np.repeat(luma(images), 3, axis=-1)
        deviation = np.asarray(self.std, dtype=np.float64)
        factor = (self.scale / deviation).astype(np.float32)
        offset = (-np.asarray(self.mean, dtype=np.float64) / deviation).astype(np.float32)
        values = images.astype(np.float32) * factor + offset
        if self.layout != "NHWC":
            values = np.moveaxis(values, -1, 1)
        return np.ascontiguousarray(values)

    @property
    def keeps_pixels(self) -> bool:
        """Whether pixels come out as they went in, whole numbers from 0 to 255."""
        return self.scale == 1.0 and set(self.mean) == {0.0} and set(self.std) == {1.0}

    def kept_fraction(self, height: int, width: int) -> float:
        """The part of the resized image's side that is kept for an input of that size."""
        if self.crop is not None:
            return self.crop
        return CROPPED_FRACTION if min(height, width) >= CROPPED_SIDE else 1.0

    def describe(self) -> str:
        """Name, order of colours and formula, for the report: ``unit (rgb, x / 255)``."""
        formula = "x" if self.scale == 1.0 else f"x / {1.0 / self.scale:g}"
        if any(self.mean):
            formula = f"{formula} − {_numbers(self.mean)}"
        if any(number != 1.0 for number in self.std):
            formula = f"({formula}) / {_numbers(self.std)}"
        return f"{self.name} ({self.color}, {formula})"


def luma(images: np.ndarray) -> np.ndarray:
    """Grey values of RGB images: uint8 (..., 3) to uint8 (..., 1), by ITU-R BT.601."""
    values = images.astype(np.float32) @ np.asarray(LUMA_WEIGHTS, dtype=np.float32)
    return np.rint(values).astype(np.uint8)[..., None]


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "(" + ", ".join(f"{v:g}" for v in values) + ")"


_UNIT_SCALE = 1.0 / 255.0


def _presets(*presets: Preprocessing) -> Mapping[str, Preprocessing]:
    return MappingProxyType({preset.name: preset for preset in presets})


#: Named preprocessings, each used by a family of published networks. ``mean`` and ``std`` stand in
#: the units that ``scale`` leaves, as everywhere.
PRESETS: Mapping[str, Preprocessing] = _presets(
    # The bare image, 0 to 255.
    Preprocessing(name="raw"),
    # 0 to 1: Darknet, most restoration networks, PyTorch's ToTensor.
    Preprocessing(name="unit", scale=_UNIT_SCALE),
    # −1 to 1: Inception, MobileNet and others from TensorFlow; torchvision's 0.5 / 0.5.
    Preprocessing(name="inception", mean=(1.0,), scale=1.0 / 127.5),
    # −½ to ½.
    Preprocessing(name="unit_centered", mean=(0.5,), scale=_UNIT_SCALE),
    # −1 to 1 the way of several detectors: (x − 127) / 128.
    Preprocessing(name="centered", mean=(127.0,), std=(128.0,)),
    # Mean and deviation of ImageNet's training images: torchvision and nearly all of PyTorch.
    Preprocessing(
        name="imagenet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=_UNIT_SCALE
    ),
    # Blue first, mean taken off, 0 to 255 range kept: Caffe's networks.
    Preprocessing(name="caffe", mean=(104.0, 117.0, 123.0), color="bgr"),
    # Mean and deviation of CIFAR-10's training images.
    Preprocessing(
        name="cifar10",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        scale=_UNIT_SCALE,
    ),
    # Mean and deviation of MNIST's training digits.
    Preprocessing(name="mnist", mean=(0.1307,), std=(0.3081,), scale=_UNIT_SCALE, color="gray"),
    # Grey, 0 to 1, 0 to 255 and −1 to 1; on a network of three channels the grey is repeated.
    Preprocessing(name="gray_unit", scale=_UNIT_SCALE, color="gray"),
    Preprocessing(name="gray_raw", color="gray"),
    Preprocessing(name="gray_inception", mean=(1.0,), scale=1.0 / 127.5, color="gray"),
)


def assume_preprocessing(geometry: ImageGeometry | None) -> tuple[Preprocessing, str]:
    """What custom suggests for an input nothing is known about, and a sentence that says so."""
    if geometry is not None and geometry.channels == 3:
        preset = PRESETS["imagenet"]
    else:
        preset = PRESETS["gray_unit" if geometry is not None and geometry.channels == 1 else "unit"]
    assumed = dataclasses.replace(preset, assumed=True)
    if geometry is None:
        return assumed, "no input looks like an image, so no normalisation was looked for"
    return assumed, f"the normalisation was assumed, not found: {assumed.describe()}"
