"""Cells on an Android device, played by a stand-in for adb and one for onnxruntime_perf_test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxsep.bench.job import Answer, Job
from onnxsep.bench.placement import make_placement
from onnxsep.bench.pulse import write_pulse
from onnxsep.bench.record import ModelFacts
from onnxsep.bench.transport import DistantTransport, Failure
from onnxsep.errors import OutputError
from tests.bench import perf_test_stand_in
from tests.bench.android_phone import AWKWARD, JOB, Phone

CPU, XNNPACK, NNAPI = (f"{name}ExecutionProvider" for name in ("CPU", "Xnnpack", "Nnapi"))
HOT = {"call": "shell dumpsys thermalservice", "stdout": "@thermal_moderate.txt", "code": 0}
COOL = {"call": "shell dumpsys thermalservice", "stdout": "@thermal_cool.txt", "code": 0}


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return Phone(tmp_path)


def test_it_is_a_transport_to_another_machine(phone: Phone) -> None:
    assert isinstance(phone.connect(), DistantTransport)


def test_device_is_described_with_the_providers_it_has(phone: Phone) -> None:
    transport = phone.connect(pretend=("xnnpack",))
    answer = transport.run("describe", Job("describe"), 60.0)
    assert isinstance(answer, Answer)
    told = answer.environment
    assert told["available_providers"] == [CPU, XNNPACK]
    assert "--use_nnapi" in told["missing_providers"][NNAPI]
    assert told["device"] == "acme Phone 7 [beta]"
    assert told["thermal_status"] == 0
    assert told["fixed_performance"] is True


def test_model_is_timed_and_the_device_left_as_it_was(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    # Of the 200 runs of 5 ms, windows of 30 ms warm up until two agree, and 0.3 s count.
    assert answer.samples_ms == (5.0,) * 60
    assert answer.warm_up_runs == 1 + 12
    assert answer.stable
    assert answer.session_seconds == 0.0125
    assert answer.first_run_seconds == 0.02
    assert answer.peak_rss_bytes == 30000128
    assert answer.load == 1.25
    assert answer.providers == (CPU,)
    assert answer.environment["throttled"] is False
    assert answer.environment["before"]["battery_level"] == 75
    assert answer.environment["notes"] == ["charging, which heats the device"]
    assert transport.notes() == ["charging, which heats the device"]
    assert transport.notes() == []
    transport.close()
    transport.close()
    assert not (phone.storage / "onnxsep").exists()
    modes = [call for call in phone.calls() if "fixed-performance" in call]
    assert [mode.rpartition(" ")[2] for mode in modes] == ["true", "false"]


def test_program_of_an_unknown_form_is_refused(phone: Phone) -> None:
    runner = perf_test_stand_in.install_recorded(phone.folder, "Finished 200 runs; mean 5 ms\n")
    transport = phone.connect(runner=runner)
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "failed"
    assert "reports in a way that onnxsep does not know; it said: Finished" in answer.reason


def test_real_runs_become_samples(phone: Phone) -> None:
    transport = phone.connect(runner=perf_test_stand_in.install(phone.folder))
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    assert len(answer.samples_ms) >= JOB.fewest_runs
    assert min(answer.samples_ms) > 0
    assert answer.session_seconds > 0


def test_nothing_is_executed_on_the_way(phone: Phone) -> None:
    transport = phone.connect()
    model = f"{AWKWARD}.onnx"
    phone.place(transport, model)
    job = dataclasses.replace(
        JOB,
        model=model,
        session_config={"session.$(touch${IFS}hacked)": "';touch${IFS}hacked;'"},
        free_dimensions={"`touch${IFS}hacked`": 3},
    )
    answer = transport.run("cell-0", job, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    words = phone.asked()[-1]
    assert words[words.index("-C") + 1] == "session.$(touch${IFS}hacked)|';touch${IFS}hacked;'"
    assert words[words.index("-f") + 1] == "`touch${IFS}hacked`:3"
    assert words[-2].endswith(f"/cell-0/{model}")
    assert not list(phone.folder.rglob("hacked"))
    transport.close()
    assert not list(phone.storage.iterdir())


def test_model_cannot_leave_its_folder(phone: Phone) -> None:
    transport = phone.connect()
    source, inputs = write_pulse(phone.folder)
    transport.place("cell-0", {"../../../escaped.onnx": source, "inputs.npz": inputs})
    answer = transport.run("cell-0", dataclasses.replace(JOB, model="../../../escaped.onnx"), 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "failed"
    assert not list(phone.folder.rglob("escaped.onnx"))


def test_profile_becomes_a_placement(phone: Phone) -> None:
    transport = phone.connect(runner=perf_test_stand_in.install(phone.folder))
    phone.place(transport)
    answer = transport.run("cell-0", dataclasses.replace(JOB, task="profile"), 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    convolutions = [row for row in answer.kernels if row["kind"] == "standard"]
    work = 64 * 64 * 9 * 28 * 28
    assert [row["multiplications"] for row in convolutions] == [work, work]
    assert answer.profiled_ms > 0
    facts = ModelFacts("m", "m", "fp32", "file", "0", 1, 1, 2 * work, {"standard": 2 * work})
    placement = make_placement(answer, CPU, facts)
    assert placement.proof == "profile"
    assert placement.fallback == 0
    assert placement.kinds[0].multiplication_share == pytest.approx(1.0)
    assert not list(phone.storage.rglob("profile*"))


def test_provider_that_took_nothing_is_unavailable(phone: Phone) -> None:
    # The program claims to have XNNPACK; the profile shows who ran.
    runner = perf_test_stand_in.install(phone.folder, pretend=("xnnpack",))
    transport = phone.connect(runner=runner)
    phone.place(transport)
    job = dataclasses.replace(
        JOB, task="profile", provider=XNNPACK, provider_options={"intra_op_num_threads": "2"}
    )
    answer = transport.run("cell-0", job, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "unavailable"
    assert answer.reason.startswith(f"{XNNPACK} took none of the ")
    assert phone.asked()[-1][phone.asked()[-1].index("-x") + 1] == "2"


def test_provider_that_was_not_built_is_unavailable(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    for task in ("time", "profile"):
        job = dataclasses.replace(JOB, task=task, provider=NNAPI)
        answer = transport.run("cell-0", job, 60.0)
        assert isinstance(answer, Answer)
        assert answer.status == "unavailable"
        assert "build it with --use_nnapi" in answer.reason


def test_outputs_cannot_be_had(phone: Phone) -> None:
    answer = phone.connect().run("cell-0", dataclasses.replace(JOB, task="outputs"), 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "unavailable"
    assert "Termux" in answer.reason


def test_model_that_needs_more_runs_gets_them(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    answer = transport.run("cell-0", dataclasses.replace(JOB, fewest_runs=195), 60.0)
    assert isinstance(answer, Answer)
    # 195, what 0.3 s of warm-up are at 5 ms, and 5 because times vary.
    assert [words[2:6] for words in phone.asked()] == [
        ["-m", "duration", "-t", "1"],
        ["-m", "times", "-r", "260"],
    ]


def test_device_cools_before_it_is_measured(phone: Phone) -> None:
    transport = phone.connect({**HOT, "times": 2})
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.environment["throttled"] is False
    assert phone.slept == [10.0, 10.0]
    assert "waited 20 s for the device to cool" in transport.notes()


def test_device_that_stays_hot_is_refused(phone: Phone) -> None:
    transport = phone.connect(HOT, cooling_seconds=25.0)
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Failure)
    assert answer.reason == (
        "the device is throttled, thermal status 2 (moderate), and did not cool in 25 s; let it "
        "rest off the charger, or set a longer cool_down"
    )
    assert phone.slept == [10.0, 10.0, 5.0]
    assert not phone.asked()


def test_run_that_throttles_is_marked(phone: Phone) -> None:
    transport = phone.connect({**COOL, "times": 1}, HOT)
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    assert answer.samples_ms
    assert answer.environment["throttled"] is True
    assert not answer.stable
    assert answer.environment["after"]["skin_celsius"] == 43.9
    assert "throttled during the run: thermal status 2 (moderate)" in transport.notes()


def test_old_device_is_measured_with_notes(phone: Phone) -> None:
    transport = phone.connect(conversation="old_phone")
    phone.place(transport)
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "ok"
    assert answer.load is None
    notes = "\n".join(transport.notes())
    assert "this device has no fixed-performance mode (it said: /system/bin/sh: cmd: not" in notes
    assert "tells no thermal status" in notes
    assert "battery at 12 %" in notes


def test_libraries_beside_the_program_go_along(phone: Phone) -> None:
    library = phone.folder / "libonnxruntime.so"
    library.write_bytes(b"VERS_1.22.0\0")
    (phone.folder / "libcustom_op_library.so").write_bytes(b"not this one")
    answer = phone.connect().run("describe", Job("describe"), 60.0)
    assert isinstance(answer, Answer)
    assert answer.environment["onnxruntime_version"] == "1.22.0"
    pushed = [call.rpartition("/")[2] for call in phone.calls() if call.startswith("push")]
    assert pushed == ["onnxruntime_perf_test", "libonnxruntime.so", "pulse.onnx"]


def test_weights_in_a_subfolder_are_refused(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    transport.place("cell-0", {"deep/weights.bin": phone.folder / "pulse.onnx"})
    answer = transport.run("cell-0", JOB, 60.0)
    assert isinstance(answer, Answer)
    assert answer.status == "failed"
    assert "put them beside the model" in answer.reason


def test_inputs_are_those_of_the_job(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    other = phone.folder / "other.npz"
    np.savez(other, x=np.full((1, 64, 28, 28), 3.0, np.float32))
    transport.place("cell-0", {"other.npz": other})
    for name in ("inputs.npz", "other.npz", "other.npz"):
        transport.run("cell-0", dataclasses.replace(JOB, inputs=name), 60.0)
    files = list(phone.storage.rglob("*.pb"))
    assert [file.name for file in files] == ["input_0.pb"]
    assert onnx.numpy_helper.to_array(onnx.load_tensor(files[0])).max() == 3.0
    assert sum(call.endswith("input_0.pb") for call in phone.calls()) == 2


def test_model_is_sent_once(phone: Phone) -> None:
    transport = phone.connect()
    model, inputs = write_pulse(phone.folder)
    for place in ("cell-0", "cell-1"):
        transport.place(place, {"model.onnx": model, "inputs.npz": inputs})
        answer = transport.run(place, JOB, 60.0)
        assert isinstance(answer, Answer)
        assert answer.status == "ok"
    assert sum(call.endswith("/model.onnx") for call in phone.calls() if "push" in call) == 1
    transport.drop("cell-0")
    (folder,) = phone.storage.glob("onnxsep/run-*")
    assert not (folder / "cell-0").exists()
    assert (folder / "cell-1").exists()


def test_files_are_fetched(phone: Phone) -> None:
    transport = phone.connect()
    phone.place(transport)
    transport.run("cell-0", JOB, 60.0)
    assert transport.fetch("cell-0", "results.csv").read_text().startswith("cell-0,")
    for name in ("outputs.npz", "../../../adb"):
        with pytest.raises(OutputError):
            transport.fetch("cell-0", name)
