"""What a BatchNormalization is folded into, and what becomes of one that nothing takes in."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.errors import ConfigurationError
from onnxsep.passes.base import LosslessPass
from onnxsep.passes.fold_batchnorm import FoldBatchNorm, Standalone

from .helpers import (
    initializer_names,
    model_from_text,
    normal,
    operators,
    rewrite,
    statistics,
)

BN = "BatchNormalization"


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph ``x -> y`` whose BatchNormalizations all vanish.

    Attributes:
        id: Of the test.
        graph: Signature and body.
        arrays: Initializers.
        codes: The changes expected, in graph order.
        operators: What is left.
    """

    id: str
    graph: str
    arrays: dict[str, np.ndarray]
    codes: list[str]
    operators: dict[str, int]

    def model(self, opset: int = 17) -> ir.Model:
        header = f'<ir_version: 8, opset_import: ["" : {opset}]> g '
        return model_from_text(header + self.graph, **self.arrays)


def four(suffix: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    """Statistics of four channels."""
    return statistics(4, seed=seed, suffix=suffix)


BEFORE = [
    Case(
        "conv",
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(4, 3, 3, 3), **four()},
        ["folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "conv with bias, padding, stride and its own epsilon",
        """(float[N,3,9,9] x) => (float[N,4,5,5] y) {
            c = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w, a)
            y = BatchNormalization <epsilon=0.01> (c, s, b, m, v) }""",
        {"w": normal(4, 3, 3, 3), "a": normal(4, seed=2), **four()},
        ["folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "conv whose bias is omitted by an empty name",
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            c = Conv (x, w, "")  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(4, 3, 3, 3), **four()},
        ["folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "conv through Identity",
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            c = Conv (x, w)  i = Identity (c)  y = BatchNormalization (i, s, b, m, v) }""",
        {"w": normal(4, 3, 3, 3), **four()},
        ["folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "conv whose weight lies behind Transpose and Identity",
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            t = Transpose <perm=[3,2,0,1]> (hwio)  w = Identity (t)
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"hwio": normal(3, 3, 3, 4), **four()},
        ["folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "conv and two in a row",
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            c = Conv (x, w)  n = BatchNormalization (c, s, b, m, v)
            y = BatchNormalization (n, s2, b2, m2, v2) }""",
        {"w": normal(4, 3, 3, 3), **four(), **four("2", seed=5)},
        ["folded-into-conv", "folded-into-conv"],
        {"Conv": 1},
    ),
    Case(
        "grouped transposed conv with bias",
        """(float[N,6,5,5] x) => (float[N,4,11,11] y) {
            c = ConvTranspose <group=2, strides=[2,2], output_padding=[1,1], pads=[0,0,1,1]>
                (x, w, a)
            y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(6, 2, 3, 3), "a": normal(4, seed=2), **four()},
        ["folded-into-conv-transpose"],
        {"ConvTranspose": 1},
    ),
    Case(
        "one-dimensional transposed conv",
        """(float[N,3,5] x) => (float[N,4,7] y) {
            c = ConvTranspose (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(3, 4, 3), **four()},
        ["folded-into-conv-transpose"],
        {"ConvTranspose": 1},
    ),
    Case(
        "two-dimensional MatMul",
        """(float[N,3] x) => (float[N,4] y) {
            c = MatMul (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(3, 4), **four()},
        ["folded-into-gemm"],
        {"Gemm": 1},
    ),
    Case(
        "Gemm without addend",
        """(float[N,3] x) => (float[N,4] y) {
            c = Gemm <alpha=0.5> (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        {"w": normal(3, 4), **four()},
        ["folded-into-gemm"],
        {"Gemm": 1},
    ),
    *(
        Case(
            f"Gemm with addend of shape {shape}",
            """(float[3,5] x) => (float[5,4] y) {
                c = Gemm <transA=1, transB=1, alpha=0.5, beta=-2.0> (x, w, a)
                y = BatchNormalization (c, s, b, m, v) }""",
            {"w": normal(4, 3), "a": normal(*shape, seed=2), **four()},
            ["folded-into-gemm"],
            {"Gemm": 1},
        )
        for shape in ((), (1,), (4,), (1, 1), (1, 4), (5, 1), (5, 4))
    ),
]

BEHIND = [
    Case(
        "conv without padding",
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv (n, w) }""",
        {"w": normal(5, 4, 3, 3), **four()},
        ["folded-into-next-conv"],
        {"Conv": 1},
    ),
    Case(
        "grouped conv with bias, through Identity",
        """(float[N,4,8,8] x) => (float[N,6,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)  i = Identity (n)
            y = Conv <group=2, auto_pad="VALID"> (i, w, a) }""",
        {"w": normal(6, 2, 3, 3), "a": normal(6, seed=2), **four()},
        ["folded-into-next-conv"],
        {"Conv": 1},
    ),
    Case(
        "pointwise conv that pads automatically, which is not at all",
        """(float[N,4,8,8] x) => (float[N,5,4,4] y) {
            n = BatchNormalization (x, s, b, m, v)
            y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (n, w) }""",
        {"w": normal(5, 4, 1, 1), **four()},
        ["folded-into-next-conv"],
        {"Conv": 1},
    ),
    Case(
        "padded conv behind a shift of zero",
        """(float[N,4,8,8] x) => (float[N,5,8,8] y) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv <pads=[1,1,1,1]> (n, w) }""",
        {
            "w": normal(5, 4, 3, 3),
            **four(),
            "b": np.zeros(4, np.float32),
            "m": np.zeros(4, np.float32),
        },
        ["folded-into-next-conv"],
        {"Conv": 1},
    ),
    Case(
        "two convs of different kernels",
        """(float[N,4,8,8] x) => (float[N,5,6,6] y, float[N,3,8,8] z) {
            n = BatchNormalization (x, s, b, m, v)  y = Conv (n, w)  z = Conv (n, u) }""",
        {"w": normal(5, 4, 3, 3), "u": normal(3, 4, 1, 1, seed=2), **four()},
        ["folded-into-next-conv"],
        {"Conv": 2},
    ),
    Case(
        "Gemm",
        """(float[N,4] x) => (float[N,5] y) {
            n = BatchNormalization (x, s, b, m, v)
            y = Gemm <transB=1, alpha=0.5, beta=3.0> (n, w, a) }""",
        {"w": normal(5, 4), "a": normal(5, seed=2), **four()},
        ["folded-into-next-gemm"],
        {"Gemm": 1},
    ),
    Case(
        "MatMul",
        """(float[N,4] x) => (float[N,5] y) {
            n = BatchNormalization (x, s, b, m, v)  y = MatMul (n, w) }""",
        {"w": normal(4, 5), **four()},
        ["folded-into-next-gemm"],
        {"Gemm": 1},
    ),
    Case(
        "two in a row, then a conv",
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)
            k = BatchNormalization <epsilon=0.1> (n, s2, b2, m2, v2)  y = Conv (k, w) }""",
        {"w": normal(5, 4, 3, 3), **four(), **four("2", seed=5)},
        ["folded-into-next-batchnorm", "folded-into-next-conv"],
        {"Conv": 1},
    ),
    Case(
        "one before a Relu and a second one before its conv",
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)  r = Relu (n)
            k = BatchNormalization (r, s2, b2, m2, v2)  y = Conv (k, w) }""",
        {"w": normal(5, 4, 3, 3), **four(), **four("2", seed=5)},
        ["replaced-by-mul-add", "folded-into-next-conv"],
        {"Mul": 1, "Add": 1, "Relu": 1, "Conv": 1},
    ),
]


@pytest.mark.parametrize("case", BEFORE + BEHIND, ids=lambda case: case.id)
def test_is_folded(case: Case) -> None:
    rewritten = rewrite(case.model(), FoldBatchNorm())
    assert rewritten.codes == case.codes
    assert operators(rewritten.after) == case.operators
    # Nothing is left of the old constants, and every new one is used.
    kept = initializer_names(rewritten.after)
    assert not kept & set(case.arrays)
    assert all(value.uses() for value in rewritten.after.graph.initializers.values())


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 19, 21, 22, 23])
@pytest.mark.parametrize("code", ["folded-into-conv", "replaced-by-mul-add"])
def test_opsets(opset: int, code: str) -> None:
    activation = "c = Relu (x)" if code == "replaced-by-mul-add" else "c = Conv (x, w)"
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{
            {activation}  y = BatchNormalization (c, s, b, m, v) }}""",
        **{"w": normal(4, 4, 1, 1), **four()},
    )
    assert rewrite(model, FoldBatchNorm()).change.code == code


STANDALONE = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4,{dims}] x) => (float[N,4,{dims}] y) {{
        r = Relu (x)  n = BatchNormalization (r, s, b, m, v)  y = Relu (n) }}"""


@pytest.mark.parametrize("dims", ["5", "5,6", "5,6,3"])
def test_becomes_a_depthwise_conv_where_asked(dims: str) -> None:
    model = model_from_text(STANDALONE.format(dims=dims), **four())
    rewritten = rewrite(model, FoldBatchNorm(standalone="depthwise"))
    assert rewritten.change.code == "replaced-by-depthwise"
    assert operators(rewritten.after) == {"Relu": 2, "Conv": 1}


@pytest.mark.parametrize("dims", ["5", "5,6", "2,3,2,3"])
def test_becomes_mul_and_add_otherwise(dims: str) -> None:
    model = model_from_text(STANDALONE.format(dims=dims), **four())
    standalone: Standalone = (
        "depthwise" if dims.count(",") == 3 else "mul-add"
    )  # no Conv has four dimensions
    rewritten = rewrite(model, FoldBatchNorm(standalone=standalone))
    assert rewritten.change.code == "replaced-by-mul-add"
    assert operators(rewritten.after) == {"Relu": 2, "Mul": 1, "Add": 1}


def test_two_dimensional_input_becomes_mul_and_add() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
            y = BatchNormalization (x, s, b, m, v) }""",
        **four(),
    )
    assert rewrite(model, FoldBatchNorm()).change.code == "replaced-by-mul-add"


