"""Fits of pointwise→depthwise→pointwise: errors, exactness, and terms that do not explode."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.errors import FactorizationError
from onnxsep.factorize import LayerProblem, fit_cp, fit_depthwise_pointwise

from .layers import KERNELS, ROUNDING, layer, moments_of, patches


@settings(deadline=None, max_examples=25)
@given(outputs=st.integers(1, 8), channels=st.integers(1, 6), kernel=KERNELS, shifted=st.booleans())
def test_error_falls_with_terms(
    outputs: int, channels: int, kernel: tuple[int, ...], shifted: bool
) -> None:
    problem = layer(outputs, channels, kernel, shifted=shifted)
    fits = fit_cp(problem, (1, 3, 6))
    for worse, better in itertools.pairwise(fits):
        assert better.error <= worse.error + ROUNDING
    for fit in fits:
        dense = fit.factors.dense()
        assert fit.error == pytest.approx(problem.error(dense), rel=1e-6, abs=ROUNDING)
        assert fit.error >= problem.unexplained - ROUNDING
        assert fit.cancellation <= 10
        np.testing.assert_allclose(fit.bias, problem.fitted_bias(dense), rtol=1e-6, atol=1e-9)


def test_a_sum_of_terms_is_recovered() -> None:
    random = np.random.default_rng(4)
    dense = np.einsum(
        "nm,mc,mk->nck",
        random.normal(size=(12, 3)),
        random.normal(size=(3, 8)),
        random.normal(size=(3, 9)),
    )
    for problem in (layer(12, 8, (3, 3), weight=dense), LayerProblem.weights_only(dense)):
        fit = fit_cp(problem, [3])[0]
        assert fit.error <= 1e-8


def test_as_many_terms_as_right_vectors_are_exact() -> None:
    problem = layer(4, 2, (3,))
    fit = fit_cp(problem, [100])[-1]
    assert fit.factors.terms == 6
    assert fit.error <= 1e-8


def test_beats_depthwise_pointwise_at_equal_terms() -> None:
    """One term per input channel can be what depthwise→pointwise is, and has more freedom."""
    problem = layer(10, 8, (3, 3))
    separable = fit_depthwise_pointwise(problem, [1])[0]
    assert fit_cp(problem, [8])[0].error < separable.error


def test_cancellation_is_that_of_the_outputs_and_is_bounded() -> None:
    """A weight of border rank 2: unbounded terms would fit it with ever smaller error."""
    random = np.random.default_rng(1)
    a, b, d, e, f, g = (random.normal(size=n) for n in (6, 5, 9, 6, 5, 9))
    dense = (
        np.einsum("n,c,k->nck", e, b, d)
        + np.einsum("n,c,k->nck", a, f, d)
        + np.einsum("n,c,k->nck", a, b, g)
    )
    rows = patches(5, 9)
    problem = LayerProblem.from_moments(dense, None, moments_of(rows), ridge=0.0)
    fit = fit_cp(problem, [2], largest_cancellation=3.0)[0]
    assert fit.cancellation <= 3.0
    middle = fit.factors.first[:, :, None] * fit.factors.depthwise[:, None, :]
    seen = (rows - rows.mean(axis=0)) @ middle.reshape(2, -1).T
    terms = seen[:, :, None] * fit.factors.last.T
    measured = np.sqrt((terms**2).sum() / (terms.sum(axis=1) ** 2).sum())
    assert fit.cancellation == pytest.approx(measured, rel=1e-3)


def test_rows_have_unit_norm_and_come_strongest_first() -> None:
    fit = fit_cp(LayerProblem.weights_only(layer(8, 6, (3, 3)).weight), [7])[0]
    np.testing.assert_allclose(np.linalg.norm(fit.factors.first, axis=1), 1.0)
    np.testing.assert_allclose(np.linalg.norm(fit.factors.depthwise, axis=1), 1.0)
    assert (np.diff(np.linalg.norm(fit.factors.last, axis=0)) <= 1e-12).all()


def test_more_terms_than_singular_vectors_still_help() -> None:
    problem = layer(2, 6, (3, 3))
    fewer, more = fit_cp(problem, [4, 22])
    assert more.error < 0.2 * fewer.error


def test_fits_are_deterministic() -> None:
    first, second = (fit_cp(layer(8, 6, (3, 3)), [4, 7])[1] for _ in range(2))
    np.testing.assert_array_equal(first.factors.dense(), second.factors.dense())


@pytest.mark.parametrize("terms", [[], [0]])
def test_terms_start_at_one(terms: list[int]) -> None:
    with pytest.raises(FactorizationError, match="CP terms"):
        fit_cp(layer(4, 3, (3, 3)), terms)


def test_a_bound_that_nothing_meets_is_refused() -> None:
    with pytest.raises(FactorizationError, match="cancellation"):
        fit_cp(layer(4, 3, (3, 3)), [2], largest_cancellation=1.0)
