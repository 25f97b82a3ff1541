"""The worker of the benchmark: one job, one fresh process, one answer.

``PYTHON worker.py FOLDER`` reads ``FOLDER/job.json`` and leaves ``FOLDER/result.json`` (and, for
the task ``outputs``, ``FOLDER/outputs.npz``). Both files are described by the classes of
`onnxsep.bench.job`; nothing else passes between worker and parent. The exit code is 0 whenever the
answer was written, whatever it says.

This one file travels to other machines and interpreters: it imports nothing of onnxsep, and wants
Python 3.9, onnxruntime 1.17 and NumPy 1.24, or newer.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and sys.path:
    # Neighbours of this file must not stand in for modules of the standard library.
    _HERE = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != _HERE]

import contextlib
import ctypes
import functools
import gc
import glob
import json
import math
import mmap
import platform
import random
import re
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PROTOCOL = 1
JOB_FILE = "job.json"
RESULT_FILE = "result.json"
OUTPUTS_FILE = "outputs.npz"

_CPU = "CPUExecutionProvider"
_OPTIMIZATIONS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
# Where a provider keeps its tensors, as onnxruntime's OrtValue calls it; all others: the CPU.
_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "CudaPluginExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "CANNExecutionProvider": "cann",
    "WebGpuExecutionProvider": "webgpu",
}
_ERRORS_ONLY = 3  # onnxruntime's log severity

# A window of the warm-up: runs enough for a median, and this part of the time allowed.
_WINDOW_RUNS = 5
_WINDOWS = 10

# The profile: the first runs set up memory and search algorithms; the rest is bounded because
# every run of every node is one event of some hundred bytes.
_PROFILE_WARM_UP = 2
_PROFILE_FEWEST = 3
_PROFILE_MOST = 30
_PROFILE_EVENTS = 50_000

# Runs of a race take 20 microseconds and more.
_FINE_SECONDS = 1e-6

_LONGEST_REASON = 240
_MOST_LOG_BYTES = 1 << 20
_VARINT_BYTES = 10
_MOST_CHAIN = 8  # nodes between a weight and the convolution that uses it

# Operator to the position of its weight among the inputs.
_CONVOLUTIONS = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcConv": 1,
    "NhwcFusedConv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
}
_GEMMS = ("Gemm", "FusedGemm", "QGemm")
_MATRIX_PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "TransposeMatMul",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
)
# What tells fast cores from slow ones in the kernels of onnxruntime.
_CPU_FLAGS = re.compile(
    r"sse4_1|avx|avx2|fma|f16c|avx512(f|bw|vl|_vnni|_bf16|_fp16)|avx_vnni(_int8)?"
    r"|amx_(tile|int8|bf16)|asimd(dp|hp)?|bf16|i8mm|svei8mm|(sve|sme)2?"
)

_OUT_OF_MEMORY = re.compile(
    r"bad[_ ]alloc|failed to allocate memory|out of memory|cudaErrorMemoryAllocation"
    r"|CUDA_ERROR_OUT_OF_MEMORY|CUDA failure 2:|available memory of \d+ is smaller|cannot allocate"
    r"|unable to allocate",
    re.IGNORECASE,
)
# A provider that cannot work on this machine at all, whatever the model.
_PROVIDER_MISSING = re.compile(
    r"cannot open shared object|failed to load (shared )?library|image not found|dlopen"
    r"|driver version is insufficient|no CUDA-capable device|CUDA failure (35|100|999):"
    r"|CUDNN_STATUS_NOT_INITIALIZED|failed to create \w+ExecutionProvider|is not supported in this"
    r"|invalid device ordinal|no (available|supported|compatible) device",
    re.IGNORECASE,
)


class Stop(Exception):  # noqa: N818  # not always an error
    """The job ends here with this status."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def main(arguments: Sequence[str]) -> int:
    """Do the job in the folder named by the only argument; see the module's docstring."""
    if len(arguments) != 1:
        sys.stderr.write("usage: worker.py FOLDER\n")
        return 2
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)  # ends at once, also inside onnxruntime, and quietly
    os.dup2(2, 1)  # some libraries print
    folder = os.path.realpath(arguments[0])
    answer = answer_job(folder)
    try:
        _write(folder, RESULT_FILE, lambda path: _write_json(path, answer))
    except OSError as error:
        sys.stderr.write(f"cannot write {RESULT_FILE}: {error}\n")
        return 1
    return 0


def answer_job(folder: str) -> dict[str, Any]:
    """The answer to the job in ``folder``, as far as it got."""
    answer: dict[str, Any] = {"protocol": PROTOCOL, "status": "ok", "reason": "", "load": _load()}
    try:
        job = _read_job(folder)
        _confine(job["affinity"])
        _TASKS[job["task"]](job, folder, answer)
    except Stop as stop:
        answer.update(status=stop.status, reason=stop.reason)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        answer.update(status="failed", reason=_reason(error, folder))
    answer["peak_rss_bytes"] = _peak_rss_bytes()
    return answer


# --- the five tasks ---


