"""Standard convolutions become separable ones, fitted in network order.

For every convolution that the decisions name, the walk collects the second moments of its inputs
*as the already rewritten network produces them* together with the output that the *original*
network has there; the fit minimises the output error on these (FACTS: on a ResNet20 at rank 3 that
is worth two points over a fit to the original's inputs and sixty over one to the weights alone).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, MutableMapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxsep.blas import blas_threads_for
from onnxsep.calibrate import ActivationWalk, shifted_moments
from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.decision import DEFAULT_FORM, Decision, Form
from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    DEFAULT_RIDGE,
    STEADY_LEAK,
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    Fit,
    LayerProblem,
    PointwiseDepthwise,
    fit_cp,
    fit_depthwise_pointwise,
    fit_pointwise_depthwise,
    refit_behind_activation,
)
from onnxsep.passes.base import Change, LossyPass, Refusal, RewriteResult
from onnxsep.passes.lowering import replace_by_factors
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds
from onnxsep.surroundings import find_surroundings
from onnxsep.targets import TARGETS, Target

# With fewer input channels the depthwise filters have next to nothing to share, and the repeated
# input misses every blocked layout.
FEWEST_CHANNELS = 8
# A step of the pointwise→depthwise search costs N (r C)³, since no factor is shared between output
# channels: above this, the bound of `onnxsep.factorize.rank_curve` too, a fit takes minutes.
_LARGEST_POINTWISE_DEPTHWISE = 4e9
_STRONGEST_RIDGE = 0.2
# With so many images a refit behind the activation needs no steadying: on 1,000 images ResNet20 at
# rank 2 gains 0.6 to 2 points without, SimpNet-300k one.
_MANY_IMAGES = 256
# Rows of the refit behind the activation, and the memory that they may take.
_REFIT_ROWS = 12_288
_REFIT_BYTES = 192 * 2**20


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The data of a fit.

    Attributes:
        batches: Feeds of the model's inputs; re-iterable, the same each time.
        samples: Number of images in all batches together.
        threads: Threads of onnxruntime, 0 for all cores.
    """

    batches: Iterable[Feeds]
    samples: int
    threads: int = 0


Memory = MutableMapping[tuple[tuple[str, Decision], ...], Fit[Factors]]
"""Fits by what was decided for their convolution and for all before it."""


def ridge_for(samples: int) -> float:
    """How strongly fits on so many images are held to the original weights.

    Chosen on ResNet20 and SimpNet-300k at rank 2 from 8 to 1,000 images: with 8 images 0.1 keeps
    10 to 16 points of accuracy more than 0.0001, with 1,000 it makes no difference.
    """
    return min(max(1.0 / samples, DEFAULT_RIDGE), _STRONGEST_RIDGE)


def why_not(site: ConvSite, form: Form = DEFAULT_FORM) -> Refusal | None:
    """Why a convolution cannot take this form at all, whatever the rank."""
    figures = {"in_channels": site.in_channels, "out_channels": site.out_channels}
    if site.kind == "pointwise":
        return Refusal(site.name, "pointwise", "1x1 kernel: it is the cheap half already", figures)
    if site.kind == "depthwise":
        return Refusal(site.name, "depthwise", "depthwise already", figures)
    if site.kind == "grouped":
        reason = f"{site.group} groups: only ungrouped convolutions are rewritten"
        return Refusal(site.name, "grouped", reason, {**figures, "groups": site.group})
    if form == "depthwise-pointwise" and site.out_channels == 1:
        reason = "one output channel: nothing for a pointwise convolution to mix"
        return Refusal(site.name, "too-few-channels", reason, figures)
    if site.in_channels < FEWEST_CHANNELS:
        reason = f"only {site.in_channels} input channels; separation starts at {FEWEST_CHANNELS}"
        return Refusal(site.name, "too-few-channels", reason, figures)
    if form == "cp" and site.out_channels < FEWEST_CHANNELS:
        reason = (
            f"only {site.out_channels} output channels; the form cp starts at {FEWEST_CHANNELS}, "
            "below pointwise-depthwise is the same with fewer weights"
        )
        return Refusal(site.name, "too-few-channels", reason, figures)
    if not np.isfinite(site.weight).all():
        return Refusal(site.name, "weight-not-finite", "its weight holds NaN or infinity", figures)
    return None


