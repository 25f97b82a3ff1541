"""The story of ``optimize``: load → clean → calibrate → plan → rewrite → verify → save."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import onnx_ir as ir

from onnxsep.choose import Budget, most_daring_within
from onnxsep.decision import DEFAULT_FORM, Form
from onnxsep.errors import BudgetError, VerificationError
from onnxsep.evaluation import Batches, Evaluation
from onnxsep.interface import interface_difference
from onnxsep.latency import compare_latency
from onnxsep.material import Material, gather_material
from onnxsep.model import load_model, save_model
from onnxsep.options import (
    AGREEMENT_MIN_SNR_DB,
    DEFAULT_MAX_DROP,
    DEFAULT_MIN_SNR_DB,
    Options,
    check_output,
)
from onnxsep.passes.base import LosslessPass, Refusal, RewriteResult
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Calibration, Separate
from onnxsep.passes.simplify import Simplify
from onnxsep.plan import Plan, forced_plan, layer_options, order_plans, output_sizes
from onnxsep.progress import Progress, Silence
from onnxsep.proof import require_equal
from onnxsep.quality import Measure
from onnxsep.report.build import RunFacts, build_record
from onnxsep.report.record import QualityRow, Record
from onnxsep.targets import get_target

# Batches on which lossless passes must agree with the input.
_PROOF_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run hands out.

    Attributes:
        model: The rewritten model.
        record: The account of the run.
    """

    model: ir.Model
    record: Record

    def save(self, path: str | Path) -> list[Path]:
        """Write the model in one step; returns the files written.

        Raises:
            OutputError: It cannot be written.
        """
        return save_model(self.model, path)


