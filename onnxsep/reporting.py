"""Whatever a command found, as a file of the kind that its name's ending says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxsep.bench.record import BenchRecord
from onnxsep.bench.storage import record_json
from onnxsep.comparison.record import ComparisonRecord
from onnxsep.eligibility.record import Eligibility
from onnxsep.errors import ConfigurationError, OutputError
from onnxsep.inspection.record import Inspection
from onnxsep.model import atomic_file
from onnxsep.report.files import check_report_path
from onnxsep.report.record import Record


def write_report(
    record: Record | ComparisonRecord | Inspection | Eligibility | BenchRecord, path: str | Path
) -> None:
    """Write what a function here returned as a file: whole, or not at all.

    Args:
        record: ``result.record`` of `optimize`, or what `inspect`, `compare`, `check` or
            `benchmark` returned.
        path: Its ending says what is written: .json, .md, .csv or .html; of `check` .json or .md.

    Raises:
        ConfigurationError: The ending is another one, or something that is no file is in the way.
        OutputError: The folder is not writable, or the disk is full.
    """
    path = Path(path)
    writers = _writers(record)
    check_report_path(path)
    if path.suffix.lower() not in writers:
        raise ConfigurationError(
            f"{path}: a {type(record).__name__} is written as {' or '.join(writers)}"
        )
    text = writers[path.suffix.lower()]()
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _writers(
    record: Record | ComparisonRecord | Inspection | Eligibility | BenchRecord,
) -> dict[str, Callable[[], str]]:
    """Ending → what makes the text; figures are drawn only when they are asked for."""
    match record:
        case Record():
            from onnxsep.report import optimize_csv, optimize_html, optimize_markdown

            return {
                ".json": record.to_json,
                ".md": lambda: optimize_markdown.optimize_markdown(record),
                ".csv": lambda: optimize_csv.optimize_csv(record),
                ".html": lambda: optimize_html.optimize_html(record),
            }
        case ComparisonRecord():
            from onnxsep.report import compare_csv, compare_html, compare_markdown

            return {
                ".json": record.to_json,
                ".md": lambda: compare_markdown.compare_markdown(record),
                ".csv": lambda: compare_csv.compare_csv(record),
                ".html": lambda: compare_html.compare_html(record),
            }
        case Inspection():
            from onnxsep.report import inspect_csv, inspect_html, inspect_markdown

            return {
                ".json": record.to_json,
                ".md": lambda: inspect_markdown.inspect_markdown(record),
                ".csv": lambda: inspect_csv.inspect_csv(record),
                ".html": lambda: inspect_html.inspect_html(record),
            }
        case BenchRecord():
            from onnxsep.report import bench_csv, bench_html, bench_markdown

            return {
                ".json": lambda: record_json(record),
                ".md": lambda: bench_markdown.bench_markdown(record),
                ".csv": lambda: bench_csv.bench_csv(record),
                ".html": lambda: bench_html.bench_html(record),
            }
        case Eligibility():
            from onnxsep.report import check_markdown

            return {
                ".json": record.to_json,
                ".md": lambda: check_markdown.check_markdown(record),
            }
