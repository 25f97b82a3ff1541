"""The Android debug bridge: devices, files and commands, with a sentence for what goes wrong.

``adb shell`` joins its arguments with spaces and hands them to the device's ``sh``: every word is
quoted for that shell here, and nothing on this machine goes through one. Devices before Android 7
tell no exit code and mix stderr into stdout; so every command prints its own exit code last, behind
a word that nobody can guess.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from onnxsep.bench.record import FailureKind
from onnxsep.errors import InputError
from onnxsep.report.text import printable

# Commands that only ask something.
SHORT_SECONDS = 30.0
# The slowest link that is still worth waiting for: USB 2 through a bad hub, Wi-Fi at its edge.
_PUSH_BYTES_PER_SECOND = 1e6
# A device's answer is not trusted to be short.
_MOST_OUTPUT = 8 << 20
_LONGEST_QUOTE = 200
# What adb says of the states of a device, and what to do about it.
_STATES = {
    "unauthorized": "has not authorised this computer; unlock it and allow USB debugging on its "
    "screen",
    "authorizing": "is asking for permission; unlock it and allow USB debugging on its screen",
    "offline": "is offline; unplug it and plug it in again, or run adb reconnect offline",
    "connecting": "is still connecting; try again in a moment",
    "bootloader": "is in its bootloader; start Android",
    "recovery": "is in recovery mode; start Android",
    "sideload": "is in sideload mode; start Android",
    "rescue": "is in rescue mode; start Android",
    "no permissions": "may not be opened by this user; add the udev rules for Android devices and "
    "plug it in again",
}
_READY = "device"


class AdbError(InputError):
    """adb, or a device, did not do what it was asked.

    Attributes:
        kind: What that means for a cell.
    """

    def __init__(self, message: str, kind: FailureKind = "unreachable") -> None:
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of ``adb devices``.

    Attributes:
        serial: As adb takes it.
        state: ``device`` if it is ready.
    """

    serial: str
    state: str

    @property
    def trouble(self) -> str:
        """Why it cannot be used and what to do, one clause; empty if it is ready."""
        if self.state == _READY:
            return ""
        for state, clause in _STATES.items():
            if self.state.startswith(state):
                return f"the device {printable(self.serial)} {clause}"
        return f"the device {printable(self.serial)} is not ready: {quoted(self.state)}"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a command on the device said.

    Attributes:
        code: Its exit code; 128 and more: it died of the signal ``code - 128``.
        output: Its stdout; on old devices its stderr, too.
        errors: Its stderr.
    """

    code: int
    output: str
    errors: str

    @property
    def everything(self) -> str:
        """Both, stderr last."""
        return "\n".join(filter(None, (self.output, self.errors)))


class Adb:
    """One device, as adb sees it."""

    def __init__(self, executable: str = "adb", serial: str = "") -> None:
        """Prepare; nothing is run yet.

        Args:
            executable: Name or path of adb.
            serial: Of the device; empty for the one in the variable ANDROID_SERIAL or the only one.
        """
        self._executable = executable or "adb"
        self._wanted = serial or os.environ.get("ANDROID_SERIAL", "")
        self._serial = ""

    def devices(self) -> tuple[Listed, ...]:
        """What is connected, ready or not.

        Raises:
            AdbError: adb cannot be started or cannot reach its server.
        """
        code, output, errors = self._run(["devices"], SHORT_SECONDS)
        listed = []
        # Lines before the heading tell of the server that is being started.
        heading, _, rows = output.partition("List of devices attached")
        if code or rows is heading:
            raise AdbError(f"adb lists no devices; it said: {quoted(errors or output)}")
        for line in rows.splitlines():
            # Serials of devices found in the network may hold spaces, so only the tab separates.
            serial, tab, state = line.partition("\t")
            if tab and serial.strip() and not serial.startswith("*"):
                listed.append(Listed(serial.strip(), state.strip()))
        return tuple(listed)

    def choose(self) -> str:
        """The serial of the device to use; asked once.

        Raises:
            AdbError: There is none, there are several, or it is not ready.
        """
        if not self._serial:
            self._serial = choose_device(self.devices(), self._wanted)
        return self._serial

    def shell(self, words: Sequence[str], seconds: float = SHORT_SECONDS) -> Reply:
        """Run a program on the device; every word arrives as it is.

        Raises:
            AdbError: The device cannot be reached, is lost, or the time is up.
        """
        return self.script(shlex.join(words), seconds)

    def script(self, text: str, seconds: float = SHORT_SECONDS) -> Reply:
        """Run a line of shell on the device; whatever comes from elsewhere must be quoted in it.

        Raises:
            AdbError: As for `shell`.
        """
        mark = f"onnxsep-{secrets.token_hex(8)}="
        line = f"{text}; onnxsep_code=$?; echo; echo {mark}$onnxsep_code"
        # -n: adb must not read our stdin.
        _, output, errors = self._on_device(["shell", "-n", line], seconds)
        said, found, last = output.rpartition(mark)
        code = last.strip()
        if not found or not re.fullmatch(r"[0-9]{1,3}", code):
            raise AdbError(self._explain(errors or output))
        return Reply(int(code), said.removesuffix("\n"), errors)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the device.

        Raises:
            AdbError: It did not arrive whole.
        """
        size = local.stat().st_size
        seconds = SHORT_SECONDS + size / _PUSH_BYTES_PER_SECOND
        code, output, errors = self._on_device(["push", str(local.resolve()), remote], seconds)
        if code:
            said = errors + output
            if "No space left on device" in said:
                raise AdbError(
                    f"the device has no room for {printable(local.name)} "
                    f"({size / 1e6:.1f} MB); free some"
                )
            raise AdbError(
                f"{printable(local.name)} could not be copied to the device: {self._explain(said)}"
            )

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the device.

        Raises:
            AdbError: It is not there or did not arrive whole.
        """
        code, output, errors = self._on_device(["pull", remote, str(local.resolve())], 300.0)
        if code or not local.is_file():
            raise AdbError(
                f"{printable(remote)} could not be copied from the device: "
                f"{self._explain(errors + output)}"
            )

    def forward(self, local_port: int, remote_port: int) -> None:
        """Let a port of this machine lead to one of the device.

        Raises:
            AdbError: It cannot.
        """
        ends = [f"tcp:{local_port}", f"tcp:{remote_port}"]
        code, output, errors = self._on_device(["forward", *ends], SHORT_SECONDS)
        if code:
            raise AdbError(
                f"port {local_port} cannot be forwarded to the device: "
                f"{self._explain(errors + output)}"
            )

    def _on_device(self, arguments: Sequence[str], seconds: float) -> tuple[int, str, str]:
        return self._run(["-s", self.choose(), *arguments], seconds)

    def _run(self, arguments: Sequence[str], seconds: float) -> tuple[int, str, str]:
        # Into files, not pipes: the server that adb may start inherits them and never closes them.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(  # noqa: S603  # a list, no shell; the user's adb
                    [self._executable, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise AdbError(
                    f"{self._executable} cannot be started ({error.strerror or error}); install "
                    "the Android platform tools, or name the executable under 'adb'"
                ) from error
            except ValueError as error:
                raise AdbError(f"adb cannot be told that: {error}", "error") from error
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise AdbError(f"no answer from the device within {seconds:g} s", "timeout") from (
                    error
                )
            finally:
                _end(process)
            return code, _read(output), _read(errors)

    def _explain(self, said: str) -> str:
        """What adb meant, with the way out."""
        serial = printable(self._serial)
        for state in _STATES:
            if f"device {state}" in said or f"device still {state}" in said:
                return Listed(self._serial, state).trouble
        if "not found" in said and "device '" in said:
            return f"the device {serial} is gone; plug it in again"
        if "cannot connect to daemon" in said or "failed to start daemon" in said:
            return "adb's server cannot be reached; run adb kill-server and try again"
        return f"the connection to the device {serial} broke; adb said: {quoted(said)}"


def choose_device(listed: Sequence[Listed], wanted: str) -> str:
    """The serial of the device to use.

    Args:
        listed: What is connected.
        wanted: A serial; empty for the only device that is ready.

    Raises:
        AdbError: There is no such device, there are several, or it is not ready.
    """
    if not listed:
        raise AdbError(
            "no Android device is connected; plug one in with USB debugging on, until adb devices "
            "lists it"
        )
    if wanted:
        for device in listed:
            if device.serial == wanted:
                if device.trouble:
                    raise AdbError(device.trouble)
                return wanted
        names = ", ".join(printable(device.serial) for device in listed)
        raise AdbError(f"the device {printable(wanted)} is not connected; adb lists {names}")
    ready = [device for device in listed if not device.trouble]
    if len(ready) == 1:
        return ready[0].serial
    if not ready:
        raise AdbError("; ".join(device.trouble for device in listed))
    names = ", ".join(printable(device.serial) for device in ready)
    raise AdbError(f"{len(ready)} Android devices are connected ({names}); name one with 'serial'")


def quoted(said: str) -> str:
    """The last line of what a program said, short and printable."""
    lines = [line for line in said.splitlines() if line.strip()]
    return printable(lines[-1].strip())[-_LONGEST_QUOTE:] if lines else "nothing"


def _read(file: IO[bytes]) -> str:
    """What a program wrote, the end of it if it was too much, with the line ends of Unix."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _MOST_OUTPUT, 0))
    return file.read().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
