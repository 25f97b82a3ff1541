"""A user who forces a form and a rank: options, plan, and the whole run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from onnxsep.decision import FORMS, Decision, Form
from onnxsep.errors import ConfigurationError
from onnxsep.options import Options
from onnxsep.pipeline import optimize
from onnxsep.plan import forced_plan

from .passes.helpers import model_from_text, normal
from .small_models import write_images, write_small_network


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    rank: float | None
    form: str
    message: str


REFUSED = [
    Refused("form alone", None, "cp", "give --rank too"),
    Refused("unknown form", 1, "cpd", "did you mean 'cp'"),
    Refused("fraction", 1.5, "depthwise-pointwise", "fractions only with --form cp"),
    Refused("fraction, other form", 1.5, "pointwise-depthwise", "fractions only with --form cp"),
    Refused("below 1", 0, "depthwise-pointwise", "--rank takes 1 or more"),
    Refused("zero", 0, "cp", "above 0 with --form cp"),
    Refused("not a number", float("nan"), "cp", "above 0 with --form cp"),
    Refused("not a number, default", float("nan"), "depthwise-pointwise", "takes 1 or more"),
    Refused("infinite", float("inf"), "cp", "above 0 with --form cp"),
    Refused("infinite, default", float("inf"), "depthwise-pointwise", "takes 1 or more"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_options_without_meaning(case: Refused) -> None:
    with pytest.raises(ConfigurationError, match=case.message):
        Options(rank=case.rank, form=case.form)  # type: ignore[arg-type]


STRIDED = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[1, 16, 8, 8] x) => (float[1, 32, 4, 4] y) {
        [wide] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
        [strided] y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, W2)
    }
"""


def test_what_runs_in_front_of_a_stride_counts_there() -> None:
    model = model_from_text(STRIDED, W1=normal(16, 16, 3, 3), W2=normal(32, 16, 3, 3))
    plan = forced_plan(model, 2, "pointwise-depthwise")
    assert dict(plan.decisions) == {"wide": Decision("pointwise-depthwise", 2)}
    # 2 · 32 · (16 · 4 + 9) > 32 · 16 · 9
    assert plan.refusals["strided"].code == "not-worth-it"
    assert plan.refusals["strided"].figures["separable_multiplications"] == 4672
    plan = forced_plan(model, 1.5, "cp")
    assert dict(plan.decisions) == {"wide": Decision("cp", 24), "strided": Decision("cp", 24)}


def test_the_rank_is_checked_for_the_form() -> None:
    model = model_from_text(STRIDED, W1=normal(16, 16, 3, 3), W2=normal(32, 16, 3, 3))
    with pytest.raises(ConfigurationError, match="whole number"):
        forced_plan(model, 1.5, "pointwise-depthwise")


@pytest.mark.parametrize("form", FORMS)
def test_a_forced_form_goes_through_the_whole_run(form: Form, tmp_path: Path) -> None:
    network = write_small_network(tmp_path / "small.onnx")
    images = write_images(tmp_path / "images.npz")
    options = Options(
        data=str(images),
        rank=0.5 if form == "cp" else 1,
        form=form,
        max_drop=100.0,
        min_snr_db=-100.0,
        measure_latency=False,
        passes=("fold_batchnorm", "separate"),
    )
    output = tmp_path / "result.onnx"
    record = optimize(network, options, output=output).record
    onnx.checker.check_model(str(output), full_check=True)
    separated = {row.name: row for row in record.separated}
    assert set(separated) == {"body", "tail"}
    assert all(row.detail.startswith(form) for row in separated.values())
    assert record.settings["form"] == form
    # 32 to 64 channels, 16x16 positions; see the network in small_models.
    expected = {
        "depthwise-pointwise": 32 * (9 + 64),
        "pointwise-depthwise": 64 * (32 + 9),
        "cp": 16 * (32 + 9 + 64),
    }
    assert separated["body"].multiplications_after == 16 * 16 * expected[form]
