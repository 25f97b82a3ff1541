"""Workers on another machine, behind OpenSSH.

One agent per target lives as long as the run. Files are sent once, by their hash; jobs are folders
of links there. What is placed is only noted, and sent when a job needs it: after a connection
broke, a new agent gets what the next job needs, and the job runs again from its start, so that no
sample of a broken run is ever used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from onnxsep.bench.channel import BrokenError, Channel, RefusedError, wait_before
from onnxsep.bench.job import JOB_FILE, OUTPUTS_FILE, RESULT_FILE, Answer, Job
from onnxsep.bench.ssh import SshSettings, Trouble, arguments, explain, fits_socket
from onnxsep.bench.transport import WORKER, Failure, last_line, without_answer
from onnxsep.errors import InputError, OutputError

# Attempts for one job over connections that break.
_ATTEMPTS = 3
# What the way back may take on top of a job's own time.
_WAY_SECONDS = 60.0
# For a file of gigabytes over a slow line: ssh itself notices when nothing moves.
_SEND_SECONDS = 3600.0
_LARGEST_ANSWER = 256 << 20
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
_MEBIBYTE = 2**20


class SshTransport:
    """A way to one interpreter on one machine behind ssh."""

    def __init__(self, settings: SshSettings, folder: Path, sockets: Path | None = None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: Which machine and interpreter.
            folder: An existing folder for what comes back.
            sockets: A private folder, see `socket_folder`, that targets share so that those on one
                machine share a connection; None for a connection of its own.
        """
        self._settings, self._folder, self._sockets = settings, folder, sockets
        self._channel: Channel | None = None
        self._connected_before = False
        self._lost: Failure | None = None
        self._closed = threading.Event()
        self._files: dict[str, dict[str, Path]] = {}
        # On the other side: what lies in the store, and which job folders are as they are noted.
        self._sent: set[str] = set()
        self._placed: set[str] = set()
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._notes: list[str] = []

    @property
    def machine(self) -> str:
        """The machine, as people write it; one cell at a time runs there."""
        return self._settings.machine

    def notes(self) -> list[str]:
        """What the user must know of the connection, since this was last asked."""
        notes, self._notes = self._notes, []
        return notes

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        """Note a job folder; its files go over when a job runs there."""
        self._files.setdefault(place, {}).update(files)
        self._placed.discard(place)

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        """Run one job there in a fresh process, over a fresh connection if need be."""
        if self._lost is not None:
            return self._lost
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._run(self._connection(), place, job, timeout)
            except BrokenError as broken:
                trouble = self._trouble(broken)
                self._disconnect()
                final = attempt == _ATTEMPTS or not self._connected_before
                if self._closed.is_set() or final or not trouble.passing:
                    return self._give_up(trouble, attempt)
                self._notes.append(
                    f"{trouble.reason}; connected anew, and the job that ran was begun again"
                )
                wait_before(attempt)
            except RefusedError as refused:
                return self._refusal(refused)
            except OSError as error:  # a file on this side
                return Failure("error", f"{error.filename}: {error.strerror or error}")
        raise AssertionError("the last attempt returns")

    def fetch(self, place: str, name: str) -> Path:
        """A file that came back with the answer of the last job at that place."""
        path = self._local(place, name)
        if not path.is_file():
            raise OutputError(f"the worker left no {name}")
        return path

    def drop(self, place: str) -> None:
        """Forget a job folder and remove it there, with files that no other one uses."""
        self._files.pop(place, None)
        shutil.rmtree(self._folder / place, ignore_errors=True)
        if place in self._placed and self._channel is not None:
            self._placed.discard(place)
            with contextlib.suppress(BrokenError, RefusedError):
                self._channel.ask({"do": "drop", "place": place})
            # Which files went is the agent's to know.
            self._sent.clear()

    def close(self) -> None:
        """Disconnect; the agent removes everything there. From another thread, ends what runs."""
        self._closed.set()
        self._disconnect()

    def _connection(self) -> Channel:
        if self._closed.is_set():
            raise BrokenError(None, "", Trouble("the connection was closed"))
        if self._channel is not None:
            return self._channel
        program = shutil.which("ssh")
        if program is None:
            trouble = Trouble("there is no program ssh here; install OpenSSH's client")
            raise BrokenError(None, "", trouble)
        command = arguments(self._settings, self._sockets, program)
        told = {"folder": self._settings.folder, "keep": self._settings.keep}
        try:
            # The messages of ssh are understood in English.
            channel = Channel(command, told, {**os.environ, "LC_ALL": "C"})
        except OSError as error:
            trouble = Trouble(f"ssh cannot be started: {error.strerror or error}")
            raise BrokenError(None, "", trouble) from error
        self._channel = channel
        if self._closed.is_set():  # by another thread, while this one connected
            self._disconnect()
            raise BrokenError(None, "", Trouble("the connection was closed"))
        self._connected_before = True
        return channel

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        self._sent.clear()
        self._placed.clear()
        if channel is not None:
            channel.close()

    def _trouble(self, broken: BrokenError) -> Trouble:
        if broken.trouble is None:
            return explain(self._settings, broken.code, broken.said)
        return Trouble(f"{self.machine}: {broken.trouble.reason}", broken.trouble.passing)

    def _give_up(self, trouble: Trouble, attempt: int) -> Failure:
        tried = f" (tried {attempt} times)" if attempt > 1 else ""
        # The next cell would wait as long for the same.
        self._lost = Failure("unreachable", f"{trouble.reason}{tried}")
        return self._lost

    def _refusal(self, refused: RefusedError) -> Failure:
        machine, folder = self._settings.machine, self._settings.folder
        if refused.kind == "disk-full":
            free = f" ({refused.free / _MEBIBYTE:.0f} MiB are free)" if refused.free else ""
            return self._full(free)
        if refused.kind == "folder":
            reason = f"{machine} has no place for jobs: {refused.reason}; name another 'folder'"
            return Failure("error", reason)
        return Failure("error", f"{machine}, {folder}: {refused.reason}")

    def _full(self, detail: str = "") -> Failure:
        return Failure(
            "error",
            f"the disk of {self._settings.machine} is full{detail}; make room in "
            f"{self._settings.folder}, or name another 'folder'",
        )

    def _run(self, channel: Channel, place: str, job: Job, timeout: float) -> Answer | Failure:
        worker = self._send(channel, [WORKER])[WORKER]
        if place not in self._placed:
            files = self._files.get(place, {})
            hashes = self._send(channel, list(files.values()))
            names = {name: hashes[path] for name, path in files.items()}
            channel.ask({"do": "place", "place": place, "files": names})
            self._placed.add(place)
        request = {
            "do": "run",
            "place": place,
            "worker": worker,
            "job_name": JOB_FILE,
            "job": job.to_json(),
            "result": RESULT_FILE,
            "clear": [OUTPUTS_FILE],
            "timeout": timeout,
        }
        header, body = channel.ask(request, patience=timeout + _WAY_SECONDS)
        with body:
            text = body.read(_LARGEST_ANSWER).decode("utf-8", "replace")
        if header.get("late") is True:
            return Failure("timeout", f"no answer within {timeout:g} s; the worker was ended")
        words = last_line(str(header.get("said", "")))
        if header.get("answered") is not True:
            if any(word in words for word in _FULL_WORDS):
                return self._full()
            code = header.get("code")
            return without_answer(code if isinstance(code, int) else 0, words)
        try:
            answer = Answer.from_json(text)
        except InputError as error:
            return Failure("error", str(error))
        if any(word in answer.reason for word in _FULL_WORDS):
            return self._full()
        if job.task == "outputs" and answer.status == "ok":
            # Now, within the same attempt: later the connection may be another.
            _, content = channel.ask(
                {"do": "fetch", "place": place, "name": OUTPUTS_FILE}, patience=_SEND_SECONDS
            )
            _save(content, self._local(place, OUTPUTS_FILE))
        return answer

    def _send(self, channel: Channel, paths: list[Path]) -> dict[Path, str]:
        """Bring files over that are not there yet; their hashes."""
        hashes = {path: self._hash(path) for path in paths}
        missing = {sha256: path for path, sha256 in hashes.items() if sha256 not in self._sent}
        if missing:
            header, _ = channel.ask({"do": "has", "files": list(missing)})
            known = header.get("known")
            there = set(known) if isinstance(known, list) else set()
            for sha256, path in missing.items():
                if sha256 not in there:
                    request = {"do": "store", "sha256": sha256}
                    channel.ask(request, path, patience=_SEND_SECONDS)
                self._sent.add(sha256)
        return hashes

    def _hash(self, path: Path) -> str:
        facts = path.stat()
        key = (str(path), facts.st_size, facts.st_mtime_ns)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def _local(self, place: str, name: str) -> Path:
        return self._folder / place / name


def _save(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)


@contextlib.contextmanager
def socket_folder() -> Iterator[Path | None]:
    """A private folder for shared connections; None where its path would be too long for sockets.

    Yields:
        The folder, removed at the end.
    """
    with contextlib.ExitStack() as stack:
        for parent in (None, "/tmp"):  # noqa: S108  # a folder of our own below it
            if parent is None or os.path.isdir(parent):
                made = tempfile.TemporaryDirectory(prefix="onnxsep-", dir=parent)
                folder = Path(stack.enter_context(made))
                if fits_socket(folder):
                    yield folder
                    return
        yield None
