"""What covers the leaves of a drawn image: colour, shading, texture, stripes.

Colours spread along the axes on which natural colours vary: light, yellow against blue, magenta
against green (Ruderman, Cronin and Chiao 1998). Intensities are fractions of the full range;
`leaves` sets every image's brightness and contrast afterwards, so only their proportions count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxsep.data.fields import stretched_texture

# Opponent axes, one per row, all of the same length; and the deviation along each against light.
_COLOR_AXES = np.array(
    [[1.0, 1.0, 1.0], [1.225, 0.0, -1.225], [0.707, -1.414, 0.707]], dtype=np.float32
)
_COLOR_DEVIATIONS = np.array([1.0, 0.28, 0.13], dtype=np.float32)
_LIGHT_DEVIATION = 0.25
# Chroma that all leaves of an image have in common (the colour of the light), against their own.
_COMMON_CHROMA = 0.7

# Shading across a leaf: a slope, and a bulge like that of a ball, up to this many squared radii.
_SLOPE = 0.15
_BULGE, _BULGE_END = 0.06, 4.0

# 1/f textures: so many for an image, of these exponents, with grains so much longer than wide
# (half-normal, in log), and among the leaves so different in strength (normal, in log).
_TEXTURES = 3
_EXPONENTS = (0.8, 1.6)
_STRETCH = 0.6
_SPREAD_OF_IMAGES, _SPREAD_OF_LEAVES = 0.4, 0.9
# Median strength at 32 pixels. A larger image shows finer grains besides the coarse ones.
_TEXTURE, _TEXTURE_GROWTH, _STRONGEST_TEXTURE = 0.03, 0.7, 0.5
_REFERENCE_SIDE = 32.0

# Stripes: which share of the leaves has them, how strong (median and spread in log), and how many
# to a pixel.
_STRIPED = 0.1
_STRIPES, _STRIPES_SPREAD = 0.2, 0.5
_STRIPE_FREQUENCIES = (0.05, 0.5)


@dataclass(frozen=True, eq=False)
class Scene:
    """The leaves of an image as they lie.

    Attributes:
        visible: Which leaf is on top at every point of the fine grid, 0 being the ground: integers
            of shape (height, width) times ``oversampling``.
        centers: Of the ground and all leaves, x and y on the fine grid: (leaves + 1, 2).
        radii: On the fine grid: (leaves + 1,).
        oversampling: Points of the fine grid to a pixel, along each axis.
    """

    visible: np.ndarray
    centers: np.ndarray
    radii: np.ndarray
    oversampling: int

    @property
    def side(self) -> float:
        """Mean side of the image in pixels."""
        return math.sqrt(self.visible.size) / self.oversampling


def paint(generator: np.random.Generator, scene: Scene, channels: int) -> np.ndarray:
    """The light that comes from every pixel, around 0.

    Args:
        generator: Source of chance.
        scene: The leaves.
        channels: 1 or 3.

    Returns:
        float32 (height, width, channels).
    """
    light = _colors(generator, len(scene.radii), channels)[scene.visible]
    light += (_shading(generator, scene) + _stripes(generator, scene) + _texture(generator, scene))[
        ..., None
    ]
    fine = scene.oversampling
    height, width = (axis // fine for axis in scene.visible.shape)
    averaged: np.ndarray = light.reshape(height, fine, width, fine, channels).mean(axis=(1, 3))
    return averaged


def _colors(generator: np.random.Generator, count: int, channels: int) -> np.ndarray:
    """A colour for every leaf: float32 (count, channels)."""
    limit = math.sqrt(3.0) * _LIGHT_DEVIATION  # of a uniform distribution with that deviation
    light = generator.uniform(-limit, limit, count)
    if channels == 1:
        return light[:, None].astype(np.float32)
    # Most things are grey and few are vivid: chroma has heavy tails.
    chroma = generator.laplace(0.0, math.sqrt(0.5), (count, 2))
    chroma += _COMMON_CHROMA * generator.standard_normal(2)
    parts = np.column_stack([light, _LIGHT_DEVIATION * chroma]).astype(np.float32)
    colors: np.ndarray = (parts * _COLOR_DEVIATIONS) @ _COLOR_AXES
    return colors


def _shading(generator: np.random.Generator, scene: Scene) -> np.ndarray:
    """Slope and bulge of every leaf around its centre, on the fine grid."""
    count, visible = len(scene.radii), scene.visible
    slopes = generator.normal(0.0, _SLOPE, (2, count)) / (scene.side * scene.oversampling)
    bulges = generator.normal(0.0, _BULGE, count)
    bulges[0] = 0.0  # the ground is flat
    center_x, center_y = scene.centers.T.astype(np.float32)
    x = np.arange(visible.shape[1], dtype=np.float32) - center_x[visible]
    y = np.arange(visible.shape[0], dtype=np.float32)[:, None] - center_y[visible]
    across, down = slopes.astype(np.float32)
    shading: np.ndarray = across[visible] * x + down[visible] * y
    distance = (x**2 + y**2) / (scene.radii.astype(np.float32) ** 2)[visible]
    shading += bulges.astype(np.float32)[visible] * np.minimum(distance, _BULGE_END)
    return shading


def _stripes(generator: np.random.Generator, scene: Scene) -> np.ndarray:
    """Sine gratings on some of the leaves, on the fine grid."""
    count, visible = len(scene.radii), scene.visible
    strengths = _STRIPES * np.exp(generator.normal(0.0, _STRIPES_SPREAD, count))
    strengths *= generator.random(count) < _STRIPED
    low, high = (math.log(frequency) for frequency in _STRIPE_FREQUENCIES)
    turns = 2 * math.pi * np.exp(generator.uniform(low, high, count)) / scene.oversampling
    angles = generator.random(count) * math.pi
    across = (turns * np.cos(angles)).astype(np.float32)
    down = (turns * np.sin(angles)).astype(np.float32)
    x = np.arange(visible.shape[1], dtype=np.float32)
    y = np.arange(visible.shape[0], dtype=np.float32)[:, None]
    stripes: np.ndarray = strengths.astype(np.float32)[visible]
    on = stripes > 0
    if np.any(on):
        stripes *= np.sin(across[visible] * x + down[visible] * y, where=on, out=stripes * 0)
    return stripes


def _texture(generator: np.random.Generator, scene: Scene) -> np.ndarray:
    """The texture of every leaf, on the fine grid."""
    count, visible, fine = len(scene.radii), scene.visible, scene.oversampling
    height, width = (axis // fine for axis in visible.shape)
    textures = np.stack(
        [
            stretched_texture(
                generator,
                height,
                width,
                generator.uniform(*_EXPONENTS),
                math.exp(_STRETCH * abs(generator.standard_normal())),
            )
            for _ in range(_TEXTURES)
        ]
    )
    median = _TEXTURE * (scene.side / _REFERENCE_SIDE) ** _TEXTURE_GROWTH
    spread = _SPREAD_OF_IMAGES * generator.standard_normal()
    strengths = median * np.exp(spread + generator.normal(0.0, _SPREAD_OF_LEAVES, count))
    strengths = np.minimum(strengths, _STRONGEST_TEXTURE).astype(np.float32)
    chosen = generator.integers(0, _TEXTURES, count)
    rows = np.arange(visible.shape[0])[:, None] // fine
    columns = np.arange(visible.shape[1]) // fine
    texture: np.ndarray = strengths[visible] * textures[chosen[visible], rows, columns]
    return texture
