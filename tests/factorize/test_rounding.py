"""Noise between the convolutions of a form: its gain against a simulation, and fits with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    LayerProblem,
    MomentAccumulator,
    RaggedDepthwisePointwise,
    fit_cp,
    fit_depthwise_pointwise,
    fit_pointwise_depthwise,
    rounding_gain,
)

ROWS, OUTPUTS, CHANNELS, POSITIONS = 40_000, 7, 6, 9
NOISE = 0.01


def rows_of(seed: int) -> np.ndarray:
    """Patches (rows, C, K) whose positions vary alike, as those of an image do."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(CHANNELS, CHANNELS))
    places = np.eye(POSITIONS) + 0.7
    rows = random.normal(size=(ROWS, CHANNELS, POSITIONS))
    return np.asarray((mixing @ rows @ places).astype(np.float32))


def problem_of(rows: np.ndarray, seed: int = 5) -> LayerProblem:
    moments = MomentAccumulator(CHANNELS * POSITIONS)
    moments.update(rows.reshape(len(rows), -1))
    weight = np.random.default_rng(seed).normal(size=(OUTPUTS, CHANNELS, 3, 3))
    return LayerProblem.from_moments(weight, None, moments.result(), ridge=0.0)


def noisy_outputs(factors: Factors, rows: np.ndarray, noise: float) -> np.ndarray:
    """Outputs (rows, N) with white noise in every channel of every result in between."""
    random = np.random.default_rng(9)
    last = factors.stages()[-1]
    if last.spatial:
        # Noise at each of the positions that the last convolution covers.
        pointwise = factors.stages()[0].weight[:, :, 0]
        between = np.einsum("mc,rck->rmk", pointwise, rows)
        deviation = np.sqrt(noise * between.var(axis=0).mean(axis=1))
        between += deviation[:, None] * random.normal(size=between.shape)
        grouped = between.reshape(len(rows), OUTPUTS, -1, POSITIONS)
        return np.asarray(np.einsum("ngk,rngk->rn", last.weight, grouped))
    if isinstance(factors, CanonicalPolyadic):
        between = np.einsum("mc,rck->rmk", factors.first, rows)
        deviation = np.sqrt(noise * between.var(axis=0).mean(axis=1))
        exact = np.einsum("mk,rmk->rm", factors.depthwise, between)
        between += deviation[:, None] * random.normal(size=between.shape)
        features = np.einsum("mk,rmk->rm", factors.depthwise, between)
        deviation = np.sqrt(noise * exact.var(axis=0))
    else:
        assert isinstance(factors, DepthwisePointwise)
        features = np.einsum("ctk,rck->rct", factors.depthwise, rows).reshape(len(rows), -1)
        deviation = np.sqrt(noise * features.var(axis=0))
    features += deviation * random.normal(size=features.shape)
    return np.asarray(features @ last.weight[:, :, 0].T)


def fits(problem: LayerProblem) -> list[Factors]:
    return [
        fit_depthwise_pointwise(problem, [2])[0].factors,
        fit_pointwise_depthwise(problem, [2])[0].factors,
        fit_cp(problem, [9])[0].factors,
    ]


@pytest.mark.parametrize("form", range(3), ids=["depthwise-pointwise", "pointwise-depthwise", "cp"])
def test_gain_is_that_of_a_simulation(form: int) -> None:
    rows = rows_of(3)
    problem = problem_of(rows)
    factors = fits(problem)[form]
    clean = rows.reshape(len(rows), -1) @ factors.dense().reshape(OUTPUTS, -1).T
    noise = noisy_outputs(factors, rows, NOISE) - clean
    wanted = rows.reshape(len(rows), -1) @ problem.weight.reshape(OUTPUTS, -1).T
    measured = (noise**2).mean(axis=0).sum() / wanted.var(axis=0).sum()
    assert rounding_gain(problem, factors) * NOISE == pytest.approx(measured, rel=0.03)


def test_a_fit_that_heeds_the_noise_has_less_of_both_together() -> None:
    problem = problem_of(rows_of(4))
    for terms in (6, 12, 20):
        exact = fit_cp(problem, [terms])[0]
        steady = fit_cp(problem, [terms], rounding=NOISE)[0]
        gains = [rounding_gain(problem, fit.factors) for fit in (exact, steady)]
        assert gains[1] < gains[0]
        assert steady.error + NOISE * gains[1] < exact.error + NOISE * gains[0]
        assert steady.error >= exact.error * 0.999


def test_scales_between_the_convolutions_change_nothing() -> None:
    problem = problem_of(rows_of(5))
    (fit,) = fit_cp(problem, [8])
    scales = np.random.default_rng(1).uniform(0.1, 10, (8, 1))
    scaled = dataclasses.replace(
        fit.factors,
        first=fit.factors.first * scales,
        last=fit.factors.last / scales.T,
    )
    expected = rounding_gain(problem, fit.factors)
    assert rounding_gain(problem, scaled) == pytest.approx(expected, rel=1e-9)


def test_what_has_no_gain_is_refused() -> None:
    problem = problem_of(rows_of(6))
    with pytest.raises(FactorizationError, match="power of 0 or more"):
        fit_cp(problem, [4], rounding=-1e-3)
    ragged = RaggedDepthwisePointwise(
        np.zeros(1, np.int64), np.ones((1, POSITIONS)), np.ones((OUTPUTS, 1)), CHANNELS
    )
    with pytest.raises(FactorizationError, match="RaggedDepthwisePointwise"):
        rounding_gain(problem, ragged)
