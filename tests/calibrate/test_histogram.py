"""Bins that widen and merge give what one look at all values gives, to the last count."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from onnxsep.calibrate.histogram import MOST_BINS, Frame, Histogram, HistogramBuilder

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Extremes of the type, and zeros of both signs, are what rounding would betray.
VALUES = st_numpy.arrays(
    np.float32,
    st.integers(1, 40),
    elements=FLOATS | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 6.0, 3.4e38, -3.4e38]),
)


def histogram_of(values: np.ndarray) -> Histogram:
    return Histogram.of(values, Frame.around(float(values.min()), float(values.max())))


def assert_same(one: Histogram, other: Histogram) -> None:
    assert one.frame == other.frame
    assert one.zeros == other.zeros
    np.testing.assert_array_equal(one.counts, other.counts)


def counted_exactly(values: np.ndarray, frame: Frame) -> np.ndarray:
    """With Python's integers, one value at a time."""
    counts = np.zeros(frame.bins, np.int64)
    for value in values.tolist():
        if value:
            numerator, denominator = value.as_integer_ratio()
            shift = frame.exponent
            index = (
                numerator // (denominator << shift)
                if shift >= 0
                else (numerator << -shift) // denominator
            )
            counts[index - frame.first] += 1
    return counts


@given(VALUES)
def test_every_value_is_in_its_bin(values: np.ndarray) -> None:
    found = histogram_of(values)
    np.testing.assert_array_equal(found.counts, counted_exactly(values, found.frame))
    assert found.zeros == np.count_nonzero(values == 0)
    assert found.total == values.size


@given(FLOATS, FLOATS)
def test_frame_reaches_over_the_extremes_with_the_narrowest_bins(one: float, other: float) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    frame = Frame.around(low, high)
    assert frame.bins <= MOST_BINS
    edges = frame.edges()
    assert edges[0] <= low
    assert high < edges[-1]
    if frame.exponent > -126:
        half = frame.exponent - 1
        needed = math.floor(math.ldexp(high, -half)) - math.floor(math.ldexp(low, -half)) + 1
        assert needed > MOST_BINS


@given(VALUES, VALUES)
def test_merging_equals_one_pass(one: np.ndarray, other: np.ndarray) -> None:
    together = np.concatenate([one, other])
    frame = Frame.around(float(together.min()), float(together.max()))
    merged = histogram_of(one).merged(histogram_of(other), frame)
    assert_same(merged, histogram_of(together))


@given(VALUES, FLOATS)
def test_widening_loses_nothing(values: np.ndarray, further: float) -> None:
    low, high = float(values.min()), float(values.max())
    frame = Frame.around(min(low, further), max(high, further))
    assert_same(histogram_of(values).widened(frame), Histogram.of(values, frame))


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, np.float32(0))


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(1, 60))
def test_parts_equal_one_pass(parts: list[np.ndarray], buffered: int) -> None:
    """However often the buffer is emptied in between, and behind a function too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxsep.calibrate.histogram._BUFFERED_VALUES", buffered)
        builder = HistogramBuilder([relu])
        for part in parts:
            builder.add(float(part.min()), float(part.max()), part.size, part)
        plain, rectified = builder.results()
    together = np.concatenate(parts)
    assert builder.count == together.size
    for values, (minimum, maximum, histogram) in ((together, plain), (relu(together), rectified)):
        assert (minimum, maximum) == (values.min(), values.max())
        assert_same(histogram, histogram_of(values))


def test_memory_does_not_grow_with_the_number_of_parts() -> None:
    generator = np.random.default_rng(0)

    def peak(parts: int) -> int:
        builder = HistogramBuilder()
        tracemalloc.start()
        for _ in range(parts):
            part = generator.standard_normal(4096).astype(np.float32)
            builder.add(float(part.min()), float(part.max()), part.size, part)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert builder.count == parts * 4096
        return most

    peak(16)
    assert peak(160) < 1.1 * peak(16)


def test_nothing_added() -> None:
    builder = HistogramBuilder()
    builder.add(math.inf, -math.inf, 0, np.zeros(0, np.float32))
    [(_, _, histogram)] = builder.results()
    assert builder.count == histogram.total == 0
