"""How good a network's outputs are: the task's own measure where the data allow, else fidelity.

Chosen once per run, then used for the original, for every candidate and for the proof.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from onnxsep.errors import ConfigurationError, InputError
from onnxsep.margins import expected_drop

Outputs = Mapping[str, np.ndarray]
Kind = Literal["accuracy", "psnr", "metric", "agreement", "pixel-agreement", "snr"]
Metric = Callable[[Outputs, np.ndarray | None, Outputs | None], float]

# Signal-to-noise of two outputs that are equal to the last bit is infinite; JSON knows no infinity.
# Its negative stands for outputs that cannot be compared: NaN, or another shape.
SNR_CEILING_DB = 200.0
# Outputs that differ from image to image by no more than this, relatively, do not differ.
_ROUNDING = 1e-6
# Fewer channels than this in a map are colours or coordinates, not classes.
_FEWEST_MAP_CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured and on which output.

    Attributes:
        kind: ``accuracy`` (top-1, %), ``psnr`` (dB), ``metric`` (the user's own), ``agreement``
            (top-1 equal to the original's, %), ``pixel-agreement`` (class per pixel, %), ``snr``
            (original against difference, dB, worst output).
        output: Name of the output that is looked at; empty where all are.
        unit: ``%``, ``dB`` or empty.
        label_offset: Added to each label to give the network's class index.
        metric: The user's function, for kind ``metric``.
    """

    kind: Kind
    output: str
    unit: str
    label_offset: int = 0
    metric: Metric | None = None

    @property
    def title(self) -> str:
        """For tables."""
        return {
            "accuracy": "top-1 accuracy",
            "psnr": "PSNR",
            "metric": "metric",
            "agreement": "top-1 agreement with the original",
            "pixel-agreement": "per-pixel agreement with the original",
            "snr": "signal-to-noise against the original",
        }[self.kind]

    @property
    def is_agreement(self) -> bool:
        """Whether the original is the only judge."""
        return self.kind in ("agreement", "pixel-agreement")

    @property
    def has_drop(self) -> bool:
        """Whether a drop in points has a meaning (it has none for plain signal-to-noise)."""
        return self.kind != "snr"

    def unjudged(self, outputs: Outputs) -> tuple[str, ...]:
        """Names of the outputs that it does not look at."""
        return tuple(name for name in outputs if self.output and name != self.output)

    @property
    def points(self) -> str:
        """What is lost, for sentences: ``points``, ``dB`` or nothing."""
        return {"%": "points"}.get(self.unit, self.unit)


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of one model beside the original.

    Attributes:
        original: The measure on the original's outputs (100 for agreement, the ceiling for SNR).
        value: The measure on this model's outputs.
        drop: ``original - value``, in points or dB.
        drop_error: Standard error of ``drop`` from the images that changed sides; 0 where unknown.
        snr_db: Per output, original against difference.
        samples: Number of images.
        expected_drop: As ``drop``, but from how far every image's score is from changing sides, not
            only from those that did: much less a matter of chance; ``drop`` where that is unknown.
        expected_error: Standard error of ``expected_drop``.
        unjudged: Outputs that the measure does not look at.
    """

    original: float
    value: float
    drop: float
    drop_error: float
    snr_db: Mapping[str, float]
    samples: int
    expected_drop: float = math.nan
    expected_error: float = 0.0
    unjudged: tuple[str, ...] = ()

    @property
    def worst_snr_db(self) -> float:
        return min(self.snr_db.values())

    def said_to_be_lost(self, points: str = "") -> str:
        """For messages: ``0.40 points lost``, or how much signal there is left."""
        if self.original >= SNR_CEILING_DB:
            return f"{self.value:.1f} dB signal-to-noise"
        return f"{' '.join(filter(None, (f'{self.drop:.2f}', points)))} lost"

    @property
    def unjudged_snr_db(self) -> float:
        """The worst of the outputs that the measure does not look at; the ceiling of none."""
        return min((self.snr_db[name] for name in self.unjudged), default=SNR_CEILING_DB)


def choose_measure(
    outputs: Outputs,
    *,
    labels: np.ndarray | None,
    targets: Outputs | None,
    metric: Metric | None = None,
    class_maps: frozenset[str] = frozenset(),
    label_offset: int = 0,
) -> Measure:
    """The measure that fits the data and the shape of the original's outputs.

    Several outputs may hold scores for the labels; the one with which the original is right most
    often is meant by them.

    Args:
        outputs: The original's outputs, first axis the batch.
        labels: (n,) class indices, or None.
        targets: Arrays like the outputs, by output name, or None.
        metric: The user's function; wins over everything.
        class_maps: Outputs known to be class maps (behind a Softmax, say).
        label_offset: See `Measure`.

    Raises:
        InputError: Labels are given, but no output holds class scores for them; or targets, but no
            output of that name and shape.
    """
    if metric is not None:
        return Measure("metric", "", "", metric=metric)
    if labels is not None:
        return Measure("accuracy", _scores_for(outputs, labels, label_offset), "%", label_offset)
    if targets is not None:
        name, target = next(iter(targets.items()))
        if name not in outputs or outputs[name].shape != target.shape:
            raise InputError(
                f"the targets '{name}' have shape {target.shape}, but the outputs are "
                f"{_shapes(outputs)}; give them in the shape of the output they belong to"
            )
        return Measure("psnr", name, "dB")
    scores = [name for name, value in outputs.items() if _is_class_scores(value)]
    maps = [name for name, value in outputs.items() if _is_class_map(value, name in class_maps)]
    # Of several outputs none may be left out, and top-1 has no meaning for all of them.
    if len(outputs) == 1 and scores:
        return Measure("agreement", scores[0], "%")
    if len(outputs) == 1 and maps:
        return Measure("pixel-agreement", maps[0], "%")
    return Measure("snr", "", "dB")


def assess(
    measure: Measure,
    original: Outputs,
    outputs: Outputs,
    *,
    labels: np.ndarray | None,
    targets: Outputs | None,
    samples: int,
) -> Quality:
    """Quality of ``outputs``, each array with all images along the first axis.

    Args:
        measure: What to look at.
        original: The original's outputs.
        outputs: The other model's, of the same names.
        labels: (samples,) class indices, or None.
        targets: Arrays like the outputs, by output name, or None.
        samples: Number of images.
    """
    snr = {name: signal_to_noise_db(original[name], outputs[name]) for name in original}
    error = 0.0
    expected: tuple[float, float] | None = None
    match measure.kind:
        case "accuracy":
            if labels is None:
                raise ConfigurationError("accuracy needs labels, and these data have none")
            truth = labels + measure.label_offset
            before = classes_of(original[measure.output]) == truth
            after = classes_of(outputs[measure.output]) == truth
            first, value = 100 * float(before.mean()), 100 * float(after.mean())
            changes = after.astype(float) - before
            error = 100 * float(changes.std()) / math.sqrt(len(changes))
            scores = [_squeezed(values[measure.output]) for values in (original, outputs)]
            expected = expected_drop(scores[0], scores[1], truth)
        case "agreement" | "pixel-agreement":
            same = classes_of(original[measure.output]) == classes_of(outputs[measure.output])
            per_image = same.reshape(len(same), -1).mean(axis=1)
            first, value = 100.0, 100 * float(per_image.mean())
            error = 100 * float(per_image.std()) / math.sqrt(len(same))
        case "psnr":
            if targets is None:
                raise ConfigurationError("PSNR needs targets, and these data have none")
            truth = targets[measure.output]
            first = peak_signal_to_noise_db(truth, original[measure.output])
            value = peak_signal_to_noise_db(truth, outputs[measure.output])
        case "metric":
            first = _call_metric(measure, original, labels, targets)
            value = _call_metric(measure, outputs, labels, targets)
        case "snr":
            first, value = SNR_CEILING_DB, min(snr.values())
    likely, doubt = expected or (first - value, error)
    unjudged = measure.unjudged(original)
    return Quality(first, value, first - value, error, snr, samples, likely, doubt, unjudged)


def signal_to_noise_db(reference: np.ndarray, value: np.ndarray) -> float:
    """10·log10 of the reference's power over the difference's power.

    The power is that about the mean over the images, element by element: what is the same for
    every image carries no information. Of a single image, that about its own mean.

    Of integers, truth values and texts, the noise is the share that differs. NaN and infinity in
    the same places count as equal.
    """
    if reference.shape != value.shape:
        return -SNR_CEILING_DB
    if reference.dtype.kind != "f":
        noise, signal = float(np.mean(reference != value)) if reference.size else 0.0, 1.0
    else:
        reference, value = reference.astype(np.float64), value.astype(np.float64)
        finite = np.isfinite(reference)
        if not np.array_equal(reference[~finite], value[~finite], equal_nan=True):
            return -SNR_CEILING_DB
        if not finite.any():
            return SNR_CEILING_DB
        noise = float(np.mean((reference[finite] - value[finite]) ** 2))
        signal = _power(np.where(finite, reference, np.nan))
    if not math.isfinite(noise):
        return -SNR_CEILING_DB
    if noise <= signal * 10 ** (-SNR_CEILING_DB / 10):
        return SNR_CEILING_DB
    return max(10 * math.log10(signal / noise), -SNR_CEILING_DB) if signal else -SNR_CEILING_DB


def _power(reference: np.ndarray) -> float:
    """Variance over the images, or the nearest thing to it that is not zero."""
    reference = reference.reshape(len(reference), -1) if reference.ndim else reference[None, None]
    if len(reference) > 1:
        seen = np.isfinite(reference).any(axis=0)
        power = float(np.nanmean(np.nanvar(reference[:, seen], axis=0)))
        if power > _ROUNDING**2 * float(np.nanmean(reference**2)):
            return power
    return float(np.nanvar(reference)) or float(np.nanmean(reference**2))


def peak_signal_to_noise_db(truth: np.ndarray, value: np.ndarray) -> float:
    """Mean over images of 10·log10(peak² / mean squared error); values are clipped to the range.

    The peak is 255 where the targets exceed 1.5, else 1. An image with NaN is as wrong as can be.
    """
    peak = 255.0 if float(truth.max()) > 1.5 else 1.0
    clipped = np.clip(value.astype(np.float64), 0, peak)
    errors = ((clipped - truth) ** 2).reshape(len(truth), -1).mean(axis=1)
    errors = np.nan_to_num(errors, nan=peak**2)
    return float(np.mean(10 * np.log10(peak**2 / np.maximum(errors, 1e-20 * peak**2))))


def load_metric(reference: str) -> Metric:
    """The user's ``package.module:function``; modules in the current folder are found.

    It is called with the outputs by name, the labels or None, the targets or None, and returns one
    number, larger for better.

    Raises:
        ConfigurationError: It cannot be imported or called.
    """
    module_name, separator, function_name = reference.partition(":")
    if not separator or not module_name or not function_name:
        raise ConfigurationError(f"--metric takes package.module:function, not {reference!r}")
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigurationError(
            f"--metric {reference}: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
    if not callable(function):
        raise ConfigurationError(f"--metric {reference} is no function")
    return function  # type: ignore[no-any-return]


def _call_metric(
    measure: Measure, outputs: Outputs, labels: np.ndarray | None, targets: Outputs | None
) -> float:
    if measure.metric is None:
        raise ConfigurationError("no metric function was given")
    try:
        value = float(measure.metric(outputs, labels, targets))
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ConfigurationError(
            f"the metric function raised {type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(value):
        raise ConfigurationError(f"the metric function returned {value}, not a finite number")
    return value


def _scores_for(outputs: Outputs, labels: np.ndarray, label_offset: int) -> str:
    """Name of the output whose class scores the labels belong to."""
    truth = labels + label_offset
    if int(truth.min()) < 0:
        raise InputError(
            f"the labels begin at {int(labels.min())}, but the first class is 0; "
            "check the labels, or shift them with --label-offset"
        )
    needed = int(truth.max()) + 1
    fitting = [
        name
        for name, value in outputs.items()
        if _is_class_scores(value) and _classes(value) >= needed and len(value) == len(labels)
    ]
    if not fitting:
        raise InputError(
            f"the labels need class scores for {needed} classes and {len(labels)} images, but the "
            f"outputs are {_shapes(outputs)}; check the labels, or shift them with --label-offset"
        )
    return max(fitting, key=lambda name: float(np.mean(classes_of(outputs[name]) == truth)))


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"'{name}' {value.shape}" for name, value in outputs.items())


def _squeezed(value: np.ndarray) -> np.ndarray:
    # (batch, classes, 1, 1) is class scores as well.
    return value.reshape(value.shape[:2]) if value.size == math.prod(value.shape[:2]) else value


def _classes(value: np.ndarray) -> int:
    return int(value.shape[1])


def _is_class_scores(value: np.ndarray) -> bool:
    return (
        value.ndim >= 2
        and value.dtype.kind == "f"
        and value.shape[1] > 1
        and value.size == value.shape[0] * value.shape[1]
    )


def _is_class_map(value: np.ndarray, known: bool) -> bool:
    return (
        value.ndim >= 4
        and value.dtype.kind == "f"
        and value.shape[1] >= (2 if known else _FEWEST_MAP_CLASSES)
        and value.size > value.shape[0] * value.shape[1]
        and not _is_channels_last(value)
    )


def _is_channels_last(value: np.ndarray) -> bool:
    """Whether the last axis looks like that of classes or colours: so few, or of a square map."""
    *others, last = value.shape[1:]
    is_square = all(size == others[0] for size in others)
    return last < min(_FEWEST_MAP_CLASSES, *others) or (is_square and last != others[0])


def classes_of(value: np.ndarray) -> np.ndarray:
    """Index of the largest score; -1, which is no class, where one of them is NaN."""
    scores = _squeezed(value)
    return np.where(np.isnan(scores).any(axis=1), -1, np.argmax(scores, axis=1))