def test_the_account_says_who_refused_and_what_the_scale_is() -> None:
    arrays = {**four(), "v": np.ones(4, np.float32), "s": np.array([1, -7, 2, 3], np.float32)}
    model = model_from_text(STANDALONE.format(dims="5,5"), **arrays)
    model.graph[1].name = "norm"
    change = rewrite(model, FoldBatchNorm()).change
    assert change.node == "norm"
    assert "Relu" in change.detail
    assert change.detail.count("not-linear") == 2
    assert change.figures["channels"] == 4
    assert change.figures["largest_scale"] == pytest.approx(7.0, rel=1e-4)


def test_result_keeps_name_type_shape_and_metadata() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[N,4,6,6] normalized> {
            c = Conv (x, w)  normalized = BatchNormalization (c, s, b, m, v)
            y = Relu (normalized) }""",
        **{"w": normal(4, 3, 3, 3), **four()},
    )
    model.graph[1].outputs[0].metadata_props["layer"] = "first"
    rewritten = rewrite(model, FoldBatchNorm())
    result = rewritten.after.graph[0].outputs[0]
    assert rewritten.after.graph[0].op_type == "Conv"
    assert result.name == "normalized"
    assert str(result.shape) == "[N,4,6,6]"
    assert result.metadata_props["layer"] == "first"


def test_unknown_standalone_form_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'dense'.*mul-add"):
        FoldBatchNorm(standalone="dense")  # type: ignore[arg-type]


def test_is_told_apart_as_lossless() -> None:
    assert issubclass(FoldBatchNorm, LosslessPass)


def test_model_without_batchnorm_stays_untouched() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {
            y = Relu (x) }""",
        unused=normal(3),
    )
    rewritten = rewrite(model, FoldBatchNorm())
    assert not rewritten.codes
    assert initializer_names(rewritten.after) == {"unused"}
