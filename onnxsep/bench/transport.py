"""How a job reaches a worker and its answer comes back; here, on this machine.

Every run is a fresh process in a process group of its own, so that a hang or Ctrl-C leaves nothing
behind. What goes wrong with the process itself (it crashes, hangs, is killed) is an outcome, not an
exception: one cell must not end the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from onnxsep.bench.job import JOB_FILE, RESULT_FILE, Answer, Job
from onnxsep.bench.record import FailureKind
from onnxsep.errors import InputError, OutputError

WORKER = Path(__file__).with_name("worker.py")
_STDERR_FILE = "stderr.txt"
# What of a crashed worker's last words fits into one clause.
_LAST_WORDS = 200
_GRACE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """A worker that gave no answer.

    Attributes:
        kind: What happened.
        reason: One clause.
    """

    kind: FailureKind
    reason: str


class Transport(Protocol):
    """A way to one interpreter on one machine."""

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        """Make a job folder called ``place`` that holds the files under the given names."""

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        """Run one job in its folder, in a fresh process, for at most ``timeout`` seconds."""

    def fetch(self, place: str, name: str) -> Path:
        """A file that the worker left in its folder, on this machine.

        Raises:
            OutputError: It is not there.
        """


@runtime_checkable
class DistantTransport(Transport, Protocol):
    """A way to another machine: it has a name, may have something to say, and has an end."""

    @property
    def machine(self) -> str:
        """The machine, as people write it."""

    def notes(self) -> list[str]:
        """What the user must know of the connection, since this was last asked."""

    def close(self) -> None:
        """Leave nothing behind there; may be called from another thread, and twice."""


class LocalTransport:
    """Workers on this machine, started with one interpreter."""

    def __init__(self, folder: Path, python: str = "") -> None:
        """Prepare.

        Args:
            folder: An existing folder for job folders.
            python: Path or name of the interpreter; empty for the one that runs now.
        """
        self._folder = folder
        self._python = python or sys.executable

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        """Make a job folder; files are linked where the file system can, else copied."""
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:
                shutil.copyfile(path, target)

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        """Run one job in a fresh process."""
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).unlink(missing_ok=True)
        (folder / JOB_FILE).write_text(job.to_json(), encoding="utf-8")
        # NumPy's own thread pool would count as memory and as load of the cell.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            with (folder / _STDERR_FILE).open("wb") as stderr:
                process = subprocess.Popen(  # noqa: S603  # a list, no shell; the user's interpreter
                    [self._python, str(WORKER), str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            reason = f"the interpreter {self._python} cannot be started: {error.strerror or error}"
            return Failure("unreachable", reason)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return Failure("timeout", f"no answer within {timeout:g} s; the worker was ended")
        finally:
            _end(process)
        return self._answer(folder, code)

    def fetch(self, place: str, name: str) -> Path:
        """A file out of a job folder."""
        path = self._folder / place / name
        if not path.is_file():
            raise OutputError(f"the worker left no {name}")
        return path

    def _answer(self, folder: Path, code: int) -> Answer | Failure:
        result = folder / RESULT_FILE
        if result.is_file():
            try:
                return Answer.from_json(result.read_text(encoding="utf-8"))
            except (InputError, OSError, UnicodeDecodeError) as error:
                return Failure("error", str(error))
        return without_answer(code, _last_words(folder / _STDERR_FILE))


def without_answer(code: int, words: str) -> Failure:
    """What became of a worker that left no answer.

    Args:
        code: Its exit code; negative: the signal that it died of.
        words: The last line that it said.
    """
    said = f"; it said: {words}" if words else ""
    if code == -signal.SIGKILL:
        reason = "the worker was killed from outside, most likely for using too much memory"
        return Failure("out-of-memory", reason)
    if code < 0:
        with contextlib.suppress(ValueError):
            return Failure("crash", f"the worker died of {signal.Signals(-code).name}{said}")
    return Failure("crash", f"the worker ended with code {code} and without an answer{said}")


def _last_words(path: Path) -> str:
    try:
        return last_line(path.read_bytes().decode("utf-8", "replace"))
    except OSError:
        return ""


def last_line(said: str) -> str:
    """The last line of what a worker said, as much of it as fits into a clause."""
    lines = said.strip().splitlines()
    return lines[-1][-_LAST_WORDS:] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it started."""
    for kind, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
