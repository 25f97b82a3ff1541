"""The story of ``optimize``: load → clean → calibrate → plan → rewrite → verify → save."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import onnx_ir as ir

from onnxsep.choose import Budget
from onnxsep.errors import VerificationError
from onnxsep.evaluation import Batches, Evaluation
from onnxsep.fusion import fusion_report
from onnxsep.interface import interface_difference
from onnxsep.latency import compare_latency
from onnxsep.material import Material, gather_material
from onnxsep.means import Means, reach
from onnxsep.model import load_model, save_model
from onnxsep.options import (
    AGREEMENT_MIN_SNR_DB,
    DEFAULT_MAX_DROP,
    DEFAULT_MIN_SNR_DB,
    Options,
    check_front,
    check_output,
)
from onnxsep.pareto import write_front
from onnxsep.passes.base import LosslessPass
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import quantized_node
from onnxsep.passes.separate import Calibration
from onnxsep.passes.simplify import Simplify
from onnxsep.plan import output_sizes
from onnxsep.progress import Progress, Silence
from onnxsep.proof import require_equal
from onnxsep.replay import plan_path, write_plan
from onnxsep.report.build import RunFacts, build_record
from onnxsep.report.front import FrontRow
from onnxsep.report.record import QualityRow, Record
from onnxsep.rewrite import HOPE, Rewritten, adopt, rewrite
from onnxsep.search.findings import Finding
from onnxsep.search.plan_file import load_plan
from onnxsep.targets import get_target

# Batches on which lossless passes must agree with the input.
_PROOF_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run hands out.

    Attributes:
        model: The rewritten model.
        record: The account of the run.
        front: The files of the front, where one was asked for.
    """

    model: ir.Model
    record: Record
    front: tuple[FrontRow, ...] = ()

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
    pareto: str | Path | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster within a budget, and prove it.

    Args:
        source: The ONNX file; never changed.
        options: Settings of the run.
        output: Where to write the result; None writes nothing.
        force: Allow ``output`` to be the input itself.
        pareto: Folder for models from careful to daring, a table and a plot; None writes none.
        executor: Where the search's fits run; None runs them here, one after the other.
        progress: Told how far the work has come.

    Raises:
        InputError: The model or the data cannot be used.
        ConfigurationError: An option has no meaning here.
        BudgetError: ``options.rank`` costs more quality than the budget allows.
        VerificationError: A lossless pass changed the numbers, or images that nothing had seen
            before show a larger loss than the budget.
        OutputError: The result cannot be written.
        CellsFailedError: The machine that ``options.target`` names cannot be reached or broke off.
    """
    started = time.perf_counter()
    options, progress = options or Options(), progress or Silence()
    if pareto is not None:
        options = dataclasses.replace(options, front=True)
    source = Path(source)
    path = None if output is None else Path(output)
    if path is not None:
        check_output(source, path, force=force)
    front = None if pareto is None else Path(pareto)
    if front is not None:
        check_front(front)
    if options.plan is not None:
        load_plan(options.plan)  # A plan that cannot be read is told before the long work.
    with reach(options, executor, progress) as (there, means):
        return _run(source, there, path, front, means, progress, started)


def _run(
    source: Path,
    options: Options,
    output: Path | None,
    pareto: Path | None,
    means: Means,
    progress: Progress,
    started: float,
) -> Result:
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
    selection = _evaluation(original, material.selection, options)
    budget = _budget(options, selection)
    if budget.unjudged_snr_db is not None:
        facts.warnings.append(
            f"{selection.measure.title} is that of the output '{selection.measure.output}'; "
            f"{_listed(selection.unjudged)} had to keep {budget.unjudged_snr_db:g} dB "
            "signal-to-noise against the original (--min-snr sets it for all)"
        )
    if options.max_drop is not None and not selection.measure.has_drop:
        facts.warnings.append(
            "the outputs are no scores, so --max-drop has no meaning; the budget was "
            f"{budget.describe()} (--min-snr)"
        )
    facts.budget = budget.describe()
    facts.warnings.extend(selection.doubts(verified=material.verification is not None))
    if options.label_offset and material.selection.dataset.labels is None:
        facts.warnings.append("--label-offset has no meaning: the data have no labels")
    found = rewrite(cleaned, material, options, selection, budget, facts, progress, means)
    found = _verified(found, original, cleaned, material, selection, budget, facts, progress)
    rewritten = found.model
    if facts.precision == "int8":
        facts.fusion = fusion_report(rewritten)
    if quantized_node(original) is not None:
        facts.warnings.append(
            "the input is quantized already, so its layers stay as they are; give the float model"
        )
    elif facts.precision == "fp32" and options.precision == "int8":
        facts.warnings.append("--precision int8 was asked for, but the result is float")
    _time(original, rewritten, material, options, facts, means, progress)
    difference = interface_difference(original, rewritten)
    if difference:
        raise VerificationError(f"the result {difference}; nothing was written")

    if output is not None:
        progress.stage(f"writing {output.name}")
        save_model(rewritten, output)
        if found.built is not None:
            facts.plan = plan_path(output)
            write_plan(found.built, source, cleaned, material, options, facts.plan)
    front: list[FrontRow] = []
    if pareto is not None:
        progress.stage("writing the front")
        judge = selection
        if material.verification is not None:
            judge = _evaluation(original, material.verification, options)
        findings = () if found.outcome is None else found.outcome.findings
        front = write_front(findings, judge, pareto, source.stem)
    seconds = time.perf_counter() - started
    return Result(rewritten, build_record(facts, rewritten, output, seconds), tuple(front))


def _evaluation(original: ir.Model, batches: Batches, options: Options) -> Evaluation:
    return Evaluation(original, batches, metric=options.metric, label_offset=options.label_offset)


def _clean(
    model: ir.Model,
    original: ir.Model,
    material: Material,
    options: Options,
    facts: RunFacts,
    progress: Progress,
) -> None:
    """The lossless passes, proved together on data."""
    checks = material.fit.proofs(_PROOF_BATCHES)
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


def _budget(options: Options, evaluation: Evaluation) -> Budget:
    """The user's limits, or the default that suits the measure."""
    measure = evaluation.measure
    drop = options.max_drop if measure.has_drop else None
    least = options.min_snr_db
    if drop is None and least is None:
        drop = DEFAULT_MAX_DROP if measure.has_drop else None
        if measure.is_agreement:
            least = AGREEMENT_MIN_SNR_DB
        elif not measure.has_drop:
            least = DEFAULT_MIN_SNR_DB
    guarded = least is None and bool(evaluation.unjudged)
    return Budget(
        drop,
        least,
        unjudged_snr_db=DEFAULT_MIN_SNR_DB if guarded else None,
        unit=measure.points,
    )


