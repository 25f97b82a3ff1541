"""Disk, terminal, and the programs that reach other machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from onnxsep.bench.adb import Adb, AdbError
from onnxsep.doctor.record import Finding
from onnxsep.report.text import quantity

_PROGRAM_SECONDS = 10.0
# A search writes small models and arrays of some hundred MB; below this it may fail half-way.
_LEAST_DISK = 2 << 30


def disk() -> Finding:
    """Room for temporary files."""
    place = Path(os.environ.get("TMPDIR", tempfile.gettempdir()))
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        words = f"{place} cannot be used: {error.strerror or error}"
        return Finding("surroundings", "temporary files", "broken", words, "set TMPDIR")
    words = f"{quantity(free)}B free in {place}"
    if free < _LEAST_DISK:
        help_ = "free some, or set TMPDIR to another disk"
        return Finding("surroundings", "temporary files", "warning", words, help_)
    return Finding("surroundings", "temporary files", "ok", words)


def ways_to_others() -> list[Finding]:
    """ssh, adb, and the phones that adb lists."""
    ssh = _program(
        "ssh", ("-V",), "OpenSSH's client runs cells on other machines: install openssh-client"
    )
    adb = _program(
        "adb",
        ("version",),
        "it reaches Android phones: install the package adb, or Google's platform-tools",
    )
    found = [ssh, adb]
    if adb.state == "ok":
        found.extend(_phones())
    return found


def _program(name: str, arguments: tuple[str, ...], remedy: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding("devices", name, "missing", "not installed", remedy)
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell; a program of this machine
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Finding(
            "devices", name, "warning", f"{path} does not answer", f"see why {name} hangs"
        )
    said = (done.stdout or done.stderr).strip().splitlines()
    return Finding("devices", name, "ok", f"{said[0] if said else 'no version'} ({path})")


def _phones() -> list[Finding]:
    try:
        listed = Adb().devices()
    except AdbError as error:
        return [Finding("devices", "phones", "warning", str(error), "run adb devices by hand")]
    if not listed:
        words = "none attached"
        help_ = "plug one in and allow USB debugging in its developer options"
        return [Finding("devices", "phones", "missing", words, help_)]
    return [
        Finding(
            "devices",
            device.serial,
            "warning" if device.trouble else "ok",
            device.trouble or "ready",
        )
        for device in listed
    ]


def terminal() -> list[Finding]:
    """Whether the terminal shows what we print."""
    encoding = (getattr(sys.stdout, "encoding", None) or "unknown").lower()
    columns = shutil.get_terminal_size().columns
    found = []
    if encoding.replace("-", "") == "utf8":
        found.append(Finding("surroundings", "text", "ok", f"{encoding}, {columns} columns"))
    else:
        found.append(
            Finding(
                "surroundings",
                "text",
                "warning",
                f"{encoding}: signs such as ± may not be shown",
                "set LC_ALL=C.UTF-8 or PYTHONUTF8=1",
            )
        )
    return found
