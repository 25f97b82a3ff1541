"""What the task loses: accuracy or PSNR where the data allow, else agreement, with confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm

from onnxsep.comparison.record import ChangedRow, TaskRow
from onnxsep.quality import classes_of

_CONFIDENCE = 0.95
# Samples named in the record.
_MOST_NAMED = 50


def accuracy(
    title: str, output: str, first: np.ndarray, second: np.ndarray, truth: np.ndarray
) -> TaskRow:
    """Top-1 accuracy of both, compared sample by sample.

    The interval of the drop is that of Agresti and Min (2005, Statistics in Medicine 24): Wald's
    with half a sample added to each of the four kinds of pairs. The test is McNemar's (1947), the
    exact one: of the samples that changed, either direction would be as likely.

    Args:
        title: Of the measure.
        output: Name of the output.
        first: (n, classes) scores of the first model.
        second: The same of the second.
        truth: (n,) class indices.
    """
    right, still = classes_of(first) == truth, classes_of(second) == truth
    count = len(truth)
    lost, won = int(np.sum(right & ~still)), int(np.sum(still & ~right))
    changes = still.astype(float) - right
    padded = count + 2
    middle = (lost - won) / padded
    width = float(norm.ppf((1 + _CONFIDENCE) / 2)) * math.sqrt(
        max((lost + won + 1) / padded - middle**2, 0.0) / padded
    )
    return TaskRow(
        measure=title,
        unit="%",
        output=output,
        first=100 * float(right.mean()),
        second=100 * float(still.mean()),
        drop=100 * (lost - won) / count,
        drop_error=100 * float(changes.std()) / math.sqrt(count),
        low=100 * max(middle - width, -1.0),
        high=100 * min(middle + width, 1.0),
        right_to_wrong=lost,
        wrong_to_right=won,
        p_value=float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
        samples=count,
    )


def agreement(title: str, output: str, shares: np.ndarray, *, exact: bool) -> TaskRow:
    """Share of samples, or of pixels, of which the class is the same.

    Args:
        title: Of the measure.
        output: Name of the output.
        shares: (n,) of every sample, 0 to 1.
        exact: Whether these are 0 or 1 only, so that their interval is Wilson's (1927).
    """
    mean = float(shares.mean())
    error = float(shares.std()) / math.sqrt(len(shares))
    if exact:
        low, high = agreement_interval(int(shares.sum()), len(shares))
    else:
        width = float(norm.ppf((1 + _CONFIDENCE) / 2)) * error
        low, high = 100 * max(mean - width, 0.0), 100 * min(mean + width, 1.0)
    return TaskRow(
        measure=title,
        unit="%",
        output=output,
        first=100.0,
        second=100 * mean,
        drop=100 * (1 - mean),
        drop_error=100 * error,
        low=100 - high,
        high=100 - low,
        right_to_wrong=None,
        wrong_to_right=None,
        p_value=None,
        samples=len(shares),
    )


def agreement_interval(same: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, in %, after Wilson (1927)."""
    found = binomtest(same, count).proportion_ci(_CONFIDENCE, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def decibels(output: str, first: np.ndarray, second: np.ndarray) -> TaskRow:
    """PSNR of both against the targets, compared sample by sample.

    Args:
        output: Name of the output.
        first: (n,) dB of the first model.
        second: The same of the second.
    """
    drops = first - second
    error = float(drops.std(ddof=1)) / math.sqrt(len(drops)) if len(drops) > 1 else math.nan
    width = float(norm.ppf((1 + _CONFIDENCE) / 2)) * error
    drop = float(drops.mean())
    return TaskRow(
        measure="PSNR",
        unit="dB",
        output=output,
        first=float(first.mean()),
        second=float(second.mean()),
        drop=drop,
        drop_error=error,
        low=drop - width,
        high=drop + width,
        right_to_wrong=None,
        wrong_to_right=None,
        p_value=None,
        samples=len(drops),
    )


def changed_samples(
    names: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    truth: np.ndarray | None,
) -> tuple[list[ChangedRow], int]:
    """Samples whose class differs, and how many they are.

    Args:
        names: (n,) of the samples.
        first: (n,) classes of the first model.
        second: The same of the second.
        truth: (n,) right classes, or None.

    Returns:
        The first 50, those that only the first model has right in front.
    """
    places = np.flatnonzero(first != second)
    if truth is not None:
        wronged = (first == truth) & (second != truth)
        places = places[np.argsort(~wronged[places], kind="stable")]
    rows = [
        ChangedRow(
            names[place],
            None if truth is None else int(truth[place]),
            int(first[place]),
            int(second[place]),
        )
        for place in places[:_MOST_NAMED].tolist()
    ]
    return rows, len(places)
