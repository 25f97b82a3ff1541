"""Latency of two models against each other, in interleaved runs of one session.

Absolute times drift with frequency, temperature and neighbours; the ratio of runs made in turn does
not. The unit of comparison is one round: each model runs once, in an order that alternates.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
from scipy.special import bdtr

from onnxsep.runtime import Feeds, make_session

# Of the interval around the speed-up.
_CONFIDENCE = 0.95
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
    first: ir.Model,
    second: ir.Model,
    feeds: Feeds,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    most_rounds: int = 400,
) -> Comparison:
    """Run both in turn on the CPU provider for about ``seconds`` and compare.

    Args:
        first: The model to compare against.
        second: The model whose speed-up is asked for.
        feeds: One input for both.
        threads: Threads inside one operator, 0 for all cores.
        seconds: Time to spend on timed rounds.
        most_rounds: Stop after so many rounds even if time is left.
    """
    # onnxruntime takes no NumPy scalars; converted here, where it costs no measured time.
    feeds = {name: np.asarray(value) for name, value in feeds.items()}
    sessions = [make_session(first, threads=threads), make_session(second, threads=threads)]
    for session in sessions:
        _warm_up(session, feeds)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < _FEWEST_ROUNDS or (len(pairs) < most_rounds and time.perf_counter() < end):
        # A always after B would give one of them the warmer cache.
        order = (0, 1) if len(pairs) % 2 == 0 else (1, 0)
        times = [0.0, 0.0]
        for index in order:
            times[index] = _time_once(sessions[index], feeds)
        pairs.append((times[0], times[1]))
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    ratios = np.sort(before / after)
    low, high = median_interval(ratios)
    batch = next((len(value) for value in feeds.values() if value.ndim), 1)
    return Comparison(
        first=_timing(before),
        second=_timing(after),
        speedup=float(np.median(ratios)),
        low=low,
        high=high,
        threads=threads,
        batch=batch,
    )


def median_interval(ordered: np.ndarray) -> tuple[float, float]:
    """Distribution-free 95 % interval of a median, from order statistics (Conover 1999, §3.2).

    The number of samples below the median of their distribution is binomial. Fewer than six samples
    cannot give 95 %; the interval is then the whole range.

    Args:
        ordered: Independent samples, ascending, at least one.
    """
    count = len(ordered)
    below = bdtr(np.arange(count), count, 0.5)
    low = max(int(np.searchsorted(below, (1 - _CONFIDENCE) / 2, side="right")) - 1, 0)
    return float(ordered[low]), float(ordered[count - 1 - low])


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


def _warm_up(session: onnxruntime.InferenceSession, feeds: Feeds) -> None:
    end = time.perf_counter() + _WARM_UP_SECONDS
    session.run(None, feeds)
    while time.perf_counter() < end:
        session.run(None, feeds)


def _time_once(session: onnxruntime.InferenceSession, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start
