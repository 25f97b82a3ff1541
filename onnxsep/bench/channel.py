"""One connection to an agent: ssh as a process, frames through its pipes.

See `onnxsep.bench.agent` for the frames. Whatever goes wrong with the connection is a
`BrokenError`, whatever the agent refuses a `RefusedError`; neither leaves this package.
"""

from __future__ import annotations

import contextlib
import json
import queue
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from onnxsep.bench import agent
from onnxsep.bench.ssh import Trouble

_AGENT = Path(agent.__file__)
_LENGTH = struct.Struct(">I")
# How long the agent waits for a word of ours before it believes that nobody is there, and how often
# we send one.
_SILENCE_SECONDS, _ALIVE_SECONDS = 60.0, 10.0
# For the way through jump hosts and a small board that starts Python.
_HELLO_SECONDS = 60.0
_BYE_SECONDS = 5.0
# A login shell may print a greeting, but not a novel.
_MOST_GREETING = 1 << 20
_LARGEST_HEADER = 1 << 24
_LARGEST_BODY = 8 << 30
_BLOCK = 1 << 18
_IN_MEMORY = 1 << 20

Answer = tuple[dict[str, Any], IO[bytes]]


class BrokenError(Exception):
    """The connection is of no more use.

    Attributes:
        code: Exit code of ssh, None if it was we who ended it.
        said: What ssh wrote to its standard error.
        trouble: The reason where it is known better than from these two.
    """

    def __init__(self, code: int | None, said: str, trouble: Trouble | None = None) -> None:
        super().__init__(said)
        self.code, self.said, self.trouble = code, said, trouble


class RefusedError(Exception):
    """The agent cannot do what it was asked.

    Attributes:
        kind: ``disk-full``, ``folder``, ``missing``, ``broken`` or ``error``.
        reason: One clause.
        free: Free bytes on the disk there.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self.kind = str(header.get("kind", "error"))
        self.reason = str(header.get("reason", "no reason given"))[:200]
        free = header.get("free")
        self.free = free if isinstance(free, int) else 0
        super().__init__(self.reason)


class Channel:
    """A running agent."""

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            command: As a list; its standard input and output are the connection.
            settings: Of the agent: its folder, and whether files are kept.
            environment: Of the command.

        Raises:
            BrokenError: Nothing at the other end answers like an agent.
            RefusedError: The folder cannot be made there.
            OSError: The command itself cannot be started.
        """
        self._answers: queue.Queue[Answer | None] = queue.Queue()
        self._writing = threading.Lock()
        self._closing = threading.Event()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        try:
            self._process = subprocess.Popen(  # noqa: S603  # a list, no shell
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=dict(environment),
                # Ctrl-C is ours to handle: the agent must have time to clean up.
                start_new_session=True,
            )
        except OSError:
            self._stderr.close()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            told = {**settings, "silence": _SILENCE_SECONDS}
            source = _AGENT.read_bytes() + f"\nsys.exit(main({told!r}))\n".encode()
            self._write(b"%d\n" % len(source), source)
            self.hello = self._answer(_HELLO_SECONDS)[0]
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def ask(
        self, request: Mapping[str, Any], body: Path | None = None, *, patience: float = 60.0
    ) -> Answer:
        """Send a request, with a file behind it, and wait for the answer.

        Returns:
            The header and the body, at its beginning.

        Raises:
            BrokenError: No answer came within ``patience`` seconds, or ever can.
            RefusedError: The agent cannot do it.
        """
        size = 0 if body is None else body.stat().st_size
        header = json.dumps({**request, "body": size}).encode("ascii")
        with self._writing:
            self._write(_LENGTH.pack(len(header)) + header)
            if body is not None:
                with body.open("rb") as file:
                    while size:
                        block = file.read(min(size, _BLOCK))
                        if not block:  # somebody has cut the file
                            raise BrokenError(None, f"{body.name} changed while it was sent")
                        self._write(block)
                        size -= len(block)
        return self._answer(patience)

    def close(self) -> None:
        """Say goodbye and wait for the agent to clean up; end ssh if it does not."""
        if self._closing.is_set():
            return
        self._closing.set()
        header = json.dumps({"do": "bye", "body": 0}).encode("ascii")
        # A write that hangs holds the lock; the agent notices by the end of its input.
        if self._writing.acquire(timeout=_BYE_SECONDS):
            try:
                with contextlib.suppress(BrokenError):
                    self._write(_LENGTH.pack(len(header)) + header)
            finally:
                self._writing.release()
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_BYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_BYE_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def _answer(self, patience: float) -> Answer:
        try:
            answer = self._answers.get(timeout=patience)
        except queue.Empty:
            raise BrokenError(
                None, "", Trouble(f"no word for {patience:.0f} s", passing=True)
            ) from None
        if answer is None:
            self._answers.put(None)
            raise self._broken()
        header, body = answer
        if header.get("ok") is not True:
            body.close()
            raise RefusedError(header)
        return header, body

    def _broken(self) -> BrokenError:
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_BYE_SECONDS)
        said = b""
        with contextlib.suppress(ValueError):  # closed by another thread
            self._stderr.seek(0)
            said = self._stderr.read(_MOST_GREETING)
        return BrokenError(code, said.decode("utf-8", "replace"))

    def _keep_alive(self) -> None:
        frame = json.dumps({"do": "alive", "body": 0}).encode("ascii")
        while not self._closing.wait(_ALIVE_SECONDS):
            # While a file is being sent, the agent hears us anyway.
            if self._writing.acquire(blocking=False):
                try:
                    self._write(_LENGTH.pack(len(frame)) + frame)
                except BrokenError:
                    return
                finally:
                    self._writing.release()

    def _write(self, *parts: bytes) -> None:
        pipe = self._process.stdin
        try:
            for part in parts:
                if pipe is not None:
                    pipe.write(part)
            if pipe is not None:
                pipe.flush()
        except (OSError, ValueError) as error:  # the latter: closed meanwhile
            raise self._broken() from error

    # --- the reading thread ---

    def _read(self) -> None:
        """Turn what comes into answers; None at the end, whatever ends it."""
        try:
            pipe = self._process.stdout
            if pipe is not None and self._skip_greeting(pipe):
                while True:
                    self._answers.put(self._frame(pipe))
        except (OSError, ValueError, EOFError, RecursionError):
            pass
        finally:
            self._answers.put(None)

    def _skip_greeting(self, pipe: IO[bytes]) -> bool:
        """Read up to the agent's first mark: the login shell may have printed something."""
        seen = b""
        for _ in range(_MOST_GREETING):
            byte = pipe.read(1)
            if not byte:
                return False
            seen = (seen + byte)[-len(agent.MAGIC) :]
            if seen == agent.MAGIC:
                return True
        return False

    def _frame(self, pipe: IO[bytes]) -> Answer:
        (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
        if length > _LARGEST_HEADER:
            raise ValueError("no frame of an agent")
        header = json.loads(_exactly(pipe, length))
        if not isinstance(header, dict):
            raise ValueError("no header of an agent")  # noqa: TRY004  # caught as one with others
        left = header.get("body", 0)
        if not isinstance(left, int) or not 0 <= left <= _LARGEST_BODY:
            raise ValueError("no size of a body")
        body = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # handed on
        while left:
            block = _exactly(pipe, min(left, _BLOCK))
            body.write(block)
            left -= len(block)
        body.seek(0)
        return header, body


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def wait_before(attempt: int) -> None:
    """Rest before the attempt of that number, from 1: a machine that restarts needs a while."""
    time.sleep(min(2.0 ** (attempt - 1), 5.0))
