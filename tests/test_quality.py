"""Which measure fits which outputs, and its figures against a computation by hand."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from onnxsep.errors import ConfigurationError, InputError
from onnxsep.quality import (
    SNR_CEILING_DB,
    Measure,
    Outputs,
    Quality,
    assess,
    choose_measure,
    load_metric,
    peak_signal_to_noise_db,
    signal_to_noise_db,
)
from tests.passes.helpers import normal

IMAGES = 8


def scores(classes: int = 10, *extra: int, seed: int = 0) -> np.ndarray:
    return normal(IMAGES, classes, *extra, seed=seed)


@dataclasses.dataclass(frozen=True)
class Case:
    """Outputs and data of a network, and what is measured on it."""

    id: str
    outputs: Mapping[str, np.ndarray]
    kind: str
    output: str
    unit: str
    labels: bool = False
    targets: tuple[str, ...] = ()
    class_maps: tuple[str, ...] = ()


def accuracy(id: str, outputs: Mapping[str, np.ndarray], output: str) -> Case:
    return Case(id, outputs, "accuracy", output, "%", labels=True)


def snr(id: str, *outputs: np.ndarray) -> Case:
    return Case(id, {f"o{index}": o for index, o in enumerate(outputs)}, "snr", "", "dB")


def agreement(id: str, output: np.ndarray) -> Case:
    return Case(id, {"o": output}, "agreement", "o", "%")


def pixels(id: str, output: np.ndarray, *, known: bool = False) -> Case:
    return Case(id, {"o": output}, "pixel-agreement", "o", "%", class_maps=("o",) if known else ())


CASES = [
    accuracy("scores", {"s": scores()}, "s"),
    accuracy("scores as 1x1 maps", {"s": scores(10, 1, 1)}, "s"),
    accuracy("half precision", {"s": scores().astype(np.float16)}, "s"),
    accuracy("scores behind a map", {"map": scores(16, 4, 4), "s": scores()}, "s"),
    accuracy("too few classes come first", {"few": scores(3), "s": scores()}, "s"),
    accuracy("integers are no scores", {"i": scores().astype(np.int64), "s": scores()}, "s"),
    accuracy("one row for all images", {"one": normal(1, 10), "s": scores()}, "s"),
    Case("targets", {"y": normal(IMAGES, 3, 4, 4)}, "psnr", "y", "dB", targets=("y",)),
    Case("targets of the second output", {"a": scores(), "y": normal(IMAGES, 1, 4, 4)},
         "psnr", "y", "dB", targets=("y",)),
    agreement("no data, scores", scores()),
    agreement("no data, scores as 1x1 maps", scores(10, 1, 1)),
    snr("no data, one score", scores(1)),
    snr("no data, two heads", scores(), scores(5)),
    snr("no data, vector of vectors", normal(IMAGES, 100, 4)),
    snr("no data, numbers without axis", normal(IMAGES)),
    snr("no data, integers", np.ones((IMAGES, 10), np.int64)),
    pixels("segmentation", scores(21, 6, 5)),
    pixels("segmentation of volumes", scores(21, 3, 6, 5)),
    pixels("segmentation into two, behind a Softmax", scores(2, 6, 5), known=True),
    snr("two unknown channels", scores(2, 6, 5)),
    snr("colours", scores(3, 6, 5)),
    snr("colours last, square", normal(IMAGES, 6, 6, 3)),
    snr("colours last, not square", normal(IMAGES, 6, 5, 3)),
    snr("many channels last, square", normal(IMAGES, 6, 6, 21)),
    snr("several maps", scores(21, 6, 5), scores(21, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_measure_fits_the_outputs(case: Case) -> None:
    measure = choose_measure(
        case.outputs,
        labels=np.arange(IMAGES) if case.labels else None,
        targets={name: np.zeros_like(case.outputs[name]) for name in case.targets} or None,
        class_maps=frozenset(case.class_maps),
    )
    assert (measure.kind, measure.output, measure.unit) == (case.kind, case.output, case.unit)
    assert measure.has_drop == (case.kind != "snr")
    assert measure.title


def test_of_several_scores_the_labels_mean_those_that_are_right() -> None:
    labels = np.arange(IMAGES)
    right = np.eye(10, dtype=np.float32)[labels]
    outputs = {"embedding": scores(64), "right": right, "worse": scores(10)}
    assert choose_measure(outputs, labels=labels, targets=None).output == "right"
    # The classes of the labels begin at 1 here, so it is these scores that are right.
    shifted = {"right": right, "background first": np.eye(11, dtype=np.float32)[labels + 1]}
    found = choose_measure(shifted, labels=labels, targets=None, label_offset=1)
    assert (found.output, found.label_offset) == ("background first", 1)


def test_own_metric_wins_over_everything() -> None:
    measure = choose_measure(
        {"s": scores()},
        labels=np.arange(IMAGES),
        targets={"s": scores()},
        metric=lambda outputs, labels, targets: 1.0,
    )
    assert measure.kind == "metric"


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Data that do not fit the outputs, and what is said about them."""

    id: str
    outputs: Mapping[str, np.ndarray]
    message: str
    labels: np.ndarray | None = None
    targets: Mapping[str, np.ndarray] | None = None
    label_offset: int = 0


