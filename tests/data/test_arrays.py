""".npz and .npy as data: what fits the model, what is preprocessed, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxsep.data import PRESETS, Dataset, InputSpec, load_dataset
from onnxsep.errors import InputError

FLOAT = np.dtype(np.float32)
X = InputSpec("x", ("n", 3, 4, 4), FLOAT)
GRAY = InputSpec("g", ("n", 1, 4, 4), FLOAT)
VECTOR = InputSpec("v", ("n", 5), FLOAT)
SCALAR = InputSpec("cond", (), np.dtype(bool))
ANCHORS = InputSpec("anchors", (6, 2), FLOAT)


def load(
    path: Path,
    *specs: InputSpec,
    outputs: tuple[str, ...] = ("y",),
    samples: int | None = None,
) -> Dataset:
    return load_dataset(
        str(path),
        list(specs),
        outputs=list(outputs),
        preprocessing=PRESETS["unit"],
        samples=samples,
        seed=0,
    )


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def everything(data: Dataset) -> dict[str, np.ndarray]:
    feeds = list(data.batches(2))
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def ramp(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_arrays_with_the_names_of_the_inputs_are_used_as_they_are(tmp_path: Path) -> None:
    x, v = ramp(7, 3, 4, 4), ramp(7, 5)
    data = load(saved(tmp_path, x=x, v=v, other=ramp(2)), X, VECTOR)
    fed = everything(data)
    np.testing.assert_array_equal(fed["x"], x)
    np.testing.assert_array_equal(fed["v"], v)
    assert fed.keys() == {"x", "v"}
    assert data.preprocessing is None
    assert not data.drawn
    assert data.source == "data.npz, 7 samples"


@dataclass(frozen=True)
class CastCase:
    name: str
    array: np.ndarray
    dtype: type


@pytest.mark.parametrize(
    "case",
    [
        CastCase("double to float", ramp(2, 5, dtype=np.float64), np.float32),
        CastCase("half to float", ramp(2, 5, dtype=np.float16), np.float32),
        CastCase("float to half", ramp(2, 5), np.float16),
        CastCase("other byte order", ramp(2, 5).astype(">f4"), np.float32),
        CastCase("long to int", ramp(2, 5, dtype=np.int64), np.int32),
        CastCase("bytes to long", ramp(2, 5, dtype=np.uint8), np.int64),
        CastCase("boolean", ramp(2, 5) > 3, np.bool_),
    ],
    ids=lambda case: case.name,
)
def test_types_are_converted_where_no_value_suffers(tmp_path: Path, case: CastCase) -> None:
    spec = InputSpec("v", ("n", 5), np.dtype(case.dtype))
    fed = everything(load(saved(tmp_path, v=case.array), spec))["v"]
    assert fed.dtype == case.dtype
    np.testing.assert_array_equal(fed, case.array)


@dataclass(frozen=True)
class WrongCase:
    name: str
    arrays: dict[str, np.ndarray]
    said: str
    specs: tuple[InputSpec, ...] = (X,)
    outputs: tuple[str, ...] = ("y",)


def with_nan(array: np.ndarray, *index: int, value: float = np.nan) -> np.ndarray:
    array[index] = value
    return array


GOOD = ramp(2, 3, 4, 4)
WRONG = [
    WrongCase(
        "no such array", {"X": GOOD}, r"none of its arrays .'X'. is an input of the model .'x'"
    ),
    WrongCase("one of two", {"x": GOOD}, r"no array for.*'v'.*it has 'x'", (X, VECTOR)),
    WrongCase("channels", {"x": ramp(2, 1, 4, 4)}, r"'x' has shape 2×1×4×4.*wants N×3×4×4"),
    WrongCase("channels last", {"x": ramp(2, 4, 4, 3)}, r"has shape 2×4×4×3"),
    WrongCase("rank", {"x": ramp(3, 4, 4)}, r"has shape 3×4×4"),
    WrongCase("single value", {"x": np.array(1.0)}, r"'x' holds no samples"),
    WrongCase("no samples", {"x": GOOD[:0]}, r"'x' holds no samples"),
    WrongCase(
        "no channels", {"v": ramp(2, 0)}, "has shape 2×0", (InputSpec("v", (1, "k"), FLOAT),)
    ),
    WrongCase("bytes", {"x": GOOD.astype(np.uint8)}, r"'x' is uint8.*float32.*called 'images'"),
    WrongCase("strings", {"x": GOOD.astype(str)}, r"'x' is <U\d+, but"),
    WrongCase("complex", {"x": GOOD.astype(complex)}, r"'x' is complex128, but"),
    WrongCase(
        "lengths", {"x": GOOD, "v": ramp(3, 5)}, r"'v' has shape 3×5.*2 samples", (X, VECTOR)
    ),
    WrongCase("nan", {"x": with_nan(GOOD.copy(), 1, 2, 0, 3)}, r"'x' holds a NaN.*\[1, 2, 0, 3\]"),
    WrongCase(
        "infinity", {"x": with_nan(GOOD.copy(), 1, 0, 0, 0, value=-np.inf)}, r"\[1, 0, 0, 0\]"
    ),
    WrongCase("too large", {"x": GOOD.astype(float) * 1e38}, r"ranges from 0.0 to 9.5e\+39"),
    WrongCase(
        "too large integers",
        {"v": ramp(2, 5, dtype=np.int64) - 2**40},
        r"ranges from -1099511627776",
        (InputSpec("v", ("n", 5), np.dtype(np.int32)),),
    ),
    WrongCase("label count", {"x": GOOD, "labels": ramp(3, dtype=int)}, r"'labels' has shape 3"),
    WrongCase("label type", {"x": GOOD, "labels": ramp(2)}, r"'labels' must be whole.*float32 2"),
    WrongCase("one-hot", {"x": GOOD, "labels": ramp(2, 3, dtype=int)}, r"'labels' must be whole"),
    WrongCase("negative label", {"x": GOOD, "labels": np.array([3, -1])}, r"'labels' holds -1"),
    WrongCase("target count", {"x": GOOD, "targets": ramp(1, 2)}, r"'targets' has shape 1×2"),
    WrongCase("target nan", {"x": GOOD, "y": with_nan(ramp(2), 1)}, r"'y' holds a NaN.*\[1\]"),
    WrongCase(
        "whose target",
        {"x": GOOD, "targets": GOOD},
        r"'targets' does not say which of the 2 outputs.*targets_a",
        outputs=("a", "b"),
    ),
    WrongCase("float images", {"images": GOOD}, r"'images' must be uint8.*float32.*called 'x'"),
    WrongCase(
        "images channels first",
        {"images": np.zeros((2, 3, 8, 8), np.uint8)},
        r"'images' must be uint8 of shape N×H×W.*not uint8 2×3×8×8",
    ),
    WrongCase("images for a vector", {"images": GOOD}, r"no array for.*'v'", (VECTOR,)),
    WrongCase("no images", {"images": np.zeros((0, 4, 4, 3), np.uint8)}, "holds no samples"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_what_does_not_fit_is_named(tmp_path: Path, case: WrongCase) -> None:
    path = saved(tmp_path, **case.arrays)
    with pytest.raises(InputError, match=case.said) as caught:
        load(path, *case.specs, outputs=case.outputs)
    assert str(caught.value).startswith(f"{path}: ")


def test_labels_and_targets(tmp_path: Path) -> None:
    target = ramp(4, 2)
    path = saved(
        tmp_path, x=ramp(4, 3, 4, 4), labels=np.array([[3], [1], [0], [2]]), targets=target
    )
    data = load(path, X)
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [3, 1, 0, 2]
    assert data.targets is not None
    np.testing.assert_array_equal(data.targets["y"], target)


def test_targets_of_several_outputs(tmp_path: Path) -> None:
    path = saved(tmp_path, x=GOOD, targets_a=ramp(2), b=ramp(2, 3))
    data = load(path, X, outputs=("a", "b", "c"))
    assert data.targets is not None
    assert {name: array.shape for name, array in data.targets.items()} == {"a": (2,), "b": (2, 3)}


def test_an_input_called_labels_is_an_input(tmp_path: Path) -> None:
    spec = InputSpec("labels", ("n",), np.dtype(np.int64))
    data = load(saved(tmp_path, x=GOOD, labels=np.array([-5, 7])), X, spec)
    assert everything(data)["labels"].tolist() == [-5, 7]
    assert data.labels is None


def test_samples_are_spread_over_the_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path, v=np.repeat(np.arange(100.0), 5).reshape(100, 5), labels=np.arange(100))
    data = load(path, VECTOR, samples=10)
    assert data.labels is not None
    assert (data.labels // 10).tolist() == list(range(10))
    assert everything(data)["v"][:, 0].tolist() == data.labels.tolist()
    assert data.source == "data.npz, 10 samples"


# --- images inside an archive ------------------------------------------------------------------


def test_images_are_preprocessed_like_files(tmp_path: Path) -> None:
    images = ramp(5, 4, 4, 3, dtype=np.uint8)
    data = load(saved(tmp_path, images=images), X)
    np.testing.assert_allclose(
        everything(data)["x"], images.transpose(0, 3, 1, 2) / 255.0, rtol=1e-6
    )
    assert data.preprocessing is not None
    assert data.preprocessing.name == "unit"


def test_an_input_called_images_takes_both_kinds(tmp_path: Path) -> None:
    spec = InputSpec("images", ("n", 3, 4, 4), FLOAT)
    as_bytes = load(saved(tmp_path, images=np.full((2, 4, 4, 3), 51, np.uint8)), spec)
    np.testing.assert_allclose(everything(as_bytes)["images"], 0.2, rtol=1e-6)
    as_floats = load(saved(tmp_path, images=GOOD), spec)
    np.testing.assert_array_equal(everything(as_floats)["images"], GOOD)


def test_images_beside_other_inputs(tmp_path: Path) -> None:
    path = saved(
        tmp_path, images=ramp(3, 4, 4, 3, dtype=np.uint8), v=ramp(3, 5), cond=np.array(True)
    )
    (feed,) = load(path, X, VECTOR, SCALAR).batches(8)
    assert {name: array.shape for name, array in feed.items()} == {
        "x": (3, 3, 4, 4),
        "v": (3, 5),
        "cond": (),
    }


def test_images_of_another_size_are_fitted(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 16, 3), np.uint8)
    images[:, :, 4:12] = 255
    assert np.all(everything(load(saved(tmp_path, images=images), X))["x"][..., 1:3] == 1.0)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1)], ids=str)
def test_gray_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path, images=np.full((2, *shape), 51, np.uint8))
    for spec, channels in ((GRAY, 1), (X, 3)):
        fed = everything(load(path, spec))[spec.name]
        np.testing.assert_allclose(fed, np.full((2, channels, 4, 4), 0.2), rtol=1e-6)


def test_color_images_for_a_gray_model(tmp_path: Path) -> None:
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[..., 1] = 255
    fed = everything(load(saved(tmp_path, images=images), GRAY))["g"]
    np.testing.assert_allclose(fed, np.full((1, 1, 4, 4), 150 / 255), rtol=1e-6)


def test_a_dynamic_size_takes_the_images_own(tmp_path: Path) -> None:
    path = saved(tmp_path, images=np.zeros((2, 37, 41, 3), np.uint8))
    spec = InputSpec("x", ("n", 3, "h", "w"), FLOAT)
    assert everything(load(path, spec))["x"].shape == (2, 3, 37, 41)


# --- inputs without a batch axis ---------------------------------------------------------------


def test_one_value_for_all_samples(tmp_path: Path) -> None:
    anchors = ramp(6, 2, dtype=np.float64)
    path = saved(tmp_path, x=ramp(5, 3, 4, 4), cond=np.array(False), anchors=anchors)
    feeds = list(load(path, X, SCALAR, ANCHORS).batches(4))
    assert [len(feed["x"]) for feed in feeds] == [4, 1]
    for feed in feeds:
        assert (feed["cond"].shape, feed["cond"].item()) == ((), False)
        assert feed["anchors"].dtype == np.float32
        np.testing.assert_array_equal(feed["anchors"], anchors)


def test_one_value_per_sample(tmp_path: Path) -> None:
    path = saved(tmp_path, x=ramp(5, 3, 4, 4), cond=np.array([1, 1, 0, 0, 0], bool))
    feeds = list(load(path, X, SCALAR).batches(4))
    assert [(len(feed["x"]), feed["cond"].item()) for feed in feeds] == [(2, True), (3, False)]


def test_a_value_per_sample_needs_one_for_each(tmp_path: Path) -> None:
    path = saved(tmp_path, x=ramp(5, 3, 4, 4), cond=np.array([True, False]))
    with pytest.raises(InputError, match="'cond' has shape 2, but there are 5 samples"):
        load(path, X, SCALAR)


# --- .npy --------------------------------------------------------------------------------------


def test_a_lone_array_of_floats_is_used_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD.astype(np.float64))
    (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
    data = load(tmp_path / "a.NPY", X)
    np.testing.assert_array_equal(everything(data)["x"], GOOD)
    assert data.preprocessing is None


def test_a_lone_array_of_bytes_holds_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 4, 4, 3), 51, np.uint8))
    data = load(tmp_path / "a.npy", X)
    np.testing.assert_allclose(everything(data)["x"], 0.2, rtol=1e-6)
    assert data.preprocessing is not None


def test_a_lone_array_of_bytes_for_a_byte_input_is_used_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(3, 3, 4, 4, dtype=np.uint8))
    spec = InputSpec("x", ("n", 3, 4, 4), np.dtype(np.uint8))
    assert everything(load(tmp_path / "a.npy", spec))["x"].sum() == sum(range(144))


def test_a_lone_array_cannot_feed_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD)
    with pytest.raises(InputError, match=r"one array cannot feed.*2 inputs.*'v'.*\.npz"):
        load(tmp_path / "a.npy", X, VECTOR)


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_text("")
    with pytest.raises(InputError, match=r"a\.mat: not a supported kind of data; give a folder"):
        load(tmp_path / "a.mat", X)


def test_npz_without_any_fitting_array_names_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, foo=np.zeros(3), bar=np.zeros(3))
    specs = [InputSpec("x", ("n", 3, 8, 8), np.dtype(np.float32))]
    with pytest.raises(InputError, match=r"'foo', 'bar'.*'x'"):
        load_dataset(str(path), specs, outputs=["y"], preprocessing=None, samples=None, seed=0)
