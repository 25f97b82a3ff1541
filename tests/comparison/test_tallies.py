"""Batch by batch, the sums are those of all samples at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.comparison.tallies import Tally
from onnxsep.quality import SNR_CEILING_DB, signal_to_noise_db


def tallied(one: np.ndarray, other: np.ndarray, size: int, *, by_channel: bool = False) -> Tally:
    tally = Tally(by_channel=by_channel)
    for start in range(0, len(one), size):
        tally.add(one[start : start + size], other[start : start + size])
    return tally


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    count=st.integers(1, 9),
    size=st.integers(1, 9),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    noise=st.sampled_from([0.0, 1e-6, 0.1, 3.0]),
    hole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_batches_do_not_matter(
    shape: list[int],
    count: int,
    size: int,
    offset: float,
    noise: float,
    hole: bool,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    one = offset + generator.standard_normal((count, *shape))
    other = one + noise * generator.standard_normal(one.shape)
    if hole:
        one[0].flat[0] = other[0].flat[0] = np.inf
    found = tallied(one, other, size).snr_db
    assert found == pytest.approx(signal_to_noise_db(one, other), abs=1e-4)


def test_power_of_a_channel_is_about_its_own_mean() -> None:
    generator = np.random.default_rng(0)
    means = np.array([0.0, 50.0, -7.0]).reshape(1, 3, 1, 1)
    one = means + generator.standard_normal((20, 3, 4, 5))
    other = one + 0.1 * generator.standard_normal(one.shape)
    deviation = math.sqrt(float(np.mean((one - one.mean(axis=(0, 2, 3), keepdims=True)) ** 2)))
    expected = math.sqrt(float(np.mean((one - other) ** 2))) / deviation
    assert tallied(one, other, 6, by_channel=True).relative_error == pytest.approx(expected)


def test_worst_sample_has_the_largest_difference() -> None:
    one = np.random.default_rng(0).standard_normal((10, 4))
    other = one.copy()
    other[3] += 0.01
    other[8] += 0.5
    place, decibels = tallied(one, other, 4).worst_sample()
    assert place == 8
    assert decibels < tallied(one, other, 4).snr_db


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_only_one_model_has_breaks_the_comparison(bad: float) -> None:
    one = np.random.default_rng(0).standard_normal((6, 4))
    other = one.copy()
    other[2, 1] = bad
    tally = tallied(one, other, 2)
    assert tally.broken
    assert (tally.snr_db, tally.relative_error) == (-SNR_CEILING_DB, math.inf)
    assert tally.worst_sample() == (2, -SNR_CEILING_DB)


def test_equal_values_have_no_worst_sample() -> None:
    one = np.full((5, 2), 3.0)
    tally = tallied(one, one.copy(), 2)
    assert (tally.snr_db, tally.relative_error) == (SNR_CEILING_DB, 0.0)
    assert tally.worst_sample()[0] == -1


def test_of_integers_the_share_that_differs_counts() -> None:
    one = np.arange(20).reshape(10, 2)
    other = one.copy()
    other[4] += 1
    tally = tallied(one, other, 3)
    assert tally.largest == pytest.approx(0.1)
    assert tally.snr_db == pytest.approx(10.0)
    assert tally.worst_sample()[0] == 4


def test_sizes_may_change_from_batch_to_batch() -> None:
    tally = Tally()
    for size in (3, 5):
        tally.add(np.arange(2.0 * size).reshape(2, size), np.arange(2.0 * size).reshape(2, size))
    assert tally.snr_db == SNR_CEILING_DB
    tally.add(np.zeros((2, 4)), np.ones((2, 4)))
    assert 0 < tally.snr_db < 20
