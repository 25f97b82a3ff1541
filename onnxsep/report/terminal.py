"""The record as tables on a terminal; readable without colour and at 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxsep.report.record import UNREAD, LayerRow, QualityRow, Record
from onnxsep.report.text import printable, quantity, shortened, times

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Nothing was asked for, or nothing was to be done.
_NOT_WORTH_A_LINE = ("not-chosen", "already-aligned")
# Longest name of a layer in a table on 80 columns.
_NAME_WIDTH = 26


def print_record(record: Record, console: Console, report: Path | None) -> None:
    """Print what was done, layer by layer, and what it brought."""
    console.print(_layer_table(record))
    _print_passes(record, console)
    _print_fusion(record, console)
    console.print(_total_table(record))
    for warning in record.warnings:
        console.print(f"note: {printable(warning)}", style="yellow")
    if record.latency_note:
        console.print(f"note: latency {printable(record.latency_note)}", style="yellow")
    console.print(f"calibrated on {printable(record.calibration)}")
    names = (record.output, record.plan, "" if report is None else str(report))
    written = [f"wrote {printable(name)}" for name in names if name]
    # Not wrapped: a path in two pieces cannot be copied.
    for line in written or ["wrote nothing (dry run)"]:
        console.print(line, style="bold", soft_wrap=True)


def _print_passes(record: Record, console: Console) -> None:
    for row in record.passes:
        if row.name == "separate":
            continue
        counts: dict[str, int] = {}
        for entry in row.changes:
            counts[entry["code"]] = counts.get(entry["code"], 0) + 1
        done = ", ".join(f"{count} {code}" for code, count in counts.items()) or "nothing to do"
        console.print(f"{row.name} ({row.kind}): {done}")
        for refusal in row.refusals:
            if refusal["code"] in _NOT_WORTH_A_LINE:
                continue
            name = shortened(refusal["node"], _NAME_WIDTH)
            console.print(f"  refused {name}: {printable(refusal['reason'])}")


def _print_fusion(record: Record, console: Console) -> None:
    fusion = record.fusion
    if fusion is None:
        return
    console.print(
        f"int8: {fusion.integer} of {fusion.convolutions} convolutions run on integers in "
        f"{fusion.provider}"
    )
    told = {
        entry["node"] for row in record.passes if row.name == "quantize" for entry in row.refusals
    }
    for one in fusion.unfused:
        if one["node"] in told:
            continue
        name = shortened(one["node"], _NAME_WIDTH)
        console.print(f"  in float all the same, {name}: {printable(one['reason'])}")


def _layer_table(record: Record) -> Table:
    from rich.table import Table

    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("convolution", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("multiplications", justify="right", no_wrap=True)
    table.add_column("what and why")
    for row in record.layers:
        table.add_row(
            shortened(row.name, _NAME_WIDTH),
            row.shape,
            _multiplications(row),
            _what(row),
            style=None if row.action == "separated" else "dim",
        )
    return table


def _multiplications(row: LayerRow) -> str:
    if row.kind == UNREAD:
        return "-"
    before = quantity(row.multiplications_before)
    if row.action != "separated":
        return before
    return f"{before} → {quantity(row.multiplications_after)}"


def _what(row: LayerRow) -> str:
    integers = ", int8" if row.precision == "int8" else ""
    if row.action == "separated":
        form = row.detail.removeprefix("depthwise-pointwise, ")
        return f"{printable(form)}, output error {100 * row.error:.1f} %{integers}"
    return f"kept: {printable(row.detail)}{integers}"


def _total_table(record: Record) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "before", "after", ""):
        table.add_column(title, justify="left" if not title else "right", no_wrap=bool(title))
    separated = record.separated_multiplications
    total = record.multiplications
    rows = [
        ("parameters", record.parameters_before, record.parameters_after),
        ("multiplications", *total),
        (f"  of the {len(record.separated)} separated", *separated),
    ]
    for title, before, after in rows:
        if not (before or after or title == "parameters" or record.separated):
            continue
        table.add_row(title, quantity(before), quantity(after), times(before, after))
    table.add_row(
        "size on disk",
        f"{quantity(record.bytes_before)}B",
        f"{quantity(record.bytes_after)}B",
        times(record.bytes_before, record.bytes_after),
    )
    if record.latency is not None:
        comparison = record.latency
        table.add_row(
            f"latency, {_threads(comparison.threads)}",
            f"{comparison.first.median:.3f} ± {comparison.first.spread:.3f} ms",
            f"{comparison.second.median:.3f} ± {comparison.second.spread:.3f} ms",
            f"{comparison.speedup:.2f}x ({comparison.low:.2f}-{comparison.high:.2f})",
        )
    for row in record.quality:
        table.add_row(*_quality_cells(row))
        worst = min(row.quality.snr_db.items(), key=lambda item: item[1])
        table.add_row(
            f"  against the original{_worst_of(row, worst[0])}", "", f"{worst[1]:.1f} dB", ""
        )
    return table


def _quality_cells(row: QualityRow) -> tuple[str, str, str, str]:
    images = f"{row.quality.samples} {'drawn' if row.drawn else 'held-out'} images"
    role = "" if row.role == "verification" else ", ranks chosen on them"
    title = f"{row.measure}\n  {images}{role}"
    if row.unit == "dB" and not row.quality.drop_error and row.measure.startswith("signal"):
        return title, "", f"{row.quality.value:.1f} dB", ""
    change = 0.0 - row.quality.drop  # 0.0 - 0.0 is 0.0, where -0.0 would print as -0.00
    spread = f" ± {row.quality.drop_error:.2f}" if row.quality.drop_error else ""
    return (
        title,
        f"{row.quality.original:.2f} {row.unit}",
        f"{row.quality.value:.2f} {row.unit}",
        f"{change:+.2f}{spread}",
    )


def _worst_of(row: QualityRow, name: str) -> str:
    return f" ({shortened(name, 12)}, worst)" if len(row.quality.snr_db) > 1 else ""


def _threads(count: int) -> str:
    return "all cores" if count == 0 else f"{count} thread{'' if count == 1 else 's'}"
