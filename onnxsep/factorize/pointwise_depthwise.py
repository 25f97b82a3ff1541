"""Fit of pointwise→depthwise: for every output channel W[n] ≈ Σ_t p_nt ⊗ d_nt, a C × K matrix.

No factor is shared between output channels, so each is a small problem of its own; they are solved
side by side. For given filters the pointwise rows are linear least-squares solutions, so only the
filters are searched (variable projection, Golub and Pereyra, 1973), with L-BFGS, preconditioned
by the Hessian for fixed pointwise rows. The start is the singular value
decomposition of each W*[n] in a Kronecker approximation of the metric.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import PointwiseDepthwise
from onnxsep.factorize.linear_algebra import batched_cholesky, batched_solve
from onnxsep.factorize.minimize import SearchLimits, default_limits, minimize
from onnxsep.factorize.problem import LayerProblem
from onnxsep.factorize.ranks import checked_ranks

Array = npt.NDArray[np.float64]

# Numbers in the normal matrices of the output channels that are solved side by side (64 MB).
_NUMBERS_AT_ONCE = 1 << 23


def fit_pointwise_depthwise(
    problem: LayerProblem,
    ranks: Sequence[int] = (1, 2),
    *,
    limits: SearchLimits | None = None,
) -> list[Fit[PointwiseDepthwise]]:
    """Fit pointwise→depthwise at several ranks, each started from the one before.

    Args:
        problem: The layer.
        ranks: Intermediate channels per output channel, any order; those above min(C, K), where
            the form is exact, are fitted as min(C, K).
        limits: When the search at one rank ends.

    Returns:
        One `Fit` per different rank, in ascending order; the error never rises. Filters have unit
        norm and come strongest first.

    Raises:
        FactorizationError: There is no rank, or one below 1.
    """
    wanted = checked_ranks(ranks, min(problem.channels, problem.positions))
    search = _Search(problem, limits or default_limits(problem.metric.features))
    return [search.at_rank(rank) for rank in wanted]


@dataclasses.dataclass(frozen=True, eq=False)
class _Projected:
    """Filters (B, r, K) of a block of outputs with the rows (B, r, C) that suit them best."""

    filters: Array
    rows: Array
    squared_error: float


class _Search:
    """The state that passes from one rank to the next."""

    def __init__(self, problem: LayerProblem, limits: SearchLimits) -> None:
        self.problem = problem
        self.limits = limits
        channel_metric, position_metric = problem.metric.kronecker()
        self.channel_colour = batched_cholesky(channel_metric[None])[0]
        self.position_colour = batched_cholesky(position_metric[None])[0]
        self.position_white = np.asarray(np.linalg.inv(self.position_colour), dtype=np.float64)
        self.correlation = problem.correlation.reshape(problem.weight.shape)
        # Row = pair of positions, column = pair of channels: what both sides contract with.
        self.pairs = problem.metric.by_positions()
        self.filters = np.zeros((problem.outputs, 0, problem.positions))
        self.rows = np.zeros((problem.outputs, 0, problem.channels))

    def at_rank(self, rank: int) -> Fit[PointwiseDepthwise]:
        """Fit at ``rank``, above any rank before."""
        problem = self.problem
        exact = rank == min(problem.channels, problem.positions)
        iterations = 0
        if exact or problem.metric.is_identity or problem.output_variance <= 0:
            self.filters, self.rows = self._closed(rank)
        else:
            # Never above the fit to the weights alone, on any data.
            plain = np.linalg.svd(problem.weight, full_matrices=False)[2]
            iterations = self._search([self._extended(rank), plain[:, :rank]])
        factors = self._canonical()
        dense = factors.dense()
        return Fit(factors, problem.fitted_bias(dense), problem.error(dense), iterations)

    def _search(self, starts: Sequence[Array]) -> int:
        """Search from the best of several filters (N, r, K); leaves filters and rows."""
        rank = starts[0].shape[1]
        step = max(1, _NUMBERS_AT_ONCE // (rank * self.problem.channels) ** 2)
        parts: list[_Projected] = []
        iterations = 0
        for first in range(0, self.problem.outputs, step):
            block = _Block(self, slice(first, first + step))
            start = block.best_of([filters[block.outputs] for filters in starts])
            best, steps = block.search(start, self.limits)
            iterations = max(iterations, steps)
            parts.append(best)
        self.filters = np.concatenate([part.filters for part in parts])
        self.rows = np.concatenate([part.rows for part in parts])
        return iterations

    def _closed(self, rank: int) -> tuple[Array, Array]:
        """Singular value decomposition of the target: filters (N, r, K) and rows (N, r, C)."""
        filters = self._leading(self.problem.target, rank)
        dual = filters @ self.position_colour @ self.position_colour.T
        return filters, np.matmul(dual, self.problem.target.transpose(0, 2, 1))

    def _extended(self, rank: int) -> Array:
        """The filters so far, and for every output those that the remaining error asks for."""
        residual = self.problem.target - PointwiseDepthwise(self.rows, self.filters).dense()
        extra = self._leading(residual, rank - self.filters.shape[1])
        return np.concatenate([self.filters, extra], axis=1)

    def _leading(self, dense: Array, rank: int) -> Array:
        """Filters (N, r, K) of the best rank-r terms of each output under the Kronecker metric."""
        whitened = self.channel_colour.T @ dense @ self.position_colour
        rows = np.linalg.svd(whitened, full_matrices=False)[2]
        return np.asarray(rows[:, :rank] @ self.position_white, dtype=np.float64)

    def _canonical(self) -> PointwiseDepthwise:
        """The same layer, an output's terms orthogonal in the Kronecker metric, unit filters."""
        rows = self.rows @ self.channel_colour
        filters = self.filters @ self.position_colour
        row_directions, row_triangle = np.linalg.qr(rows.transpose(0, 2, 1))
        directions, triangle = np.linalg.qr(filters.transpose(0, 2, 1))
        mixed = row_triangle @ triangle.transpose(0, 2, 1)
        left, strength, right = np.linalg.svd(mixed, full_matrices=False)
        rows = (row_directions @ left).transpose(0, 2, 1) * strength[:, :, None]
        rows = np.linalg.solve(self.channel_colour.T, rows.transpose(0, 2, 1)).transpose(0, 2, 1)
        filters = right @ directions.transpose(0, 2, 1) @ self.position_white
        norms = np.linalg.norm(filters, axis=2, keepdims=True)
        norms[norms == 0] = 1.0
        signs = np.where(filters.sum(axis=2, keepdims=True) < 0, -1.0, 1.0)
        return PointwiseDepthwise(
            np.ascontiguousarray(rows * norms * signs), filters * signs / norms
        )


