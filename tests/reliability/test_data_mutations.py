"""Damaged data and configuration files: one sentence or sound values, never anything else."""

from __future__ import annotations

import io
import random
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxsep.bench.yaml_reader import read_yaml
from onnxsep.data import InputSpec, load_dataset
from onnxsep.errors import OnnxsepError

from .mutations import BYTE_KINDS, KINDS

SPECS = [InputSpec("x", ("n", 3, 16, 16), np.dtype(np.float32))]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
# Damage that needs nothing but bytes.
DAMAGES = sorted(BYTE_KINDS - {"one bit outside the weights"})
YAML = b"""
models:
  - {name: a, path: a.onnx}
base: &base
  threads: [1, 2]
cells:
  - <<: *base
    provider: cpu  # a comment
    text: "caf\\u00e9"
"""


def image(kind: str, **options: object) -> Callable[[], bytes]:
    def encode() -> bytes:
        stream = io.BytesIO()
        Image.fromarray(PIXELS[0]).save(stream, kind, **options)
        return stream.getvalue()

    return encode


def archive(*, compressed: bool) -> Callable[[], bytes]:
    def encode() -> bytes:
        stream = io.BytesIO()
        save = np.savez_compressed if compressed else np.savez
        save(stream, images=PIXELS, labels=np.arange(6))
        return stream.getvalue()

    return encode


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones((6, 3, 16, 16), np.float32))
    return stream.getvalue()


# The file, in a folder of images where it is one, and what it holds.
FILES: dict[str, Callable[[], bytes]] = {
    "data.npz": archive(compressed=False),
    "packed.npz": archive(compressed=True),
    "data.npy": array,
    "folder/a.png": image("PNG"),
    "folder/b.jpg": image("JPEG"),
    "folder/c.gif": image("GIF"),
    "folder/d.bmp": image("BMP"),
    "folder/e.ppm": image("PPM"),
    "folder/f.webp": image("WEBP"),
    "folder/labels.csv": lambda: b"file,label\na.png,3\n",
}


def damaged(content: bytes, number: int) -> bytes:
    kind = DAMAGES[number % len(DAMAGES)]
    return KINDS[kind](random.Random(number), content)


def read(path: Path) -> None:
    """Take every sample; the values must be what a network can be fed with."""
    source = path.parent if path.parent.name == "folder" else path
    dataset = load_dataset(
        str(source), SPECS, outputs=["y"], preprocessing=None, samples=None, seed=0
    )
    for feeds in dataset.batches(4):
        assert feeds["x"].shape[1:] == (3, 16, 16)
        assert feeds["x"].dtype == np.float32
        assert np.isfinite(feeds["x"]).all()


def one_sentence(work: Callable[[], object]) -> bool:
    """Whether it refused; any error must be ours and a single line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except OnnxsepError as error:
        said = str(error)
    else:
        return False
    assert "\n" not in said
    assert len(said) < 700
    return True


def refusals(name: str, folder: Path, count: int) -> int:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if path.name == "labels.csv":
        (path.parent / "a.png").write_bytes(FILES["folder/a.png"]())
    content = FILES[name]()
    path.write_bytes(content)
    assert not one_sentence(lambda: read(path)), "the undamaged file is refused"
    refused = 0
    for number in range(count):
        path.write_bytes(damaged(content, number))
        refused += one_sentence(lambda: read(path))
    return refused


@pytest.mark.parametrize("name", FILES)
def test_damaged_data(name: str, tmp_path: Path) -> None:
    assert refusals(name, tmp_path, 160) > 20


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_thousands_of_damaged_data(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusals(name, tmp_path, 3000) > 300
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20, "a file of a kilobyte took a gigabyte"


def test_damaged_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(YAML)
    assert not one_sentence(lambda: read_yaml(path))
    refused = 0
    for number in range(600):
        path.write_bytes(damaged(YAML, number))
        refused += one_sentence(lambda: read_yaml(path))
    assert 60 < refused < 600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: !!python/object/apply:os.system [echo hacked]\n", "tag"),
        (b"a: !!python/name:os.system\n", "tag"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b" + b", *b" * 300 + b"]\n", "aliases"),
        (b"[" * 100_000, "levels"),
        (b"{a: " * 100_000, "levels"),
        (b"- " * 100_000, "levels"),
        (b"a: &a [*a]\n", "levels|alias|valid"),
        (b"a: " + b"9" * 900_000, "no value"),
        (b"a: 1\nb: \x00\n", "characters"),
        (b"x" * 1_000_001, "larger than"),
        (b"", "empty"),
    ],
    ids=["tag", "name", "laughs", "lists", "maps", "dashes", "self", "digits", "NUL", "long", "0"],
)
def test_yaml_that_means_harm(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(content)
    with pytest.raises(OnnxsepError, match=said):
        read_yaml(path)
