"""Fits of depthwise→pointwise: exact where they can be, and never worse than simpler ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.errors import FactorizationError
from onnxsep.factorize import LayerProblem, fit_depthwise_pointwise

from .layers import KERNELS, ROUNDING, layer, moments_of, patches, random_weight


@settings(deadline=None, max_examples=40)
@given(
    outputs=st.integers(1, 9),
    channels=st.integers(1, 6),
    kernel=KERNELS,
    shifted=st.booleans(),
)
def test_error_falls_with_rank_and_beats_the_weights_alone(
    outputs: int, channels: int, kernel: tuple[int, ...], shifted: bool
) -> None:
    problem = layer(outputs, channels, kernel, shifted=shifted)
    fits = fit_depthwise_pointwise(problem, (1, 2, 3))
    plain = fit_depthwise_pointwise(
        LayerProblem.weights_only(problem.weight), [fit.factors.rank for fit in fits]
    )
    for worse, better in itertools.pairwise(fits):
        assert better.error <= worse.error + ROUNDING
    for fit, from_weights in zip(fits, plain, strict=True):
        dense = fit.factors.dense()
        assert fit.error == pytest.approx(problem.error(dense), rel=1e-6, abs=ROUNDING)
        assert fit.error <= problem.error(from_weights.factors.dense()) + ROUNDING
        assert fit.error >= problem.unexplained - ROUNDING
        np.testing.assert_allclose(fit.bias, problem.fitted_bias(dense))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("outputs", [4, 12], ids=["N<K", "N>K"])
def test_full_rank_is_exact(outputs: int, shifted: bool) -> None:
    problem = layer(outputs, 5, (3, 3), shifted=shifted)
    fit = fit_depthwise_pointwise(problem, [9])[-1]
    assert fit.factors.rank == min(outputs, 9)
    difference = np.linalg.norm(fit.factors.dense() - problem.target)
    assert difference <= 1e-6 * np.linalg.norm(problem.target)
    assert fit.error == pytest.approx(problem.unexplained, abs=1e-9)


def test_a_separable_weight_is_recovered() -> None:
    random = np.random.default_rng(3)
    filters, pointwise = random.normal(size=(6, 2, 9)), random.normal(size=(8, 6, 2))
    dense = np.einsum("nct,ctk->nck", pointwise, filters)
    for case in (LayerProblem.weights_only(dense), layer(8, 6, (3, 3), weight=dense)):
        fit = fit_depthwise_pointwise(case, [2])[0]
        assert np.linalg.norm(fit.factors.dense() - dense) <= 1e-6 * np.linalg.norm(dense)


def test_the_error_is_that_of_the_samples() -> None:
    """Without a ridge, the reported error is the measured one, and the bias removes the mean."""
    dense, bias = random_weight(7, 4, (3, 3)), np.arange(7.0)
    rows = patches(4, 9)
    problem = LayerProblem.from_moments(dense, bias, moments_of(rows), ridge=0.0)
    fit = fit_depthwise_pointwise(problem, [1])[0]
    wanted = rows @ dense.reshape(7, -1).T + bias
    made = rows @ fit.factors.dense().reshape(7, -1).T + fit.bias
    np.testing.assert_allclose((made - wanted).mean(axis=0), 0, atol=1e-4)
    share = np.sum((made - wanted) ** 2) / np.sum((wanted - wanted.mean(axis=0)) ** 2)
    assert fit.error == pytest.approx(share, rel=1e-3)


def test_filters_are_unit_uncorrelated_and_strongest_first() -> None:
    problem = layer(8, 4, (3, 3))
    factors = fit_depthwise_pointwise(problem, [3])[0].factors
    np.testing.assert_allclose(np.linalg.norm(factors.depthwise, axis=2), 1.0)
    filters = factors.depthwise
    covariance = filters @ problem.metric.blocks() @ filters.transpose(0, 2, 1)
    variance = np.einsum("ctt->ct", covariance)
    correlation = covariance / np.sqrt(variance[:, :, None] * variance[:, None, :])
    np.testing.assert_allclose(correlation, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-9)
    strength = variance * (factors.pointwise**2).sum(axis=0)
    assert (np.diff(strength, axis=1) < 0).all()


def test_fits_are_deterministic() -> None:
    first, second = (fit_depthwise_pointwise(layer(8, 6, (3, 3)), [1, 2])[1] for _ in range(2))
    np.testing.assert_array_equal(first.factors.depthwise, second.factors.depthwise)
    np.testing.assert_array_equal(first.factors.pointwise, second.factors.pointwise)


@pytest.mark.parametrize("ranks", [[], [0], [2, -1]])
def test_ranks_start_at_one(ranks: list[int]) -> None:
    with pytest.raises(FactorizationError, match="ranks"):
        fit_depthwise_pointwise(layer(4, 3, (3, 3)), ranks)
