"""Which lossy rewrite a run gets: forced, planned by cost, or found by the search."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxsep.choose import Budget, most_daring_within
from onnxsep.convolution import find_convolutions
from onnxsep.decision import DEFAULT_FORM
from onnxsep.errors import BudgetError
from onnxsep.evaluation import Evaluation
from onnxsep.latency import compare_latency
from onnxsep.material import Material
from onnxsep.means import Means
from onnxsep.options import Options
from onnxsep.passes.align_channels import AlignChannels
from onnxsep.passes.base import Refusal
from onnxsep.passes.quantize import Quantize, QuantizeSettings
from onnxsep.passes.separate import Calibration, Separate
from onnxsep.passes.to_fp16 import ToFp16
from onnxsep.plan import Plan, forced_plan, layer_options, order_plans
from onnxsep.progress import Progress
from onnxsep.replay import repeat_plan
from onnxsep.report.build import RunFacts
from onnxsep.report.record import TrialRow
from onnxsep.search.build import Builder, Built, Precision
from onnxsep.search.findings import Finding, Outcome, SearchSettings
from onnxsep.search.search import search
from onnxsep.search.timing_cache import default_cache_path
from onnxsep.targets import get_target

# Standard errors that a choice has to spare where other images verify it: it may be somewhat better
# than it seems, as the images of the choice leave room for. With a whole one every second choice
# was rejected, and every rejection costs a rewrite.
HOPE = -0.75


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """What the lossy part of a run gave.

    Attributes:
        model: To be handed out.
        built: How it came about; None where the cleaned input is handed out.
        finding: Which of the search's results it is, None of none.
        outcome: Of the search, None where there was none.
    """

    model: ir.Model
    built: Built | None = None
    finding: Finding | None = None
    outcome: Outcome | None = None


def rewrite(
    cleaned: ir.Model,
    material: Material,
    options: Options,
    selection: Evaluation,
    budget: Budget,
    facts: RunFacts,
    progress: Progress,
    means: Means,
) -> Rewritten:
    """The lossy part of a run.

    Args:
        cleaned: The network after the lossless passes; left unchanged.
        material: The images.
        options: Settings of the run.
        selection: Judges candidates on images that no fit sees.
        budget: What may be lost.
        facts: Told what was done.
        progress: Told how far it is.
        means: Where fits run and latency is measured.

    Raises:
        BudgetError: What was asked for loses too much, or cannot be so fast.
    """
    if options.plan is not None:
        builder = make_builder(cleaned, material, options, means, progress)
        built, notes = repeat_plan(options.plan, facts.source, cleaned, material, options, builder)
        facts.warnings.extend(notes)
        return _checked(
            built, cleaned, material, options, selection, budget, facts, means, progress
        )
    separates, quantizes = "separate" in options.passes, "quantize" in options.passes
    if not separates and not quantizes:
        return Rewritten(cleaned)
    target = get_target(options.target)
    searches = separates and options.rank is None and options.precision != "fp16"
    measured = target.measured_here or means.stopwatch is not None
    if searches and measured and options.measure_latency:
        outcome = search(
            cleaned,
            material.fit,
            material.single,
            selection,
            # Images that verify decide; one that they reject is followed by a more careful one.
            budget.sparing(HOPE) if material.verification is not None else budget,
            target,
            search_settings(options),
            progress,
            means,
        )
        facts.warnings.extend(outcome.notes)
        return adopt(outcome, cleaned, facts)
    builder = make_builder(cleaned, material, options, means, progress)
    built = _without_search(
        cleaned, material, options, builder, selection, budget, separates, progress
    )
    if built.precision == "int8" and not budget.holds(selection.of(built.model)):
        # If that is not enough either, the check below says by how much.
        with contextlib.suppress(BudgetError):
            built = builder.with_layers_in_float(
                built, lambda model: budget.holds(selection.of(model))
            )
        if options.precision == "auto" and not budget.holds(quality := selection.of(built.model)):
            said = quality.said_to_be_lost(selection.measure.points)
            facts.warnings.append(f"int8 was taken back: {said}, over the budget")
            return Rewritten(cleaned)
    if options.min_speedup is not None:
        facts.warnings.append(
            f"--min-speedup was not looked at: latency on {target.title} is not measured here"
        )
    return _checked(built, cleaned, material, options, selection, budget, facts, means, progress)


def search_settings(options: Options) -> SearchSettings:
    """What the options mean for the search."""
    wanted: dict[str, tuple[Precision, ...]] = {
        "auto": ("int8", "fp32"),
        "fp32": ("fp32",),
        "int8": ("int8",),
    }
    precisions = wanted[options.precision]
    if "quantize" not in options.passes:
        precisions = ("fp32",)
    return SearchSettings(
        precisions,
        threads=options.threads,
        seed=options.seed,
        min_speedup=options.min_speedup,
        seconds=options.time_limit,
        cache=default_cache_path() if options.timing_cache else None,
        calibration_cache=options.calibration_cache,
        quantization=QuantizeSettings(target=options.target, bits=options.weight_bits),
        aligns="align_channels" in options.passes,
        front=options.front,
    )


def make_builder(
    cleaned: ir.Model, material: Material, options: Options, means: Means, progress: Progress
) -> Builder:
    """Carries plans out with the run's images and settings."""
    return Builder(
        cleaned,
        material.fit,
        material.single,
        get_target(options.target),
        judges=material.selection,
        settings=QuantizeSettings(target=options.target, bits=options.weight_bits),
        threads=options.threads,
        seed=options.seed,
        stopwatch=means.stopwatch,
        cache=options.calibration_cache,
        progress=progress,
    )


