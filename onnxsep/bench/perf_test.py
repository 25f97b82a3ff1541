"""onnxruntime_perf_test: its command line for a job, and what it reports.

The program is onnxruntime's own (onnxruntime/test/perftest) and has changed its options and its
words over the years. What is known here is what its sources from 2019 to 2026 print; anything else
is an error, never a guess.
"""

from __future__ import annotations

import dataclasses
import math
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from onnxsep.bench.adb import Reply, quoted
from onnxsep.bench.job import Job, Status
from onnxsep.bench.worker import warm_up
from onnxsep.errors import InputError
from onnxsep.report.text import printable

# Providers that the program can be asked for on Android, and the build option that adds each.
PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "XnnpackExecutionProvider": "xnnpack",
    "NnapiExecutionProvider": "nnapi",
    "QNNExecutionProvider": "qnn",
    "WebGpuExecutionProvider": "webgpu",
}
_XNNPACK = "XnnpackExecutionProvider"
_NNAPI = "NnapiExecutionProvider"
_POOL_OPTION = "intra_op_num_threads"
_SPINNING = "session.intra_op.allow_spinning"
_OPTIMIZATIONS = {"disable": 0, "basic": 1, "extended": 2, "layout": 3, "all": 99}

# One line of the summary each, older words included; groups are the numbers.
_NUMBER = r"([0-9.]+(?:e[-+]?[0-9]+)?)"
_SUMMARY = {
    "session": rf"Session creation time cost: ?{_NUMBER} s",
    "first": rf"First inference time cost: ?{_NUMBER} ms",
    "total": rf"(?:Total inference time cost: |Total time cost:){_NUMBER}(?: s)?",
    "runs": r"(?:Total inference requests: |Total iterations:)([0-9]{1,9})",
    "average": rf"(?:Average inference time cost(?: total)?: |Average time cost:){_NUMBER} ms",
    "peak": r"Peak working set size: ([0-9]{1,15}) bytes",
}
# The result file: the name of the model's folder, seconds, peak memory, CPU usage, index.
_ROW = re.compile(rf".*,{_NUMBER},([0-9]{{1,19}}),-?[0-9]{{1,5}},([0-9]{{1,9}})")
_STATISTICS = re.compile(rf"(?:Min|Max|P[0-9]{{2,3}}) Latency(?: is|:) {_NUMBER} ?s(?:ec)?")
# Both are printed with six digits.
_ROUNDING = 0.01
_LONGEST_ERROR = 200
_UNSUPPORTED = re.compile(r"(\w+) is not supported in this build", re.IGNORECASE)
_SOURCE_POSITION = re.compile(r"^\S*\.(?:cc|h|cpp):\d+ (?:[^()\n]*\([^()\n]*\)(?: const)? ?)?")
_SIGNALS = 128  # what a shell adds to the number of the signal that ended a program
_MILLI = 1e3
_NANO = 1e9
_LARGEST_PROTOBUF = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What one start of the program measured.

    Attributes:
        session_seconds: Creation of the session; 0 where the version does not tell.
        first_run_seconds: The very first run, in whole milliseconds; 0 where not told.
        samples_ms: Every run after the first, in order.
        peak_rss_bytes: Largest resident memory.
    """

    session_seconds: float
    first_run_seconds: float
    samples_ms: tuple[float, ...]
    peak_rss_bytes: int


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Why the program reported nothing.

    Attributes:
        status: ``unavailable`` if the provider or the build lacks something, else ``failed``.
        reason: One clause.
        signal: Number of the signal it died of, 0 if it ended by itself.
    """

    status: Status
    reason: str
    signal: int = 0


def arguments(
    job: Job, *, seconds: float = 0.0, runs: int = 0, profile: str = "", optimized: str = ""
) -> list[str]:
    """The options for a job, without the paths of model and result file.

    Args:
        job: What to measure.
        seconds: Run for so long, rounded up to whole seconds.
        runs: Or so many times.
        profile: Where to write onnxruntime's profile, without the end of the name.
        optimized: Where to write the optimised model.

    Raises:
        InputError: The job holds something that the program cannot be told.
    """
    if job.provider not in PROVIDERS:
        raise InputError(
            f"onnxruntime_perf_test is not run with {printable(job.provider)} here, only with "
            f"{', '.join(PROVIDERS)}"
        )
    if job.libraries:
        raise InputError("plugin providers are not run over adb; use Termux over ssh")
    if job.io_binding:
        raise InputError("onnxruntime_perf_test cannot bind inputs here; set io_binding: false")
    threads, options = _provider_options(job)
    words = ["-e", PROVIDERS[job.provider]]
    words += ["-m", "times", "-r", str(runs)] if runs else ["-m", "duration", "-t", _whole(seconds)]
    words += ["-x", str(threads), "-y", str(job.inter_threads)]
    words += ["-P"] if job.parallel else []
    words += ["-o", str(_OPTIMIZATIONS[job.optimization])]
    words += ["-i", " ".join(options)] if options else []
    configuration = dict(job.session_config)
    if job.provider == _XNNPACK and configuration.get(_SPINNING) == "0":
        del configuration[_SPINNING]  # The program does that by itself; old ones know no -C.
    if configuration:
        words += ["-C", " ".join(_pair(key, value) for key, value in configuration.items())]
    for name, size in job.free_dimensions.items():
        if not name or re.search(r"[\s:]", name):
            raise InputError(
                f"onnxruntime_perf_test cannot be told the dimension '{printable(name)}': spaces "
                "and colons separate its options; fix it in the model"
            )
        words += ["-f", f"{name}:{size}"]
    words += ["-p", profile] if profile else []
    words += ["-u", optimized] if optimized else []
    return words


