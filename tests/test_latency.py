"""The statistics of a latency comparison on recorded samples, and the order of its rounds.

Nothing here depends on how fast anything is: clock and sessions are made up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from onnxsep import latency, stopwatch
from onnxsep.errors import InputError
from onnxsep.latency import Comparison, compare_latency
from onnxsep.runtime import Feeds
from tests.passes.helpers import model_from_text

TEXT = '<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) '
FIRST, SECOND = (model_from_text(TEXT + f"{{ y = {name} (x) }}") for name in ("Neg", "Abs"))
FEEDS = {"x": np.zeros((2, 4), np.float32)}


@dataclasses.dataclass
class Bench:
    """A clock that moves only when a model runs, and what happened on it."""

    costs: dict[str, Iterator[float]]
    now: float = 100.0
    runs: list[str] = dataclasses.field(default_factory=list)
    threads: list[int] = dataclasses.field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now

    def make_session(self, model: ir.Model, *, threads: int, label: str) -> Session:
        del label
        self.threads.append(threads)
        return Session(self, "A" if model is FIRST else "B")


@dataclasses.dataclass
class Session:
    """Takes the next of its model's recorded seconds."""

    bench: Bench
    name: str

    def run(self, outputs: None, feeds: Feeds) -> list[np.ndarray]:
        assert outputs is None
        assert all(isinstance(value, np.ndarray) for value in feeds.values())
        self.bench.runs.append(self.name)
        self.bench.now += next(self.bench.costs[self.name])
        return []


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    def make(first: Iterator[float], second: Iterator[float]) -> Bench:
        made = Bench({"A": first, "B": second})
        monkeypatch.setattr(stopwatch, "time", made)
        monkeypatch.setattr(stopwatch, "make_session", made.make_session)
        return made

    return make


def always(seconds: float) -> Iterator[float]:
    return itertools.repeat(seconds)


def compare(
    feeds: Feeds = FEEDS, *, seconds: float = 3.0, most_rounds: int = 400, threads: int = 1
) -> Comparison:
    return compare_latency(
        FIRST, SECOND, feeds, seconds=seconds, most_rounds=most_rounds, threads=threads
    )


def test_ratio_of_constant_times(bench: Callable[..., Bench]) -> None:
    bench(always(0.004), always(0.001))
    result = compare()
    assert (result.speedup, result.low, result.high) == pytest.approx((4, 4, 4))
    assert (result.first.median, result.second.median) == pytest.approx((4, 1))
    assert (result.first.spread, result.second.spread) == pytest.approx((0, 0), abs=1e-9)
    assert (result.threads, result.batch) == (1, 2)


def test_order_alternates(bench: Callable[..., Bench]) -> None:
    """Neither always finds the other's data in the cache; both run once a round."""
    made = bench(always(0.2), always(0.2))  # one run each is warm enough
    compare(seconds=0)
    warm, timed = made.runs[:2], made.runs[2:]
    assert warm == ["A", "B"]
    rounds = list(zip(timed[::2], timed[1::2], strict=True))
    assert rounds[:4] == [("A", "B"), ("B", "A"), ("A", "B"), ("B", "A")]
    assert all(set(pair) == {"A", "B"} for pair in rounds)


def test_both_are_warmed_up_before_the_first_round(bench: Callable[..., Bench]) -> None:
    made = bench(always(0.0625), always(0.0625))  # three of them are more than 0.15
    compare(seconds=0)
    assert made.runs[:6] == ["A"] * 3 + ["B"] * 3


def test_warm_up_is_not_counted(bench: Callable[..., Bench]) -> None:
    bench(itertools.chain([9.0], always(0.002)), itertools.chain([9.0], always(0.001)))
    result = compare(seconds=0)
    assert set(result.first.samples) == {2.0}
    assert set(result.second.samples) == {1.0}


@dataclasses.dataclass(frozen=True)
class Length:
    """A time to spend, a limit, and the rounds of 30 ms that these allow."""

    seconds: float
    most_rounds: int
    rounds: int


@pytest.mark.parametrize(
    "case",
    [Length(0, 400, 15), Length(3, 400, 101), Length(3, 40, 40), Length(0.1, 400, 15)],
    ids=str,
)
def test_rounds_end_with_the_time_or_their_number(
    bench: Callable[..., Bench], case: Length
) -> None:
    bench(always(0.02), always(0.01))
    result = compare(seconds=case.seconds, most_rounds=case.most_rounds)
    assert len(result.first.samples) == len(result.second.samples)
    assert abs(len(result.first.samples) - case.rounds) <= 1  # the clock's last digit


