"""Cells on an Android device behind adb, where onnxruntime_perf_test takes the worker's place.

It times and profiles; it hands out no outputs, so the task ``outputs`` is answered `unavailable`.
With Termux on the device the worker itself runs there: `onnxsep.bench.adb_settings.forward_ssh`
opens the way for the ssh transport.

A device that is throttled before a run is given time to cool, and is refused if it does not; one
that throttles during a run marks it: ``throttled`` in the environment of the answer, which is then
not ``stable``.
"""

from __future__ import annotations

import math
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxsep.bench.adb import Adb, AdbError
from onnxsep.bench.adb_device import AndroidDevice, Conditions, notes_on
from onnxsep.bench.adb_runner import Runner
from onnxsep.bench.adb_settings import AdbSettings, forward_ssh
from onnxsep.bench.job import Answer, Job
from onnxsep.bench.perf_profile import read_profile
from onnxsep.bench.perf_test import (
    Report,
    Trouble,
    arguments,
    explain,
    input_files,
    parse_report,
    runner_version,
    split_warm_up,
)
from onnxsep.bench.pulse import write_pulse
from onnxsep.bench.transport import Failure
from onnxsep.bench.worker import read_graph
from onnxsep.data.files import read_npz
from onnxsep.errors import InputError, OutputError
from onnxsep.report.text import printable

__all__ = ["AdbSettings", "AdbTransport", "forward_ssh"]

_CPU = "CPUExecutionProvider"
# Those that onnxruntime's build for Android can have without further software.
_PROBED = ("CPUExecutionProvider", "XnnpackExecutionProvider", "NnapiExecutionProvider")
_RESULTS = "results.csv"
_PROFILE = "profile"
_OPTIMIZED = "optimized.onnx"
_TEST_DATA = "test_data_set_0"
_PROBE_PLACE = "probe"
_PROFILE_NAME = re.compile(r"profile[0-9A-Za-z_.:-]{0,100}\.json")
# Profiled runs: the first two warm up, and every run of every node is an event of some 100 bytes.
_PROFILE_RUNS = 10
_PROFILE_WARM_UP = 2
_PROFILE_EVENTS = 50_000
_FEWEST_PROFILED = 3
# Of a second start, for models so slow that the first gave too few runs; times vary.
_EXTRA_RUNS = 5
_MILLI = 1e3
_COOLING_STEP = 10.0

_CLOSED = Failure("unreachable", "the connection to the device was closed")


