"""The examples of README and docs do what they say: in a folder with a small network and images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import yaml
from PIL import Image

from ..passes.helpers import model_from_text, normal
from ..small_models import small_network, write_images
from .blocks import REPOSITORY, Block, all_blocks, blocks_of

_PADDED = """
    <ir_version: 8, opset_import: ["" : 17]>
    padded (float[1, 3, 16, 16] image) => (float[1, 8, 16, 16] y) {
        [pad] p = Pad (image, pads)
        [conv] y = Conv (p, W)
    }
"""
# The folder's search takes seconds; a machine that is busy may need minutes.
_TIMEOUT = 900
# A Conv of three channels, whose images have the class that the network itself gives them.
_PRESET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples speak of: models, images, data with the network's own classes as labels."""
    folder = tmp_path_factory.mktemp("examples")
    model = small_network()
    ir.save(model, folder / "model.onnx")
    other = model.clone()
    bias = other.graph.initializers["B1"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * np.float32(1.02), name="B1")
    ir.save(other, folder / "other.onnx")
    (folder / "base").mkdir()
    shutil.copy(folder / "model.onnx", folder / "base" / "model.onnx")
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    ir.save(model_from_text(_PADDED, W=normal(8, 3, 3, 3), pads=pads), folder / "padded.onnx")
    shutil.copy(REPOSITORY / "docs" / "examples" / "fuse_pad.py", folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for seed, name in enumerate(("train", "test")):
        file = write_images(folder / f"{name}.npz", 96, seed=seed)
        images = np.load(file)["images"]
        mean, std = (np.array(numbers, np.float32) for numbers in _PRESET)
        feeds = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        (scores,) = session.run(None, {"image": feeds})
        np.savez(file, images=images, labels=scores.argmax(axis=1))
    (folder / "photos").mkdir()
    for number, image in enumerate(np.load(folder / "train.npz")["images"]):
        Image.fromarray(image).save(folder / "photos" / f"{number:03d}.png")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """A copy for one example, and ``onnxsep`` and ``python`` of these tests on its path."""
    folder = tmp_path / "place"
    shutil.copytree(prepared, folder)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, arguments in (("onnxsep", "-m onnxsep"), ("python", "")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return folder


def bash(script: str, folder: Path, **environment: str) -> None:
    """Run a script to its end; its first failing command fails it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder.parent / 'programs'}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def write_files_before(block: Block, folder: Path) -> None:
    """The files that the page gave up to here."""
    for earlier in blocks_of(block.page):
        if earlier.mark == "file" and earlier.line < block.line:
            (folder / earlier.file).write_text(earlier.text, "utf-8")


def marked(language: str) -> list[object]:
    """The blocks to run, the slow ones marked as such."""
    return [
        pytest.param(block, id=block.id, marks=[pytest.mark.slow] if block.mark == "slow" else [])
        for block in all_blocks()
        if block.language == language and block.mark in ("test", "slow")
    ]


@pytest.mark.parametrize("block", marked("python"))
def test_python(block: Block, place: Path) -> None:
    write_files_before(block, place)
    (place / "example.py").write_text(block.text, "utf-8")
    bash("python example.py", place)


@pytest.mark.parametrize("block", marked("sh"))
def test_shell(block: Block, place: Path) -> None:
    write_files_before(block, place)
    bash(block.text, place)


@pytest.mark.parametrize("block", marked("yaml"))
def test_workflow(block: Block, place: Path) -> None:
    """The steps of a GitHub Actions job that are ours, one after the other."""
    write_files_before(block, place)
    (job,) = yaml.safe_load(block.text)["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    ours = [step for step in steps if not step.startswith("pip ")]
    assert len(ours) > 3
    summary = place / "summary.md"
    for step in ours:
        bash(step, place, GITHUB_STEP_SUMMARY=str(summary))
    assert summary.read_text("utf-8").count("###") >= 4


@pytest.mark.parametrize(
    "block",
    [pytest.param(one, id=one.id) for one in all_blocks() if one.language == "python"],
)
def test_python_of_every_block_can_be_read(block: Block) -> None:
    compile(block.text, block.id, "exec")


def test_there_are_examples_to_run() -> None:
    """A change of the marks' form must not leave everything out."""
    marks = [block.mark for block in all_blocks()]
    assert marks.count("test") >= 8
    assert marks.count("slow") >= 4
