"""From 8-bit images to network inputs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from onnxsep.data import PRESETS, Preprocessing
from onnxsep.data.inputs import ImageGeometry
from onnxsep.data.preprocessing import assume_preprocessing
from onnxsep.errors import ConfigurationError

COLOR = ImageGeometry("NCHW", 32, 32, 3)
GRAY = ImageGeometry("NCHW", 28, 28, 1)
# One pixel: red 255, green 127, blue 0.
PIXEL = np.array([[[[255, 127, 0]]]], dtype=np.uint8)


@dataclass(frozen=True)
class PresetCase:
    preset: str
    expected: tuple[float, ...]


# Computed by hand from each network family's published preprocessing.
PIXELS = [
    PresetCase("raw", (255, 127, 0)),
    PresetCase("unit", (1, 127 / 255, 0)),
    PresetCase("unit_centered", (0.5, 127 / 255 - 0.5, -0.5)),
    PresetCase("inception", (1, 127 / 127.5 - 1, -1)),
    PresetCase("centered", (1, 0, -127 / 128)),
    PresetCase("imagenet", (0.515 / 0.229, (127 / 255 - 0.456) / 0.224, -0.406 / 0.225)),
    PresetCase("cifar10", (0.5086 / 0.2470, (127 / 255 - 0.4822) / 0.2435, -0.4465 / 0.2616)),
    PresetCase("caffe", (-104, 127 - 117, 255 - 123)),
]


@pytest.mark.parametrize("case", PIXELS, ids=lambda case: case.preset)
def test_presets(case: PresetCase) -> None:
    values = PRESETS[case.preset].resolve(COLOR, "x").apply(PIXEL)
    assert values.dtype == np.float32
    assert values.shape == (1, 3, 1, 1)
    np.testing.assert_allclose(values.ravel(), case.expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gray_unit", "gray_raw", "gray_inception", "mnist"])
def test_gray_is_luma_repeated_for_three_channels(name: str) -> None:
    preset = PRESETS[name]
    luma = round(0.299 * 255 + 0.587 * 127)
    expected = (luma * preset.scale - preset.mean[0]) / preset.std[0]
    np.testing.assert_allclose(preset.apply(PIXEL).ravel(), [expected] * 3, rtol=1e-5)


def test_presets_are_known_by_their_own_names() -> None:
    assert all(preset.name == name for name, preset in PRESETS.items())
    assert not any(preset.assumed for preset in PRESETS.values())


def test_channels_last() -> None:
    geometry = ImageGeometry("NHWC", 1, 1, 3)
    assert PRESETS["raw"].resolve(geometry, "x").apply(PIXEL).shape == (1, 1, 1, 3)


def test_the_layout_follows_the_input_unless_it_contradicts() -> None:
    assert PRESETS["unit"].resolve(COLOR, "x").layout == "NCHW"
    fixed = dataclasses.replace(PRESETS["unit"], layout="NHWC")
    with pytest.raises(ConfigurationError, match=r"NHWC does not fit the model's input 'x'.*NCHW"):
        fixed.resolve(COLOR, "x")


def test_numbers_per_channel_must_fit_the_channels() -> None:
    with pytest.raises(ConfigurationError, match=r"'imagenet'.*3 channels.*'x' has 1"):
        PRESETS["imagenet"].resolve(GRAY, "x")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"std": (0.0,)}, "positive"),
        ({"scale": -1.0}, "positive"),
        ({"mean": ()}, "mean has 0"),
        ({"mean": (1.0, 2.0), "std": (1.0, 2.0, 3.0)}, "mean has 2, std has 3"),
        ({"mean": (math.nan,)}, "finite"),
        ({"crop": 0.0}, "crop"),
        ({"layout": "NWHC"}, "NCHW, NHWC: 'NWHC'"),
        ({"color": "yuv"}, "rgb, bgr, gray: 'yuv'"),
        ({"resize": "fit"}, "cover, stretch: 'fit'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_numbers_without_meaning_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Preprocessing(**wrong)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("raw", "raw (rgb, x)"),
        ("gray_unit", "gray_unit (gray, x / 255)"),
        ("inception", "inception (rgb, x / 127.5 − 1)"),
        ("caffe", "caffe (bgr, x − (104, 117, 123))"),
        ("mnist", "mnist (gray, (x / 255 − 0.1307) / 0.3081)"),
    ],
)
def test_the_report_gets_a_formula(preset: str, said: str) -> None:
    assert PRESETS[preset].describe() == said


@dataclass(frozen=True)
class AssumptionCase:
    name: str
    geometry: ImageGeometry | None
    expected: str


@pytest.mark.parametrize(
    "case",
    [
        AssumptionCase("color", COLOR, "imagenet"),
        AssumptionCase("gray", GRAY, "gray_unit"),
        AssumptionCase("other", ImageGeometry("NCHW", 8, 8, 5), "unit"),
        AssumptionCase("none", None, "unit"),
    ],
    ids=lambda case: case.name,
)
def test_assumptions_say_so(case: AssumptionCase) -> None:
    assumed, said = assume_preprocessing(case.geometry)
    assert (assumed.name, assumed.assumed) == (case.expected, True)
    assert "assumed" in said or case.geometry is None
