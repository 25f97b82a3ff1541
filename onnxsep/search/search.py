"""The search: the fastest model within the budget, by measured latency and measured quality.

Candidates of every convolution are timed alone and judged alone; a knapsack turns both into plans
from careful to daring; the times of a few plans as a whole correct those of the layers; and of what
is then carried out, in float and in int8, the fastest that holds the budget is handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxsep.choose import Budget, Rewrite, aimed_plan, most_daring_within
from onnxsep.decision import Decision
from onnxsep.errors import BudgetError
from onnxsep.evaluation import Batches, Evaluation
from onnxsep.factorize import INT8_ROUNDING
from onnxsep.latency import Comparison, compare_latency
from onnxsep.means import Means
from onnxsep.model import serialized_bytes
from onnxsep.passes.separate import Calibration
from onnxsep.plan import Plan
from onnxsep.progress import Progress
from onnxsep.quality import Quality
from onnxsep.runtime import Feeds
from onnxsep.search.build import Builder, Built, Deadline, Precision
from onnxsep.search.candidates import Candidate, layer_choices
from onnxsep.search.divergence import divergences
from onnxsep.search.findings import Finding, Outcome, SearchSettings
from onnxsep.search.planning import Planner
from onnxsep.search.timing import LayerTimer
from onnxsep.targets import Target

_TIMING_SECONDS = 25.0
_ALIGNMENT_SECONDS = 10.0
_MIXED_SECONDS = 5.0
_FINAL_SECONDS = 2.0
# Whole rewrites tried for one precision; each costs a walk through the network.
_MOST_REWRITES = 3
# Where images that nothing had seen reject results, so many more careful ones are made before
# nothing is separated at all; each has at most this share of the rejected one's divergence, since
# the images of the choice have just shown how little they know.
_RETREATS, _STEP_BACK = 3, 0.75
# A precision that is predicted to be slower than this share of what another one has reached is not
# carried out.
_WORTH_A_TRY = 0.95
# Plans carried out for a front beside those around the border of the budget.
_FRONT_PLANS = 4

Key = tuple[str, Decision]


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
            cleaned,
            calibration,
            seed=settings.seed,
            rounding=INT8_ROUNDING if "int8" in settings.precisions else 0.0,
            executor=means.executor,
            progress=progress,
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
        self._plans: dict[Precision, list[Plan]] = {}
        self._tried: dict[Precision, list[Rewrite[Built]]] = {}
        self._retreats: dict[Precision, int] = {}
        self._kept: Plan | None = None
        self._notes: list[str] = []

    def run(self) -> Outcome:
        """Search every precision and compare what they bring."""
        for precision in self._settings.precisions:
            if self._findings and self._deadline.late():
                self._notes.append(f"the time was up before {precision} was searched")
                break
            plans = self._planner.plans(precision)
            self._kept = self._kept or plans[0]
            if precision == "fp32":
                plans = plans[1:]
            plans = self._worth_trying(plans, precision)
            if plans:
                self._try(plans, precision)
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(
            self._ranked(),
            tuple(self._findings),
            self._kept or Plan({}, 1.0, {}),
            tuple(self._notes),
            self._retreat,
        )

    def _worth_trying(self, plans: list[Plan], precision: Precision) -> list[Plan]:
        """Those that may be faster than what another precision has reached."""
        reached = [found.comparison.speedup for found in self._findings if found.holds]
        if not reached or self._settings.front or self._settings.min_speedup is not None:
            return plans
        faster = self._as_fast_as(_WORTH_A_TRY * max(reached), plans, precision)
        if plans and not faster:
            speedup = self._planner.speedup(plans[-1], precision)
            self._notes.append(
                f"{precision} was not carried out: its most daring plan is predicted to be "
                f"{speedup:.2f}x as fast as the input"
            )
        return faster

    def _as_fast_as(self, wanted: float, plans: Sequence[Plan], precision: Precision) -> list[Plan]:
        return [plan for plan in plans if self._planner.speedup(plan, precision) >= wanted]

    def _try(self, plans: list[Plan], precision: Precision) -> None:
        """Carry out the plans around the border of the budget, and finish the best."""
        wanted = self._settings.min_speedup
        if wanted is not None:
            fast = self._as_fast_as(wanted, plans, precision)
            if not fast:
                return
            built = self._builder.build(fast[0], precision, corrects_bias=True)
            self._note(built, self._evaluation.of(built.model))
            return
        tried = self._daring(plans, precision, self._budget, self._start(plans))
        self._plans[precision] = plans
        self._tried[precision] = tried
        if self._settings.front:
            if precision == "int8":
                tried += self._barely(precision)
                tried += self._partly_float(tried)
            self._finish_front(plans, precision)
            return
        if self._finish_best(precision):
            return
        if precision == "int8":
            tried += self._barely(precision)
            tried += self._partly_float(tried)
            if self._budget.accepts(tried[-1].quality):
                self._finish(tried[-1], precision)

    def _finish_best(self, precision: Precision) -> bool:
        """Finish the fastest of what was tried; if it holds no longer then, a more careful one."""
        within = [one for one in self._tried[precision] if self._budget.accepts(one.quality)]
        if not within:
            return False
        best = min(within, key=lambda one: one.plan.cost)
        finding = self._finish(best, precision)
        if finding.holds:
            return True
        stricter = self._budget.after_rejection(best.quality, finding.quality)
        return self._finish_before(best.plan, precision, stricter)

    def _finish_before(
        self, plan: Plan, precision: Precision, budget: Budget, share: float = 1.0
    ) -> bool:
        """Finish the fastest plan before this one that holds a budget; whether there is one.

        Args:
            plan: What lost too much.
            precision: Its precision.
            budget: What a more careful plan may lose.
            share: Of the divergence of ``plan`` that it may have.
        """

        def is_before(other: Plan) -> bool:
            return other.cost > plan.cost and other.divergence <= share * plan.divergence

        plans = [other for other in self._plans[precision] if is_before(other)]
        tried = self._tried[precision]
        careful = [one for one in tried if is_before(one.plan) and budget.accepts(one.quality)]
        if not careful:
            if not plans or self._deadline.late():
                return False
            start = aimed_plan(tried, plans, budget)
            more = self._daring(plans, precision, budget, start, most=1)
            tried += more
            # One that is hardly as careful as it should be is better than none.
            careful = [one for one in more if budget.accepts(one.quality)] or more[-1:]
        return self._finish(min(careful, key=lambda one: one.plan.cost), precision).holds

    def _finish_front(self, plans: Sequence[Plan], precision: Precision) -> None:
        """Finish all that was tried, and plans all along the way."""
        tried = self._tried[precision]
        done = {tuple(rewrite.plan.decisions.items()) for rewrite in tried}
        step = max(1, len(plans) // _FRONT_PLANS)
        for plan in plans[step - 1 :: step]:
            if tuple(plan.decisions.items()) not in done and not self._deadline.late():
                built = self._builder.build(plan, precision)
                tried.append(Rewrite(plan, built, self._evaluation.of(built.model)))
        for rewrite in tried:
            self._finish(rewrite, precision)

    def _retreat(self, failed: Finding, verified: Quality) -> Outcome:
        """Finish a more careful result of the same precision, if there can be one."""
        precision, plan = failed.built.precision, failed.built.plan
        if self._settings.front or not plan.decisions or self._settings.min_speedup is not None:
            return self._outcome()
        level = self._retreats.get(precision, 0)
        self._retreats[precision] = level + 1
        budget = self._budget.after_rejection(failed.quality, verified)
        share = min(_STEP_BACK, self._budget.share_to_keep(verified))
        done = level < _RETREATS and self._finish_before(plan, precision, budget, share)
        if not done and precision == "int8":
            (barely,) = self._barely(precision)
            self._finish(barely, precision)
        return self._outcome()

    def _daring(
        self,
        plans: Sequence[Plan],
        precision: Precision,
        budget: Budget,
        start: int | None,
        most: int = _MOST_REWRITES,
    ) -> list[Rewrite[Built]]:
        """Plans around the border of a budget, carried out."""
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
        )[1]

    def _start(self, plans: Sequence[Plan]) -> int | None:
        """Where the budget ends, by what plans of another precision have lost."""
        known = [one for tried in self._tried.values() for one in tried]
        within = [one.plan.divergence for one in known if self._budget.accepts(one.quality)]
        beyond = [one.plan.divergence for one in known if not self._budget.accepts(one.quality)]
        if not known:
            return None
        # Precisions lose something of their own; half way to what is known to be too much.
        limit = max(within, default=0.0)
        limit = limit if within else min(beyond) / 2
        fitting = [place for place, plan in enumerate(plans) if plan.divergence <= limit]
        return max(fitting, default=0)

    def _barely(self, precision: Precision) -> list[Rewrite[Built]]:
        """Nothing separated, only quantized."""
        refusals = {} if self._kept is None else self._kept.refusals
        built = self._builder.build(Plan({}, 1.0, refusals, 0.0), precision)
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

    def _finish(self, rewrite: Rewrite[Built], precision: Precision) -> Finding:
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
        return self._note(built, quality)

    def _note(self, built: Built, quality: Quality) -> Finding:
        self._progress.stage(f"timing the {built.precision} result and the input in turn")
        comparison = self._compare(self._cleaned, built.model, _FINAL_SECONDS)
        holds = self._budget.accepts(quality)
        size = serialized_bytes(built.model)
        finding = Finding(built, quality, comparison, holds, size)
        self._findings.append(finding)
        self._progress.note(
            f"{built.precision}: {comparison.speedup:.2f}x "
            f"({comparison.low:.2f}-{comparison.high:.2f}), "
            f"{quality.said_to_be_lost(self._evaluation.measure.points)}"
        )
        return finding

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