def test_drift_of_the_machine_does_not_touch_the_ratio(bench: Callable[..., Bench]) -> None:
    """Each round is ten per cent slower than the last, for both."""
    drift = [0.01 * 1.1**round for round in range(100)]
    warm = [0.2]
    bench(iter([*warm, *drift]), iter([*warm, *(seconds / 2 for seconds in drift)]))
    result = compare(seconds=0)
    assert (result.speedup, result.low, result.high) == pytest.approx((2, 2, 2))
    assert result.first.spread > 1


def test_one_disturbed_round_does_not_touch_the_medians(bench: Callable[..., Bench]) -> None:
    bench(
        itertools.chain([0.2], [0.004] * 7, [5.0], always(0.004)),
        itertools.chain([0.2], [0.002] * 3, [5.0], always(0.002)),
    )
    result = compare(seconds=0)
    assert (result.speedup, result.low, result.high) == pytest.approx((2, 2, 2))
    assert result.first.median == pytest.approx(4)
    assert max(result.first.samples) == pytest.approx(5000)


def test_figures_of_recorded_samples(bench: Callable[..., Bench]) -> None:
    """Fifteen rounds; the fourth from either end bounds the median of the ratios."""
    ratios = [1.5, 0.9, 1.2, 1.1, 1.3, 1.0, 1.4, 0.8, 1.6, 1.7, 1.25, 1.15, 1.05, 0.95, 1.35]
    bench(iter([0.2, *(0.01 * ratio for ratio in ratios)]), itertools.chain([0.2], always(0.01)))
    result = compare(seconds=0)
    ordered = sorted(ratios)
    assert result.speedup == pytest.approx(ordered[7])
    assert (result.low, result.high) == pytest.approx((ordered[3], ordered[11]))
    quarter, three_quarters = np.percentile(ratios, [25, 75])
    assert result.first.spread == pytest.approx(10 * (three_quarters - quarter) / 2)
    assert result.first.samples == tuple(pytest.approx(10 * ratio) for ratio in ratios)


def coverage(low: int, high: int, count: int) -> float:
    """Chance that the true median lies between the order statistics number low and high (from 0).

    It does if between low + 1 and high of the samples fall below it.
    """
    return float(binom.cdf(high, count, 0.5) - binom.cdf(low, count, 0.5))


@pytest.mark.parametrize("count", [6, 7, 15, 16, 100, 101, 400])
def test_interval_covers_95_per_cent_and_no_narrower_one_does(count: int) -> None:
    low, high = map(int, latency.median_interval(np.arange(count)))
    assert high == count - 1 - low
    assert coverage(low, high, count) >= 0.95
    assert coverage(low + 1, high - 1, count) < 0.95


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=50))
def test_median_lies_in_its_interval(samples: list[float]) -> None:
    ordered = np.sort(samples)
    low, high = latency.median_interval(ordered)
    assert ordered[0] <= low <= np.median(ordered) <= high <= ordered[-1]


def test_few_samples_are_bounded_by_their_range() -> None:
    assert latency.median_interval(np.array([1.0, 2.0, 5.0])) == (1.0, 5.0)


def test_threads_and_batch_are_reported(bench: Callable[..., Bench]) -> None:
    made = bench(always(0.2), always(0.1))
    feeds = {"k": np.array(3.0), "x": np.zeros((5, 4), np.float32)}
    result = compare(feeds, threads=3, seconds=0)
    assert made.threads == [3, 3]
    assert (result.threads, result.batch) == (3, 5)


def test_inputs_without_axes_are_a_batch_of_one(bench: Callable[..., Bench]) -> None:
    bench(always(0.2), always(0.1))
    scalar: Any = np.ones(1, np.float32)[0]  # what indexing makes: no array
    assert compare({"k": scalar}, seconds=0).batch == 1


def test_real_sessions_give_real_figures() -> None:
    result = compare(seconds=0, threads=1)
    assert len(result.first.samples) >= 15
    assert min(result.first.samples) > 0
    assert result.low <= result.speedup <= result.high


def test_model_that_onnxruntime_refuses_is_an_input_error() -> None:
    broken = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[N,4] x) => (float[N,4] y) { y = acme.Foo (x) }"""
    )
    with pytest.raises(InputError, match="onnxruntime cannot load"):
        compare_latency(FIRST, broken, FEEDS)
