"""Where words go: data to standard output, progress and errors to standard error."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from onnxsep.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# What a pipe or a file gets: a width that fits a log viewer.
_PIPE_WIDTH = 100


def make_console(*, stderr: bool = False, color: bool = True) -> Console:
    """A console that knows NO_COLOR, narrow terminals and pipes."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(
        stderr=stderr,
        no_color=True if not color else None,
        width=width,
        highlight=False,
        emoji=False,
        markup=False,
    )


def print_error(*lines: str) -> None:
    """On standard error; control characters in strangers' names, newlines too, are replaced."""
    if sys.stderr is not None:
        text = "\n  ".join(printable(line) for line in lines)
        sys.stderr.write(f"error: {text}\n")


class PlainProgress:
    """A line per stage on standard error: for pipes, logs and ``--verbose``."""

    def __init__(self, *, steps: bool = False) -> None:
        self._steps = steps
        self._started = time.monotonic()

    def stage(self, title: str, total: int = 0) -> None:
        """Print the title."""
        del total
        self._line(title)

    def step(self, detail: str = "") -> None:
        """Print the detail, if steps are wanted."""
        if self._steps and detail:
            self._line(f"  {detail}")

    def note(self, message: str) -> None:
        """Print the message."""
        self._line(f"  {message}")

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        sys.stderr.write(f"[{seconds:6.1f} s] {printable(text)}\n")
        sys.stderr.flush()


class LiveProgress:
    """One live line on a terminal: the stage, a bar, and what is being worked on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._total = 0

    def __enter__(self) -> LiveProgress:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def stage(self, title: str, total: int = 0) -> None:
        """Replace the line."""
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._total = total
        self._task = self._progress.add_task(printable(title), total=total or None)

    def step(self, detail: str = "") -> None:
        """Move the bar."""
        del detail
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def note(self, message: str) -> None:
        """Print a line above the live one."""
        if self._progress is not None:
            self._progress.console.print(f"  {printable(message)}", style="dim")
