"""Dead leaves: images made of shapes that cover each other, close to natural ones in statistics.

Occluding shapes whose radii follow a power law have the edges, the scales and the spectrum of
natural images (Matheron 1968; Lee, Mumford and Huang 2001). Every leaf here has its own colour, a
linear shading and a 1/f texture; colours spread along the axes on which natural colours vary:
light, yellow against blue, magenta against green (Ruderman, Cronin and Chiao 1998).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from onnxsep.data.fields import power_law_field

# All lengths below are fractions of the image's mean side, all intensities of the full range.

# Number of leaves: log-uniform, so that some images are calm and some crowded.
_FEWEST_LEAVES, _MOST_LEAVES = 10, 120
# Radii follow r^-2. The theory's r^-3 is for scenes without a smallest detail; at a few dozen
# pixels nearly all leaves would be specks.
_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.05, 0.6
# What leaves look like, and how often: smooth and angular, thick and thin.
_SHAPES = ("ellipse", "rectangle", "polygon", "blob", "bar")
_SHAPE_SHARES = (0.32, 0.17, 0.17, 0.17, 0.17)
_CORNERS = (3, 8)
_CORNER_REACH = (0.6, 1.3)
_SQUARE_REACH = 1.2
_BLOB_WAVES = (((2, 5), 0.25), ((3, 8), 0.15))
# Leaves are drawn at this many times the resolution and averaged: soft edges.
_OVERSAMPLING = 2
# Points on a smooth outline; more cannot be seen.
_OUTLINE_POINTS = 24
_NARROWEST = 0.25
_BAR_WIDTH = 0.3

# Opponent axes of natural colours, one per row, and the deviation along each relative to light.
_COLOR_AXES = np.array(
    [[1.0, 1.0, 1.0], [1.225, 0.0, -1.225], [0.707, -1.414, 0.707]], dtype=np.float32
)
_COLOR_DEVIATIONS = np.array([1.0, 0.28, 0.13], dtype=np.float32)
# How natural means of red, green and blue differ from their mean.
_WARMTH = np.array([0.03, 0.005, -0.035], dtype=np.float32)
# Share of the chroma's deviation that all leaves of an image have in common (the light's colour).
_COMMON_CHROMA = 0.7

# Shading across a leaf, and the texture: median amplitude, its spread (log-normal), the range of
# exponents, and how many different textures the leaves of one image choose from.
_SHADING = 0.15
_TEXTURE, _TEXTURE_SPREAD, _STRONGEST_TEXTURE = 0.05, 0.8, 0.5
_EXPONENTS = (0.8, 1.6)
_TEXTURES = 3
_LIGHT_DEVIATION = 0.25
# Slow changes of the light over the image.
_ILLUMINATION, _ILLUMINATION_EXPONENT = 0.1, 2.0

# Every image gets a mean and a deviation of its own, as natural ones have.
_MEAN, _MEAN_DEVIATION = 0.47, 0.13
_CONTRAST = (0.12, 0.32)
_SENSOR_NOISE = 0.01
_TINY = 1e-3


def draw_image(
    generator: np.random.Generator, height: int, width: int, channels: int
) -> np.ndarray:
    """One image.

    Args:
        generator: Source of chance; nothing else decides what is drawn.
        height: Rows.
        width: Columns.
        channels: 3 for RGB, 1 for grey; any other number gives unrelated 1/f fields.

    Returns:
        uint8 of shape (height, width, channels).
    """
    if channels in (1, 3):
        light = _Leaves(generator, height, width, channels).paint()
    else:
        exponent = generator.uniform(*_EXPONENTS)
        fields = [power_law_field(generator, (height, width), exponent) for _ in range(channels)]
        light = np.stack(fields, axis=-1)
    return _expose(generator, light)


class _Leaves:
    """The leaves of one image: shapes, colours and textures, drawn by chance when created."""

    def __init__(
        self, generator: np.random.Generator, height: int, width: int, channels: int
    ) -> None:
        self._generator = generator
        self._height, self._width, self._channels = height, width, channels
        self._side = _OVERSAMPLING * math.sqrt(height * width)
        low, high = math.log(_FEWEST_LEAVES), math.log(_MOST_LEAVES)
        self._count = round(math.exp(generator.uniform(low, high)))
        # Inverse distribution function of a density ~ r^-2 between the two limits.
        share = generator.random(self._count)
        inverse = (1 - share) / _SMALLEST_RADIUS + share / _LARGEST_RADIUS
        self._radii = self._side / inverse
        extent = np.array([width, height]) * _OVERSAMPLING
        self._centers = generator.random((self._count, 2)) * extent

    def paint(self) -> np.ndarray:
        """The light before exposure, in no particular unit: float32 (height, width, channels)."""
        leaf = self._visible_leaf()
        light = self._colors()[leaf] + (self._shading(leaf) + self._texture(leaf))[..., None]
        rows, columns = self._height, self._width
        fine = light.reshape(rows, _OVERSAMPLING, columns, _OVERSAMPLING, self._channels)
        averaged: np.ndarray = fine.mean(axis=(1, 3))
        return averaged

    def _visible_leaf(self) -> np.ndarray:
        """Which leaf is on top at every point of the fine grid; 0 is the ground."""
        canvas = Image.new("I", (self._width * _OVERSAMPLING, self._height * _OVERSAMPLING))
        pen = ImageDraw.Draw(canvas)
        angles = self._generator.random(self._count) * 2 * math.pi
        for number in range(self._count):
            turn = complex(math.cos(angles[number]), math.sin(angles[number]))
            points = self._outline() * turn * self._radii[number] + complex(*self._centers[number])
            pen.polygon(np.stack([points.real, points.imag], axis=1).ravel().tolist(), number + 1)
        return np.asarray(canvas).astype(np.intp)

    def _outline(self) -> np.ndarray:
        """Corners of one leaf around the origin, as complex numbers of size about 1."""
        generator = self._generator
        narrow = math.exp(generator.uniform(math.log(_NARROWEST), 0.0))
        kind = generator.choice(_SHAPES, p=_SHAPE_SHARES)
        angles: np.ndarray
        reach: np.ndarray
        if kind == "polygon":
            corners = int(generator.integers(*_CORNERS))
            angles = np.sort(generator.random(corners)) * 2 * math.pi
            reach = generator.uniform(*_CORNER_REACH, size=corners)
        elif kind in ("rectangle", "bar"):
            angles = np.array([0.25, 0.75, 1.25, 1.75]) * math.pi
            reach = np.full(4, _SQUARE_REACH)
            narrow *= _BAR_WIDTH if kind == "bar" else 1.0
        else:
            angles = np.arange(_OUTLINE_POINTS) * (2 * math.pi / _OUTLINE_POINTS)
            reach = self._wavy(angles) if kind == "blob" else np.ones(_OUTLINE_POINTS)
        outline: np.ndarray = reach * (np.cos(angles) + 1j * narrow * np.sin(angles))
        return outline

    def _wavy(self, angles: np.ndarray) -> np.ndarray:
        """Distance of a blob's outline from its centre, by angle."""
        reach: np.ndarray = np.ones(len(angles))
        for waves, height in _BLOB_WAVES:
            phase = self._generator.random() * 2 * math.pi
            wave = height * np.cos(self._generator.integers(*waves) * angles + phase)
            np.add(reach, wave, out=reach)
        return reach

    def _colors(self) -> np.ndarray:
        """Colour of every leaf, ground first: float32 (leaves + 1, channels)."""
        generator, count = self._generator, self._count + 1
        light = generator.uniform(-math.sqrt(3), math.sqrt(3), count) * _LIGHT_DEVIATION
        if self._channels == 1:
            return light[:, None].astype(np.float32)
        # Most things are grey, few are vivid: the two chroma axes have heavy tails.
        chroma = generator.laplace(0.0, math.sqrt(0.5), (count, 2))
        chroma += _COMMON_CHROMA * generator.standard_normal(2)
        chroma *= _LIGHT_DEVIATION
        parts = np.column_stack([light, chroma]).astype(np.float32) * _COLOR_DEVIATIONS
        return parts @ _COLOR_AXES

    def _shading(self, leaf: np.ndarray) -> np.ndarray:
        """Linear shading of every leaf around its centre, at every point of the fine grid."""
        slopes = self._generator.normal(0.0, _SHADING, (self._count + 1, 2)) / self._side
        centers = np.vstack([np.array(leaf.shape[::-1]) / 2, self._centers])
        offsets = -np.sum(slopes * centers, axis=1).astype(np.float32)
        across, down = slopes.astype(np.float32).T
        columns = np.arange(leaf.shape[1], dtype=np.float32)
        rows = np.arange(leaf.shape[0], dtype=np.float32)[:, None]
        shading: np.ndarray = offsets[leaf] + across[leaf] * columns + down[leaf] * rows
        return shading

    def _texture(self, leaf: np.ndarray) -> np.ndarray:
        """Texture of every leaf, at every point of the fine grid."""
        generator, count = self._generator, self._count + 1
        shape = (self._height, self._width)
        textures = np.stack(
            [
                power_law_field(generator, shape, generator.uniform(*_EXPONENTS))
                for _ in range(_TEXTURES)
            ]
        )
        spread = np.exp(generator.normal(0.0, _TEXTURE_SPREAD, count))
        amplitudes = np.minimum(_TEXTURE * spread, _STRONGEST_TEXTURE).astype(np.float32)
        chosen = generator.integers(0, _TEXTURES, count)
        rows = np.arange(leaf.shape[0])[:, None] // _OVERSAMPLING
        columns = np.arange(leaf.shape[1]) // _OVERSAMPLING
        texture: np.ndarray = amplitudes[leaf] * textures[chosen[leaf], rows, columns]
        return texture


def _expose(generator: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """From light to an 8-bit image: illumination, blur, brightness, contrast, sensor noise."""
    height, width, channels = light.shape
    strength = _ILLUMINATION * generator.random()
    field = power_law_field(generator, (height, width), _ILLUMINATION_EXPONENT)
    light = light + (strength * field)[..., None]
    mean = generator.normal(_MEAN, _MEAN_DEVIATION)
    contrast = generator.uniform(*_CONTRAST)
    light = (light - light.mean()) * (contrast / max(light.std(), _TINY)) + mean
    if channels == len(_WARMTH):
        light = light + _WARMTH
    light = light + _SENSOR_NOISE * generator.standard_normal(light.shape, dtype=np.float32)
    return np.rint(light.clip(0.0, 1.0) * 255.0).astype(np.uint8)
