"""What a target would take, as tables on a terminal; readable in a pipe and at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import check_rows as rows
from onnxsep.report.text import printable, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from onnxsep.eligibility.record import Eligibility, UnitRow

_NAME_WIDTH = 30
_KIND_WIDTH = 30
# Beyond so many, a list of nodes is no longer read.
MOST_NODES = 20


def print_check(record: Eligibility, console: Console, *, everything: bool = False) -> None:
    """Print the outcome, the kinds of operators, and every node with the rule against it.

    Args:
        record: Of one model and one target.
        console: Where to.
        everything: Print all nodes that are not taken, however many they are.
    """
    for sentence in rows.summary(record):
        _line(console, sentence, style="bold")
    console.print(_kinds(record))
    against = (*record.refused, *record.in_float)
    if against:
        console.print()
        shown = against if everything else against[:MOST_NODES]
        console.print(_nodes(shown))
        if len(shown) < len(against):
            _line(console, f"and {len(against) - len(shown)} more; --all lists them", style="dim")
        console.print()
        _print_rules(record, console)
    console.print()
    _line(console, rows.graph_words(record), style="dim")
    found = record.confirmation
    style = "yellow" if found.disagreements else "green" if found.confirmed else "dim"
    _line(console, rows.confirmation_words(record), style=style)
    for note in rows.notes(record):
        _line(console, f"note: {note}", style="yellow")


def _kinds(record: Eligibility) -> Table:
    from rich.table import Table
    from rich.text import Text

    with_float = bool(record.in_float)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("operator", no_wrap=True)
    titles = ["taken", *(["in float"] if with_float else []), "elsewhere", "multiplications"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows.kinds(record):
        counts = [row.taken, *([row.in_float] if with_float else []), row.refused]
        table.add_row(
            Text(shortened(row.title, _KIND_WIDTH)),
            *(Text(str(count) if count else "-") for count in counts),
            Text(row.share),
            style="" if row.refused or row.in_float else "dim",
        )
    return table


def _nodes(shown: tuple[UnitRow, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("node", no_wrap=True)
    table.add_column("operator", no_wrap=True)
    table.add_column("mult.", justify="right", no_wrap=True)
    table.add_column("rule", overflow="fold")
    for row in shown:
        code = "" if row.rule is None else row.rule.code
        table.add_row(
            Text(shortened(row.name, _NAME_WIDTH)),
            Text(shortened(row.operator, _KIND_WIDTH)),
            Text(rows.work(row)),
            Text(code if row.state == "refused" else f"{code} (float)"),
        )
    return table


def _print_rules(record: Eligibility, console: Console) -> None:
    for group in rows.by_rule((*record.refused, *record.in_float)):
        rule = group.rule
        count = len(group.units)
        _line(
            console,
            f"{rule.code} ({count} node{'' if count == 1 else 's'}): {rule.sentence}",
            style="bold",
        )
        _line(console, f"  way out: {rule.way_out}")
        _line(console, f"  {rule.confidence}: {rule.source}", style="dim")


def _line(console: Console, words: str, *, style: str = "") -> None:
    """Words from strangers: neither markup nor emoji codes nor highlighting."""
    from rich.text import Text

    indent = len(words) - len(words.lstrip())
    console.print(Text(" " * indent + printable(words.strip()), style=style))
