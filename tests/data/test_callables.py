"""The user's own function as a source of data."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxsep.data import Dataset, InputSpec, load_dataset
from onnxsep.errors import InputError

X = InputSpec("x", ("n", 2), np.dtype(np.float32))
COND = InputSpec("cond", (), np.dtype(bool))

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a fresh module in the current directory, with NumPy imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(sys.path)
    path = tmp_path / f"own_loader_{next(_numbers)}.py"
    yield path
    assert sys.path == before
    sys.modules.pop(path.stem, None)


def load(module: Path, body: str, *specs: InputSpec, samples: int | None = None) -> Dataset:
    module.write_text(f"import numpy as np\n{body}\n")
    return load_dataset(
        f"{module.stem}:batches",
        list(specs or (X,)),
        outputs=["y"],
        preprocessing=None,
        samples=samples,
        seed=0,
    )


def rows(data: Dataset) -> list[list[float]]:
    return [row.tolist() for feed in data.batches(2) for row in feed["x"]]


def test_a_generator_of_batches(module: Path) -> None:
    data = load(
        module,
        """
def batches():
    for first in (0, 3, 6):
        rows = np.arange(first, first + 3)
        yield {"x": np.stack([rows, rows], axis=1) * 1.0, "labels": rows, "targets": -rows}
""",
        samples=7,
    )
    assert rows(data) == [[i, i] for i in range(7)]
    assert data.labels is not None
    assert data.labels.tolist() == list(range(7))
    assert data.targets is not None
    assert data.targets["y"].tolist() == [-i for i in range(7)]
    assert data.source == f"function {module.stem}:batches, 7 samples"


def test_a_generator_that_never_ends_is_stopped(module: Path) -> None:
    data = load(module, "def batches():\n    while True: yield {'x': np.ones((300, 2))}")
    assert len(data) == 1000


def test_a_list_or_a_single_dict_will_do(module: Path) -> None:
    data = load(module, "def batches(): return {'x': [[1, 2], [3, 4.5]]}")
    assert rows(data) == [[1, 2], [3, 4.5]]


def test_values_without_a_batch_axis_belong_to_their_batch(module: Path) -> None:
    data = load(
        module,
        """
def batches():
    yield {"x": np.zeros((2, 2)), "cond": True}
    yield {"x": np.ones((3, 2)), "cond": False}
""",
        X,
        COND,
    )
    feeds = list(data.batches(8))
    assert [(len(feed["x"]), feed["cond"].item()) for feed in feeds] == [(2, True), (3, False)]


def test_images_are_preprocessed(module: Path) -> None:
    spec = InputSpec("x", ("n", 1, 4, 4), np.dtype(np.float32))
    data = load(module, "def batches(): yield {'images': np.full((2, 4, 4), 51, 'uint8')}", spec)
    (feed,) = data.batches(4)
    np.testing.assert_allclose(feed["x"], 0.2, rtol=1e-6)


def test_a_function_of_an_installed_package_is_found() -> None:
    with pytest.raises(InputError, match=r"itertools:count \(batch 1\): yielded int, not a dict"):
        load_dataset("itertools:count", [X], outputs=[], preprocessing=None, samples=None, seed=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def other(): pass", r"has no function 'batches'"),
        ("batches = 3", r"has no function 'batches'"),
        ("raise KeyError('oops')", r"cannot import.*KeyError: 'oops'"),
        ("def batches(:", r"cannot import.*SyntaxError"),
        ("import nosuchmodule", r"cannot import.*No module named 'nosuchmodule'.*installed"),
        ("def batches(): raise RuntimeError('no\\ndisk')", r"failed \(RuntimeError: no\)"),
        ("def batches(path): pass", r"failed \(TypeError: .*missing 1 required"),
        ("def batches(): return 7", r"failed \(TypeError: 'int' object is not iterable"),
        ("def batches(): return []", r"yielded nothing"),
        ("def batches(): yield [1, 2]", r"batch 1\): yielded list, not a dict"),
        ("def batches(): yield {'z': np.ones(2)}", r"batch 1\): 'z' is no input.*wants 'x'"),
        ("def batches(): yield {'labels': np.arange(2)}", r"no array for.*'x'"),
        ("def batches(): yield {'x': np.ones((2, 3))}", r"batch 1\): array 'x' has shape 2×3"),
        ("def batches(): yield {'x': [[1, 2], [3]]}", r"batch 1\): 'x' is no array"),
        ("def batches(): yield {'x': [[object()] * 2]}", r"of Python objects"),
        ("def batches(): yield {'x': np.full((1, 2), np.nan)}", r"holds a NaN.*\[0, 0\]"),
        (
            "def batches():\n yield {'x': np.ones((1, 2))}\n yield {'x': np.ones((1, 4))}",
            r"batch 2\): array 'x' has shape 1×4",
        ),
        (
            "def batches():\n yield {'x': np.ones((1, 2)), 'labels': [1]}\n"
            " yield {'x': np.ones((1, 2))}",
            r"batch 2\): 'labels' is not in every dict",
        ),
    ],
)
def test_what_the_function_does_wrong_is_named(module: Path, body: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load(module, body)
    assert str(caught.value).startswith(module.stem)


def test_samples_of_another_size_are_named(module: Path) -> None:
    spec = InputSpec("x", ("n", "k"), np.dtype(np.float32))
    body = "def batches():\n yield {'x': np.ones((1, 2))}\n yield {'x': np.ones((1, 3))}"
    with pytest.raises(InputError, match=r"batch 2\): 'x' has samples of shape \(3,\)"):
        load(module, body, spec)


def test_a_source_that_is_no_function_and_no_file() -> None:
    with pytest.raises(InputError, match=r"a:b:c: no such file or folder.*package\.module"):
        load_dataset("a:b:c", [X], outputs=[], preprocessing=None, samples=None, seed=0)