MISFITS = [
    Misfit("too many classes", {"s": scores()}, r"scores for 11 classes .*'s' \(8, 10\)",
           labels=np.arange(3, 11)),
    Misfit("too many classes after the shift", {"s": scores()}, "for 11 classes",
           labels=np.arange(2, 10), label_offset=1),
    Misfit("labels from -1", {"s": scores()}, "labels begin at -1, but the first class is 0",
           labels=np.arange(-1, 7)),
    Misfit("shifted below 0", {"s": scores()}, "shift them with --label-offset",
           labels=np.arange(8), label_offset=-1),
    Misfit("no scores at all", {"m": scores(3, 4, 4)}, "need class scores",
           labels=np.arange(IMAGES)),
    Misfit("scores of other images", {"s": normal(3, 10)}, "8 classes and 8 images",
           labels=np.arange(IMAGES)),
    Misfit("targets of no output", {"y": scores(3, 4, 4)}, "targets 'z'",
           targets={"z": scores(3, 4, 4)}),
    Misfit("targets with channels last", {"y": scores(3, 4, 5)},
           r"'y' have shape \(8, 4, 5, 3\), but the outputs are 'y' \(8, 3, 4, 5\)",
           targets={"y": normal(IMAGES, 4, 5, 3)}),
]  # fmt: skip


@pytest.mark.parametrize("case", MISFITS, ids=lambda case: case.id)
def test_data_that_do_not_fit_are_refused(case: Misfit) -> None:
    with pytest.raises(InputError, match=case.message):
        choose_measure(
            case.outputs,
            labels=case.labels,
            targets=case.targets,
            label_offset=case.label_offset,
        )


def one_hot(classes: list[int], count: int = 4) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


def assessed(
    measure: Measure,
    original: np.ndarray,
    value: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    targets: Outputs | None = None,
) -> Quality:
    return assess(
        measure, {"o": original}, {"o": value}, labels=labels, targets=targets, samples=len(value)
    )


def test_accuracy_by_hand() -> None:
    labels = np.array([0, 1, 2, 3])
    quality = assessed(
        Measure("accuracy", "o", "%"),
        one_hot([0, 1, 2, 0]),
        one_hot([0, 1, 0, 0]),
        labels=labels,
    )
    assert (quality.original, quality.value, quality.drop) == (75, 50, 25)
    # Changes 0, 0, -1, 0: standard deviation sqrt(1/4 - 1/16), over two (the root of four images).
    assert quality.drop_error == pytest.approx(100 * math.sqrt(3 / 16) / 2)
    assert quality.samples == 4


def test_images_that_change_sides_both_ways_make_the_drop_uncertain() -> None:
    quality = assessed(
        Measure("accuracy", "o", "%"),
        one_hot([0, 0, 0, 0]),
        one_hot([1, 0, 0, 0]),
        labels=np.array([0, 1, 2, 3]),
    )
    assert quality.drop == 25
    swapped = assessed(
        Measure("accuracy", "o", "%"),
        one_hot([0, 0, 0, 0]),
        one_hot([1, 1, 1, 1]),
        labels=np.array([0, 1, 2, 3]),
    )
    assert swapped.drop == 0
    assert swapped.drop_error == pytest.approx(100 * math.sqrt(1 / 2) / 2)


def test_label_offset_is_added() -> None:
    quality = assessed(
        Measure("accuracy", "o", "%", label_offset=1),
        one_hot([1, 2, 3]),
        one_hot([1, 2, 0]),
        labels=np.array([0, 1, 2]),
    )
    assert quality.original == 100
    assert quality.value == pytest.approx(200 / 3)


def test_agreement_by_hand() -> None:
    quality = assessed(
        Measure("agreement", "o", "%"), one_hot([0, 1, 2, 3, 0]), one_hot([0, 1, 2, 3, 1])
    )
    assert (quality.original, quality.value, quality.drop) == (100, 80, 20)
    assert quality.drop_error == pytest.approx(100 * math.sqrt(0.8 * 0.2) / math.sqrt(5))


