"""A benchmark as tables on a terminal; readable without colour, in a pipe and at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import bench_numbers as numbers
from onnxsep.report import bench_rows as rows
from onnxsep.report.text import printable, shortened

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from onnxsep.bench.record import BenchRecord, CellResult, Judgement

# Longest name in the first column; beyond it the figures would no longer fit beside it.
_NAME_WIDTH = 24
# The same with one more column; longer names take two lines.
_NARROW_NAME_WIDTH = 13
# From this width on all columns fit with everything on one line.
_WIDE = 104
# Of cells under the name of their model.
_INDENT = 1
# What each column needs for its longest word: "(1.70-1.76)", "(-0.83)", "100 % cuda +".
_RATIO_WIDTH, _QUALITY_WIDTH, _PLACE_WIDTH = 11, 7, 11
# Kinds below these shares of both time and multiplications are only counted.
_SMALL_KIND = 0.01
_VERDICT_STYLES = {"worse": "bold red", "better": "green", "inconclusive": ""}
_STATUS_STYLES = {"ok": "", "pending": "dim", "unavailable": "dim", "failed": "red"}


def print_bench(record: BenchRecord, console: Console) -> None:
    """Print the table of cells and under it what explains it.

    Args:
        record: A finished or interrupted run.
        console: Where to.
    """
    console.print(live_table(record, console.width))
    for title, block in (
        ("", _legend(record)),
        ("", _trouble_lines(record)),
        (f"against {printable(record.baseline)}", _verdicts(record)),
        ("where the time goes, in one cell of each model", _kinds(record)),
    ):
        if not block:
            continue
        console.print()
        if title:
            _line(console, title, style="bold")
        for entry in block:
            if isinstance(entry, tuple):
                _line(console, entry[0], style=entry[1])
            else:
                console.print(entry)
    remarks = rows.remarks(record)
    if remarks:
        console.print()
    for remark in remarks:
        _line(console, f"note: {remark}", style="yellow")
    console.print()
    load = rows.load(record)
    for environment in rows.environment_lines(record):
        _line(console, f"{environment}{f', {load}' if load else ''}", style="dim")
    _line(
        console,
        f"onnxsep {printable(record.onnxsep_version)}, {printable(record.matrix)}, "
        f"{numbers.duration(record.seconds)}",
        style="dim",
    )


_Line = tuple[str, str]


def live_table(record: BenchRecord, width: int = 80) -> Table:
    """The table of cells; while the run goes on it also tells how many rounds are done.

    Args:
        record: As it stands.
        width: Of the terminal; on a narrow one an interval goes below its value.
    """
    from rich.table import Table
    from rich.text import Text

    names, _ = rows.short_names(record)
    ratios = any(result.speedup is not None for result in record.cells)
    judged = {result.cell.id: judgement for result, judgement in rows.judgements(record)}
    references = {result.reference for result in record.cells}
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    narrow = width < _WIDE and (judged or not record.complete)
    before_interval = "\n(" if narrow else " ("
    longest = max((len(name) for name in names.values()), default=0) + _INDENT
    longest = min(longest, _NARROW_NAME_WIDTH if narrow else _NAME_WIDTH)
    table.add_column("cell", overflow="fold", min_width=longest)
    table.add_column("median, ms", no_wrap=True, justify="right")
    table.add_column("speed-up" if ratios else "images/s", min_width=_RATIO_WIDTH)
    table.add_column("quality", min_width=_QUALITY_WIDTH, overflow="fold")
    table.add_column("ran on", min_width=_PLACE_WIDTH, overflow="fold")
    if not record.complete:
        table.add_column("rounds", no_wrap=True, justify="right")
    if judged:
        table.add_column("verdict", no_wrap=True)
    for model, results in rows.by_model(record).items():
        table.add_row(Text(shortened(model, _NAME_WIDTH), style="bold"))
        for result in results:
            fine = result.status == "ok"
            against = _against(result, references) if fine else ""
            quality = rows.quality(result.correctness) if fine else ""
            cells = [
                _indented(names[result.cell.id]),
                Text(rows.time_or_state(result)),
                Text(against.replace(" (", before_interval)),
                Text(quality.replace(" (", before_interval)),
                # One provider per line, so that no share loses its provider.
                Text(rows.ran_on(result).replace(" + ", " +\n") if fine else ""),
            ]
            if not record.complete:
                cells.append(Text(rows.rounds_done(result)))
            if judged:
                cells.append(_verdict(judged.get(result.cell.id)))
            table.add_row(*cells, style=_STATUS_STYLES.get(result.status, ""))
    return table


def _against(result: CellResult, references: set[str]) -> str:
    """The speed-up; of the cell that others are compared with, how much it gets done."""
    if result.speedup is not None:
        return rows.speedup(result)
    role = " (= 1x)" if result.cell.id in references else ""
    return f"{rows.per_second(result)}{role}"


def _verdict(judgement: Judgement | None) -> Text:
    from rich.text import Text

    if judgement is None:
        return Text("")
    verdict = judgement.verdict
    return Text(printable(verdict), style=_VERDICT_STYLES.get(verdict, ""))


def _legend(record: BenchRecord) -> list[RenderableType | _Line]:
    """What the columns say, as far as it is not in their heads."""
    _, common = rows.short_names(record)
    lines = [f"every cell: {common}"] if common else []
    if any(result.reference for result in record.cells):
        lines.append("= 1x: the cell that speed-ups are against")
    lines.append("± and (): 95 % intervals over the rounds; /s: images per second")
    lines.extend(f"quality: {words}" for words in rows.quality_words(record))
    return [(line, "dim") for line in lines]


def _trouble_lines(record: BenchRecord) -> list[RenderableType | _Line]:
    lines: list[RenderableType | _Line] = []
    for remedy, group in rows.by_remedy(rows.troubles(record)):
        for trouble in group:
            style = "red" if trouble.status.startswith("failed") else ""
            names = rows.enumeration(trouble.cells)
            lines.append((f"{trouble.status}: {names}: {trouble.reason}", style))
        if remedy:
            lines.append((f"way out: {remedy}", "bold"))
    return lines


def _verdicts(record: BenchRecord) -> list[RenderableType | _Line]:
    from rich.table import Table
    from rich.text import Text

    counts = rows.verdict_counts(record)
    if not counts:
        return []
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("cell", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("time", no_wrap=True)
    table.add_column("because", overflow="fold")
    names, _ = rows.short_names(record)
    model = None
    for result, judgement in rows.judgements(record):
        if result.cell.model != model:
            model = result.cell.model
            table.add_row(Text(shortened(model, _NAME_WIDTH), style="bold"))
        fails = "not allowed: " if judgement.fails else ""
        table.add_row(
            _indented(names[result.cell.id]),
            _verdict(judgement),
            Text(numbers.change(judgement.ratio)),
            Text(f"{fails}{printable(judgement.reason)}"),
        )
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return [table, (words, "")]


def _kinds(record: BenchRecord) -> list[RenderableType | _Line]:
    from rich.table import Table
    from rich.text import Text

    shown = rows.kinds_worth_showing(record)
    if not shown:
        return []
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("kind of operator", overflow="fold")
    table.add_column("on", no_wrap=True)
    for title in ("nodes", "time", "multiplications"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in shown:
        kinds = result.placement.kinds if result.placement is not None else ()
        table.add_row(Text(printable(result.cell.id), style="bold"))
        small = 0
        for kind in kinds:
            if max(kind.time_share, kind.multiplication_share) < _SMALL_KIND:
                small += 1
                continue
            table.add_row(
                _indented(shortened(kind.kind, _NAME_WIDTH)),
                Text(shortened(rows.provider_name(kind.provider), _NAME_WIDTH)),
                str(kind.nodes),
                numbers.share(kind.time_share),
                numbers.share(kind.multiplication_share),
            )
        if small:
            table.add_row(_indented(f"and {small} below {100 * _SMALL_KIND:.0f} %"))
    return [table]


def _indented(name: str) -> Text:
    from rich.text import Text

    return Text(" " * _INDENT + name)


def _line(console: Console, words: str, *, style: str = "") -> None:
    """Words from strangers: neither markup nor emoji codes nor highlighting."""
    from rich.text import Text

    console.print(Text(words, style=style))
