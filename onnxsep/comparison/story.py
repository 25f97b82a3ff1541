"""The story of ``compare``: open both → feed both the same → outputs → layers → latency → gates."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxsep.calibrate.sweep import batch_size_for
from onnxsep.comparison.drift import measure_drift
from onnxsep.comparison.interface import common_inputs, pair_outputs
from onnxsep.comparison.kinds import kind_rows, time_by_kind, with_work
from onnxsep.comparison.material import Material, gather
from onnxsep.comparison.options import CompareOptions
from onnxsep.comparison.outputs import OutputsCompared, compare_outputs
from onnxsep.comparison.record import (
    SCHEMA_VERSION,
    ComparisonRecord,
    DriftRow,
    GateRow,
)
from onnxsep.comparison.subjects import Subject, open_subject
from onnxsep.data.dataset import spread
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.evaluation import Batches
from onnxsep.latency import Comparison, compare_latency
from onnxsep.progress import Progress, Silence
from onnxsep.report.head import now, onnxsep_version, package_versions

# A hundred samples tell a layer's error to a few per cent of itself.
_DRIFT_SAMPLES = 100
# Fewer where that takes more multiplications than these, about a minute on two cores: where inner
# values are large, each sample runs several times.
_DRIFT_WORK = 1e12
_FEWEST_DRIFT_SAMPLES = 2
# With n samples and no change, up to 3/n may still change (rule of three, 95 %).
_FEW_SAMPLES = 100


def compare(
    first: str | Path | ir.Model,
    second: str | Path | ir.Model,
    options: CompareOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ComparisonRecord:
    """Compare two models on the same data; neither is changed, nothing is written.

    Any two models that onnxruntime runs on the CPU and that have inputs of the same names and
    types: float, fp16, quantized, rewritten or trained anew.

    Args:
        first: The model compared with: an ONNX file, or a model in memory.
        second: The other one.
        options: Settings of the run.
        progress: Told how far the work has come.

    Returns:
        The record; limits that were asked for and are not kept are in its ``gates``.

    Raises:
        InputError: A model or the data cannot be used, or inputs or outputs do not match.
        ConfigurationError: An option has no meaning for these models.
    """
    started, created = time.perf_counter(), now()
    options, progress = options or CompareOptions(), progress or Silence()
    one = _opened(first, "the first model", progress)
    two = _opened(second, "the second model", progress)
    specs = common_inputs(one, two)
    pairing = pair_outputs(one, two)
    warnings = [
        f"the graph of {subject.title} cannot be looked into, so layers and multiplications are "
        f"not compared: {subject.refusal}"
        for subject in (one, two)
        if subject.graph is None
    ]
    warnings.extend(pairing.warnings)
    if pairing.how == "position":
        warnings.append("no output has the same name in both models: they were paired by position")
    names = [node.name for node in one.session.get_outputs()]
    material = gather(one, two, specs, names, options, progress)
    warnings.extend(material.warnings)
    dataset = material.batches.dataset
    found = compare_outputs(
        one,
        two,
        pairing,
        material.batches,
        label_offset=options.label_offset,
        progress=progress,
    )
    gates = _gates(found, options)
    warnings.extend(_doubts(found, len(dataset)))
    if options.label_offset and dataset.labels is None:
        warnings.append("--label-offset has no meaning: the data have no labels")
    facts = []
    for subject in (one, two):
        row, why = with_work(subject, material.single)
        facts.append(row)
        if why and subject.graph is not None:
            warnings.append(why)
    work = sum(row.multiplications or 0 for row in facts)
    layers, layers_note, layer_samples = _layers(one, two, material, options, work, progress)
    latency, latency_note, times = _timed(one, two, material, options, progress)
    return ComparisonRecord(
        schema=SCHEMA_VERSION,
        kind="compare",
        onnxsep_version=onnxsep_version(),
        created=created,
        versions=package_versions(),
        settings=_settings(options),
        seconds=round(time.perf_counter() - started, 2),
        warnings=warnings,
        first=facts[0],
        second=facts[1],
        data=material.description,
        drawn=dataset.drawn,
        samples=len(dataset),
        pairing=pairing.how,
        outputs=found.rows,
        task=found.task,
        changed=found.changed,
        changed_count=found.changed_count,
        layers=layers,
        layers_note=layers_note,
        layer_samples=layer_samples,
        kinds=kind_rows(facts[0], facts[1], times[0], times[1]),
        latency=latency,
        latency_note=latency_note,
        gates=gates,
    )


def _opened(given: str | Path | ir.Model, title: str, progress: Progress) -> Subject:
    if not isinstance(given, ir.Model):
        title = f"{title} ({Path(given).name})"
    progress.stage(f"loading {title}")
    return open_subject(given, title)


def _layers(
    one: Subject,
    two: Subject,
    material: Material,
    options: CompareOptions,
    work: int,
    progress: Progress,
) -> tuple[list[DriftRow], str, int]:
    if not options.compare_layers:
        return [], "layers were not compared: --no-layers", 0
    if one.graph is None or two.graph is None:
        return [], "layers were not compared: a graph cannot be looked into", 0
    batches = _layer_batches(material, options, work)
    try:
        rows = measure_drift(one.graph, two.graph, batches, progress=progress)
    except (InputError, ValueError) as error:
        return [], f"layers were not compared: {error}", 0
    if not rows:
        return [], "no inner value has the same name in both models", 0
    odd = [row for row in rows if row.note]
    note = (
        f"{len(odd)} of {len(rows)} values of the same name are not comparable: "
        f"'{odd[0].name}': {odd[0].note}"
        if odd
        else ""
    )
    return rows, note, len(batches.dataset)


def _layer_batches(material: Material, options: CompareOptions, work: int) -> Batches:
    """Some of the samples, in batches small enough that inner values stay small.

    Args:
        material: Of the whole comparison.
        options: Settings of the run.
        work: Multiplications of both models for one sample.
    """
    dataset = material.batches.dataset
    affordable = int(_DRIFT_WORK / max(work, 1))
    count = min(max(affordable, _FEWEST_DRIFT_SAMPLES), _DRIFT_SAMPLES, len(dataset))
    if material.static is not None:
        # Whole batches only; there are as many samples as make some.
        count = max(count // material.static, 1) * material.static
    chosen = dataset.subset(spread(len(dataset), count, options.seed).tolist())
    return Batches(chosen, material.static or min(batch_size_for(material.single), count))


def _timed(
    one: Subject, two: Subject, material: Material, options: CompareOptions, progress: Progress
) -> tuple[Comparison | None, str, tuple[dict[str, float] | None, dict[str, float] | None]]:
    if not options.measure_latency:
        return None, "latency was not measured: --no-latency", (None, None)
    progress.stage("timing both in turn")
    latency = compare_latency(one.source, two.source, material.single, threads=options.threads)
    progress.stage("profiling both")
    try:
        times = [time_by_kind(each, material.single, options.threads) for each in (one, two)]
    except InputError as error:
        progress.note(str(error))
        return latency, "", (None, None)
    return latency, "", (times[0], times[1])


def _gates(found: OutputsCompared, options: CompareOptions) -> list[GateRow]:
    """The limits that were asked for, beside what was measured.

    Raises:
        ConfigurationError: ``max_drop`` has no meaning for these outputs.
    """
    gates = []
    if options.fail_below_db is not None:
        worst = min(row.snr_db for row in found.rows)
        limit = options.fail_below_db
        gates.append(GateRow("--fail-below-db", limit, worst, "dB", worst >= limit))
    if options.max_drop is not None:
        if found.task is None:
            raise ConfigurationError(
                "--max-drop has no meaning here: the outputs are no class scores, and the data "
                "have neither labels nor targets; use --fail-below-db"
            )
        drop = found.task.drop
        unit = "points" if found.task.unit == "%" else found.task.unit
        gates.append(GateRow("--max-drop", options.max_drop, drop, unit, drop <= options.max_drop))
    return gates


def _doubts(found: OutputsCompared, samples: int) -> list[str]:
    if found.task is None or found.task.unit != "%" or samples >= _FEW_SAMPLES:
        return []
    return [
        f"quality was measured on {samples} {'sample' if samples == 1 else 'samples'} only: even "
        f"without a single change, a loss of up to {min(300 / samples, 100):.0f} points cannot be "
        "excluded"
    ]


def _settings(options: CompareOptions) -> dict[str, Any]:
    settings = dataclasses.asdict(options)
    if options.preprocessing is not None:
        settings["preprocessing"] = dataclasses.asdict(options.preprocessing)
    return settings
