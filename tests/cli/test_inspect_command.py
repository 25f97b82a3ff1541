"""`onnxsep inspect` as a user meets it: whole commands, exit codes, streams, files."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxsep.cli import main

from ..small_models import write_images, write_small_network


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Runner = Callable[..., Outcome]


@pytest.fixture
def inspect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """Runs the command in a folder with a small network and images."""
    write_small_network(tmp_path / "small.onnx")
    write_images(tmp_path / "images.npz", 8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["onnxsep", "inspect", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@dataclasses.dataclass(frozen=True)
class Bad:
    id: str
    arguments: tuple[str, ...]
    code: int
    says: str


BAD = [
    Bad("no such model", ("missing.onnx",), 3, r"no such file: missing\.onnx"),
    Bad("a folder", (".",), 3, r"is a folder"),
    Bad("not ONNX", ("images.npz",), 3, r"not an ONNX model"),
    Bad("error", ("small.onnx", "--error", "1.5"), 2, r"--error takes a share"),
    Bad("target", ("small.onnx", "--target", "nnap"), 2, r"did you mean 'nnapi'"),
    Bad("preset", ("small.onnx", "--data", "images.npz", "--preset", "x"), 2, r"unknown preset"),
    Bad("samples", ("small.onnx", "--data", "images.npz", "--samples", "0"), 2, r"at least one"),
    Bad("no data", ("small.onnx", "--data", "nowhere"), 3, r"nowhere: no such file"),
    Bad("ending", ("small.onnx", "-o", "report.txt"), 2, r"\.json, \.csv, \.md, \.html"),
    Bad("folder of report", ("small.onnx", "-o", "no/r.html"), 2, r"the folder no does not exist"),
    Bad("over a folder", ("small.onnx", "-o", "taken.md"), 2, r"no regular file"),
    Bad("threads", ("small.onnx", "--threads", "-1"), 2, r"--threads takes 0"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_input_ends_with_one_sentence(case: Bad, inspect: Runner, tmp_path: Path) -> None:
    (tmp_path / "taken.md").mkdir()
    before = sorted(tmp_path.rglob("*"))
    outcome = inspect(*case.arguments, "--no-measure")
    assert outcome.code == case.code, outcome.err
    assert re.search(case.says, outcome.err), outcome.err
    complaints = [line for line in outcome.err.splitlines() if not line.startswith("[")]
    assert len(complaints) == 1
    assert complaints[0].startswith("error: ")
    assert outcome.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_table_fits_and_says_what_matters(inspect: Runner) -> None:
    outcome = inspect("small.onnx", "--no-measure")
    assert outcome.code == 0, outcome.err
    for words in (
        "stem",
        "32x64 3x3",
        "64x64 3x3 /2",
        "by the formula",
        "at 1 % error per layer",
        "BatchNormalization left unfolded",
        "way out: onnxsep optimize",
    ):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    assert "loading small.onnx" in outcome.err
    assert "loading" not in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


@pytest.mark.parametrize("ending", ["json", "csv", "md", "html"])
def test_report_is_written_and_quiet_says_nothing(
    inspect: Runner, tmp_path: Path, ending: str
) -> None:
    outcome = inspect("small.onnx", "-q", "--no-measure", "-o", f"r.{ending}")
    assert outcome == Outcome(0, "", "")
    text = (tmp_path / f"r.{ending}").read_text()
    match ending:
        case "json":
            assert [layer["name"] for layer in json.loads(text)["layers"]][:1] == ["stem"]
        case "csv":
            assert [row["layer"] for row in csv.DictReader(text.splitlines())][1] == "body"
        case "md":
            assert text.startswith("### onnxsep inspect: small.onnx")
        case _:
            assert text.startswith("<!DOCTYPE html>")


def test_json_goes_to_standard_output_alone(inspect: Runner) -> None:
    outcome = inspect("small.onnx", "--json", "--no-measure", "--profile")
    record = json.loads(outcome.out)
    assert outcome.code == 0
    assert record["totals"]["time_ms"] > 0
    assert {one["code"] for one in record["advice"]} >= {"batchnorm-unfolded"}


def test_report_must_not_replace_what_is_read(inspect: Runner, tmp_path: Path) -> None:
    (tmp_path / "images.json").write_bytes((tmp_path / "images.npz").read_bytes())
    outcome = inspect("small.onnx", "--data", "images.json", "-o", "images.json")
    assert outcome.code == 2
    assert "is read by this run" in outcome.err


def test_interrupt_is_one_line_and_leaves_nothing(
    inspect: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxsep.inspection import inspect as story

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[story.__module__], "find_activation_memory", interrupt)
    outcome = inspect("small.onnx", "--no-measure", "-o", "r.html")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "error: interrupted; nothing was written"
    assert not (tmp_path / "r.html").exists()


def test_report_that_cannot_be_written(
    inspect: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxsep.model

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnxsep.model, "atomic_file", full)
    outcome = inspect("small.onnx", "-q", "--no-measure", "-o", "r.md")
    assert outcome.code == 6
    assert outcome.err == "error: cannot write r.md: No space left on device\n"


def test_names_out_of_a_model_cannot_move_the_cursor(inspect: Runner, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(path.read_bytes().replace(b"body", b"b\x1bdy"))
    outcome = inspect("small.onnx", "--no-measure")
    assert outcome.code == 0
    assert "b�dy" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


def test_help_shows_examples_and_exit_codes(inspect: Runner) -> None:
    outcome = inspect("--help")
    assert outcome.code == 0
    for words in ("Examples", "--data photos/", "Exit codes", "--profile", "--error", "--report"):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
