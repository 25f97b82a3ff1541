"""The door to report files: the ending of a file's name says which report it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from onnxsep.errors import ConfigurationError, OutputError
from onnxsep.report.record import Record

if TYPE_CHECKING:
    from onnxsep.comparison.record import ComparisonRecord

SUFFIXES = (".json", ".csv", ".md", ".html")


def check_report_path(path: Path, *, taken: Iterable[Path] = ()) -> None:
    """Refuse before a run what could not be written after it.

    Args:
        path: Of the report.
        taken: Files that the run reads or writes, which it must not replace.

    Raises:
        ConfigurationError: The ending is unknown, the folder does not exist, or something that is
            no report is in the way.
        OutputError: The folder is not writable.
    """
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise ConfigurationError(f"--report {path}: give a file in a folder that exists")
    require_writable(path.parent)
    if path.resolve() in {other.resolve() for other in taken}:
        raise ConfigurationError(
            f"--report {path} is read or written by this run already; choose another file"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"--report {path}: the ending says what to write; it may be {', '.join(SUFFIXES)}"
        )


def require_writable(folder: Path) -> None:
    """Find out before a long run that its result has no place.

    Raises:
        OutputError: The folder is not writable.
    """
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} is not writable; choose another one")


def write_report(record: Record | ComparisonRecord, path: Path) -> None:
    """Write the report that the ending of ``path`` asks for, whole or not at all.

    Args:
        record: Of ``optimize`` or ``compare``.
        path: Ends with one of `SUFFIXES`.

    Raises:
        ConfigurationError: It does not.
        OutputError: The folder is missing or not writable.
    """
    from onnxsep.model import atomic_file

    text = _writer(record, path)()
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _writer(record: Record | ComparisonRecord, path: Path) -> Callable[[], str]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return record.to_json
    if isinstance(record, Record):
        from onnxsep.report import optimize_csv, optimize_html, optimize_markdown

        optimize = {
            ".csv": optimize_csv.optimize_csv,
            ".md": optimize_markdown.optimize_markdown,
            ".html": optimize_html.optimize_html,
        }
        if suffix in optimize:
            return lambda: optimize[suffix](record)
    else:
        from onnxsep.report import compare_csv, compare_html, compare_markdown

        compare = {
            ".csv": compare_csv.compare_csv,
            ".md": compare_markdown.compare_markdown,
            ".html": compare_html.compare_html,
        }
        if suffix in compare:
            return lambda: compare[suffix](record)
    raise ConfigurationError(
        f"--report {path}: the ending says what to write; it may be {', '.join(SUFFIXES)}"
    )
