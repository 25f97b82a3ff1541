"""What the samples of a cell say, and how surely.

Samples of one process are not independent: memory layout, clock and neighbours are its own and stay
for all its runs, so that thousands of samples say little about the next process (Kalibera and Jones
2013, "Rigorous benchmarking in reasonable time"). The unit of evidence is therefore the round, one
fresh process, and its value is the logarithm of its median: disturbances multiply times, and a
ratio is a difference of logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from onnxsep.bench.record import Interval, Round, Summary
from onnxsep.latency import median_interval

CONFIDENCE = 0.95
# Fewer medians of rounds say next to nothing about their own spread: with two, Student's factor is
# 12.7, and one lucky pair would still pass for certainty.
FEWEST_ROUNDS = 3
# Tukey (1977): samples further than so many interquartile ranges from the nearest quartile.
_FENCE = 1.5
# Hyndman and Fan (1996), definition 8: the estimate is median-unbiased whatever the distribution.
_PERCENTILE_METHOD: Final = "median_unbiased"

Values = NDArray[np.float64]


def summarize(rounds: Sequence[Round], batch: int) -> Summary:
    """All rounds of one cell together.

    The median is the geometric mean of the rounds' medians, so that a round with more samples does
    not weigh more; its interval is Student's on their logarithms. With only one or two rounds it is
    the median of all samples with the distribution-free interval of
    `onnxsep.latency.median_interval`, which knows nothing of the variation between processes and is
    therefore too narrow. Percentiles are Hyndman and Fan's definition 8.

    Args:
        rounds: At least one with samples; those without count nowhere.
        batch: Images per run.

    Raises:
        ValueError: No round has a sample.
    """
    used = _used(rounds)
    if not used:
        raise ValueError("no round has a sample")
    samples = np.concatenate([np.asarray(round.samples_ms, np.float64) for round in used])
    median = _median(used, samples)
    p90, p95, p99 = np.percentile(samples, [90, 95, 99], method=_PERCENTILE_METHOD)
    return Summary(
        median=median,
        mean=float(samples.mean()),
        minimum=float(samples.min()),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        mad=float(np.median(np.abs(samples - np.median(samples)))),
        outliers=sum(int(outliers(round.samples_ms).sum()) for round in used),
        samples=len(samples),
        rounds=len(used),
        throughput=1000 * batch / median.value,
        session_ms=float(np.median([round.session_ms for round in used])),
        first_run_ms=float(np.median([round.first_run_ms for round in used])),
        peak_rss_bytes=max(round.peak_rss_bytes for round in used),
        energy_millijoules=_energy(used, batch),
        unstable_rounds=sum(not round.stable for round in used),
    )


def outliers(samples: Sequence[float]) -> NDArray[np.bool_]:
    """Which samples of one round lie outside Tukey's fences.

    They are marked, never dropped: a user waits for them too.

    Args:
        samples: Of one round, in any order.

    Returns:
        One boolean per sample, in the same order.
    """
    values = np.asarray(samples, np.float64)
    if not len(values):
        return np.zeros(0, np.bool_)
    quarter, three_quarters = np.percentile(values, [25, 75], method=_PERCENTILE_METHOD)
    reach = _FENCE * (three_quarters - quarter)
    return np.asarray((values < quarter - reach) | (values > three_quarters + reach))


def speedup(reference: Sequence[Round], other: Sequence[Round]) -> Interval:
    """Time of ``reference`` / time of ``other``, both cells of one run.

    Rounds of equal index ran next to each other and are compared with each other, so that a drift
    which hits both does not count: Student's 95 % interval of the logarithms of their ratios. Fewer
    than three common rounds give a value without an interval (NaN ends); no common round gives the
    ratio of the two medians, likewise; a cell without samples gives NaN.
    """
    first, second = log_medians(reference), log_medians(other)
    if not first or not second:
        return Interval(math.nan, math.nan, math.nan)
    common = sorted(first.keys() & second.keys())
    if not common:
        value = math.exp(np.mean(list(first.values())) - np.mean(list(second.values())))
        return Interval(value, math.nan, math.nan)
    return _student(np.array([first[index] - second[index] for index in common]))


def log_medians(rounds: Sequence[Round]) -> dict[int, float]:
    """Index of every round with samples, and the logarithm of the median of its milliseconds."""
    return {round.index: math.log(float(np.median(round.samples_ms))) for round in _used(rounds)}


def _used(rounds: Sequence[Round]) -> list[Round]:
    return [round for round in rounds if round.samples_ms]


def _median(rounds: Sequence[Round], samples: Values) -> Interval:
    if len(rounds) >= FEWEST_ROUNDS:
        return _student(np.array([math.log(np.median(round.samples_ms)) for round in rounds]))
    low, high = median_interval(np.sort(samples))
    return Interval(float(np.median(samples)), low, high)


def _student(logarithms: Values) -> Interval:
    """Student's interval of a mean of logarithms, as an interval of what they are logarithms of."""
    count, mean = len(logarithms), float(logarithms.mean())
    if count < FEWEST_ROUNDS:
        return Interval(math.exp(mean), math.nan, math.nan)
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    half = factor * float(logarithms.std(ddof=1)) / math.sqrt(count)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _energy(rounds: Sequence[Round], batch: int) -> float | None:
    """Millijoules per image, mean over the rounds whose counter could be read."""
    known = [
        1000 * round.energy_joules / (batch * len(round.samples_ms))
        for round in rounds
        if round.energy_joules is not None
    ]
    return float(np.mean(known)) if known else None
