"""Half precision with inputs and outputs as they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.interface import interface_difference
from onnxsep.passes.to_fp16 import ToFp16

from .helpers import model_from_text, run
from .quantize_cases import named, network, quantized, test_feeds

HALF_TOLERANCE = 5e-3


def test_weights_are_halved_and_the_interface_stays() -> None:
    before = network()
    result = ToFp16([test_feeds()])(before.clone())
    (change,) = result.changes
    assert change.code == "converted-to-fp16"
    assert change.figures["difference"] < HALF_TOLERANCE
    assert not interface_difference(before, result.model)
    weights = [value for value in result.model.graph.initializers.values() if value.shape]
    assert {value.dtype for value in weights} == {ir.DataType.FLOAT16}
    (expected,), (found,) = run(before, test_feeds()), run(result.model, test_feeds())
    assert 0 < np.abs(found - expected).max() < HALF_TOLERANCE * np.abs(expected).max()


def test_weight_beyond_half_precision_is_named() -> None:
    model = named(
        model_from_text(
            """<ir_version: 8, opset_import: ["" : 17]>
            net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y) { [only] y = Conv (x, L) }""",
            L=np.full((2, 2, 1, 1), 1e6, np.float32),
        )
    )
    (refusal,) = ToFp16()(model).refusals
    assert refusal.code == "weight-too-large"
    assert "'L' holds 1e+06" in refusal.reason


def test_overflow_of_an_activation_is_found_on_data() -> None:
    model = network()
    feeds = {"image": test_feeds()["image"] * np.float32(1e6)}
    result = ToFp16([feeds])(model)
    assert not result.modified
    assert [refusal.code for refusal in result.refusals] == ["value-too-large"]
    assert {v.dtype for v in model.graph.initializers.values() if v.shape} == {ir.DataType.FLOAT}


def test_nodes_can_stay_in_float() -> None:
    result = ToFp16(keep_float=frozenset({"right"}))(network())
    right = next(node for node in result.model.graph if node.name == "right")
    weight = right.inputs[1]
    assert weight is not None
    assert weight.dtype == ir.DataType.FLOAT


def test_quantized_and_converted_models_are_refused() -> None:
    integers = ToFp16()(quantized(network()).model)
    assert [refusal.code for refusal in integers.refusals] == ["already-quantized"]
    half = ToFp16()(ToFp16()(network()).model)
    assert [refusal.code for refusal in half.refusals] == ["no-float32-weights"]
