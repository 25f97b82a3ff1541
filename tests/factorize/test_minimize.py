"""The search itself, on functions whose minimum is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnxsep.factorize.minimize import SearchLimits, default_limits, minimize

Array = npt.NDArray[np.float64]

PATIENT = SearchLimits(improvement=0.0, iterations=500, floor=1e-14)


class Quadratic:
    """Half a quadratic form with curvatures from 1 to 10,000."""

    def __init__(self, *, preconditioned: bool) -> None:
        self.curvature = np.geomspace(1, 1e4, 30)
        self.preconditioned = preconditioned
        self.best = np.inf

    def evaluate(self, point: Array) -> tuple[float, Array]:
        value = 0.5 * float(point @ (self.curvature * point))
        self.best = min(self.best, value)
        return value, self.curvature * point

    def precondition(self, gradient: Array) -> Array:
        return gradient / self.curvature if self.preconditioned else gradient.copy()


class Rosenbrock:
    """The banana-shaped valley; the preconditioner says nothing."""

    def __init__(self) -> None:
        self.best = np.inf

    def evaluate(self, point: Array) -> tuple[float, Array]:
        x, y = point
        value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        self.best = min(self.best, value)
        return value, np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])

    def precondition(self, gradient: Array) -> Array:
        return gradient.copy()


class Flat:
    """Nothing to gain anywhere."""

    def evaluate(self, point: Array) -> tuple[float, Array]:
        return 1.0, np.zeros_like(point)

    def precondition(self, gradient: Array) -> Array:
        return gradient.copy()


class Wall:
    """Infinite but near the start, where the first steps of a search often end."""

    def __init__(self) -> None:
        self.best = np.inf

    def evaluate(self, point: Array) -> tuple[float, Array]:
        if np.abs(point).max() > 1.5:
            return np.inf, np.full_like(point, np.nan)
        value = float(point @ point)
        self.best = min(self.best, value)
        return value, 2 * point

    def precondition(self, gradient: Array) -> Array:
        return 100 * gradient


def test_exact_curvature_needs_one_step() -> None:
    objective = Quadratic(preconditioned=True)
    assert minimize(objective, np.ones(30), PATIENT) <= 2
    assert objective.best <= 1e-14


@pytest.mark.parametrize(
    "objective", [Quadratic(preconditioned=False), Rosenbrock(), Wall()], ids=lambda o: type(o)
)
def test_minima_are_found_without_help(objective: Quadratic | Rosenbrock | Wall) -> None:
    start = np.ones(30) if isinstance(objective, Quadratic) else np.array([-1.2, 1.0])
    minimize(objective, start, PATIENT)
    assert objective.best <= 1e-7


def test_nothing_to_gain_ends_at_once() -> None:
    assert minimize(Flat(), np.ones(3), PATIENT) == 0


def test_little_gain_ends_the_search() -> None:
    many = minimize(Quadratic(preconditioned=False), np.ones(30), PATIENT)
    few = minimize(
        Quadratic(preconditioned=False), np.ones(30), SearchLimits(improvement=0.5, patience=2)
    )
    assert few < many


def test_iterations_are_bounded() -> None:
    limits = SearchLimits(improvement=0.0, iterations=3)
    assert minimize(Rosenbrock(), np.array([-1.2, 1.0]), limits) == 3


def test_large_layers_get_less_patience() -> None:
    assert default_limits(512 * 9).iterations < default_limits(64 * 9).iterations
