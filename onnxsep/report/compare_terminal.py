"""A comparison as tables on a terminal; readable without colour, in a pipe and at 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxsep.report import compare_rows as rows
from onnxsep.report.text import printable, quantity, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onnxsep.comparison.record import ComparisonRecord

# Values in the table of layers; the others are in the files.
_MOST_LAYERS = 16
_MOST_CHANGED = 5
_NAME_WIDTH = 24
_SAMPLE_WIDTH = 22


def print_comparison(record: ComparisonRecord, console: Console, report: Path | None) -> None:
    """Print headline figures, outputs, layers and kinds of operators.

    Args:
        record: Any comparison.
        console: Where to.
        report: The file that was written beside, if any.
    """
    first, second = rows.names(record)
    _line(console, f"first   {first}")
    _line(console, f"second  {second}")
    console.print()
    console.print(_totals(record))
    for words in rows.task_words(record):
        _line(console, words, style="dim")
    _print_changed(record, console)
    console.print()
    console.print(_outputs(record))
    for row in record.outputs:
        if row.note:
            _line(console, f"  {shortened(rows.output_name(row), _NAME_WIDTH)}: {row.note}")
    if rows.no_drift(record):
        console.print()
        _line(console, rows.no_drift(record))
    elif record.layers:
        console.print()
        console.print(_layers(record))
        fine = [row for row in record.layers if not row.note]
        if len(fine) > _MOST_LAYERS:
            words = (
                f"{_MOST_LAYERS} of {len(fine)} values of the same name: where most error comes "
                "in, and the last; all of them are in --report FILE"
            )
            _line(console, words, style="dim")
    if record.kinds:
        console.print()
        console.print(_kinds(record))
    console.print()
    for note in (record.layers_note, record.latency_note):
        if note:
            _line(console, f"note: {note}", style="dim")
    for warning in record.warnings:
        _line(console, f"note: {warning}", style="yellow")
    _line(console, f"compared on {record.data}")
    for gate in record.gates:
        _line(console, rows.gate_words(gate), style="bold" if gate.holds else "bold red")
    if report is not None:
        _line(console, f"wrote {report}", style="bold")


def _totals(record: ComparisonRecord) -> Table:
    table = _table("", "first", "second", "change", left=1)
    for total in rows.totals(record):
        table.add_row(total.title, total.first, total.second, total.change)
    return table


def _outputs(record: ComparisonRecord) -> Table:
    table = _table("output", "SNR", "error", "same class", "worst sample", left=1)
    for row in record.outputs:
        table.add_row(
            shortened(rows.output_name(row), _NAME_WIDTH),
            rows.decibels(row.snr_db),
            rows.percent(row.relative_error),
            rows.agreement(row),
            _worst(row.worst, row.worst_snr_db),
        )
    return table


def _worst(name: str, decibels: float) -> str:
    return f"{shortened(name, _SAMPLE_WIDTH)}, {rows.decibels(decibels)}" if name else rows.UNKNOWN


def _layers(record: ComparisonRecord) -> Table:
    table = _table("value", "operator", "shape", "error", "came in", left=3)
    for row in rows.ranked_drift(record, _MOST_LAYERS):
        table.add_row(
            shortened(row.name, _NAME_WIDTH),
            shortened(rows.operators(row), _SAMPLE_WIDTH),
            row.shape,
            rows.percent(row.error),
            rows.gained(row),
        )
    return table


def _kinds(record: ComparisonRecord) -> Table:
    table = _table(
        "kind of operator", "time, first", "second", "multiplications, first", "second", left=1
    )
    for row in rows.kinds_worth_showing(record):
        table.add_row(
            shortened(row.kind, _NAME_WIDTH),
            rows.milliseconds(row.first_ms),
            rows.milliseconds(row.second_ms),
            quantity(row.first_multiplications),
            quantity(row.second_multiplications),
        )
    return table


def _print_changed(record: ComparisonRecord, console: Console) -> None:
    for row in record.changed[:_MOST_CHANGED]:
        right = "" if row.label is None else f", right is {row.label}"
        name = shortened(row.sample, 2 * _SAMPLE_WIDTH)
        _line(console, f"  {name}: class {row.first} → {row.second}{right}", style="dim")
    left = record.changed_count - len(record.changed[:_MOST_CHANGED])
    if left > 0:
        _line(console, f"  and {left} more", style="dim")


def _table(*titles: str, left: int) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < left else "right", no_wrap=place > 0)
    return table


def _line(console: Console, words: str, *, style: str = "") -> None:
    """Words from strangers: neither markup nor emoji codes nor highlighting."""
    from rich.text import Text

    console.print(Text(printable(words), style=style))
