"""The command as a stranger meets it: messages, exit codes, streams, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxsep.cli import main

from ..small_models import write_images, write_small_network

QUICK = ("--passes", "fold_batchnorm,separate", "--max-drop", "20")


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
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

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


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write_small_network(tmp_path / "small.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images.npz")


@dataclasses.dataclass(frozen=True)
class Bad:
    id: str
    arguments: tuple[str, ...]
    code: int
    says: str


BAD = [
    Bad("no such model", ("missing.onnx",), 3, r"no such file: missing\.onnx"),
    Bad("a folder", (".",), 3, r"is a folder"),
    Bad("empty", ("empty.onnx",), 3, r"empty\.onnx is empty"),
    Bad("not ONNX", ("text.onnx",), 3, r"text\.onnx .*not an ONNX model"),
    Bad("truncated", ("cut.onnx",), 3, r"cut\.onnx .*truncated"),
    Bad("no such data", ("small.onnx", "--data", "nowhere"), 3, r"nowhere: no such file or folder"),
    Bad("no images", ("small.onnx", "--data", "void"), 3, r"void: no images"),
    Bad("wrong shape", ("small.onnx", "--data", "shape.npz"), 3, r"image.*3×16×16"),
    Bad("a pickle", ("small.onnx", "--data", "pickle.npz"), 3, r"pickle\.npz"),
    Bad("target", ("small.onnx", "--target", "nnap"), 2, r"'nnap': did you mean 'nnapi'\?"),
    Bad("pass", ("small.onnx", "--passes", "fold"), 2, r"unknown pass 'fold'; known passes are"),
    Bad(
        "precision",
        ("small.onnx", "--precision", "int4"),
        2,
        r"unknown precision 'int4'; known are",
    ),
    Bad("preset", ("small.onnx", "--preset", "imagnet"), 2, r"unknown preset 'imagnet'.*imagenet"),
    Bad("mean", ("small.onnx", "--mean", "a,b"), 2, r"--mean takes numbers"),
    Bad("color", ("small.onnx", "--color", "blue"), 2, r"color must be one of"),
    Bad("metric", ("small.onnx", "--metric", "nothing"), 2, r"--metric takes package\.module:f"),
    Bad("samples", ("small.onnx", "--samples", "1"), 2, r"--samples takes 2 or more"),
    Bad("drop", ("small.onnx", "--max-drop", "-1"), 2, r"--max-drop takes 0 or more"),
    Bad("output folder", ("small.onnx", "-o", "no/where.onnx"), 2, r"the folder no does not exist"),
    Bad("over the input", ("small.onnx", "-o", "small.onnx"), 2, r"--force"),
    Bad("report over model", ("small.onnx", "--report", "small.onnx"), 2, r"choose another file"),
    Bad("no pass", ("small.onnx", "--passes", ""), 2, r"--passes names no pass"),
    Bad("no data name", ("small.onnx", "--data", ""), 2, r"--data and --test-data take a name"),
    Bad("threads", ("small.onnx", "--threads", "100000"), 2, r"--threads takes 0 .* to \d+"),
    Bad("infinite drop", ("small.onnx", "--max-drop", "inf"), 2, r"--max-drop takes 0 or more"),
    Bad("NaN decibels", ("small.onnx", "--min-snr", "nan"), 2, r"--min-snr takes a number"),
    Bad("over the data", ("small.onnx", "-o", "shape.npz"), 2, r"is no \.onnx file"),
    Bad(
        "report over data", ("small.onnx", "--report", "shape.npz"), 2, r"ending says what to write"
    ),
    Bad("over a device", ("small.onnx", "-o", "/dev/null"), 2, r"is no regular file"),
    Bad("unknown option", ("small.onnx", "--dat", "x"), 2, r"No such option:? '?--dat"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_input_ends_with_one_sentence(
    case: Bad, onnxsep: Runner, network: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("not a model at all\n" * 20)
    (tmp_path / "cut.onnx").write_bytes(network.read_bytes()[:5000])
    (tmp_path / "void").mkdir()
    np.savez(tmp_path / "shape.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    np.savez(tmp_path / "pickle.npz", images=np.array([{"a": 1}], dtype=object))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    outcome = onnxsep("optimize", *case.arguments)

    assert outcome.code == case.code, outcome.err
    assert re.search(case.says, outcome.err.replace("\n", " ")), outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    if case.id != "unknown option":  # Typer prints its usage before the sentence.
        complaints = [line for line in outcome.err.splitlines() if not line.startswith("[")]
        assert len(complaints) == 1
        assert complaints[0].startswith("error: ")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_default_output_lies_beside_the_model(
    onnxsep: Runner, network: Path, images: Path, tmp_path: Path
) -> None:
    outcome = onnxsep("optimize", network, "--data", images, "--report", "report.json", *QUICK)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "small.onnxsep.onnx").is_file()
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["schema"] == 1
    assert record["layers"][1]["action"] == "separated"
    # Progress and table keep to their streams.
    assert "loading small.onnx" in outcome.err
    assert "loading" not in outcome.out
    for words in ("body", "rank", "kept: only 3 input channels", "multiplications", "latency"):
        assert words in outcome.out
    # Paths stay whole, so that they can be copied.
    *lines, model, plan, report = outcome.out.splitlines()
    assert model.startswith("wrote ")
    assert model.endswith("small.onnxsep.onnx")
    assert plan.endswith("small.onnxsep.plan.json")
    assert report == "wrote report.json"
    assert max(map(len, lines)) <= 80
    assert "\x1b[" not in outcome.out + outcome.err


def test_json_goes_to_standard_output_alone(onnxsep: Runner, network: Path, images: Path) -> None:
    outcome = onnxsep("optimize", network, "--data", images, "--json", "--dry-run", *QUICK)
    assert outcome.code == 0
    record = json.loads(outcome.out)
    assert record["output"] == ""
    assert record["latency"]["speedup"] > 0


def test_dry_run_writes_nothing_and_quiet_says_nothing(
    onnxsep: Runner, network: Path, images: Path, tmp_path: Path
) -> None:
    outcome = onnxsep("optimize", network, "--data", images, "--dry-run", "--quiet", *QUICK)
    assert outcome == Outcome(0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npz", "small.onnx"]


def test_debug_shows_the_traceback(onnxsep: Runner) -> None:
    with pytest.raises(Exception, match="no such file"):
        onnxsep("optimize", "missing.onnx", "--debug")


def test_interrupt_is_one_line_and_leaves_nothing(
    onnxsep: Runner,
    network: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxsep.pipeline as story

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(story, "save_model", interrupt)
    outcome = onnxsep("optimize", network, "--data", images, *QUICK)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "error: interrupted; nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npz", "small.onnx"]


def test_names_out_of_a_model_cannot_move_the_cursor(
    onnxsep: Runner, network: Path, images: Path
) -> None:
    network.write_bytes(network.read_bytes().replace(b"body", b"b\x1bdy"))
    outcome = onnxsep("optimize", network, "--data", images, "--dry-run", "-v", *QUICK)
    assert outcome.code == 0
    assert "b�dy" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


@pytest.mark.parametrize("arguments", [("--help",), ("optimize", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\n"
        "from onnxsep.cli import main\n"
        f"sys.argv = ['onnxsep', *{arguments!r}]\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'numpy', 'scipy', 'onnx', 'onnx_ir', 'onnxruntime', 'onnxsim', 'PIL'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_shows_examples_and_exit_codes(onnxsep: Runner) -> None:
    outcome = onnxsep("optimize", "--help")
    assert outcome.code == 0
    for words in ("Examples", "--data photos/", "Exit codes", "--max-drop", "--test-data"):
        assert words in outcome.out
    assert max(len(line) for line in outcome.out.splitlines()) <= 80