def _describe(job: Mapping[str, Any], folder: str, answer: dict[str, Any]) -> None:
    onnxruntime = _import_onnxruntime(job)
    for name, path in job["libraries"].items():
        with contextlib.suppress(Exception):  # a cell that needs it will say why it cannot
            onnxruntime.register_execution_provider_library(name, path)
    answer["environment"] = environment(onnxruntime)


def _time(job: Mapping[str, Any], folder: str, answer: dict[str, Any]) -> None:
    onnxruntime = _import_onnxruntime(job)
    feeds = _read_inputs(job, folder)
    options = _session_options(onnxruntime, job)
    start = time.perf_counter()
    session = _open_session(onnxruntime, job, folder, options, answer)
    answer["session_seconds"] = time.perf_counter() - start
    _require_nodes(session, job, answer)
    run: Callable[[], Any] = functools.partial(session.run, None, feeds)
    if job["io_binding"]:
        run = _bound_run(onnxruntime, session, job, feeds)
    start = time.perf_counter()
    run()
    answer["first_run_seconds"] = time.perf_counter() - start
    answer["warm_up_runs"] = 1
    gc.collect()
    gc.disable()
    runs, answer["stable"] = warm_up(run, job["warm_up_seconds"], job["warm_up_tolerance"])
    answer["warm_up_runs"] += runs
    meter = _energy_meter(job)
    before = meter.read()
    samples = measure(run, job["seconds"], job["fewest_runs"], job["most_runs"])
    answer["energy_joules"] = meter.joules(before, meter.read())
    answer["energy_source"] = meter.source
    answer["samples_ms"] = [sample / 1e6 for sample in samples]


def _profile(job: Mapping[str, Any], folder: str, answer: dict[str, Any]) -> None:
    onnxruntime = _import_onnxruntime(job)
    feeds = _read_inputs(job, folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="profile-") as place:
        optimized = os.path.join(place, "optimized.onnx")
        session = _open_profiled(onnxruntime, job, folder, place, optimized, answer)
        _require_nodes(session, job, answer)
        graph = read_graph(optimized) or read_graph(_inside(folder, job["model"]))
        nodes = len(graph.nodes) if graph else 1
        most = max(_PROFILE_FEWEST, min(_PROFILE_MOST, _PROFILE_EVENTS // max(nodes, 1)))
        run = functools.partial(session.run, None, feeds)
        for _ in range(_PROFILE_WARM_UP):
            run()
        samples = measure(run, job["seconds"], _PROFILE_FEWEST, most)
        with open(session.end_profiling(), encoding="utf-8", errors="replace") as file:
            events = json.load(file)
    answer["profiled_ms"] = _median(samples) / 1e6
    batch = next((len(value) for value in feeds.values() if value.ndim), 1)
    answer["kernels"] = read_kernels(events, graph, batch, _PROFILE_WARM_UP)


def _outputs(job: Mapping[str, Any], folder: str, answer: dict[str, Any]) -> None:
    import numpy

    onnxruntime = _import_onnxruntime(job)
    feeds = _read_inputs(job, folder)
    options = _session_options(onnxruntime, job)
    session = _open_session(onnxruntime, job, folder, options, answer)
    _require_nodes(session, job, answer)
    names = [value.name for value in session.get_outputs()]
    if job["batch"]:
        collected = _run_batches(session, job, feeds, names)
    else:
        collected = dict(zip(names, session.run(names, feeds)))  # noqa: B905  # Python 3.9
    for name, value in collected.items():
        if not isinstance(value, numpy.ndarray):
            raise Stop("failed", f"the output '{name}' is no tensor")
    _write(folder, OUTPUTS_FILE, lambda path: _write_arrays(path, collected))


def _run_batches(
    session: Any, job: Mapping[str, Any], feeds: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """All images through the model, so many at a time, each output as one array."""
    import numpy

    counts = {value.shape[:1] for value in feeds.values()}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise Stop("failed", "the inputs hold no images, or not the same number of them")
    ((images,),) = counts
    firsts = [value.shape[0] for value in session.get_inputs() if value.shape]
    fixed = any(isinstance(first, int) or first in job["free_dimensions"] for first in firsts)
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, images, job["batch"]):
        count = min(job["batch"], images - start)
        taken = numpy.arange(start, start + count)
        if fixed:  # The last image stands in for those that the last batch lacks.
            taken = numpy.pad(taken, (0, job["batch"] - count), mode="edge")
        values = session.run(names, {name: value[taken] for name, value in feeds.items()})
        for name, value in zip(names, values):  # noqa: B905  # Python 3.9
            if getattr(value, "shape", ())[:1] != (len(taken),):
                raise Stop("failed", f"the output '{name}' does not count images")
            parts[name].append(value[:count])
    return {name: numpy.concatenate(part) for name, part in parts.items()}


def _race(job: Mapping[str, Any], folder: str, answer: dict[str, Any]) -> None:
    onnxruntime = _import_onnxruntime(job)
    heats, left = job["heats"], job["seconds"]
    answer["heats_ms"] = []
    for number, heat in enumerate(heats):
        runs = [_racer(onnxruntime, job, folder, tuple(names), answer) for names in heat]
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        rows = race(runs, job, left / (len(heats) - number))
        left -= time.perf_counter() - start
        gc.enable()
        answer["heats_ms"].append(
            [[None if time_ is None else 1e3 * time_ for time_ in row] for row in rows]
        )


def _racer(
    onnxruntime: Any,
    job: Mapping[str, Any],
    folder: str,
    names: tuple[str, ...],
    answer: dict[str, Any],
) -> Callable[[], float]:
    """A model that is loaded and warm; every call is a run and gives its seconds."""
    model, inputs = names
    one = dict(job, model=model, inputs=inputs)
    feeds = _read_inputs(one, folder)
    options = _session_options(onnxruntime, one)
    session = _open_session(onnxruntime, one, folder, options, answer)
    clock = time.perf_counter
    fine = time.get_clock_info("thread_time").resolution <= _FINE_SECONDS
    if job["processor_time"] and job["intra_threads"] == 1 and fine:
        clock = time.thread_time
    end = time.perf_counter() + job["warm_up_seconds"]
    count = 0
    while count < job["warm_up_runs"] or time.perf_counter() < end:
        session.run(None, feeds)
        count += 1

    def run() -> float:
        start = clock()
        session.run(None, feeds)
        return clock() - start

    return run


_TASKS: dict[str, Callable[[Mapping[str, Any], str, dict[str, Any]], None]] = {
    "describe": _describe,
    "time": _time,
    "profile": _profile,
    "outputs": _outputs,
    "race": _race,
}


# --- job and files ---


def _read_job(folder: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, JOB_FILE), encoding="utf-8") as file:
            job = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise Stop("failed", f"{JOB_FILE} cannot be read: {error}") from error
    if not isinstance(job, dict) or job.get("protocol") != PROTOCOL:
        raise Stop("failed", f"{JOB_FILE} is not for this worker (protocol {PROTOCOL})")
    if job.get("task") not in _TASKS:
        raise Stop("failed", f"this worker knows no task '{job.get('task')}'")
    return job


def _inside(folder: str, name: str) -> str:
    """The path of a file that has to lie in the job folder itself."""
    path = os.path.join(folder, name)
    if not name or name in (".", "..") or name != os.path.basename(name) or "\0" in name:
        raise Stop("failed", f"'{name}' is not the name of a file in the job folder")
    if not os.path.isfile(path):
        raise Stop("failed", f"the job folder holds no {name}")
    return path


def _read_inputs(job: Mapping[str, Any], folder: str) -> dict[str, Any]:
    import numpy

    path = _inside(folder, job["inputs"])
    try:
        with numpy.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise Stop("failed", f"{job['inputs']} holds no arrays: {_line(error)}") from error


def _write(folder: str, name: str, write: Callable[[str], None]) -> None:
    """In one step, so that whoever looks sees all of the file or nothing."""
    temporary = os.path.join(folder, name + ".partial")
    write(temporary)
    os.replace(temporary, os.path.join(folder, name))


def _write_json(path: str, answer: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def _write_arrays(path: str, arrays: Mapping[str, Any]) -> None:
    """As numpy.savez, which takes no array of the name ``file``."""
    from numpy.lib import format as npy

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)


# --- sessions ---


def _confine(cores: Sequence[int]) -> None:
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Stop("failed", f"{platform.system()} cannot confine a process to cores")
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError, OverflowError) as error:
        listed = ", ".join(map(str, cores))
        raise Stop(
            "failed", f"the process cannot be confined to the cores {listed}: {_line(error)}"
        ) from error


