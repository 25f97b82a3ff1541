"""Findings about this machine as lines on a terminal, readable without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report.text import printable, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from onnxsep.doctor import Diagnosis

_NAME_WIDTH = 18
_STYLES = {"ok": "green", "warning": "yellow", "missing": "dim", "broken": "bold red"}


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the findings by group, each with its way out, and a line that sums them up.

    Args:
        diagnosis: Of this machine.
        console: Where to.
    """
    from rich.table import Table
    from rich.text import Text

    groups: dict[str, None] = dict.fromkeys(found.group for found in diagnosis.findings)
    for group in groups:
        console.print(Text(group, style="bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True, width=9)
        table.add_column(no_wrap=True, width=_NAME_WIDTH)
        table.add_column(overflow="fold")
        for found in diagnosis.findings:
            if found.group != group:
                continue
            value = Text(printable(found.value))
            if found.way_out:
                value.append(f"\n→ {printable(found.way_out)}", style="dim")
            table.add_row(
                Text(f"  {found.state}", style=_STYLES[found.state]),
                Text(shortened(found.name, _NAME_WIDTH)),
                value,
            )
        console.print(table)
    console.print()
    console.print(Text(_summary(diagnosis), style="bold"))


def _summary(diagnosis: Diagnosis) -> str:
    counts = dict.fromkeys(_STYLES, 0)
    for found in diagnosis.findings:
        counts[found.state] += 1
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{words}{'' if counts['broken'] else '; nothing required is missing'}"
