"""``onnxsep inspect``: parse, call the library, render."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxsep.errors import ConfigurationError, InterruptedRunError, OutputError

if TYPE_CHECKING:
    from onnxsep.inspection import Inspection

_HELP = """Look at a model layer by layer: work, what separation could save, advice for devices.

Nothing is changed. Without --data, errors are those of the weights alone, which promise least; \
with it, they are of what each layer gives on the data.

[bold]Examples[/bold]

  onnxsep inspect model.onnx

  onnxsep inspect model.onnx --profile

  onnxsep inspect model.onnx --data photos/ --preset imagenet --error 0.02

  onnxsep inspect model.onnx --target nnapi -o report.html

Exit codes: 0 done, 2 bad option, 3 bad model or data, 6 report not writable, 130 interrupted.
"""

_DATA = "Data"
_OUTPUT = "Output"
_SUFFIXES = (".json", ".csv", ".md", ".html")


def inspect_command(
    model: Annotated[
        Path, typer.Argument(readable=False, help="The ONNX model; it is never changed.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of images, .npz, .npy or package.module:function (default: none; the "
            "weights alone).",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preprocessing of images by name: imagenet, unit, raw, caffe and others.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Use at most so many images (default: 64).",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    error: Annotated[
        float,
        typer.Option(
            help="Relative output error that a layer may have when it is separated: 0.01 is 1 %."
        ),
    ] = 0.01,
    target: Annotated[
        str,
        typer.Option(
            help="Where the model will run: cpu, cpu-arm, xnnpack, nnapi, cuda or tensorrt."
        ),
    ] = "cpu",
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Run the model and say where the time goes, on this CPU."),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Time layers whose channel counts miss the fast kernels, some seconds.",
        ),
    ] = True,
    threads: Annotated[
        int, typer.Option(help="Threads of whatever is timed; 0 for all cores.")
    ] = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--report",
            help="Also write the report to this file: .json, .csv, .md or .html.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, not tables.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="No progress, no table.", rich_help_panel=_OUTPUT)
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
    if report is not None:
        _check_report(report, [model, *([] if data is None else [Path(data)])])
    from onnxsep.cli.console import LiveProgress, PlainProgress, make_console
    from onnxsep.inspection import inspect
    from onnxsep.progress import Progress, Silence

    with contextlib.ExitStack() as stack:
        listener: Progress
        if quiet or sys.stderr is None:
            listener = Silence()
        elif sys.stderr.isatty():
            terminal = make_console(stderr=True, color=not no_color)
            listener = stack.enter_context(LiveProgress(terminal))
        else:
            listener = PlainProgress()
        try:
            found = inspect(
                model,
                data=data,
                preset=preset,
                samples=samples,
                profile=profile,
                measure=measure,
                threads=threads,
                error=error,
                target=target,
                progress=listener,
            )
        except KeyboardInterrupt as interrupt:
            raise InterruptedRunError("interrupted; nothing was written") from interrupt
    if report is not None:
        _write(found, report)
    if json:
        sys.stdout.write(found.to_json())
    elif not quiet:
        from onnxsep.report.inspect_terminal import print_inspection

        console = make_console(color=not no_color)
        print_inspection(found, console)
        if report is not None:
            console.print(f"wrote {report}", style="bold", soft_wrap=True)
    sys.stdout.flush()


inspect_command.__doc__ = _HELP


def _check_report(report: Path, inputs: list[Path]) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        ConfigurationError: Says what is wrong with the name.
    """
    if report.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(
            f"--report: {report} has none of the endings {', '.join(_SUFFIXES)}, which say what to "
            "write"
        )
    if report.resolve() in [path.resolve() for path in inputs]:
        raise ConfigurationError(f"{report} is read by this run; choose another file")
    if report.exists() and not report.is_file():
        raise ConfigurationError(f"{report} is no regular file; give a file name")
    if not report.parent.is_dir():
        raise ConfigurationError(f"the folder {report.parent} does not exist; make it first")


def _write(found: Inspection, path: Path) -> None:
    from onnxsep.model import atomic_file

    text = _renderer(path.suffix.lower())(found)
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _renderer(suffix: str) -> Callable[[Inspection], str]:
    match suffix:
        case ".csv":
            from onnxsep.report.inspect_csv import inspect_csv

            return inspect_csv
        case ".md":
            from onnxsep.report.inspect_markdown import inspect_markdown

            return inspect_markdown
        case ".html":
            from onnxsep.report.inspect_html import inspect_html

            return inspect_html
        case _:
            return lambda found: found.to_json()
