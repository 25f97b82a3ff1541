"""The far end of a target behind ssh: keeps files, starts workers, and cleans up, come what may.

The parent sends this file to the interpreter of the target through the connection itself, so that
nothing has to be installed there. Parent and agent then exchange frames: four bytes of length (big
end first), a JSON object, and as many bytes of body as its key ``body`` says. All names travel in
frames; no shell sees them.

The agent works in a folder of its own, which it removes at the end. The end is whichever comes
first: the parent says so, the connection closes, a signal, or a parent that has been silent for
too long, which is how a cable that was pulled looks from here. A worker that runs is ended then.

It imports nothing of onnxsep and wants Python 3.9 on a POSIX system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, NoReturn

MAGIC = b"\0onnxsep-agent-1\0"
_PREFIX = "onnxsep-run-"
_LOCK = "lock"
_LENGTH = struct.Struct(">I")
_LARGEST_HEADER = 1 << 24
_BLOCK = 1 << 18
_GRACE_SECONDS = 2.0
# Of a worker's last words.
_MOST_WORDS = 4096
# A folder without a living agent may be one that another agent is just making.
_STALE_SECONDS = 60.0
_STUCK_SECONDS = 120.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


class Gone(Exception):  # noqa: N818  # the usual end
    """The parent is not there any more, or wants no more."""


class Refused(Exception):  # noqa: N818  # an answer, not an error of the agent
    """A request cannot be done; the reason travels back."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Agent:
    """One connection and its folder."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._silence = float(settings["silence"])
        self._worker: subprocess.Popen[bytes] | None = None
        self._wake, self._waker = os.pipe()
        base = os.path.abspath(os.path.expanduser(settings["folder"]))
        self._made = _make(base)
        _sweep(base)
        self.root = os.path.join(base, _PREFIX + secrets.token_hex(8))
        os.mkdir(self.root, 0o700)
        self._lock = open(os.path.join(self.root, _LOCK), "wb")  # noqa: SIM115  # held to the end
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._jobs = os.path.join(self.root, "jobs")
        os.mkdir(self._jobs)
        self._store = os.path.join(base if settings["keep"] else self.root, "store")
        os.makedirs(self._store, mode=0o700, exist_ok=True)
        self._used: dict[str, set[str]] = {}  # job folder to hashes

    def serve(self) -> None:
        """Answer requests until the parent is gone."""
        _write(MAGIC)
        free = shutil.disk_usage(self.root).free
        self._send({"ok": True, "root": self.root, "python": sys.version.split()[0], "free": free})
        while True:
            request = self._receive()
            operation = getattr(self, "do_" + str(request.get("do")), self.do_unknown)
            try:
                operation(request)
            except Refused as refused:
                self._refuse(refused.kind, refused.reason)
            except OSError as error:
                kind = "disk-full" if error.errno in _FULL else "error"
                self._refuse(kind, error.strerror or str(error))

    def close(self) -> None:
        """End what runs and remove what was made."""
        self._end_worker()
        shutil.rmtree(self.root, ignore_errors=True)
        self._lock.close()
        if not self._settings["keep"]:
            for folder in self._made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    os.rmdir(folder)

    def do_alive(self, request: dict[str, Any]) -> None:
        """Being heard is all."""

    def do_unknown(self, request: dict[str, Any]) -> None:
        """A parent of another version."""
        raise Refused("error", "unknown request")

    def do_bye(self, request: dict[str, Any]) -> None:
        """The end."""
        raise Gone

    def do_has(self, request: dict[str, Any]) -> None:
        """Which of these files are here already."""
        known = [name for name in request["files"] if os.path.isfile(self._stored(name))]
        self._send({"ok": True, "known": known})

    def do_store(self, request: dict[str, Any]) -> None:
        """Keep the body under its SHA-256."""
        path = self._stored(request["sha256"])
        partial = path + "." + secrets.token_hex(4)
        left = request["body"]
        digest = hashlib.sha256()
        trouble = None
        try:
            with open(partial, "wb") as file:
                while left:
                    block = self._read(min(left, _BLOCK))
                    left -= len(block)
                    digest.update(block)
                    file.write(block)
        except OSError as error:
            trouble = error
        while left:  # the next frame begins behind the body
            left -= len(self._read(min(left, _BLOCK)))
        if trouble is None and digest.hexdigest() == request["sha256"]:
            os.replace(partial, path)
            self._send({"ok": True})
            return
        _remove([partial])
        if trouble is not None:
            raise trouble
        raise Refused("broken", "a file arrived damaged")

    def do_place(self, request: dict[str, Any]) -> None:
        """Make a job folder out of files that are here."""
        folder = self._job(request["place"])
        hashes = self._used.setdefault(folder, set())
        os.makedirs(folder, exist_ok=True)
        for name, sha256 in request["files"].items():
            target = _inside(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _remove([target])
            try:
                os.link(self._stored(sha256), target)
            except OSError:  # Android forbids links
                shutil.copyfile(self._stored(sha256), target)
            hashes.add(sha256)
        self._send({"ok": True})

    def do_drop(self, request: dict[str, Any]) -> None:
        """Remove a job folder, and files that no other one uses."""
        folder = self._job(request["place"])
        hashes = self._used.pop(folder, set())
        shutil.rmtree(folder, ignore_errors=True)
        if not self._settings["keep"]:
            for sha256 in hashes.difference(*self._used.values()):
                _remove([self._stored(sha256)])
        self._send({"ok": True})

    def do_fetch(self, request: dict[str, Any]) -> None:
        """Send a file of a job folder."""
        path = _inside(self._job(request["place"]), request["name"])
        if os.path.islink(path) or not os.path.isfile(path):
            raise Refused("missing", "it is not there")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._send({"ok": True, "body": size})
            while size:
                block = file.read(min(size, _BLOCK))
                _write(block or b"\0" * min(size, _BLOCK))
                size -= len(block) or min(size, _BLOCK)

    def do_run(self, request: dict[str, Any]) -> None:
        """Run the worker on a job; answer when it has ended."""
        folder = self._job(request["place"])
        os.makedirs(folder, exist_ok=True)
        _remove(_inside(folder, name) for name in (request["result"], *request["clear"]))
        with open(_inside(folder, request["job_name"]), "w", encoding="utf-8") as file:
            file.write(request["job"])
        words = os.path.join(folder, "stderr.txt")
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        with open(words, "wb") as stderr:
            self._worker = subprocess.Popen(  # noqa: S603  # a list, no shell
                [sys.executable, self._stored(request["worker"]), folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        # A thread waits, asleep in the kernel: a loop would take time from the worker.
        threading.Thread(target=self._wait, args=(self._worker,), daemon=True).start()
        late = not self._watch(self._worker, request["timeout"])
        code = self._end_worker()
        answer = {"ok": True, "late": late, "code": code, "said": _tail(words)}
        result = _inside(folder, request["result"])
        body = b""
        answer["answered"] = not late and os.path.isfile(result) and not os.path.islink(result)
        if answer["answered"]:
            with open(result, "rb") as file:
                body = file.read()
        answer["body"] = len(body)
        self._send(answer)
        _write(body)

    def _wait(self, worker: subprocess.Popen[bytes]) -> None:
        worker.wait()
        with contextlib.suppress(OSError):
            os.write(self._waker, b"x")

    def _watch(self, worker: subprocess.Popen[bytes], timeout: float) -> bool:
        """Until the worker has ended; False if the time is up before."""
        end = time.monotonic() + timeout
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= end:
                return worker.poll() is not None
            if now - heard > self._silence:
                raise Gone
            patience = min(end - now, self._silence - (now - heard) + 0.1)
            ready, _, _ = select.select([0, self._wake], [], [], patience)
            if 0 in ready:
                heard = now
                request = self._receive()
                if request.get("do") != "alive":
                    raise Gone  # a parent that has given up on the worker
            if self._wake in ready:
                os.read(self._wake, 64)
                if worker.poll() is not None:
                    return True

    def _end_worker(self) -> int:
        worker, self._worker = self._worker, None
        if worker is None:
            return 0
        for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(patience)
        return worker.returncode or 0

    # --- frames and names ---

    def _receive(self) -> Any:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > _LARGEST_HEADER:
            raise Gone
        return json.loads(self._exactly(length).decode("utf-8"))

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(self._read(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def _read(self, most: int) -> bytes:
        if not select.select([0], [], [], self._silence)[0]:
            raise Gone
        block = os.read(0, most)
        if not block:
            raise Gone
        return block

    def _refuse(self, kind: str, reason: str) -> None:
        free = shutil.disk_usage(self.root).free
        self._send({"ok": False, "kind": kind, "reason": reason, "free": free})

    def _send(self, header: dict[str, Any]) -> None:
        text = json.dumps(header).encode("ascii")
        _write(_LENGTH.pack(len(text)) + text)

    def _stored(self, sha256: str) -> str:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise Refused("error", "no name of a stored file")
        return os.path.join(self._store, sha256)

    def _job(self, place: str) -> str:
        return _inside(self._jobs, place)


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _make(folder: str) -> list[str]:
    """Make a folder; what was missing, to take it away again."""
    missing, path = [], folder
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return missing


def _inside(folder: str, name: str) -> str:
    """The path of something inside a folder, whatever it is called."""
    path = os.path.join(folder, name)
    if not name or "\0" in name or os.path.isabs(name) or ".." in name.split("/"):
        raise Refused("error", "a name leads out of the job folder")
    return path


def _write(data: bytes) -> None:
    """To the parent; a connection that takes nothing for long is dead."""
    view = memoryview(data)
    while view:
        if not select.select([], [1], [], _STUCK_SECONDS)[1]:
            raise Gone
        try:
            view = view[os.write(1, view[:_BLOCK]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise Gone from None


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _MOST_WORDS, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _die_with_parent() -> None:
    """On Linux, a worker does not outlive an agent that was killed without a word."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)