def test_pixel_agreement_by_hand() -> None:
    """Two images of four pixels: all of the first agree, one of the second."""
    first = np.zeros((2, 4, 2, 2), np.float32)
    first[:, 0] = 1
    second = first.copy()
    second[1, 3, 0, :] = 2
    second[1, 3, 1, 0] = 2
    quality = assessed(Measure("pixel-agreement", "o", "%"), first, second)
    assert quality.value == pytest.approx(100 * (1 + 0.25) / 2)
    assert quality.drop_error == pytest.approx(100 * 0.375 / math.sqrt(2))


def test_psnr_by_hand() -> None:
    truth = np.full((2, 1, 2, 2), 0.5, np.float32)
    near, far = truth + 0.1, truth + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
    quality = assessed(Measure("psnr", "o", "dB"), near, far, targets={"o": truth})
    # Mean squared errors 0.01 and 0.01: 20 dB; 0.01 and 0.0001: the mean of 20 and 40 dB.
    assert quality.original == pytest.approx(20, abs=1e-4)
    assert quality.value == pytest.approx(30, abs=1e-3)
    assert quality.drop == pytest.approx(-10, abs=1e-3)


def test_peak_is_that_of_the_targets() -> None:
    truth = np.full((1, 1, 2, 2), 200, np.uint8)
    assert peak_signal_to_noise_db(truth, truth + 25.5) == pytest.approx(20)
    assert peak_signal_to_noise_db(truth, np.full(truth.shape, 1e9)) == pytest.approx(
        20 * math.log10(255 / 55)
    )
    assert peak_signal_to_noise_db(truth / 255, truth / 255) == pytest.approx(200)


def test_image_with_nan_is_as_wrong_as_can_be() -> None:
    truth = np.zeros((2, 1, 2, 2))
    value = truth + 0.1
    assert peak_signal_to_noise_db(truth, value) == pytest.approx(20)
    value[0, 0, 0, 0] = np.nan
    assert peak_signal_to_noise_db(truth, value) == pytest.approx(10)


