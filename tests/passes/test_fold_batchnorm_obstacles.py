"""What cannot be folded becomes Mul and Add, and the account tells what stood in the way."""

from __future__ import annotations

import pytest

from onnxsep.passes.fold_batchnorm import FoldBatchNorm

from .helpers import initializer_names, normal, rewrite
from .obstacle_cases import CONV, FOUR, NEXT_CONV, Case

NOT_FOLDED = [
    Case(
        "weight from outside",
        """(float[2,3,8,8] x, float[4,3,3,3] w) => (float[2,4,6,6] y) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        FOUR,
        "weight-not-constant",
        "weight 'w' of Conv 'c_maker' is no constant",
    ),
    Case(
        "bias from outside",
        """(float[2,3,8,8] x, float[4] a) => (float[2,4,6,6] y) {
            c = Conv (x, w, a)  y = BatchNormalization (c, s, b, m, v) }""",
        CONV,
        "bias-not-constant",
        "bias 'a' of Conv 'c_maker' is no constant",
    ),
    Case(
        "conv result is an output",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y, float[2,4,6,6] c) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        CONV,
        "output-used-elsewhere",
        "'c' of Conv 'c_maker' before it is an output of the graph",
    ),
    Case(
        "conv result is an output, through Identity",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y, float[2,4,6,6] c) {
            c = Conv (x, w)  i = Identity (c)  y = BatchNormalization (i, s, b, m, v) }""",
        CONV,
        "output-used-elsewhere",
        "'c' of Conv 'c_maker' before it is an output of the graph",
    ),
    Case(
        "conv result also feeds something else",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y, float[2,4,6,6] z) {
            c = Conv (x, w)  z = Relu (c)  y = BatchNormalization (c, s, b, m, v) }""",
        CONV,
        "output-used-elsewhere",
        "also feeds Relu 'z_maker'",
    ),
    Case(
        "two behind one conv",
        """(float[2,3,8,8] x) => (float[2,4,6,6] y) {
            c = Conv (x, w)  z = Sigmoid (c)  y = BatchNormalization (z, s, b, m, v) }""",
        CONV,
        "not-linear",
        "Sigmoid 'z_maker' before it can take nothing in",
    ),
    Case(
        "next conv pads",
        """(float[2,4,8,8] x) => (float[2,5,8,8] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv <pads=[1,1,1,1]> (n, w) }""",
        NEXT_CONV,
        "next-conv-pads",
        "Conv 'y_maker' behind it pads",
    ),
    Case(
        "next conv pads on one side only",
        """(float[2,4,8,8] x) => (float[2,5,6,7] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv <pads=[0,0,0,1]> (n, w) }""",
        NEXT_CONV,
        "next-conv-pads",
        "pads",
    ),
    *(
        Case(
            f"next conv pads by {automatic}",
            f"""(float[2,4,8,8] x) => (float[2,5,8,8] y) {{
                n = BatchNormalization (x, s, b, m, v)  y = Conv <auto_pad="{automatic}"> (n, w)
            }}""",
            NEXT_CONV,
            "next-conv-pads",
            "pads",
        )
        for automatic in ("SAME_UPPER", "SAME_LOWER")
    ),
    Case(
        "one of two convs pads",
        """(float[2,4,8,8] x) => (float[2,5,6,6] y, float[2,5,8,8] z) {
            n = BatchNormalization (x, s, b, m, v)
            y = Conv (n, w)  z = Conv <pads=[1,1,1,1]> (n, w) }""",
        NEXT_CONV,
        "next-conv-pads",
        "Conv 'z_maker'",
    ),
    Case(
        "result is an output as well",
        """(float[2,4,8,8] x) => (float[2,5,6,6] y, float[2,4,8,8] n) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv (n, w) }""",
        NEXT_CONV,
        "output-used-elsewhere",
        "its result 'n' is an output of the graph",
    ),
    Case(
        "result is a weight",
        """(float[2,4,8,8] x, float[5,4,3,3] d) => (float[2,5,6,6] y) {
            n = BatchNormalization (d, s, b, m, v)  y = Conv (x, n) }""",
        FOUR,
        "output-used-elsewhere",
        "input 1 of Conv 'y_maker'",
    ),
    Case(
        "next weight from outside",
        """(float[2,4,8,8] x, float[5,4,3,3] w) => (float[2,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv (n, w) }""",
        FOUR,
        "weight-not-constant",
        "weight 'w' of Conv 'y_maker' is no constant",
    ),
    Case(
        "three-dimensional MatMul",
        """(float[2,4,3] x) => (float[2,4,5] y) {
            c = MatMul (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(3, 5), **FOUR},
        "not-linear",
        "MatMul 'c_maker' multiplies more than two dimensions",
    ),
    Case(
        "Gemm behind it that transposes",
        """(float[3,4] x) => (float[4,5] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Gemm <transA=1> (n, w) }""",
        {"w": normal(3, 5), **FOUR},
        "not-linear",
        "transposes",
    ),
    Case(
        "one behind it trains",
        """(float[2,4,8,8] x) => (float[2,4,8,8] y, float[4] om, float[4] ov) {
            n = BatchNormalization (x, s, b, m, v)
            y, om, ov = BatchNormalization <training_mode=1> (n, s, b, m, v) }""",
        FOUR,
        "training-mode",
        "BatchNormalization 'y_maker' behind it stays",
    ),
]


@pytest.mark.parametrize("case", NOT_FOLDED, ids=lambda case: case.id)
def test_becomes_mul_and_add_and_tells_why(case: Case) -> None:
    rewritten = rewrite(case.model(), FoldBatchNorm())
    change = rewritten.changes[0]
    assert change.code == "replaced-by-mul-add"
    assert case.code in change.detail
    assert case.says in change.detail
    # All other constants stay as they were.
    assert set(case.arrays) - set(FOUR) <= initializer_names(rewritten.after)
