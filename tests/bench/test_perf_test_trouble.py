"""Why onnxruntime_perf_test ended without a report, from what it and the device said."""

from __future__ import annotations

import dataclasses

import pytest

from onnxsep.bench.adb import Reply
from onnxsep.bench.perf_test import explain

WHERE = (
    "/src/onnxruntime/test/perftest/ort_test_session.cc:508 onnxruntime::perftest::"
    "OnnxRuntimeTestSession::OnnxRuntimeTestSession(Ort::Env&, const TestModelInfo&) "
)


@dataclasses.dataclass(frozen=True)
class Death:
    id: str
    reply: Reply
    status: str
    words: str


DEATHS = [
    Death(
        "XNNPACK not built",
        Reply(255, "", f"{WHERE}Xnnpack is not supported in this build\n\n"),
        "unavailable",
        "was built without Xnnpack; build it with --use_xnnpack, see docs/android.md",
    ),
    Death(
        "NNAPI not built, on an old device",
        Reply(255, f"{WHERE}NNAPI is not supported in this build\n", ""),
        "unavailable",
        "--use_nnapi",
    ),
    Death(
        "options stripped",
        Reply(1, "", "ERROR: Unknown command line flag 'm'. Did you mean: h ?\n"),
        "failed",
        "knows no option -m; between 1.22 and 1.23",
    ),
    Death(
        "usage of an old one",
        Reply(255, "perf_test [options...] model_path [result_file]\nOptions:\n", ""),
        "failed",
        "does not know one of its options",
    ),
    Death(
        "usage of a new one",
        Reply(255, "", "See 'onnxruntime_perf_test --help'."),
        "failed",
        "does not know one of its options",
    ),
    Death(
        "library missing",
        Reply(
            1,
            "",
            'CANNOT LINK EXECUTABLE "/data/local/tmp/onnxsep/run-1/bin/onnxruntime_perf_test": '
            'library "libonnxruntime.so" not found: needed by main executable\n',
        ),
        "failed",
        "needs libonnxruntime.so; put it beside the executable",
    ),
    Death(
        "library of another build",
        Reply(
            1,
            "",
            'CANNOT LINK EXECUTABLE "onnxruntime_perf_test": cannot locate symbol "OrtGetApiBase" '
            "referenced by\n",
        ),
        "failed",
        "it lacks OrtGetApiBase",
    ),
    Death(
        "another processor",
        Reply(
            126, "", "/system/bin/sh: ./onnxruntime_perf_test: not executable: 64-bit ELF file\n"
        ),
        "failed",
        "is not built for this device",
    ),
    Death("SIGSEGV", Reply(139, "Segmentation fault \n", ""), "failed", "died of SIGSEGV"),
    Death("killed", Reply(137, "Killed \n", ""), "failed", "out of memory: the device's system"),
    Death(
        "bad_alloc",
        Reply(134, "", "terminating with uncaught exception of type std::bad_alloc\nAborted\n"),
        "failed",
        "out of memory on the device",
    ),
    Death(
        "model",
        Reply(255, "", "Load model from /data/m.onnx failed:Protobuf parsing failed.\n"),
        "failed",
        "Load model from /data/m.onnx failed:Protobuf parsing failed.",
    ),
    Death(
        "run",
        Reply(
            255, "Setting intra_op_num_threads to 1\nRun failed:failed to initialize.\nbye\n", ""
        ),
        "failed",
        "Run failed:failed to initialize.",
    ),
    Death("control characters", Reply(1, "", "\x1b[31mboo\n"), "failed", "�[31mboo"),
    Death("silence", Reply(1, "", ""), "failed", "nothing"),
]


@pytest.mark.parametrize("case", DEATHS, ids=lambda case: case.id)
def test_why_there_is_no_report(case: Death) -> None:
    trouble = explain(case.reply)
    assert trouble.status == case.status
    assert case.words in trouble.reason
    assert ".cc:" not in trouble.reason