def adopt(
    outcome: Outcome, cleaned: ir.Model, facts: RunFacts, failed: Sequence[Finding] = ()
) -> Rewritten:
    """Note what a search found, and take the best of it.

    Args:
        outcome: Of the search.
        cleaned: What is handed out if nothing else can be.
        facts: Told what was done; what it was told of lossy passes before is forgotten.
        failed: Findings that other images have shown to be over the budget.
    """
    facts.forget_rewrites()
    best = next((found for found in outcome.ranked if found not in failed), None)
    facts.trials = [_row(found, found is best) for found in outcome.findings]
    if best is None:
        nothing = Separate({}, None, refusals=outcome.kept.refusals)(cleaned.clone())
        reasons = {refusal.node: refusal for refusal in nothing.refusals}
        for found in outcome.findings:
            for change in found.built.accounts[0][1].changes:
                reasons[change.node] = _why_not(change.node, found, found in failed)
        nothing.refusals[:] = list(reasons.values())
        facts.add(Separate, nothing)
        return Rewritten(cleaned, outcome=outcome)
    return Rewritten(note(best.built, facts), best.built, best, outcome)


def note(built: Built, facts: RunFacts) -> ir.Model:
    """Note the passes of a plan that was carried out; its model."""
    for rewrite_pass, result in built.accounts:
        facts.add(rewrite_pass, result)
    facts.precision = built.precision
    return built.model


def _why_not(node: str, found: Finding, failed: bool) -> Refusal:
    comparison = found.comparison
    if failed:
        return Refusal(node, "over-budget", "over the budget on the verification images")
    if not found.holds:
        reason = f"over the budget as a whole: {found.quality.said_to_be_lost()}"
        return Refusal(node, "over-budget", reason, {"drop": found.quality.drop})
    reason = f"the whole was {comparison.speedup:.2f}x as fast as without, no proven gain"
    return Refusal(node, "not-faster", reason, {"speedup": comparison.speedup})


def _row(found: Finding, chosen: bool) -> TrialRow:
    return TrialRow(
        precision=found.built.precision,
        separated=len(found.built.plan.decisions),
        speedup=found.comparison.speedup,
        low=found.comparison.low,
        high=found.comparison.high,
        value=found.quality.value,
        drop=found.quality.drop,
        holds=found.holds,
        bytes=found.bytes,
        chosen=chosen,
    )


