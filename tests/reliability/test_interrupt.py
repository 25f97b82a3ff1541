"""Ctrl-C in the middle of long work: one line, nothing half-written, nobody left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..small_models import write_images, write_small_network

# A worker that must be told twice is a worker that stays.
_GRACE_SECONDS = 60


def session_of(pid: str) -> int | None:
    """The session that a process belongs to."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # After the name: state, parent, group, session.
    return int(fields[3]) if fields[0] != "Z" else None


def left_running(session: int) -> list[str]:
    """Command lines of what still runs in a session."""
    running = [pid for pid in os.listdir("/proc") if pid.isdigit() and session_of(pid) == session]
    return [Path("/proc", pid, "cmdline").read_bytes().decode() for pid in running]


def interrupted_at(stage: str, folder: Path, *arguments: str, delay: float) -> tuple[int, str]:
    """Run ``optimize`` as a terminal would and press Ctrl-C in a stage; exit code and last line."""
    write_small_network(folder / "small.onnx")
    write_images(folder / "images.npz")
    temporary = folder / "temporary"
    temporary.mkdir()
    before = sorted(path.name for path in folder.iterdir())
    command = [sys.executable, "-m", "onnxsep", "optimize", "small.onnx", "--data", "images.npz"]
    run = subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(temporary / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert run.stderr is not None
        for line in run.stderr:
            if stage in line:
                break
        else:
            pytest.fail(f"there was no stage {stage!r}")
        time.sleep(delay)
        os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to all, workers too
        out, err = run.communicate(timeout=_GRACE_SECONDS)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert out == ""
    assert "Traceback" not in err, err
    assert left_running(run.pid) == []
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not list(temporary.glob("onnxsep*"))
    return run.returncode, err.splitlines()[-1]


@pytest.mark.parametrize(
    ("stage", "delay"),
    [
        pytest.param("loading small.onnx", 0.0, id="loading"),
        pytest.param("cleaning", 0.3, id="onnxsim at work"),
        pytest.param("measuring what each convolution", 0.2, id="fitting"),
    ],
)
def test_interrupted(stage: str, delay: float, tmp_path: Path) -> None:
    code, last = interrupted_at(stage, tmp_path, "--max-drop", "20", delay=delay)
    assert code == 130
    assert last == "error: interrupted; nothing was written"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "stage",
    [
        "loading images.npz",
        "running the original",
        "timing the forms",
        "timing whole plans",
        "fitting 2 convolutions",
        "calibrating int8",
        "timing the int8 result",
        "verifying",
    ],
)
def test_interrupted_in_every_stage(stage: str, tmp_path: Path) -> None:
    code, last = interrupted_at(stage, tmp_path, "--max-drop", "20", delay=0.0)
    assert code == 130
    assert last == "error: interrupted; nothing was written"
