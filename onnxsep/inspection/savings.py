"""What separation leaves of a convolution: by the formula, and at the error that is allowed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxsep.blas import blas_threads_for
from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.decision import FORMS, Decision, Form
from onnxsep.errors import ConfigurationError, FactorizationError
from onnxsep.factorize import LayerProblem, rank_curve
from onnxsep.inspection.record import CurvePoint, FormulaSaving, Layer
from onnxsep.passes.separate import Calibration, why_not
from onnxsep.progress import Progress
from onnxsep.search.candidates import layer_choices

# Without data every form but these takes a search of seconds a layer.
WEIGHTS_FORMS: tuple[Form, ...] = ("depthwise-pointwise", "pointwise-depthwise")
# With data the searches of the other forms take minutes on layers wider than this.
_WIDEST_FOR_ALL_FORMS = 256
# At most so many ranks a layer; a 3x3 kernel has no more that save anything.
_MOST_RANKS = 8


def forms_on_data(layers: Sequence[Layer]) -> tuple[Form, ...]:
    """The forms that are fitted to data: all, unless a layer is so wide that it takes minutes."""
    widest = max(
        (min(each.in_channels, each.out_channels) for each in layers if each.kind == "standard"),
        default=0,
    )
    return FORMS if widest <= _WIDEST_FOR_ALL_FORMS else FORMS[:1]


def formula_saving(layer: Layer) -> FormulaSaving | None:
    """One depthwise filter per channel and a pointwise convolution: 1/N + 1/K of the layer.

    None for what is no standard convolution with a kernel: it is the cheap half already, or has
    groups.
    """
    if layer.kind != "standard":
        return None
    outputs, channels, taps = layer.out_channels, layer.in_channels, layer.taps
    positions = None if layer.macs is None else layer.macs // (outputs * channels * taps)
    return FormulaSaving(
        ratio=1 / outputs + 1 / taps,
        parameters=channels * (taps + outputs),
        depthwise_macs=None if positions is None else positions * channels * taps,
        pointwise_macs=None if positions is None else positions * channels * outputs,
    )


def with_savings(
    layers: Sequence[Layer],
    folded: ir.Model,
    error: float,
    calibration: Calibration | None,
    progress: Progress,
) -> list[Layer]:
    """The layers with what the formula promises, and what can be had within the error.

    Args:
        layers: In any order.
        folded: The model with BatchNormalization folded: it changes what the outputs of a layer
            weigh against each other.
        error: Relative output error allowed per layer.
        calibration: Data; None judges by the weights alone.
        progress: Told about every layer.
    """
    layers = [dataclasses.replace(layer, formula=formula_saving(layer)) for layer in layers]
    sites = {site.name: site for site in find_convolutions(folded.graph)[0]}
    if calibration is None:
        curves = _by_weights(layers, sites, progress)
    else:
        curves = _on_data(layers, folded, calibration, progress)
    return [
        _judged(layer, sites.get(layer.name), curves.get(layer.name), error) for layer in layers
    ]


_Curve = tuple[CurvePoint, ...] | str
"""Points, or why there are none."""


def _by_weights(
    layers: Sequence[Layer], sites: Mapping[str, ConvSite], progress: Progress
) -> dict[str, _Curve]:
    wanted = [layer for layer in layers if _is_open(layer, sites.get(layer.name))]
    progress.stage("rank curves of the weights", len(wanted))
    curves: dict[str, _Curve] = {}
    for layer in wanted:
        progress.step(layer.name)
        site = sites[layer.name]
        try:
            curves[layer.name] = _weights_curve(layer, site)
        except FactorizationError as trouble:
            curves[layer.name] = str(trouble)
    return curves


def _weights_curve(layer: Layer, site: ConvSite) -> tuple[CurvePoint, ...]:
    stride_area = math.prod(site.geometry.strides)
    problem = LayerProblem.weights_only(site.weight, site.bias)
    points: list[CurvePoint] = []
    with blas_threads_for(site.in_channels * site.taps):
        for form in WEIGHTS_FORMS:
            ranks = _ranks(form, site, stride_area)
            if not ranks or why_not(site, form) is not None:
                continue
            for fit in rank_curve(problem, forms=[form], ranks=ranks, stride_area=stride_area):
                factors = fit.factors
                rank = int(getattr(factors, "rank", 0))
                work = factors.multiplications(stride_area)
                points.append(_point(layer, site, form, rank, fit.error, factors.parameters, work))
    return tuple(points)


def _ranks(form: Form, site: ConvSite, stride_area: int) -> list[int]:
    """The ranks that multiply less than the layer, a spread of them where there are many."""
    dense = site.multiplications_per_pixel
    outputs, channels, taps = site.out_channels, site.in_channels, site.taps
    unit = Decision(form, 1).multiplications(outputs, channels, taps, stride_area)
    exact = min(outputs if form == "depthwise-pointwise" else channels, taps)
    most = min((dense - 1) // unit, exact)
    if most <= _MOST_RANKS:
        return list(range(1, most + 1))
    return sorted({round(rank) for rank in np.geomspace(1, most, _MOST_RANKS)})


def _on_data(
    layers: Sequence[Layer], folded: ir.Model, calibration: Calibration, progress: Progress
) -> dict[str, _Curve]:
    by_name = {layer.name: layer for layer in layers}
    curves: dict[str, _Curve] = {}
    forms = forms_on_data(layers)
    for choices in layer_choices(folded, calibration, forms=forms, progress=progress):
        layer = by_name.get(choices.site.name)
        if layer is None:
            continue
        if choices.refusal is not None and not choices.candidates:
            curves[layer.name] = choices.refusal.reason
            continue
        curves[layer.name] = tuple(
            _point(
                layer,
                choices.site,
                candidate.decision.form,
                candidate.decision.rank,
                candidate.error,
                candidate.parameters,
                candidate.multiplications,
            )
            for candidate in choices.candidates
        )
    return curves


def _point(
    layer: Layer,
    site: ConvSite,
    form: Form,
    rank: int,
    error: float,
    parameters: int,
    multiplications: int,
) -> CurvePoint:
    macs = None
    if layer.macs is not None:
        macs = layer.macs // site.multiplications_per_pixel * multiplications
    return CurvePoint(form, rank, max(error, 0.0), parameters, macs)


def _is_open(layer: Layer, site: ConvSite | None) -> bool:
    if site is None or layer.inside:
        return False
    return any(why_not(site, form) is None for form in WEIGHTS_FORMS)


def _judged(layer: Layer, site: ConvSite | None, curve: _Curve | None, error: float) -> Layer:
    """The layer with its curve, and the cheapest point of it or the reason for none."""
    if site is None or layer.inside:
        code, reason = _unreadable(layer)
        return dataclasses.replace(layer, code=code, reason=reason)
    refusal = why_not(site)
    if refusal is not None and not isinstance(curve, tuple):
        return dataclasses.replace(layer, code=refusal.code, reason=refusal.reason)
    if isinstance(curve, str):
        return dataclasses.replace(layer, code="fit-failed", reason=curve)
    if not curve:
        reason = "no form multiplies less than the layer itself"
        return dataclasses.replace(layer, code="not-worth-it", reason=reason)
    within = [point for point in curve if point.error <= error]
    if within:
        best = min(within, key=lambda point: (_work(point, site), point.error))
        return dataclasses.replace(layer, curve=curve, achievable=best)
    nearest = min(curve, key=lambda point: point.error)
    reason = (
        f"{100 * nearest.error:.1f} % error is the least that saves anything "
        f"({Decision(nearest.form, nearest.rank).describe()})"
    )
    return dataclasses.replace(layer, curve=curve, code="over-error", reason=reason)


def _work(point: CurvePoint, site: ConvSite) -> int:
    decision = Decision(point.form, point.rank)
    return decision.multiplications(
        site.out_channels, site.in_channels, site.taps, math.prod(site.geometry.strides)
    )


def _unreadable(layer: Layer) -> tuple[str, str]:
    """Why a convolution that was found cannot be separated at all."""
    if layer.inside:
        return "inside-subgraph", f"it is inside {layer.inside}; only the main graph is rewritten"
    if layer.precision == "int8":
        return "already-quantized", "quantized already; separate the float model, then quantize"
    if layer.operator == "ConvTranspose":
        return "transposed", "a transposed convolution; only Conv is rewritten"
    return "weight-not-constant", "its weight is computed at run time, or is no float array"


def checked_error(error: float) -> float:
    """The error allowed, if it has a meaning.

    Raises:
        ConfigurationError: It is not above 0 and below 1.
    """
    if not 0 < error < 1:
        raise ConfigurationError(
            f"--error takes a share above 0 and below 1, such as 0.01, not {error:g}"
        )
    return error
