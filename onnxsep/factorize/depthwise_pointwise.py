"""Fit of depthwise→pointwise: W[:, c, :] ≈ P_c A_c with r filters A_c for every input channel.

Variable projection (Golub and Pereyra, 1973): for given filters A the pointwise factor is a linear
least-squares solution, P = T Aᵀ (A S Aᵀ)⁻¹ with T = W* S, so that only the filters are searched,
with L-BFGS and the exact gradient 2 [(PᵀP)(A S) − PᵀT] at the K non-zeros of every row of A. The
filters are searched in coordinates in which each channel's K × K block of S is the identity, and
preconditioned by each channel's r × r block of PᵀP, together the Hessian of a channel alone. The
start is the singular value decomposition of each W*[:, c, :] in those coordinates; from one rank to
the next it is the best filters so far and those that what is left of each W*[:, c, :] asks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import DepthwisePointwise
from onnxsep.factorize.linear_algebra import batched_cholesky, cholesky, cholesky_solve
from onnxsep.factorize.minimize import SearchLimits, default_limits, minimize
from onnxsep.factorize.problem import LayerProblem
from onnxsep.factorize.ranks import checked_ranks

Array = npt.NDArray[np.float64]

# Added to the curvature that scales the steps, relative to the term's own and to the strongest's,
# lest steps along weak terms, or along a mixture that hardly matters, explode.
_STIFFNESS = 1e-3
_LEAST_GRAM = 1e-6


def fit_depthwise_pointwise(
    problem: LayerProblem,
    ranks: Sequence[int] = (1, 2, 3, 4),
    *,
    limits: SearchLimits | None = None,
) -> list[Fit[DepthwisePointwise]]:
    """Fit depthwise→pointwise at several ranks, each started from the one before.

    Args:
        problem: The layer.
        ranks: Filters per channel, any order; those above min(N, K), where the form is exact, are
            fitted as min(N, K).
        limits: When the search at one rank ends.

    Returns:
        One `Fit` per different rank, in ascending order; the error never rises. Filters have unit
        norm; those of a channel are uncorrelated on the data and come strongest first.

    Raises:
        FactorizationError: There is no rank, or one below 1.
    """
    wanted = checked_ranks(ranks, min(problem.outputs, problem.positions))
    search = FilterSearch(problem, limits or default_limits(problem.metric.features))
    return [search.at_rank(rank) for rank in wanted]


@dataclasses.dataclass(frozen=True, eq=False)
class ProjectedFilters:
    """Filters (C, r, K) with the pointwise factor (C * r, N) that suits them best."""

    filters: Array
    pointwise: Array
    squared_error: float
    gram: Array


class FilterSearch:
    """The search for filters, and the state that passes from one rank to the next."""

    def __init__(self, problem: LayerProblem, limits: SearchLimits) -> None:
        self.problem = problem
        self.limits = limits
        # Rows of A times `colour` are coordinates in which every channel's block is the identity.
        self.colour = batched_cholesky(problem.metric.blocks())
        self.white = np.asarray(np.linalg.inv(self.colour), dtype=np.float64)
        by_channel = problem.correlation.reshape(problem.weight.shape).transpose(1, 0, 2)
        self.correlation = np.ascontiguousarray(by_channel)
        self.best: ProjectedFilters | None = None
        # (C, r) filters in use; None for all of them.
        self.active: npt.NDArray[np.bool_] | None = None

    def at_rank(self, rank: int) -> Fit[DepthwisePointwise]:
        """Fit at ``rank``, above any rank before."""
        problem = self.problem
        iterations = 0
        exact = rank == min(problem.outputs, problem.positions)
        if exact or problem.metric.is_identity or problem.output_variance <= 0:
            self.best = self._closed(rank)
        else:
            # Never above the fit to the weights alone, on any data.
            plain = np.linalg.svd(problem.weight.transpose(1, 0, 2), full_matrices=False)[2]
            starts = [self.project(start)[0] for start in (self._extended(rank), plain[:, :rank])]
            self.best = min(starts, key=lambda projected: projected.squared_error)
            iterations = self.search(self.best)
        factors = self.canonical(self.best)
        dense = factors.dense()
        # The error of a closed form is a difference of large numbers unless taken from scratch.
        error = problem.relative(self.best.squared_error) if iterations else problem.error(dense)
        return Fit(factors, problem.fitted_bias(dense), error, iterations)

    def search(self, start: ProjectedFilters) -> int:
        """Search from ``start``; leaves the best filters and their pointwise factor."""
        objective = _Objective(self, start)
        steps = minimize(objective, (start.filters @ self.colour).ravel(), self.limits)
        self.best = objective.best
        return steps

    def project(self, filters: Array, *, gradient: bool = False) -> tuple[ProjectedFilters, Array]:
        """Solve the pointwise factor for these filters; on demand the gradient for them, too."""
        problem = self.problem
        channels, rank, positions = filters.shape
        terms = channels * rank
        filtered = problem.metric.filtered(filters).reshape(terms, channels, positions)
        by_channel = filtered.transpose(1, 0, 2)
        matching = filters.astype(filtered.dtype, copy=False)
        normal = np.matmul(matching, by_channel.transpose(0, 2, 1)).reshape(terms, terms)
        right = np.matmul(filters, self.correlation.transpose(0, 2, 1)).reshape(terms, -1)
        pointwise = self._pointwise(normal, right)
        error = problem.output_variance - float(np.vdot(pointwise, right))
        gram = np.zeros((0, 0, 0))
        slope = np.zeros((0, 0, 0))
        if gradient:
            gram = (pointwise @ pointwise.T).reshape(channels, rank, terms)
            slope = np.matmul(gram.astype(filtered.dtype, copy=False), by_channel)
            slope = slope.astype(np.float64)
            slope -= np.matmul(pointwise.reshape(channels, rank, -1), self.correlation)
        return ProjectedFilters(filters, pointwise, error, gram), 2 * slope

    def _pointwise(self, normal: npt.NDArray[np.floating], right: Array) -> Array:
        """The least-squares solution (C * r, N), zero for filters not in use."""
        if self.active is None:
            return cholesky_solve(cholesky(normal), right)
        chosen = np.flatnonzero(self.active)
        pointwise = np.zeros_like(right)
        part = normal[np.ix_(chosen, chosen)]
        pointwise[chosen] = cholesky_solve(cholesky(part), right[chosen])
        return pointwise

    def _closed(self, rank: int) -> ProjectedFilters:
        """Singular value decomposition of the target: the answer where no channel sees another."""
        target = self.problem.target
        filters = _leading(target, rank, self.colour, self.white)
        # The rows are orthonormal in each channel's metric, so that projecting is multiplying.
        dual = np.matmul(filters, self.colour @ self.colour.transpose(0, 2, 1))
        pointwise = np.matmul(dual, target.transpose(1, 2, 0)).reshape(-1, self.problem.outputs)
        return ProjectedFilters(filters, pointwise, 0.0, np.zeros((0, 0, 0)))

    def _extended(self, rank: int) -> Array:
        """The filters so far, and for every channel those that the remaining error asks for."""
        target = self.problem.target
        if self.best is None:
            return _leading(target, rank, self.colour, self.white)
        so_far = self.best.filters
        missing = rank - so_far.shape[1]
        residual = target - self._factors(self.best).dense()
        extra = _leading(residual, missing, self.colour, self.white)
        return np.concatenate([so_far, extra], axis=1)

    def _factors(self, projected: ProjectedFilters) -> DepthwisePointwise:
        channels, rank, _ = projected.filters.shape
        pointwise = projected.pointwise.T.reshape(-1, channels, rank)
        return DepthwisePointwise(projected.filters, pointwise)

    def _terms(self, projected: ProjectedFilters) -> tuple[Array, Array, Array]:
        """The singular value decomposition of every channel's part in whitened coordinates.

        Returns:
            Strengths (C, r), right vectors (C, r, K) and left vectors (C, N, r). Two r × r steps
            replace the N × K one.
        """
        channels, rank, _ = projected.filters.shape
        pointwise = projected.pointwise.reshape(channels, rank, -1)
        rows = projected.filters @ self.colour
        directions, triangle = np.linalg.qr(rows.transpose(0, 2, 1))
        mixed = np.matmul(pointwise.transpose(0, 2, 1), triangle.transpose(0, 2, 1))
        left, strength, right = np.linalg.svd(mixed, full_matrices=False)
        return strength, np.matmul(right, directions.transpose(0, 2, 1)), left

    def canonical(self, projected: ProjectedFilters) -> DepthwisePointwise:
        """The same layer: a channel's terms uncorrelated, strongest first, with unit filters."""
        strength, rows, left = self._terms(projected)
        filters = rows @ self.white
        norms = np.linalg.norm(filters, axis=2)
        norms[norms == 0] = 1.0
        columns = left * (strength * norms)[:, None, :]
        # Of the two signs of a term, the one with the larger sum of filter taps above zero.
        signs = np.where(filters.sum(axis=2) < 0, -1.0, 1.0)
        return DepthwisePointwise(
            filters * (signs / norms)[:, :, None],
            np.ascontiguousarray((columns * signs[:, None, :]).transpose(1, 0, 2)),
        )


