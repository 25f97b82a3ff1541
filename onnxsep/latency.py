"""Latency of two models against each other, in interleaved runs of one process.

Absolute times drift with frequency, temperature and neighbours; the ratio of runs made in turn does
not. The unit of comparison is one round: each model runs once, in an order that alternates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxsep.runtime import Feeds
from onnxsep.stopwatch import Entrant, LocalStopwatch, Pace, Stopwatch, median_interval

__all__ = ["Comparison", "Timing", "compare_latency", "median_interval"]

_WARM_UP_SECONDS = 0.15
_FEWEST_ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Timing:
    """One model's share of an interleaved measurement; times in milliseconds.

    Attributes:
        median: Median of all rounds.
        spread: Half of the interquartile range.
        samples: Every round.
    """

    median: float
    spread: float
    samples: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models, A against B.

    Attributes:
        first: A, usually the input.
        second: B, usually the result.
        speedup: Median over the rounds of time A / time B.
        low: Lower end of the 95 % confidence interval of ``speedup``.
        high: Upper end.
        threads: Threads inside one operator.
        batch: Batch size of the feeds.
    """

    first: Timing
    second: Timing
    speedup: float
    low: float
    high: float
    threads: int
    batch: int


def compare_latency(
    first: ir.Model | Path,
    second: ir.Model | Path,
    feeds: Feeds,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    most_rounds: int = 400,
    stopwatch: Stopwatch | None = None,
) -> Comparison:
    """Run both in turn on the CPU provider for about ``seconds`` and compare.

    Args:
        first: The model to compare against, or its file.
        second: The model whose speed-up is asked for.
        feeds: One input for both.
        threads: Threads inside one operator, 0 for all cores.
        seconds: Time to spend on timed rounds.
        most_rounds: Stop after so many rounds even if time is left.
        stopwatch: Of the machine to time on; None times in this process.

    Raises:
        InputError: onnxruntime cannot load or run a model.
        CellsFailedError: The machine of ``stopwatch`` cannot be reached.
    """
    pace = Pace(
        fewest=_FEWEST_ROUNDS,
        most=max(most_rounds, _FEWEST_ROUNDS),
        warm_up_seconds=_WARM_UP_SECONDS,
    )
    heat = [Entrant(first, feeds), Entrant(second, feeds)]
    (times,) = (stopwatch or LocalStopwatch()).race([heat], pace, threads=threads, seconds=seconds)
    before, after = times
    ratios = np.sort(before / after)
    low, high = median_interval(ratios)
    arrays = [np.asarray(value) for value in feeds.values()]
    batch = next((len(value) for value in arrays if value.ndim), 1)
    return Comparison(
        first=_timing(before),
        second=_timing(after),
        speedup=float(np.median(ratios)),
        low=low,
        high=high,
        threads=threads,
        batch=batch,
    )


def _timing(seconds: np.ndarray) -> Timing:
    milliseconds = 1000 * seconds
    quarter, three_quarters = np.percentile(milliseconds, [25, 75])
    return Timing(
        median=float(np.median(milliseconds)),
        spread=float(three_quarters - quarter) / 2,
        samples=tuple(_rounded(milliseconds)),
    )


def _rounded(values: np.ndarray) -> Sequence[float]:
    return [round(float(value), 5) for value in values]
