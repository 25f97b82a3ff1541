"""`onnxsep doctor` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

from .test_check_command import onnxsep


def test_findings_and_their_sum(tmp_path: Path) -> None:
    done = onnxsep(tmp_path, "doctor", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "CPUExecutionProvider" in done.stdout
    assert done.stdout.rstrip().endswith("nothing required is missing")


def test_json_has_every_finding(tmp_path: Path) -> None:
    plain = json.loads(onnxsep(tmp_path, "doctor", "--json").stdout)
    assert plain["broken"] == 0
    groups = {found["group"] for found in plain["findings"]}
    assert groups == {
        "packages",
        "providers",
        "processor",
        "limits",
        "timing",
        "surroundings",
        "devices",
    }


def test_without_programs_it_says_what_to_install(tmp_path: Path) -> None:
    done = onnxsep(tmp_path, "doctor", "--json", PATH=str(tmp_path))
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert (found["ssh"]["state"], found["adb"]["state"]) == ("missing", "missing")
    assert "openssh-client" in found["ssh"]["way_out"]


def test_a_broken_onnxruntime_is_a_finding_with_a_code(tmp_path: Path) -> None:
    package = tmp_path / "shadow" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libonnxruntime.so: not found')")
    done = onnxsep(tmp_path, "doctor", "--json", PYTHONPATH=str(tmp_path / "shadow"))
    assert done.returncode == 2, done.stdout
    broken = [one for one in json.loads(done.stdout)["findings"] if one["state"] == "broken"]
    assert [one["name"] for one in broken] == ["onnxruntime"]
    assert "libonnxruntime.so: not found" in broken[0]["value"]
    assert done.stderr.startswith("error: onnxruntime: ")
    assert len(done.stderr.splitlines()) == 1
