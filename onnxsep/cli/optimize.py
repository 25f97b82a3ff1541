"""``onnxsep optimize``: parse, call the library, render."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxsep.errors import InterruptedRunError

_HELP = """Rewrite standard convolutions into separable ones, fold BatchNormalization, and verify.

Without --data, images are drawn and quality is measured on these; \
with it, the result is fitted to what the network really sees.

[bold]Examples[/bold]

  onnxsep optimize model.onnx

  onnxsep optimize model.onnx --data photos/ --preset imagenet --max-drop 0.5

  onnxsep optimize model.onnx --data train.npz --test-data test.npz

  onnxsep optimize model.onnx --data train.npz --target ssh://pi@board

  onnxsep optimize model.onnx --passes simplify,fold_batchnorm -o clean.onnx

Exit codes: 0 done and within the budget, 2 bad option, 3 bad model or data, \
4 budget not reachable, 5 verification failed, 6 result not writable, 8 other machine not \
reachable, 130 interrupted.
"""

_DATA = "Data"
_QUALITY = "Quality"
_OUTPUT = "Output"
_REPORTS = ("table", "json")


def optimize_command(
    model: Annotated[
        Path, typer.Argument(readable=False, help="The ONNX model; it is never changed.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Result file (default: MODEL.onnxsep.onnx).",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of images, .npz, .npy or package.module:function (default: drawn).",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    test_data: Annotated[
        str | None,
        typer.Option(help="The same, for verification only.", rich_help_panel=_DATA),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Use at most so many images (default: as many as the network's size lets a run "
            "afford, 200 to 1000; drawn ones 24 to 1000).",
            rich_help_panel=_DATA,
        ),
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
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of accuracy (or of agreement, or dB of PSNR) that may be lost "
            "(default: 1.0).",
            rich_help_panel=_QUALITY,
            show_default=False,
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            help="Least signal-to-noise against the original, in dB "
            "(default: 20 for outputs that are no scores, or beside those that labels "
            "judge; 10 beside agreement).",
            rich_help_panel=_QUALITY,
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Your own measure: package.module:function(outputs, labels, targets).",
            rich_help_panel=_QUALITY,
        ),
    ] = None,
    label_offset: Annotated[
        int,
        typer.Option(help="Added to each label to give the class index.", rich_help_panel=_QUALITY),
    ] = 0,
    rank: Annotated[
        float | None,
        typer.Option(
            help="Rewrite every convolution at this rank instead of choosing: depthwise filters "
            "per channel (see --form).",
            rich_help_panel=_QUALITY,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            help="The form that --rank forces: depthwise-pointwise (filters per input channel), "
            "pointwise-depthwise (per output channel) or cp (per channel of the smaller side; "
            "1.5 makes the middle 1.5 times as wide).",
            rich_help_panel=_QUALITY,
        ),
    ] = "depthwise-pointwise",
    target: Annotated[
        str,
        typer.Option(
            help="Where the model will run: cpu, cpu-arm, xnnpack, nnapi, cuda or tensorrt; or a "
            "machine to measure on: ssh://USER@HOST, with :PORT and /PATH/TO/PYTHON if needed."
        ),
    ] = "cpu",
    passes: Annotated[
        str,
        typer.Option(
            help="Comma-separated, of: simplify, fold_batchnorm, separate, align_channels, "
            "quantize (default: all); simplify,fold_batchnorm cleans without loss.",
            show_default=False,
        ),
    ] = "simplify,fold_batchnorm,separate,align_channels,quantize",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, int8, fp16, or auto: fp32 or int8, whichever is faster within the budget."
        ),
    ] = "auto",
    min_speedup: Annotated[
        float | None,
        typer.Option(
            help="The best quality at this speed-up, whatever is lost: 2 for twice as fast.",
            rich_help_panel=_QUALITY,
            show_default=False,
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which the search ends with what it has; proof and timing come "
            "on top.",
            show_default=False,
        ),
    ] = None,
    timing_cache: Annotated[
        bool,
        typer.Option(
            "--timing-cache/--no-timing-cache",
            help="Use layer times measured earlier on this machine.",
        ),
    ] = True,
    calibration_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder (or .json file) of activation statistics: kept there, and used again for "
            "the same model and data.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads in the latency measurement; 0 for all cores.")
    ] = 1,
    workers: Annotated[
        int, typer.Option(help="Processes for fits; 0 fits in this one, layer by layer.")
    ] = 0,
    dask: Annotated[
        str | None,
        typer.Option(
            help="Fit on the Dask cluster with this scheduler, tcp://HOST:PORT (extra: dask).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Repeat the plan of an earlier run, RESULT.plan.json, instead of searching.",
            show_default=False,
        ),
    ] = None,
    pareto: Annotated[
        Path | None,
        typer.Option(
            help="Also write models from careful to daring into this folder, with a plot.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write a report: .html with plots, .md for a pull request, .csv or .json.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, not tables.", rich_help_panel=_OUTPUT),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write no model.", rich_help_panel=_OUTPUT)
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Allow the input to be replaced.", rich_help_panel=_OUTPUT),
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
    from onnxsep.decision import check_form
    from onnxsep.executors import executor_for
    from onnxsep.model import default_output_path
    from onnxsep.options import Options, check_report
    from onnxsep.pipeline import optimize
    from onnxsep.progress import Progress, Silence
    from onnxsep.quality import load_metric
    from onnxsep.report.files import write_report
    from onnxsep.report.terminal import print_record

    destination = output or default_output_path(model)
    if report is not None:
        check_report(report, model, destination)
    options = Options(
        data=data,
        test_data=test_data,
        samples=samples,
        preprocessing=preprocessing_from(preset, mean, std, scale, layout, color),
        target=target,
        passes=_split_passes(passes),
        rank=int(rank) if rank is not None and rank.is_integer() else rank,
        form=check_form(form),
        max_drop=max_drop,
        min_snr_db=min_snr,
        precision=precision,
        min_speedup=min_speedup,
        time_limit=time_limit,
        plan=plan,
        timing_cache=timing_cache,
        calibration_cache=calibration_cache,
        metric=None if metric is None else load_metric(metric),
        label_offset=label_offset,
        threads=threads,
        seed=seed,
    )
    before = _fingerprint(destination)
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
            result = optimize(
                model,
                options,
                output=None if dry_run else destination,
                force=force,
                pareto=pareto,
                executor=stack.enter_context(executor_for(workers, dask)),
                progress=listener,
            )
        except KeyboardInterrupt as interrupt:
            # Typer would end the run without a word.
            written = _fingerprint(destination) != before
            raise InterruptedRunError(
                f"interrupted; {destination if written else 'nothing'} was written"
            ) from interrupt
    if report is not None:
        write_report(result.record, report)
    if json:
        sys.stdout.write(result.record.to_json())
    elif not quiet:
        console = make_console(color=not no_color)
        print_record(result.record, console, report)
        if result.front:
            from onnxsep.report.front import print_front

            console.print(f"front in {pareto}:")
            print_front(result.front, console)
    sys.stdout.flush()


optimize_command.__doc__ = _HELP


def _fingerprint(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _split_passes(text: str) -> tuple[str, ...]:
    return tuple(part.strip().replace("-", "_") for part in text.split(",") if part.strip())
