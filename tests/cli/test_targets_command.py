"""`onnxsep targets` as a user meets it, and what it says of where targets can be reached."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from onnxsep.eligibility import engine, reach
from onnxsep.eligibility.reach import list_targets
from onnxsep.report.targets_terminal import print_targets
from onnxsep.targets import TARGETS

from .test_check_command import onnxsep


def test_the_table_and_json_tell_the_same(tmp_path: Path) -> None:
    rows = json.loads(onnxsep(tmp_path, "targets", "--json").stdout)
    done = onnxsep(tmp_path, "targets", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in rows] == list(TARGETS)
    assert all(row["name"] in done.stdout for row in rows)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_what_targets_accept_is_what_quantize_follows() -> None:
    rows = {row.name: row for row in list_targets()}
    assert (rows["cpu"].activation, rows["cpu"].form) == ("uint8", "concat")
    assert (rows["xnnpack"].activation, rows["xnnpack"].free_dimensions) == ("int8", "batch")
    assert (rows["nnapi"].activation, rows["nnapi"].free_dimensions) == ("uint8", "none")
    assert rows["tensorrt"].activation == "int8, symmetric"
    assert (rows["cuda"].activation, rows["cuda"].precision) == ("none", "fp16")


@dataclasses.dataclass(frozen=True)
class Place:
    """A machine: its processor and programs, a target, and how that is reached."""

    machine: str
    programs: tuple[str, ...]
    target: str
    reach: str


@pytest.mark.parametrize(
    "place",
    [
        Place("x86_64", (), "cpu", "here"),
        Place("aarch64", (), "cpu-arm", "here"),
        Place("aarch64", (), "cpu", "no"),
        Place("x86_64", ("ssh",), "cpu-arm", "over ssh"),
        Place("x86_64", ("ssh", "adb"), "nnapi", "over adb"),
        Place("x86_64", ("ssh", "adb"), "cuda", "over ssh"),
        Place("x86_64", (), "nnapi", "no"),
    ],
    ids=lambda place: f"{place.target}-from-{place.machine}-with-{'-'.join(place.programs)}",
)
def test_how_a_target_is_reached(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.platform, "machine", lambda: place.machine)
    monkeypatch.setattr(
        engine.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        reach.shutil, "which", lambda name: f"/bin/{name}" if name in place.programs else None
    )
    row = next(row for row in list_targets() if row.name == place.target)
    assert row.reach == place.reach
    assert bool(row.how) == (place.reach != "here")


def test_a_narrow_terminal_shows_every_target() -> None:
    console = Console(file=io.StringIO(), width=60, color_system=None)
    print_targets(list_targets(), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(name in text for name in TARGETS)
    assert all(len(line) <= 60 for line in text.splitlines())
