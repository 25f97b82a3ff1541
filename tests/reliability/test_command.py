"""The command where the system refuses: full temporary folder, files that may not be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxsep.cli import main

from ..small_models import write_images, write_small_network


def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Exit code and what was said."""
    monkeypatch.setattr(sys, "argv", ["onnxsep", "optimize", *arguments, "-q"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "error: No space left on device: standard output"),
        (OSError(28, "No space left on device", "/a/b"), "error: /a/b: No space left on device"),
        (PermissionError(13, "Permission denied", "/a/b"), "error: /a/b: Permission denied"),
        (OSError(5, "Input/output error"), "error: cannot write to standard output: Input/output"),
    ],
    ids=["no room", "no room for a file", "not allowed", "broken output"],
)
def test_what_the_system_refuses_is_one_sentence(
    error: OSError,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnxsep.pipeline as story

    def refused(*_: object, **__: object) -> None:
        raise error

    path = write_small_network(tmp_path / "small.onnx")
    monkeypatch.setattr(story, "gather_material", refused)
    code, err = ended(monkeypatch, capsys, str(path))
    assert code == 6
    assert err.startswith(said)
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_model_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_small_network(tmp_path / "small.onnx")
    write_images(tmp_path / "images.npz")
    command = [sys.executable, "-m", "onnxsep", "optimize", str(path), "-q"]
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        capabilities = "-dac_override,-dac_read_search"
        without = f"--bounding-set={capabilities}"
        probe = ["setpriv", without, f"--inh-caps={capabilities}"]
        try:
            subprocess.run([*probe, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("root cannot give up its rights here")
        command = [*probe, *command]
    path.chmod(0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        path.chmod(0o600)
    assert done.returncode == 3
    assert done.stderr == f"error: cannot read {path}: Permission denied\n"
