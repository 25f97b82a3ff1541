"""Which convolution gets which rank: a simple choice that respects a budget.

Costs come from multiplications, with a weight on depthwise ones that was measured once, and errors
from each layer's rank curve on the original's inputs. That is enough to order the plans from
careful to daring; which of them holds the budget is found by rewriting and measuring the whole.
Choosing by latency measured on the target is a search of its own and not here yet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxsep.blas import blas_threads_for
from onnxsep.calibrate import ActivationWalk, own_moments
from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.decision import DEFAULT_FORM, Decision, Form
from onnxsep.errors import FactorizationError
from onnxsep.factorize import LayerProblem, fit_depthwise_pointwise
from onnxsep.passes.base import Refusal
from onnxsep.passes.separate import Calibration, ridge_for, why_not, why_not_at
from onnxsep.progress import Progress, Silence

RANKS = (1, 2, 3, 4)
# One depthwise multiplication takes as long as this many pointwise ones: between 3 and 5 fits the
# float timings of the Concat form at 64 to 512 channels and r = 2, 3 (docs/how-we-measure.md).
DEPTHWISE_WEIGHT = 4.0
# Blocked layouts need channel counts divisible by this; a Concat that misses them runs 2-3 times
# slower than its multiplications say, dense convolutions about 1.4 times.
_CHANNEL_BLOCK = 4
_MISALIGNED_SEPARABLE = 2.2
_MISALIGNED_DENSE = 1.4
# A layer that is predicted to gain less than this is not worth its loss of quality.
LEAST_GAIN = 1.15
# Prices of error, from nothing is worth any error to everything is.
_PRICES = np.geomspace(1e4, 1e-2, 600)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One rank for one layer.

    Attributes:
        rank: Filters per channel, or channels in the middle of ``cp``.
        error: Relative output error on the original's inputs.
        cost: Weighted multiplications for one image.
        weight: (N, C, *kernel) float32, the dense equivalent.
        bias: (N,) float32.
        form: The separable form.
    """

    rank: int
    error: float
    cost: float
    weight: np.ndarray
    bias: np.ndarray
    form: Form = DEFAULT_FORM

    @property
    def decision(self) -> Decision:
        """Form and rank, as a plan names them."""
        return Decision(self.form, self.rank)


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """What can be done with one convolution.

    Attributes:
        site: The convolution.
        pixels: Output positions for one image.
        cost: Weighted multiplications of the original for one image.
        candidates: In ascending order of rank; empty if refused.
        refusal: Why there are none.
    """

    site: ConvSite
    pixels: int
    cost: float
    candidates: tuple[Candidate, ...]
    refusal: Refusal | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A form and a rank for every convolution that is to be rewritten.

    Attributes:
        decisions: Node name → form and rank.
        cost: Weighted multiplications of all convolutions, as a share of the original's.
        refusals: Node name → why it is left alone.
        divergence: Predicted for the outputs, NaN where it is not; it orders plans, no more.
    """

    decisions: Mapping[str, Decision]
    cost: float
    refusals: Mapping[str, Refusal]
    divergence: float = math.nan

    @property
    def ranks(self) -> dict[str, int]:
        """Node name → rank, without the form."""
        return {name: decision.rank for name, decision in self.decisions.items()}


def dense_time(site: ConvSite) -> float:
    """Predicted time of the original for one output position, in pointwise multiplications."""
    misaligned = site.in_channels % _CHANNEL_BLOCK or site.out_channels % _CHANNEL_BLOCK
    return site.multiplications_per_pixel * (_MISALIGNED_DENSE if misaligned else 1.0)


def separable_time(site: ConvSite, rank: int) -> float:
    """Predicted time of depthwise → pointwise for one output position, in the same unit."""
    depthwise = rank * site.in_channels * site.taps
    pointwise = rank * site.in_channels * site.out_channels
    misaligned = site.in_channels % _CHANNEL_BLOCK or site.out_channels % _CHANNEL_BLOCK
    return (DEPTHWISE_WEIGHT * depthwise + pointwise) * (
        _MISALIGNED_SEPARABLE if misaligned else 1.0
    )


def layer_options(
    model: ir.Model,
    calibration: Calibration,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LayerOptions]:
    """Rank curves of all convolutions worth rewriting, on the original's inputs, in one walk."""
    progress = progress or Silence()
    walk = ActivationWalk(model, calibration.batches, threads=calibration.threads)
    sites = find_convolutions(model.graph)[0]
    progress.stage("measuring what each convolution can give up", len(sites))
    options = []
    sizes = output_sizes(model, calibration)
    for site in sites:
        progress.step(site.name)
        pixels = sizes[site.output_name]
        refusal = why_not(site) or _not_worth_it(site)
        candidates: tuple[Candidate, ...] = ()
        if refusal is None:
            try:
                with blas_threads_for(site.in_channels * site.taps):
                    moments = own_moments(walk, site, samples=calibration.samples, seed=seed)
                    ridge = ridge_for(calibration.samples)
                    problem = LayerProblem.from_moments(
                        site.weight, site.bias, moments, ridge=ridge
                    )
                    candidates = _candidates(site, pixels, problem)
            except FactorizationError as error:
                refusal = Refusal(site.name, "fit-failed", str(error))
        options.append(LayerOptions(site, pixels, pixels * dense_time(site), candidates, refusal))
    return options


