"""A run of ``optimize`` as CSV: a line per convolution, and one for the whole model at the end."""

from __future__ import annotations

from onnxsep.report.csv_table import Value, csv_text
from onnxsep.report.record import Record

HEADER = (
    "scope",
    "name",
    "kind",
    "shape",
    "action",
    "code",
    "detail",
    "rank",
    "precision",
    "error",
    "parameters_before",
    "parameters_after",
    "multiplications_before",
    "multiplications_after",
    "bytes_before",
    "bytes_after",
    "median_ms_before",
    "median_ms_after",
    "speedup",
    "speedup_low",
    "speedup_high",
    "data_role",
    "images",
    "measure",
    "quality_before",
    "quality_after",
    "drop",
    "drop_error",
    "snr_db",
)


def optimize_csv(record: Record) -> str:
    """The table as text with a header line."""
    lines: list[dict[str, Value]] = [
        {
            "scope": "convolution",
            "name": row.name,
            "kind": row.kind,
            "shape": row.shape,
            "action": row.action,
            "code": row.code,
            "detail": row.detail,
            "rank": row.rank if row.action == "separated" else None,
            "precision": row.precision,
            "error": row.error if row.action == "separated" else None,
            "parameters_before": row.parameters_before,
            "parameters_after": row.parameters_after,
            "multiplications_before": row.multiplications_before,
            "multiplications_after": row.multiplications_after,
        }
        for row in record.layers
    ]
    return csv_text(HEADER, [*lines, *_whole(record)])


def _whole(record: Record) -> list[dict[str, Value]]:
    """The model: a line for each data set on which quality was measured, at least one."""
    before, after = record.multiplications
    model: dict[str, Value] = {
        "scope": "model",
        "name": record.input,
        "precision": record.precision,
        "parameters_before": record.parameters_before,
        "parameters_after": record.parameters_after,
        "multiplications_before": before,
        "multiplications_after": after,
        "bytes_before": record.bytes_before,
        "bytes_after": record.bytes_after,
    }
    if record.latency is not None:
        model |= {
            "median_ms_before": record.latency.first.median,
            "median_ms_after": record.latency.second.median,
            "speedup": record.latency.speedup,
            "speedup_low": record.latency.low,
            "speedup_high": record.latency.high,
        }
    return [
        model
        | {
            "data_role": row.role,
            "images": row.quality.samples,
            "measure": f"{row.measure} {row.unit}".strip(),
            "quality_before": row.quality.original,
            "quality_after": row.quality.value,
            "drop": row.quality.drop,
            "drop_error": row.quality.drop_error,
            "snr_db": min(row.quality.snr_db.values(), default=None),
        }
        for row in record.quality
    ] or [model]
