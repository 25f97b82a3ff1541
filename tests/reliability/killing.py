"""Kill writers at moments chosen by chance, and look at what they leave."""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from onnxsep.files import sweep

from .writer import written_by

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# One save of the writer takes some twenty milliseconds; the first ones are slower.
_LONGEST_SECONDS = 0.12


def kill_writers(kind: str, folder: Path, times: int, seed: int) -> collections.Counter[str]:
    """Start a writer over the file that the last one left, kill it, look; ``times`` times.

    Args:
        kind: Of the writer, ``inside`` or ``beside``.
        folder: Empty.
        times: Kills.
        seed: Of the moments.

    Returns:
        How often the old and the new file was found, and how often something unfinished beside.

    Raises:
        AssertionError: The file was neither, or the next sweep left something.
    """
    chance = random.Random(seed)
    path = folder / "model.onnx"
    found: collections.Counter[str] = collections.Counter()
    last = -1
    for run in range(times):
        kill_writer(kind, path, run, chance.uniform(0, _LONGEST_SECONDS))
        if path.exists() or last >= 0:
            before, last = last, written_by(path)
            assert last in (before, run), f"the file is of run {last}"
            found["new" if last == run else "old"] += 1
        else:
            found["none yet"] += 1
        unfinished = [entry for entry in folder.iterdir() if entry.name.startswith(".onnxsep-")]
        found["with unfinished files"] += bool(unfinished)
        sweep(folder)
        names = sorted(entry.name for entry in folder.iterdir())
        most = 2 if kind == "beside" else 1
        assert len(names) <= most, names
        assert not any(name.startswith(".") for name in names), names
        if path.exists():
            assert written_by(path) == last, "sweeping took something of the file"
    return found


def kill_writer(kind: str, path: Path, seed: int, seconds: float) -> None:
    """Let a writer write for so long, and end it as nothing but SIGKILL does."""
    command = [sys.executable, "-m", "tests.reliability.writer", kind, str(path), str(seed)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        time.sleep(seconds)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        if writer.stdout is not None:
            writer.stdout.close()
