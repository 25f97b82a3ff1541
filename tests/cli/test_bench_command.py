"""`onnxsep bench` as a user meets it: whole commands, exit codes, what is written and what not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx_ir as ir
import pytest

from ..small_models import small_network

_MATRIX = """
defaults: {rounds: 3, seconds: 0.02, warm_up_seconds: 0.05, fewest_runs: 3}
models: [{name: small, path: small.onnx}]
matrix: {targets: [cpu, cuda], batch: 2}
"""


def bench(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxsep", "bench", *arguments],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = small_network()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["batch", *list(value.shape or ())[1:]])
    ir.save(model, tmp_path / "small.onnx")
    (tmp_path / "bench.yaml").write_text(_MATRIX)
    return tmp_path


def test_a_run_and_its_reports(place: Path) -> None:
    done = bench(place, "-o", "r.json", "--csv", "r.csv", "--markdown", "r.md", "--html", "r.html")
    assert done.returncode == 0, done.stderr
    assert "unavailable" in done.stdout
    assert "onnxruntime-gpu" in done.stdout
    assert "wrote r.json and r.csv and r.md and r.html" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    record = json.loads((place / "r.json").read_text())
    statuses = {cell["cell"]["target"]: cell["status"] for cell in record["cells"]}
    assert statuses == {"cpu": "ok", "cuda": "unavailable"}
    samples = record["cells"][0]["rounds"][0]["samples_ms"]
    assert len(samples) >= 3
    assert record["complete"]
    assert (place / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert not (place / "bench-results").exists()


def test_result_has_a_place_of_its_own(place: Path) -> None:
    done = bench(place, "--only", "cpu", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    assert len(list((place / "bench-results").glob("bench-*.json"))) == 1


def test_json_on_standard_output_is_the_record(place: Path) -> None:
    done = bench(place, "--only", "cpu", "--json", "--no-checks", "-o", "r.json")
    assert json.loads(done.stdout) == json.loads((place / "r.json").read_text())


def test_cells_are_listed(place: Path) -> None:
    done = bench(place, "--list")
    assert done.stdout.splitlines() == ["small cpu b2 t1 fp32", "small cuda b2 t1 fp32"]
    listed = json.loads(bench(place, "--list", "--json", "--only", "target=cuda").stdout)
    assert [cell["provider"] for cell in listed] == ["CUDAExecutionProvider"]


def test_schema_is_printed_without_a_matrix(tmp_path: Path) -> None:
    done = bench(tmp_path, "--schema")
    assert json.loads(done.stdout)["properties"]["models"]


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    arguments: tuple[str, ...]
    code: int
    words: tuple[str, ...]
    matrix: str = _MATRIX


REFUSED = [
    Refused("no matrix", ("nowhere.yaml",), 3, ("nowhere.yaml",)),
    Refused("unknown key", (), 2, ("bench.yaml:2", "modls", "models"), "\nmodls: []\n"),
    Refused(
        "unknown provider",
        (),
        2,
        ("bench.yaml:4", "'cdua'", "cuda"),
        _MATRIX.replace("targets: [cpu, cuda]", "targets: [cpu, cdua]"),
    ),
    Refused("wrong type", (), 2, ("bench.yaml:2", "rounds"), _MATRIX.replace("3,", "many,", 1)),
    Refused("bad --set", ("--set", "defaults.round=3"), 2, ("--set", "rounds")),
    Refused("--only nothing", ("--only", "tpu"), 2, ("tpu",)),
    Refused("allowance alone", ("--fail-if-slower", "5%"), 2, ("--baseline",)),
    Refused("no allowance", ("--baseline", "b", "--fail-if-slower", "much"), 2, ("much",)),
    Refused("no baseline", ("--baseline", "none.json"), 3, ("none.json",)),
    Refused("folder", ("-o", "."), 2, ("no regular file",)),
    Refused("same file", ("-o", "r.json", "--csv", "r.json"), 2, ("r.json",)),
    Refused("no folder", ("--html", "no/r.html"), 2, ("no does not exist",)),
    Refused("no model", (), 3, ("gone.onnx",), _MATRIX.replace("small.onnx", "gone.onnx")),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_makes_no_sense_is_refused(case: Refused, place: Path) -> None:
    (place / "bench.yaml").write_text(case.matrix)
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    done = bench(place, *case.arguments)
    assert done.returncode == case.code, done.stderr
    for word in case.words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


def test_one_cell_that_fails_gives_its_row_and_a_code(place: Path) -> None:
    (place / "bench.yaml").write_text(
        _MATRIX.replace("[cpu, cuda]", "[cpu, bad]")
        + f"targets: {{bad: {{provider: cpu, python: {place}/python}}}}\n"
    )
    script = place / "python"
    script.write_text("#!/bin/sh\nexit 9\n")
    script.chmod(0o755)
    done = bench(place, "-o", "r.json")
    assert done.returncode == 8
    assert "small bad b2 t1 fp32 failed" in done.stderr
    statuses = [cell["status"] for cell in json.loads((place / "r.json").read_text())["cells"]]
    assert statuses == ["ok", "failed"]


def test_slower_than_the_baseline_fails_only_on_evidence(place: Path) -> None:
    assert bench(place, "--only", "cpu", "-o", "old.json", "-q").returncode == 0
    record = json.loads((place / "old.json").read_text())
    for cell in record["cells"]:
        for entry in cell["rounds"]:
            entry["samples_ms"] = [sample / 20 for sample in entry["samples_ms"]]
    (place / "fast.json").write_text(json.dumps(record))
    arguments = ("--only", "cpu", "--baseline", "fast.json", "--fail-if-slower", "5%")
    done = bench(place, *arguments, "-o", "new.json")
    assert done.returncode == 7
    assert "small cpu b2 t1 fp32" in done.stderr
    assert "worse" in done.stdout
    judged = json.loads((place / "new.json").read_text())
    assert judged["cells"][0]["judgement"]["verdict"] == "worse"


def test_interrupt_keeps_what_is_done_and_resume_goes_on(place: Path) -> None:
    command = [sys.executable, "-m", "onnxsep", "bench", "--only", "cpu", "-o", "r.json"]
    slow = ["--set", "defaults.seconds=1", "--set", "defaults.rounds=4"]
    process = subprocess.Popen(
        [*command, *slow],
        cwd=place,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Started in the background of a shell, the command would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("round 3"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume r.json" in errors
    half = json.loads((place / "r.json").read_text())
    assert not half["complete"]
    assert len(half["cells"][0]["rounds"]) == 2
    done = bench(place, "--only", "cpu", "--resume", "r.json", *slow)
    assert done.returncode == 0, done.stderr
    whole = json.loads((place / "r.json").read_text())
    assert whole["complete"]
    assert whole["cells"][0]["rounds"][:2] == half["cells"][0]["rounds"]
    assert len(whole["cells"][0]["rounds"]) == 4


def test_help_fits_and_names_the_exit_codes() -> None:
    done = bench(Path.cwd(), "--help", COLUMNS="80", TERM="dumb")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    for words in ("Examples", "--resume", "--fail-if-slower", "Exit codes", "130 interrupted"):
        assert words in done.stdout
