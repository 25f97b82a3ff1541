"""Depthwise→pointwise with a number of filters of its own for every input channel.

From a fit with the same number for all, terms are struck out where that costs least, a few at a
time: striking out term m of a least-squares solution P = B N⁻¹ raises the squared error by
|P_m|² / (N⁻¹)_mm (Hassibi and Stork, 1993). Then the filters that are left are searched again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.factorize.depthwise_pointwise import FilterSearch, ProjectedFilters
from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import DepthwisePointwise, RaggedDepthwisePointwise
from onnxsep.factorize.linear_algebra import cholesky, cholesky_inverse_diagonal
from onnxsep.factorize.minimize import SearchLimits, default_limits
from onnxsep.factorize.problem import LayerProblem
from onnxsep.factorize.ranks import checked_ranks

Array = npt.NDArray[np.float64]

# Share of the terms struck out before the rest is solved again.
_STRUCK_AT_ONCE = 0.1


def fit_ragged(
    problem: LayerProblem,
    start: DepthwisePointwise,
    terms: Sequence[int],
    *,
    limits: SearchLimits | None = None,
) -> list[Fit[RaggedDepthwisePointwise]]:
    """Thin a depthwise→pointwise fit out to given numbers of terms.

    Args:
        problem: The layer.
        start: A fit of the same layer with the largest number of filters any channel may have.
        terms: Numbers of depthwise filters in all, M, any order; those above C * r of the start
            are fitted as that.
        limits: When the search at one M ends.

    Returns:
        One `Fit` per different M, in ascending order. Filters have unit norm.

    Raises:
        FactorizationError: There is no M, or one below 1.
    """
    channels, rank, _ = start.depthwise.shape
    wanted = checked_ranks(terms, channels * rank, "numbers of depthwise filters")
    search = FilterSearch(problem, limits or default_limits(problem.metric.features))
    active = np.ones((channels, rank), dtype=bool)
    search.active = active
    current = search.project(start.depthwise)[0]
    fits = []
    for count in reversed(wanted):
        current = _thinned(search, active, current, count)
        search.best = current
        steps = search.search(current) if problem.output_variance > 0 else 0
        current = search.best or current
        factors = _ragged(search.canonical(current), active)
        dense = factors.dense()
        fits.append(Fit(factors, problem.fitted_bias(dense), problem.error(dense), steps))
    return fits[::-1]


def _thinned(
    search: FilterSearch,
    active: npt.NDArray[np.bool_],
    projected: ProjectedFilters,
    count: int,
) -> ProjectedFilters:
    """The same with ``count`` filters in use; ``active`` is the search's own and is changed."""
    while (left := int(active.sum())) > count:
        terms = active.size
        filtered = search.problem.metric.filtered(projected.filters)
        by_channel = filtered.reshape(terms, *search.problem.weight.shape[1:]).transpose(1, 2, 0)
        matching = projected.filters.astype(filtered.dtype, copy=False)
        normal = np.matmul(matching, by_channel).reshape(terms, terms)
        chosen = np.flatnonzero(active)
        inverse = cholesky_inverse_diagonal(cholesky(normal[np.ix_(chosen, chosen)]))
        strength = np.einsum("mn,mn->m", projected.pointwise[chosen], projected.pointwise[chosen])
        struck = min(left - count, max(1, int(left * _STRUCK_AT_ONCE)))
        weakest = np.argsort(strength / inverse, kind="stable")[:struck]
        active.reshape(-1)[chosen[weakest]] = False
        projected = search.project(projected.filters)[0]
    return projected


def _ragged(factors: DepthwisePointwise, active: npt.NDArray[np.bool_]) -> RaggedDepthwisePointwise:
    # The canonical terms of a channel come strongest first: those without strength are last.
    ordered = np.arange(active.shape[1]) < active.sum(axis=1, keepdims=True)
    sources, slots = np.nonzero(ordered)
    return RaggedDepthwisePointwise(
        sources=sources.astype(np.int64),
        depthwise=factors.depthwise[sources, slots],
        pointwise=np.ascontiguousarray(factors.pointwise[:, sources, slots]),
        channels=len(active),
    )
