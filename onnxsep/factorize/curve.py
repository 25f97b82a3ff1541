"""All forms and ranks of a layer that are worth considering, fitted in one call."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsep.errors import FactorizationError
from onnxsep.factorize.cp import fit_cp
from onnxsep.factorize.depthwise_pointwise import fit_depthwise_pointwise
from onnxsep.factorize.fit import Fit
from onnxsep.factorize.forms import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    dense_cost,
)
from onnxsep.factorize.minimize import SearchLimits
from onnxsep.factorize.pointwise_depthwise import fit_pointwise_depthwise
from onnxsep.factorize.problem import LayerProblem

FORMS = (DepthwisePointwise.form, PointwiseDepthwise.form, CanonicalPolyadic.form)
"""Names of the forms that `rank_curve` knows, in the order in which it fits them."""

# Pointwise→depthwise shares no factor between outputs, so a step of its search costs N (r C)³;
# above this a fit takes minutes, and the other forms serve such layers better.
_LARGEST_POINTWISE_DEPTHWISE = 4e9
# Numbers of CP terms tried, relative to the smaller of the layer's channel counts.
_TERMS = (0.5, 0.75, 1.0, 1.5, 2.0)


def rank_curve(
    problem: LayerProblem,
    *,
    forms: Sequence[str] = FORMS,
    ranks: Sequence[int] = (1, 2, 3, 4),
    terms: Sequence[int] | None = None,
    multiple: int = 1,
    stride_area: int = 1,
    largest_share: float = 1.0,
    limits: SearchLimits | None = None,
    rounding: float = 0.0,
) -> list[Fit[Factors]]:
    """Fit every form at every rank that costs less than the layer itself.

    Args:
        problem: The layer.
        forms: Names of the forms to fit, of `FORMS`.
        ranks: Ranks of depthwise→pointwise and pointwise→depthwise.
        terms: Numbers of channels of the CP form; if None, five from half to twice the smaller of
            N and C.
        multiple: The default ``terms`` are rounded to multiples of this, as a target likes them.
        stride_area: Input positions per output position, the product of the strides.
        largest_share: Only candidates with fewer multiplications than this share of the layer's.
        limits: When each search ends.
        rounding: Noise between the convolutions of ``cp``, see `fit_cp`.

    Returns:
        The fits, in the order of ``forms`` and of ascending rank; none if nothing is cheaper.

    Raises:
        FactorizationError: A form is unknown, or a number is below 1.
    """
    unknown = sorted(set(forms) - set(FORMS))
    if unknown:
        raise FactorizationError(f"unknown form '{unknown[0]}', known are {', '.join(FORMS)}")
    if min([multiple, stride_area, *ranks, *(terms or ())]) < 1:
        raise FactorizationError(
            "ranks, terms, their multiple and the stride are whole numbers from 1 up"
        )
    outputs, channels, positions = problem.weight.shape
    budget = largest_share * dense_cost(outputs, channels, positions)
    pointwise_cost = channels * stride_area
    fits: list[Fit[Factors]] = []
    if DepthwisePointwise.form in forms:
        cost = channels * (positions + outputs)
        cheap = [rank for rank in ranks if rank * cost < budget]
        if cheap:
            fits += fit_depthwise_pointwise(problem, cheap, limits=limits)
    if PointwiseDepthwise.form in forms:
        cost = outputs * (pointwise_cost + positions)
        cheap = [
            rank
            for rank in ranks
            if rank * cost < budget
            and outputs * (rank * channels) ** 3 <= _LARGEST_POINTWISE_DEPTHWISE
        ]
        if cheap:
            fits += fit_pointwise_depthwise(problem, cheap, limits=limits)
    if CanonicalPolyadic.form in forms:
        wanted = _default_terms(outputs, channels, multiple) if terms is None else list(terms)
        cost = pointwise_cost + positions + outputs
        cheap = [count for count in wanted if count * cost < budget]
        if cheap:
            fits += fit_cp(problem, cheap, limits=limits, rounding=rounding)
    return fits


def _default_terms(outputs: int, channels: int, multiple: int) -> list[int]:
    smaller = min(outputs, channels)
    return [max(1, round(share * smaller / multiple)) * multiple for share in _TERMS]