def output_sizes(model: ir.Model, calibration: Calibration) -> dict[str, int]:
    """Output positions of every convolution for one image, by name of its output."""
    names = [site.output_name for site in find_convolutions(model.graph)[0]]
    feeds = next(iter(calibration.batches))
    walk = ActivationWalk(model, [feeds], threads=calibration.threads)
    values = next(walk.step(names, cut_before=None)) if names else {}
    return {name: math.prod(values[name].shape[2:]) for name in names}


def order_plans(options: Sequence[LayerOptions]) -> list[Plan]:
    """Different plans from careful to daring, each the best trade at one price of error.

    The first rewrites nothing and holds every layer's reason to stay as it is.
    """
    total = sum(option.cost for option in options) or 1.0
    reasons = {option.site.name: option.refusal or _over_budget(option) for option in options}
    plans = [Plan({}, 1.0, reasons)]
    for price in _PRICES:
        decisions: dict[str, Decision] = {}
        refusals: dict[str, Refusal] = {}
        cost = 0.0
        for option in options:
            keep = option.cost
            best = min(
                option.candidates,
                key=lambda candidate: (
                    candidate.cost / total + price * candidate.error / len(options)
                ),
                default=None,
            )
            if best is not None and best.cost / total + price * best.error / len(options) < (
                keep / total
            ):
                decisions[option.site.name] = best.decision
                cost += best.cost
                continue
            cost += keep
            refusals[option.site.name] = reasons[option.site.name]
        if plans[-1].decisions != decisions:
            plans.append(Plan(decisions, cost / total, refusals))
    return plans


def _candidates(site: ConvSite, pixels: int, problem: LayerProblem) -> tuple[Candidate, ...]:
    ranks = [rank for rank in RANKS if dense_time(site) >= LEAST_GAIN * separable_time(site, rank)]
    return tuple(
        Candidate(
            rank=fit.factors.rank,
            error=fit.error,
            cost=pixels * separable_time(site, fit.factors.rank),
            weight=fit.factors.dense().reshape(site.weight.shape).astype(site.weight.dtype),
            bias=fit.bias.astype(site.weight.dtype),
        )
        for fit in fit_depthwise_pointwise(problem, ranks)
    )


def _not_worth_it(site: ConvSite) -> Refusal | None:
    gain = dense_time(site) / separable_time(site, 1)
    if gain >= LEAST_GAIN:
        return None
    dense, separable = (
        site.multiplications_per_pixel,
        site.in_channels * (site.taps + site.out_channels),
    )
    return Refusal(
        site.name,
        "not-worth-it",
        f"{dense} multiplications would become {separable}, predicted {gain:.2f}x as fast",
        {"multiplications": dense, "separable_multiplications": separable, "predicted_gain": gain},
    )


def _over_budget(option: LayerOptions) -> Refusal:
    best = min(option.candidates, key=lambda candidate: candidate.error)
    return Refusal(
        option.site.name,
        "over-budget",
        f"costs too much quality: {100 * best.error:.1f} % output error at rank {best.rank}",
        {"rank": best.rank, "error": best.error},
    )


def forced_plan(model: ir.Model, rank: float, form: Form = DEFAULT_FORM) -> Plan:
    """Every convolution that can be rewritten, in one form, wherever it saves multiplications.

    Args:
        model: The cleaned network.
        rank: Depthwise filters per channel, see `Decision.relative`.
        form: The form.

    Raises:
        ConfigurationError: The rank has no meaning for the form.
    """
    decisions: dict[str, Decision] = {}
    refusals: dict[str, Refusal] = {}
    for site in find_convolutions(model.graph)[0]:
        decision = Decision.relative(form, rank, site.out_channels, site.in_channels)
        dense = site.multiplications_per_pixel
        separable = decision.multiplications(
            site.out_channels, site.in_channels, site.taps, math.prod(site.geometry.strides)
        )
        refusal = why_not_at(site, decision)
        if refusal is None and separable >= dense:
            refusal = Refusal(
                site.name,
                "not-worth-it",
                f"{dense} multiplications would become {separable} at rank {rank:g}",
                {"multiplications": dense, "separable_multiplications": separable},
            )
        if refusal is None:
            decisions[site.name] = decision
        else:
            refusals[site.name] = refusal
    return Plan(decisions, math.nan, refusals)
