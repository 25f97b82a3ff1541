"""An Android device in a folder of this machine, played by the stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxsep.bench.job import Job
from onnxsep.bench.pulse import write_pulse
from onnxsep.bench.transport_adb import AdbSettings, AdbTransport
from tests.bench import adb_stand_in, perf_test_stand_in

# A folder on the device that any carelessness would execute.
AWKWARD = "a b;$(touch hacked)`touch hacked`'\"&|*"
JOB = Job("time", model="model.onnx", inputs="inputs.npz", seconds=0.3, warm_up_seconds=0.3)


class Phone:
    """A device in a folder of this machine, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / AWKWARD
        self.slept: list[float] = []
        (folder / "jobs").mkdir()

    def connect(
        self,
        *extra: dict[str, Any],
        conversation: str = "phone",
        runner: str | None = None,
        pretend: tuple[str, ...] = (),
        **settings: Any,
    ) -> AdbTransport:
        if runner is None:
            runner = perf_test_stand_in.install_recorded(self.folder, pretend=pretend)
        adb = adb_stand_in.install(self.folder, conversation, extra=extra)
        return AdbTransport(
            AdbSettings(adb=adb, runner=runner, folder=str(self.storage / "onnxsep"), **settings),
            self.folder / "jobs",
            sleep=self.slept.append,
        )

    def place(self, transport: AdbTransport, model: str = "model.onnx") -> None:
        source, inputs = write_pulse(self.folder)
        transport.place("cell-0", {model: source, "inputs.npz": inputs})

    def calls(self) -> list[str]:
        return [" ".join(words) for words in adb_stand_in.calls(self.folder)]

    def asked(self) -> list[list[str]]:
        return perf_test_stand_in.asked(self.folder)