class _Objective:
    """The error as a function of the whitened filters, flattened."""

    def __init__(self, search: FilterSearch, start: ProjectedFilters) -> None:
        self.search = search
        self.best = start
        self._shape = start.filters.shape
        self._last = start

    def evaluate(self, point: Array) -> tuple[float, Array]:
        """Relative error and gradient at a point."""
        search = self.search
        filters = point.reshape(self._shape) @ search.white
        self._last, slope = search.project(filters, gradient=True)
        if self._last.squared_error < self.best.squared_error:
            self.best = self._last
        slope = slope @ search.white.transpose(0, 2, 1)
        unit = search.problem.output_variance
        return self._last.squared_error / unit, slope.ravel() / unit

    def precondition(self, gradient: Array) -> Array:
        """Divide by the Hessian of every channel alone for a fixed pointwise factor."""
        channels, rank, _ = self._shape
        gram = self._last.gram.reshape(channels, rank, channels, rank)
        index = np.arange(channels)
        own = gram[index, :, index, :].copy()
        diagonal = np.einsum("cii->ci", own)
        diagonal += _STIFFNESS * diagonal + _LEAST_GRAM * diagonal.max()
        unit = 2 / self.search.problem.output_variance
        solved = np.linalg.solve(own * unit, gradient.reshape(self._shape))
        return np.asarray(solved, dtype=np.float64).ravel()


def _leading(dense: Array, rank: int, colour: Array, white: Array) -> Array:
    """Filters (C, r, K) of the best rank-r terms of each channel alone, for dense (N, C, K)."""
    rows = np.linalg.svd(np.matmul(dense.transpose(1, 0, 2), colour), full_matrices=False)[2]
    leading: Array = np.matmul(rows[:, :rank], white)
    return leading
