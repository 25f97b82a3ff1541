"""``onnxsep compare``: parse, call the library, render."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxsep.errors import InterruptedRunError, VerificationError

if TYPE_CHECKING:
    from onnxsep.comparison import ComparisonRecord

_HELP = """Compare two models on the same data: outputs, layers, latency, size, multiplications.

Any two models that onnxruntime runs and that take the same inputs: an original and its optimized, \
quantized or fp16 form, or two exports of one network. Without --data, images are drawn.

[bold]Examples[/bold]

  onnxsep compare model.onnx model.onnxsep.onnx

  onnxsep compare float.onnx int8.onnx --data photos/ --preset imagenet

  onnxsep compare a.onnx b.onnx --data test.npz --report compare.html

  onnxsep compare a.onnx b.onnx --max-drop 0.5 --fail-below-db 25

Exit codes: 0 done and within the limits, 2 bad option, 3 bad model or data or nothing to compare, \
5 a limit is not kept, 6 report not writable, 130 interrupted.
"""

_DATA = "Data"
_LIMITS = "Limits"
_OUTPUT = "Output"


def compare_command(
    first: Annotated[Path, typer.Argument(readable=False, help="The ONNX model to compare with.")],
    second: Annotated[Path, typer.Argument(readable=False, help="The other one.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of images, .npz, .npy or package.module:function (default: drawn).",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Use at most so many images.", rich_help_panel=_DATA),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preprocessing of images by name: imagenet, unit, raw, caffe and others.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean per channel, such as 0.485,0.456,0.406.", rich_help_panel=_DATA),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Deviation per channel.", rich_help_panel=_DATA)
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="Factor on 0-255 values, before mean: 1/255.", rich_help_panel=_DATA),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="NCHW or NHWC.", rich_help_panel=_DATA)] = None,
    color: Annotated[
        str | None, typer.Option(help="rgb, bgr or gray.", rich_help_panel=_DATA)
    ] = None,
    label_offset: Annotated[
        int,
        typer.Option(help="Added to each label to give the class index.", rich_help_panel=_DATA),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of every random choice.", rich_help_panel=_DATA)] = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Exit with 5 if more points of accuracy (of agreement, dB of PSNR) are lost.",
            rich_help_panel=_LIMITS,
            show_default=False,
        ),
    ] = None,
    fail_below_db: Annotated[
        float | None,
        typer.Option(
            help="Exit with 5 if an output's signal-to-noise is below so many dB.",
            rich_help_panel=_LIMITS,
            show_default=False,
        ),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time both models in turn.")
    ] = True,
    layers: Annotated[
        bool,
        typer.Option("--layers/--no-layers", help="Compare inner values of the same name."),
    ] = True,
    threads: Annotated[
        int, typer.Option(help="Threads in the latency measurement; 0 for all cores.")
    ] = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--report",
            help="Also write a report: .html with plots, .md for a pull request, .csv or .json.",
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
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Say what happens.", rich_help_panel=_OUTPUT),
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
    from onnxsep.cli.console import LiveProgress, PlainProgress, make_console
    from onnxsep.cli.preprocessing import preprocessing_from
    from onnxsep.comparison import CompareOptions, compare
    from onnxsep.progress import Progress, Silence
    from onnxsep.report.files import check_report_path, write_report

    if report is not None:
        check_report_path(report, taken=(first, second, *([] if data is None else [Path(data)])))
    options = CompareOptions(
        data=data,
        samples=samples,
        preprocessing=preprocessing_from(preset, mean, std, scale, layout, color),
        label_offset=label_offset,
        threads=threads,
        seed=seed,
        measure_latency=latency,
        compare_layers=layers,
        fail_below_db=fail_below_db,
        max_drop=max_drop,
    )
    with contextlib.ExitStack() as stack:
        listener: Progress
        if quiet or sys.stderr is None:
            listener = Silence()
        elif sys.stderr.isatty() and not verbose:
            terminal = make_console(stderr=True, color=not no_color)
            listener = stack.enter_context(LiveProgress(terminal))
        else:
            listener = PlainProgress(steps=verbose)
        try:
            record = compare(first, second, options, progress=listener)
        except KeyboardInterrupt as interrupt:
            # Typer would end the run without a word.
            raise InterruptedRunError("interrupted; nothing was written") from interrupt
    if report is not None:
        write_report(record, report)
    if json:
        sys.stdout.write(record.to_json())
    elif not quiet:
        from onnxsep.report.compare_terminal import print_comparison

        print_comparison(record, make_console(color=not no_color), report)
    sys.stdout.flush()
    _raise_verdict(record)


compare_command.__doc__ = _HELP


def _raise_verdict(record: ComparisonRecord) -> None:
    """The exit code of a finished run.

    Raises:
        VerificationError: A limit that was asked for is not kept.
    """
    from onnxsep.report.compare_rows import gate_words

    broken = [gate for gate in record.gates if not gate.holds]
    if broken:
        raise VerificationError("; ".join(gate_words(gate) for gate in broken))
