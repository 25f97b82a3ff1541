"""Every reason for which separation leaves a convolution alone, and what it takes all the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.decision import Decision
from onnxsep.passes.base import Refusal
from onnxsep.passes.separate import Calibration, Separate

from .helpers import (
    assert_same_model,
    model_from_text,
    operators,
    seeded_feeds,
)
from .one_convolution import at_ranks, calibration_for, one_conv

RANK_ONE = Decision("depthwise-pointwise", 1)


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    code: str
    shape: tuple[int, ...]
    attributes: str = "group = 1"
    channels: int = 8
    weight: float = 1.0
    decision: Decision = RANK_ONE


REFUSALS = [
    Refused("pointwise", "pointwise", (12, 8, 1, 1)),
    Refused("depthwise", "depthwise", (8, 1, 3, 3), "group = 8"),
    Refused("grouped", "grouped", (12, 4, 3, 3), "group = 2"),
    Refused("few channels", "too-few-channels", (12, 3, 3, 3), channels=3),
    Refused("one output", "too-few-channels", (1, 8, 3, 3)),
    Refused(
        "pointwise-depthwise of few channels",
        "too-few-channels",
        (12, 3, 3, 3),
        channels=3,
        decision=Decision("pointwise-depthwise", 1),
    ),
    Refused("cp of few outputs", "too-few-channels", (4, 8, 3, 3), decision=Decision("cp", 8)),
    Refused(
        "fit too large",
        "fit-too-large",
        (64, 256, 3, 3),
        channels=256,
        decision=Decision("pointwise-depthwise", 2),
    ),
    Refused("NaN", "weight-not-finite", (12, 8, 3, 3), weight=float("nan")),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refuses_with_a_reason_and_leaves_the_model_alone(case: Refused) -> None:
    weight = np.full(case.shape, case.weight, np.float32)
    model = model_from_text(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1, {case.channels}, 5, 5] x) => (float[1, {case.shape[0]}, s, t] y) {{
            [conv] y = Conv <{case.attributes}> (x, W)
        }}
        """,
        W=weight,
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = Separate({"conv": case.decision}, None)(model)
    assert not result.modified
    assert [(refusal.node, refusal.code) for refusal in result.refusals] == [("conv", case.code)]
    assert result.refusals[0].reason
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_pointwise_depthwise_takes_few_outputs() -> None:
    model = one_conv(shape=(3, 16, 3, 3))
    result = Separate({"conv": Decision("pointwise-depthwise", 9)}, None)(model)
    assert [change.code for change in result.changes] == ["separated"]
    assert operators(model)["Add"] == 8


def test_a_plan_explains_what_it_left_out() -> None:
    reason = Refusal("conv", "over-budget", "costs too much quality")
    result = Separate({}, None, refusals={"conv": reason})(one_conv(shape=(1, 8, 3, 3)))
    assert result.refusals == [reason]
    (unexplained,) = Separate({}, None)(one_conv()).refusals
    assert unexplained.code == "not-chosen"


def test_computed_and_quantized_weights_are_refused() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1, 8, 5, 5] x, float[4, 8, 3, 3] V) => (float[1, 4, 3, 3] y,
            float[1, 4, 3, 3] z) {
            [fed] y = Conv (x, V)
            W = DequantizeLinear <axis = 0> (Q, scale)
            [quantized] z = Conv (x, W)
        }
        """,
        Q=np.ones((4, 8, 3, 3), np.int8),
        scale=np.ones(4, np.float32),
    )
    result = Separate(at_ranks({"fed": 1, "quantized": 1}), None)(model)
    assert {refusal.node: refusal.code for refusal in result.refusals} == {
        "fed": "weight-not-constant",
        "quantized": "already-quantized",
    }


def test_nan_in_the_data_is_a_refusal_that_names_it() -> None:
    model = one_conv()
    feeds = seeded_feeds(model, free={"batch": 4})
    feeds["x"][0, 0] = np.nan
    result = Separate(at_ranks({"conv": 1}), Calibration([feeds], 4, threads=1))(model)
    assert [refusal.code for refusal in result.refusals] == ["fit-failed"]
    assert "NaN" in result.refusals[0].reason
    assert not result.modified


def test_weight_of_nothing_but_zeros_goes_through() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[batch, 8, 6, 6] x) => (float[batch, 4, 4, 4] y) {
            [conv] a = Conv (x, W, B)
            y = Relu (a)
        }
        """,
        W=np.zeros((4, 8, 3, 3), np.float32),
        B=np.arange(4, dtype=np.float32),
    )
    original = model.clone()
    result = Separate(at_ranks({"conv": 1}), calibration_for(model))(model)
    assert len(result.changes) + len(result.refusals) == 1
    assert_same_model(original, model)
