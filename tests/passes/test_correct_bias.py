"""Correction of biases: what it repairs, what it leaves alone, and when it takes itself back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.constants import constant_array
from onnxsep.errors import InputError
from onnxsep.passes.correct_bias import CorrectBias
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate
from onnxsep.quality import signal_to_noise_db

from .helpers import interface, model_from_text, normal, operators, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
LARGEST_WEIGHT = 127
BATCHES = 6


def batches(first: int = 0, count: int = BATCHES) -> list[dict[str, np.ndarray]]:
    """Positive images, so that errors of weights do not average out."""
    return [
        {"x": np.abs(normal(4, 3, 8, 8, seed=seed)) + 1} for seed in range(first, first + count)
    ]


def off_grid(*shape: int, seed: int) -> np.ndarray:
    """Weights that are all rounded down, by 0.45 of a step of 1."""
    whole = np.random.default_rng(seed).integers(-20, 20, shape)
    weight = (whole + 0.45).astype(np.float32)
    weight[:, 0, 0, 0] = LARGEST_WEIGHT  # makes the step 1
    return weight / 64


def on_grid(*shape: int, seed: int) -> np.ndarray:
    return np.asarray(np.floor(off_grid(*shape, seed=seed) * 64) / 64, np.float32)


def network(weight=off_grid, *, bias: bool = True) -> ir.Model:  # type: ignore[no-untyped-def]
    """Three convolutions, the one in the middle depthwise and without a bias."""
    model = model_from_text(
        f"""{HEADER} net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {{
            [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1{", B1" if bias else ""})
            b = Relu (a)
            [middle] c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, W2)
            [last] y = Conv (c, W3, B3)
        }}""",
        W1=weight(8, 3, 3, 3, seed=1),
        W2=weight(8, 1, 3, 3, seed=2),
        W3=weight(4, 8, 1, 1, seed=3),
        B1=normal(8, seed=4),
        B3=normal(4, seed=5),
    )
    Normalize()(model)
    return model


def quantized(model: ir.Model, target: str = "cpu") -> ir.Model:
    settings = QuantizeSettings(target=target, rounding="nearest", bits=8)
    known = collect_statistics(model, batches(), values_to_calibrate(model, settings), threads=1)
    return Quantize(known, settings)(model.clone()).model


def snr_db(original: ir.Model, other: ir.Model) -> float:
    feeds = batches(100, 1)[0]
    return signal_to_noise_db(run(original, feeds)[0], run(other, feeds)[0])


def correction(original: ir.Model, **more: object) -> CorrectBias:
    return CorrectBias(original, batches(), batches(50), threads=1, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["cpu", "cpu-arm", "tensorrt"])
def test_a_network_whose_weights_are_rounded_down_is_repaired(target: str) -> None:
    original = network()
    model = quantized(original, target)
    before, count = snr_db(original, model), operators(model)
    result = correction(original)(model)
    assert result.modified
    assert snr_db(original, model) > before + 6
    assert [change.node for change in result.changes] == ["first", "middle", "last"]
    assert {change.code for change in result.changes} == {"bias-corrected"}
    figures = result.changes[0].figures
    assert figures["snr_after_db"] > figures["snr_before_db"] + 6
    assert figures["channels"] == 8
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert interface(model) == interface(original)
    more = operators(model) - count
    # A bias of integers where there was none.
    assert more == ({} if target == "tensorrt" else {"DequantizeLinear": 1})


def test_new_biases_have_the_scale_of_input_times_weight() -> None:
    original = network()
    model = quantized(original)
    correction(original)(model)
    middle = next(node for node in model.graph if node.name == "middle")
    data, weight, bias = (
        constant_array(value.producer().inputs[1])  # type: ignore[union-attr]
        for value in middle.inputs
    )
    assert data is not None
    assert weight is not None
    assert bias == pytest.approx(data * weight, rel=1e-6)


def test_exact_weights_need_nothing() -> None:
    original = network(on_grid)
    model = quantized(original)
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    result = correction(original)(model)
    if result.modified:  # chance left a little to gain: no more than that
        assert (
            result.changes[0].figures["snr_after_db"]
            < result.changes[0].figures["snr_before_db"] + 3
        )
    else:
        assert ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_what_does_not_hold_on_other_images_is_taken_back() -> None:
    original = network()
    model = quantized(original)
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    # The shift depends on the brightness, and these are as dark as the others are bright.
    dark = [{"x": -10 * each["x"]} for each in batches(50)]
    result = CorrectBias(original, batches(), dark, threads=1)(model)
    assert not result.modified
    assert result.refusals[0].code == "no-gain"
    assert result.refusals[0].figures["snr_after_db"] < result.refusals[0].figures["snr_before_db"]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_later_layers_do_not_repair_what_earlier_ones_have() -> None:
    """Only the first layer is shifted; measured on independent runs all three would be moved."""
    original = network(on_grid)
    model = quantized(original)
    first = next(node for node in model.graph if node.name == "first")
    bias = first.inputs[2].producer().inputs[0]  # type: ignore[union-attr]
    assert bias is not None
    assert bias.const_value is not None
    scale = constant_array(first.inputs[2].producer().inputs[1])  # type: ignore[union-attr]
    assert scale is not None
    bias.const_value = ir.tensor(
        bias.const_value.numpy() + np.rint(3 / scale).astype(np.int32), name=bias.name
    )
    result = correction(original)(model)
    shifts = {change.node: change.figures["largest_shift"] for change in result.changes}
    assert shifts["first"] == pytest.approx(3, rel=0.1)
    assert all(shift < 0.3 for node, shift in shifts.items() if node != "first")


def test_few_images_are_refused() -> None:
    original = network()
    model = quantized(original)
    result = CorrectBias(original, batches(0, 1), batches(50), threads=1)(model)
    assert not result.modified
    assert {refusal.code for refusal in result.refusals} == {"few-images"}


def test_products_without_a_bias_and_nodes_without_a_twin_are_refused() -> None:
    text = f"""{HEADER} net (float[N, 6] x) => (float[N, 4] y) {{
        [first] a = MatMul (x, W1)
        b = Relu (a)
        [second] y = Gemm (b, W2)
    }}"""
    original = model_from_text(text, W1=normal(6, 8, seed=1), W2=normal(8, 4, seed=2))
    Normalize()(original)
    settings = QuantizeSettings(bits=8)
    feeds = [{"x": np.abs(normal(4, 6, seed=seed))} for seed in range(BATCHES)]
    known = collect_statistics(original, feeds, values_to_calibrate(original, settings), threads=1)
    model = Quantize(known, settings)(original.clone()).model
    twin = original.clone()
    twin.graph[2].name = "other"
    result = CorrectBias(twin, feeds, feeds, threads=1)(model)
    assert [refusal.code for refusal in result.refusals] == ["no-bias-input", "no-twin"]


def test_a_float_model_has_nothing_to_correct() -> None:
    result = correction(network())(network())
    assert not result.modified
    assert not result.refusals


def test_without_images_to_decide_on_it_fails() -> None:
    original = network()
    with pytest.raises(InputError, match="no images"):
        CorrectBias(original, batches(), [], threads=1)(quantized(original))
