"""The command as a stranger meets it: messages, exit codes, streams, reports."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxsep.cli import main

from ..comparison.models import chain, one_line, save, save_text
from ..small_models import write_images, write_small_network

QUICK = ("--no-latency", "--samples", "12")


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Runner = Callable[..., Outcome]


@pytest.fixture
def onnxsep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """Runs the command in a folder with two networks, images, and things that are neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_small_network(tmp_path / "a.onnx")
    write_small_network(tmp_path / "b.onnx", seed=1)
    save(chain(), tmp_path / "small.onnx")
    save_text(
        one_line("g", "float[N, 1, 4, 4] x", "float[N, 1, 4, 4] y", "y = Relu (x)"),
        tmp_path / "map.onnx",
    )
    write_images(tmp_path / "images.npz", labels=True)
    (tmp_path / "text.onnx").write_text("not a model at all\n" * 20)
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:5000])
    np.savez(tmp_path / "shape.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    np.savez(
        tmp_path / "labels.npz",
        images=np.zeros((4, 16, 16, 3), np.uint8),
        labels=np.array([0, 1, 2, 900]),
    )

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["onnxsep", *map(str, arguments)])
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
    Bad("no such model", ("a.onnx", "missing.onnx"), 3, r"no such file: missing\.onnx"),
    Bad("a folder", (".", "a.onnx"), 3, r"is a folder"),
    Bad("not ONNX", ("a.onnx", "text.onnx"), 3, r"text\.onnx is not an ONNX model"),
    Bad("truncated", ("cut.onnx", "a.onnx"), 3, r"cut\.onnx .*truncated"),
    Bad(
        "other inputs", ("a.onnx", "map.onnx"), 3, r"'image', which the second model \(map\.onnx\)"
    ),
    Bad("other size", ("a.onnx", "small.onnx"), 3, r"batchx3x16x16, against batchx3x8x8"),
    Bad("no such data", ("a.onnx", "b.onnx", "--data", "nowhere"), 3, r"nowhere: no such file"),
    Bad("wrong shape", ("a.onnx", "b.onnx", "--data", "shape.npz"), 3, r"image.*3×16×16"),
    Bad("labels", ("a.onnx", "b.onnx", "--data", "labels.npz"), 3, r"scores for 901 classes"),
    Bad("drop of a map", ("map.onnx", "map.onnx", "--max-drop", "1"), 2, r"use --fail-below-db"),
    Bad("preset", ("a.onnx", "b.onnx", "--preset", "imagnet"), 2, r"unknown preset 'imagnet'"),
    Bad("mean", ("a.onnx", "b.onnx", "--mean", "a,b"), 2, r"--mean takes numbers"),
    Bad("samples", ("a.onnx", "b.onnx", "--samples", "0"), 2, r"--samples takes 1 or more"),
    Bad("drop", ("a.onnx", "b.onnx", "--max-drop", "-1"), 2, r"--max-drop takes 0 or more"),
    Bad("decibels", ("a.onnx", "b.onnx", "--fail-below-db", "nan"), 2, r"takes a number"),
    Bad("threads", ("a.onnx", "b.onnx", "--threads", "100000"), 2, r"--threads takes 0 .* to \d+"),
    Bad("report's ending", ("a.onnx", "b.onnx", "-o", "x.pdf"), 2, r"\.json, \.csv, \.md, \.html"),
    Bad("report over model", ("a.onnx", "b.onnx", "-o", "b.onnx"), 2, r"read or written by this"),
    Bad("report nowhere", ("a.onnx", "b.onnx", "-o", "no/x.md"), 2, r"a folder that exists"),
    Bad("unknown option", ("a.onnx", "b.onnx", "--dat", "x"), 2, r"No such option: --dat"),
    Bad("one model", ("a.onnx",), 2, r"Missing argument '(?i:second)'"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_input_ends_with_one_sentence(case: Bad, onnxsep: Runner, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = onnxsep("compare", *case.arguments)
    assert outcome.code == case.code, outcome.err
    assert re.search(case.says, outcome.err.replace("\n", " ")), outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    if not case.says.startswith(("No such option", "Missing")):  # Typer prints its usage before.
        complaints = [line for line in outcome.err.splitlines() if not line.startswith("[")]
        assert len(complaints) == 1
        assert complaints[0].startswith("error: ")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_table_fits_and_keeps_to_its_stream(onnxsep: Runner) -> None:
    outcome = onnxsep("compare", "a.onnx", "b.onnx", "--data", "images.npz", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "loading the first model (a.onnx)" in outcome.err
    assert "loading" not in outcome.out
    for words in ("first   a.onnx", "top-1 accuracy", "McNemar", "worst sample", "came in"):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    assert "\x1b[" not in outcome.out + outcome.err


def test_json_goes_to_standard_output_alone(onnxsep: Runner) -> None:
    outcome = onnxsep("compare", "a.onnx", "a.onnx", "--json", "--samples", "4")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert (record["kind"], record["schema"]) == ("compare", 1)
    assert record["latency"]["speedup"] > 0
    assert record["settings"]["samples"] == 4


@pytest.mark.parametrize("suffix", ["json", "csv", "md", "html"])
def test_report_is_what_its_ending_says(suffix: str, onnxsep: Runner, tmp_path: Path) -> None:
    outcome = onnxsep("compare", "a.onnx", "b.onnx", "-q", "-o", f"r.{suffix}", *QUICK)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    text = (tmp_path / f"r.{suffix}").read_text(encoding="utf-8")
    if suffix == "json":
        assert json.loads(text)["kind"] == "compare"
    elif suffix == "csv":
        assert {line["group"] for line in csv.DictReader(text.splitlines())} >= {"model", "layer"}
    else:
        assert "a.onnx" in text


def test_limit_that_is_not_kept_ends_with_its_code_after_the_report(
    onnxsep: Runner, tmp_path: Path
) -> None:
    limits = ("--fail-below-db", "60", "--max-drop", "100")
    outcome = onnxsep("compare", "a.onnx", "b.onnx", "-o", "r.json", *limits, *QUICK)
    assert outcome.code == 5
    assert outcome.err.splitlines()[-1].startswith("error: --fail-below-db 60: measured")
    assert "--max-drop 100" not in outcome.err
    assert "signal-to-noise" in outcome.out
    gates = json.loads((tmp_path / "r.json").read_text())["gates"]
    assert [gate["holds"] for gate in gates] == [False, True]
    assert onnxsep("compare", "a.onnx", "a.onnx", "-q", *limits, *QUICK) == Outcome(0, "", "")


def test_interrupt_is_one_line(onnxsep: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxsep.comparison.story as story

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(story, "gather", interrupt)
    outcome = onnxsep("compare", "a.onnx", "b.onnx", "-o", "r.json")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "error: interrupted; nothing was written"


def test_names_out_of_a_model_cannot_move_the_cursor(onnxsep: Runner, tmp_path: Path) -> None:
    bytes_of = (tmp_path / "small.onnx").read_bytes()
    (tmp_path / "evil.onnx").write_bytes(bytes_of.replace(b"scores", b"sc\x1bres"))
    outcome = onnxsep("compare", "evil.onnx", "evil.onnx", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "sc�res" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


def test_help_shows_examples_and_exit_codes_and_imports_nothing_heavy(onnxsep: Runner) -> None:
    outcome = onnxsep("compare", "--help")
    for words in ("Examples", "--fail-below-db 25", "Exit codes", "--report", "--no-layers"):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
    script = (
        "import sys\nfrom onnxsep.cli import main\nsys.argv = ['onnxsep', 'compare', '--help']\n"
        "try:\n    main()\nfinally:\n"
        "    print('HEAVY', sorted({'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