def parse_report(output: str, results: str) -> Report:
    """Read what the program printed and the result file that it wrote.

    Args:
        output: Its stdout, other lines between the known ones included.
        results: The result file, one line per run and perhaps statistics.

    Raises:
        InputError: Either is not of a form that is known, or they contradict each other.
    """
    summary = _read_summary(output)
    samples, peak = _read_results(results)
    total, runs = summary.get("total"), summary.get("runs")
    if total is None or runs is None or summary.get("average") is None:
        raise InputError(
            "this onnxruntime_perf_test reports in a way that onnxsep does not know; it said: "
            f"{quoted(output)}"
        )
    if len(samples) != runs:
        raise InputError(
            f"onnxruntime_perf_test tells of {runs:.0f} runs, its result file of {len(samples)}"
        )
    if not samples:
        raise InputError("onnxruntime_perf_test timed no run")
    for told, found in ((total, sum(samples)), (summary["average"] / _MILLI * runs, sum(samples))):
        if abs(told - found) > _ROUNDING * found:
            raise InputError(
                f"onnxruntime_perf_test tells of {told:g} s in all, its result file of {found:g} s"
            )
    return Report(
        session_seconds=summary.get("session", 0.0),
        first_run_seconds=summary.get("first", 0.0) / _MILLI,
        samples_ms=tuple(_MILLI * sample for sample in samples),
        peak_rss_bytes=int(summary.get("peak", peak)),
    )


def explain(reply: Reply) -> Trouble:
    """Why the program ended without a report."""
    said = reply.everything
    number = reply.code - _SIGNALS
    missing = _UNSUPPORTED.search(said)
    if missing:
        name = missing[1]
        return Trouble(
            "unavailable",
            f"this onnxruntime_perf_test was built without {name}; build it with "
            f"--use_{name.lower()}, see docs/android.md",
        )
    if number in (signal.SIGKILL, signal.SIGABRT) and "bad_alloc" in said:
        return Trouble("failed", "out of memory on the device")
    if number == signal.SIGKILL:
        return Trouble("failed", "out of memory: the device's system killed it", number)
    if 0 < number < signal.NSIG:
        return Trouble("failed", f"onnxruntime_perf_test died of {_signal_name(number)}", number)
    for pattern, reason in _KNOWN_TROUBLE:
        found = re.search(pattern, said)
        if found:
            return Trouble("failed", reason.format(*map(printable, found.groups())))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if _SOURCE_POSITION.match(line) or "Run failed:" in line]
    line = _SOURCE_POSITION.sub("", errors[-1] if errors else (lines or ["nothing"])[-1])
    reason = printable(line.strip())[:_LONGEST_ERROR]
    memory = "bad_alloc" in said or "Failed to allocate memory" in said
    return Trouble("failed", f"out of memory: {reason}" if memory else reason)


_KNOWN_TROUBLE = (
    (
        r"Unknown command line flag '(\w+)'",
        "this onnxruntime_perf_test knows no option -{0}; between 1.22 and 1.23 those for Android "
        "were built without any, so take a release",
    ),
    (
        r"CANNOT LINK EXECUTABLE.*library \"([^\"]+)\" not found",
        "onnxruntime_perf_test needs {0}; put it beside the executable",
    ),
    (
        r"CANNOT LINK EXECUTABLE.*cannot locate symbol \"([^\"]+)\"",
        "libonnxruntime.so is of another build than onnxruntime_perf_test (it lacks {0}); take "
        "both from one build",
    ),
    (
        r"not executable: |[Ee]xec format error|Syntax error",
        "onnxruntime_perf_test is not built for this device; see --android_abi in docs/android.md",
    ),
    (r"[Pp]ermission denied", "the device does not let onnxruntime_perf_test run there"),
    (
        r"there is no test (?:input )?data for",
        "onnxruntime_perf_test found no input data; if weights of the model lie in a subfolder, "
        "put them beside it",
    ),
    (
        r"(?m)^(?:perf_test|onnxruntime_perf_test) \[options\.\.\.\]|perf_test --help",
        "this onnxruntime_perf_test does not know one of its options; take a newer release",
    ),
)


