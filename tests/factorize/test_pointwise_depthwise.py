"""Fits of pointwise→depthwise: exact where they can be, and never worse than simpler ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.errors import FactorizationError
from onnxsep.factorize import LayerProblem, fit_pointwise_depthwise

from .layers import KERNELS, ROUNDING, layer


@settings(deadline=None, max_examples=25)
@given(outputs=st.integers(1, 6), channels=st.integers(1, 6), kernel=KERNELS, shifted=st.booleans())
def test_error_falls_with_rank_and_beats_the_weights_alone(
    outputs: int, channels: int, kernel: tuple[int, ...], shifted: bool
) -> None:
    problem = layer(outputs, channels, kernel, shifted=shifted)
    fits = fit_pointwise_depthwise(problem, (1, 2, 3))
    ranks = [fit.factors.rank for fit in fits]
    plain = fit_pointwise_depthwise(LayerProblem.weights_only(problem.weight), ranks)
    for worse, better in itertools.pairwise(fits):
        assert better.error <= worse.error + ROUNDING
    for fit, from_weights in zip(fits, plain, strict=True):
        dense = fit.factors.dense()
        assert fit.error == pytest.approx(problem.error(dense), rel=1e-6, abs=ROUNDING)
        assert problem.unexplained - ROUNDING <= fit.error
        assert fit.error <= problem.error(from_weights.factors.dense()) + ROUNDING
        np.testing.assert_allclose(fit.bias, problem.fitted_bias(dense))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("channels", [4, 12], ids=["C<K", "C>K"])
def test_full_rank_is_exact(channels: int, shifted: bool) -> None:
    problem = layer(5, channels, (3, 3), shifted=shifted)
    fit = fit_pointwise_depthwise(problem, [9])[-1]
    assert fit.factors.rank == min(channels, 9)
    difference = np.linalg.norm(fit.factors.dense() - problem.target)
    assert difference <= 1e-6 * np.linalg.norm(problem.target)


def test_a_separable_weight_is_recovered() -> None:
    random = np.random.default_rng(3)
    dense = np.einsum("ntc,ntk->nck", random.normal(size=(7, 2, 6)), random.normal(size=(7, 2, 9)))
    problem = layer(7, 6, (3, 3), weight=dense)
    fit = fit_pointwise_depthwise(problem, [2])[0]
    assert np.linalg.norm(fit.factors.dense() - dense) <= 1e-4 * np.linalg.norm(dense)
    plain = fit_pointwise_depthwise(LayerProblem.weights_only(dense), [2])[0]
    assert np.linalg.norm(plain.factors.dense() - dense) <= 1e-6 * np.linalg.norm(dense)


def test_filters_have_unit_norm_and_come_strongest_first() -> None:
    fit = fit_pointwise_depthwise(LayerProblem.weights_only(layer(8, 6, (3, 3)).weight), [3])[0]
    np.testing.assert_allclose(np.linalg.norm(fit.factors.depthwise, axis=2), 1.0)
    strengths = np.linalg.norm(fit.factors.pointwise, axis=2)
    assert (np.diff(strengths, axis=1) <= 1e-12).all()


def test_blocks_of_outputs_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layer(9, 4, (3, 3))
    together = fit_pointwise_depthwise(problem, [1])[0]
    monkeypatch.setattr("onnxsep.factorize.pointwise_depthwise._NUMBERS_AT_ONCE", 32)
    apart = fit_pointwise_depthwise(problem, [1])[0]
    assert apart.error == pytest.approx(together.error, rel=2e-3)


def test_ranks_start_at_one() -> None:
    with pytest.raises(FactorizationError, match="ranks"):
        fit_pointwise_depthwise(layer(4, 3, (3, 3)), [0])