def _sweep(base: str) -> None:
    """Remove what agents left that could not clean up: killed, or the power went."""
    for name in os.listdir(base):
        folder = os.path.join(base, name)
        if not name.startswith(_PREFIX) or os.path.islink(folder):
            continue
        with contextlib.suppress(OSError):
            if time.time() - os.stat(folder).st_mtime < _STALE_SECONDS:
                continue
            with open(os.path.join(folder, _LOCK), "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _stop(number: int, frame: object) -> NoReturn:
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # once is enough; now it cleans up
    raise Gone


def main(settings: dict[str, Any]) -> int:
    """Serve until the parent is gone; the exit code is 0, or 3 where the folder cannot be made."""
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(name, _stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.set_blocking(1, False)
    try:
        agent = Agent(settings)
    except OSError as error:
        kind = "disk-full" if error.errno in _FULL else "folder"
        reason = f"{settings['folder']}: {error.strerror or error}"
        text = json.dumps({"ok": False, "kind": kind, "reason": reason, "free": 0}).encode("ascii")
        _write(MAGIC + _LENGTH.pack(len(text)) + text)
        return 3
    try:
        agent.serve()
    except (Gone, ValueError, KeyError, TypeError):  # the last three: frames that are none of ours
        pass
    finally:
        agent.close()
    return 0
