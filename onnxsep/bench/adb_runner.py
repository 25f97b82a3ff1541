"""onnxruntime_perf_test on an Android device: brought there with its library, run, and ended."""

from __future__ import annotations

import contextlib
import posixpath
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from onnxsep.bench.adb import Adb, AdbError, Reply
from onnxsep.bench.adb_device import AndroidDevice
from onnxsep.report.text import printable

_NAME = "onnxruntime_perf_test"
_GUIDE = "docs/android.md says how to build it"
# What an executable from onnxruntime's build needs beside it, if it is there.
_LIBRARIES = ("libonnxruntime.so", "libonnxruntime_providers_*.so", "libc++_shared.so")
# The machine in the header of an ELF file, and what Android calls it.
_ELF_MAGIC = b"\x7fELF"
_ELF_MACHINE = slice(18, 20)
_ABIS = {3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a", 243: "riscv64"}
# $0: file for the number of the process, $1: where libraries lie, the rest: the command.
_START = 'echo $$ >"$0" && LD_LIBRARY_PATH="$1" && export LD_LIBRARY_PATH && shift && exec "$@"'
_PATIENCE_SECONDS = 5.0
_LARGEST_ANSWER = 256 << 20


class Runner:
    """The program in a folder of its own on the device."""

    def __init__(self, adb: Adb, device: AndroidDevice, executable: str, folder: str) -> None:
        """Nothing is sent yet.

        Args:
            adb: The device.
            device: The same.
            executable: Path of onnxruntime_perf_test on this machine; libraries lie beside it.
            folder: Absolute path on the device, in which a folder of our own is made.
        """
        self._adb, self._device = adb, device
        self._executable = executable
        self._parent = folder
        self._folder = posixpath.join(folder, f"run-{secrets.token_hex(4)}")
        self._sent: dict[tuple[str, int, int], str] = {}
        self._installed = False
        self._running = ""

    @property
    def folder(self) -> str:
        """Ours on the device; everything lies in it."""
        return self._folder

    def files(self) -> list[Path]:
        """The executable and the libraries beside it, on this machine.

        Raises:
            AdbError: There is no executable.
        """
        if not self._executable:
            raise AdbError(f"no {_NAME} is named; give its path under 'runner'; {_GUIDE}", "error")
        path = Path(self._executable).expanduser()
        if not path.is_file():
            raise AdbError(f"there is no {_NAME} at {printable(str(path))}; {_GUIDE}", "error")
        beside = [found for name in _LIBRARIES for found in sorted(path.parent.glob(name))]
        return [path, *(found for found in beside if found != path and found.is_file())]

    def install(self) -> None:
        """Bring the program to the device, once.

        Raises:
            AdbError: It is not there, is built for another device, or cannot be sent.
        """
        if self._installed:
            return
        executable, *libraries = self.files()
        built_for, wanted = _built_for(executable), self._device.abis()
        if built_for and wanted and built_for not in wanted:
            raise AdbError(
                f"{printable(executable.name)} is built for {built_for}, the device is "
                f"{wanted[0]}; build it with --android_abi {wanted[0]}",
                "error",
            )
        self.make_folder("bin")
        self.send(executable, f"bin/{_NAME}")
        for library in libraries:
            self.send(library, f"bin/{library.name}")
        self._demand(["chmod", "755", self.path(f"bin/{_NAME}")])
        self._installed = True

    def path(self, name: str) -> str:
        """A path on the device.

        Raises:
            AdbError: It would lead out of our folder.
        """
        plain = posixpath.normpath(name)
        if posixpath.isabs(plain) or plain.split("/")[0] == ".." or "\0" in plain:
            raise AdbError(f"'{printable(name)}' leads out of the job's folder", "error")
        return posixpath.join(self._folder, plain)

    def make_folder(self, name: str) -> None:
        """Make a folder in ours, with all above it.

        Raises:
            AdbError: The device cannot.
        """
        self._demand(["mkdir", "-p", self.path(name)])

    def send(self, local: Path, name: str) -> None:
        """Copy a file into our folder; what is on the device already is copied there.

        Raises:
            AdbError: It cannot be copied.
        """
        facts = local.stat()
        key = (str(local.resolve()), facts.st_size, facts.st_mtime_ns)
        remote = self.path(name)
        if self._sent.get(key) == remote:
            return
        known = self._sent.get(key)
        if known is None or self._adb.shell(["cp", known, remote]).code:
            self._adb.push(local, remote)
        # A file that is replaced is no longer a copy of the one before.
        self._sent = {old: path for old, path in self._sent.items() if path != remote}
        self._sent.setdefault(key, remote)

    def remove(self, *names: str) -> None:
        """Remove files or folders in ours.

        Raises:
            AdbError: The device cannot be reached.
        """
        paths = [self.path(name) for name in names]
        self._adb.shell(["rm", "-rf", *paths])
        self._sent = {
            key: remote
            for key, remote in self._sent.items()
            if not any(remote == path or remote.startswith(f"{path}/") for path in paths)
        }

    def list_folder(self, name: str) -> list[str]:
        """Names in a folder.

        Raises:
            AdbError: The device cannot be reached.
        """
        return self._adb.shell(["ls", self.path(name)]).output.splitlines()

    def read(self, name: str, folder: Path) -> Path:
        """Copy a file from the device into a folder here.

        Raises:
            AdbError: It is not there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        local = folder / posixpath.basename(name)
        local.unlink(missing_ok=True)
        self._adb.pull(self.path(name), local)
        if local.stat().st_size > _LARGEST_ANSWER:
            raise AdbError(f"{printable(local.name)} from the device is too large to read", "error")
        return local

    def run(self, words: Sequence[str], cores: Sequence[int], seconds: float) -> Reply:
        """Run the program in a fresh process; it does not outlive this call.

        Args:
            words: Its options and paths.
            cores: The logical cores it is confined to; empty for all.
            seconds: It is ended after this time.

        Raises:
            AdbError: The time is up, or the device is lost.
        """
        self.install()
        pinned = ["taskset", f"{sum(1 << core for core in set(cores)):x}"] if cores else []
        program = [*pinned, self.path(f"bin/{_NAME}"), *words]
        # A file of this run only: a number out of an older one may be somebody else's by now.
        self._running = self.path(f"pid-{secrets.token_hex(4)}")
        start = ["sh", "-c", _START, self._running, self.path("bin"), *program]
        try:
            reply = self._adb.shell(start, seconds)
        except AdbError as error:
            if error.kind != "timeout":
                self._kill(patience=0.0)  # of a device that is gone, most likely
                raise
            self._kill()
            reason = f"no answer within {seconds:g} s; the program was ended"
            raise AdbError(reason, "timeout") from error
        except BaseException:  # Ctrl-C above all: the program would go on without us
            self._kill()
            raise
        self._running = ""
        return reply

    def clean_up(self) -> None:
        """End what runs and leave nothing on the device; silent if it is gone."""
        self._kill()
        with contextlib.suppress(AdbError):
            # The folder above is ours only if it is empty now.
            self._adb.shell(["rm", "-rf", self._folder], _PATIENCE_SECONDS)
            self._adb.shell(["rmdir", self._parent], _PATIENCE_SECONDS)
        self._sent.clear()
        self._installed = False

    def _kill(self, patience: float = _PATIENCE_SECONDS) -> None:
        """End the program if it runs, or is about to; silent if the device is gone."""
        pid_file, self._running = self._running, ""
        end = time.monotonic() + patience
        with contextlib.suppress(AdbError):
            while pid_file:
                number = self._adb.shell(["cat", pid_file], _PATIENCE_SECONDS).output.strip()
                if re.fullmatch(r"[0-9]{1,9}", number):
                    self._adb.shell(["kill", "-9", number], _PATIENCE_SECONDS)
                    return
                if time.monotonic() >= end:
                    return

    def _demand(self, words: Sequence[str]) -> None:
        reply = self._adb.shell(words)
        if reply.code:
            said = printable(reply.everything.strip())[:200]
            raise AdbError(
                f"the device refuses {words[0]} in {printable(self._parent)}: {said}; name another "
                "'folder'",
                "error",
            )


def _built_for(executable: Path) -> str:
    """What Android calls the machine that a program is for; empty if it cannot be told."""
    with executable.open("rb") as file:
        head = file.read(_ELF_MACHINE.stop)
    if not head.startswith(_ELF_MAGIC):
        return ""
    return _ABIS.get(int.from_bytes(head[_ELF_MACHINE], "little"), "")
