"""Fit of pointwise→depthwise→pointwise: W ≈ Σ_m a_m ⊗ b_m ⊗ d_m, the CP decomposition.

For given b and d the last convolution is a linear least-squares solution, so only b and d are
searched (variable projection, Golub and Pereyra, 1973), with L-BFGS, in coordinates whitened by a
Kronecker approximation of the metric, in which the Hessians with respect to all b and to all d are
those of alternating least squares and serve as preconditioner. The start is orthogonal: the
singular vectors of the whitened weight along its positions split it into K matrices, and the
strongest singular triples of all of them are the first terms.

Terms of a CP decomposition may grow without bound while they cancel each other (de Silva and Lim,
2008), which no int8 tensor survives. A penalty on the summed squares of the terms' norms, which is
a ridge in the least-squares step, keeps them bounded, and on the way leads around the long flat
valleys that such terms make, so that the search ends sooner and lower than without.

Where the results between the convolutions will be rounded, what the rounding leaves in the output
(`onnxsep.factorize.rounding`) is a ridge of the same kind and is minimised together with the error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.errors import FactorizationError
from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import CanonicalPolyadic
from onnxsep.factorize.linear_algebra import batched_cholesky, cholesky, cholesky_solve
from onnxsep.factorize.minimize import SearchLimits, default_limits, minimize
from onnxsep.factorize.problem import LayerProblem
from onnxsep.factorize.ranks import checked_ranks

Array = npt.NDArray[np.float64]

# Weight of the penalty relative to the error, at the start and as the search is taken up again:
# first strong, which keeps out of the valleys, then weak, which costs less than a percent of the
# error; the terms cancel each other two to five times over in the end, a hundred without.
_PENALTIES = (1e-2, 3e-3, 1e-3)
# The last penalty is lowered further while it weighs more than this share of the error, as it does
# where the weight is a sum of so few terms and the error vanishes.
_LARGEST_PENALTY = 2e-2
_RELEASES = 6
# Share of all steps that the first penalty may take.
_FIRST_SHARE = 0.7
# If even the first penalty lets the terms cancel more than they may, it is raised.
_PENALTY_GROWTH = 10.0
_RAISES = 3
# Ridge of the preconditioner, relative to its diagonal: terms may be nearly parallel.
_STIFFNESS = 1e-2
LARGEST_CANCELLATION = 10.0
"""Default bound of `Fit.cancellation` in `fit_cp`."""


def fit_cp(
    problem: LayerProblem,
    terms: Sequence[int],
    *,
    limits: SearchLimits | None = None,
    largest_cancellation: float = LARGEST_CANCELLATION,
    rounding: float = 0.0,
) -> list[Fit[CanonicalPolyadic]]:
    """Fit pointwise→depthwise→pointwise with several numbers of channels in the middle.

    Args:
        problem: The layer.
        terms: Numbers of channels M, any order; those above C * K, where the form is exact, are
            fitted as C * K.
        limits: When the search for one M ends.
        largest_cancellation: The terms' norms, summed in quadrature, may exceed the norm of their
            sum by this factor (see `Fit.cancellation`); the penalty is raised until they do not.
        rounding: Power of the noise that rounding adds to the two results between the
            convolutions, relative to the variance of each of their channels. What it does to the
            output is minimised with the error; 0 for float.

    Returns:
        One `Fit` per different M, in ascending order; the error, without the noise, never rises
        (with ``rounding``, the sum of both never does). Rows of ``first`` and
        ``depthwise`` have unit norm, and the strongest terms come first.

    Raises:
        FactorizationError: There is no M, or one below 1, the limit on cancellation is not above
            1, or ``rounding`` is below 0.
    """
    if not largest_cancellation > 1:
        raise FactorizationError(
            f"orthogonal terms have cancellation 1: a limit of {largest_cancellation} is too low"
        )
    if not rounding >= 0:
        raise FactorizationError(f"the noise of rounding has a power of 0 or more, not {rounding}")
    wanted = checked_ranks(terms, problem.channels * problem.positions, "numbers of CP terms")
    search = _Search(
        problem, limits or default_limits(problem.metric.features), largest_cancellation, rounding
    )
    return [search.with_terms(count) for count in wanted]


@dataclasses.dataclass(frozen=True, eq=False)
class _Projected:
    """First (M, C) and depthwise (M, K) factors, whitened, with the last (M, N) that suits them."""

    first: Array
    depthwise: Array
    last: Array
    gram: Array
    energy: Array  # (M,) squared norm of every term.
    squared_error: float
    noise: float  # What rounding adds to the squared error.
    penalized_error: float
    cancellation: float

    @property
    def expected_error(self) -> float:
        """Squared error with what rounding adds."""
        return self.squared_error + self.noise


class _Search:
    """The state that passes from one number of terms to the next."""

    def __init__(
        self, problem: LayerProblem, limits: SearchLimits, largest: float, rounding: float
    ) -> None:
        self.problem = problem
        self.limits = limits
        self.largest = largest
        self.rounding = rounding
        self.penalty = 0.0
        channel_metric, position_metric = problem.metric.kronecker()
        self.channel_colour = batched_cholesky(channel_metric[None])[0]
        self.position_colour = batched_cholesky(position_metric[None])[0]
        self.channel_white = np.asarray(np.linalg.inv(self.channel_colour), dtype=np.float64)
        self.position_white = np.asarray(np.linalg.inv(self.position_colour), dtype=np.float64)
        # Variance at one position of what a whitened filter of norm 1 over the channels gives.
        self.position_variance = float(np.trace(position_metric)) / problem.positions
        self.correlation = problem.correlation.astype(problem.metric.precision, copy=False)
        self.best: _Projected | None = None

    def with_terms(self, count: int) -> Fit[CanonicalPolyadic]:
        """Fit with ``count`` terms, more than any fit before."""
        before = self.best
        self.penalty = 0.0
        starts = [self._leading(self.problem.target, count)]
        if before is not None:
            starts.append(self._extended(before, count))
        candidates = [self.project(*start)[0] for start in starts]
        best = min(candidates, key=lambda candidate: candidate.expected_error)
        self.penalty = _PENALTIES[0] * self.problem.relative(best.squared_error)
        most = self.limits.iterations
        best, steps = self._search(best, int(_FIRST_SHARE * most))
        for _ in range(_RAISES):
            if best.cancellation <= self.largest:
                break
            self.penalty = max(self.penalty, float(np.finfo(np.float64).eps)) * _PENALTY_GROWTH
            best, more = self._search(best, most)
            steps += more
        best, more = self._released(best, most - steps)
        steps += more
        if before is not None and best.expected_error > before.expected_error:
            best = _padded(before, count)
        self.best = best
        factors = self._canonical(best)
        bias = self.problem.fitted_bias(factors.dense())
        error = self.problem.relative(best.squared_error)
        return Fit(factors, bias, error, steps, best.cancellation)

    def project(
        self, first: Array, depthwise: Array, *, gradient: bool = False
    ) -> tuple[_Projected, Array, Array]:
        """Solve the last factor for these two; on demand the gradients for them, too."""
        problem = self.problem
        count = len(first)
        plain_first = first @ self.channel_white
        plain_depthwise = depthwise @ self.position_white
        middle = (plain_first[:, :, None] * plain_depthwise[:, None, :]).reshape(count, -1)
        seen = problem.metric.products(middle)
        middle = middle.astype(seen.dtype, copy=False)
        normal = np.asarray(middle @ seen.T, dtype=np.float64)
        right = np.asarray(middle @ self.correlation.T, dtype=np.float64)
        own = np.diagonal(normal).copy()
        # Noise in front of the depthwise convolution, as much of it as comes out behind.
        first_noise = self.rounding * self.position_variance * np.square(first).sum(axis=1)
        spread = np.square(plain_depthwise).sum(axis=1)
        damped = normal.copy()
        np.einsum("ii->i", damped)[:] += (self.penalty + self.rounding) * own + first_noise * spread
        last = cholesky_solve(cholesky(damped), right)
        gram = last @ last.T
        explained = float(np.vdot(last, right))
        size = float(np.vdot(gram, normal))
        strength = np.diagonal(gram).copy()
        energy = strength * own
        projected = _Projected(
            first=first,
            depthwise=depthwise,
            last=last,
            gram=gram,
            energy=energy,
            squared_error=problem.output_variance - 2 * explained + size,
            noise=float(self.rounding * energy.sum() + strength @ (first_noise * spread)),
            penalized_error=problem.output_variance - explained,
            cancellation=float(np.sqrt(energy.sum() / size)) if size > 0 else 1.0,
        )
        if not gradient:
            return projected, first, depthwise
        np.einsum("ii->i", gram)[:] *= 1 + self.penalty + self.rounding
        slope = gram.astype(seen.dtype, copy=False) @ seen
        slope -= last.astype(seen.dtype, copy=False) @ self.correlation
        slope = 2 * slope.reshape(count, problem.channels, problem.positions)
        to_first = np.matmul(slope, plain_depthwise[:, :, None].astype(slope.dtype))[:, :, 0]
        to_depthwise = np.matmul(plain_first[:, None, :].astype(slope.dtype), slope)[:, 0]
        to_depthwise = to_depthwise.astype(np.float64)
        to_depthwise += 2 * (strength * first_noise)[:, None] * plain_depthwise
        of_noise = 2 * self.rounding * self.position_variance * strength * spread
        return (
            projected,
            to_first.astype(np.float64) @ self.channel_white.T + of_noise[:, None] * first,
            to_depthwise @ self.position_white.T,
        )

    def _released(self, best: _Projected, most: int) -> tuple[_Projected, int]:
        """Search on with weaker penalties, as long as the terms do not cancel too much."""
        steps = 0
        shares = [*_PENALTIES[1:], *[_PENALTIES[-1]] * _RELEASES]
        for index, share in enumerate(shares):
            error = self.problem.relative(best.squared_error)
            planned = index < len(_PENALTIES) - 1
            if steps >= most or error < self.limits.floor or share * error >= self.penalty:
                break
            if not planned and self.penalty <= _LARGEST_PENALTY * error:
                break
            self.penalty = share * error
            freed, more = self._search(best, most - steps)
            steps += more
            if freed.cancellation > self.largest:
                break
            best = freed
        return best, steps

    def _search(self, start: _Projected, most: int) -> tuple[_Projected, int]:
        """Search with the penalty of the moment."""
        start = self.project(start.first, start.depthwise)[0]
        if self.problem.output_variance <= 0:
            return start, 0
        objective = _Objective(self, start)
        point = np.hstack([start.first, start.depthwise]).ravel()
        limits = dataclasses.replace(self.limits, iterations=min(most, self.limits.iterations))
        steps = minimize(objective, point, limits)
        return objective.best, steps

    def _extended(self, before: _Projected, count: int) -> tuple[Array, Array]:
        """The terms so far and those that the remaining error asks for."""
        residual = self.problem.target - self._canonical(before).dense()
        first, depthwise = self._leading(residual, count - len(before.first))
        return np.vstack([before.first, first]), np.vstack([before.depthwise, depthwise])

    def _leading(self, dense: Array, count: int) -> tuple[Array, Array]:
        """Whitened first (M, C) and depthwise (M, K) factors of an orthogonal start."""
        whitened = self.channel_colour.T @ dense @ self.position_colour
        flat = whitened.reshape(-1, whitened.shape[2])
        vectors = np.linalg.eigh(flat.T @ flat)[1].T
        slices = np.tensordot(vectors, whitened, axes=(1, 2))
        strength, rows = np.linalg.svd(slices, full_matrices=False)[1:]
        order = np.argsort(-strength.ravel(), kind="stable")[:count]
        position, channel = np.unravel_index(order, strength.shape)
        first, depthwise = rows[position, channel], vectors[position]
        missing = count - len(order)
        if missing > 0:
            # N < C: the slices have no more right vectors; repeats of the first ones, turned a
            # little along the positions, leave the search something to do.
            turned = np.roll(vectors, 1, axis=0)[position[:missing]]
            first = np.vstack([first, np.resize(first, (missing, first.shape[1]))])
            depthwise = np.vstack([depthwise, np.resize(turned, (missing, turned.shape[1]))])
        return np.asarray(first, dtype=np.float64), np.asarray(depthwise, dtype=np.float64)

    def _canonical(self, projected: _Projected) -> CanonicalPolyadic:
        """The same layer with unit first and depthwise rows, strongest terms first."""
        order = np.argsort(-projected.energy, kind="stable")
        first = projected.first[order] @ self.channel_white
        depthwise = projected.depthwise[order] @ self.position_white
        last = projected.last[order]
        for rows in (first, depthwise):
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            norms[norms == 0] = 1.0
            signed = np.where(rows.sum(axis=1, keepdims=True) < 0, -norms, norms)
            rows /= signed
            last = last * signed
        return CanonicalPolyadic(first, depthwise, np.ascontiguousarray(last.T))


class _Objective:
    """The penalized error as a function of the whitened first and depthwise factors, flattened."""

    def __init__(self, search: _Search, start: _Projected) -> None:
        self.search = search
        self.best = start
        self._last = start

    def evaluate(self, point: Array) -> tuple[float, Array]:
        """Relative penalized error and gradient at a point."""
        search = self.search
        channels = search.problem.channels
        rows = point.reshape(len(self.best.first), -1)
        self._last, to_first, to_depthwise = search.project(
            rows[:, :channels], rows[:, channels:], gradient=True
        )
        if self._last.penalized_error < self.best.penalized_error:
            self.best = self._last
        unit = search.problem.output_variance
        gradient = np.hstack([to_first, to_depthwise]).ravel()
        return self._last.penalized_error / unit, gradient / unit

    def precondition(self, gradient: Array) -> Array:
        """One step of alternating least squares in the Kronecker metric, for b and d apart."""
        last = self._last
        channels = self.search.problem.channels
        rows = gradient.reshape(len(last.first), -1)
        gram = last.gram * (2 / self.search.problem.output_variance)
        parts = []
        for other, part in ((last.depthwise, rows[:, :channels]), (last.first, rows[:, channels:])):
            hessian = gram * (other @ other.T)
            diagonal = np.einsum("ii->i", hessian)
            diagonal *= 1 + _STIFFNESS
            parts.append(cholesky_solve(cholesky(hessian), part))
        return np.hstack(parts).ravel()


def _padded(projected: _Projected, count: int) -> _Projected:
    """The same layer with terms of zero added."""
    missing = count - len(projected.first)
    return dataclasses.replace(
        projected,
        first=np.pad(projected.first, ((0, missing), (0, 0))),
        depthwise=np.pad(projected.depthwise, ((0, missing), (0, 0))),
        last=np.pad(projected.last, ((0, missing), (0, 0))),
        gram=np.pad(projected.gram, ((0, missing), (0, missing))),
        energy=np.pad(projected.energy, (0, missing)),
    )
