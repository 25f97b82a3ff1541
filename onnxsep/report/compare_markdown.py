"""A comparison as Markdown, for a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import compare_rows as rows
from onnxsep.report.bench_markdown import escaped
from onnxsep.report.markdown import bullets, document, folded, table
from onnxsep.report.text import quantity

if TYPE_CHECKING:
    from onnxsep.comparison.record import ComparisonRecord

_MARKERS = {True: "🟢", False: "🔴"}
# Values in the table that is seen at once.
_MOST_LAYERS = 10


def compare_markdown(record: ComparisonRecord) -> str:
    """Limits and headline figures first, layers and settings folded away.

    Args:
        record: Any comparison.
    """
    first, second = rows.names(record)
    return document(
        [
            f"### onnxsep compare: {escaped(first)} against {escaped(second)}",
            *_gates(record),
            _totals(record),
            bullets([escaped(words) for words in rows.task_words(record)]),
            _outputs(record),
            bullets([f"**Note:** {escaped(warning)}" for warning in _notes(record)]),
            _layers(record),
            _kinds(record),
            _changed(record),
            _facts(record),
        ]
    )


def _gates(record: ComparisonRecord) -> list[str]:
    return [f"{_MARKERS[gate.holds]} **{escaped(rows.gate_words(gate))}**" for gate in record.gates]


def _totals(record: ComparisonRecord) -> str:
    lines = [
        [escaped(total.title), total.first, total.second, total.change]
        for total in rows.totals(record)
    ]
    return table(("", "first", "second", "change"), lines, {1, 2, 3})


def _outputs(record: ComparisonRecord) -> str:
    lines = [
        [
            escaped(rows.output_name(row)),
            rows.decibels(row.snr_db),
            rows.percent(row.relative_error),
            rows.small(row.largest_difference),
            rows.agreement(row),
            escaped(row.note or rows.worst(row)),
        ]
        for row in record.outputs
    ]
    titles = ("output", "SNR", "error", "largest difference", "same class", "worst sample")
    return table(titles, lines, {1, 2, 3, 4})


def _notes(record: ComparisonRecord) -> list[str]:
    return [note for note in (*record.warnings, record.layers_note, record.latency_note) if note]


def _layers(record: ComparisonRecord) -> str:
    if not record.layers or rows.no_drift(record):
        return rows.no_drift(record)
    shown = rows.ranked_drift(record, _MOST_LAYERS)
    lines = [
        [
            escaped(row.name),
            escaped(rows.operators(row)),
            row.shape,
            rows.percent(row.error),
            rows.gained(row),
        ]
        for row in shown
    ]
    titles = ("value", "operator", "shape", "error", "came in")
    title = f"Layers: where most error comes in ({len(shown)} of {len(record.layers)} values)"
    return folded(title, table(titles, lines, {3, 4}))


def _kinds(record: ComparisonRecord) -> str:
    shown = rows.kinds_worth_showing(record)
    if not shown:
        return ""
    lines = [
        [
            escaped(row.kind),
            rows.milliseconds(row.first_ms),
            rows.milliseconds(row.second_ms),
            quantity(row.first_multiplications),
            quantity(row.second_multiplications),
        ]
        for row in shown
    ]
    titles = ("kind", "time, first", "second", "multiplications, first", "second")
    return folded("Time and multiplications by kind", table(titles, lines, {1, 2, 3, 4}))


def _changed(record: ComparisonRecord) -> str:
    if not record.changed:
        return ""
    lines = [
        [
            escaped(row.sample),
            str(row.first),
            str(row.second),
            "" if row.label is None else str(row.label),
        ]
        for row in record.changed
    ]
    title = f"Samples whose class differs ({len(lines)} of {record.changed_count})"
    return folded(title, table(("sample", "first", "second", "right"), lines, {1, 2, 3}))


def _facts(record: ComparisonRecord) -> str:
    lines = [
        ["data", escaped(record.data)],
        ["first", escaped(f"{record.first.path} {record.first.sha256[:12]}")],
        ["second", escaped(f"{record.second.path} {record.second.sha256[:12]}")],
        ["run", escaped(f"{rows.created(record)}, {record.seconds:.0f} s")],
        ["onnxsep", escaped(record.onnxsep_version)],
        *([escaped(name), escaped(version)] for name, version in record.versions.items()),
    ]
    return folded("How it was measured", table(("", ""), lines, ()))
