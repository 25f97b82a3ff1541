"""`onnxsep check` as a user meets it: whole commands, exit codes, what is written and what not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import pytest

from onnxsep.cli import main
from onnxsep.eligibility import free_dimensions
from onnxsep.model import load_model

from ..report.snapshots import assert_as_kept
from ..small_models import small_network


def onnxsep(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxsep", *arguments],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = small_network()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["batch", *list(value.shape or ())[1:]])
    ir.save(model, tmp_path / "small.onnx")
    return tmp_path


def test_tables(place: Path) -> None:
    done = onnxsep(place, "check", "small.onnx", "--target", "xnnpack", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = done.stdout.replace(f"onnxruntime {onnxruntime.__version__} makes", "VERSION makes")
    assert_as_kept(shown, "check_command.txt")


def test_a_narrow_pipe_gets_whole_words(place: Path) -> None:
    done = onnxsep(place, "check", "small.onnx", "--target", "nnapi", COLUMNS="60")
    assert all(len(line) <= 60 for line in done.stdout.splitlines())
    assert "free-dimension" in done.stdout


def test_reports_and_the_fixed_model(place: Path) -> None:
    before = (place / "small.onnx").read_bytes()
    done = onnxsep(
        place,
        "check",
        "small.onnx",
        *("-t", "nnapi", "--fix-shape", "batch=2", "-o", "fixed.onnx", "--report", "r.md"),
    )
    assert done.returncode == 0, done.stderr
    assert "wrote fixed.onnx and r.md" in done.stdout
    assert "### onnxsep check: small.onnx on nnapi" in (place / "r.md").read_text()
    fixed = load_model(place / "fixed.onnx")
    assert free_dimensions(fixed) == ()
    assert list(fixed.graph.inputs[0].shape or ()) == [2, 3, 16, 16]
    assert (place / "small.onnx").read_bytes() == before


def test_json_is_the_report(place: Path) -> None:
    done = onnxsep(place, "check", "small.onnx", "-t", "cpu", "--json", "--report", "r.json")
    assert json.loads(done.stdout) == json.loads((place / "r.json").read_text())
    assert json.loads(done.stdout)["confirmation"]["confirmed"]


def test_strict_fails_after_everything_is_written(place: Path) -> None:
    done = onnxsep(place, "check", "small.onnx", "-t", "xnnpack", "--strict", "--report", "r.json")
    assert done.returncode == 5
    assert "xnnpack takes" in done.stdout
    assert done.stderr.startswith("error: xnnpack does not take all of small.onnx")
    assert json.loads((place / "r.json").read_text())["holds"] is False
    assert onnxsep(place, "check", "small.onnx", "-t", "cpu", "--strict", "-q").returncode == 0


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Arguments, the exit code, and a word of the one sentence."""

    arguments: tuple[str, ...]
    code: int
    word: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(("none.onnx", "-t", "cpu"), 3, "no such file"),
        Wrong(("junk.onnx", "-t", "cpu"), 3, "not an ONNX model"),
        Wrong(("small.onnx", "-t", "xnpack"), 2, "did you mean 'xnnpack'"),
        Wrong(("small.onnx", "-t", "cpu", "--fix-shape", "bach=1"), 2, "did you mean 'batch'"),
        Wrong(("small.onnx", "-t", "nnapi", "--api-level", "19"), 2, "Android 8.1"),
        Wrong(("small.onnx", "-t", "cpu", "-o", "x.onnx"), 2, "--fix-shape"),
        Wrong(("small.onnx", "-t", "cpu", "--report", "r.txt"), 2, ".json and .md"),
        Wrong(("small.onnx", "-t", "cpu", "--report", "no/r.md"), 2, "does not exist"),
        Wrong(
            ("small.onnx", "-t", "cpu", "--fix-shape", "batch=1", "-o", "small.onnx"),
            2,
            "is the model",
        ),
    ],
    ids=lambda wrong: " ".join(wrong.arguments[2:]) or wrong.arguments[0],
)
def test_one_sentence_for_what_is_wrong(
    wrong: Wrong,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "junk.onnx").write_bytes(b"no model")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["onnxsep", "check", *wrong.arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (wrong.code, "")
    assert said.err.startswith("error: ")
    assert wrong.word in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(path.name for path in place.iterdir()) == ["junk.onnx", "small.onnx"]
