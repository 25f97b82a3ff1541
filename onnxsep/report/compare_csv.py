"""A comparison as CSV: one line per figure, so that everything fits into one table.

``group`` is what the figure belongs to (model, task, output, latency, kind, layer, sample, limit),
``name`` which one of these, ``figure`` which figure. ``first`` and ``second`` are of each model,
``value`` of both together, ``low`` and ``high`` its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxsep.report.csv_table import Value, csv_text

if TYPE_CHECKING:
    from onnxsep.comparison.record import ComparisonRecord

HEADER = ("group", "name", "figure", "unit", "first", "second", "value", "low", "high", "note")
_Line = dict[str, Value]


def compare_csv(record: ComparisonRecord) -> str:
    """The table as text with a header line."""
    return csv_text(HEADER, _lines(record))


def _lines(record: ComparisonRecord) -> Iterator[_Line]:
    yield from _models(record)
    yield from _task(record)
    yield from _outputs(record)
    if record.latency is not None:
        one, other = record.latency.first, record.latency.second
        yield _line("latency", "", "median", "ms", first=one.median, second=other.median)
        yield _line("latency", "", "spread", "ms", first=one.spread, second=other.spread)
        given = record.latency
        yield _line(
            "latency", "", "speed-up", "x", value=given.speedup, low=given.low, high=given.high
        )
    for kind in record.kinds:
        yield _line("kind", kind.kind, "time", "ms", first=kind.first_ms, second=kind.second_ms)
        yield _line(
            "kind",
            kind.kind,
            "multiplications",
            "",
            first=kind.first_multiplications,
            second=kind.second_multiplications,
        )
    for row in record.layers:
        yield _line(
            "layer",
            row.name,
            "relative error",
            "",
            first=row.first_operator,
            second=row.second_operator,
            value=row.error,
            note=row.note,
        )
        yield _line("layer", row.name, "signal-to-noise", "dB", value=row.snr_db)
        yield _line("layer", row.name, "relative error come in", "", value=row.gained)
    for changed in record.changed:
        yield _line(
            "sample",
            changed.sample,
            "class",
            "",
            first=changed.first,
            second=changed.second,
            value=changed.label,
        )
    for gate in record.gates:
        yield _line(
            "limit",
            gate.option.lstrip("-"),
            "measured",
            gate.unit,
            value=gate.value,
            high=gate.limit if gate.option == "--max-drop" else None,
            low=None if gate.option == "--max-drop" else gate.limit,
            note="kept" if gate.holds else "not kept",
        )


def _models(record: ComparisonRecord) -> Iterator[_Line]:
    one, other = record.first, record.second
    yield _line("model", "", "path", "", first=one.path, second=other.path)
    yield _line("model", "", "sha256", "", first=one.sha256, second=other.sha256)
    yield _line("model", "", "size on disk", "B", first=one.bytes, second=other.bytes)
    yield _line("model", "", "parameters", "", first=one.parameters, second=other.parameters)
    yield _line(
        "model", "", "multiplications", "", first=one.multiplications, second=other.multiplications
    )


def _task(record: ComparisonRecord) -> Iterator[_Line]:
    task = record.task
    if task is None:
        return
    yield _line(
        "task",
        task.output,
        task.measure,
        task.unit,
        first=task.first,
        second=task.second,
        value=-task.drop if task.drop else 0.0,
        low=-task.high,
        high=-task.low,
    )
    if task.p_value is not None:
        yield _line("task", task.output, "right in one model only", "samples",
                    first=task.right_to_wrong, second=task.wrong_to_right)  # fmt: skip
        yield _line("task", task.output, "McNemar p", "", value=task.p_value)


def _outputs(record: ComparisonRecord) -> Iterator[_Line]:
    for row in record.outputs:
        name = row.first
        yield _line("output", name, "signal-to-noise", "dB", value=row.snr_db, note=row.note)
        yield _line("output", name, "relative error", "", value=row.relative_error)
        yield _line("output", name, "largest difference", "", value=row.largest_difference)
        if row.agreement is not None:
            yield _line(
                "output",
                name,
                "agreement",
                "%",
                value=row.agreement,
                low=row.agreement_low,
                high=row.agreement_high,
            )
        if row.worst:
            yield _line(
                "output", name, "worst sample", "dB", value=row.worst_snr_db, note=row.worst
            )


def _line(
    group: str,
    name: str,
    figure: str,
    unit: str,
    *,
    first: Value = None,
    second: Value = None,
    value: Value = None,
    low: Value = None,
    high: Value = None,
    note: str = "",
) -> _Line:
    return {
        "group": group,
        "name": name,
        "figure": figure,
        "unit": unit,
        "first": first,
        "second": second,
        "value": value,
        "low": low,
        "high": high,
        "note": note,
    }
