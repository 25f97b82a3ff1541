"""What stands in the way of folding, and that it is said; the model must stay right in any case."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.passes.fold_batchnorm import FoldBatchNorm

from .helpers import Rewritten, normal, rewrite
from .obstacle_cases import CONV, FOUR, Case, model

REFUSED = [
    Case(
        "training mode by attribute",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y, float[4] new_m, float[4] new_v) {
            c = Conv (x, w)
            y, new_m, new_v = BatchNormalization <training_mode=1> (c, s, b, m, v) }""",
        CONV,
        "training-mode",
        "training_mode=1",
    ),
    Case(
        "training mode by five outputs",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y) {
            c = Conv (x, w)  y, om, ov, sm, sv = BatchNormalization (c, s, b, m, v) }""",
        CONV,
        "training-mode",
        "5 outputs",
        opset=9,
    ),
    Case(
        "statistic from outside",
        """(float[2,3,8,8] x, float[4] m) => (float[2,4,6,6] y) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {name: array for name, array in CONV.items() if name != "m"},
        "statistics-not-constant",
        "mean 'm' is no constant",
    ),
    Case(
        "computed statistic",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y) {
            c = Conv (x, w)  w2 = Mul (v, v)  y = BatchNormalization (c, s, b, m, w2) }""",
        CONV,
        "statistics-not-constant",
        "variance 'w2' is no constant",
    ),
    Case(
        "quantized weight",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y) {
            w = DequantizeLinear (q, step)  c = Conv (x, w)
            y = BatchNormalization (c, s, b, m, v) }""",
        {
            "q": np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3),
            "step": np.array(0.01, np.float32),
            **FOUR,
        },
        "weight-not-constant",
        "weight 'w' of Conv 'c_maker' is already quantized",
    ),
    Case(
        "quantized statistic",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            s = DequantizeLinear (q, step)  y = BatchNormalization (x, s, b, m, v) }""",
        {
            "q": np.array([1, 2, 3, 4], np.int8),
            "step": np.array(0.5, np.float32),
            **{name: FOUR[name] for name in "bmv"},
        },
        "statistics-not-constant",
        "scale 's' is already quantized",
    ),
    Case(
        "quantized input",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            q = QuantizeLinear (x, step, zero)  d = DequantizeLinear (q, step, zero)
            y = BatchNormalization (d, s, b, m, v) }""",
        {"step": np.array(0.05, np.float32), "zero": np.array(0, np.int8), **FOUR},
        "already-quantized",
        "DequantizeLinear 'd_maker' beside it",
    ),
    Case(
        "quantized result",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            n = BatchNormalization (x, s, b, m, v)
            q = QuantizeLinear (n, step, zero)  y = DequantizeLinear (q, step, zero) }""",
        {"step": np.array(0.05, np.float32), "zero": np.array(0, np.int8), **FOUR},
        "already-quantized",
        "QuantizeLinear 'q_maker' beside it",
    ),
]

# Not comparable in numbers: what they compute is not finite, or no runtime takes them.
REFUSED_WITHOUT_RUNNING = [
    Case(
        "NaN",
        "(float[2,4,8,8] x) => (float[2,4,8,8] y) { y = BatchNormalization (x, s, b, m, v) }",
        {**FOUR, "m": np.array([0, np.nan, 0, 0], np.float32)},
        "non-finite-statistics",
        "NaN",
    ),
    Case(
        "infinity",
        "(float[2,4,8,8] x) => (float[2,4,8,8] y) { y = BatchNormalization (x, s, b, m, v) }",
        {**FOUR, "s": np.array([0, np.inf, 0, 0], np.float32)},
        "non-finite-statistics",
        "infinity",
    ),
    Case(
        "negative variance",
        "(float[2,4,8,8] x) => (float[2,4,8,8] y) { y = BatchNormalization (x, s, b, m, v) }",
        {**FOUR, "v": np.array([1, 1, 1, -1], np.float32)},
        "non-finite-statistics",
        "variance below zero",
    ),
    Case(
        "no variance and no epsilon",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            y = BatchNormalization <epsilon=0.0> (x, s, b, m, v) }""",
        {**FOUR, "v": np.zeros(4, np.float32)},
        "non-finite-statistics",
        "variance",
    ),
    Case(
        "further outputs",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            y, om, ov = BatchNormalization (x, s, b, m, v) }""",
        FOUR,
        "extra-outputs",
        "om, ov",
    ),
    Case(
        "statistics per element",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            y = BatchNormalization <spatial=0> (x, s, b, m, v) }""",
        FOUR,
        "per-activation-statistics",
        "spatial=0",
        opset=7,
    ),
    Case(
        "ancient opset",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y) {
            y = BatchNormalization <is_test=1> (x, s, b, m, v) }""",
        FOUR,
        "opset-too-old",
        "opset 6",
        opset=6,
    ),
    Case(
        "statistics of different lengths",
        "(float[2,4,8,8] x) => (float[2,4,8,8] y) { y = BatchNormalization (x, s, b, m, v) }",
        {**FOUR, "b": np.zeros(3, np.float32)},
        "malformed",
        "(4,), (3,), (4,), (4,)",
    ),
    Case(
        "missing inputs",
        "(float[2,4,8,8] x) => (float[2,4,8,8] y) { y = BatchNormalization (x, s, b) }",
        FOUR,
        "malformed",
        "3 inputs instead of five",
    ),
    Case(
        "unknown rank",
        """(float[2,4,8,8] x, int64[K] shape) => (float[2,4,8,8] z) {
            r = Reshape (x, shape)  y = BatchNormalization (r, s, b, m, v)
            z = Reshape (y, shape) }""",
        FOUR,
        "unknown-rank",
        "rank of 'r' is unknown",
    ),
    Case(
        "unknown type, of an operator that is not ours",
        """(float[2,4,8,8] x) => (float[2,4,8,8] z) {
            r = some.where.Own (x)  y = BatchNormalization (r, s, b, m, v)
            z = some.where.Own (y) }""",
        FOUR,
        "unknown-type",
        "type of 'r' is unknown",
    ),
    Case(
        "input that nothing provides",
        """(float[2,4,8,8] x) => (float[2,4,8,8] z) {
            r = Add (x, nowhere)  y = BatchNormalization (r, s, b, m, v)  z = Relu (y) }""",
        FOUR,
        "unknown-type",
        "type of 'r' is unknown",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_is_refused(case: Case) -> None:
    rewritten = rewrite(case.model(), FoldBatchNorm())
    assert rewritten.refusal.code == case.code
    assert case.says in rewritten.refusal.reason
    assert str(ir.to_proto(rewritten.after)) == str(ir.to_proto(rewritten.before))


@pytest.mark.parametrize("case", REFUSED_WITHOUT_RUNNING, ids=lambda case: case.id)
def test_is_refused_without_running(case: Case) -> None:
    graph = case.model()
    before = str(ir.to_proto(graph))
    result = FoldBatchNorm().call(graph)
    (refusal,) = result.refusals
    assert refusal.node == ("n_maker" if "n = " in case.graph else "y_maker")
    assert refusal.code == case.code
    assert case.says in refusal.reason
    assert not result.modified
    assert str(ir.to_proto(graph)) == before


def test_ir_version_three_needs_normalize_first() -> None:
    graph = model("(float[4] x) => (float[4] y) { y = Relu (x) }", {})
    graph.ir_version = 3
    with pytest.raises(ir.passes.PreconditionError, match="normalize"):
        FoldBatchNorm()(graph)


def half(**arrays: np.ndarray) -> Rewritten:
    """A float16 Conv and BatchNormalization, folded, and compared on small inputs."""
    graph = model(
        """(float16[2,3,8,8] x) => (float16[2,4,6,6] y) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {name: array.astype(np.float16) for name, array in {**CONV, **arrays}.items()},
    )
    feeds = {"x": (0.01 * normal(2, 3, 8, 8)).astype(np.float16)}
    return rewrite(graph, FoldBatchNorm(), feeds=feeds, tolerance=5e-3)