def _without_search(
    cleaned: ir.Model,
    material: Material,
    options: Options,
    builder: Builder,
    selection: Evaluation,
    budget: Budget,
    separates: bool,
    progress: Progress,
) -> Built:
    """A forced plan, or one planned by weighted multiplications where nothing can be timed."""
    # Who names quantize and not separate means int8, where no other precision is asked for.
    integers = options.precision == "int8" or (options.precision == "auto" and not separates)
    precision: Precision = "int8" if integers else "fp32"
    if not separates:
        reason = "the pass 'separate' was not asked for"
        refusals = {
            site.name: Refusal(site.name, "pass-not-run", reason)
            for site in find_convolutions(cleaned.graph)[0]
        }
        return builder.build(Plan({}, 1.0, refusals), precision, corrects_bias=True)
    if options.rank is not None:
        plan = forced_plan(cleaned, options.rank, options.form)
        progress.stage(f"fitting {len(plan.decisions)} convolutions in order", len(plan.decisions))
        return builder.build(plan, precision, corrects_bias=True)
    calibration = Calibration(material.fit, len(material.fit.dataset))
    layers = layer_options(cleaned, calibration, seed=options.seed, progress=progress)
    plans = order_plans(layers)
    candidates = {
        (layer.site.name, candidate.decision): candidate
        for layer in layers
        for candidate in layer.candidates
    }
    useful = [plan for plan in plans if plan.decisions]
    best, _ = most_daring_within(
        cleaned,
        candidates,
        useful,
        lambda plan: builder.build(plan, precision, corrects_bias=True),
        selection,
        budget,
        progress,
    )
    if best is None:
        return builder.build(plans[0], precision, corrects_bias=True)
    return best.result


def _checked(
    built: Built,
    cleaned: ir.Model,
    material: Material,
    options: Options,
    selection: Evaluation,
    budget: Budget,
    facts: RunFacts,
    means: Means,
    progress: Progress,
) -> Rewritten:
    """Hold the result against the budget and the clock, as far as they apply."""
    model = built.model
    if options.precision == "fp16":
        model = model.clone()
        checks = [material.single]
        half = ToFp16(checks)(model)
        built = dataclasses.replace(built, model=model, accounts=(*built.accounts, (ToFp16, half)))
    planned = options.plan is not None
    forced = planned or options.rank is not None or options.precision in ("int8", "fp16")
    quality = selection.of(model) if forced else None
    if quality is not None and not budget.holds(quality):
        measure = selection.measure
        what = " and ".join(
            part
            for part, there in (
                ("the plan", planned),
                (_forced(options), options.rank is not None),
                (options.precision, options.precision in ("int8", "fp16")),
            )
            if there
        )
        ways = " or leave out --rank" if options.rank is not None else ""
        raise BudgetError(
            f"{what} everywhere loses {quality.drop:.2f} {measure.unit} of {measure.title} "
            f"({quality.worst_snr_db:.1f} dB), but the budget is {budget.describe()}; raise "
            f"--max-drop{ways}; nothing was written"
        )
    model = note(built, facts)
    if options.precision == "fp16":
        facts.precision = "fp16"
    done = Rewritten(model, built)
    there = get_target(options.target).measured_here or means.stopwatch is not None
    if not options.measure_latency or not there:
        return done
    if not any(result.changes for _, result in built.accounts):
        return done
    # Against the cleaned input: what cleaning alone brings is no merit of the rewrite.
    progress.stage("timing with and without the rewrite in turn")
    gain = compare_latency(
        cleaned, model, material.single, threads=options.threads, stopwatch=means.stopwatch
    )
    if gain.high >= 1.0:
        return done
    message = f"measured {gain.speedup:.2f}x as fast as without"
    if options.rank is None and options.precision == "auto" and not planned:
        for name in (Separate.name, Quantize.name, AlignChannels.name):
            facts.withdraw(name, Refusal("(whole model)", "slower", f"taken back: {message}"))
        facts.precision = "fp32"
        return Rewritten(cleaned)
    facts.warnings.append(f"the rewrite made the model slower: {message}")
    return done


def _forced(options: Options) -> str:
    rank = f"rank {options.rank:g}"
    return rank if options.form == DEFAULT_FORM else f"{options.form} at {rank}"
