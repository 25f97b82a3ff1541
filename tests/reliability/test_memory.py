"""Memory over many images: it must not grow with their number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .killing import REPOSITORY

# What allocators keep back. The first activation alone, of 900 more images, is ten times this.
MOST_GROWTH_BYTES = 24 * 2**20


def peak_over(images: int, folder: Path) -> int:
    """Peak memory of a process that calibrates on so many image files."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.reliability.calibration import calibrate_over\n"
        "print(calibrate_over(Path(sys.argv[1]), int(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(images)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    few, many = (peak_over(count, tmp_path / str(count)) for count in (100, 1000))
    assert many - few <= MOST_GROWTH_BYTES
