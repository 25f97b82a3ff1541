"""``onnxsep targets``: call the library, render."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

_HELP = """List the targets, what they accept, and whether they can be reached from here.

[bold]Examples[/bold]

  onnxsep targets

  onnxsep targets --json

Exit codes: 0 done.
"""


def targets_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks for errors.")] = False,
) -> None:
    """Filled in below."""
    del debug  # main() looks for it, so that it works for errors of every kind.
    from onnxsep.eligibility.reach import list_targets, targets_json

    rows = list_targets()
    if json:
        sys.stdout.write(targets_json(rows))
    else:
        from onnxsep.cli.console import make_console
        from onnxsep.report.targets_terminal import print_targets

        print_targets(rows, make_console(color=not no_color))
    sys.stdout.flush()


targets_command.__doc__ = _HELP
