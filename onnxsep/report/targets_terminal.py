"""Targets as a table on a terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxsep.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from onnxsep.eligibility.reach import TargetRow


def print_targets(targets: Sequence[TargetRow], console: Console) -> None:
    """Print what each accepts, and how to get at those that are not here.

    Args:
        targets: All of them.
        console: Where to.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("target", no_wrap=True)
    table.add_column("activations", overflow="fold")
    table.add_column("weights", overflow="fold")
    table.add_column("r filters", no_wrap=True)
    table.add_column("may stay free", overflow="fold")
    table.add_column("reached", no_wrap=True)
    for row in targets:
        precise = row.activation if row.precision == "int8" else row.precision
        table.add_row(
            Text(row.name, style="bold"),
            Text(precise),
            Text(row.weight if row.precision == "int8" else row.precision),
            Text(row.form),
            Text(row.free_dimensions),
            Text(row.reach, style="green" if row.reach == "here" else ""),
        )
    console.print(table)
    for row in targets:
        console.print()
        console.print(Text(f"{row.name}: {row.title} ({row.provider})", style="bold"))
        console.print(Text(printable(row.why)))
        if row.how:
            console.print(Text(f"→ {printable(row.how)}", style="dim"))
