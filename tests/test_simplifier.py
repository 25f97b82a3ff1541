"""onnxsim in a process of its own: what comes back, and what is said when nothing does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxsep import simplifier
from onnxsep.errors import InputError
from onnxsep.simplifier import simplify_model

from .passes.helpers import model_from_text, operators

MODEL = model_from_text(
    """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,4] x) => (float[N,4] y) {
        k = Constant <value = float[4] {1,2,3,4}> () e = Exp (k) y = Mul (x, e)
    }"""
)


def test_simplified_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that lie in the current folder are not imported there."""
    for name in ("onnxsim", "onnx", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')\n")
    monkeypatch.chdir(tmp_path)
    before = ir.to_proto(MODEL).SerializeToString(deterministic=True)
    assert "Exp" not in operators(simplify_model(MODEL))
    assert ir.to_proto(MODEL).SerializeToString(deterministic=True) == before


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of the Python that would run onnxsim.

    Its arguments are -P -m onnxsep.simplifier SOURCE RESULT.
    """

    def make(script: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return path

    return make


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", r"it crashed \(signal 11\)"),
        ("echo one >&2; kill -KILL $$", r"it crashed \(signal 9\)"),
        ("echo Traceback >&2; echo 'RuntimeError: no such thing' >&2; exit 1",
         "onnxsim failed: RuntimeError: no such thing$"),
        (r"printf 'caf\351' >&2; exit 1", "onnxsim failed: caf\N{REPLACEMENT CHARACTER}$"),
        ("exit 3", "onnxsim failed: exit code 3$"),
        ("exit 0", "onnxsim failed: exit code 0$"),
        ("echo nonsense > $5", "is not an ONNX model"),
    ],
    ids=["crash", "killed", "exception", "strange letters", "silent", "no result", "nonsense"],
)  # fmt: skip
def test_failure_is_an_input_error(
    interpreter: Callable[[str], Path], script: str, message: str
) -> None:
    interpreter(script)
    with pytest.raises(InputError, match=message) as caught:
        simplify_model(MODEL)
    assert "\n" not in str(caught.value)


def test_endless_run_is_ended(
    interpreter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter("exec sleep 600")
    monkeypatch.setattr(simplifier, "_TIME_LIMIT_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"onnxsim took more than 0\.1 s"):
        simplify_model(MODEL)


def test_interpreter_that_cannot_be_started(interpreter: Callable[[str], Path]) -> None:
    interpreter("true").chmod(0o644)
    with pytest.raises(InputError, match="onnxsim could not be run: Permission denied"):
        simplify_model(MODEL)


def test_result_is_what_the_process_wrote(interpreter: Callable[[str], Path]) -> None:
    interpreter("cp $4 $5")
    assert operators(simplify_model(MODEL)) == operators(MODEL)


def test_a_result_of_no_use_is_told_without_the_name_of_a_temporary_file(
    interpreter: Callable[[str], Path],
) -> None:
    interpreter(': > "$5"')
    with pytest.raises(InputError, match=r"^onnxsim's result is of no use: it is empty"):
        simplify_model(MODEL)


def test_a_graph_that_is_all_constant_is_left_alone() -> None:
    constant = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[3,4] x) => (int64[2] y) { y = Shape (x) }"""
    )
    with pytest.raises(InputError, match=r"^onnxsim's result is of no use: it holds no ONNX graph"):
        simplify_model(constant)


def test_no_file_is_left(
    interpreter: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    interpreter("cp $4 $5; kill -SEGV $$")
    with pytest.raises(InputError):
        simplify_model(MODEL)
    assert not list(folder.iterdir())


def test_largest_models_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxsep.weights.PROTOBUF_LIMIT_BYTES", 0)
    with pytest.raises(InputError, match="above 2 GB"):
        simplify_model(MODEL)