def why_not_at(site: ConvSite, decision: Decision) -> Refusal | None:
    """Why a convolution cannot take this form at this rank."""
    refusal = why_not(site, decision.form)
    exact = decision.rank >= min(site.in_channels, site.taps)
    if refusal is not None or decision.form != "pointwise-depthwise" or exact:
        return refusal
    work = site.out_channels * (decision.rank * site.in_channels) ** 3
    if work <= _LARGEST_POINTWISE_DEPTHWISE:
        return None
    return Refusal(
        site.name,
        "fit-too-large",
        f"a fit of {decision.describe()} would take minutes at {site.in_channels} input and "
        f"{site.out_channels} output channels; the other forms serve such layers better",
        {
            "rank": decision.rank,
            "in_channels": site.in_channels,
            "out_channels": site.out_channels,
        },
    )


class Separate(LossyPass):
    """Rewrites the convolutions named by its decisions, each in the form and rank decided."""

    name = "separate"

    def __init__(
        self,
        decisions: Mapping[str, Decision],
        calibration: Calibration | None,
        *,
        refusals: Mapping[str, Refusal] | None = None,
        target: Target = TARGETS["cpu"],
        behind_activation: bool = True,
        seed: int = 0,
        rounding: float = 0.0,
        memory: Memory | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare the pass.

        Args:
            decisions: Name of a Conv node → its form and rank.
            calibration: The data; None fits the weights alone, which loses far more.
            refusals: Reasons for convolutions that a plan left out of ``decisions``; repeated in
                the result.
            target: Decides the graph form.
            behind_activation: Refit every layer so that the error behind its activation is small.
            seed: Of the choice of output positions.
            rounding: Noise that fits have to be steady against, see `fit_cp`; `INT8_ROUNDING` for
                what will be quantized, 0 for float.
            memory: Fits of other plans for the same network, data and settings, which a plan that
                begins alike takes over; new ones are added.
            progress: Told about every layer.
        """
        self._decisions = decisions
        self._calibration = calibration
        self._refusals = refusals or {}
        self._target = target
        self._behind_activation = behind_activation
        self._seed = seed
        self._rounding = rounding
        self._memory: Memory = {} if memory is None else memory
        self._progress = progress or Silence()

    def call(self, model: ir.Model) -> RewriteResult:
        """Fit and rewrite in network order."""
        original = model.clone()
        original_sites = {site.name: site for site in find_convolutions(original.graph)[0]}
        sites, others = find_convolutions(model.graph)
        walks = self._walks(original, model)
        result = RewriteResult(model, modified=False)
        result.refusals.extend(_unreadable(node) for node in others)
        result.refusals.extend(_inside_subgraphs(model))
        done: tuple[tuple[str, Decision], ...] = ()
        for site in sites:
            decision = self._decisions.get(site.name)
            if decision is None:
                result.refusals.append(self._why_left_out(site))
                continue
            refusal = why_not_at(site, decision) or self._refusals.get(site.name)
            if refusal is not None:
                result.refusals.append(refusal)
                continue
            done = (*done, (site.name, decision))
            try:
                fit = self._memory.get(done)
                if fit is None:
                    with blas_threads_for(site.in_channels * site.taps):
                        fit = self._fit(site, original_sites[site.name], original, walks, decision)
                    self._memory[done] = fit
                replace_by_factors(model.graph, site, fit.factors, fit.bias, self._target.repeat)
            except FactorizationError as error:
                result.refusals.append(Refusal(site.name, "fit-failed", str(error)))
                continue
            result.modified = True
            result.changes.append(_change(site, decision.form, fit))
        if result.modified:
            # The weights that were replaced, and nodes that only prepared them.
            RemoveUnusedNodesPass()(model)
        return result

    def _why_left_out(self, site: ConvSite) -> Refusal:
        """The plan's reason, which knows the form that it had in mind, before any other."""
        unnamed = Refusal(site.name, "not-chosen", "not named in the plan")
        return self._refusals.get(site.name) or why_not(site) or unnamed

    def _walks(
        self, original: ir.Model, model: ir.Model
    ) -> tuple[ActivationWalk, ActivationWalk] | None:
        if self._calibration is None:
            return None
        batches, threads = self._calibration.batches, self._calibration.threads
        return (
            ActivationWalk(original, batches, threads=threads),
            ActivationWalk(model, batches, threads=threads),
        )

    def _fit(
        self,
        site: ConvSite,
        original_site: ConvSite,
        original: ir.Model,
        walks: tuple[ActivationWalk, ActivationWalk] | None,
        decision: Decision,
    ) -> Fit[Factors]:
        self._progress.step(site.name)
        if walks is None or self._calibration is None:
            problem = LayerProblem.weights_only(site.weight, site.bias)
            return _solved(problem, decision, self._rounding)
        samples = self._calibration.samples
        surroundings = find_surroundings(site.node)
        refit = self._behind_activation and not surroundings.is_linear
        moments, rows = shifted_moments(
            *walks,
            original_site,
            site,
            original.graph,
            shortcut=surroundings.shortcut,
            kept_rows=_rows_that_fit(site) if refit else 0,
            samples=samples,
            seed=self._seed,
        )
        ridge = ridge_for(samples)
        problem = LayerProblem.from_moments(site.weight, site.bias, moments, ridge=ridge)
        fit = _solved(problem, decision, self._rounding)
        if not refit:
            return fit
        sums = rows.wanted if rows.offsets is None else rows.wanted + rows.offsets
        behind = refit_behind_activation(
            fit.factors,
            fit.bias,
            rows.patches,
            sums,
            surroundings.activation,
            offsets=rows.offsets,
            leak=STEADY_LEAK if samples < _MANY_IMAGES else 0.0,
        )
        return dataclasses.replace(fit, factors=behind.factors, bias=behind.bias)


def _solved(problem: LayerProblem, decision: Decision, rounding: float) -> Fit[Factors]:
    """The fit of one form at one rank to what moments know."""
    match decision.form:
        case "depthwise-pointwise":
            return fit_depthwise_pointwise(problem, [decision.rank])[-1]
        case "pointwise-depthwise":
            return fit_pointwise_depthwise(problem, [decision.rank])[-1]
        case "cp":
            return fit_cp(problem, [decision.rank], rounding=rounding)[-1]


def _rows_that_fit(site: ConvSite) -> int:
    """Rows to keep for the refit: as many as it needs, within a bound on memory."""
    row_bytes = 4 * (site.in_channels * site.taps + 2 * site.out_channels)
    return min(_REFIT_ROWS, _REFIT_BYTES // row_bytes)


def _change(site: ConvSite, form: Form, fit: Fit[Factors]) -> Change:
    # The solvers lower ranks at which a form is exact already.
    done = Decision(form, _rank(fit.factors))
    return Change(
        site.name,
        "separated",
        done.describe(),
        {
            "rank": done.rank,
            "error": fit.error,
            "parameters_before": site.parameters,
            "parameters_after": fit.factors.parameters,
            "multiplications_before": site.multiplications_per_pixel,
            "multiplications_after": fit.factors.multiplications(math.prod(site.geometry.strides)),
        },
    )


def _rank(factors: Factors) -> int:
    match factors:
        case DepthwisePointwise() | PointwiseDepthwise():
            return factors.rank
        case CanonicalPolyadic():
            return factors.terms
    raise FactorizationError(f"no rank describes factors of type {type(factors).__name__}")


def _unreadable(node: ir.Node) -> Refusal:
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return Refusal(node.name or "", "already-quantized", "its weight is quantized already")
    return Refusal(
        node.name or "", "weight-not-constant", "its weight is computed or fed from outside"
    )


def _inside_subgraphs(model: ir.Model) -> list[Refusal]:
    """Convolutions in the branches of If and the bodies of Loop and Scan."""
    top = set(model.graph)
    return [
        Refusal(
            node.name or "",
            "inside-subgraph",
            "inside a branch or a loop, where its inputs cannot be observed",
        )
        for node in model.graph.all_nodes()
        if node.op_type == "Conv" and node not in top
    ]
