"""The rank curve over all forms, and depthwise→pointwise with a rank per channel."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    FORMS,
    Fit,
    RaggedDepthwisePointwise,
    dense_cost,
    fit_depthwise_pointwise,
    fit_ragged,
    rank_curve,
)

from .layers import layer


def test_every_form_is_there_in_order_and_cheaper_than_the_layer() -> None:
    problem = layer(16, 12, (3, 3))
    fits = rank_curve(problem, ranks=(2, 1, 5, 50))
    forms = [fit.factors.form for fit in fits]
    assert sorted(set(forms), key=forms.index) == list(FORMS)
    for form in FORMS:
        costs = [fit.factors.multiplications() for fit in fits if fit.factors.form == form]
        assert costs == sorted(costs)
    assert max(fit.factors.multiplications() for fit in fits) < dense_cost(16, 12, 9)


def test_stride_makes_the_pointwise_in_front_expensive() -> None:
    fits = rank_curve(layer(16, 16, (3, 3)), ranks=(1, 2), terms=(8, 16), stride_area=4)
    kept = {(fit.factors.form, fit.factors.parameters) for fit in fits}
    assert kept == {
        ("depthwise-pointwise", 400),
        ("depthwise-pointwise", 800),
        ("pointwise-depthwise", 400),
        ("cp", 328),
        ("cp", 656),
    }


def test_default_terms_keep_to_multiples() -> None:
    fits = rank_curve(layer(20, 10, (3, 3)), forms=("cp",), multiple=4)
    assert [fit.factors.parameters // (10 + 9 + 20) for fit in fits] == [4, 8, 16, 20]


def test_a_share_limits_the_candidates() -> None:
    problem = layer(16, 12, (3, 3))
    fits = rank_curve(problem, largest_share=0.3)
    assert fits
    assert max(fit.factors.multiplications() for fit in fits) < 0.3 * dense_cost(16, 12, 9)


def test_a_pointwise_layer_has_no_cheaper_form() -> None:
    assert rank_curve(layer(8, 8, (1, 1)), forms=FORMS[:2]) == []


def test_unknown_forms_are_named() -> None:
    with pytest.raises(FactorizationError, match="'tucker'"):
        rank_curve(layer(4, 4, (3, 3)), forms=("tucker",))


@pytest.mark.parametrize("bad", [{"ranks": (0,)}, {"terms": (0,)}, {"multiple": 0}], ids=str)
def test_numbers_start_at_one(bad: dict[str, int]) -> None:
    with pytest.raises(FactorizationError, match="from 1 up"):
        rank_curve(layer(4, 4, (3, 3)), **bad)  # type: ignore[arg-type]


def ragged_fits(terms: list[int]) -> list[Fit[RaggedDepthwisePointwise]]:
    problem = layer(14, 8, (3, 3), uneven=True)
    start = fit_depthwise_pointwise(problem, [3])[0]
    return fit_ragged(problem, start.factors, terms)


def test_thinning_out_beats_the_same_rank_everywhere() -> None:
    problem = layer(14, 8, (3, 3), uneven=True)
    uniform = {fit.factors.rank * 8: fit for fit in fit_depthwise_pointwise(problem, (1, 2))}
    for fit in ragged_fits([8, 16]):
        assert fit.factors.depthwise.shape == (fit.factors.terms, 9)
        assert fit.error < uniform[fit.factors.terms].error
        assert fit.error == pytest.approx(problem.error(fit.factors.dense()))
        assert (np.diff(fit.factors.sources) >= 0).all()


def test_thinning_out_nothing_changes_nothing() -> None:
    problem = layer(14, 8, (3, 3), uneven=True)
    start = fit_depthwise_pointwise(problem, [3])[0]
    fit = fit_ragged(problem, start.factors, [1000])[0]
    assert fit.factors.terms == 24
    assert fit.error <= start.error + 1e-12


def test_errors_rise_as_terms_go() -> None:
    errors = [fit.error for fit in ragged_fits([4, 10, 20])]
    assert errors == sorted(errors, reverse=True)
