"""Executables in the place of onnxruntime_perf_test.

`install` gives one that runs models for real, with Python's onnxruntime, so that result file and
profile are onnxruntime's; `install_recorded` one that only repeats a report, which is much faster.
Both note their words in a file beside them, and have the providers that they are told.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

# Of 200 runs of 5 ms each.
RECORDED_RUNS = 200
_ROWS = "".join(f"cell-0,0.005,28000256,12,{index}\n" for index in range(RECORDED_RUNS))
RECORDED_REPORT = (
    "Setting intra_op_num_threads to 1\nSession creation time cost: 0.0125 s\n"
    "First inference time cost: 20 ms\nTotal inference time cost: 1 s\n"
    "Total inference requests: 200\nAverage inference time cost total: 5.000000 ms\n"
    "Total inference run time: 1.001 s\nNumber of inferences per second: 199.8 \n"
    "Avg CPU usage: 12 %\nPeak working set size: 30000128 bytes\n"
)
# As the real one says it, with the position in its sources.
_NOT_BUILT = (
    "/build/onnxruntime/test/perftest/ort_test_session.cc:508 "
    "onnxruntime::perftest::OnnxRuntimeTestSession::OnnxRuntimeTestSession(Ort::Env&, "
    "std::random_device&, const PerformanceTestConfig&, const TestModelInfo&) {} is not supported "
    "in this build"
)
_NAMES = {"xnnpack": "Xnnpack", "nnapi": "NNAPI"}
_WORD_END, _CALL_END = "\x1f", "\x1e"
_RAW = 9  # TensorProto.raw_data


def install_recorded(
    folder: Path, report: str = RECORDED_REPORT, rows: str = _ROWS, pretend: tuple[str, ...] = ()
) -> str:
    """Make an executable in ``folder`` that says ``report`` and writes ``rows`` as result file.

    Returns:
        Its path.
    """
    program = folder / "onnxruntime_perf_test"
    (folder / "rows.csv").write_text(rows, "utf-8")
    lacking = "\n".join(
        f'*" -e {word} "*) echo {shlex.quote(_NOT_BUILT.format(name))} >&2; exit 255;;'
        for word, name in _NAMES.items()
        if word not in pretend
    )
    program.write_text(
        f"""#!/bin/sh
printf '%s\\037' "$@" >> {shlex.quote(str(folder / "asked"))}
printf '\\036' >> {shlex.quote(str(folder / "asked"))}
case " $* " in {lacking}
esac
for last; do :; done
case "$last" in
*.csv) cat {shlex.quote(str(folder / "rows.csv"))} >> "$last";;
esac
printf %s {shlex.quote(report)}
""",
        "utf-8",
    )
    program.chmod(0o755)
    return str(program)


def install(folder: Path, pretend: tuple[str, ...] = ()) -> str:
    """Make an executable in ``folder`` that runs models.

    Args:
        folder: An existing folder.
        pretend: Providers that it claims to have; what runs is the CPU's.

    Returns:
        Its path.
    """
    program = folder / "onnxruntime_perf_test"
    program.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import perf_test_stand_in\n"
        f"log = {str(folder / 'asked')!r}\n"
        f"sys.exit(perf_test_stand_in.main(sys.argv[1:], {pretend!r}, log))\n",
        "utf-8",
    )
    program.chmod(0o755)
    return str(program)


def asked(folder: Path) -> list[list[str]]:
    """The words of every call of the executable in ``folder``."""
    path = folder / "asked"
    text = path.read_text("utf-8") if path.exists() else ""
    return [call.split(_WORD_END)[:-1] for call in text.split(_CALL_END)[:-1]]


def main(words: list[str], pretend: tuple[str, ...], log: str) -> int:
    """Be onnxruntime_perf_test."""
    with Path(log).open("a", encoding="utf-8") as file:
        file.write("".join(f"{word}{_WORD_END}" for word in words) + _CALL_END)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in "emiCpuf":
        parser.add_argument(f"-{name}", default="")
    for name in "rtxyo":
        parser.add_argument(f"-{name}", type=int, default=0)
    parser.add_argument("-I", action="store_true")
    parser.add_argument("model")
    parser.add_argument("results", nargs="?", default="")
    told = parser.parse_args(words)
    if told.e != "cpu" and told.e not in pretend:
        print(_NOT_BUILT.format(_NAMES[told.e]), file=sys.stderr)
        return 255
    return _run(told)


def _run(told: argparse.Namespace) -> int:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = told.x
    if told.p:
        options.enable_profiling = True
        options.profile_file_prefix = told.p
    if told.u:
        options.optimized_model_filepath = told.u
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(told.model, options, providers=["CPUExecutionProvider"])
    created = time.perf_counter() - start
    if told.I:
        import numpy as np

        feeds = {
            value.name: np.zeros(
                [size if isinstance(size, int) else 1 for size in value.shape], "f4"
            )
            for value in session.get_inputs()
        }
    else:
        # Every folder beside the model is one set of inputs.
        folders = [entry for entry in Path(told.model).parent.iterdir() if entry.is_dir()]
        if len(folders) != 1:
            print(f"there is no test data for model {Path(told.model).parent.name}")
            return 255
        files = sorted(folders[0].glob("input_*.pb"))
        feeds = dict(_read_tensor(path.read_bytes()) for path in files)
    first, *timed = [_time(session, feeds)]
    while len(timed) < told.r if told.r else sum(timed) < told.t:
        timed.append(_time(session, feeds))
    if told.p:
        session.end_profiling()
    total = sum(timed)
    print(
        f"Session creation time cost: {created:.6g} s\n"
        f"First inference time cost: {int(1e3 * first)} ms\n"
        f"Total inference time cost: {total:.6g} s\nTotal inference requests: {len(timed)}\n"
        f"Average inference time cost total: {1e3 * total / len(timed):.6f} ms\n"
        f"Total inference run time: {1.01 * total:.6g} s\n"
        f"Number of inferences per second: {len(timed) / total:.6g} \nAvg CPU usage: 12 %\n"
        "Peak working set size: 28000000 bytes"
    )
    if told.results:
        name = Path(told.model).parent.name
        with Path(told.results).open("a", encoding="utf-8") as file:
            for index, sample in enumerate(timed):
                file.write(f"{name},{sample:.6g},28000000,12,{index}\n")
    return 0


def _time(session: Any, feeds: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start


def _read_tensor(data: bytes) -> tuple[str, Any]:
    """Name and array of a TensorProto of floats; the onnx package would take longer to import."""
    import numpy as np

    dims, name, content, place = [], "", b"", 0
    while place < len(data):
        key, place = _varint(data, place)
        size, place = _varint(data, place)
        if key & 7 == 2:
            value, place = data[place : place + size], place + size
            if key >> 3 == 1:
                dims += list(value)
            name = value.decode() if key >> 3 == 8 else name
            content = value if key >> 3 == _RAW else content
        elif key >> 3 == 1:
            dims.append(size)
    return name, np.frombuffer(content, np.float32).reshape(dims)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
