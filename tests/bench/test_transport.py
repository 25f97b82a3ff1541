"""A worker that misbehaves is an outcome of one cell, never the end of the run."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from onnxsep.bench.job import JOB_FILE, Answer, Job
from onnxsep.bench.transport import Failure, LocalTransport
from onnxsep.errors import OutputError


def interpreter(folder: Path, body: str) -> str:
    """An executable that runs ``body`` in Python in place of the worker; ``folder`` is its job."""
    path = folder / "fake python"
    path.write_text(
        f"#!{sys.executable}\nimport os, pathlib, signal, sys, time\n"
        f"folder = pathlib.Path(sys.argv[2])\n{body}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@dataclasses.dataclass(frozen=True)
class Misbehaviour:
    id: str
    body: str
    kind: str
    words: str


CASES = [
    Misbehaviour("abort", "os.abort()", "crash", "SIGABRT"),
    Misbehaviour(
        "exit code",
        "print('no such lib', file=sys.stderr); sys.exit(3)",
        "crash",
        "code 3 and without an answer; it said: no such lib",
    ),
    Misbehaviour("silent end", "pass", "crash", "code 0 and without an answer"),
    Misbehaviour("killed", "os.kill(os.getpid(), signal.SIGKILL)", "out-of-memory", "memory"),
    Misbehaviour("hang", "time.sleep(60)", "timeout", "within 0.5 s"),
    Misbehaviour(
        "deaf hang",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "timeout",
        "within 0.5 s",
    ),
    Misbehaviour("garbage", "(folder / 'result.json').write_text('{')", "error", "cannot be read"),
    Misbehaviour(
        "no object", "(folder / 'result.json').write_text('[1]')", "error", "cannot be read"
    ),
    Misbehaviour(
        "binary", "(folder / 'result.json').write_bytes(bytes([255, 254]))", "error", "decode"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_misbehaviour_is_a_failure_with_a_reason(case: Misbehaviour, tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path, interpreter(tmp_path, case.body))
    timeout = 0.5 if case.kind == "timeout" else 60.0
    answer = transport.run("job", Job("describe"), timeout)
    assert isinstance(answer, Failure)
    assert answer.kind == case.kind
    assert case.words in answer.reason


def test_interpreter_that_is_not_there(tmp_path: Path) -> None:
    answer = LocalTransport(tmp_path, str(tmp_path / "nowhere")).run("job", Job("describe"), 5.0)
    assert isinstance(answer, Failure)
    assert answer.kind == "unreachable"
    assert "nowhere" in answer.reason


def test_answer_comes_back_and_unknown_keys_do_no_harm(tmp_path: Path) -> None:
    body = (
        "(folder / 'result.json').write_text("
        '\'{"status": "ok", "samples_ms": [1.5, 2.0], "from_the_future": 1}\')'
    )
    answer = LocalTransport(tmp_path, interpreter(tmp_path, body)).run("job", Job("time"), 60.0)
    assert isinstance(answer, Answer)
    assert answer.samples_ms == (1.5, 2.0)


def test_old_answer_is_never_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "result.json").write_text('{"status": "ok"}')
    answer = LocalTransport(tmp_path, interpreter(tmp_path, "pass")).run("job", Job("time"), 60.0)
    assert isinstance(answer, Failure)


def test_job_reaches_the_worker_whole(tmp_path: Path) -> None:
    awkward = "a b;$(touch x)'\"\n"
    body = "(folder / 'result.json').write_text('{\"status\": \"ok\"}')"
    transport = LocalTransport(tmp_path, interpreter(tmp_path, body))
    transport.run("job", Job("time", provider_options={awkward: awkward}), 60.0)
    import json

    told = json.loads((tmp_path / "job" / JOB_FILE).read_text())
    assert told["provider_options"] == {awkward: awkward}
    assert not (tmp_path / "x").exists()


def test_files_are_placed_and_fetched(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    transport = LocalTransport(jobs)
    for _ in range(2):  # again, over what is there
        transport.place("job", {"model.onnx": tmp_path / "source"})
        transport.place("job", {"deep/weights.bin": tmp_path / "source"})
    assert transport.fetch("job", "model.onnx").read_bytes() == b"weights"
    assert transport.fetch("job", "deep/weights.bin").read_bytes() == b"weights"
    with pytest.raises(OutputError, match=r"outputs\.npz"):
        transport.fetch("job", "outputs.npz")


def test_interrupt_leaves_no_worker(tmp_path: Path) -> None:
    body = "(folder / 'pid').write_text(str(os.getpid())); time.sleep(60)"
    transport = LocalTransport(tmp_path, interpreter(tmp_path, body))
    pid_file = tmp_path / "job" / "pid"

    def interrupt() -> None:
        while not pid_file.exists() or not pid_file.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # Started in the background of a shell, the tests would ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            transport.run("job", Job("time"), 60.0)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
