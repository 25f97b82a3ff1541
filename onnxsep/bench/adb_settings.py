"""Which Android device is used, and how; and the way to Termux on it."""

from __future__ import annotations

import dataclasses
import posixpath

from onnxsep.bench.adb import Adb
from onnxsep.errors import ConfigurationError
from onnxsep.report.text import printable

# Where the sshd of Termux listens.
TERMUX_PORT = 8022
_LEAST_DEPTH = 2  # of a folder on the device that we may make and remove


@dataclasses.dataclass(frozen=True)
class AdbSettings:
    """Which device, and how it is used.

    Attributes:
        serial: Of the device, as ``adb devices`` lists it; empty for the only one.
        runner: Path of an onnxruntime_perf_test for Android on this machine; libonnxruntime.so,
            if it needs one, lies beside it.
        folder: On the device, where programs may run; a folder of our own is made in it.
        fixed_performance: Whether to ask for Android's fixed-performance mode during the run.
        adb: Name or path of adb.
        cooling_seconds: How long a run waits for a throttled device to cool before it is refused.
    """

    serial: str = ""
    runner: str = ""
    folder: str = "/data/local/tmp/onnxsep"
    fixed_performance: bool = True
    adb: str = "adb"
    cooling_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Refuse a folder that must not be ours.

        Raises:
            ConfigurationError: It is no absolute path of a folder below another one.
        """
        parts = posixpath.normpath(self.folder).strip("/").split("/")
        if not self.folder.startswith("/") or ".." in self.folder.split("/") or "\0" in self.folder:
            raise ConfigurationError(
                f"the folder on the device, {printable(self.folder)!r}, must be an absolute path"
            )
        if len(parts) < _LEAST_DEPTH:
            raise ConfigurationError(
                f"the folder on the device, {printable(self.folder)!r}, must lie below another "
                "one, such as /data/local/tmp/onnxsep"
            )


def forward_ssh(settings: AdbSettings, port: int = TERMUX_PORT) -> None:
    """Let ``port`` of this machine lead to the sshd of Termux on the device.

    Args:
        settings: Which device.
        port: On this machine; the ssh transport then goes to 127.0.0.1 and this port.

    Raises:
        AdbError: The device cannot be reached, or the port is taken.
    """
    Adb(settings.adb, settings.serial).forward(port, TERMUX_PORT)
