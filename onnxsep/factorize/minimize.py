"""L-BFGS with a preconditioner that follows the search, and with the stopping rule of the fits.

Library routines take a fixed scaling of the unknowns at best. In these problems the curvature of a
term changes with the strength of its least-squares factor, and knowing it at every step saves half
of the steps and more.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Pairs of steps remembered; more only slow the preconditioner's news down.
_MEMORY = 8
# Sufficient decrease (Armijo), and how far one failed trial may shorten the step.
_SUFFICIENT = 1e-4
_SHORTEST = 0.1
_LONGEST = 0.5
_TRIALS = 12
# Pairs of less relative curvature than this say nothing about the Hessian.
_LEAST_CURVATURE = 1e-10


@dataclasses.dataclass(frozen=True)
class SearchLimits:
    """When a search ends.

    Attributes:
        improvement: It ends once ``patience`` steps together lower the error by less than this
            share of it.
        patience: Steps over which the improvement is judged.
        iterations: Most steps.
        floor: It ends once the error, relative to the output variance, is below this.
    """

    improvement: float = 1e-3
    patience: int = 8
    iterations: int = 300
    floor: float = 1e-10


THOROUGH = SearchLimits(improvement=1e-4, iterations=3000)
"""Limits for a last fit that may take five times as long for the last two per cent."""

# Layers of more features than this are searched with _LARGE: a step takes seconds, and the last
# percent is not worth a minute.
_LARGE_FEATURES = 2048
_LARGE = SearchLimits(improvement=2e-3, iterations=32)


def default_limits(features: int) -> SearchLimits:
    """Limits for a layer of this many features, C * K."""
    return SearchLimits() if features <= _LARGE_FEATURES else _LARGE


class Objective(Protocol):
    """What is minimised. It keeps whatever it needs of the best point: that is the result."""

    def evaluate(self, point: Array) -> tuple[float, Array]:
        """Relative error and gradient at a point."""

    def precondition(self, gradient: Array) -> Array:
        """An approximate inverse Hessian, at the point evaluated last, times ``gradient``."""


def minimize(objective: Objective, start: Array, limits: SearchLimits) -> int:
    """Minimise by L-BFGS (Liu and Nocedal, 1989) with a backtracking line search.

    Args:
        objective: Gives value, gradient and preconditioner; remembers the best point.
        start: (n,) the first point.
        limits: When to stop.

    Returns:
        The steps taken.
    """
    point = start
    value, gradient = objective.evaluate(point)
    history = [value]
    pairs: deque[tuple[Array, Array, float]] = deque(maxlen=_MEMORY)
    for step in range(limits.iterations):
        if value < limits.floor:
            return step
        direction = _direction(objective, gradient, pairs)
        slope = float(gradient @ direction)
        if slope >= 0:  # Rounding has spoiled the memory.
            pairs.clear()
            direction = -objective.precondition(gradient)
            slope = float(gradient @ direction)
            if slope >= 0:
                return step
        length = 1.0
        for _ in range(_TRIALS):
            next_point = point + length * direction
            next_value, next_gradient = objective.evaluate(next_point)
            if next_value <= value + _SUFFICIENT * length * slope:
                break
            excess = next_value - value - length * slope
            # Minimum of the parabola through both values with the slope at the start.
            best = -0.5 * slope * length**2 / excess if np.isfinite(excess) else 0.0
            length = min(max(best, _SHORTEST * length), _LONGEST * length)
        else:
            return step
        move, change = next_point - point, next_gradient - gradient
        curvature = float(move @ change)
        if curvature > _LEAST_CURVATURE * float(np.linalg.norm(move) * np.linalg.norm(change)):
            pairs.append((move, change, curvature))
        point, value, gradient = next_point, next_value, next_gradient
        history.append(value)
        if len(history) > limits.patience:
            before = history[-1 - limits.patience]
            if before - value < limits.improvement * value:
                return step + 1
    return limits.iterations


def _direction(
    objective: Objective, gradient: Array, pairs: deque[tuple[Array, Array, float]]
) -> Array:
    """The two loops of L-BFGS around the preconditioner, which is scaled to fit the last pair."""
    scale = 1.0
    if pairs:
        _, change, curvature = pairs[-1]
        expected = float(change @ objective.precondition(change))
        scale = curvature / expected if expected > 0 else 1.0
    rest = gradient.copy()
    weights: list[float] = []
    for move, change, curvature in reversed(pairs):
        weights.append(float(move @ rest) / curvature)
        rest -= weights[-1] * change
    result = objective.precondition(rest) * scale
    for (move, change, curvature), weight in zip(pairs, reversed(weights), strict=True):
        result += (weight - float(change @ result) / curvature) * move
    return -result
