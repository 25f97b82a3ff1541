"""onnxruntime_perf_test: its command line, and the words of its versions."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxsep.bench.job import Job
from onnxsep.bench.perf_test import (
    arguments,
    input_files,
    parse_report,
    runner_version,
    split_warm_up,
)
from onnxsep.errors import InputError

CPU, XNNPACK, NNAPI = (f"{name}ExecutionProvider" for name in ("CPU", "Xnnpack", "Nnapi"))
ROWS = "cell-0,0.0042,28000256,12,0\ncell-0,0.0040,28000256,12,1\ncell-0,0.0038,28000256,12,2\n"
OLD_STATISTICS = "\nMin Latency is 0.0038sec\nP50 Latency is 0.004sec\nP999 Latency is 0.0042sec\n"
STATISTICS = "\nMin Latency: 0.0038 s\nMax Latency: 0.0042 s\nP99 Latency: 4.2e-03 s\n"


@dataclasses.dataclass(frozen=True)
class Version:
    id: str
    output: str
    results: str
    session: float = 0.0
    first: float = 0.0
    peak: int = 28000256


VERSIONS = [
    Version(
        "2019",
        "Total time cost:0.012\nTotal iterations:3\nAverage time cost:4 ms\n",
        ROWS + OLD_STATISTICS,
    ),
    Version(
        "2019, whole time too",
        "Total time cost:0.012\nTotal iterations:3\nAverage time cost:4 ms\n"
        "Total run time:0.013 s\n",
        ROWS + OLD_STATISTICS.replace("sec", " sec"),
    ),
    Version(
        "2021",
        "Setting intra_op_num_threads to 1\nSession creation time cost: 0.0125 s\n"
        "Total inference time cost: 0.012 s\nTotal inference requests: 3\n"
        "Average inference time cost: 4 ms\nTotal inference run time: 0.0121 s\n"
        "Avg CPU usage: 12 %\nPeak working set size: 30000128 bytes\n",
        ROWS,
        session=0.0125,
        peak=30000128,
    ),
    Version(
        "2024",
        "Session creation time cost: 0.0125 s\nFirst inference time cost: 20 ms\n"
        "Total inference time cost: 0.012 s\nTotal inference requests: 3\n"
        "Average inference time cost: 4 ms\nTotal inference run time: 0.0121 s\n"
        "Number of inferences per second: 247.93 \nAvg CPU usage: 12 %\n"
        "Peak working set size: 30000128 bytes\n",
        ROWS + STATISTICS,
        session=0.0125,
        first=0.02,
        peak=30000128,
    ),
    Version(
        "2026",
        "Setting intra_op_num_threads to 1\nDisabling intra-op thread spinning between runs\n"
        "Session creation time cost: 1.25e-02 s\nFirst inference time cost: 0 ms\n"
        "Total inference time cost: 0.012 s\nTotal inference requests: 3\n"
        "Average inference time cost total: 4.000000 ms\n"
        "Total inference run time: 0.0121 s\nNumber of inferences per second: 247.93 \n"
        "Avg CPU usage: 12 %\nPeak working set size: 30000128 bytes\nAvg CPU usage:12\n",
        ROWS + STATISTICS,
        session=0.0125,
        peak=30000128,
    ),
]


@pytest.mark.parametrize("case", VERSIONS, ids=lambda case: case.id)
def test_every_version_is_understood(case: Version) -> None:
    report = parse_report(case.output, case.results)
    assert report.samples_ms == pytest.approx((4.2, 4.0, 3.8))
    assert report.session_seconds == case.session
    assert report.first_run_seconds == case.first
    assert report.peak_rss_bytes == case.peak


def test_folder_with_commas_does_no_harm() -> None:
    report = parse_report(VERSIONS[0].output, ROWS.replace("cell-0", "a,0.5,b"))
    assert report.samples_ms == pytest.approx((4.2, 4.0, 3.8))


@dataclasses.dataclass(frozen=True)
class Foreign:
    id: str
    output: str
    results: str
    words: str


OUTPUT = VERSIONS[3].output
FOREIGN = [
    Foreign("silence", "", ROWS, "reports in a way that onnxsep does not know; it said: nothing"),
    Foreign("other words", "Mean: 4 ms over 3 runs\n", ROWS, "it said: Mean: 4 ms over 3 runs"),
    Foreign("other unit", OUTPUT.replace("cost: 4 ms", "cost: 4000 us"), ROWS, "does not know"),
    Foreign("file empty", OUTPUT, "", "tells of 3 runs, its result file of 0"),
    Foreign("a run lost", OUTPUT, ROWS.rsplit("cell", 1)[0], "tells of 3 runs, its result file"),
    Foreign("appended", OUTPUT, ROWS + ROWS, "writes a result file that onnxsep does not know"),
    Foreign("other columns", OUTPUT, "model,time\nm,4.2\n", "result file that onnxsep does not"),
    Foreign("nanoseconds", OUTPUT, re.sub(r"0\.00(\d+)", r"\g<1>000", ROWS), "its result file of"),
    Foreign(
        "another run",
        OUTPUT.replace("0.012 s", "0.024 s").replace("cost: 4 ms", "cost: 8 ms"),
        ROWS,
        "tells of 0.024 s in all, its result file of 0.012 s",
    ),
    Foreign("no number", OUTPUT.replace("0.0125 s", "1.2.5 s"), ROWS, "printed no number"),
    Foreign("infinite", OUTPUT.replace("0.0125 s", "1e999 s"), ROWS, "printed no number"),
    Foreign(
        "nothing timed",
        OUTPUT.replace("requests: 3", "requests: 0"),
        "",
        "onnxruntime_perf_test timed no run",
    ),
]


@pytest.mark.parametrize("case", FOREIGN, ids=lambda case: case.id)
def test_anything_else_is_an_error(case: Foreign) -> None:
    with pytest.raises(InputError) as caught:
        parse_report(case.output, case.results)
    assert case.words in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Line:
    id: str
    job: Job
    words: str


JOB = Job("time", model="m.onnx", inputs="i.npz")
LINES = [
    Line("plain", JOB, "-e cpu -m duration -t 2 -x 1 -y 1 -o 99"),
    Line(
        "threads",
        dataclasses.replace(JOB, intra_threads=4, parallel=True, inter_threads=2),
        "-e cpu -m duration -t 2 -x 4 -y 2 -P -o 99",
    ),
    Line(
        "cores stand for threads",
        dataclasses.replace(JOB, intra_threads=0, affinity=(4, 5, 6)),
        "-e cpu -m duration -t 2 -x 3 -y 1 -o 99",
    ),
    Line(
        "level",
        dataclasses.replace(JOB, optimization="layout"),
        "-e cpu -m duration -t 2 -x 1 -y 1 -o 3",
    ),
    Line(
        "XNNPACK's pool, spinning off by itself",
        dataclasses.replace(
            JOB,
            provider=XNNPACK,
            provider_options={"intra_op_num_threads": "4"},
            session_config={"session.intra_op.allow_spinning": "0"},
        ),
        "-e xnnpack -m duration -t 2 -x 4 -y 1 -o 99",
    ),
    Line(
        "NNAPI's switches",
        dataclasses.replace(
            JOB,
            provider=NNAPI,
            provider_options={"NNAPI_FLAG_USE_FP16": "1", "NNAPI_FLAG_CPU_ONLY": "0"},
        ),
        "-e nnapi -m duration -t 2 -x 1 -y 1 -o 99 -i NNAPI_FLAG_USE_FP16",
    ),
    Line(
        "session options",
        dataclasses.replace(JOB, session_config={"a.b": "0", "c.d": "$(x);'\""}),
        "-e cpu -m duration -t 2 -x 1 -y 1 -o 99 -C a.b|0 c.d|$(x);'\"",
    ),
    Line(
        "dimensions",
        dataclasses.replace(JOB, free_dimensions={"N": 2, "height;": 32}),
        "-e cpu -m duration -t 2 -x 1 -y 1 -o 99 -f N:2 -f height;:32",
    ),
]


@pytest.mark.parametrize("case", LINES, ids=lambda case: case.id)
def test_job_becomes_a_command_line(case: Line) -> None:
    assert " ".join(arguments(case.job, seconds=1.4)) == case.words


def test_values_stay_single_words() -> None:
    words = arguments(
        dataclasses.replace(JOB, session_config={"a": "1", "b": "2"}), runs=7, profile="/p q/x"
    )
    assert words[words.index("-C") + 1] == "a|1 b|2"
    assert words[words.index("-p") + 1] == "/p q/x"
    assert words[words.index("-m") : words.index("-m") + 4] == ["-m", "times", "-r", "7"]


@dataclasses.dataclass(frozen=True)
class Impossible:
    id: str
    changes: dict[str, object]
    words: str


IMPOSSIBLE = [
    Impossible("space", {"session_config": {"a": "1 2"}}, "cannot be told '1 2'"),
    Impossible("bar", {"session_config": {"a|b": "1"}}, "cannot be told 'a|b'"),
    Impossible("newline", {"session_config": {"a": "1\n-x"}}, "cannot be told '1 -x'"),
    Impossible("no name", {"session_config": {"": "1"}}, "cannot be told ''"),
    Impossible("colon", {"free_dimensions": {"a:b": 1}}, "cannot be told the dimension 'a:b'"),
    Impossible("CUDA", {"provider": "CUDAExecutionProvider"}, "is not run with CUDA"),
    Impossible("plugin", {"libraries": {"a": "b.so"}}, "use Termux over ssh"),
    Impossible("binding", {"io_binding": True}, "set io_binding: false"),
    Impossible(
        "XNNPACK option", {"provider": XNNPACK, "provider_options": {"x": "1"}}, "no option but"
    ),
    Impossible(
        "NNAPI switch", {"provider": NNAPI, "provider_options": {"F": "yes"}}, "is a switch, 0 or 1"
    ),
]


@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: case.id)
def test_what_cannot_be_told_is_refused(case: Impossible) -> None:
    with pytest.raises(InputError) as caught:
        arguments(dataclasses.replace(JOB, **case.changes), seconds=1.0)  # type: ignore[arg-type]
    assert case.words in str(caught.value)


def test_warm_up_is_taken_off_the_record() -> None:
    # 0.1 s per window; the first two differ by 100 %, the next two by nothing.
    samples = [20.0] * 5 + [10.0] * 100
    count, stable, kept = split_warm_up(samples, dataclasses.replace(JOB, seconds=0.2))
    assert stable
    assert count == 5 + 10 + 10
    assert set(kept) == {10.0}
    assert len(kept) == 20


def test_warm_up_of_a_model_that_never_settles() -> None:
    samples = [10.0 * 1.05**index for index in range(80)]
    job = dataclasses.replace(JOB, warm_up_seconds=0.5, seconds=0.2)
    count, stable, kept = split_warm_up(samples, job)
    assert not stable
    assert math.fsum(samples[:count]) >= 500.0 > math.fsum(samples[: count - 1])
    assert kept == tuple(samples[count : count + len(kept)])


def test_limits_of_the_measurement() -> None:
    job = dataclasses.replace(JOB, warm_up_seconds=0.0, seconds=0.05)
    assert len(split_warm_up([10.0] * 50, job)[2]) == 5
    assert len(split_warm_up([10.0] * 50, dataclasses.replace(job, fewest_runs=12))[2]) == 12
    assert len(split_warm_up([10.0] * 50, dataclasses.replace(job, seconds=9, most_runs=7))[2]) == 7


@pytest.mark.parametrize("count", [1, 3])
def test_too_short_a_record_leaves_nothing(count: int) -> None:
    runs, stable, kept = split_warm_up([400.0] * count, JOB)
    assert (runs, stable, kept) == (count, False, ())


def test_inputs_become_tensors_of_protobuf() -> None:
    arrays = {
        "x y;'": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "h": np.ones((1, 2), np.float16),
        "n": np.array(7, np.int64),
    }
    files = input_files(arrays)
    assert list(files) == ["input_0.pb", "input_1.pb", "input_2.pb"]
    for content, (name, array) in zip(files.values(), arrays.items(), strict=True):
        tensor = onnx.TensorProto.FromString(content)
        assert tensor.name == name
        found = numpy_helper.to_array(tensor)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_inputs_that_cannot_go() -> None:
    with pytest.raises(InputError, match="the input 'words' cannot be given"):
        input_files({"words": np.array(["a"])})


def test_version_out_of_the_library(tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime.so"
    library.write_bytes(b"\x7fELF junk VERS_1.x\0VERS_1.22.0\0OrtGetApiBase\0")
    assert runner_version([library]) == "1.22.0"
    library.write_bytes(b"\x7fELF")
    assert runner_version([library]) == ""
