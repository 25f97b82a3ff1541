"""The search: the fastest model within the budget, by measured latency and measured quality.

Candidates of every convolution are timed alone and judged alone; a knapsack turns both into plans
from careful to daring; the times of a few plans as a whole correct those of the layers; and of what
is then carried out, in float and in int8, the fastest that holds the budget is handed out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxsep.choose import Budget, Rewrite, aimed_plan, most_daring_within
from onnxsep.decision import Decision
from onnxsep.errors import BudgetError
from onnxsep.evaluation import Batches, Evaluation
from onnxsep.latency import Comparison, compare_latency
from onnxsep.means import Means
from onnxsep.model import serialized_bytes
from onnxsep.passes.quantize import QuantizeSettings
from onnxsep.passes.separate import Calibration
from onnxsep.plan import Plan
from onnxsep.progress import Progress
from onnxsep.quality import Quality
from onnxsep.runtime import Feeds
from onnxsep.search.build import Builder, Built, Deadline, Precision
from onnxsep.search.candidates import Candidate, layer_choices
from onnxsep.search.divergence import divergences
from onnxsep.search.planning import Planner
from onnxsep.search.timing import LayerTimer
from onnxsep.targets import Target

_TIMING_SECONDS = 25.0
_ALIGNMENT_SECONDS = 10.0
_MIXED_SECONDS = 5.0
_FINAL_SECONDS = 2.0
# Whole rewrites tried for one precision; each costs a walk through the network.
_MOST_REWRITES = 3
# Plans of one precision that are finished, timed and may be handed out: the fastest, and one that
# has so many standard errors of its drop to spare.
_FINALISTS = 2
_CAREFUL = 1.0
# Plans carried out for a front beside those around the border of the budget.
_FRONT_PLANS = 4

Key = tuple[str, Decision]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search may do.

    Attributes:
        precisions: To be tried.
        threads: Of latency measurements.
        seed: Of every random choice.
        min_speedup: Least speed-up; the most careful plan that reaches it is taken. None takes the
            fastest plan within the budget.
        seconds: Time for the whole search; None for as long as it needs.
        cache: File of layer times measured before; None keeps none.
        calibration_cache: Of activation statistics, see `collect_cached`; None keeps none.
        quantization: Settings of int8.
        aligns: Whether channel counts may be padded.
        front: Also carry out plans beside the best one, for a Pareto front.
    """

    precisions: tuple[Precision, ...]
    threads: int = 1
    seed: int = 0
    min_speedup: float | None = None
    seconds: float | None = None
    cache: Path | None = None
    calibration_cache: Path | None = None
    quantization: QuantizeSettings = dataclasses.field(default_factory=QuantizeSettings)
    aligns: bool = True
    front: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """A result that was built, judged and timed.

    Attributes:
        built: The model and how it came about.
        quality: On images that no fit saw.
        comparison: The cleaned input against it.
        holds: Whether it is within the budget.
        bytes: Size of the model as a file.
    """

    built: Built
    quality: Quality
    comparison: Comparison
    holds: bool
    bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        ranked: To be handed out, the best first; none if nothing is faster within the budget.
        findings: All that was built and timed.
        kept: Reasons of the convolutions that were looked at, for when nothing was rewritten.
        notes: What the report must say.
    """

    ranked: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    kept: Plan
    notes: tuple[str, ...]


def search(
    cleaned: ir.Model,
    fit: Batches,
    single: Feeds,
    evaluation: Evaluation,
    budget: Budget,
    target: Target,
    settings: SearchSettings,
    progress: Progress,
    means: Means,
) -> Outcome:
    """Find the fastest model within a budget.

    Args:
        cleaned: The network; left unchanged.
        fit: Images that fits and ranges see.
        single: One input, for timing.
        evaluation: On images that no fit sees.
        budget: What may be lost there.
        target: Must be measured, here or by the stopwatch of ``means``.
        settings: What the search may do.
        progress: Told about every step.
        means: Where fits of candidates run, and where latency is measured.

    Raises:
        BudgetError: ``min_speedup`` is out of reach.
    """
    return _Search(
        cleaned, fit, single, evaluation, budget, target, settings, progress, means
    ).run()


class _Search:
    def __init__(
        self,
        cleaned: ir.Model,
        fit: Batches,
        single: Feeds,
        evaluation: Evaluation,
        budget: Budget,
        target: Target,
        settings: SearchSettings,
        progress: Progress,
        means: Means,
    ) -> None:
        self._cleaned = cleaned
        self._single = single
        self._evaluation = evaluation
        self._budget = budget
        self._settings = settings
        self._progress = progress
        self._stopwatch = means.stopwatch
        self._deadline = Deadline(settings.seconds)
        self._builder = Builder(
            cleaned,
            fit,
            single,
            target,
            judges=evaluation.batches,
            settings=settings.quantization,
            threads=settings.threads,
            seed=settings.seed,
            stopwatch=means.stopwatch,
            cache=settings.calibration_cache,
            progress=progress,
        )
        calibration = Calibration(fit, len(fit.dataset))
        choices = layer_choices(
            cleaned, calibration, seed=settings.seed, executor=means.executor, progress=progress
        )
        self._candidates: dict[Key, Candidate] = {
            (layer.site.name, candidate.decision): candidate
            for layer in choices
            for candidate in layer.candidates
        }
        timer = LayerTimer(
            target,
            threads=settings.threads,
            cache=settings.cache,
            seconds_cap=self._deadline.left(_TIMING_SECONDS),
            stopwatch=means.stopwatch,
            progress=progress,
        )
        self._planner = Planner(
            cleaned,
            choices,
            divergences(
                cleaned, choices, evaluation.batches, evaluation.measure, progress=progress
            ),
            self._builder,
            timer,
            self._compare,
            self._deadline,
            progress,
        )
        self._findings: list[Finding] = []
        self._tried: list[Rewrite[Built]] = []
        self._notes: list[str] = []

    def run(self) -> Outcome:
        """Search every precision and compare what they bring."""
        kept: Plan | None = None
        for precision in self._settings.precisions:
            if self._findings and self._deadline.late():
                self._notes.append(f"the time was up before {precision} was searched")
                break
            plans = self._planner.plans(precision)
            kept = kept or plans[0]
            if precision == "fp32":
                plans = plans[1:]
            self._try(plans, precision)
        return Outcome(
            self._ranked(), tuple(self._findings), kept or Plan({}, 1.0, {}), tuple(self._notes)
        )

    def _try(self, plans: Sequence[Plan], precision: Precision) -> None:
        """Carry out the plans around the border of the budget, and time the best."""
        if not plans:
            return
        wanted = self._settings.min_speedup
        if wanted is not None:
            fast = [plan for plan in plans if 1 / plan.cost >= wanted]
            if not fast:
                return
            built = self._builder.build(fast[0], precision, corrects_bias=True)
            self._note(built, self._evaluation.of(built.model))
            return
        best, tried = self._daring(plans, precision, self._budget, self._start(plans))
        careful = self._budget.sparing(max(_CAREFUL, self._budget.spare))
        if best is not None and not careful.accepts(best.quality):
            # Images that verify may reject it: a more careful one must be at hand.
            place = next(i for i, plan in enumerate(plans) if plan is best.plan)
            if place > 0:
                start = aimed_plan(tried, plans[:place], careful)
                tried += self._daring(plans[:place], precision, careful, start, most=1)[1]
        self._tried += tried
        if precision == "int8":
            tried += self._barely(plans[0], precision)
            tried += self._partly_float(tried)
        if not self._settings.front:
            # The next more careful one, in case images that nothing has seen judge otherwise.
            once = {tuple(one.plan.decisions.items()): one for one in tried}
            within = [one for one in once.values() if self._budget.accepts(one.quality)]
            within.sort(key=lambda one: one.plan.cost)
            second = [one for one in within[1:] if careful.accepts(one.quality)] or within[1:]
            finalists = within[:1] + second[: _FINALISTS - 1]
            if precision == "int8" and tried[-1] in within and tried[-1] not in finalists:
                finalists.append(tried[-1])
            for rewrite in finalists:
                self._finish(rewrite, precision)
            return
        done = {tuple(rewrite.plan.decisions.items()) for rewrite in tried}
        step = max(1, len(plans) // _FRONT_PLANS)
        for plan in plans[step - 1 :: step]:
            if tuple(plan.decisions.items()) not in done and not self._deadline.late():
                built = self._builder.build(plan, precision)
                tried.append(Rewrite(plan, built, self._evaluation.of(built.model)))
        for rewrite in tried:
            self._finish(rewrite, precision)

    def _daring(
        self,
        plans: Sequence[Plan],
        precision: Precision,
        budget: Budget,
        start: int | None,
        most: int = _MOST_REWRITES,
    ) -> tuple[Rewrite[Built] | None, list[Rewrite[Built]]]:
        """The most daring of the plans within a budget, and all that were tried."""
        return most_daring_within(
            self._cleaned,
            self._candidates,
            plans,
            lambda plan: self._builder.build(plan, precision),
            self._evaluation,
            budget,
            self._progress,
            most_rewrites=most,
            late=self._deadline.late,
            start=start,
        )

    def _start(self, plans: Sequence[Plan]) -> int | None:
        """Where the budget ends, by what plans of another precision have lost."""
        within = [one.plan.divergence for one in self._tried if self._budget.accepts(one.quality)]
        beyond = [
            one.plan.divergence for one in self._tried if not self._budget.accepts(one.quality)
        ]
        if not self._tried:
            return None
        # Quantization costs something, too; half way to what is known to be too much.
        limit = max(within, default=0.0)
        limit = limit if within else min(beyond) / 2
        fitting = [place for place, plan in enumerate(plans) if plan.divergence <= limit]
        return max(fitting, default=0)

    def _barely(self, careful: Plan, precision: Precision) -> list[Rewrite[Built]]:
        """Nothing separated, only quantized."""
        built = self._builder.build(Plan({}, 1.0, careful.refusals, 0.0), precision)
        return [Rewrite(built.plan, built, self._evaluation.of(built.model))]

    def _partly_float(self, tried: Sequence[Rewrite[Built]]) -> list[Rewrite[Built]]:
        """Where int8 costs too much whatever is separated: some layers in float."""
        if any(self._budget.accepts(one.quality) for one in tried) or self._deadline.late():
            return []

        def holds(model: ir.Model) -> bool:
            return self._budget.accepts(self._evaluation.of(model))

        try:
            built = self._builder.with_layers_in_float(tried[-1].result, holds)
        except BudgetError as error:
            self._notes.append(f"int8 was given up: {error}")
            return []
        return [Rewrite(built.plan, built, self._evaluation.of(built.model))]

    def _finish(self, rewrite: Rewrite[Built], precision: Precision) -> None:
        """Align channels and leave layers in float where that pays, and note the result."""
        built, quality = rewrite.result, rewrite.quality
        seconds = self._deadline.left(_ALIGNMENT_SECONDS)
        alignment: Mapping[str, int] = {}
        if self._settings.aligns:
            alignment = self._builder.alignment(rewrite.plan, precision, seconds)
        if precision == "int8":
            keep_float = built.keep_float | self._builder.faster_in_float(
                rewrite.plan, alignment, self._compare, self._deadline.left(_MIXED_SECONDS)
            )
            built = self._builder.build(
                rewrite.plan, precision, alignment, keep_float, corrects_bias=True
            )
        elif alignment:
            built = self._builder.build(rewrite.plan, precision, alignment)
        if built is not rewrite.result:
            quality = self._evaluation.of(built.model)
        self._note(built, quality)

    def _note(self, built: Built, quality: Quality) -> None:
        self._progress.stage(f"timing the {built.precision} result and the input in turn")
        comparison = self._compare(self._cleaned, built.model, _FINAL_SECONDS)
        holds = self._budget.accepts(quality)
        size = serialized_bytes(built.model)
        self._findings.append(Finding(built, quality, comparison, holds, size))
        self._progress.note(
            f"{built.precision}: {comparison.speedup:.2f}x "
            f"({comparison.low:.2f}-{comparison.high:.2f}), {quality.drop:.2f} lost"
        )

    def _ranked(self) -> tuple[Finding, ...]:
        """Faster beyond doubt and within the budget; given a least speed-up, all so fast."""
        wanted = self._settings.min_speedup
        if wanted is not None:
            fast = [found for found in self._findings if found.comparison.speedup >= wanted]
            if not fast:
                reached = max((found.comparison.speedup for found in self._findings), default=1.0)
                raise BudgetError(
                    f"no plan is {wanted:g} times as fast as the input; the fastest that was "
                    f"tried is {reached:.2f} times as fast; nothing was written"
                )
            return tuple(sorted(fast, key=lambda found: found.quality.drop))
        useful = [found for found in self._findings if found.holds and found.comparison.low > 1.0]
        return tuple(sorted(useful, key=lambda found: -found.comparison.speedup))

    def _compare(self, first: ir.Model, second: ir.Model, seconds: float) -> Comparison:
        return compare_latency(
            first,
            second,
            self._single,
            threads=self._settings.threads,
            seconds=seconds,
            stopwatch=self._stopwatch,
        )
