"""Activations, and fits to the error behind them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    Activation,
    CanonicalPolyadic,
    Factors,
    Fit,
    LayerProblem,
    fit_cp,
    fit_depthwise_pointwise,
    fit_pointwise_depthwise,
    fit_ragged,
    refit_behind_activation,
)
from onnxsep.factorize.sampled_forms import Patches, sampled_form

from .layers import moments_of, patches, random_weight

ACTIVATIONS = {
    "identity": Activation.identity(),
    "relu": Activation.relu(),
    "leaky relu": Activation.leaky_relu(0.2),
    "relu6": Activation.clip(0, 6),
    "clip above": Activation.clip(high=1),
    "silu": Activation.silu(),
    "hard swish": Activation.hard_swish(),
}


def test_values_are_those_of_onnx() -> None:
    x = np.array([-8, -2, -0.5, 0, 0.5, 2, 8], np.float32)
    cases = {
        "identity": x,
        "relu": np.maximum(x, 0),
        "leaky relu": np.where(x < 0, 0.2 * x, x),
        "relu6": np.clip(x, 0, 6),
        "clip above": np.minimum(x, 1),
        "silu": x / (1 + np.exp(-x)),
        "hard swish": x * np.maximum(0, np.minimum(1, x / 6 + 0.5)),
    }
    for name, expected in cases.items():
        result = ACTIVATIONS[name].value(x)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(x=st.floats(-10, 10, width=32))
def test_slopes_are_derivatives(name: str, x: float) -> None:
    activation = ACTIVATIONS[name]
    step = 2.0**-6
    if min(abs(x - kink) for kink in (-3, 0, 1, 3, 6)) <= 2 * step:
        return
    points = np.array([x - step, x + step], np.float32)
    low, high = activation.value(points)
    slope = activation.slope(np.array([x], np.float32))[0]
    assert slope == pytest.approx((high - low) / (2 * step), abs=1e-3)


def test_softened_activations_never_lie_flat() -> None:
    x = np.linspace(-9, 9, 50, dtype=np.float32)
    for name in ("relu", "relu6", "clip above"):
        softened = ACTIVATIONS[name].softened(0.1)
        assert softened.slope(x).min() == pytest.approx(0.1)
    assert Activation.leaky_relu(0.2).softened(0.1) == Activation.leaky_relu(0.2)
    assert Activation.silu().softened(0.1) == Activation.silu()


def test_activations_that_pass_nothing_are_refused() -> None:
    with pytest.raises(FactorizationError, match="passes nothing"):
        Activation.clip(1, 1)
    with pytest.raises(FactorizationError, match="finite"):
        Activation.leaky_relu(np.nan)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with samples for the fit and fresh ones to judge it."""

    dense: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    rows: npt.NDArray[np.float32]
    fresh: npt.NDArray[np.float32]

    def targets(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        flat = self.dense.reshape(len(self.dense), -1)
        return np.asarray(rows @ flat.T + self.bias, dtype=np.float32)

    def problem(self) -> LayerProblem:
        return LayerProblem.from_moments(self.dense, self.bias, moments_of(self.rows))

    def error(
        self, factors: Factors, bias: npt.NDArray[np.float64], activation: Activation
    ) -> float:
        wanted = activation.value(self.targets(self.fresh))
        made = self.fresh @ factors.dense().reshape(len(bias), -1).T + bias
        difference = activation.value(made.astype(np.float32)) - wanted
        return float((difference**2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())


@pytest.fixture(scope="module")
def relu_layer() -> Layer:
    # One stream of samples: what comes later is new, but of the same kind; rectified, as inputs
    # behind a Relu are (for normal ones the best fit is the linear one, scaled).
    stream = np.maximum(patches(6, 9, rows=12000, seed=2) - np.float32(0.7), 0)
    dense = random_weight(10, 6, (3, 3)) / 8
    flat = dense.reshape(10, -1)
    bias = -(stream @ flat.T).mean(axis=0) - 0.3
    return Layer(dense, bias, stream[:8000], stream[8000:])


@pytest.fixture(scope="module")
def starts(relu_layer: Layer) -> dict[str, tuple[Factors, npt.NDArray[np.float64]]]:
    problem = relu_layer.problem()
    uniform = fit_depthwise_pointwise(problem, (1, 2))
    fits: dict[str, Fit[Factors]] = {
        "depthwise-pointwise": uniform[0],
        "ragged": fit_ragged(problem, uniform[1].factors, [8])[0],
        "pointwise-depthwise": fit_pointwise_depthwise(problem, [1])[0],
        "cp": fit_cp(problem, [5])[0],
    }
    return {name: (fit.factors, fit.bias) for name, fit in fits.items()}


@pytest.mark.parametrize("form", ["depthwise-pointwise", "ragged", "pointwise-depthwise", "cp"])
def test_the_error_behind_a_relu_falls_on_new_samples(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], form: str
) -> None:
    factors, bias = starts[form]
    relu = Activation.relu()
    fit = refit_behind_activation(
        factors, bias, relu_layer.rows, relu_layer.targets(relu_layer.rows), relu
    )
    assert type(fit.factors) is type(factors)
    assert fit.factors.parameters == factors.parameters
    before = relu_layer.error(factors, bias, relu)
    after = relu_layer.error(fit.factors, fit.bias, relu)
    assert after < 0.9 * before
    # Rows kept out of the fit tell the truth about rows never seen.
    assert fit.error == pytest.approx(after, rel=0.15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_activation_makes_it_worse(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], name: str
) -> None:
    factors, bias = starts["depthwise-pointwise"]
    activation = ACTIVATIONS[name]
    fit = refit_behind_activation(
        factors, bias, relu_layer.rows, relu_layer.targets(relu_layer.rows), activation
    )
    assert fit.error <= fit.error_before
    before = relu_layer.error(factors, bias, activation)
    assert relu_layer.error(fit.factors, fit.bias, activation) < 1.01 * before


def test_a_shortcut_counts(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]]
) -> None:
    """With an offset that lifts everything above zero the activation has no say any more."""
    factors, bias = starts["depthwise-pointwise"]
    targets = relu_layer.targets(relu_layer.rows)
    offsets = np.full_like(targets, 100)
    lifted = refit_behind_activation(
        factors, bias, relu_layer.rows, targets + offsets, Activation.relu(), offsets=offsets
    )
    linear = refit_behind_activation(factors, bias, relu_layer.rows, targets, Activation.identity())
    assert lifted.error == pytest.approx(linear.error, rel=1e-2)


