"""A calibration over many image files, and the memory it takes."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
from PIL import Image

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.data import input_specs, load_dataset
from onnxsep.evaluation import batches_of

from ..small_models import small_network

_IMAGE_SIDE = 128


def write_image_files(folder: Path, count: int) -> None:
    """Noise as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (_IMAGE_SIDE, _IMAGE_SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png", compress_level=0)


def calibrate_over(folder: Path, images: int) -> int:
    """Collect the statistics of every activation; the process's peak memory in bytes."""
    write_image_files(folder, images)
    model = small_network()
    specs = input_specs(model)
    dataset = load_dataset(
        str(folder),
        specs,
        outputs=[value.name or "" for value in model.graph.outputs],
        preprocessing=None,
        samples=None,
        seed=0,
    )
    assert len(dataset) == images
    collect_statistics(model, batches_of(dataset, None))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