class _Block:
    """Some output channels, searched together; their errors simply add up."""

    def __init__(self, search: _Search, outputs: slice) -> None:
        self.outputs = outputs
        self.pairs = search.pairs
        self.correlation = search.correlation[outputs]
        self.channels = search.problem.channels
        self.positions = search.problem.positions
        target = search.problem.target[outputs]
        # Below this the unexplained part is left out: it is the same for every candidate.
        self.explained = float(np.vdot(target, self.correlation))
        self.unit = search.problem.output_variance

    def best_of(self, starts: Sequence[Array]) -> _Projected:
        """The best start, chosen for every output channel by itself."""
        projected = [self.project(start) for start in starts]
        gains = np.stack([self._gains(candidate) for candidate in projected])
        choice = np.argmax(gains, axis=0)
        index = np.arange(len(choice))
        filters = np.stack([candidate.filters for candidate in projected])[choice, index]
        rows = np.stack([candidate.rows for candidate in projected])[choice, index]
        return _Projected(filters, rows, self.explained - float(gains.max(axis=0).sum()))

    def search(self, start: _Projected, limits: SearchLimits) -> tuple[_Projected, int]:
        """Search from ``start``; the best of all points visited and the steps taken."""
        objective = _Objective(self, start)
        steps = minimize(objective, start.filters.ravel(), limits)
        return objective.best, steps

    def project(self, filters: Array) -> _Projected:
        """Solve the pointwise rows for these filters."""
        count, rank, positions = filters.shape
        size = rank * self.channels
        products = filters[:, :, None, :, None] * filters[:, None, :, None, :]
        products = products.reshape(-1, positions * positions).astype(self.pairs.dtype)
        normal = (products @ self.pairs).reshape(count, rank, rank, self.channels, self.channels)
        normal = normal.transpose(0, 1, 3, 2, 4).reshape(count, size, size)
        right = np.matmul(filters, self.correlation.transpose(0, 2, 1))
        rows = batched_solve(normal, right.reshape(count, size)).reshape(right.shape)
        error = self.explained - float(np.vdot(rows, right))
        return _Projected(filters, rows, error)

    def _gains(self, projected: _Projected) -> Array:
        right = np.matmul(projected.filters, self.correlation.transpose(0, 2, 1))
        gains: Array = np.einsum("ntc,ntc->n", projected.rows, right)
        return gains

    def position_metric(self, rows: Array) -> Array:
        """The metric that the filters see for fixed pointwise rows: (B, r · K, r · K)."""
        count, rank, channels = rows.shape
        products = rows[:, :, None, :, None] * rows[:, None, :, None, :]
        products = products.reshape(-1, channels * channels).astype(self.pairs.dtype)
        result = (products @ self.pairs.T).reshape(
            count, rank, rank, self.positions, self.positions
        )
        size = rank * self.positions
        result = result.transpose(0, 1, 3, 2, 4).reshape(count, size, size)
        return np.asarray(result, dtype=np.float64)


class _Objective:
    """The error of a block of outputs as a function of its filters, flattened."""

    def __init__(self, block: _Block, start: _Projected) -> None:
        self.block = block
        self.best = start
        self._shape = start.filters.shape
        self._hessian = np.zeros((0, 0, 0))

    def evaluate(self, point: Array) -> tuple[float, Array]:
        """Relative error and gradient at a point."""
        block = self.block
        projected = block.project(point.reshape(self._shape))
        if projected.squared_error < self.best.squared_error:
            self.best = projected
        count = self._shape[0]
        metric = block.position_metric(projected.rows)
        pulled = np.matmul(metric, point.reshape(count, -1, 1)).reshape(self._shape)
        slope = pulled - np.matmul(projected.rows, block.correlation)
        self._hessian = metric * (2 / block.unit)
        return projected.squared_error / block.unit, slope.ravel() * (2 / block.unit)

    def precondition(self, gradient: Array) -> Array:
        """Divide by the Hessian for fixed pointwise rows, every output by itself."""
        return batched_solve(self._hessian, gradient.reshape(self._shape[0], -1)).ravel()
