"""The streamed moments against numpy's, and what is said about data that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.errors import FactorizationError
from onnxsep.factorize import MomentAccumulator

from .layers import patches


@given(
    features=st.integers(1, 40),
    batches=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda b: sum(b) > 1),
    outputs=st.integers(1, 5),
)
def test_moments_do_not_depend_on_the_batches(
    features: int, batches: list[int], outputs: int
) -> None:
    random = np.random.default_rng(features)
    rows = (random.normal(size=(sum(batches), features)) * 3 + 5).astype(np.float32)
    wanted = random.normal(size=(sum(batches), outputs)) + rows[:, :1]
    accumulator = MomentAccumulator(features, outputs)
    start = 0
    for count in batches:
        accumulator.update(rows[start : start + count], wanted[start : start + count])
        start += count
    moments = accumulator.result()

    exact = np.cov(np.hstack([rows.astype(float), wanted]).T, bias=True)
    np.testing.assert_allclose(moments.second, exact[:features, :features], atol=2e-4)
    assert moments.cross is not None
    np.testing.assert_allclose(moments.cross, exact[features:, :features], atol=2e-4)
    assert moments.output_variance is not None
    np.testing.assert_allclose(
        moments.output_variance, np.diag(exact)[features:], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0, dtype=float), rtol=1e-6)
    assert moments.count == sum(batches)


def test_a_large_mean_costs_no_accuracy() -> None:
    rows = patches(4, 9, rows=2000) + np.float32(1000)
    accumulator = MomentAccumulator(36)
    for batch in np.array_split(rows, 7):
        accumulator.update(batch)
    exact = np.cov(rows.T.astype(float), bias=True)
    np.testing.assert_allclose(accumulator.result().second, exact, rtol=1e-3, atol=1e-3)


def test_the_covariance_is_exactly_symmetric_across_blocks() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 1100)).astype(np.float32)
    accumulator = MomentAccumulator(1100)
    accumulator.update(rows)
    second = accumulator.result().second
    np.testing.assert_array_equal(second, second.T)
    np.testing.assert_allclose(second, np.cov(rows.T, bias=True), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_named(bad: float) -> None:
    rows = patches(2, 9)
    rows[3, 7] = bad
    with pytest.raises(FactorizationError, match="column 7"):
        MomentAccumulator(18).update(rows)


def test_overflow_is_named() -> None:
    accumulator = MomentAccumulator(2)
    accumulator.update(np.array([[1e30, 0], [-1e30, 0]], np.float32))
    with pytest.raises(FactorizationError, match="overflow"):
        accumulator.result()


def test_one_row_is_too_few() -> None:
    accumulator = MomentAccumulator(3)
    accumulator.update(np.ones((1, 3), np.float32))
    with pytest.raises(FactorizationError, match="two rows"):
        accumulator.result()


def test_the_large_matrix_is_handed_over_once() -> None:
    accumulator = MomentAccumulator(3)
    accumulator.update(np.eye(3, dtype=np.float32))
    accumulator.result()
    with pytest.raises(FactorizationError, match="already taken"):
        accumulator.update(np.eye(3, dtype=np.float32))
    with pytest.raises(FactorizationError, match="already taken"):
        accumulator.result()


def test_wrong_shapes_are_named() -> None:
    accumulator = MomentAccumulator(3, outputs=2)
    with pytest.raises(FactorizationError, match=r"\(rows, 3\)"):
        accumulator.update(np.ones((4, 5), np.float32), np.ones((4, 2), np.float32))
    with pytest.raises(FactorizationError, match="wanted outputs"):
        accumulator.update(np.ones((4, 3), np.float32))
    with pytest.raises(FactorizationError, match="4 patches came with 5"):
        accumulator.update(np.ones((4, 3), np.float32), np.ones((5, 2), np.float32))