def test_half_precision_is_folded() -> None:
    rewritten = half()
    assert rewritten.change.code == "folded-into-conv"
    assert {value.dtype for value in rewritten.after.graph.initializers.values()} == {
        ir.DataType.FLOAT16
    }


def test_half_precision_that_would_overflow_is_not_folded() -> None:
    """The scale, 2000, is a float16; the weight times it, 100 000, is none."""
    rewritten = half(w=np.full((4, 3, 3, 3), 50.0), s=np.full(4, 2e3), v=np.ones(4), m=np.zeros(4))
    assert rewritten.change.code == "replaced-by-mul-add"
    assert "overflow" in rewritten.change.detail
    assert "weight of Conv" in rewritten.change.detail


def test_half_precision_that_would_underflow_is_not_folded() -> None:
    """Weights of 1e-3 and a scale of 1e-3 meet below the smallest full number, 6e-5."""
    rewritten = half(w=1e-3 * CONV["w"], s=np.full(4, 1e-3), v=np.ones(4), b=np.ones(4))
    assert rewritten.change.code == "replaced-by-mul-add"
    assert "underflow" in rewritten.change.detail


def test_half_precision_whose_scale_overflows_is_refused() -> None:
    """Nothing but the BatchNormalization itself can hold a scale of 60 000 / 0.0032."""
    arrays = {**FOUR, "s": np.full(4, 6e4), "v": np.zeros(4), "m": np.zeros(4)}
    graph = model(
        """(float16[2,4,8,8] x) => (float16[2,4,8,8] y) {
            y = BatchNormalization (x, s, b, m, v) }""",
        {name: array.astype(np.float16) for name, array in arrays.items()},
    )
    result = FoldBatchNorm().call(graph)
    assert [refusal.code for refusal in result.refusals] == ["overflow"]
    assert not result.modified