def test_what_cannot_be_bettered_comes_back_as_it_was(relu_layer: Layer) -> None:
    problem = relu_layer.problem()
    exact = fit_depthwise_pointwise(problem, [9])[0]
    fit = refit_behind_activation(
        exact.factors,
        exact.bias,
        relu_layer.rows,
        relu_layer.targets(relu_layer.rows),
        Activation.relu(),
    )
    assert fit.error <= fit.error_before <= 1e-6


@pytest.mark.parametrize("count", [24, 25, 30, 35, 36, 47, 48])
def test_few_rows_are_enough_to_keep_some_out(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], count: int
) -> None:
    factors, bias = starts["depthwise-pointwise"]
    rows = relu_layer.rows[:count]
    fit = refit_behind_activation(
        factors, bias, rows, relu_layer.targets(rows), Activation.relu(), leak=0.0
    )
    assert 0 < fit.error <= fit.error_before < np.inf


def test_refits_are_deterministic(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]]
) -> None:
    factors, bias = starts["cp"]
    assert isinstance(factors, CanonicalPolyadic)
    targets = relu_layer.targets(relu_layer.rows)
    first, second = (
        refit_behind_activation(factors, bias, relu_layer.rows, targets, Activation.relu())
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.factors.dense(), second.factors.dense())


@pytest.mark.parametrize("form", ["depthwise-pointwise", "ragged", "pointwise-depthwise", "cp"])
def test_gradients_are_those_of_the_outputs(
    relu_layer: Layer, starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], form: str
) -> None:
    rows = relu_layer.rows[:200].reshape(200, 6, 9)
    samples = Patches(rows, rows.mean(axis=0, dtype=np.float64))
    searched = sampled_form(starts[form][0])
    point = searched.pack()
    np.testing.assert_array_equal(searched.unpack(point).dense(), starts[form][0].dense())
    random = np.random.default_rng(0)
    error = random.normal(size=(200, 10)).astype(np.float32)
    direction = random.normal(size=point.shape)
    if form == "ragged":  # Filters that are not in use stay at zero.
        direction[point == 0] = 0
    direction /= np.linalg.norm(direction)
    searched.outputs(point, samples)
    expected = float(searched.gradient(error, samples) @ direction)
    step = 1e-2
    ahead = np.vdot(error, searched.outputs(point + step * direction, samples))
    behind = np.vdot(error, searched.outputs(point - step * direction, samples))
    assert expected == pytest.approx((ahead - behind) / (2 * step), rel=2e-2, abs=2e-2)


@dataclasses.dataclass(frozen=True)
class BadCase:
    id: str
    rows: tuple[int, int]
    targets: tuple[int, int]
    bias: int
    message: str


BAD = [
    BadCase("patches", (40, 53), (40, 10), 10, r"patches must have shape \(rows, 54\)"),
    BadCase("few rows", (11, 54), (11, 10), 10, "24 rows and more"),
    BadCase("targets", (40, 54), (39, 10), 10, "targets must have shape"),
    BadCase("bias", (40, 54), (40, 10), 9, "bias must have shape"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_shapes_are_checked(
    starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], case: BadCase
) -> None:
    with pytest.raises(FactorizationError, match=case.message):
        refit_behind_activation(
            starts["depthwise-pointwise"][0],
            np.zeros(case.bias),
            np.zeros(case.rows, np.float32),
            np.zeros(case.targets, np.float32),
            Activation.relu(),
        )


@pytest.mark.parametrize("which", ["patches", "targets", "offsets"])
def test_nan_is_named(
    starts: dict[str, tuple[Factors, npt.NDArray[np.float64]]], which: str
) -> None:
    arrays = {
        "patches": np.zeros((40, 54), np.float32),
        "targets": np.zeros((40, 10), np.float32),
        "offsets": np.zeros((40, 10), np.float32),
    }
    arrays[which][3, 3] = np.nan
    factors, bias = starts["depthwise-pointwise"]
    with pytest.raises(FactorizationError, match=f"{which} hold NaN"):
        refit_behind_activation(
            factors,
            bias,
            arrays["patches"],
            arrays["targets"],
            Activation.relu(),
            offsets=arrays["offsets"],
        )
