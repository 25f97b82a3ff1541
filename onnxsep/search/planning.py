"""Plans from careful to daring for one precision, times corrected by those of whole models."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxsep.decision import Decision
from onnxsep.latency import Comparison
from onnxsep.passes.base import Refusal
from onnxsep.plan import Plan
from onnxsep.progress import Progress
from onnxsep.search.allocate import Allocation, Layer, Option, plans_along_front
from onnxsep.search.build import Builder, Deadline, Precision
from onnxsep.search.candidates import LayerChoices
from onnxsep.search.divergence import Divergences
from onnxsep.search.mixed import Compare
from onnxsep.search.recalibrate import MeasuredPlan, recalibrate
from onnxsep.search.timing import LayerTimer, LayerTimes

# Plans that are timed as a whole before any fit, to correct the sum of their layers' times.
_WHOLE_PLANS = 9
# And plans of the corrected sums, to correct these once more.
_CHECKED_PLANS = 5
_WHOLE_SECONDS = 0.8
# What all layers that are kept, and all that are separated, have in common.
_KEPT_TRAIT, _SEPARATED_TRAIT = "kept", "separated"
# Channel counts that blocked layouts want.
_BLOCK = 4
# A plan must be predicted to be faster than the next more careful one by this share.
_LEAST_STEP = 0.01


class Planner:
    """Makes plans out of layer times and divergences."""

    def __init__(
        self,
        cleaned: ir.Model,
        choices: Sequence[LayerChoices],
        divergences: Divergences,
        builder: Builder,
        timer: LayerTimer,
        compare: Compare,
        deadline: Deadline,
        progress: Progress,
    ) -> None:
        """Prepare.

        Args:
            cleaned: The network.
            choices: Every convolution with its candidates.
            divergences: Of every candidate.
            builder: Makes whole models without fits.
            timer: Times layers.
            compare: Times whole models.
            deadline: Shortens what would take longer.
            progress: Told about every measurement.
        """
        self._cleaned = cleaned
        self._choices = choices
        self._divergences = divergences
        self._builder = builder
        self._timer = timer
        self._compare = compare
        self._deadline = deadline
        self._progress = progress
        # How much faster than in float the network is with nothing separated.
        self._unseparated: dict[Precision, float] = {}
        self._factors = {
            (layer.site.name, candidate.decision): candidate.factors
            for layer in choices
            for candidate in layer.candidates
        }

    def speedup(self, plan: Plan, precision: Precision) -> float:
        """Over the cleaned network in float, as far as predicted; of plans made here."""
        return self._unseparated[precision] / plan.cost

    def plans(self, precision: Precision) -> list[Plan]:
        """From careful to daring, the sum of layer times corrected by that of whole models.

        Costs are shares of the time of the network in the same precision with nothing separated.
        """
        times = self._timer.times(self._choices, precision=precision)
        layers = [self._layer(choice, times, precision) for choice in self._choices]
        baseline = self._cleaned
        if precision == "int8":
            baseline = self._builder.roughly_quantized(baseline.clone())
        comparison = self._compare(self._cleaned, baseline, _WHOLE_SECONDS)
        whole = comparison.second.median
        self._unseparated[precision] = comparison.speedup if precision == "int8" else 1.0
        fixed = max(whole - sum(layer.keep.ms for layer in layers), 0.0)
        front = plans_along_front(layers, fixed_ms=fixed)
        measured = [MeasuredPlan.of(front[0], whole)]
        for place, comparison in self._whole_times(
            front, precision, baseline, _WHOLE_PLANS
        ).items():
            taken = whole / comparison.speedup
            margin = taken * (comparison.high - comparison.low) / (2 * comparison.speedup)
            measured.append(MeasuredPlan.of(front[place], taken, margin))
        if len(measured) > 2:
            truer = recalibrate(layers, measured)
            front = plans_along_front(truer.layers, fixed_ms=truer.fixed_ms)
        front = self._corrected(front, precision, baseline, whole)
        return [
            Plan(
                allocation.decisions,
                allocation.ms / max(front[0].ms, 1e-9),
                allocation.refusals,
                allocation.divergence,
            )
            for allocation in front
        ]

    def _layer(self, choice: LayerChoices, times: LayerTimes, precision: Precision) -> Layer:
        name = choice.site.name
        if not choice.candidates:
            return Layer(name, Option(None, 0.0, 0.0), (), choice.refusal)
        keep = times[name, None]
        kept = Option(
            None, keep.ms, 0.0, (keep.high - keep.low) / 2, traits=frozenset({_KEPT_TRAIT})
        )
        options = []
        for candidate in choice.candidates:
            time = times[name, candidate.decision]
            divergence = self._divergences[name, candidate.decision]
            options.append(
                Option(
                    candidate.decision,
                    time.ms,
                    divergence.rounded if precision == "int8" else divergence.exact,
                    (time.high - time.low) / 2,
                    traits=_traits(choice, candidate.decision, time.padding),
                )
            )
        return Layer(name, kept, tuple(options))

    def _whole_times(
        self, front: Sequence[Allocation], precision: Precision, baseline: ir.Model, most: int
    ) -> dict[int, Comparison]:
        """Some plans, evenly along the front, against ``baseline``, as whole models."""
        useful = [place for place, plan in enumerate(front) if plan.decisions]
        if not useful:
            return {}
        self._progress.stage("timing whole plans", most)
        step = (len(useful) - 1) / (most - 1)
        places = sorted({useful[round(number * step)] for number in range(most)})
        found = {}
        for place in places:
            plan = _plan(front[place])
            self._progress.step(f"{len(plan.decisions)} convolutions separated")
            skeleton = self._builder.skeleton(plan, self._factors, precision)
            found[place] = self._compare(baseline, skeleton, self._deadline.left(_WHOLE_SECONDS))
        return found

    def _corrected(
        self,
        front: list[Allocation],
        precision: Precision,
        baseline: ir.Model,
        whole: float,
    ) -> list[Allocation]:
        """Times of a few whole plans, and those between by interpolation; what is slower goes."""
        ratios = {
            place: whole / comparison.speedup / front[place].ms
            for place, comparison in self._whole_times(
                front, precision, baseline, _CHECKED_PLANS
            ).items()
        }
        if not ratios:
            return front
        corrected = [
            dataclasses.replace(plan, ms=plan.ms * _between(ratios, place))
            for place, plan in enumerate(front)
        ]
        faster = [corrected[0]]
        for plan in corrected[1:]:
            if plan.ms < faster[-1].ms * (1 - _LEAST_STEP):
                faster.append(plan)
        if len(faster) == 1:
            # Every layer has a form that is faster alone, but no whole is.
            best = min(ratio * front[place].ms for place, ratio in ratios.items())
            reason = f"the whole with it was {whole / best:.2f}x as fast as without"
            refusals = {
                name: Refusal(name, "not-faster", reason, {"speedup": whole / best})
                for plan in front
                for name in plan.decisions
            }
            faster = [dataclasses.replace(front[0], refusals={**front[0].refusals, **refusals})]
        return faster


def _traits(choice: LayerChoices, decision: Decision, padding: int) -> frozenset[str]:
    """What may make an option cost more, or less, in a whole network than alone."""
    channels = (choice.site.in_channels, choice.site.out_channels)
    traits: set[str] = {_SEPARATED_TRAIT, decision.form}
    if padding > 1:
        traits.add("padded")
    elif any(count % _BLOCK for count in channels):
        traits.add("misaligned")
    return frozenset(traits)


def _plan(allocation: Allocation) -> Plan:
    return Plan(allocation.decisions, allocation.ms, allocation.refusals)


def _between(known: Mapping[int, float], place: int) -> float:
    """Linear interpolation between the nearest known places, constant outside."""
    places = sorted(known)
    if place <= places[0]:
        return known[places[0]]
    for low, high in itertools.pairwise(places):
        if place <= high:
            share = (place - low) / (high - low)
            return known[low] * (1 - share) + known[high] * share
    return known[places[-1]]
