"""The int8 pass: what it changes, what it leaves, and that the numbers stay near."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.fusion import fusion_report
from onnxsep.interface import interface_difference
from onnxsep.passes._weight_grid import weight_grid
from onnxsep.passes.quantize import (
    Quantize,
    QuantizeSettings,
    best_of,
    values_to_calibrate,
)
from onnxsep.quality import signal_to_noise_db

from .helpers import model_from_text, normal, run
from .quantize_cases import named, network, quantized, statistics, test_feeds

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
LEAST_SNR_DB = 25.0


def snr_db(before: ir.Model, after: ir.Model, feeds: dict[str, np.ndarray]) -> float:
    """Of the first output, on the optimized graph."""
    return signal_to_noise_db(run(before, feeds)[0], run(after, feeds, optimized=True)[0])


def test_every_node_with_weights_gives_a_change() -> None:
    result = quantized(network())
    assert [change.node for change in result.changes] == [
        "stem",
        "depthwise",
        "left",
        "right",
        "classes",
    ]
    assert {change.code for change in result.changes} == {"quantized"}
    assert not result.refusals
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    assert not interface_difference(network(), result.model)


def test_relus_stay_in_the_file_and_vanish_in_the_runtime() -> None:
    result = quantized(network())
    assert Counter(node.op_type for node in result.model.graph)["Relu"] == 3
    report = fusion_report(result.model)
    assert "Relu" not in report.operators
    assert "Clip" not in report.operators


def test_scores_are_not_rounded() -> None:
    scores = run(quantized(network()).model, test_feeds(), optimized=True)[0]
    # Eight-bit scores would all be multiples of one step.
    steps = np.diff(np.sort(scores.ravel()))
    assert not np.allclose(steps / steps.min(), np.rint(steps / steps.min()), atol=1e-3)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("bits", [7, 8])
def test_every_method_stays_near(method: str, bits: int) -> None:
    before = network()
    chosen = QuantizeSettings(method=method, bits=bits)  # type: ignore[arg-type]
    after = quantized(before, settings=chosen).model
    assert snr_db(before, after, test_feeds()) > LEAST_SNR_DB - 6 * (8 - bits)


def test_seven_bits_hold_in_the_weights() -> None:
    model = quantized(network(), settings=QuantizeSettings(bits=7)).model
    weights = [
        array
        for value in model.graph.initializers.values()
        if (array := constant_array(value)) is not None and array.dtype == np.int8
    ]
    matrices = [array for array in weights if array.ndim > 1]
    assert len(matrices) == 5
    assert max(int(np.abs(array).max()) for array in matrices) == 63


def test_kept_nodes_read_weights_and_inputs_in_float() -> None:
    model = quantized(network(), settings=QuantizeSettings(keep_float=frozenset({"right"})))
    (refusal,) = model.refusals
    assert (refusal.node, refusal.code) == ("right", "kept-float")
    right = next(node for node in model.model.graph if node.name == "right")
    weight = right.inputs[1]
    assert weight is not None
    assert weight.is_initializer()


def test_first_and_last_in_float() -> None:
    settings = QuantizeSettings(first_in_float=True, last_in_float=True)
    result = quantized(network(), settings=settings)
    assert {refusal.node for refusal in result.refusals} == {"stem", "classes"}
    assert len(result.changes) == 3


def test_float_readers_of_an_input_get_it_unrounded() -> None:
    before = named(
        model_from_text(
            f"""{HEADER}
            net (float[n, 8, 8, 8] x) => (float[n, 8, 8, 8] y) {{
                [body] a = Conv <pads = [1, 1, 1, 1]> (x, W)
                [sum] y = Add (a, x)
            }}""",
            W=np.zeros((8, 8, 3, 3), np.float32),
        )
    )
    after = quantized(before).model
    feeds = {"x": normal(1, 8, 8, 8, seed=50)}
    np.testing.assert_array_equal(run(after, feeds, optimized=True)[0], feeds["x"])


def test_twins_share_their_weight() -> None:
    before = named(
        model_from_text(
            f"""{HEADER}
            net (float[n, 8, 8, 8] x) => (float[n, 8, 8, 8] y) {{
                [one] a = Conv <pads = [1, 1, 1, 1]> (x, W, B)
                [two] y = Conv <pads = [1, 1, 1, 1]> (a, W, B)
            }}""",
            W=normal(8, 8, 3, 3) / 8,
            B=normal(8),
        )
    )
    result = quantized(before)
    assert [change.node for change in result.changes] == ["one", "two"]
    integers = [v for v in result.model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert sum(len(value.shape or ()) == 4 for value in integers) == 1
    assert fusion_report(result.model).fused == ("one", "two")
    assert snr_db(before, result.model, {"x": normal(1, 8, 8, 8, seed=50)}) > LEAST_SNR_DB


def test_weight_shared_with_a_node_in_float_is_copied() -> None:
    before = named(
        model_from_text(
            f"""{HEADER}
            net (float[n, 8, 8, 8] x) => (float[n, 8, 8, 8] y) {{
                [one] a = Conv <pads = [1, 1, 1, 1]> (x, W)
                [two] y = Conv <pads = [1, 1, 1, 1]> (a, W)
            }}""",
            W=normal(8, 8, 3, 3) / 8,
        )
    )
    result = quantized(before, settings=QuantizeSettings(keep_float=frozenset({"two"})))
    two = next(node for node in result.model.graph if node.name == "two")
    np.testing.assert_array_equal(constant_array(two.inputs[1]), normal(8, 8, 3, 3) / 8)


def test_copies_behind_a_concat_share_one_pair() -> None:
    """The graph form of a separated convolution."""
    before = named(
        model_from_text(
            f"""{HEADER}
            net (float[n, 16, 8, 8] x) => (float[n, 8, 8, 8] y) {{
                [stem] s = Conv (x, S)
                r = Relu (s)
                c = Concat <axis = 1> (r, r)
                [depthwise] d = Conv <pads = [1, 1, 1, 1], group = 32> (c, D)
                [pointwise] y = Conv (d, P)
            }}""",
            S=normal(16, 16, 1, 1) / 4,
            D=normal(32, 1, 3, 3) / 3,
            P=normal(8, 32, 1, 1) / 6,
        )
    )
    result = quantized(before)
    report = fusion_report(result.model)
    assert report.fused == ("stem", "depthwise", "pointwise")
    assert report.operators["QLinearConcat"] == 1
    (concat,) = [node for node in result.model.graph if node.op_type == "Concat"]
    (reader,) = concat.outputs[0].consumers()
    source = concat.inputs[0].producer() if concat.inputs[0] is not None else None
    assert source is not None
    for position in (1, 2):
        expected = constant_array(source.inputs[position])
        np.testing.assert_array_equal(constant_array(reader.inputs[position]), expected)


def test_old_opset_is_raised() -> None:
    before = named(
        model_from_text(
            """<ir_version: 6, opset_import: ["" : 11]>
            net (float[n, 4, 8, 8] x) => (float[n, 8, 8, 8] y) {
                [only] y = Conv <pads = [1, 1, 1, 1]> (x, W)
            }""",
            W=normal(8, 4, 3, 3),
        )
    )
    result = quantized(before)
    assert result.model.opset_imports[""] == 13
    assert snr_db(before, result.model, {"x": normal(1, 4, 8, 8, seed=50)}) > LEAST_SNR_DB


def test_quantized_model_is_refused() -> None:
    once = quantized(network()).model
    result = Quantize({}, QuantizeSettings())(once)
    assert not result.modified
    assert [refusal.code for refusal in result.refusals] == ["already-quantized"]
    assert values_to_calibrate(once, QuantizeSettings()) == []


def test_free_batch_is_refused_for_nnapi() -> None:
    model = network()
    shape = model.graph.inputs[0].shape
    assert shape is not None
    model.graph.inputs[0].shape = ir.Shape(["batch", *list(shape)[1:]])
    result = Quantize({}, QuantizeSettings(target="nnapi"))(model)
    (refusal,) = result.refusals
    assert refusal.code == "free-dimension"
    assert "batch" in refusal.reason


@pytest.mark.parametrize(
    ("weight", "code"),
    [
        (np.full((4, 4, 1, 1), np.nan, np.float32), "weight-not-finite"),
        (np.ones((4, 4, 1, 1), np.float16), "weight-not-float32"),
    ],
    ids=["nan", "half"],
)
def test_weights_that_cannot_be_quantized(weight: np.ndarray, code: str) -> None:
    kind = "float16" if weight.dtype == np.float16 else "float"
    model = named(
        model_from_text(
            f"{HEADER} net ({kind}[n, 4, 4, 4] x) => ({kind}[n, 4, 4, 4] y) "
            "{ [only] y = Conv (x, W) }",
            W=weight,
        )
    )
    result = Quantize({}, QuantizeSettings())(model)
    assert not result.modified
    assert [refusal.code for refusal in result.refusals] == [code]


def test_missing_statistic_is_named() -> None:
    model = network()
    found = statistics(model)
    del found["e"]
    with pytest.raises(InputError, match="'e'"):
        Quantize(found, QuantizeSettings())(model)


def test_nodes_without_names_are_not_taken() -> None:
    model = network()
    next(iter(model.graph)).name = None
    with pytest.raises(ir.passes.PreconditionError, match="normalize"):
        Quantize({}, QuantizeSettings())(model)


def test_cuda_is_sent_to_half_precision() -> None:
    with pytest.raises(ConfigurationError, match="fp16"):
        Quantize({}, QuantizeSettings(target="cuda"))


def test_best_of_takes_the_highest_score() -> None:
    model = network()
    expected = run(model, test_feeds())[0]
    candidates = [QuantizeSettings(bits=bits) for bits in (7, 8)]

    def score(candidate: ir.Model) -> float:
        return signal_to_noise_db(expected, run(candidate, test_feeds(), optimized=True)[0])

    chosen, result = best_of(model, statistics(model), candidates, score)
    assert chosen.bits == 8
    assert result.modified
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph)


@settings(max_examples=60, deadline=None)
@given(
    weight=arrays(np.float32, (3, 4, 3, 3), elements=st.floats(-8, 8, width=32)),
    bits=st.sampled_from([7, 8]),
)
def test_sums_are_kept_within_a_step(weight: np.ndarray, bits: int) -> None:
    grid = weight_grid(weight, 0, bits=bits, method="minmax")
    steps = grid.scales.astype(np.float64)[:, None, None, None]
    errors = (grid.rounded - weight) / steps
    assert np.abs(grid.rounded / steps).max() <= 2 ** (bits - 1) - 1 + 1e-3
    assert np.abs(errors).max() < 2.01
    assert np.abs(errors.reshape(3, -1).sum(axis=1)).max() <= 0.51
    # A channel's step turns one weight of a kernel at most... of few kernels.
    nearest = weight_grid(weight, 0, bits=bits, method="minmax", rounding="nearest")
    assert nearest.snr_db >= grid.snr_db - 1e-6


def test_axis_of_a_matrix() -> None:
    weight = normal(5, 7)
    one = weight_grid(weight, 1, bits=8, method="minmax")
    other = weight_grid(weight.T, 0, bits=8, method="minmax")
    assert one.scales.shape == (7,)
    np.testing.assert_array_equal(one.rounded, other.rounded.T)
