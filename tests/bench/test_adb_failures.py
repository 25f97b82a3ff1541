"""An Android device, or a program on it, that fails is an outcome of one cell."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from onnxsep.bench.job import Job
from onnxsep.bench.transport import Failure
from tests.bench.android_phone import JOB, Phone


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return Phone(tmp_path)


@dataclasses.dataclass(frozen=True)
class Lost:
    id: str
    conversation: str
    words: str


LOST = [
    Lost("none", "no_device", "no Android device is connected"),
    Lost("two", "two_devices", "2 Android devices are connected (R5CT10ABCDE, adb-39121"),
    Lost("unauthorised", "unauthorized", "allow USB debugging on its screen"),
    Lost("offline", "offline", "is offline"),
]


@pytest.mark.parametrize("case", LOST, ids=lambda case: case.id)
def test_device_that_cannot_be_used_is_one_clause(case: Lost, phone: Phone) -> None:
    transport = phone.connect(conversation=case.conversation)
    phone.place(transport)
    for _ in range(2):  # the second cell is not kept waiting for the same
        answer = transport.run("cell-0", JOB, 60.0)
        assert isinstance(answer, Failure)
        assert answer.kind == "unreachable"
        assert case.words in answer.reason
    transport.close()
    assert phone.calls() == ["devices"]


def test_device_that_is_unplugged_during_a_run(phone: Phone) -> None:
    transport = phone.connect({"call": "shell sh -c *", "exit": 255})
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert answer.kind == "unreachable"
    assert "the connection to the device R5CT10ABCDE broke" in answer.reason


def test_device_without_room(phone: Phone) -> None:
    full = {
        "call": "push *model.onnx",
        "stdout": "adb: error: failed to copy 'a' to 'b': remote write failed: No space left on "
        "device\n",
        "exit": 1,
    }
    transport = phone.connect(full)
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert "the device has no room for pulse.onnx" in answer.reason


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ("", "no onnxruntime_perf_test is named; give its path under 'runner'; docs/android.md"),
        ("/nowhere/perf_test", "there is no onnxruntime_perf_test at /nowhere/perf_test; docs/"),
    ],
)
def test_program_that_is_missing(runner: str, words: str, phone: Phone) -> None:
    transport = phone.connect(runner=runner)
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert words in answer.reason


def test_program_for_another_processor(phone: Phone) -> None:
    program = phone.folder / "onnxruntime_perf_test"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + (62).to_bytes(2, "little"))
    answer = phone.connect(runner=str(program)).run("describe", Job("describe"), 60.0)
    assert isinstance(answer, Failure)
    assert answer.reason == (
        "onnxruntime_perf_test is built for x86_64, the device is arm64-v8a; build it with "
        "--android_abi arm64-v8a"
    )


def script(folder: Path, body: str) -> str:
    path = folder / "runner.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_hang_is_ended_on_the_device(phone: Phone) -> None:
    pid = phone.folder / "pid"
    transport = phone.connect(runner=script(phone.folder, f"echo $$ > '{pid}'; exec sleep 60"))
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 1.5)
    assert isinstance(answer, Failure)
    assert answer.kind == "timeout"
    assert answer.reason == "no answer within 1.5 s; the program was ended"
    assert_ended(int(pid.read_text()))


def test_interrupt_ends_the_program_on_the_device(phone: Phone) -> None:
    pid = phone.folder / "pid"
    transport = phone.connect(runner=script(phone.folder, f"echo $$ > '{pid}'; exec sleep 60"))
    phone.place(transport)

    def interrupt() -> None:
        while not pid.exists() or not pid.read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            transport.run("cell-0", JOB, 60.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_ended(int(pid.read_text()))
    transport.close()
    assert not list(phone.storage.iterdir())


def assert_ended(pid: int) -> None:
    """Wait until a process is gone, and fail if it stays."""
    end = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("kill -SEGV $$", "crash", "onnxruntime_perf_test died of SIGSEGV"),
        ("kill -KILL $$", "out-of-memory", "out of memory"),
    ],
)
def test_program_that_dies(body: str, kind: str, words: str, phone: Phone) -> None:
    transport = phone.connect(runner=script(phone.folder, body))
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert answer.kind == kind
    assert words in answer.reason


def test_nothing_runs_once_it_is_closed(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    transport.close()
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert answer.kind == "unreachable"
    assert phone.calls() == []


def test_close_from_elsewhere_ends_what_runs(phone: Phone) -> None:
    pid = phone.folder / "pid"
    transport = phone.connect(runner=script(phone.folder, f"echo $$ > '{pid}'; exec sleep 60"))
    phone.place(transport)

    def close() -> None:
        while not pid.exists() or not pid.read_text().strip():
            time.sleep(0.01)
        transport.close()

    thread = threading.Thread(target=close)
    thread.start()
    answer = transport.run("cell-0", JOB, 60.0)
    thread.join()
    assert isinstance(answer, Failure)
    assert answer.reason == "the connection to the device was closed"
    assert_ended(int(pid.read_text()))
    assert not list(phone.storage.iterdir())
