"""A benchmark as CSV: a row per cell with every figure of its summary; samples are in the JSON.

Numbers are plain and unrounded, what is not known is empty. The columns keep their names and order;
new ones go to the end.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxsep.report import bench_rows as rows
from onnxsep.report.text import printable

if TYPE_CHECKING:
    from onnxsep.bench.record import BenchRecord, CellResult, Interval, ModelFacts

_Value = str | float | int | bool | None
# What makes a spreadsheet take text for a formula (OWASP, "CSV injection"), full-width forms too.
_FORMULA_STARTS = frozenset("=+-@＝＋－＠")


def bench_csv(record: BenchRecord) -> str:
    """The table as text with a header line.

    Args:
        record: Any run; cells without figures have empty fields.
    """
    lines = [
        {
            **_asked(result),
            **_measured(result),
            **_compared(result),
            **_placed(result),
            **_correct(result),
            **_judged(result),
            **_model(record.models.get(f"{result.cell.model}/{result.cell.precision}")),
            "notes": "; ".join(result.notes),
        }
        for result in record.cells
    ]
    output = io.StringIO()
    writer = csv.DictWriter(output, HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _field(value) for name, value in line.items()} for line in lines)
    return output.getvalue()


HEADER = (
    "cell",
    "model",
    "target",
    "provider",
    "precision",
    "batch",
    "threads",
    "optimization",
    "session_options",
    "provider_options",
    "io_binding",
    "affinity",
    "status",
    "failure",
    "reason",
    "remedy",
    "rounds_asked",
    "rounds",
    "samples",
    "outliers",
    "unstable_rounds",
    "median_ms",
    "median_low_ms",
    "median_high_ms",
    "mean_ms",
    "minimum_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "mad_ms",
    "images_per_second",
    "session_ms",
    "first_run_ms",
    "peak_rss_bytes",
    "energy_millijoules_per_image",
    "reference",
    "speedup",
    "speedup_low",
    "speedup_high",
    "ran_on",
    "placement_proof",
    "fallback_share",
    "measure",
    "images",
    "accuracy",
    "reference_accuracy",
    "snr_db",
    "largest_difference",
    "relative_difference",
    "verdict",
    "time_ratio",
    "time_ratio_low",
    "time_ratio_high",
    "verdict_reason",
    "fails",
    "model_path",
    "model_origin",
    "model_sha256",
    "model_bytes",
    "model_parameters",
    "model_multiplications",
    "notes",
)


def _field(value: _Value) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_STARTS else text


def _asked(result: CellResult) -> dict[str, _Value]:
    cell = result.cell
    return {
        "cell": cell.id,
        "model": cell.model,
        "target": cell.target,
        "provider": cell.provider,
        "precision": cell.precision,
        "batch": cell.batch,
        "threads": cell.threads,
        "optimization": cell.optimization,
        "session_options": _options(cell.session_config),
        "provider_options": _options(cell.provider_options),
        "io_binding": cell.io_binding,
        "affinity": " ".join(str(core) for core in cell.affinity),
        "status": result.status,
        "failure": result.failure,
        "reason": result.reason,
        "remedy": result.remedy,
        "rounds_asked": cell.rounds,
    }


def _options(options: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in sorted(options.items()))


def _measured(result: CellResult) -> dict[str, _Value]:
    summary = result.summary
    if summary is None:
        return {"rounds": len(result.rounds)}
    return {
        "rounds": summary.rounds,
        "samples": summary.samples,
        "outliers": summary.outliers,
        "unstable_rounds": summary.unstable_rounds,
        "median_ms": summary.median.value,
        "median_low_ms": summary.median.low,
        "median_high_ms": summary.median.high,
        "mean_ms": summary.mean,
        "minimum_ms": summary.minimum,
        "p90_ms": summary.p90,
        "p95_ms": summary.p95,
        "p99_ms": summary.p99,
        "mad_ms": summary.mad,
        "images_per_second": summary.throughput,
        "session_ms": summary.session_ms,
        "first_run_ms": summary.first_run_ms,
        "peak_rss_bytes": summary.peak_rss_bytes or None,
        "energy_millijoules_per_image": summary.energy_millijoules,
    }


def _compared(result: CellResult) -> dict[str, _Value]:
    return {"reference": result.reference, **_interval("speedup", result.speedup)}


def _interval(name: str, interval: Interval | None) -> dict[str, _Value]:
    if interval is None:
        return {}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _placed(result: CellResult) -> dict[str, _Value]:
    if result.placement is None:
        return {}
    return {
        "ran_on": rows.ran_on(result),
        "placement_proof": result.placement.proof,
        "fallback_share": result.placement.fallback,
    }


def _correct(result: CellResult) -> dict[str, _Value]:
    given = result.correctness
    if given is None:
        return {}
    return {
        "measure": given.measure,
        "images": given.images or None,
        "accuracy": given.accuracy,
        "reference_accuracy": given.reference_accuracy,
        "snr_db": given.snr_db,
        "largest_difference": given.largest,
        "relative_difference": given.relative,
    }


def _judged(result: CellResult) -> dict[str, _Value]:
    judgement = result.judgement
    if judgement is None:
        return {}
    return {
        "verdict": judgement.verdict,
        **_interval("time_ratio", judgement.ratio),
        "verdict_reason": judgement.reason,
        "fails": judgement.fails,
    }


def _model(facts: ModelFacts | None) -> dict[str, _Value]:
    if facts is None:
        return {}
    return {
        "model_path": facts.path,
        "model_origin": facts.origin,
        "model_sha256": facts.sha256,
        "model_bytes": facts.bytes,
        "model_parameters": facts.parameters,
        "model_multiplications": facts.multiplications,
    }
