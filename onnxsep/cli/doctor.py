"""``onnxsep doctor``: call the library, render."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

_HELP = """Check this machine: packages, providers, processor, limits, timing, ssh and adb.

Says what to install for what is missing, and what would disturb a benchmark.

[bold]Examples[/bold]

  onnxsep doctor

  onnxsep doctor --json

Exit codes: 0 nothing required is missing, 2 something required is missing or too old.
"""


def doctor_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks for errors.")] = False,
) -> None:
    """Filled in below."""
    del debug  # main() looks for it, so that it works for errors of every kind.
    from onnxsep.doctor import diagnose
    from onnxsep.errors import ConfigurationError

    diagnosis = diagnose()
    if json:
        sys.stdout.write(diagnosis.to_json())
    else:
        from onnxsep.cli.console import make_console
        from onnxsep.report.doctor_terminal import print_diagnosis

        print_diagnosis(diagnosis, make_console(color=not no_color))
    sys.stdout.flush()
    if diagnosis.broken:
        first = diagnosis.broken[0]
        others = f" and {len(diagnosis.broken) - 1} more" if len(diagnosis.broken) > 1 else ""
        raise ConfigurationError(f"{first.name}: {first.value}{others}; {first.way_out}")


doctor_command.__doc__ = _HELP