def _listed(names: Sequence[str], most: int = 3) -> str:
    """``'boxes'``, or the first few of more."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _time(
    original: ir.Model,
    rewritten: ir.Model,
    material: Material,
    options: Options,
    facts: RunFacts,
    means: Means,
    progress: Progress,
) -> None:
    """Time the result against the input."""
    if not options.measure_latency:
        return
    target = get_target(options.target)
    if means.machine:
        facts.latency_note = f"measured on {means.machine}"
    elif not target.measured_here:
        way = (
            "give the machine as --target ssh://HOST to measure there"
            if target.name == "cpu-arm"
            else "onnxsep bench measures there (docs/bench.md)"
        )
        facts.latency_note = f"measured on this machine's CPU, not on {target.title}; {way}"
    progress.stage("timing input and result in turn")
    facts.latency = compare_latency(
        original,
        rewritten,
        material.single,
        threads=options.threads,
        stopwatch=means.stopwatch,
    )


def _verified(
    found: Rewritten,
    original: ir.Model,
    cleaned: ir.Model,
    material: Material,
    selection: Evaluation,
    budget: Budget,
    facts: RunFacts,
    progress: Progress,
) -> Rewritten:
    """The result that holds the budget on all images; of a search, the first that does.

    Raises:
        VerificationError: It does not hold, and there is no other.
    """
    options = facts.options
    sets: list[tuple[str, Batches, Evaluation]] = []
    if material.verification is not None:
        evaluation = _evaluation(original, material.verification, options)
        sets.append(("verification", material.verification, evaluation))
    sets.append(("selection", material.selection, selection))
    # Whoever asks for a speed and names no budget takes the quality that comes with it.
    enforced = options.min_speedup is None or options.max_drop is not None
    failed: list[Finding] = []
    while True:
        progress.stage("verifying")
        facts.quality = [_quality_row(*one, found.model) for one in sets]
        spare = 0.0 if material.verification is None else HOPE
        over = [row.quality for row in facts.quality if not _holds(row, budget, spare)]
        if not over or not enforced:
            return found
        measure = selection.measure
        message = (
            f"on {over[0].samples} images that no fit had seen, {over[0].drop:.2f} "
            f"{measure.unit} of {measure.title} are lost ({over[0].worst_snr_db:.1f} dB), but "
            f"the budget is {budget.describe()}"
        )
        if found.finding is None or found.outcome is None:
            raise VerificationError(
                f"{message}; give more --data or raise --max-drop; nothing was written"
            )
        facts.warnings.append(f"another result was taken: of the first choice, {message}")
        progress.note(facts.warnings[-1])
        failed.append(found.finding)
        found = adopt(found.outcome.retreat(found.finding, over[0]), cleaned, facts, failed)


def _holds(row: QualityRow, budget: Budget, spare: float) -> bool:
    """Whether the images speak for the budget.

    What verifies must hold as measured; on the images of the choice the less chancy estimate
    counts, by which the choice was made.
    """
    return budget.holds(row.quality) or (
        row.role == "selection" and budget.sparing(spare).accepts(row.quality)
    )


def _quality_row(
    role: str, batches: Batches, evaluation: Evaluation, model: ir.Model
) -> QualityRow:
    return QualityRow(
        data=batches.dataset.source,
        role=role,
        drawn=batches.dataset.drawn,
        measure=evaluation.measure.title,
        unit=evaluation.measure.unit,
        quality=evaluation.of(model),
    )
