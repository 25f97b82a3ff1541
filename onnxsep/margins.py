"""What a change of scores costs in accuracy, by margins instead of by images that changed."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

# A probability of zero is one that was rounded to it.
_LEAST_PROBABILITY = 1e-30


def expected_drop(
    original: np.ndarray, outputs: np.ndarray, truth: np.ndarray
) -> tuple[float, float] | None:
    """Drop of accuracy in points, and its standard error, from the margins of all images.

    An image counts as right to the degree to which its margin (score of the right class less the
    best other one) exceeds what margins change by. Counting right and wrong only, the few images
    that change sides decide; that has 1.7 times the standard error. Scores that shrank alike name
    the same classes, so the margins are first stretched by the slope of the line through them, by
    least squares; otherwise a network of which 11 dB are left is said to lose a point more than it
    does. To second order in the change both counts have the same expectation; a drop of 8 points is
    estimated one too small. (Of agreement with the original that is not so: its margins begin at
    zero, and every change of side is a loss.)

    Returns:
        None where margins have no meaning: NaN, or a class that is not there.
    """
    before, after = (_margins(value, truth) for value in (original, outputs))
    if before is None or after is None:
        return None
    common = float(np.mean((before - before.mean()) * (after - after.mean())))
    if common > 0:
        after = after * (float(np.var(before)) / common)
    spread = float(np.sqrt(np.mean((after - before) ** 2)))
    if spread == 0:
        return 0.0, 0.0
    change = ndtr(before / spread) - ndtr(after / spread)
    return 100 * float(change.mean()), 100 * float(change.std()) / math.sqrt(len(change))


def _margins(value: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    scores = value.astype(np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all() or int(truth.max()) >= scores.shape[1]:
        return None
    if int(truth.min()) < 0:
        return None
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        # Probabilities are squeezed at their ends, where most of them are.
        scores = np.log(np.maximum(scores, _LEAST_PROBABILITY))
    rows = np.arange(len(scores))
    right = scores[rows, truth]
    scores[rows, truth] = -np.inf
    return np.asarray(right - scores.max(axis=1))
