"""What `diagnose` makes of other machines than this one."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxsep.bench.adb import AdbError, Listed
from onnxsep.doctor import Diagnosis, Finding, machine, software, surroundings
from onnxsep.report.doctor_terminal import print_diagnosis

from .report.snapshots import assert_as_kept

# A desktop on which nothing disturbs.
_QUIET: dict[str, Any] = {
    "machine": "x86_64",
    "cpu": "A Processor",
    "cpu_flags": ["avx2", "avx512_vnni"],
    "logical_cores": 8,
    "physical_cores": 8,
    "usable_cores": 8,
    "cpu_limit": None,
    "governor": "performance",
    "turbo": False,
    "memory_bytes": 16 << 30,
    "load": 0.1,
    "gpu": None,
    "available_providers": ["CPUExecutionProvider"],
}


def _found(facts: Mapping[str, Any]) -> dict[str, Finding]:
    findings = [*machine.processor(facts), *machine.limits(facts), *machine.timing(facts)]
    return {one.name: one for one in findings}


def test_nothing_is_said_against_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", Path("/nowhere"))
    assert {one.state for one in _found(_QUIET).values()} == {"ok"}


@dataclasses.dataclass(frozen=True)
class Disturbed:
    """What is different, the finding that tells, and a word of it."""

    facts: dict[str, Any]
    name: str
    word: str


@pytest.mark.parametrize(
    "disturbed",
    [
        Disturbed({"governor": "powersave"}, "governor", "powersave"),
        Disturbed({"turbo": True}, "turbo", "on"),
        Disturbed({"load": 3.0}, "load", "3.00"),
        Disturbed({"usable_cores": 2}, "affinity", "2 of 8"),
        Disturbed({"cpu_limit": 1.5}, "processor quota", "1.5 cores"),
        Disturbed({"memory_bytes": 1 << 30}, "memory", "1.07 GB"),
        Disturbed({"cpu_flags": ["avx2"]}, "integers", "saturate"),
        Disturbed({"cpu_flags": [], "machine": "aarch64"}, "integers", "little"),
    ],
    ids=lambda disturbed: disturbed.name + "-" + disturbed.word,
)
def test_what_disturbs_has_a_way_out(disturbed: Disturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", Path("/nowhere"))
    found = _found({**_QUIET, **disturbed.facts})[disturbed.name]
    assert found.state == "warning"
    assert disturbed.word in found.value
    assert found.way_out


def test_hyper_threads_are_told() -> None:
    assert "hyper-threads" in _found({**_QUIET, "physical_cores": 4})["cores"].value


@pytest.mark.parametrize(
    ("file", "text", "limited"),
    [
        ("memory.max", "1073741824", True),
        ("memory.max", "max", False),
        ("memory/memory.limit_in_bytes", "1073741824", True),
        ("memory/memory.limit_in_bytes", "9223372036854771712", False),
    ],
)
def test_memory_of_both_versions_of_control_groups(
    file: str, text: str, limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert ("control group" in _found(_QUIET)["memory"].value) is limited


def test_energy_that_may_not_be_read_has_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_POWERCAP", str(tmp_path))
    (none,) = machine.energy()
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (hidden,) = machine.energy()
    (zone / "energy_uj").write_text("12")
    (zone / "max_energy_range_uj").write_text("100")
    (readable,) = machine.energy()
    assert [one.state for one in (none, hidden, readable)] == ["missing", "missing", "ok"]
    assert "chmod" in hidden.way_out
    assert "chmod" not in none.way_out


# --- packages and providers ---


def _install(monkeypatch: pytest.MonkeyPatch, required: list[str], here: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_packages_that_are_missing_or_old_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["onnx>=1.19", "numpy>=2.0", "rich>=13.9", "torch>=2.6; extra == 'train'"]
    here = {"onnxsep": "0.1", "onnx": "1.9.0", "numpy": "2.13.0+cpu"}
    _install(monkeypatch, required, here)
    found = {one.name: one for one in software.packages()}
    assert {name: one.state for name, one in found.items()} == {
        "onnxsep": "ok",
        "onnx": "broken",
        "numpy": "ok",
        "rich": "broken",
    }
    assert found["onnx"].way_out == "pip install 'onnx>=1.19'"


def test_files_without_an_installation_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert [one.state for one in software.packages()] == ["broken"]


def test_an_old_interpreter_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.python().state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert software.python().state == "broken"


def test_providers_that_are_not_here_say_how_to_get_them() -> None:
    facts = {"available_providers": ["CPUExecutionProvider", "TheirExecutionProvider"]}
    facts["gpu"] = {"name": "A GPU", "driver": "1.2"}  # type: ignore[assignment]
    found = {one.name: one for one in software.providers(facts)}
    assert found["cpu"].state == "ok"
    assert found["their"].state == "ok"
    assert "A GPU, driver 1.2" in found["NVIDIA GPU"].value
    assert (found["cuda"].state, "onnxruntime-gpu" in found["cuda"].way_out) == ("missing", True)


def test_a_worker_without_an_answer_is_broken() -> None:
    (found,) = software.providers("the worker died of SIGSEGV")
    assert (found.state, found.value) == ("broken", "the worker died of SIGSEGV")


# --- surroundings ---


def test_a_program_that_hangs_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("ssh", 10)

    monkeypatch.setattr(surroundings.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(surroundings.subprocess, "run", hangs)
    states = {one.name: one.state for one in surroundings.ways_to_others()}
    assert states == {"ssh": "warning", "adb": "warning"}


@dataclasses.dataclass(frozen=True)
class Phones:
    """What adb answers, and the states of the findings about it."""

    answer: tuple[Listed, ...] | AdbError
    states: list[str]


@pytest.mark.parametrize(
    "phones",
    [
        Phones((), ["missing"]),
        Phones((Listed("R58", "device"), Listed("X1", "unauthorized")), ["ok", "warning"]),
        Phones(AdbError("adb hangs"), ["warning"]),
    ],
    ids=lambda phones: "-".join(phones.states),
)
def test_phones_that_adb_lists(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def devices(self) -> tuple[Listed, ...]:
            if isinstance(phones.answer, AdbError):
                raise phones.answer
            return phones.answer

    done = subprocess.CompletedProcess([], 0, "Version 1.2\nmore", "")
    monkeypatch.setattr(surroundings, "Adb", Fake)
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(surroundings.subprocess, "run", lambda *_, **__: done)
    ssh, adb, *found = surroundings.ways_to_others()
    assert ssh.value == "Version 1.2 (/bin/ssh)"
    assert adb.state == "ok"
    assert [one.state for one in found] == phones.states


def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings.disk().state == "ok"
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda _: usage)
    assert surroundings.disk().state == "warning"


def test_a_place_for_temporary_files_that_is_not_there_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    assert surroundings.disk().state == "broken"


def test_a_terminal_without_unicode_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert [one.state for one in surroundings.terminal()] == ["warning"]


# --- on a terminal ---


def test_findings_on_a_terminal() -> None:
    diagnosis = Diagnosis(
        (
            Finding("packages", "onnx", "ok", "1.20 (1.19 or newer)"),
            Finding("packages", "rich", "broken", "not installed", "pip install 'rich>=13.9'"),
            Finding("timing", "governor", "warning", "powersave", "set it to performance"),
            Finding("devices", "a\x1b[31mphone", "missing", "none attached " * 6, "plug one in"),
        )
    )
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_diagnosis(diagnosis, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert_as_kept(text, "doctor_terminal.txt")
