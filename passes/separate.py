"""Standard convolutions become depthwise → pointwise, fitted in network order.

For every convolution that the decisions name, the walk collects the second moments of its inputs
*as the already rewritten network produces them* together with the output that the *original*
network has there; the fit minimises the output error on these (FACTS: on a ResNet20 at rank 3 that
is worth two points over a fit to the original's inputs and sixty over one to the weights alone).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxsep.blas import blas_threads_for
from onnxsep.calibrate import ActivationWalk, shifted_moments
from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    DEFAULT_RIDGE,
    STEADY_LEAK,
    DepthwisePointwise,
    Fit,
    LayerProblem,
    fit_depthwise_pointwise,
    refit_behind_activation,
)
from onnxsep.passes.base import Change, LossyPass, Refusal, RewriteResult
from onnxsep.passes.lowering import replace_by_depthwise_pointwise
from onnxsep.progress import Progress, Silence
from onnxsep.runtime import Feeds
from onnxsep.surroundings import find_surroundings
from onnxsep.targets import TARGETS, Target

# With fewer input channels the depthwise filters have next to nothing to share, and the repeated
# input misses every blocked layout.
FEWEST_CHANNELS = 8
_STRONGEST_RIDGE = 0.2
# With so many images a refit behind the activation needs no steadying: on 1,000 images ResNet20 at
# rank 2 gains 0.6 to 2 points without, SimpNet-300k one.
_MANY_IMAGES = 256
# Rows of the refit behind the activation, and the memory that they may take.
_REFIT_ROWS = 24_576
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


def ridge_for(samples: int) -> float:
    """How strongly fits on so many images are held to the original weights.

    Chosen on ResNet20 and SimpNet-300k at rank 2 from 8 to 1,000 images: with 8 images 0.1 keeps
    10 to 16 points of accuracy more than 0.0001, with 1,000 it makes no difference.
    """
    return min(max(1.0 / samples, DEFAULT_RIDGE), _STRONGEST_RIDGE)


def why_not(site: ConvSite) -> Refusal | None:
    """Why a convolution cannot become depthwise → pointwise at all, whatever the rank."""
    figures = {"in_channels": site.in_channels, "out_channels": site.out_channels}
    if site.kind == "pointwise":
        return Refusal(site.name, "pointwise", "1x1 kernel: it is the cheap half already", figures)
    if site.kind == "depthwise":
        return Refusal(site.name, "depthwise", "depthwise already", figures)
    if site.kind == "grouped":
        reason = f"{site.group} groups: only ungrouped convolutions are rewritten"
        return Refusal(site.name, "grouped", reason, {**figures, "groups": site.group})
    if site.taps == 1 or site.out_channels == 1:
        reason = "one output channel: nothing for a pointwise convolution to mix"
        return Refusal(site.name, "too-few-channels", reason, figures)
    if site.in_channels < FEWEST_CHANNELS:
        reason = f"only {site.in_channels} input channels; separation starts at {FEWEST_CHANNELS}"
        return Refusal(site.name, "too-few-channels", reason, figures)
    if not np.isfinite(site.weight).all():
        return Refusal(site.name, "weight-not-finite", "its weight holds NaN or infinity", figures)
    return None


class Separate(LossyPass):
    """Rewrites the convolutions that it was told to, each at the rank it was told."""

    name = "separate"

    def __init__(
        self,
        ranks: Mapping[str, int],
        calibration: Calibration | None,
        *,
        refusals: Mapping[str, Refusal] | None = None,
        target: Target = TARGETS["cpu"],
        behind_activation: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Prepare the pass.

        Args:
            ranks: Name of a Conv node → filters per input channel.
            calibration: The data; None fits the weights alone, which loses far more.
            refusals: Reasons for convolutions that a plan left out of ``ranks``; repeated in the
                result.
            target: Decides the graph form.
            behind_activation: Refit every layer so that the error behind its activation is small.
            seed: Of the choice of output positions.
            progress: Told about every layer.
        """
        self._ranks = ranks
        self._calibration = calibration
        self._refusals = refusals or {}
        self._target = target
        self._behind_activation = behind_activation
        self._seed = seed
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
        for site in sites:
            refusal = why_not(site) or self._refusals.get(site.name)
            rank = self._ranks.get(site.name)
            if refusal is None and rank is None:
                refusal = Refusal(site.name, "not-chosen", "not named in the plan")
            if refusal is not None or rank is None:
                result.refusals.extend([refusal] if refusal else [])
                continue
            try:
                with blas_threads_for(site.in_channels * site.taps):
                    fit = self._fit(site, original_sites[site.name], original, walks, rank)
            except FactorizationError as error:
                result.refusals.append(Refusal(site.name, "fit-failed", str(error)))
                continue
            replace_by_depthwise_pointwise(
                model.graph,
                site,
                fit.factors.depthwise,
                fit.factors.pointwise,
                fit.bias,
                self._target.repeat,
            )
            result.modified = True
            result.changes.append(_change(site, fit))
        if result.modified:
            # The weights that were replaced, and nodes that only prepared them.
            RemoveUnusedNodesPass()(model)
        return result

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
        rank: int,
    ) -> Fit[DepthwisePointwise]:
        self._progress.step(site.name)
        if walks is None or self._calibration is None:
            problem = LayerProblem.weights_only(site.weight, site.bias)
            return fit_depthwise_pointwise(problem, [rank])[-1]
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
        fit = fit_depthwise_pointwise(problem, [rank])[-1]
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


def _rows_that_fit(site: ConvSite) -> int:
    """Rows to keep for the refit: as many as it needs, within a bound on memory."""
    row_bytes = 4 * (site.in_channels * site.taps + 2 * site.out_channels)
    return min(_REFIT_ROWS, _REFIT_BYTES // row_bytes)


def _change(site: ConvSite, fit: Fit[DepthwisePointwise]) -> Change:
    after = fit.factors.multiplications()
    return Change(
        site.name,
        "separated",
        f"depthwise-pointwise, rank {fit.factors.rank}",
        {
            "rank": fit.factors.rank,
            "error": fit.error,
            "parameters_before": site.parameters,
            "parameters_after": fit.factors.parameters,
            "multiplications_before": site.multiplications_per_pixel,
            "multiplications_after": after,
        },
    )


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
