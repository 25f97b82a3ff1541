"""Which normalisation a network was trained with, read off its first BatchNormalization.

A BatchNormalization keeps the mean and variance that its input had during training. Fed with
images under the right normalisation, the layers before it give nearly the same mean and
variance; under a wrong one they do not. Drawn images serve as well as real ones here, because
their colours have natural means, deviations and correlations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxsep.data.drawn import DYNAMIC_SIDE, DrawnImages
from onnxsep.data.hint import read_hint
from onnxsep.data.inputs import ImageGeometry, InputSpec, image_geometry, image_input
from onnxsep.data.preprocessing import PRESETS, Preprocessing, assume_preprocessing

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxsep.data.first_layers import FirstBatchNorm

# Images to compare with, by their number of pixels: their statistics are settled by then, and a
# convolution over more takes time.
_PIXELS = 2**17
_FEWEST_IMAGES, _MOST_IMAGES = 12, 256

# Presets tried on inputs of three channels (each also with the channels turned round) and of one,
# the most common first.
_COLOR_PRESETS = (
    "imagenet", "unit", "inception", "raw", "caffe", "cifar10", "centered", "unit_centered",
)  # fmt: skip
_GRAY_PRESETS = ("gray_unit", "gray_inception", "gray_raw", "mnist", "centered", "unit_centered")
# CIFAR-10's numbers are used for small images only; on large ones they only confuse.
_CIFAR_SIDE = 64

# A divergence above this means that no common preprocessing explains the statistics: the mean is
# then wrong by about a deviation, or the variance by a factor of four.
_WORST_DIVERGENCE = 1.0
# Divergences that differ by less than this are equal: the drawn images differ by as much.
_RESOLUTION = 0.015
# The order of the colours counts as found if the other order diverges this many times more.
_COLOR_CERTAINTY = 1.5
# Biases this many times larger than the deviation that images cause (median of the channels) mean
# that images must have a larger range. Trained networks have 0.1 to 4; those for 0 to 255, when fed
# with 0 to 1, 40 to 200.
_BIAS_EXCESS = 12.0
# Variances are compared down to this fraction of the largest channel's; below are dead channels.
_VARIANCE_FLOOR = 1e-4


def find_normalisation(
    model: ir.Model, inputs: Sequence[InputSpec], *, seed: int
) -> tuple[Preprocessing, str]:
    """The preprocessing a model expects of its images, and a clause that says how it was found.

    In this order: the model's own metadata (see `hint`); the preset under which drawn images
    give the statistics that the first BatchNormalization behind the input keeps; what custom
    suggests (0 to 255 if the first biases ask for it), marked ``assumed``.

    Args:
        model: As loaded: once BatchNormalization is folded, nothing is left to compare with.
        inputs: The model's inputs.
        seed: Decides which images are drawn.

    Raises:
        InputError: onnxruntime cannot run the model's first layers.
    """
    spec = image_input(inputs)
    geometry = None if spec is None else image_geometry(spec)
    if spec is None or geometry is None:
        return assume_preprocessing(geometry)
    hint, complaint = read_hint(model, geometry, spec.name)
    if hint is not None:
        return hint, f"normalisation taken from the model's metadata: {hint.describe()}"
    from onnxsep.data.first_layers import find_first_batchnorm  # loads onnx_ir

    images = _drawn_images(geometry, seed)
    statistics = find_first_batchnorm(model, spec.name)
    if statistics is not None:
        preprocessing, said = _best_match(statistics, spec, geometry, images)
    else:
        preprocessing, said = _assumption(model, spec, geometry, images)
    return preprocessing, complaint + said


def _drawn_images(geometry: ImageGeometry, seed: int) -> np.ndarray:
    height, width = geometry.height or DYNAMIC_SIDE, geometry.width or DYNAMIC_SIDE
    count = int(np.clip(_PIXELS // (height * width), _FEWEST_IMAGES, _MOST_IMAGES))
    drawn = DrawnImages(seed, count, 0, height, width, geometry.channels)
    return np.stack([drawn.image(index) for index in range(count)])


def _assumption(
    model: ir.Model, spec: InputSpec, geometry: ImageGeometry, images: np.ndarray
) -> tuple[Preprocessing, str]:
    """Custom, unless the biases of the first convolution speak for the range 0 to 255.

    A network trained on 0 to 255 has weights small enough for that range; fed with numbers near 1,
    its first layer gives hardly more than its biases.
    """
    from onnxsep.data.first_layers import find_first_convolution

    custom, said = assume_preprocessing(geometry)
    first = find_first_convolution(model, spec.name)
    if first is None or not np.any(first.bias):
        return custom, f"{said}; no BatchNormalization follows the input to compare with"
    applied = custom.resolve(geometry, spec.name).apply(images).astype(spec.dtype)
    ((_, variance),) = first.upto.measure([applied])
    excess = float(np.median(np.abs(first.bias) / (np.sqrt(variance) + np.finfo(np.float64).tiny)))
    if excess <= _BIAS_EXCESS:
        return custom, f"{said}; no BatchNormalization follows the input to compare with"
    raw = PRESETS["gray_raw" if geometry.channels == 1 else "raw"]
    return dataclasses.replace(raw, assumed=True), (
        f"the normalisation was assumed, not found: {raw.describe()}, because the biases of "
        f"'{first.name}' are {excess:.0f} times what images from 0 to 1 would change there"
    )


def _best_match(
    statistics: FirstBatchNorm, spec: InputSpec, geometry: ImageGeometry, images: np.ndarray
) -> tuple[Preprocessing, str]:
    candidates = [preset.resolve(geometry, spec.name) for preset in _candidates(geometry)]
    measured = statistics.before.measure(
        candidate.apply(images).astype(spec.dtype) for candidate in candidates
    )
    divergences = {
        candidate: _divergence(statistics, *moments)
        for candidate, moments in zip(candidates, measured, strict=True)
    }
    smallest = min(divergences.values())
    best = next(c for c in candidates if divergences[c] <= smallest + _RESOLUTION)
    where = f"'{statistics.name}'"
    if not smallest <= _WORST_DIVERGENCE:
        preprocessing, said = assume_preprocessing(geometry)
        return preprocessing, f"{said}; no common one explains the statistics of {where}"
    said = f"normalisation found by the statistics of {where}: "
    if geometry.channels == 1:
        return best, said + best.describe()
    turned = _turned(best)
    if divergences[turned] <= _COLOR_CERTAINTY * divergences[best] + _RESOLUTION:
        custom = best if PRESETS[best.name].color == best.color else turned
        return custom, f"{said}{custom.describe()}; the order of the colours is assumed"
    return best, said + best.describe()


def _candidates(geometry: ImageGeometry) -> Iterator[Preprocessing]:
    if geometry.channels == 1:
        for name in _GRAY_PRESETS:
            yield dataclasses.replace(PRESETS[name], color="gray")
        return
    side = max(geometry.height or DYNAMIC_SIDE, geometry.width or DYNAMIC_SIDE)
    for name in _COLOR_PRESETS:
        if name == "cifar10" and side > _CIFAR_SIDE:
            continue
        yield PRESETS[name]
        yield _turned(PRESETS[name])


def _turned(preprocessing: Preprocessing) -> Preprocessing:
    """The same with red and blue exchanged."""
    return dataclasses.replace(
        preprocessing,
        mean=preprocessing.mean[::-1],
        std=preprocessing.std[::-1],
        color="rgb" if preprocessing.color == "bgr" else "bgr",
    )


def _divergence(statistics: FirstBatchNorm, mean: np.ndarray, variance: np.ndarray) -> float:
    """How far ``mean`` and ``variance`` per channel are from those that the model keeps.

    Per channel the symmetric Kullback-Leibler divergence of two Gaussians (Jeffreys 1946), which
    is 0 for equal ones, squashed by log(1 + x) so that a few odd channels cannot decide alone;
    averaged over the channels. Infinite where a statistic is no number.
    """
    floor = _VARIANCE_FLOOR * float(statistics.variance.max()) + np.finfo(np.float64).tiny
    ours, theirs = np.maximum(variance, floor), np.maximum(statistics.variance, floor)
    gap = (mean - statistics.mean) ** 2
    with np.errstate(invalid="ignore", over="ignore"):
        jeffreys = ((ours + gap) / theirs + (theirs + gap) / ours) / 2 - 1
        divergence = float(np.mean(np.log1p(jeffreys)))
    return divergence if np.isfinite(divergence) else float("inf")
