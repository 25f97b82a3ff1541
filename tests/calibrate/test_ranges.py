"""Every method against the slow and obvious way, and what all ranges have in common."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from onnxsep.calibrate.ranges import RangeMethod, ValueStatistics
from onnxsep.errors import ConfigurationError, InputError

METHODS: list[RangeMethod] = ["minmax", "percentile", "entropy", "mse"]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    values: np.ndarray

    @property
    def statistics(self) -> ValueStatistics:
        return ValueStatistics.of(self.name, self.values)


def _cases() -> list[Case]:
    generator = np.random.default_rng(7)

    def normal(scale: float = 1.0) -> np.ndarray:
        return (scale * generator.standard_normal(20_000)).astype(np.float32)

    return [
        Case("normal", normal()),
        Case("relu", np.maximum(normal(), 0)),
        Case("relu6", np.clip(normal(4), 0, 6)),
        Case("leaky", np.where(normal() < 0, 0.1 * normal(), normal(2)).astype(np.float32)),
        Case("negative", -np.abs(normal(3))),
        Case("heavy", generator.standard_t(2.5, 20_000).astype(np.float32)),
        Case("shifted", 5 + normal()),
        Case("outlier", np.append(normal(), np.float32(80))),
        Case("both outliers", np.append(normal(), np.float32([-9, 60]))),
    ]


CASES = _cases()
case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
bits = pytest.mark.parametrize("bits", [7, 8])
symmetric = pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])


def steps_of(symmetric: bool, bits: int) -> int:
    return 2 * (2 ** (bits - 1) - 1) if symmetric else 2**bits - 1


def squared_error(values: np.ndarray, low: float, high: float, steps: int) -> float:
    """Of really quantizing every value."""
    scale = (high - low) / steps
    zero_point = round(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, steps)
    return float(np.mean((values - (levels - zero_point) * scale) ** 2))


@case
@bits
@symmetric
def test_mse_is_as_good_as_trying_many_ranges(case: Case, symmetric: bool, bits: int) -> None:
    values, steps = case.values.astype(np.float64), steps_of(symmetric, bits)
    low, high = case.statistics.range("mse", symmetric=symmetric, signed=True, bits=bits)
    found = squared_error(values, low, high, steps)
    least, most = min(values.min(), 0.0), max(values.max(), 0.0)
    shares = np.geomspace(0.03, 1, 24)
    if symmetric:
        widest = max(-least, most)
        tried = [(-share * widest, share * widest) for share in shares]
    else:
        tried = [(a * least, b * most) for a, b in itertools.product(shares, shares)]
        tried = [pair for pair in dict.fromkeys(tried) if pair[0] < pair[1]]
    best = min(squared_error(values, *pair, steps) for pair in tried)
    assert found <= 1.02 * best


@case
@bits
def test_zero_is_a_level_of_the_mse_range(case: Case, bits: int) -> None:
    low, high = case.statistics.range("mse", bits=bits)
    zero_point = -low / (high - low) * (2**bits - 1)
    assert zero_point == pytest.approx(round(zero_point), abs=1e-6)


def assert_is_quantile(found: float, values: np.ndarray, share: float, width: float) -> None:
    """No further from the quantile than its neighbours among the values, or a bin."""
    ordered = np.sort(values)
    place = share * (len(ordered) - 1)
    below = ordered[max(math.floor(place) - 1, 0)]
    above = ordered[min(math.ceil(place) + 1, len(ordered) - 1)]
    assert below - width <= found <= above + width


@case
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_is_that_of_the_values_that_are_not_zero(case: Case, percentile: float) -> None:
    values = case.values[case.values != 0]
    statistics = case.statistics
    width = statistics.histogram.frame.width
    low, high = statistics.range("percentile", percentile=percentile)
    outside = 1 - percentile / 100
    if values.min() < 0 < values.max():
        outside /= 2
    negative, positive = np.minimum(values, 0), np.maximum(values, 0)
    assert_is_quantile(low, negative, outside, width)
    assert_is_quantile(high, positive, 1 - outside, width)
    low, high = statistics.range("percentile", percentile=percentile, symmetric=True, signed=True)
    assert low == -high
    assert_is_quantile(high, np.abs(values), percentile / 100, width)


def divergence(counts: np.ndarray, start: int, stop: int, levels: int) -> float:
    """Kullback-Leibler divergence as the method is told, bin by bin."""
    inside = counts[start:stop].astype(float)
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    quantized = np.zeros_like(inside)
    borders = [(stop - start) * level // levels for level in range(levels + 1)]
    for first, last in itertools.pairwise(borders):
        filled = reference[first:last] > 0
        if filled.any():
            quantized[first:last][filled] = inside[first:last].sum() / filled.sum()
    reference /= reference.sum()
    there = reference > 0
    if np.any(quantized[there] == 0):
        return math.inf
    quantized /= quantized.sum()
    found = np.sum(reference[there] * np.log(reference[there] / quantized[there]))
    used = sum(there[first:last].any() for first, last in itertools.pairwise(borders))
    # What chance alone makes of a smooth distribution.
    return float(found - (there.sum() - used) / (2 * counts.sum()))


@case
@symmetric
def test_entropy_finds_the_least_divergence(case: Case, symmetric: bool) -> None:
    statistics = case.statistics
    low, high = statistics.range("entropy", symmetric=symmetric, signed=True)
    counts, frame = statistics.histogram.counts, statistics.histogram.frame
    zero, levels = -frame.first, steps_of(symmetric, 8) + 1
    if symmetric:
        reach = max(zero, len(counts) - zero)
        counts = np.pad(counts, (reach - zero, reach - (len(counts) - zero)))
        zero = reach

    def of(threshold: int) -> float:
        start, stop = max(zero - threshold, 0), min(zero + threshold, len(counts))
        return divergence(counts, start, stop, levels) if stop - start >= levels else math.inf

    reach = max(zero, len(counts) - zero)
    widest = max(-statistics.minimum, statistics.maximum)
    threshold = reach if max(-low, high) >= widest else round(max(-low, high) / frame.width)
    # The search looks at thresholds two per cent apart, and a bin more or less is chance.
    least = min(of(threshold) for threshold in range(reach, 0, -16))
    assert of(threshold) <= least + 0.002


def test_entropy_cuts_a_lonely_outlier() -> None:
    """With as many bins as levels it would return the extremes."""
    values = np.append(np.random.default_rng(3).standard_normal(200_000), 12.0)
    _, high = ValueStatistics.of("x", values).range("entropy", symmetric=True, signed=True)
    assert 2 < high < 9


@case
@symmetric
@bits
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("signed", [False, True])
def test_ranges_include_zero_and_reach_no_further_than_the_values(
    case: Case, method: RangeMethod, symmetric: bool, signed: bool, bits: int
) -> None:
    statistics = case.statistics
    low, high = statistics.range(method, symmetric=symmetric, signed=signed, bits=bits)
    assert low <= 0 <= high
    assert low < high
    if symmetric and (signed or statistics.minimum < 0):
        assert low == -high
        assert high <= max(-statistics.minimum, statistics.maximum) * (1 + 1e-9)
        return
    # An integer zero point may move the grid by half a step.
    slack = (high - low) / (2**bits - 1) if method == "mse" else 1e-9
    assert low >= min(statistics.minimum, 0) - slack
    assert high <= max(statistics.maximum, 0) + slack


def test_minmax_is_exact() -> None:
    statistics = ValueStatistics.of("x", np.float32([0.1, 0.7, 2.3]))
    assert statistics.range("minmax") == (0.0, float(np.float32(2.3)))
    statistics = ValueStatistics.of("x", np.float32([-0.1, 2.3]))
    assert statistics.range("minmax", symmetric=True) == (-np.float32(2.3), np.float32(2.3))


def test_unsigned_symmetric_range_of_positive_values_begins_at_zero() -> None:
    statistics = ValueStatistics.of("x", np.float32([0, 1, 4]))
    assert statistics.range("minmax", symmetric=True) == (0, 4)
    assert statistics.range("minmax", symmetric=True, signed=True) == (-4, 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0, -0.0]], ids=["none", "zeros"])
def test_no_values_but_zero(method: RangeMethod, values: list[float]) -> None:
    statistics = ValueStatistics.of("x", np.float32(values))
    assert statistics.range(method) == (0, 0)
    assert statistics.range(method, symmetric=True, signed=True) == (0, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [3.7, -3.7, 1e-30, -1e-42, 3e38])
def test_constant(method: RangeMethod, constant: float) -> None:
    statistics = ValueStatistics.of("x", np.full(10, constant, np.float32))
    low, high = statistics.range(method)
    width = statistics.histogram.frame.width
    assert low <= 0 <= high
    reached = high if constant > 0 else low
    # MSE may find a grid of narrower steps that happens to have the constant on it.
    step = (high - low) / 255
    assert abs(reached) >= abs(np.float32(constant)) - max(width, step)
    symmetric = statistics.range(method, symmetric=True, signed=True)
    assert symmetric[1] >= abs(np.float32(constant)) - max(width, symmetric[1] / 127)


ARRAYS = st_numpy.arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(ARRAYS)
def test_any_values_have_finite_ranges(values: np.ndarray) -> None:
    statistics = ValueStatistics.of("x", values)
    for method, mirrored in itertools.product(METHODS, (False, True)):
        low, high = statistics.range(method, symmetric=mirrored, signed=mirrored)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert low <= 0 <= high


@given(ARRAYS, ARRAYS)
def test_merging_equals_one_pass(one: np.ndarray, other: np.ndarray) -> None:
    merged = ValueStatistics.of("x", one).merge(ValueStatistics.of("y", other))
    assert merged.to_json() == ValueStatistics.of("x", np.concatenate([one, other])).to_json()


@given(ARRAYS)
def test_json_there_and_back(values: np.ndarray) -> None:
    record = ValueStatistics.of("x", values).to_json()
    again = ValueStatistics.from_json(json.loads(json.dumps(record, allow_nan=False)))
    assert again.to_json() == record
    assert again.histogram.counts.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minimum": math.nan}, "finite"),
        ({"maximum": 1e39}, "finite"),
        ({"minimum": True}, "finite"),
        ({"minimum": 9.0}, "above its maximum"),
        ({"name": 3}, "malformed"),
        ({"count": -1}, "malformed"),
        ({"count": 1.5}, "malformed"),
        ({"exponent": 3}, "do not fit"),
        ({"exponent": "3"}, "integers"),
        ({"zeros": -1}, "negative"),
        ({"zeros": 2**70}, "64 bits"),
        ({"counts": [1]}, "do not fit"),
        ({"counts": None}, "list of integers"),
        ({"counts": ["1"]}, "list of integers"),
    ],
    ids=str,
)
def test_malformed_records_are_refused(change: dict[str, object], message: str) -> None:
    record = ValueStatistics.of("x", np.float32([-1, 2])).to_json()
    with pytest.raises(InputError, match=message):
        ValueStatistics.from_json({**record, **change})


@pytest.mark.parametrize("counts", [[-1], [2**70], [True]], ids=["negative", "huge", "boolean"])
def test_malformed_counts_are_refused(counts: list[int]) -> None:
    record = ValueStatistics.of("x", np.float32([-1, 2])).to_json()
    record["counts"][0] = counts[0]
    with pytest.raises(InputError, match="histogram"):
        ValueStatistics.from_json(record)


def test_record_without_a_field() -> None:
    record = ValueStatistics.of("x", np.float32([1])).to_json()
    del record["zeros"]
    with pytest.raises(InputError, match="zeros"):
        ValueStatistics.from_json(record)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(InputError, match="'conv1' becomes"):
        ValueStatistics.of("conv1", np.float32([1, value]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "best"},
        {"method": "mse", "bits": 1},
        {"method": "mse", "bits": 16},
        {"method": "percentile", "percentile": 0},
        {"method": "percentile", "percentile": 100.1},
        {"method": "percentile", "percentile": math.nan},
    ],
    ids=str,
)
def test_arguments_without_meaning(arguments: dict[str, object]) -> None:
    statistics = ValueStatistics.of("x", np.float32([1]))
    with pytest.raises(ConfigurationError):
        statistics.range(**arguments)  # type: ignore[arg-type]
