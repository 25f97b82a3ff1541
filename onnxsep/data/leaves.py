"""Dead leaves: images made of shapes that cover each other, close to natural ones in statistics.

Occluding shapes whose radii follow a power law have the edges, the scales and the spectrum of
natural images (Matheron 1968; Lee, Mumford and Huang 2001). What covers them is in `surfaces`.

The numbers here and there were chosen by how well networks survive being fitted on such images:
by the distance of the channels' covariances in all layers of seven trained networks from what real
images give (32 to 227 pixels, colour and grey), and by the accuracy that is left.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from onnxsep.data.fields import power_law_field
from onnxsep.data.surfaces import Scene, paint

# Number of leaves and smallest radius (a fraction of the mean side) at 32 pixels; larger images
# show more and finer detail. The number is log-uniform: some images are calm, others crowded.
_REFERENCE_SIDE = 32.0
_FEWEST_LEAVES, _MOST_LEAVES, _LEAVES_GROWTH = 10.0, 120.0, 0.6
_SMALLEST_RADIUS, _RADIUS_GROWTH = 0.06, -0.4
_LARGEST_RADIUS = 0.6
# Drawing time is bounded for images of any size.
_LEAVES_LIMIT = 800
# Radii follow r^-1.7. The theory's r^-3 is for scenes without a smallest detail; here nearly all
# leaves would be specks.
_RADIUS_EXPONENT = 1.7

# What leaves look like, and how often: smooth and angular, thick and thin.
_SHAPES = ("ellipse", "rectangle", "polygon", "blob", "bar")
_SHAPE_SHARES = (1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6)
_NARROWEST, _BAR_WIDTH = 0.25, 0.3
_SQUARE_REACH = 1.2
_CORNERS, _CORNER_REACH = (3, 8), (0.6, 1.3)
_BLOB_WAVES = (((2, 5), 0.25), ((3, 8), 0.15))
_OUTLINE_POINTS = 24  # on smooth outlines; more cannot be seen

# Leaves are drawn at this many times the resolution and averaged, for soft edges; small images
# consist of edges and deserve more.
_OVERSAMPLING, _SMALL_OVERSAMPLING, _SMALL_SIDE = 2, 3, 100.0

# Exposure: slow changes of the light; blur of half of the images, in pixels, log-uniform; mean and
# deviation of each image, and how red, green and blue differ in the mean.
_ILLUMINATION, _ILLUMINATION_EXPONENT = 0.15, 2.0
_BLURRED, _BLUR = 0.5, (0.3, 1.5)
_MEAN, _MEAN_DEVIATION = 0.47, 0.13
_CONTRAST = (0.14, 0.33)
_WARMTH = np.array([0.025, 0.0, -0.03], dtype=np.float32)
_TINY = 1e-3

# Exponents of the fields that stand for images of other than one or three channels.
_FIELD_EXPONENTS = (0.8, 1.6)


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
        light = paint(generator, _scatter(generator, height, width), channels)
    else:
        exponent = generator.uniform(*_FIELD_EXPONENTS)
        fields = [power_law_field(generator, (height, width), exponent) for _ in range(channels)]
        light = np.stack(fields, axis=-1)
    return _expose(generator, light)


def _scatter(generator: np.random.Generator, height: int, width: int) -> Scene:
    """Draw the shapes of all leaves, one over the other."""
    side = math.sqrt(height * width)
    fine = _SMALL_OVERSAMPLING if side < _SMALL_SIDE else _OVERSAMPLING
    radii = side * fine * _radii(generator, side / _REFERENCE_SIDE)
    extent = np.array([width, height]) * fine
    centers = generator.random((len(radii), 2)) * extent
    canvas = Image.new("I", (width * fine, height * fine))
    pen = ImageDraw.Draw(canvas)
    for number, (radius, center) in enumerate(zip(radii, centers, strict=True), start=1):
        points = _outline(generator) * radius + complex(*center)
        pen.polygon(np.stack([points.real, points.imag], axis=1).ravel().tolist(), number)
    return Scene(
        visible=np.asarray(canvas).astype(np.intp),
        centers=np.vstack([extent / 2, centers]),
        radii=np.append(side * fine, radii),
        oversampling=fine,
    )


def _radii(generator: np.random.Generator, scale: float) -> np.ndarray:
    """The radii of the leaves as fractions of the side, for an image ``scale`` times 32 pixels."""
    low, high = (count * scale**_LEAVES_GROWTH for count in (_FEWEST_LEAVES, _MOST_LEAVES))
    count = round(math.exp(generator.uniform(math.log(low), math.log(high))))
    smallest = min(_SMALLEST_RADIUS * scale**_RADIUS_GROWTH, _LARGEST_RADIUS)
    # Inverse of the distribution function of a power law between two limits.
    power = 1.0 - _RADIUS_EXPONENT
    share = generator.random(min(max(count, 1), _LEAVES_LIMIT))
    radii: np.ndarray = (smallest**power * (1 - share) + _LARGEST_RADIUS**power * share) ** (
        1 / power
    )
    return radii


def _outline(generator: np.random.Generator) -> np.ndarray:
    """Corners of one leaf around the origin, as complex numbers of size about 1."""
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
        reach = np.ones(_OUTLINE_POINTS)
        for waves, height in _BLOB_WAVES if kind == "blob" else ():
            phase = generator.random() * 2 * math.pi
            np.add(reach, height * np.cos(generator.integers(*waves) * angles + phase), out=reach)
    turn = complex(np.exp(2j * math.pi * generator.random()))
    outline: np.ndarray = reach * (np.cos(angles) + 1j * narrow * np.sin(angles)) * turn
    return outline


def _expose(generator: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """From light to an 8-bit image: illumination, blur, brightness and contrast."""
    height, width, channels = light.shape
    strength = _ILLUMINATION * generator.random()
    field = power_law_field(generator, (height, width), _ILLUMINATION_EXPONENT)
    light = light + (strength * field)[..., None]
    if generator.random() < _BLURRED:
        from scipy import ndimage  # takes a third of a second to import

        low, high = (math.log(sigma) for sigma in _BLUR)
        sigma = math.exp(generator.uniform(low, high))
        light = ndimage.gaussian_filter(light, (sigma, sigma, 0.0), mode="nearest")
    mean = generator.normal(_MEAN, _MEAN_DEVIATION)
    contrast = generator.uniform(*_CONTRAST)
    light = (light - light.mean()) * (contrast / max(float(light.std()), _TINY)) + mean
    if channels == len(_WARMTH):
        light = light + _WARMTH
    return np.rint(light.clip(0.0, 1.0) * 255.0).astype(np.uint8)
