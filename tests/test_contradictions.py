"""Passes, precisions, plans and folders that rule each other out are told before the work."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from onnxsep.data import PRESETS
from onnxsep.errors import BudgetError, ConfigurationError, InputError, OutputError
from onnxsep.options import Options, check_front, check_output, check_report
from onnxsep.passes import PASS_NAMES
from onnxsep.pipeline import optimize
from onnxsep.report.record import UNREAD
from onnxsep.search.build import Builder

from .small_models import write_images, write_small_network

CLEAN = ("simplify", "fold_batchnorm")


@dataclasses.dataclass(frozen=True)
class Contradiction:
    id: str
    options: dict[str, Any]
    words: str


@pytest.mark.parametrize(
    "case",
    [
        Contradiction(
            "int8 without its pass",
            {"precision": "int8", "passes": (*CLEAN, "separate")},
            "needs the pass quantize",
        ),
        Contradiction(
            "quantize in float",
            {"precision": "fp32", "passes": (*CLEAN, "quantize")},
            "--precision fp32 rules out",
        ),
        Contradiction(
            "quantize in half",
            {"precision": "fp16", "passes": ("quantize",)},
            "--precision fp16 rules out",
        ),
        Contradiction("twice", {"passes": ("separate", "quantize", "separate")}, "a pass twice"),
    ],
    ids=lambda case: case.id,
)
def test_contradictions_are_refused(case: Contradiction) -> None:
    with pytest.raises(ConfigurationError, match=case.words):
        Options(**case.options)


def test_all_passes_go_with_every_precision() -> None:
    for precision in ("auto", "fp32", "int8", "fp16"):
        assert Options(precision=precision, passes=PASS_NAMES).precision == precision


@pytest.fixture
def nothing_is_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)


@pytest.mark.usefixtures("nothing_is_writable")
def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    with pytest.raises(OutputError, match="is not writable"):
        check_output(model, tmp_path / "result.onnx", force=False)
    with pytest.raises(OutputError, match="is not writable"):
        check_report(tmp_path / "report.html", model, tmp_path / "result.onnx")
    with pytest.raises(OutputError, match="is not writable"):
        check_front(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_front_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="that is a file"):
        check_front(tmp_path / "file")
    check_front(tmp_path / "new" / "folder")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_network(tmp_path_factory.mktemp("network") / "small.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz", count=60)


def quick(images: Path, **changes: Any) -> Options:
    defaults = {"data": str(images), "max_drop": 90.0, "measure_latency": False}
    return Options(**{**defaults, **changes})


def test_quantize_without_separate_means_int8(network: Path, images: Path) -> None:
    passes = ("fold_batchnorm", "quantize")
    record = optimize(network, quick(images, passes=passes)).record
    assert record.precision == "int8"
    assert {row.code for row in record.layers} == {"pass-not-run"}
    assert all("'separate' was not asked for" in row.detail for row in record.layers)


def test_int8_over_the_budget_is_taken_back(
    network: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hopeless(*_: object) -> NoReturn:
        raise BudgetError("no layer in float is enough")

    monkeypatch.setattr(Builder, "with_layers_in_float", hopeless)
    passes = ("fold_batchnorm", "quantize")
    record = optimize(network, quick(images, passes=passes, max_drop=0.0, min_snr_db=100.0)).record
    assert record.precision == "fp32"
    assert any("int8 was taken back" in warning for warning in record.warnings)


def test_plan_of_another_precision_is_refused(network: Path, images: Path, tmp_path: Path) -> None:
    passes = ("fold_batchnorm", "separate", "quantize")
    output = tmp_path / "result.onnx"
    made = quick(images, passes=passes, rank=2, precision="int8")
    plan = Path(optimize(network, made, output=output).record.plan)
    assert json.loads(plan.read_text())
    for precision in ("fp32", "fp16"):
        again = quick(images, passes=passes, plan=plan, precision=precision)
        with pytest.raises(ConfigurationError, match="is a plan for int8"):
            optimize(network, again)


def test_plan_that_cannot_be_read_is_told_before_the_work(tmp_path: Path, images: Path) -> None:
    with pytest.raises(InputError, match=r"no\.plan\.json"):
        optimize(tmp_path / "no.onnx", quick(images, plan=tmp_path / "no.plan.json"))


def test_same_images_for_fit_and_proof_are_noted(network: Path, images: Path) -> None:
    passes = ("fold_batchnorm",)
    record = optimize(network, quick(images, passes=passes, test_data=str(images))).record
    assert any("which the fits saw" in warning for warning in record.warnings)


def test_notes_about_images_and_a_model_that_is_quantized_already(
    network: Path, images: Path, tmp_path: Path
) -> None:
    large = np.repeat(np.repeat(np.load(images)["images"], 2, axis=1), 2, axis=2)
    np.save(tmp_path / "large.npy", large)
    options = quick(tmp_path / "large.npy", passes=("fold_batchnorm", "quantize"))
    output = tmp_path / "int8.onnx"
    record = optimize(network, options, output=output).record
    assert any("images of 32x32 were brought to the 16x16" in note for note in record.warnings)

    again = optimize(output, quick(images, passes=("fold_batchnorm", "quantize"))).record
    assert any("quantized already" in note for note in again.warnings)
    assert all(row.kind == UNREAD for row in again.layers)


def test_preprocessing_of_numbers_that_are_no_pixels_is_noted(
    network: Path, tmp_path: Path
) -> None:
    numbers = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "numbers.npy", numbers)
    options = quick(
        tmp_path / "numbers.npy", passes=("fold_batchnorm",), preprocessing=PRESETS["unit"]
    )
    record = optimize(network, options).record
    assert any("'unit' has no meaning" in note for note in record.warnings)