def split_warm_up(samples_ms: Sequence[float], job: Job) -> tuple[int, bool, tuple[float, ...]]:
    """Part recorded runs into warm-up and measurement by the rules of the worker.

    The program has no warm-up but its first run, so that the worker's is done on its record: the
    runs are played back to the same function, with a clock that shows their own times.

    Returns:
        The number of runs of the warm-up, whether it became stable, and the runs that count.
    """
    times = [round(sample / _MILLI * _NANO) for sample in samples_ms]
    position = now = 0

    def run() -> None:
        nonlocal position, now
        # Past the end of the record the clock leaps, which ends the warm-up.
        now += times[position] if position < len(times) else round(_NANO * job.warm_up_seconds) + 1
        position += 1

    count, stable = warm_up(run, job.warm_up_seconds, job.warm_up_tolerance, lambda: now)
    count = min(count, len(times))
    kept = 0
    elapsed = 0.0
    for sample in samples_ms[count:]:
        enough = elapsed >= _MILLI * job.seconds and kept >= job.fewest_runs
        if enough or kept >= max(job.most_runs, job.fewest_runs):
            break
        elapsed += sample
        kept += 1
    return count, stable, tuple(samples_ms[count : count + kept])


def input_files(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The inputs as the program wants them: one tensor of protobuf per file, in one folder.

    Args:
        arrays: Input name to array.

    Raises:
        InputError: An array cannot be written so.
    """
    files = {}
    for index, (name, array) in enumerate(arrays.items()):
        if array.dtype.kind not in "fiub" or array.nbytes > _LARGEST_PROTOBUF:
            raise InputError(
                f"the input '{printable(name)}' cannot be given to onnxruntime_perf_test "
                f"({array.dtype}, {array.nbytes} bytes)"
            )
        files[f"input_{index}.pb"] = numpy_helper.from_array(array, name).SerializeToString()
    return files


def runner_version(files: Sequence[Path]) -> str:
    """onnxruntime's version, from the symbols of its library; empty if it cannot be told.

    Args:
        files: Executable and libraries.
    """
    for path in files:
        found = re.search(rb"VERS_(\d{1,3}\.\d{1,3}\.\d{1,3})\0", path.read_bytes())
        if found:
            return found[1].decode()
    return ""


def _provider_options(job: Job) -> tuple[int, list[str]]:
    """Threads, and the words of -i."""
    threads = job.intra_threads or len(job.affinity)
    options = dict(job.provider_options)
    if job.provider == _XNNPACK:
        # The program gives XNNPACK's pool and onnxruntime's the same number.
        pool = options.pop(_POOL_OPTION, str(threads))
        if options or not re.fullmatch(r"[0-9]{1,4}", pool):
            raise InputError(f"onnxruntime_perf_test gives XNNPACK no option but {_POOL_OPTION}")
        return int(pool), []
    if job.provider == _NNAPI:
        unknown = [name for name, value in options.items() if value not in ("0", "1")]
        if unknown:
            raise InputError(f"'{printable(unknown[0])}' of NNAPI is a switch, 0 or 1")
        return threads, [_word(name) for name, value in options.items() if value == "1"]
    return threads, [_pair(name, value) for name, value in options.items()]


def _pair(key: str, value: str) -> str:
    return f"{_word(key, '|')}|{_word(value)}"


def _word(text: str, more: str = "") -> str:
    if (more and not text) or re.search(rf"[\s\0{re.escape(more)}]", text):
        raise InputError(
            f"onnxruntime_perf_test cannot be told '{printable(text)}': spaces separate its options"
        )
    return text


def _whole(seconds: float) -> str:
    return str(max(math.ceil(seconds), 1))


def _read_summary(output: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in output.splitlines():
        for name, pattern in _SUMMARY.items():
            match = re.fullmatch(pattern, line.strip())
            if match:
                found[name] = _float(match[1], line)
    return found


def _read_results(text: str) -> tuple[list[float], int]:
    """Seconds of every run, and the peak memory."""
    samples: list[float] = []
    peak = 0
    for line in text.splitlines():
        row = _ROW.fullmatch(line)
        if row and int(row[3]) == len(samples):
            samples.append(_float(row[1], line))
            peak = int(row[2])
        elif line.strip() and not _STATISTICS.fullmatch(line.strip()):
            raise InputError(
                "this onnxruntime_perf_test writes a result file that onnxsep does not know: "
                f"{quoted(line)}"
            )
    return samples, peak


def _float(text: str, line: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"onnxruntime_perf_test printed no number: {quoted(line)}")
    return value


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
