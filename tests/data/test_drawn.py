"""Data that are made up: deterministic, in every shape, with the statistics of natural images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnxsep.data import PRESETS, Dataset, InputSpec, draw_dataset, split
from onnxsep.data.drawn import DrawnImages
from onnxsep.data.fields import power_law_field
from onnxsep.errors import ConfigurationError, InputError

FLOAT = np.dtype(np.float32)


def spec(*shape: int | str | None, name: str = "x", dtype: type = np.float32) -> InputSpec:
    return InputSpec(name, shape, np.dtype(dtype))


def draw(*specs: InputSpec, samples: int = 4, seed: int = 0) -> Dataset:
    return draw_dataset(specs, preprocessing=None, samples=samples, seed=seed)


def everything(data: Dataset) -> dict[str, np.ndarray]:
    feeds = list(data.batches(3))
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


@dataclass(frozen=True)
class ShapeCase:
    name: str
    spec: InputSpec
    drawn: tuple[int, ...]


SHAPES = [
    ShapeCase("color", spec("n", 3, 32, 24), (3, 32, 24)),
    ShapeCase("gray", spec("n", 1, 28, 28), (1, 28, 28)),
    ShapeCase("channels last", spec("n", 20, 30, 3), (20, 30, 3)),
    ShapeCase("dynamic size", spec("n", 1, None, "w"), (1, 224, 224)),
    ShapeCase("many channels", spec("n", 7, 16, 16), (7, 16, 16)),
    ShapeCase("one pixel", spec("n", 3, 1, 1), (3, 1, 1)),
    ShapeCase("narrow", spec("n", 3, 1, 50), (3, 1, 50)),
    ShapeCase("bytes", spec("n", 16, 16, 3, dtype=np.uint8), (16, 16, 3)),
    ShapeCase("half", spec("n", 3, 16, 16, dtype=np.float16), (3, 16, 16)),
    ShapeCase("signal", spec("n", 5, 100), (5, 100)),
    ShapeCase("dynamic signal", spec("n", 2, "t"), (2, 1024)),
    ShapeCase("volume", spec("n", 2, 6, 7, 8), (2, 6, 7, 8)),
    ShapeCase("dynamic volume", spec("n", 1, "d", "h", "w"), (1, 32, 32, 32)),
    ShapeCase("vector", spec("n", 9), (9,)),
    ShapeCase("one number each", spec("n"), ()),
    ShapeCase("tokens", spec("n", "length", dtype=np.int64), (16,)),
    ShapeCase("mask", spec("n", 6, dtype=np.bool_), (6,)),
    ShapeCase("static batch", spec(2, 3, 8, 8), (3, 8, 8)),
]


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_every_input_is_fed_in_its_shape_and_type(case: ShapeCase) -> None:
    fed = everything(draw(case.spec))["x"]
    assert fed.shape == (4, *case.drawn)
    assert fed.dtype == case.spec.dtype
    assert np.all(np.isfinite(fed))
    if fed[0].size > 3:
        assert not np.array_equal(fed[0], fed[1])


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_a_sample_depends_on_seed_and_index_alone(case: ShapeCase) -> None:
    few, many = draw(case.spec, samples=3, seed=5), draw(case.spec, samples=6, seed=5)
    np.testing.assert_array_equal(everything(few)["x"], everything(many)["x"][:3])
    np.testing.assert_array_equal(everything(many.subset([4]))["x"], everything(many)["x"][4:5])


def test_another_seed_draws_other_images() -> None:
    first, second = (everything(draw(SHAPES[0].spec, seed=seed))["x"] for seed in (0, 1))
    assert not np.any([np.array_equal(a, b) for a, b in zip(first, second, strict=True)])


def test_integers_are_zero_or_one_and_booleans_both() -> None:
    tokens = everything(draw(spec("n", 50, dtype=np.int32)))["x"]
    assert set(np.unique(tokens)) == {0, 1}
    mask = everything(draw(spec("n", 50, dtype=np.bool_)))["x"]
    assert set(np.unique(mask)) == {False, True}


def test_two_images_of_one_sample_differ() -> None:
    left, right = spec("n", 3, 16, 16, name="left"), spec("n", 3, 16, 16, name="right")
    fed = everything(draw(left, right))
    assert not np.array_equal(fed["left"], fed["right"])


def test_what_the_report_is_told() -> None:
    data = draw(spec("n", 3, 16, 16), samples=9, seed=4)
    assert (data.drawn, data.labels, data.targets) == (True, None, None)
    assert data.source == "9 drawn images (dead leaves), seed 4"
    assert data.preprocessing is not None
    assert (data.preprocessing.name, data.preprocessing.assumed) == ("imagenet", True)
    signals = draw(spec("n", 3, 16))
    assert signals.preprocessing is None
    assert signals.source == "4 drawn 1/f signals, seed 0"


def test_images_are_preprocessed_as_asked() -> None:
    specs = [spec("n", 3, 16, 16)]
    raw, inception = (
        everything(draw_dataset(specs, preprocessing=PRESETS[name], samples=3, seed=0))["x"]
        for name in ("raw", "inception")
    )
    np.testing.assert_allclose(raw / 127.5 - 1, inception, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.bool_, np.int64])
def test_a_fixed_batch_is_never_cut(dtype: type) -> None:
    data = draw(spec(3, 8, 8, 8), spec(name="cond", dtype=dtype), samples=12)
    fit, _ = split(data, 0.75, seed=0)
    for feed in fit.batches(3):
        assert feed["x"].shape == (3, 8, 8, 8)
        assert feed["cond"].item() == 1


def test_an_input_of_other_channels_beside_the_image_gets_a_preprocessing_of_its_own() -> None:
    inputs = [spec("n", 6, 8, 8, name="features"), spec("n", 3, 8, 8, name="image")]
    data = draw_dataset(inputs, preprocessing=PRESETS["imagenet"], samples=2, seed=0)
    (feed,) = data.batches(2)
    assert feed["features"].shape == (2, 6, 8, 8)
    alone = draw_dataset(inputs[1:], preprocessing=PRESETS["imagenet"], samples=2, seed=0)
    assert data.preprocessing is not None
    assert feed["image"].std() == pytest.approx(next(alone.batches(2))["image"].std(), rel=0.5)
    with pytest.raises(ConfigurationError, match="3 channels, but the model's input 'features'"):
        draw_dataset(inputs[:1], preprocessing=PRESETS["imagenet"], samples=2, seed=0)


@pytest.mark.parametrize(
    ("dtype", "values"), [(np.bool_, (True, False)), (np.int64, (1, 0))], ids=["bool", "int"]
)
def test_a_single_value_takes_both_values_in_halves(
    dtype: type, values: tuple[object, object]
) -> None:
    data = draw(spec("n", 3, 8, 8), spec(name="cond", dtype=dtype), samples=10)
    feeds = list(data.batches(4))
    assert [len(feed["x"]) for feed in feeds] == [4, 1, 4, 1]
    assert [feed["cond"].item() for feed in feeds] == [values[0]] * 2 + [values[1]] * 2
    assert all(isinstance(feed["cond"], np.ndarray) for feed in feeds)
    assert all(feed["cond"].shape == () and feed["cond"].dtype == dtype for feed in feeds)
    for part in split(data, 0.5, 0):
        assert {feed["cond"].item() for feed in part.batches(10)} == set(values)


def test_an_array_without_batch_axis_is_one_for_all() -> None:
    data = draw(spec("n", 3, 8, 8), spec(6, 2, name="a"), spec(name="scale"))
    first, second = data.batches(2)
    assert first["a"].shape == (6, 2)
    np.testing.assert_array_equal(first["a"], second["a"])
    assert first["scale"].item() == 1.0


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="no inputs"):
        draw()
    with pytest.raises(ConfigurationError, match="not 0"):
        draw(spec("n", 3, 8, 8), samples=0)
    with pytest.raises(ConfigurationError, match="seed must not be negative: -1"):
        draw(spec("n", 3, 8, 8), seed=-1)


# --- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2048,), (96, 128), (32, 32, 32)], ids=str)
@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.6])
def test_the_spectrum_of_a_field_falls_as_asked(shape: tuple[int, ...], exponent: float) -> None:
    field = power_law_field(np.random.default_rng(0), shape, exponent)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-3
    assert field.std() == pytest.approx(1.0, abs=1e-3)
    frequency = np.sqrt(
        sum(axis**2 for axis in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    )
    inside = (frequency > 0.02) & (frequency < 0.5)
    power = np.log(np.abs(np.fft.fftn(field))[inside])
    slope = np.polyfit(np.log(frequency[inside]), power, 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_a_field_of_one_element_is_zero() -> None:
    assert power_law_field(np.random.default_rng(0), (1, 1), 1.0).tolist() == [[0.0]]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """200 drawn images, 0 to 1: float64 (200, 32, 32, 3)."""
    drawn = DrawnImages(0, 200, 0, 32, 32, 3)
    return np.stack([drawn.image(index) for index in range(200)]) / 255.0


# The ranges below hold for CIFAR-10 and for ImageNet photographs cut to the same size, with room
# on both sides; noise and flat colours lie outside all of them.


def test_brightness_and_contrast_are_natural(images: np.ndarray) -> None:
    assert np.all(np.abs(images.mean(axis=(0, 1, 2)) - (0.48, 0.46, 0.42)) < 0.06)
    assert np.all(np.abs(images.std(axis=(0, 1, 2)) - 0.26) < 0.05)
    of_each = images.mean(axis=(1, 2, 3))
    assert 0.08 < of_each.std() < 0.18
    assert 0.14 < images.std(axis=(1, 2)).mean() < 0.28


def test_colors_are_correlated_but_not_gray(images: np.ndarray) -> None:
    red, green, blue = images.reshape(-1, 3).T
    assert 0.65 < np.corrcoef(red, blue)[0, 1] < np.corrcoef(red, green)[0, 1] < 0.99
    assert np.std(red - blue) > 1.3 * np.std(red + blue - 2 * green) / np.sqrt(3)


def test_edges_are_rare_and_strong(images: np.ndarray) -> None:
    steps = np.diff(images.mean(axis=-1), axis=2).ravel()
    kurtosis = np.mean((steps - steps.mean()) ** 4) / np.var(steps) ** 2
    assert kurtosis > 6  # 3 for Gaussian noise
    assert 0.04 < steps.std() < 0.12


def test_the_spectrum_is_that_of_natural_images(images: np.ndarray) -> None:
    light = images.mean(axis=-1)
    light = (light - light.mean(axis=(1, 2), keepdims=True)) * np.outer(*[np.hanning(32)] * 2)
    power = (np.abs(np.fft.fft2(light)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    inside = (frequency > 0.08) & (frequency < 0.45)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    assert -3.6 < slope < -2.0


def test_many_channels_are_unrelated() -> None:
    image = DrawnImages(0, 1, 0, 64, 64, 5).image(0).reshape(-1, 5)
    correlation = np.corrcoef(image.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.6
