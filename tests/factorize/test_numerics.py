"""Data that give a solver a hard time: a sensible result, or an error that says what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    DEFAULT_RIDGE,
    CanonicalPolyadic,
    Factors,
    Fit,
    LayerProblem,
    Moments,
    default_ridge,
    fit_cp,
    fit_depthwise_pointwise,
    fit_pointwise_depthwise,
    fit_ragged,
    rank_curve,
)

from .layers import layer, moments_of, patches, random_weight

Rows = npt.NDArray[np.float32]


def few_rows(rows: Rows) -> Rows:
    return rows[:7]


def dead_channels(rows: Rows) -> Rows:
    result = rows.reshape(len(rows), -1, 9).copy()
    result[:, ::2] = 0
    return result.reshape(rows.shape)


def dead_positions(rows: Rows) -> Rows:
    result = rows.copy()
    result[:, ::9] = 3
    return result


def constant(rows: Rows) -> Rows:
    return np.ones_like(rows)


def identical_channels(rows: Rows) -> Rows:
    return np.tile(rows[:, :9], (1, rows.shape[1] // 9))


def tiny(rows: Rows) -> Rows:
    return rows * np.float32(1e-15)


def huge(rows: Rows) -> Rows:
    return rows * np.float32(1e15)


def uneven(rows: Rows) -> Rows:
    scale = np.geomspace(1e-4, 1e4, rows.shape[1] // 9, dtype=np.float32)
    return (rows.reshape(len(rows), -1, 9) * scale[:, None]).reshape(rows.shape)


HARD = [
    few_rows,
    dead_channels,
    dead_positions,
    constant,
    identical_channels,
    tiny,
    huge,
    uneven,
]


@pytest.mark.parametrize("ridge", [None, 0.0], ids=["ridge", "no ridge"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("spoil", HARD, ids=lambda spoil: spoil.__name__)
def test_hard_inputs_give_sensible_fits(
    spoil: Callable[[Rows], Rows], shifted: bool, ridge: float | None
) -> None:
    dense = random_weight(7, 6, (3, 3))
    clean = spoil(patches(6, 9))
    flat = dense.reshape(7, -1)
    seen = (clean * np.float32(0.9)).astype(np.float32) if shifted else clean
    moments = moments_of(seen, clean @ flat.T if shifted else None)
    problem = LayerProblem.from_moments(dense, np.arange(7.0), moments, ridge=ridge)
    fits: list[Fit[Factors]] = list(rank_curve(problem, terms=(3, 6, 12)))
    start = fit_depthwise_pointwise(problem, [2])[0]
    fits += fit_ragged(problem, start.factors, [9])
    for fit in fits:
        assert 0 <= fit.error <= 1
        assert np.isfinite(fit.factors.dense()).all()
        assert np.isfinite(fit.bias).all()
        exact = problem.error(fit.factors.dense())
        assert fit.error == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_constant_inputs_fall_back_to_the_weights_and_the_bias_does_the_rest() -> None:
    dense, bias = random_weight(7, 6, (3, 3)), np.arange(7.0)
    rows = constant(patches(6, 9))
    fit = fit_depthwise_pointwise(LayerProblem.from_moments(dense, bias, moments_of(rows)), [2])[0]
    plain = fit_depthwise_pointwise(LayerProblem.weights_only(dense), [2])[0]
    np.testing.assert_allclose(fit.factors.dense(), plain.factors.dense())
    outputs = fit.factors.dense().reshape(7, -1) @ rows[0] + fit.bias
    np.testing.assert_allclose(outputs, dense.reshape(7, -1) @ rows[0] + bias)


def test_dead_channels_keep_what_their_weights_say() -> None:
    """The ridge makes a channel that calibration never saw fall back to its weights."""
    dense = random_weight(7, 6, (3, 3))
    problem = LayerProblem.from_moments(dense, None, moments_of(dead_channels(patches(6, 9))))
    fit = fit_depthwise_pointwise(problem, [3])[0]
    plain = fit_depthwise_pointwise(LayerProblem.weights_only(dense), [3])[0]
    ours = np.linalg.norm(fit.factors.dense()[:, ::2] - problem.weight[:, ::2])
    best = np.linalg.norm(plain.factors.dense()[:, ::2] - problem.weight[:, ::2])
    assert ours < 1.1 * best


FITS: dict[str, Callable[[LayerProblem], list[Fit[Factors]]]] = {
    "depthwise-pointwise": lambda problem: list(fit_depthwise_pointwise(problem, [1, 2])),
    "pointwise-depthwise": lambda problem: list(fit_pointwise_depthwise(problem, [1, 2])),
    "cp": lambda problem: list(fit_cp(problem, [1, 4])),
}


@pytest.mark.parametrize("form", FITS)
def test_zero_weights_are_fitted_by_zeros(form: str) -> None:
    for problem in (
        layer(5, 4, (3, 3), weight=np.zeros((5, 4, 3, 3))),
        LayerProblem.weights_only(np.zeros((5, 4, 3, 3))),
    ):
        for fit in FITS[form](problem):
            assert fit.error == 0
            np.testing.assert_array_equal(fit.factors.dense(), 0)


@pytest.mark.parametrize("form", FITS)
@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("channels", [1, 4])
def test_single_channels_work(form: str, outputs: int, channels: int) -> None:
    for fit in FITS[form](layer(outputs, channels, (3, 3))):
        assert fit.factors.dense().shape == (outputs, channels, 9)
        assert 0 <= fit.error <= 1


@pytest.mark.parametrize("form", FITS)
def test_large_layers_in_single_precision_come_out_alike(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = FITS[form](layer(12, 8, (3, 3), shifted=True))
    monkeypatch.setattr("onnxsep.factorize.metric._KEPT_IN_DOUBLE", 0)
    problem = layer(12, 8, (3, 3), shifted=True)
    assert problem.metric.precision == np.float32
    for single, reference in zip(FITS[form](problem), double, strict=True):
        assert single.error == pytest.approx(reference.error, rel=5e-3)
        assert single.error == pytest.approx(problem.error(single.factors.dense()), rel=1e-3)


def test_scaling_a_channel_and_its_weights_changes_nothing() -> None:
    dense, rows = random_weight(7, 6, (3, 3)), patches(6, 9)
    scale = np.geomspace(0.1, 10, 6)
    scaled = (rows.reshape(-1, 6, 9) * scale[:, None]).reshape(rows.shape).astype(np.float32)
    first = LayerProblem.from_moments(dense, None, moments_of(rows))
    second = LayerProblem.from_moments(dense / scale[:, None, None], None, moments_of(scaled))
    one, other = (fit_depthwise_pointwise(problem, [2])[0] for problem in (first, second))
    assert one.error == pytest.approx(other.error, rel=1e-3)


@dataclasses.dataclass(frozen=True)
class BadCase:
    id: str
    make: Callable[[], object]
    message: str


def with_moments(**changes: object) -> LayerProblem:
    moments = moments_of(patches(3, 9), patches(3, 9)[:, :4])
    changed = dataclasses.replace(moments, **changes)  # type: ignore[arg-type]
    return LayerProblem.from_moments(random_weight(4, 3, (3, 3)), None, changed)


def not_a_number() -> Moments:
    moments = moments_of(patches(3, 9))
    moments.second[2, 2] = np.nan
    return moments


BAD = [
    BadCase(
        "no kernel axis", lambda: LayerProblem.weights_only(np.ones(4)), "shape \\(N, C, \\*kernel"
    ),
    BadCase("empty", lambda: LayerProblem.weights_only(np.ones((4, 0, 3))), "empty axes"),
    BadCase(
        "weight NaN", lambda: LayerProblem.weights_only(np.full((4, 3, 3), np.nan)), "weight holds"
    ),
    BadCase(
        "bias inf",
        lambda: LayerProblem.weights_only(np.ones((4, 3, 3)), np.full(4, np.inf)),
        "bias holds",
    ),
    BadCase(
        "bias shape",
        lambda: LayerProblem.weights_only(np.ones((4, 3, 3)), np.ones(5)),
        "bias must have shape",
    ),
    BadCase("moments shape", lambda: with_moments(second=np.eye(26)), "27 x 27"),
    BadCase("moments NaN", lambda: with_moments(second=not_a_number().second), "NaN"),
    BadCase("negative variance", lambda: with_moments(second=-np.eye(27)), "negative variance"),
    BadCase("cross shape", lambda: with_moments(cross=np.ones((5, 27))), "cross moments"),
    BadCase("cross NaN", lambda: with_moments(cross=np.full((4, 27), np.nan)), "NaN"),
    BadCase(
        "ridge",
        lambda: LayerProblem.from_moments(
            random_weight(4, 3, (3, 3)), None, moments_of(patches(3, 9)), ridge=-1.0
        ),
        "ridge",
    ),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_what_cannot_be_fitted_is_named(case: BadCase) -> None:
    with pytest.raises(FactorizationError, match=case.message):
        case.make()


def test_nan_off_the_diagonal_is_no_result() -> None:
    moments = moments_of(patches(3, 9))
    moments.second[1, 20] = moments.second[20, 1] = np.nan
    with pytest.raises(FactorizationError, match="NaN"):
        LayerProblem.from_moments(random_weight(4, 3, (3, 3)), None, moments)


def test_the_ridge_grows_as_rows_become_few() -> None:
    ridges = [default_ridge(576, rows) for rows in (10, 1000, 10_000, 10_000_000)]
    assert ridges == sorted(ridges, reverse=True)
    assert ridges[-1] == DEFAULT_RIDGE
    assert 0.1 < ridges[0] < 1


def test_a_ridge_makes_few_rows_generalise_better() -> None:
    dense = random_weight(8, 6, (3, 3))
    known, unknown = patches(6, 9, rows=60, seed=3), patches(6, 9, rows=4000, seed=3)[60:]
    judge = LayerProblem.from_moments(dense, None, moments_of(unknown), ridge=0.0)
    errors = [
        judge.error(fit_depthwise_pointwise(problem, [2])[0].factors.dense())
        for problem in (
            LayerProblem.from_moments(dense, None, moments_of(known)),
            LayerProblem.from_moments(dense, None, moments_of(known), ridge=1e-6),
        )
    ]
    assert errors[0] < 0.9 * errors[1]


def test_unexplained_is_what_no_linear_layer_explains() -> None:
    rows = patches(3, 9, rows=2000)
    dense = random_weight(4, 3, (3, 3))
    noise = np.random.default_rng(0).normal(size=(2000, 4)) * 10
    wanted = rows @ dense.reshape(4, -1).T + noise
    problem = LayerProblem.from_moments(dense, None, moments_of(rows, wanted), ridge=0.0)
    centred = rows.astype(float) - rows.mean(axis=0)
    solution = np.linalg.lstsq(centred, wanted - wanted.mean(axis=0), rcond=None)[0]
    left = wanted - wanted.mean(axis=0) - centred @ solution
    share = (left**2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert problem.unexplained == pytest.approx(share, rel=1e-3)
    fit = fit_depthwise_pointwise(problem, [4])[0]
    assert fit.error == pytest.approx(share, rel=1e-3)


def test_cp_terms_of_a_dead_layer_are_zero_not_nan() -> None:
    factors = fit_cp(layer(5, 4, (3, 3), weight=np.zeros((5, 4, 3, 3))), [6])[0].factors
    assert isinstance(factors, CanonicalPolyadic)
    assert np.isfinite(factors.first).all()
    assert np.isfinite(factors.depthwise).all()
