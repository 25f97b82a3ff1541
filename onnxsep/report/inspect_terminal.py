"""An inspection as tables on a terminal; readable without colour, in a pipe and at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import inspect_rows as rows
from onnxsep.report.bench_numbers import share
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onnxsep.inspection import Inspection, Layer

_KINDS = {
    "standard": "std",
    "pointwise": "pw",
    "depthwise": "dw",
    "grouped": "grp",
    "transposed": "tr",
}
_LONG_KINDS = {short: kind for kind, short in _KINDS.items()}
# Longest name; on 80 columns there is room for less.
_LONGEST_NAME, _SHORTEST_NAME = 44, 12
_LONGEST_BAR, _SHORTEST_BAR = 20, 5
# Beside name and bar: kind, shape, parameters, multiplications, share, two savings.
_FIGURES_WIDTH = 4 + 15 + 7 + 7 + 7 + 8 + 6
_TIME_WIDTH = 7
_SEVERITY_STYLES = {"high": "bold red", "medium": "yellow", "low": ""}
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def print_inspection(found: Inspection, console: Console) -> None:
    """Print layers, kinds, totals, advice and notes.

    Args:
        found: What was found.
        console: Where to.
    """
    from rich.text import Text

    if found.layers:
        console.print(layer_table(found, console.width))
        _line(console, _legend(found), style="dim")
        console.print()
        console.print(_kind_table(found))
        console.print()
    console.print(_facts(found))
    if found.advice:
        console.print()
        _line(console, f"advice for {printable(found.target)}", style="bold")
    for advice in found.advice:
        head = Text(f"{advice.severity:6}  ", style=_SEVERITY_STYLES.get(advice.severity, ""))
        head.append(printable(advice.title), style="bold")
        console.print(head)
        for words in (
            f"at {rows.places(advice)}" if advice.nodes else "",
            f"{printable(advice.reason)}.",
            f"way out: {printable(advice.way_out)}",
        ):
            if words:
                _indented(console, words)
    if found.notes:
        console.print()
    for note in found.notes:
        _line(console, f"note: {printable(note)}", style="yellow")
    console.print()
    _line(
        console,
        f"onnxsep {printable(found.onnxsep_version)}, {printable(found.model)}, "
        f"{printable('; '.join(found.inputs))}, {found.seconds:.1f} s",
        style="dim",
    )


def layer_table(found: Inspection, width: int) -> Table:
    """One line per convolution.

    Args:
        found: What was found.
        width: Of the terminal.
    """
    from rich.table import Table
    from rich.text import Text

    room = width - _FIGURES_WIDTH - (_TIME_WIDTH if found.profiled else 0)
    longest = max((len(printable(layer.name)) for layer in found.layers), default=0)
    bar = min(max(room - longest - 1, _SHORTEST_BAR), _LONGEST_BAR)
    name = min(max(room - bar - 1, _SHORTEST_NAME), _LONGEST_NAME, max(longest, len("layer")))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True, width=name)
    table.add_column("", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for title in ("param.", "MACs", "share"):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True, width=bar)
    if found.profiled:
        table.add_column("time", no_wrap=True, justify="right")
    table.add_column("formula", no_wrap=True, justify="right")
    table.add_column(f"at {rows.percent(found.error)}", no_wrap=True, justify="right")
    most = max((layer.share for layer in found.layers), default=0.0)
    for layer in found.layers:
        cells = [
            Text(cut_in_the_middle(layer.name, name)),
            Text(_KINDS.get(layer.kind, layer.kind)),
            Text(_shape(layer)),
            Text(quantity(layer.parameters)),
            Text(rows.macs(layer.macs)),
            Text(share(layer.share)),
            Text(drawn_bar(layer.share / most if most else 0.0, bar), style="cyan"),
        ]
        if found.profiled:
            cells.append(Text(rows.time_share(layer.time_share)))
        cells += [Text(rows.formula_saving(layer)), Text(rows.saving_here(layer))]
        table.add_row(*cells, style="" if layer.counted else "dim")
    return table


def cut_in_the_middle(name: str, width: int) -> str:
    """``name`` in at most ``width`` characters; both ends tell something."""
    name = printable(name)
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def drawn_bar(part: float, width: int) -> str:
    """A bar of ``part`` of ``width`` characters, in eighths of one; never empty above zero."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    if part > 0:
        eighths = max(eighths, 1)
    return _FULL * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _shape(layer: Layer) -> str:
    marks = ("*" if layer.shared_with else "") + ("" if layer.counted else "~")
    return f"{layer.shape} {marks}" if marks else layer.shape


def _legend(found: Inspection) -> str:
    used = dict.fromkeys(_KINDS.get(layer.kind, layer.kind) for layer in found.layers)
    words = [f"{short} {_LONG_KINDS[short]}" for short in used if short in _LONG_KINDS]
    words.append("shape: inputs x outputs, kernel, /stride")
    words.append(
        "formula: saved by one filter per channel, 1 - 1/N - 1/K; "
        f"at {rows.percent(found.error)}: saved here at that error"
    )
    if any(layer.shared_with for layer in found.layers):
        words.append("*: a weight counted before")
    if not all(layer.counted for layer in found.layers):
        words.append("~: in a branch that does not count")
    return "; ".join(words)


def _kind_table(found: Inspection) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("kind", no_wrap=True)
    for title in ("layers", "parameters", "MACs", "share"):
        table.add_column(title, no_wrap=True, justify="right")
    if found.profiled:
        table.add_column("time, ms", no_wrap=True, justify="right")
        table.add_column("of time", no_wrap=True, justify="right")
    for row in found.kinds:
        cells = [
            Text(printable(row.kind)),
            Text(str(row.layers) if row.layers else ""),
            Text(quantity(row.parameters) if row.parameters else ""),
            Text(quantity(row.macs) if row.macs else ""),
            Text(share(row.share) if row.macs else ""),
        ]
        if found.profiled:
            timed = rows.time(row.time_ms).removesuffix(" ms")
            cells += [Text(timed), Text(rows.time_share(row.time_share))]
        table.add_row(*cells)
    return table


def _facts(found: Inspection) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(max_width=24)
    table.add_column(overflow="fold")
    for name, value in rows.summary(found):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _indented(console: Console, words: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(words), (0, 0, 0, 8)))


def _line(console: Console, words: str, *, style: str = "") -> None:
    """Words from strangers: neither markup nor emoji codes nor highlighting."""
    from rich.text import Text

    console.print(Text(words, style=style))