def optimize(
    source: str | Path,
    options: Options | None = None,
    *,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster within a budget, and prove it.

    Args:
        source: The ONNX file; never changed.
        options: Settings of the run.
        output: Where to write the result; None writes nothing.
        force: Allow ``output`` to be the input itself.
        progress: Told how far the work has come.

    Raises:
        InputError: The model or the data cannot be used.
        ConfigurationError: An option has no meaning here.
        BudgetError: ``options.rank`` costs more quality than the budget allows.
        VerificationError: A lossless pass changed the numbers, or images that nothing had seen
            before show a larger loss than the budget.
        OutputError: The result cannot be written.
    """
    started = time.perf_counter()
    options, progress = options or Options(), progress or Silence()
    source = Path(source)
    if output is not None:
        check_output(source, Path(output), force=force)

    progress.stage(f"loading {source.name}")
    original = load_model(source)
    facts = RunFacts.of_input(source, original, options)
    cleaned = original.clone()
    facts.add(Normalize, Normalize()(cleaned))
    material = gather_material(cleaned, options, progress)
    facts.calibration = material.description
    facts.warnings.extend(material.warnings)
    _clean(cleaned, original, material, options, facts, progress)

    progress.stage("running the original on images that no fit sees")
    selection = Evaluation(
        original,
        material.selection,
        metric=options.metric,
        label_offset=options.label_offset,
    )
    budget = _budget(options, selection.measure)
    if options.max_drop is not None and not selection.measure.has_drop:
        facts.warnings.append(
            "the outputs are no scores, so --max-drop has no meaning; the budget was "
            f"{budget.describe()} (--min-snr)"
        )
    facts.budget = budget.describe()
    facts.warnings.extend(selection.doubts())
    if options.label_offset and material.selection.dataset.labels is None:
        facts.warnings.append("--label-offset has no meaning: the data have no labels")
    rewritten = _separate(cleaned, material, options, selection, budget, facts, progress)
    rewritten = _unless_slower(original, cleaned, rewritten, material, options, facts, progress)
    facts.quality = _verify(original, rewritten, material, selection, budget, options, progress)
    difference = interface_difference(original, rewritten)
    if difference:
        raise VerificationError(f"the result {difference}; nothing was written")

    if output is not None:
        progress.stage(f"writing {Path(output).name}")
        save_model(rewritten, output)
    seconds = time.perf_counter() - started
    path = None if output is None else Path(output)
    return Result(rewritten, build_record(facts, rewritten, path, seconds))


def _clean(
    model: ir.Model,
    original: ir.Model,
    material: Material,
    options: Options,
    facts: RunFacts,
    progress: Progress,
) -> None:
    """The lossless passes, proved together on data."""
    checks = [feeds for _, feeds in zip(range(_PROOF_BATCHES), material.fit, strict=False)]
    passes: list[LosslessPass] = []
    if "simplify" in options.passes:
        passes.append(Simplify(checks))
    if "fold_batchnorm" in options.passes:
        passes.append(FoldBatchNorm())
    progress.stage("cleaning", len(passes))
    for lossless in passes:
        progress.step(lossless.name)
        facts.add(type(lossless), lossless(model))
    facts.lossless_difference = require_equal(original, model, checks, "cleaning")
    calibration = Calibration(material.fit, len(material.fit.dataset))
    facts.note_layers(model, output_sizes(model, calibration))


def _budget(options: Options, measure: Measure) -> Budget:
    """The user's limits, or the default that suits the measure."""
    max_drop = options.max_drop if measure.has_drop else None
    if max_drop is None and options.min_snr_db is None:
        if measure.is_agreement:
            return Budget(DEFAULT_MAX_DROP, AGREEMENT_MIN_SNR_DB)
        if measure.has_drop:
            return Budget(DEFAULT_MAX_DROP, None)
        return Budget(None, DEFAULT_MIN_SNR_DB)
    return Budget(max_drop, options.min_snr_db)


def _separate(
    cleaned: ir.Model,
    material: Material,
    options: Options,
    selection: Evaluation,
    budget: Budget,
    facts: RunFacts,
    progress: Progress,
) -> ir.Model:
    """The lossy pass at the ranks asked for, or at the most daring ones within the budget."""
    if "separate" not in options.passes:
        return cleaned
    calibration = Calibration(material.fit, len(material.fit.dataset))

    def rewrite(plan: Plan) -> RewriteResult:
        separate = Separate(
            plan.decisions,
            calibration,
            refusals=plan.refusals,
            target=get_target(options.target),
            seed=options.seed,
            progress=progress,
        )
        return separate(cleaned.clone())

    if options.rank is not None:
        plan = forced_plan(cleaned, options.rank, options.form)
        progress.stage(f"fitting {len(plan.decisions)} convolutions in order", len(plan.decisions))
        result = rewrite(plan)
        quality = selection.of(result.model)
        if not budget.holds(quality):
            measure = selection.measure
            raise BudgetError(
                f"{_forced(options.rank, options.form)} everywhere loses {quality.drop:.2f} "
                f"{measure.unit} of {measure.title} ({quality.worst_snr_db:.1f} dB), but the "
                f"budget is {budget.describe()}; raise --max-drop or leave out --rank; "
                "nothing was written"
            )
        facts.add(Separate, result)
        return result.model
    layers = layer_options(cleaned, calibration, seed=options.seed, progress=progress)
    plans = order_plans(layers)
    best = most_daring_within(cleaned, layers, plans, rewrite, selection, budget, progress)
    if best is None:
        nothing = rewrite(plans[0])
        facts.add(Separate, nothing)
        return nothing.model
    facts.add(Separate, best.result)
    return best.result.model


def _forced(rank: float, form: Form) -> str:
    return f"rank {rank:g}" if form == DEFAULT_FORM else f"{form} at rank {rank:g}"


def _unless_slower(
    original: ir.Model,
    cleaned: ir.Model,
    rewritten: ir.Model,
    material: Material,
    options: Options,
    facts: RunFacts,
    progress: Progress,
) -> ir.Model:
    """Time the result against the input, and take separation back where it made it slower."""
    if not options.measure_latency:
        return rewritten
    target = get_target(options.target)
    if not target.measured_here:
        facts.latency_note = (
            f"measured on this machine's CPU, not on {target.title}: measuring there is not "
            "supported yet"
        )
    elif facts.has_changes(Separate):
        # Against the cleaned input: what cleaning alone brings is no merit of separation.
        progress.stage("timing with and without separation in turn")
        gain = compare_latency(cleaned, rewritten, material.single, threads=options.threads)
        if gain.high < 1.0:
            message = f"measured {gain.speedup:.2f}x as fast as without separation"
            if options.rank is None:
                reason = Refusal("(whole model)", "slower", f"taken back: {message}")
                facts.withdraw("separate", reason)
                rewritten = cleaned
            else:
                facts.warnings.append(f"separation made the model slower: {message}")
    progress.stage("timing input and result in turn")
    facts.latency = compare_latency(original, rewritten, material.single, threads=options.threads)
    return rewritten


def _verify(
    original: ir.Model,
    rewritten: ir.Model,
    material: Material,
    selection: Evaluation,
    budget: Budget,
    options: Options,
    progress: Progress,
) -> list[QualityRow]:
    """Measure the result; with test data the budget must hold on these too."""
    progress.stage("verifying")
    sets: list[tuple[str, Batches, Evaluation]] = []
    if material.verification is not None:
        evaluation = Evaluation(
            original,
            material.verification,
            metric=options.metric,
            label_offset=options.label_offset,
        )
        sets.append(("verification", material.verification, evaluation))
    sets.append(("selection", material.selection, selection))
    rows = []
    for role, batches, evaluation in sets:
        quality = evaluation.of(rewritten)
        measure = evaluation.measure
        rows.append(
            QualityRow(
                data=batches.dataset.source,
                role=role,
                drawn=batches.dataset.drawn,
                measure=measure.title,
                unit=measure.unit,
                quality=quality,
            )
        )
        if not budget.holds(quality):
            raise VerificationError(
                f"on {quality.samples} images that no fit had seen, {quality.drop:.2f} "
                f"{measure.unit} of {measure.title} are lost ({quality.worst_snr_db:.1f} dB), but "
                f"the budget is {budget.describe()}; give more --data or raise --max-drop; "
                "nothing was written"
            )
    return rows
