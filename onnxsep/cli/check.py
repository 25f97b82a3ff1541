"""``onnxsep check``: parse, call the library, render."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxsep.errors import ConfigurationError, OutputError, VerificationError

if TYPE_CHECKING:
    from onnxsep.eligibility import Eligibility

_HELP = """Predict what a target would take of a model, node by node, and what would fall back.

Every refusal names its rule, the way out, and the file in which the rule stands. Where the \
onnxruntime here has the target's provider, the prediction is compared with a session of it.

[bold]Examples[/bold]

  onnxsep check model.onnx --target xnnpack

  onnxsep check model.onnx --target nnapi --fix-shape batch=1 -o fixed.onnx

  onnxsep check model.onnx --target nnapi --api-level 30 --fix-shape input:2=320

  onnxsep check model.onnx --target xnnpack --strict --report check.md

Exit codes: 0 done, 2 bad option, 3 bad model, 5 with --strict: something leaves the target, \
6 result not writable, 130 interrupted.
"""

_QUESTION = "Question"
_OUTPUT = "Output"
_FORMATS = (".json", ".md")


def check_command(
    model: Annotated[
        Path, typer.Argument(readable=False, help="The ONNX model; it is never changed.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "-t",
            "--target",
            help="Target: cpu, cpu-arm, xnnpack, nnapi, cuda, tensorrt (onnxsep targets).",
            rich_help_panel=_QUESTION,
            show_default=False,
        ),
    ],
    fix_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Size of a free dimension: NAME=1 or INPUT:AXIS=320; repeatable.",
            rich_help_panel=_QUESTION,
            show_default=False,
        ),
    ] = None,
    api_level: Annotated[
        int, typer.Option(help="Android's API level, for nnapi.", rich_help_panel=_QUESTION)
    ] = 29,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 5 if anything leaves the target or stays in float.",
            rich_help_panel=_QUESTION,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write the model with its dimensions fixed.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the result: .json or .md.", rich_help_panel=_OUTPUT, show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="List every node not taken.", rich_help_panel=_OUTPUT),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, not tables.", rich_help_panel=_OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing.", rich_help_panel=_OUTPUT)
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colour.", rich_help_panel=_OUTPUT)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Tracebacks for errors.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Filled in below."""
    del debug  # main() looks for it, so that it works for errors of every kind.
    _check_options(model, output, report)
    from onnxsep.eligibility import check, fix_shapes, parse_sizes
    from onnxsep.model import load_model, save_model
    from onnxsep.targets import get_target

    sizes = parse_sizes(fix_shape or ())
    get_target(target)
    if output is not None and not sizes:
        raise ConfigurationError("--output writes what --fix-shape fixes; give one")
    loaded = load_model(model)
    record = check(loaded, target, fix_shape=sizes, api_level=api_level, path=str(model))
    written = []
    if output is not None:
        written.extend(save_model(fix_shapes(loaded, sizes), output))
    if report is not None:
        _write(record, report)
        written.append(report)
    if json:
        sys.stdout.write(record.to_json())
    elif not quiet:
        from onnxsep.cli.console import make_console
        from onnxsep.report.check_terminal import print_check

        console = make_console(color=not no_color)
        print_check(record, console, everything=everything)
        if written:
            names = " and ".join(str(path) for path in written)
            console.print(f"wrote {names}", style="bold")
    sys.stdout.flush()
    if strict and not record.holds:
        count = len(record.refused) + len(record.in_float)
        first = (*record.refused, *record.in_float)[0]
        raise VerificationError(
            f"{target} does not take all of {model}: {count} of {len(record.units)} operators, "
            f"first '{first.name}' ({first.operator})"
        )


check_command.__doc__ = _HELP


def _check_options(model: Path, output: Path | None, report: Path | None) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        ConfigurationError: Says which file is in the way.
    """
    taken = {model.resolve()}
    for path in (output, report):
        if path is None:
            continue
        if path.resolve() in taken:
            raise ConfigurationError(f"{path} is named twice, or is the model; choose another")
        taken.add(path.resolve())
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder; give a file name")
        if not path.parent.is_dir():
            raise ConfigurationError(f"the folder {path.parent} does not exist; make it first")
    if report is not None and report.suffix not in _FORMATS:
        raise ConfigurationError(f"--report {report}: known are {' and '.join(_FORMATS)}")


def _write(record: Eligibility, path: Path) -> None:
    from onnxsep.model import atomic_file
    from onnxsep.report.check_markdown import check_markdown

    text = record.to_json() if path.suffix == ".json" else check_markdown(record)
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