def _import_onnxruntime(job: Mapping[str, Any]) -> Any:
    module = "numpy"
    try:
        import numpy  # noqa: F401  # without it, onnxruntime would say less

        module = "onnxruntime"
        import onnxruntime
    except Exception as error:  # a broken installation raises anything
        reason = f"this interpreter cannot import {module}: {_line(error)}"
        raise Stop("unavailable", reason) from error
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    return onnxruntime


def _session_options(onnxruntime: Any, job: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # With 0, onnxruntime pins its threads itself, also to cores that are not ours.
    options.intra_op_num_threads = job["intra_threads"] or len(job["affinity"])
    options.inter_op_num_threads = job["inter_threads"]
    modes = onnxruntime.ExecutionMode
    options.execution_mode = modes.ORT_PARALLEL if job["parallel"] else modes.ORT_SEQUENTIAL
    level = _OPTIMIZATIONS.get(job["optimization"], "")
    if not hasattr(onnxruntime.GraphOptimizationLevel, level or "?"):
        known = f"onnxruntime {onnxruntime.__version__}"
        raise Stop("failed", f"{known} has no optimization level '{job['optimization']}'")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for name, size in job["free_dimensions"].items():
        options.add_free_dimension_override_by_name(name, size)
    for key, value in job["session_config"].items():
        options.add_session_config_entry(key, value)
    if _tells_assignment(onnxruntime) and (job["task"] == "profile" or job["provider"] != _CPU):
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _tells_assignment(onnxruntime: Any) -> bool:
    return hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def _open_session(
    onnxruntime: Any, job: Mapping[str, Any], folder: str, options: Any, answer: dict[str, Any]
) -> Any:
    """A session on the provider that was asked for, or a `Stop` that says why there is none."""
    provider = job["provider"]
    model = _inside(folder, job["model"])
    log_start = _stderr_size()
    devices = _provider_devices(onnxruntime, job)
    if devices:
        options.add_provider_for_devices(devices, dict(job["provider_options"]))
        arguments: dict[str, Any] = {}
    else:
        providers: list[Any] = [(provider, dict(job["provider_options"]))]
        if provider != _CPU:
            providers.append(_CPU)
        arguments = {"providers": providers}
    try:
        session = onnxruntime.InferenceSession(model, options, enable_fallback=0, **arguments)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = _reason(error, folder)
        missing = provider != _CPU and _PROVIDER_MISSING.search(str(error))
        raise Stop("unavailable" if missing else "failed", reason) from error
    session.disable_fallback()
    answer["providers"] = list(session.get_providers())
    if provider not in answer["providers"]:
        said = _provider_log(log_start)
        raise Stop(
            "unavailable",
            f"onnxruntime dropped {provider}" + (f": {said}" if said else " without a reason"),
        )
    # Unknown options are accepted in silence; what counts is what the provider says it has.
    told = session.get_provider_options().get(provider, {})
    answer["provider_options"] = {str(key): str(value) for key, value in told.items()}
    return session


def _open_profiled(
    onnxruntime: Any,
    job: Mapping[str, Any],
    folder: str,
    place: str,
    optimized: str,
    answer: dict[str, Any],
) -> Any:
    """A session that profiles and, where it can, leaves the graph that really runs."""
    for path in (optimized, ""):
        options = _session_options(onnxruntime, job)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(place, "profile")
        if path:
            options.optimized_model_filepath = path
        try:
            return _open_session(onnxruntime, job, folder, options, answer)
        except Stop as stop:
            # Graphs with compiled parts, or beyond 2 GB, cannot be written.
            if not path or stop.status != "failed" or stop.reason.startswith("out of memory"):
                raise
    raise AssertionError("the second attempt returns or raises")


def _provider_devices(onnxruntime: Any, job: Mapping[str, Any]) -> list[Any]:
    """The device of a plugin provider; none where the provider is built in."""
    provider = job["provider"]
    for name, path in job["libraries"].items():
        if not hasattr(onnxruntime, "register_execution_provider_library"):
            version = onnxruntime.__version__
            raise Stop("unavailable", f"onnxruntime {version} takes no plugin providers")
        try:
            onnxruntime.register_execution_provider_library(name, path)
        except Exception as error:
            if "already registered" not in str(error).lower():
                reason = f"the plugin library '{name}' cannot be loaded: {_line(error)}"
                raise Stop("unavailable", reason) from error
    built_in = onnxruntime.get_available_providers()
    if provider in built_in and not job["libraries"]:
        return []
    everything = onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else []
    devices = [device for device in everything if device.ep_name == provider]
    if devices:
        wanted = str(job["provider_options"].get("device_id", "0"))
        index = int(wanted) if wanted.isdigit() else 0
        return [devices[min(index, len(devices) - 1)]]
    if provider in built_in:
        return []
    names = sorted({*built_in, *(device.ep_name for device in everything)})
    raise Stop(
        "unavailable",
        f"onnxruntime {onnxruntime.__version__} has no {provider} here, only {', '.join(names)}",
    )


def _require_nodes(session: Any, job: Mapping[str, Any], answer: dict[str, Any]) -> None:
    """Note which provider took which nodes; a provider that took none is `unavailable`."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    if job["task"] != "profile" and job["provider"] == _CPU:
        return
    assignment: dict[str, list[dict[str, str]]] = {}
    for part in session.get_provider_graph_assignment_info():
        assignment.setdefault(part.ep_name, []).extend(
            {"name": node.name, "op_type": node.op_type, "domain": node.domain}
            for node in part.get_nodes()
        )
    answer["assignment"] = assignment
    total = sum(map(len, assignment.values()))
    if total and not assignment.get(job["provider"]):
        raise Stop("unavailable", f"{job['provider']} took none of the {total} nodes")


# --- running ---


def _bound_run(
    onnxruntime: Any, session: Any, job: Mapping[str, Any], feeds: Mapping[str, Any]
) -> Callable[[], None]:
    """A run whose inputs lie on the device already and whose outputs stay there."""
    device = _DEVICES.get(job["provider"], "cpu")
    wanted = str(job["provider_options"].get("device_id", "0"))
    index = int(wanted) if device != "cpu" and wanted.isdigit() else 0
    try:
        binding = session.io_binding()
        for name, array in feeds.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, index)
            binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, device, index)
        binding.synchronize_inputs()
    except Exception as error:
        if _OUT_OF_MEMORY.search(str(error)):
            raise
        reason = f"inputs and outputs cannot be bound on {device}: {_line(error)}"
        raise Stop("failed", reason) from error

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def warm_up(
    run: Callable[[], Any],
    seconds: float,
    tolerance: float,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[int, bool]:
    """Run until the medians of two successive windows differ by less than ``tolerance``.

    Args:
        run: What to run.
        seconds: Longest warm-up.
        tolerance: Relative.
        clock: Nanoseconds.

    Returns:
        The number of runs, and whether they became stable before the time was up.
    """
    now = clock()
    end = now + int(seconds * 1e9)
    runs, last = 0, 0.0
    while now < end:
        window: list[int] = []
        window_end = now + int(seconds * 1e9 / _WINDOWS)
        while now < end and (len(window) < _WINDOW_RUNS or now < window_end):
            run()
            before, now = now, clock()
            window.append(now - before)
        runs += len(window)
        median = _median(window)
        if last and len(window) >= _WINDOW_RUNS and abs(median - last) < tolerance * last:
            return runs, True
        last = median
    return runs, False


def race(
    runs: Sequence[Callable[[], float]],
    pace: Mapping[str, Any],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float | None]]:
    """Run all in turn, each once a round, as `onnxsep.stopwatch.run_rounds` does.

    Args:
        runs: Each call is one run and gives its seconds; the others are measured by the first.
        pace: Of the job: ``fewest_runs``, ``most_runs``, ``runs_at_a_time``, ``settle_after``,
            ``settle_tolerance`` and ``shuffled``.
        seconds: Time to spend.
        clock: Seconds.

    Returns:
        For each of ``runs`` its seconds in every round, None where it ran no more.
    """
    end = clock() + seconds
    # A fixed seed: what is random is the machine.
    generator = random.Random(0)  # noqa: S311
    rows: list[list[float | None]] = [[] for _ in runs]
    ratios: list[list[float]] = [[] for _ in runs]
    open_ = list(range(1, len(runs)))
    count = 0
    while count < pace["most_runs"] and (open_ or not count):
        for _ in range(pace["runs_at_a_time"]):
            order = [0, *open_]
            if pace["shuffled"]:
                generator.shuffle(order)
            elif count % 2:
                order.reverse()
            found = {index: runs[index]() for index in order}
            for index, row in enumerate(rows):
                row.append(found.get(index))
                if index in found:
                    ratios[index].append(found[index] / max(found[0], 1e-9))
            count += 1
        if count >= pace["fewest_runs"] and clock() >= end:
            break
        if pace["settle_tolerance"] and count >= pace["settle_after"]:
            tolerance = pace["settle_tolerance"]
            open_ = [index for index in open_ if not _is_settled(ratios[index], tolerance)]
    return rows


def _is_settled(ratios: Sequence[float], tolerance: float) -> bool:
    """Whether a ratio is known well enough, or is known not to matter."""
    ordered = sorted(ratios)
    low, high = ordered[_lowest_rank(len(ordered))], ordered[-1 - _lowest_rank(len(ordered))]
    return high - low <= 2 * tolerance * _median(ordered) or low > 1.0


@functools.cache
def _lowest_rank(count: int) -> int:
    """Rank, from 0, of the sample that bounds the 95 % interval of a median (Conover 1999, 3.2)."""
    total, rank = 0, 0
    for below in range(count):
        total += math.comb(count, below)
        if total > 0.025 * 2.0**count:
            break
        rank = below
    return rank


def measure(
    run: Callable[[], Any],
    seconds: float,
    fewest: int,
    most: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[int]:
    """Time runs for ``seconds``, but ``fewest`` in any case and ``most`` at most.

    Returns:
        Nanoseconds of every run, in order.
    """
    samples: list[int] = []
    end = clock() + int(seconds * 1e9)
    while len(samples) < fewest or (len(samples) < most and clock() < end):
        start = clock()
        run()
        samples.append(clock() - start)
    return samples


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


# --- the profile ---


class Node(NamedTuple):
    """A node of a model file, as far as convolutions need it."""

    name: str
    op_type: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, list[int]]


class Graph(NamedTuple):
    """The main graph of a model file: its nodes in order, the shapes of its initializers."""

    nodes: list[Node]
    shapes: dict[str, list[int]]


def read_kernels(
    events: Sequence[Mapping[str, Any]], graph: Graph | None, batch: int, warm_up_runs: int
) -> list[dict[str, Any]]:
    """One row per node from the events of onnxruntime's profile, in the order of execution.

    On a GPU the host's events only tell how long the launch took: where the profile holds the
    device's own events of a node, these count.

    Args:
        events: The profile.
        graph: The graph that ran, or the model; None where neither could be read.
        batch: Images per run.
        warm_up_runs: Runs to leave out.

    Returns:
        Rows as described in `Answer.kernels`. ``multiplications`` are of one image and count what
        the kernel did; in blocked layouts (``padded``) channels are rounded up.
    """
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    start = starts[warm_up_runs] if len(starts) > warm_up_runs else 0
    suffix = "_kernel_time"
    rows: dict[str, dict[str, Any]] = {}
    shapes: dict[str, tuple[list[list[int]], list[list[int]]]] = {}
    device_times: dict[str, int] = {}
    parent = ""
    for event in events:
        name, details = str(event.get("name", "")), event.get("args") or {}
        if event.get("cat") == "Node" and name.endswith(suffix):
            parent = name[: -len(suffix)]
            if event["ts"] < start:
                continue
            op_type = str(details.get("op_name", ""))
            row = rows.setdefault(
                parent,
                {
                    "name": parent,
                    "op_type": op_type,
                    "provider": str(details.get("provider", "")),
                    "microseconds": 0,
                    "runs": 0,
                    "kind": op_type,
                    "multiplications": 0,
                },
            )
            row["microseconds"] += int(event["dur"])
            row["runs"] += 1
            shapes[parent] = (
                _shapes(details.get("input_type_shape")),
                _shapes(details.get("output_type_shape")),
            )
        elif event.get("cat") == "Kernel" and event["ts"] >= start:
            owner = str(details.get("parent_name") or parent)
            owner = owner[: -len(suffix)] if owner.endswith(suffix) else owner
            device_times[owner] = device_times.get(owner, 0) + int(event["dur"])
    for name, row in rows.items():
        row["microseconds"] = device_times.get(name, row["microseconds"])
    nodes = _match(list(rows.values()), graph)
    for (name, row), node in zip(rows.items(), nodes):  # noqa: B905  # Python 3.9
        if "_" in row["op_type"] and name.startswith(row["provider"]):
            row["kind"] = "compiled"  # a part of the graph that the provider translated as a whole
            continue
        kind, total = _work(row["op_type"], node, graph, *shapes[name])
        row["kind"], row["multiplications"] = kind, total // max(batch, 1)
        if total and (
            name.endswith("_nchwc") or (node is not None and node.domain.endswith(".nchwc"))
        ):
            row["padded"] = True
    return list(rows.values())


def _shapes(typed: Any) -> list[list[int]]:
    return [next(iter(entry.values()), []) for entry in typed or []]


def _match(rows: Sequence[Mapping[str, Any]], graph: Graph | None) -> list[Node | None]:
    """The node of the graph behind every row of the profile."""
    if graph is None:
        return [None] * len(rows)
    # The written graph has its nodes in the order of execution, the nameless ones too.
    if [row["op_type"] for row in rows] == [node.op_type for node in graph.nodes]:
        return list(graph.nodes)
    by_name = {node.name: node for node in graph.nodes if node.name}
    return [by_name.get(row["name"]) for row in rows]


def _work(
    op_type: str,
    node: Node | None,
    graph: Graph | None,
    inputs: list[list[int]],
    outputs: list[list[int]],
) -> tuple[str, int]:
    """Kind of a kernel, and its multiplications for the whole batch (0 if it is not known)."""
    if not inputs or not outputs:
        return op_type, 0
    if op_type in _GEMMS and outputs[0] and outputs[0][0]:
        return op_type, math.prod(outputs[0]) * math.prod(inputs[0]) // outputs[0][0]
    if op_type in _MATRIX_PRODUCTS and inputs[0]:
        return op_type, math.prod(outputs[0]) * inputs[0][-1]
    if op_type not in _CONVOLUTIONS and op_type != "ConvTranspose":
        return op_type, 0
    position = _CONVOLUTIONS.get(op_type, 1)
    weight = _weight_shape(node, graph, position) if node and node.op_type == op_type else None
    if weight is None and op_type != "QLinearConv" and len(inputs) > 1 and len(inputs[1]) > 2:
        weight = inputs[1]  # Packed weights, which quantized kernels always have, are not listed.
    if weight is None or len(weight) < 3 or not weight[0]:
        return op_type, 0
    if op_type == "ConvTranspose":
        return op_type, math.prod(inputs[0]) * math.prod(weight) // weight[0]
    attributes = node.attributes if node else {}
    taps = math.prod(attributes.get("kernel_shape") or weight[2:])
    group = attributes.get("group", [1])[0]
    if node is None and len(inputs[0]) > 1 and weight[1]:
        group = max(inputs[0][1] // weight[1], 1)
    if group > 1:
        kind = "depthwise" if math.prod(weight) == weight[0] * taps else "grouped"
    else:
        kind = "pointwise" if taps == 1 else "standard"
    return kind, math.prod(outputs[0]) * math.prod(weight) // weight[0]


def _weight_shape(node: Node, graph: Graph | None, position: int) -> list[int] | None:
    """The shape of an initializer, be it behind a DequantizeLinear."""
    if graph is None or len(node.inputs) <= position:
        return None
    name = node.inputs[position]
    for _ in range(_MOST_CHAIN):
        if name in graph.shapes:
            return graph.shapes[name]
        producer = next((other for other in graph.nodes if name in other.outputs), None)
        if producer is None or producer.op_type not in ("DequantizeLinear", "Identity", "Cast"):
            return None
        name = producer.inputs[0]
    return None


def read_graph(path: str) -> Graph | None:
    """Nodes and initializer shapes of an ONNX file, read without the onnx package.

    Only a few fields of the protobuf messages are looked at (numbers from onnx.proto); weights are
    skipped. None where there is no file or it is damaged: the profile then has to do without.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            nodes, shapes = [], {}
            for number, _, start, end in _fields(data, 0, len(data)):
                if number != 7:  # ModelProto.graph
                    continue
                for part, _, first, last in _fields(data, start, end):
                    if part == 1:
                        nodes.append(_read_node(data, first, last))
                    elif part == 5:
                        name, shape = _read_tensor(data, first, last)
                        shapes[name] = shape
            return Graph(nodes, shapes)
    except (OSError, ValueError, IndexError):
        return None


def _read_node(data: mmap.mmap, start: int, end: int) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes: dict[str, list[int]] = {}
    for number, _, first, last in _fields(data, start, end):
        if number in texts:
            texts[number].append(data[first:last].decode())
        elif number == 5:
            name, integers = "", []
            for part, value, begin, stop in _fields(data, first, last):
                if part == 1:
                    name = data[begin:stop].decode()
                elif part in (3, 8):
                    integers += _integers(data, value, begin, stop)
            attributes[name] = integers
    names, kinds, domains = (texts[number] or [""] for number in (3, 4, 7))
    return Node(names[-1], kinds[-1], domains[-1], texts[1], texts[2], attributes)


def _read_tensor(data: mmap.mmap, start: int, end: int) -> tuple[str, list[int]]:
    name, shape = "", []
    for number, value, first, last in _fields(data, start, end):
        if number == 1:
            shape += _integers(data, value, first, last)
        elif number == 8:
            name = data[first:last].decode()
    return name, shape


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, integer value, and extent of the content of every field of a protobuf message."""
    while start < end:
        key, start = _varint(data, start)
        value, size = 0, 0
        kind = key & 7
        if kind == 0:
            value, start = _varint(data, start)
        elif kind == 1:
            size = 8
        elif kind == 2:
            size, start = _varint(data, start)
        elif kind == 5:
            size = 4
        else:
            raise ValueError("no protobuf message")
        if start + size > end:
            raise ValueError("the protobuf message is cut off")
        yield key >> 3, value, start, start + size
        start += size


def _integers(data: mmap.mmap, value: int, start: int, end: int) -> list[int]:
    """A repeated integer field: one value, or many packed."""
    if start == end:
        return [value]
    values = []
    while start < end:
        value, start = _varint(data, start)
        values.append(value)
    return values


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = 0
    for position in range(_VARINT_BYTES):
        byte = data[start + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, start + position + 1
    raise ValueError("no protobuf integer")


# --- energy ---


class EnergyMeter:
    """No counter at all; what is there reads one.

    Attributes:
        source: Where the joules come from, else why there are none.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def read(self) -> list[float]:
        """The counters now, in joules."""
        return []

    def joules(self, before: Sequence[float], after: Sequence[float]) -> float | None:
        """The energy between two readings."""
        return None


class RaplMeter(EnergyMeter):
    """The package counters of Linux' powercap, which run over every few minutes to hours."""

    def __init__(self, zones: Sequence[str]) -> None:
        super().__init__("rapl:" + "+".join(_text(os.path.join(zone, "name")) for zone in zones))
        self._counters = [os.path.join(zone, "energy_uj") for zone in zones]
        self._ranges = [
            float(_text(os.path.join(zone, "max_energy_range_uj")) or 0) / 1e6 for zone in zones
        ]

    def read(self) -> list[float]:
        """Joules of every package."""
        return [float(_text(path) or "nan") / 1e6 for path in self._counters]

    def joules(self, before: Sequence[float], after: Sequence[float]) -> float | None:
        """Of all packages together."""
        total = 0.0
        for start, end, span in zip(before, after, self._ranges):  # noqa: B905  # Python 3.9
            total += end - start + (span if end < start else 0.0)
        return total if math.isfinite(total) and total >= 0 else None


class NvmlMeter(EnergyMeter):
    """The counter of an NVIDIA GPU."""

    def __init__(self, library: Any, device: ctypes.c_void_p) -> None:
        super().__init__("nvml")
        self._library, self._device = library, device

    def read(self) -> list[float]:
        """Joules of the whole board."""
        millijoules = ctypes.c_ulonglong()
        function = self._library.nvmlDeviceGetTotalEnergyConsumption
        failed = function(self._device, ctypes.byref(millijoules))
        return [] if failed else [millijoules.value / 1e3]

    def joules(self, before: Sequence[float], after: Sequence[float]) -> float | None:
        """The difference."""
        return after[0] - before[0] if before and after else None


def _energy_meter(job: Mapping[str, Any]) -> EnergyMeter:
    if not job["energy"]:
        return EnergyMeter("not asked for")
    if _DEVICES.get(job["provider"]) != "cuda":
        return rapl_meter("/sys/class/powercap")
    wanted = str(job["provider_options"].get("device_id", "0"))
    found = _nvml_device(int(wanted) if wanted.isdigit() else 0)
    if found is None:
        return EnergyMeter("NVML is not here")
    meter = NvmlMeter(*found)
    return meter if meter.read() else EnergyMeter("this GPU has no energy counter")


def rapl_meter(root: str) -> EnergyMeter:
    """The meter of the packages below ``root``, or why there is none."""
    # The zones inside a package, and the whole platform, would count twice.
    zones = [
        path
        for path in sorted(glob.glob(os.path.join(root, "*-rapl:*")))
        if os.path.basename(path).count(":") == 1 and _text(path + "/name").startswith("package")
    ]
    if not zones:
        return EnergyMeter("this machine shows no RAPL counters")
    if not all(_text(os.path.join(zone, "energy_uj")).isdigit() for zone in zones):
        return EnergyMeter("the RAPL counters are not readable for this user")
    return RaplMeter(zones)


def _nvml_device(index: int) -> tuple[Any, ctypes.c_void_p] | None:
    """NVML and its handle of the GPU that CUDA counts as ``index``."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2():
            return None
        device = ctypes.c_void_p()
        visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
        name = visible[index] if index < len(visible) and visible[0] else str(index)
        if name.isdigit():
            failed = library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(device))
        else:
            failed = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(device))
    except (OSError, AttributeError):
        return None
    return None if failed else (library, device)


# --- the machine ---


def environment(onnxruntime: Any) -> dict[str, Any]:
    """Machine, interpreter and onnxruntime; what cannot be read is empty, 0 or None."""
    import numpy

    build = onnxruntime.get_build_info() if hasattr(onnxruntime, "get_build_info") else ""
    logical = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    plugins = onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else []
    built_in = onnxruntime.get_available_providers()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "onnxruntime_version": onnxruntime.__version__,
        "onnxruntime_build": build,
        "available_providers": sorted({*built_in, *(device.ep_name for device in plugins)}),
        **_cpu("/proc/cpuinfo"),
        "logical_cores": logical,
        "physical_cores": _physical_cores(),
        "usable_cores": usable,
        "cpu_limit": _cpu_limit("/sys/fs/cgroup"),
        **_frequency("/sys/devices/system/cpu"),
        "memory_bytes": 1024 * _kilobytes("/proc/meminfo", "MemTotal"),
        "load": _load(),
        "gpu": _gpu(),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
    }


def _cpu(path: str) -> dict[str, Any]:
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    part = " ".join(filter(None, (fields.get("cpu implementer"), fields.get("cpu part"))))
    device = _text("/proc/device-tree/model").strip("\0")
    model = fields.get("model name") or fields.get("hardware") or device or platform.processor()
    flags = (fields.get("flags") or fields.get("features") or "").split()
    return {
        "cpu": f"{model} ({part})" if part else model,
        "cpu_flags": [flag for flag in flags if _CPU_FLAGS.fullmatch(flag)],
    }


def _physical_cores() -> int:
    pattern = "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list"
    return len({_text(path) for path in glob.glob(pattern)})


def _cpu_limit(root: str) -> float | None:
    """Cores that the control group may use; None without a limit."""
    quota, _, period = _text(os.path.join(root, "cpu.max")).partition(" ")
    if not quota:
        quota = _text(os.path.join(root, "cpu", "cpu.cfs_quota_us"))
        period = _text(os.path.join(root, "cpu", "cpu.cfs_period_us"))
    return int(quota) / int(period) if quota.isdigit() and int(period or 0) else None


def _frequency(root: str) -> dict[str, Any]:
    policy = os.path.join(root, "cpu0", "cpufreq")
    low, high = (_text(os.path.join(policy, f"cpuinfo_{end}_freq")) for end in ("min", "max"))
    no_turbo = _text(os.path.join(root, "intel_pstate", "no_turbo"))
    boost = _text(os.path.join(root, "cpufreq", "boost"))
    turbo = no_turbo == "0" if no_turbo else boost == "1" if boost else None
    return {
        "governor": _text(os.path.join(policy, "scaling_governor")),
        "megahertz": [int(end) // 1000 for end in (low, high) if end.isdigit()],
        "turbo": turbo,
    }


def _gpu() -> dict[str, str] | None:
    found = _nvml_device(0)
    if found is None:
        return None
    library, device = found
    name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    library.nvmlDeviceGetName(device, name, len(name))
    library.nvmlSystemGetDriverVersion(driver, len(driver))
    return {"name": name.value.decode(), "driver": driver.value.decode()}


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _peak_rss_bytes() -> int:
    """Of this program; the kernel's ru_maxrss would start from what the parent had."""
    peak = 1024 * _kilobytes("/proc/self/status", "VmHWM")
    if peak:
        return peak
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kilobytes(path: str, key: str) -> int:
    for line in _text(path).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def _text(path: str) -> str:
    """Content of a small file, empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


# --- words ---


def _reason(error: BaseException, folder: str) -> str:
    line = _line(error).replace(folder + os.sep, "")
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return f"out of memory: {line}"
    return line


def _line(error: BaseException) -> str:
    """One clause of a library's message, without its prefix and its own source positions."""
    text = str(error).strip()
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = re.sub(r"\S+\.(?:cc|cpp|cu|h):\d+ [^()\n]*\([^()\n]*\)(?: const)? ?", "", text)
    lines = text.strip().splitlines()
    return lines[0].strip()[:_LONGEST_REASON] if lines else type(error).__name__


def _stderr_size() -> int:
    try:
        return os.fstat(2).st_size
    except OSError:
        return 0


def _provider_log(start: int) -> str:
    """Why a provider was dropped: onnxruntime tells only its log, which is our stderr.

    Readable where the parent has sent it to a file; elsewhere empty.
    """
    try:
        with open("/proc/self/fd/2", "rb") as file:
            file.seek(start)
            said = file.read(_MOST_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    clauses = [
        re.sub(r"^.*?\] ?", "", line).strip()
        for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
        if "ExecutionProvider" in line or _PROVIDER_MISSING.search(line)
    ]
    concrete = [clause for clause in clauses if "with error:" in clause]
    return (concrete or clauses or [""])[0].rpartition("with error: ")[2][:_LONGEST_REASON]


if __name__ == "__main__":
    _code = main(sys.argv[1:])
    sys.stderr.flush()
    # The answer is written: a provider that crashes while it is taken down must not spoil it.
    os._exit(_code)
