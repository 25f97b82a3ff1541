"""Outputs beside the one that labels judge: nothing may be lost there in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import onnxsep.pipeline as story
from onnxsep.choose import Budget
from onnxsep.evaluation import Batches, Evaluation
from onnxsep.options import Options
from onnxsep.pipeline import optimize
from onnxsep.quality import Measure, Quality
from onnxsep.search.output_distance import OutputDistance

from .passes.helpers import model_from_text
from .small_models import small_network, write_images
from .test_evaluation import batches, linear


def two_outputs(path: Path) -> Path:
    """The small network, with what its second convolution gives as another output."""
    model = small_network()
    value = next(node for node in model.graph if node.name == "body").outputs[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 64, 16, 16])
    model.graph.outputs.append(value)
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path


def options(images: Path, **changes: object) -> Options:
    defaults = {
        "data": str(images),
        "measure_latency": False,
        "max_drop": 100.0,
        "passes": ("fold_batchnorm", "separate"),
    }
    return Options(**{**defaults, **changes})  # type: ignore[arg-type]


def test_other_outputs_keep_their_signal_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernels are nearly separable: at 20 dB nothing would be held back.
    monkeypatch.setattr(story, "DEFAULT_MIN_SNR_DB", 40.0)
    network = two_outputs(tmp_path / "two.onnx")
    images = write_images(tmp_path / "labelled.npz", labels=True)
    guarded = optimize(network, options(images)).record
    (row,) = guarded.quality
    assert row.measure == "top-1 accuracy"
    assert row.quality.unjudged == ("d",)
    assert row.quality.unjudged_snr_db >= 40
    assert "at least 40 dB in outputs that it does not judge" in guarded.budget
    assert any("'d' had to keep 40 dB" in warning for warning in guarded.warnings)

    free = optimize(network, options(images, min_snr_db=-100.0)).record
    assert free.quality[0].quality.unjudged_snr_db < 40
    assert "judge" not in free.budget
    assert len(free.separated) > len(guarded.separated)


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    others: dict[str, float]
    holds: bool


@pytest.mark.parametrize(
    "case",
    [
        Case("no other output", {}, True),
        Case("good enough", {"boxes": 21.0}, True),
        Case("one of two is not", {"boxes": 21.0, "angles": 19.0}, False),
        Case("nothing left", {"boxes": -200.0}, False),
    ],
    ids=lambda case: case.id,
)
def test_budget_of_outputs_that_nobody_judges(case: Case) -> None:
    budget = Budget(1.0, None, unjudged_snr_db=20.0, unit="points")
    quality = Quality(
        90.0, 90.0, 0.0, 0.0, {"scores": 3.0, **case.others}, 100, unjudged=tuple(case.others)
    )
    assert budget.holds(quality) == case.holds
    assert dataclasses.replace(budget, unjudged_snr_db=None).holds(quality)
    assert budget.describe().startswith("at most 1 point lost and at least 20 dB")


def test_rejection_asks_more_of_them() -> None:
    here = Quality(90.0, 90.0, 0.0, 0.0, {"boxes": 22.0}, 100, unjudged=("boxes",))
    there = dataclasses.replace(here, snr_db={"boxes": 17.0})
    found = Budget(1.0, None, unjudged_snr_db=20.0).after_rejection(here, there)
    assert found.unjudged_snr_db == 25.0
    assert found.max_drop == 1.0


def test_their_error_counts_among_the_divergences() -> None:
    reference = {"scores": 3 * np.eye(4, 3) - 1, "boxes": np.arange(8.0).reshape(4, 2)}
    distance = OutputDistance.choose(
        model_from_text(
            """<ir_version: 8, opset_import: ["" : 17]>
            net (float[N,3] x) => (float[N,3] scores, float[N,3] boxes) {
                scores = Neg (x) boxes = Abs (x) }"""
        ),
        Measure("accuracy", "scores", "%"),
        reference,
    )
    assert distance.scales == {"scores": "logits", "boxes": "unjudged"}
    moved = {**reference, "boxes": reference["boxes"] * 1.1}
    assert distance.of(reference, reference) == pytest.approx(0, abs=1e-9)
    # A tenth of the numbers: what varies from image to image is at most three times as small.
    assert 0.1 < distance.of(reference, moved) < 1


def labelled(values: np.ndarray, labels: np.ndarray) -> Batches:
    return batches(values, labels=labels)


def test_original_that_only_guesses_is_doubted() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(400, 4)).astype(np.float32)
    guessed = Evaluation(linear(1), labelled(values, generator.integers(0, 4, 400)))
    (doubt,) = guessed.doubts()
    assert "no more than guessing" in doubt
    assert "--label-offset" in doubt
    assert Evaluation(linear(1), labelled(values, values.argmax(axis=1))).doubts() == []


def test_few_images_are_said_to_choose_where_others_decide() -> None:
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    evaluation = Evaluation(linear(1), labelled(values, values.argmax(axis=1)))
    (alone,) = evaluation.doubts()
    (beside,) = evaluation.doubts(verified=True)
    assert alone.startswith("quality was measured on 30 images only")
    assert beside.startswith("ranks were chosen on 30 images only")
