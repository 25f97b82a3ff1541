"""``onnxsep bench``: parse, call the library, render."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxsep.errors import (
    CellsFailedError,
    ConfigurationError,
    InterruptedRunError,
    OutputError,
    SlowerError,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from onnxsep.bench.record import BenchRecord, Cell
    from onnxsep.bench.runner import Watcher

_HELP = """Measure models over execution providers, batch sizes, threads and precisions.

Every cell of the matrix in bench.yaml runs in fresh processes, in rounds that are interleaved \
with those of all others; where it really ran and whether its outputs are right is checked first.

[bold]Examples[/bold]

  onnxsep bench

  onnxsep bench bench.yaml --only target=cpu,batch=1 --set defaults.rounds=10

  onnxsep bench --html report.html --markdown report.md

  onnxsep bench --baseline main.json --fail-if-slower 5%

  onnxsep bench --resume bench-results/bench-20260101-120000.json

Exit codes: 0 done, 2 bad option or matrix, 3 bad model or data or no such matrix, 6 report not \
writable, 7 slower than the baseline, 8 a cell failed, 130 interrupted.
"""

_CHOICE = "Choice"
_OUTPUT = "Output"
_VERDICT = "Verdict"
_DEFAULT_FOLDER = "bench-results"


def bench_command(
    matrix: Annotated[
        Path, typer.Argument(readable=False, help="The matrix.", show_default=True)
    ] = Path("bench.yaml"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only these cells: part of a cell's name, or axis=value[,axis=value].",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a value of the matrix: defaults.rounds=10.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    list_cells: Annotated[
        bool, typer.Option("--list", help="List the cells and leave.", rich_help_panel=_CHOICE)
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print the JSON schema of the matrix, for editors, and leave.",
            rich_help_panel=_CHOICE,
        ),
    ] = False,
    checks: Annotated[
        bool,
        typer.Option(
            "--checks/--no-checks",
            help="Look at placement and outputs before timing.",
            rich_help_panel=_CHOICE,
        ),
    ] = True,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with an interrupted run: its result file.",
            rich_help_panel=_CHOICE,
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Result file of an earlier run: better, worse or inconclusive, cell by cell.",
            rich_help_panel=_VERDICT,
            show_default=False,
        ),
    ] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(
            help="With --baseline: exit with 7 if a cell is proved slower by more, such as 5%.",
            rich_help_panel=_VERDICT,
            show_default=False,
        ),
    ] = None,
    strict_placement: Annotated[
        bool,
        typer.Option(
            "--strict-placement",
            help="A cell of which any node ran on another provider fails.",
            rich_help_panel=_VERDICT,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Result file, JSON with all samples (default: bench-results/NAME-TIME.json).",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Also write a CSV table.", rich_help_panel=_OUTPUT, show_default=False),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="Also write Markdown, for a pull request.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write one HTML file with plots.",
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
    from onnxsep.bench.cells import expand, select
    from onnxsep.bench.gate import compare_records, parse_allowance
    from onnxsep.bench.matrix import check_files, json_schema, load_matrix
    from onnxsep.bench.run import Request, run_bench
    from onnxsep.bench.storage import load_record, record_json
    from onnxsep.cli.console import make_console

    if schema:
        import json as json_module

        sys.stdout.write(json_module.dumps(json_schema(), indent=2) + "\n")
        return
    if fail_if_slower is not None and baseline is None:
        raise ConfigurationError("--fail-if-slower compares with --baseline; give one")
    allowance = None if fail_if_slower is None else parse_allowance(fail_if_slower)
    if resume is not None and output is not None and resume != output:
        raise ConfigurationError("--resume goes on in its own file; leave --output out")
    loaded = load_matrix(matrix, assignments or ())
    cells = expand(loaded)
    if only:
        cells = select(cells, only)
    console = make_console(color=not no_color)
    if list_cells:
        _print_cells(cells, as_json=json, console=console)
        return
    check_files(loaded, cells)
    old = None if baseline is None else load_record(baseline)
    earlier = None if resume is None else load_record(resume)
    result_file = resume or output or _default_output(matrix)
    reports = [path for path in (csv, markdown, html) if path is not None]
    _check_outputs(result_file, reports, inputs=[matrix, *([baseline] if baseline else [])])

    request = Request(
        loaded,
        cells,
        result_file,
        strict_placement=strict_placement,
        checks=checks,
        earlier=earlier,
        finish=lambda record: (
            record if old is None else compare_records(record, old, allowance, str(baseline))
        ),
    )
    with _watching(quiet=quiet, color=not no_color) as watcher:
        try:
            record = run_bench(request, watcher)
        except KeyboardInterrupt as interrupt:
            kept = f"what was measured is in {result_file}; go on with --resume {result_file}"
            raise InterruptedRunError(
                f"interrupted; {kept if result_file.exists() else 'nothing was measured yet'}"
            ) from interrupt
    _write_reports(record, csv=csv, markdown=markdown, html=html)
    if json:
        sys.stdout.write(record_json(record))
    elif not quiet:
        from onnxsep.report.bench_terminal import print_bench

        print_bench(record, console)
        written = " and ".join(str(path) for path in [result_file, *reports])
        console.print(f"wrote {written}", style="bold")
    sys.stdout.flush()
    _raise_verdict(record)


bench_command.__doc__ = _HELP


def _default_output(matrix: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return Path(_DEFAULT_FOLDER, f"{matrix.stem}-{now}.json")


def _check_outputs(result_file: Path, reports: list[Path], *, inputs: list[Path]) -> None:
    """Refuse before the run what could not be written after it.

    Raises:
        ConfigurationError: Says which file is in the way.
    """
    taken = {path.resolve() for path in inputs}
    for path in [result_file, *reports]:
        if path.resolve() in taken:
            raise ConfigurationError(f"{path} is named twice, or read by this run; choose another")
        taken.add(path.resolve())
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise ConfigurationError(f"{path} is no regular file; give a file name")
        if path is not result_file and not path.parent.is_dir():
            raise ConfigurationError(f"the folder {path.parent} does not exist; make it first")
    try:
        result_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {result_file.parent}: {error.strerror or error}"
        ) from error


def _print_cells(cells: tuple[Cell, ...], *, as_json: bool, console: Console) -> None:
    if as_json:
        import dataclasses
        import json

        sys.stdout.write(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=2) + "\n")
        return
    for cell in cells:
        console.print(cell.id)


def _write_reports(
    record: BenchRecord, *, csv: Path | None, markdown: Path | None, html: Path | None
) -> None:
    from onnxsep.model import atomic_file

    writers: list[tuple[Path | None, Callable[[BenchRecord], str]]] = []
    if csv is not None:
        from onnxsep.report.bench_csv import bench_csv

        writers.append((csv, bench_csv))
    if markdown is not None:
        from onnxsep.report.bench_markdown import bench_markdown

        writers.append((markdown, bench_markdown))
    if html is not None:
        from onnxsep.report.bench_html import bench_html

        writers.append((html, bench_html))
    for path, write in writers:
        if path is None:
            continue
        try:
            with atomic_file(path) as temporary:
                temporary.write_text(write(record), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _raise_verdict(record: BenchRecord) -> None:
    """The exit code of a finished run.

    Raises:
        SlowerError: A cell is slower than allowed.
        CellsFailedError: A cell failed.
    """
    failed = [row for row in record.cells if row.status == "failed"]
    if failed:
        others = f" and {len(failed) - 1} more cells" if len(failed) > 1 else ""
        raise CellsFailedError(f"{failed[0].cell.id}{others} failed: {failed[0].reason}")
    slower = [row.cell.id for row in record.cells if row.judgement and row.judgement.fails]
    if slower:
        others = f" and {len(slower) - 1} more" if len(slower) > 1 else ""
        raise SlowerError(f"slower than {record.baseline} allows: {slower[0]}{others}")


class _Quiet:
    def step(self, what: str) -> None:
        del what

    def changed(self, record: BenchRecord) -> None:
        del record


class _Lines:
    """A line per step on standard error: for pipes and logs."""

    def step(self, what: str) -> None:
        from onnxsep.report.text import printable

        sys.stderr.write(f"{printable(what)}\n")
        sys.stderr.flush()

    def changed(self, record: BenchRecord) -> None:
        del record


class _LiveTable:
    """The table as it fills, and the step under it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._table: object = ""
        self._step = ""

    def step(self, what: str) -> None:
        from onnxsep.report.text import printable

        self._step = printable(what)
        self._show()

    def changed(self, record: BenchRecord) -> None:
        from onnxsep.report.bench_terminal import live_table

        self._table = live_table(record)
        self._show()

    def _show(self) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(self._table, Text(self._step, style="dim")))  # type: ignore[arg-type]


@contextlib.contextmanager
def _watching(*, quiet: bool, color: bool) -> Iterator[Watcher]:
    """Whoever tells the user how far the run is."""
    if quiet or sys.stderr is None:
        yield _Quiet()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.live import Live

        from onnxsep.cli.console import make_console

        with Live(console=make_console(stderr=True, color=color), transient=True) as live:
            yield _LiveTable(live)