class AdbTransport:
    """A way to onnxruntime_perf_test on one Android device."""

    def __init__(
        self,
        settings: AdbSettings,
        folder: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: Which device and program.
            folder: An existing folder for what comes back.
            sleep: How to wait for a device to cool.
        """
        self._settings, self._folder, self._sleep = settings, folder, sleep
        self._adb = Adb(settings.adb, settings.serial)
        self._device = AndroidDevice(self._adb)
        self._runner = Runner(self._adb, self._device, settings.runner, settings.folder)
        self._files: dict[str, dict[str, Path]] = {}
        self._placed: set[str] = set()
        self._inputs: dict[str, str] = {}
        self._lost: Failure | None = None
        self._started = False
        self._fixed = False
        self._closed = False
        self._notes: list[str] = []

    @property
    def machine(self) -> str:
        """The device, as people write it; one cell at a time runs there."""
        return f"Android device {printable(self._settings.serial)}".strip()

    def notes(self) -> list[str]:
        """What the user must know of the device, since this was last asked."""
        notes, self._notes = self._notes, []
        return notes

    def place(self, place: str, files: Mapping[str, Path]) -> None:
        """Note a job folder; its files go over when a job runs there."""
        self._files.setdefault(place, {}).update(files)
        self._placed.discard(place)
        self._inputs.pop(place, None)

    def run(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        """Do one job on the device, in a fresh process."""
        if self._closed:
            return _CLOSED
        if self._lost is not None:
            return self._lost
        if job.task == "outputs":
            return Answer(
                "unavailable",
                "onnxruntime_perf_test hands out no outputs, so nothing can be compared; Termux "
                "on the device, over ssh, can (docs/android.md)",
            )
        answer = self._answer(place, job, timeout)
        # What was closed meanwhile was ended by us, whatever it looks like.
        return _CLOSED if self._closed else answer

    def fetch(self, place: str, name: str) -> Path:
        """A file out of a job folder on the device.

        Raises:
            OutputError: It is not there.
        """
        try:
            return self._runner.read(posixpath.join(place, name), self._folder / place)
        except AdbError as error:
            raise OutputError(f"the device left no {printable(name)}: {error}") from error

    def drop(self, place: str) -> None:
        """Forget a job folder and remove it on the device."""
        self._files.pop(place, None)
        self._inputs.pop(place, None)
        if place in self._placed and self._lost is None:
            self._placed.discard(place)
            try:
                self._runner.remove(place)
            except AdbError as error:
                self._notes.append(str(error))

    def close(self) -> None:
        """Leave the device as it was; may be called twice, from elsewhere, and when it is gone."""
        self._closed = True
        started, self._started = self._started, False
        fixed, self._fixed = self._fixed, False
        self._placed.clear()
        self._inputs.clear()
        if self._lost is not None or not started:
            return
        if fixed:
            try:
                self._device.fix_performance(on=False)
            except AdbError as error:
                self._notes.append(
                    f"the device may still be in fixed-performance mode: {error}; end it with adb "
                    "shell cmd power set-fixed-performance-mode-enabled false"
                )
                return
        self._runner.clean_up()

    def _answer(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        tasks = {"describe": self._describe, "time": self._time, "profile": self._profile}
        try:
            self._start()
            return tasks[job.task](place, job, timeout)
        except AdbError as error:
            failure = Failure(error.kind, str(error))
            if error.kind == "unreachable":
                self._lost = failure  # the next cell would meet the same
            return failure
        except InputError as error:
            return Answer("failed", str(error))
        except OSError as error:
            return Failure("error", f"{error.strerror or error}: {printable(str(error.filename))}")

    def _start(self) -> None:
        """Find the device and bring the program there, once."""
        if self._started:
            return
        self._runner.files()
        self._adb.choose()
        self._started = True
        self._runner.install()
        if self._settings.fixed_performance:
            refused = self._device.fix_performance(on=True)
            self._fixed = not refused
            if refused:
                self._notes.append(f"{refused}; clocks may move during the run")

    def _describe(self, place: str, job: Job, timeout: float) -> Answer:
        """The device, and which providers the program has: each runs a small model once."""
        model, _ = write_pulse(self._folder)
        self._runner.make_folder(_PROBE_PLACE)
        self._runner.send(model, posixpath.join(_PROBE_PLACE, model.name))
        path = self._runner.path(posixpath.join(_PROBE_PLACE, model.name))
        available, reasons = [], {}
        for provider in _PROBED:
            words = [*arguments(Job("time", provider=provider), runs=1), "-I", path]
            reply = self._runner.run(words, (), timeout)
            if reply.code:
                reasons[provider] = explain(reply).reason
            else:
                available.append(provider)
        if not available:
            return Answer("unavailable", reasons[_CPU])
        environment = {
            **self._device.describe(),
            "python": "",
            "numpy": "",
            "onnxruntime_version": runner_version(self._runner.files()) or "of unknown version",
            "onnxruntime_build": "onnxruntime_perf_test",
            "available_providers": available,
            "missing_providers": reasons,
            "fixed_performance": self._fixed,
            **self._device.conditions().as_dict(),
        }
        return Answer("ok", environment=environment)

    def _time(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        self._prepare(place, job)
        before = self._cooled()
        started = time.monotonic()
        seconds = job.warm_up_seconds + job.seconds
        report = self._measure(place, job, arguments(job, seconds=seconds), timeout)
        if isinstance(report, Report) and len(_timed(report, job)) < job.fewest_runs:
            # Slow models: now that their time is known, so many runs as the rules want.
            warming = math.ceil(_MILLI * job.warm_up_seconds / min(report.samples_ms))
            words = arguments(job, runs=job.fewest_runs + warming + _EXTRA_RUNS)
            left = timeout - (time.monotonic() - started)
            report = self._measure(place, job, words, max(left, 1.0))
        if isinstance(report, Trouble):
            return _troubled(report)
        after = self._device.conditions()
        warm_up_runs, stable, samples = split_warm_up(report.samples_ms, job)
        return Answer(
            "ok",
            environment=self._around(before, after),
            session_seconds=report.session_seconds,
            first_run_seconds=report.first_run_seconds,
            warm_up_runs=1 + warm_up_runs,
            stable=stable and not after.thermal.throttled,
            samples_ms=samples,
            peak_rss_bytes=report.peak_rss_bytes,
            energy_source="not read over adb",
            load=before.load,
            providers=tuple(dict.fromkeys((job.provider, _CPU))),
            provider_options=dict(job.provider_options),
        )

    def _profile(self, place: str, job: Job, timeout: float) -> Answer | Failure:
        arrays = self._prepare(place, job)
        model = self._files[place][job.model]
        graph = read_graph(str(model))
        nodes = max(len(graph.nodes) if graph else 1, 1)
        runs = max(_FEWEST_PROFILED, min(_PROFILE_RUNS, _PROFILE_EVENTS // nodes))
        profile = self._runner.path(posixpath.join(place, _PROFILE))
        optimized = self._runner.path(posixpath.join(place, _OPTIMIZED))
        self._remove_profiles(place)
        started = time.monotonic()
        words = arguments(job, runs=runs, profile=profile, optimized=optimized)
        report = self._measure(place, job, words, timeout)
        if isinstance(report, Trouble) and report.status == "failed":
            # Graphs with compiled parts, or beyond 2 GB, cannot be written.
            words = arguments(job, runs=runs, profile=profile)
            left = timeout - (time.monotonic() - started)
            report = self._measure(place, job, words, max(left, 1.0))
        if isinstance(report, Trouble):
            return _troubled(report)
        names = self._runner.list_folder(place)
        found = sorted(name for name in names if _PROFILE_NAME.fullmatch(name))
        if not found:
            return Answer("failed", "onnxruntime_perf_test wrote no profile")
        local = self._folder / place
        written = self._runner.read(posixpath.join(place, found[-1]), local)
        if _OPTIMIZED in names:
            ran = self._runner.read(posixpath.join(place, _OPTIMIZED), local)
            graph = read_graph(str(ran)) or graph
        batch = next((len(value) for value in arrays.values() if value.ndim), 1)
        kernels, milliseconds = read_profile(written, graph, batch, _PROFILE_WARM_UP)
        self._remove_profiles(place)
        if kernels and all(row["provider"] != job.provider for row in kernels):
            reason = f"{job.provider} took none of the {len(kernels)} nodes"
            return Answer("unavailable", reason, kernels=tuple(kernels))
        return Answer(
            "ok",
            environment=self._around(before := self._device.conditions(), before),
            session_seconds=report.session_seconds,
            providers=tuple(dict.fromkeys((job.provider, _CPU))),
            provider_options=dict(job.provider_options),
            kernels=tuple(kernels),
            profiled_ms=milliseconds,
        )

    def _prepare(self, place: str, job: Job) -> Mapping[str, Any]:
        """Bring a job's model and inputs to the device; the inputs, as arrays."""
        files = self._files.get(place, {})
        for name in (job.model, job.inputs):
            if name not in files:
                raise InputError(f"the job folder holds no {printable(name) or 'model'}")
        if place not in self._placed:
            self._runner.make_folder(place)
            for name, path in files.items():
                # Arrays are for the worker; the program gets its own form of the inputs below.
                if path.suffix == ".npz":
                    continue
                if posixpath.dirname(name):
                    raise InputError(
                        f"weights in the subfolder {printable(posixpath.dirname(name))} cannot go "
                        "with onnxruntime_perf_test, which takes folders beside the model for "
                        "inputs; put them beside the model"
                    )
                self._runner.send(path, posixpath.join(place, name))
            self._placed.add(place)
        arrays = read_npz(files[job.inputs], lambda _: True)
        if self._inputs.get(place) != job.inputs:
            self._runner.remove(posixpath.join(place, _TEST_DATA))
            self._runner.make_folder(posixpath.join(place, _TEST_DATA))
            local = self._folder / place / _TEST_DATA
            local.mkdir(parents=True, exist_ok=True)
            for name, content in input_files(arrays).items():
                (local / name).write_bytes(content)
                self._runner.send(local / name, posixpath.join(place, _TEST_DATA, name))
            self._inputs[place] = job.inputs
        return arrays

    def _measure(
        self, place: str, job: Job, options: list[str], timeout: float
    ) -> Report | Trouble:
        """Run the program on a job's model and read what it reports."""
        results = posixpath.join(place, _RESULTS)
        self._runner.remove(results)  # it would be appended to
        model = self._runner.path(posixpath.join(place, job.model))
        words = [*options, model, self._runner.path(results)]
        reply = self._runner.run(words, job.affinity, timeout)
        if reply.code:
            return explain(reply)
        text = self._runner.read(results, self._folder / place).read_text("utf-8", "replace")
        return parse_report(reply.output, text)

    def _cooled(self) -> Conditions:
        """State of the device once it is not throttled.

        Raises:
            AdbError: It stays throttled.
        """
        waited = 0.0
        conditions = self._device.conditions()
        while conditions.thermal.throttled:
            if waited >= self._settings.cooling_seconds:
                raise AdbError(
                    f"the device is throttled, {conditions.thermal.describe()}, and did not cool "
                    f"in {waited:g} s; let it rest off the charger, or set a longer cool_down",
                    "error",
                )
            step = min(_COOLING_STEP, self._settings.cooling_seconds - waited)
            self._sleep(step)
            waited += step
            conditions = self._device.conditions()
        if waited:
            self._notes.append(f"waited {waited:g} s for the device to cool")
        return conditions

    def _around(self, before: Conditions, after: Conditions) -> dict[str, Any]:
        notes = notes_on(before, after)
        self._notes.extend(note for note in notes if note not in self._notes)
        return {
            "before": before.as_dict(),
            "after": after.as_dict(),
            "throttled": after.thermal.throttled,
            "fixed_performance": self._fixed,
            "notes": list(notes),
        }

    def _remove_profiles(self, place: str) -> None:
        names = [name for name in self._runner.list_folder(place) if _PROFILE_NAME.fullmatch(name)]
        self._runner.remove(*(posixpath.join(place, name) for name in (*names, _OPTIMIZED)))


def _timed(report: Report, job: Job) -> tuple[float, ...]:
    return split_warm_up(report.samples_ms, job)[2]


def _troubled(trouble: Trouble) -> Answer | Failure:
    if trouble.signal:
        memory = trouble.reason.startswith("out of memory")
        return Failure("out-of-memory" if memory else "crash", trouble.reason)
    return Answer(trouble.status, trouble.reason)
