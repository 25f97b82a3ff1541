"""Figures of made-up samples, and how often the intervals hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.bench.record import Interval, Round
from onnxsep.bench.statistics import log_medians, outliers, speedup, summarize

TRIALS = 2000
# 2,000 trials at 95 %: the share that is seen has a standard error of half a per cent.
LEAST_SHARE, MOST_SHARE = 0.935, 0.965


def a_round(
    index: int,
    samples: Sequence[float],
    *,
    session_ms: float = 10.0,
    stable: bool = True,
    rss: int = 0,
    energy: float | None = None,
) -> Round:
    return Round(index, session_ms, 5.0, 3, stable, tuple(samples), rss, energy, None)


def rounds_of(*medians: float) -> list[Round]:
    return [a_round(index, [median]) for index, median in enumerate(medians)]


def test_figures_of_all_samples() -> None:
    rounds = [a_round(0, [1, 2, 3]), a_round(1, [2, 2, 2]), a_round(2, [4, 5, 9])]
    summary = summarize(rounds, batch=4)
    assert (summary.samples, summary.rounds) == (9, 3)
    assert summary.minimum == 1
    assert summary.mean == pytest.approx(30 / 9)
    assert summary.mad == 1  # deviations from 2: 1 0 1 0 0 0 2 3 7
    assert summary.median.value == pytest.approx((2 * 2 * 5) ** (1 / 3))
    assert summary.throughput == pytest.approx(4000 / summary.median.value)


def test_interval_of_the_median_is_students_on_logarithms() -> None:
    """By hand: logarithms -1, 0, 1 have mean 0 and deviation 1; t(0.975, 2) is 4.302653."""
    median = summarize(rounds_of(math.exp(-1), 1.0, math.exp(1)), batch=1).median
    half = 4.302653 / math.sqrt(3)
    assert median.value == pytest.approx(1)
    assert (math.log(median.low), math.log(median.high)) == pytest.approx((-half, half), rel=1e-6)


def test_a_round_with_many_samples_weighs_no_more_than_another() -> None:
    rounds = [a_round(0, [1.0] * 1000), a_round(1, [2.0]), a_round(2, [4.0])]
    assert summarize(rounds, batch=1).median.value == pytest.approx(2)


def test_two_rounds_fall_back_on_order_statistics_of_all_samples() -> None:
    rounds = [a_round(0, range(1, 9)), a_round(1, range(9, 17))]
    median = summarize(rounds, batch=1).median
    # Of 16 samples the fourth from either end bounds the median with 95 %.
    assert median == Interval(8.5, 4, 13)


def test_percentiles_are_median_unbiased() -> None:
    """Definition 8 puts share p of n samples at rank p (n + 1/3) + 1/3."""
    summary = summarize([a_round(0, range(1, 101))], batch=1)
    expected = [share * (100 + 1 / 3) + 1 / 3 for share in (0.9, 0.95, 0.99)]
    assert [summary.p90, summary.p95, summary.p99] == pytest.approx(expected)


def test_figures_of_the_processes() -> None:
    rounds = [
        a_round(0, [1.0, 1.0], session_ms=1, rss=5, energy=0.010),
        a_round(1, [1.0, 1.0], session_ms=9, rss=7, stable=False),
        a_round(2, [1.0], session_ms=3, rss=6, energy=0.015),
    ]
    summary = summarize(rounds, batch=5)
    assert (summary.session_ms, summary.first_run_ms) == (3, 5)
    assert (summary.peak_rss_bytes, summary.unstable_rounds) == (7, 1)
    assert summary.energy_millijoules == pytest.approx((1 + 3) / 2)


def test_energy_that_no_round_knows_is_unknown() -> None:
    assert summarize(rounds_of(1, 2, 3), batch=1).energy_millijoules is None


def test_rounds_without_samples_do_not_count() -> None:
    summary = summarize([*rounds_of(1, 2, 3), a_round(3, [], rss=99)], batch=1)
    assert (summary.rounds, summary.peak_rss_bytes) == (3, 0)


def test_no_samples_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="no round has a sample"):
        summarize([a_round(0, [])], batch=1)


def test_outliers_are_marked_where_they_stand() -> None:
    samples = [1.0, 1.1, 9.0, 1.2, 0.9, 1.05, 0.0, 1.15]
    assert np.flatnonzero(outliers(samples)).tolist() == [2, 6]
    assert not len(outliers([]))


def test_outliers_are_counted_against_their_own_round() -> None:
    """A slower round is no outlier; one slow run inside a round is."""
    quick, slow = [1.0, 1.1, 1.2, 1.0, 1.1], [5.0, 5.1, 5.2, 5.0, 5.1, 9.0]
    assert summarize([a_round(0, quick), a_round(1, slow)], batch=1).outliers == 1


def test_speedup_of_paired_rounds_ignores_a_common_drift() -> None:
    drift = [1.0, 1.5, 2.0, 4.0]
    ratio = speedup(rounds_of(*(3 * value for value in drift)), rounds_of(*drift))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_speedup_pairs_by_index_not_by_place() -> None:
    first = [a_round(index, [2.0**index]) for index in (0, 1, 2, 5)]
    second = [a_round(index, [2.0**index / 2]) for index in (5, 2, 1, 0, 9)]
    ratio = speedup(first, second)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("count", [1, 2])
def test_speedup_of_few_common_rounds_has_no_interval(count: int) -> None:
    ratio = speedup(rounds_of(*[4.0] * count), rounds_of(1, 1, 1))
    assert ratio.value == pytest.approx(4)
    assert math.isnan(ratio.low)
    assert math.isnan(ratio.high)


def test_speedup_without_a_common_round_is_that_of_the_medians() -> None:
    ratio = speedup([a_round(0, [6.0])], [a_round(1, [2.0]), a_round(2, [2.0])])
    assert ratio.value == pytest.approx(3)
    assert math.isnan(ratio.low)


def test_speedup_of_nothing_is_unknown() -> None:
    assert math.isnan(speedup([], rounds_of(1, 2, 3)).value)


times = st.floats(1e-3, 1e4)


@given(st.lists(times, min_size=1, max_size=12))
def test_median_lies_in_its_interval(medians: list[float]) -> None:
    median = summarize(rounds_of(*medians), batch=1).median
    assert median.low <= median.value * (1 + 1e-9)
    assert median.value <= median.high * (1 + 1e-9)
    assert min(medians) * (1 - 1e-9) <= median.value <= max(medians) * (1 + 1e-9)


@given(st.lists(times, min_size=3, max_size=8), st.floats(0.1, 10))
def test_speedup_scales_and_turns_round(medians: list[float], factor: float) -> None:
    one, other = rounds_of(*medians), rounds_of(*(factor * value for value in medians[::-1]))
    there, back = speedup(one, other), speedup(other, one)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)
    assert speedup(rounds_of(*(factor * value for value in medians)), one).value == pytest.approx(
        factor
    )


@given(st.lists(times, max_size=40))
def test_outliers_are_never_the_middle_half(samples: list[float]) -> None:
    mask = outliers(samples)
    assert mask.shape == (len(samples),)
    assert mask.sum() <= len(samples) / 2
    if samples:
        assert not mask[int(np.argsort(samples)[len(samples) // 2])]


@pytest.mark.parametrize("count", [3, 5, 10])
def test_interval_of_the_median_holds_in_95_of_100_runs(count: int) -> None:
    random = np.random.default_rng(count)
    hits = 0
    for medians in np.exp(random.normal(0, 0.05, (TRIALS, count))):
        median = summarize(rounds_of(*medians), batch=1).median
        hits += median.low <= 1 <= median.high
    assert LEAST_SHARE < hits / TRIALS < MOST_SHARE


def test_interval_of_the_speedup_holds_in_95_of_100_runs() -> None:
    """A drift that both feel, and noise of their own."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIALS):
        drift = random.normal(0, 0.2, 5)
        noise = random.normal(0, 0.01, (2, 5))
        ratio = speedup(
            rounds_of(*np.exp(drift + noise[0] + math.log(1.1))),
            rounds_of(*np.exp(drift + noise[1])),
        )
        hits += ratio.low <= 1.1 <= ratio.high
    assert LEAST_SHARE < hits / TRIALS < MOST_SHARE


def test_logarithms_of_medians_by_index() -> None:
    rounds = [a_round(4, [1, math.e, 9]), a_round(2, [])]
    assert log_medians(rounds) == {4: pytest.approx(1)}