def test_own_metric_is_given_everything() -> None:
    labels, targets = np.arange(3), {"o": np.ones(3)}
    seen = []

    def metric(outputs: Outputs, labels: np.ndarray | None, targets: Outputs | None) -> float:
        seen.append((labels, targets))
        return float(outputs["o"].sum())

    quality = assessed(
        Measure("metric", "", "", metric=metric),
        np.ones((3, 2)),
        np.zeros((3, 2)),
        labels=labels,
        targets=targets,
    )
    assert (quality.original, quality.value, quality.drop) == (6, 0, 6)
    assert seen == [(labels, targets)] * 2


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (math.nan, "returned nan, not a finite number"),
        (math.inf, "returned inf, not a finite number"),
        (None, "raised TypeError"),
        ("high", "raised ValueError"),
        (KeyError("logits"), "raised KeyError: 'logits'"),
    ],
    ids=str,
)
def test_bad_metric_is_the_users_error(result: object, message: str) -> None:
    def metric(outputs: Outputs, labels: object, targets: object) -> float:
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value]

    with pytest.raises(ConfigurationError, match=message):
        assessed(Measure("metric", "", "", metric=metric), scores(), scores())


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (Measure("accuracy", "o", "%"), "accuracy needs labels"),
        (Measure("psnr", "o", "dB"), "PSNR needs targets"),
        (Measure("metric", "", ""), "no metric function"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_measure_without_its_data_is_refused(measure: Measure, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        assessed(measure, scores(), scores())


@dataclasses.dataclass(frozen=True)
class Noise:
    """Two arrays, and the signal-to-noise of the second against the first."""

    id: str
    reference: np.ndarray
    value: np.ndarray
    expected: float


SIGNAL = np.array([1.0, -1.0, 1.0, -1.0], np.float32)  # power 1 about its mean
INFINITE = np.array([np.inf, -1.0, 1.0, np.nan], np.float32)

NOISES = [
    Noise("equal", SIGNAL, SIGNAL, SNR_CEILING_DB),
    Noise("hundredth of the power", SIGNAL, SIGNAL + np.float32(0.1), 20),
    Noise("as much as the signal", SIGNAL, np.zeros(4, np.float32), 0),
    Noise("twice the signal", SIGNAL, -SIGNAL, -6.0206),
    Noise("an offset is no signal", SIGNAL + 100, SIGNAL + np.float32(100.1), 20),
    Noise("a constant output is its own signal", np.full(4, 10.0), np.full(4, 11.0), 20),
    Noise("zeros, matched", np.zeros(4), np.zeros(4), SNR_CEILING_DB),
    Noise("zeros, missed", np.zeros(4), np.ones(4), -SNR_CEILING_DB),
    Noise("rounding of doubles", SIGNAL.astype(float), SIGNAL * (1 + 1e-12), SNR_CEILING_DB),
    Noise("half precision does not overflow", np.array([6e4, -6e4], np.float16),
          np.array([6e4, -6e4], np.float16) * np.float16(0.9), 20),
    Noise("NaN", SIGNAL, np.array([1, np.nan, 1, -1], np.float32), -SNR_CEILING_DB),
    Noise("infinity", SIGNAL, np.array([1, np.inf, 1, -1], np.float32), -SNR_CEILING_DB),
    Noise("NaN and infinity, matched", INFINITE, INFINITE, SNR_CEILING_DB),
    Noise("NaN and infinity, matched, and noise", INFINITE, INFINITE + np.float32(0.1), 20),
    Noise("NaN and infinity, missed", INFINITE, SIGNAL, -SNR_CEILING_DB),
    Noise("nothing but NaN", np.full(3, np.nan), np.full(3, np.nan), SNR_CEILING_DB),
    Noise("another shape", SIGNAL, SIGNAL[:3], -SNR_CEILING_DB),
    Noise("enormous", SIGNAL, np.full(4, 1e38, np.float32), -SNR_CEILING_DB),
    Noise("integers, equal", np.arange(100), np.arange(100), SNR_CEILING_DB),
    Noise("integers, one of a hundred", np.arange(100), np.r_[7, 1:100], 20),
    Noise("integers, all", np.arange(100), np.arange(100) + 1, 0),
    Noise("truth values, one of ten", np.ones(10, bool), np.r_[[False], np.ones(9, bool)], 10),
    Noise("texts", np.array(["a", "b"], object), np.array(["a", "c"], object), 3.0103),
    Noise("nothing", np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64), SNR_CEILING_DB),
    Noise("nothing, floats", np.zeros((0, 4)), np.zeros((0, 4)), SNR_CEILING_DB),
]  # fmt: skip


@pytest.mark.parametrize("case", NOISES, ids=lambda case: case.id)
def test_signal_to_noise(case: Noise) -> None:
    found = signal_to_noise_db(case.reference, case.value)
    assert found == pytest.approx(case.expected, abs=0.05)
    assert abs(found) <= SNR_CEILING_DB


def test_snr_measure_is_the_worst_output() -> None:
    original = {"a": SIGNAL, "b": SIGNAL}
    other = {"a": SIGNAL, "b": SIGNAL + np.float32(0.1)}
    quality = assess(
        Measure("snr", "", "dB"), original, other, labels=None, targets=None, samples=4
    )
    assert quality.original == SNR_CEILING_DB
    assert quality.value == quality.worst_snr_db == pytest.approx(20, abs=0.01)
    assert quality.snr_db["a"] == SNR_CEILING_DB
    assert math.isfinite(quality.drop)


@pytest.mark.parametrize("kind", ["accuracy", "agreement"])
def test_nan_is_no_class(kind: str) -> None:
    """argmax would take NaN for the largest score, and class 0 for right."""
    measure = Measure("accuracy" if kind == "accuracy" else "agreement", "o", "%")
    original = one_hot([0, 0, 0, 0])
    quality = assessed(
        measure, original, np.full_like(original, np.nan), labels=np.zeros(4, np.int64)
    )
    assert quality.value == 0
    assert quality.worst_snr_db == -SNR_CEILING_DB


def test_nan_in_one_pixel_is_one_wrong_pixel() -> None:
    original = scores(5, 2, 2)
    value = original.copy()
    value[0, 3, 0, 0] = np.nan
    quality = assessed(Measure("pixel-agreement", "o", "%"), original, value)
    assert quality.value == pytest.approx(100 * (1 - 1 / (4 * IMAGES)))


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; modules that were imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_metric_is_found_in_the_current_folder(user_folder: Path) -> None:
    (user_folder / "my_metrics.py").write_text("def top1(outputs, labels, targets): return 42.0\n")
    before = list(sys.path)
    assert load_metric("my_metrics:top1")({}, None, None) == 42.0
    assert sys.path == before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my_metrics", "takes package.module:function, not 'my_metrics'"),
        (":top1", "takes package.module:function"),
        ("my_metrics:", "takes package.module:function"),
        ("absent_metrics:top1", "No module named 'absent_metrics'"),
        (".relative:top1", "--metric .relative:top1: TypeError"),
        ("my_metrics:absent", "has no attribute 'absent'"),
        ("my_metrics:NUMBER", "is no function"),
        ("broken_metrics:top1", "SyntaxError"),
        ("failing_metrics:top1", "ZeroDivisionError"),
    ],
)
def test_metric_that_cannot_be_had(user_folder: Path, reference: str, message: str) -> None:
    (user_folder / "my_metrics.py").write_text("NUMBER = 3\n")
    (user_folder / "broken_metrics.py").write_text("def top1(\n")
    (user_folder / "failing_metrics.py").write_text("1 / 0\n")
    before = list(sys.path)
    with pytest.raises(ConfigurationError, match=message):
        load_metric(reference)
    assert sys.path == before
