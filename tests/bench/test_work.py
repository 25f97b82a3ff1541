"""Multiplications against hand counts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.bench.work import convolution_kind, count_work
from onnxsep.convolution import find_convolutions
from onnxsep.errors import InputError
from tests.passes.helpers import model_from_text, normal

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> net '


@dataclasses.dataclass(frozen=True)
class Case:
    """One node from x to y (shapes declared), its weight, and what it takes by hand."""

    id: str
    shape: str
    node: str
    weight: tuple[int, ...]
    kind: str
    multiplications: int

    def model(self) -> ir.Model:
        text = f"{HEADER} (float[{self.shape}] x) => (float[] y) {{ y = {self.node} }}"
        model = model_from_text(text, w=normal(*self.weight))
        model.graph.outputs[0].shape = None
        return model


CASES = [
    Case("worked-example", "1,3,6,6", "Conv(x, w)", (4, 3, 3, 3), "standard", 1728),
    Case(
        "standard-padded-strided",
        "1,3,7,8",
        "Conv<pads = [1,1,1,1], strides = [2,2]>(x, w)",
        (5, 3, 3, 3),
        "standard",
        4 * 4 * 5 * 3 * 9,
    ),
    Case("standard-1d", "1,2,9", "Conv(x, w)", (3, 2, 3), "standard", 7 * 3 * 2 * 3),
    Case("pointwise", "1,4,5,6", "Conv(x, w)", (8, 4, 1, 1), "pointwise", 5 * 6 * 8 * 4),
    Case(
        "depthwise",
        "1,4,6,6",
        "Conv<group = 4, pads = [1,1,1,1]>(x, w)",
        (4, 1, 3, 3),
        "depthwise",
        36 * 4 * 9,
    ),
    Case(
        "depthwise-multiplier",
        "1,4,6,6",
        "Conv<group = 4>(x, w)",
        (8, 1, 3, 3),
        "depthwise",
        16 * 8 * 9,
    ),
    Case("grouped", "1,4,6,6", "Conv<group = 2>(x, w)", (6, 2, 3, 3), "grouped", 16 * 6 * 2 * 9),
    Case(
        "grouped-pointwise", "1,4,2,2", "Conv<group = 2>(x, w)", (6, 2, 1, 1), "grouped", 4 * 6 * 2
    ),
    Case("dilated", "1,1,9,9", "Conv<dilations = [2,2]>(x, w)", (1, 1, 3, 3), "standard", 25 * 9),
    Case(
        "transposed",
        "1,4,5,5",
        "ConvTranspose<strides = [2,2]>(x, w)",
        (4, 3, 2, 2),
        "ConvTranspose",
        25 * 4 * 3 * 4,
    ),
    Case("gemm", "1,7", "Gemm(x, w)", (7, 5), "Gemm", 35),
    Case("gemm-weight-transposed", "1,7", "Gemm<transB = 1>(x, w)", (5, 7), "Gemm", 35),
    Case("gemm-input-transposed", "7,1", "Gemm<transA = 1>(x, w)", (7, 5), "Gemm", 35),
    Case("matmul", "1,6,7", "MatMul(x, w)", (7, 5), "MatMul", 6 * 7 * 5),
    Case("matmul-broadcast", "1,6,7", "MatMul(x, w)", (3, 7, 5), "MatMul", 3 * 6 * 7 * 5),
    Case("free-batch", "N,3,6,6", "Conv(x, w)", (4, 3, 3, 3), "standard", 1728),
    Case("fixed-batch", "2,3,6,6", "Conv(x, w)", (4, 3, 3, 3), "standard", 2 * 1728),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_hand_counts(case: Case) -> None:
    assert count_work(case.model()) == (
        case.multiplications,
        {case.kind: case.multiplications},
    )


def test_qdq_wrapped_convolution_counts_as_the_float_one() -> None:
    model = model_from_text(
        HEADER
        + """ (float[1,4,6,6] x) => (float[1,4,6,6] y) <float s = {0.1}, int8 z = {0}> {
            xq = QuantizeLinear (x, s, z)
            xf = DequantizeLinear (xq, s, z)
            wf = DequantizeLinear (w, s, z)
            y = Conv <group = 4, pads = [1,1,1,1]> (xf, wf)
        }""",
        w=np.ones((4, 1, 3, 3), np.int8),
    )
    assert count_work(model) == (1296, {"depthwise": 1296})


def test_quantized_operators_count_behind_operators_without_shape_inference() -> None:
    """ONNX cannot say what QLinearAdd gives: the model has to run once."""
    model = model_from_text(
        HEADER
        + """ (float[N,4,6,6] x) => (float[N,5] y) <float s = {0.1}, int8 z = {0}> {
            xq = QuantizeLinear (x, s, z)
            aq = QLinearConv <pads = [1,1,1,1]> (xq, s, z, w, s, z, s, z)
            bq = com.microsoft.QLinearAdd (aq, s, z, xq, s, z, s, z)
            cq = QLinearConv (bq, s, z, p, s, z, s, z)
            dq = com.microsoft.QLinearGlobalAveragePool <channels_last = 0> (cq, s, z, s, z)
            fq = Flatten (dq)
            eq = QLinearMatMul (fq, s, z, m, s, z, s, z)
            y = DequantizeLinear (eq, s, z)
        }""",
        w=np.ones((4, 4, 3, 3), np.int8),
        p=np.ones((3, 4, 1, 1), np.int8),
        m=np.ones((3, 5), np.int8),
    )
    standard, pointwise, product = 36 * 4 * 4 * 9, 36 * 3 * 4, 15
    assert count_work(model) == (
        standard + pointwise + product,
        {"standard": standard, "pointwise": pointwise, "MatMul": product},
    )


def test_kinds_come_largest_first_and_the_model_stays_as_it_was() -> None:
    model = model_from_text(
        HEADER
        + """ (float[batch,3,8,8] x) => (float[batch,2] y) {
            a = Conv <group = 3> (x, d)
            b = Conv (a, p)
            c = GlobalAveragePool (b)
            e = Flatten (c)
            y = Gemm (e, g)
        }""",
        d=normal(3, 1, 3, 3),
        p=normal(16, 3, 1, 1),
        g=normal(16, 2),
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    total, by_kind = count_work(model)
    assert list(by_kind.items()) == [("pointwise", 36 * 48), ("depthwise", 36 * 27), ("Gemm", 32)]
    assert total == sum(by_kind.values())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert count_work(model, {"x": (4, 3, 8, 8)})[0] == 4 * total


def test_a_free_size_needs_a_shape() -> None:
    model = model_from_text(
        HEADER + " (float[N,3,H,W] x) => (float[N,4,P,Q] y) { y = Conv (x, w) }",
        w=normal(4, 3, 3, 3),
    )
    with pytest.raises(InputError, match=r"axis 2 of the input 'x' is free"):
        count_work(model)
    assert count_work(model, {"x": (1, 3, 6, 6)})[0] == 1728


def test_declared_inner_shapes_do_not_count() -> None:
    """A file whose value infos and outputs were made for another size."""
    model = model_from_text(
        HEADER + " (float[N,3,H,W] x) => (float[1,4,9,9] y) { y = Conv (x, w) }",
        w=normal(4, 3, 3, 3),
    )
    assert count_work(model, {"x": (1, 3, 6, 6)})[0] == 1728


def test_nothing_to_count() -> None:
    model = model_from_text(HEADER + " (float[N] x) => (float[N] y) { y = Relu (x) }")
    assert count_work(model) == (0, {})


@settings(deadline=None, max_examples=25)
@given(
    group=st.sampled_from([1, 2, 4]),
    inputs=st.sampled_from([1, 2, 3]),
    outputs=st.sampled_from([1, 2]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3)]),
    size=st.integers(3, 9),
    stride=st.integers(1, 3),
)
def test_agrees_with_the_sites_of_the_optimizer(
    group: int, inputs: int, outputs: int, kernel: tuple[int, int], size: int, stride: int
) -> None:
    weight = (outputs * group, inputs, *kernel)
    model = model_from_text(
        f"{HEADER} (float[1,{inputs * group},{size},{size}] x) => (float[1,N,P,Q] y) "
        f"{{ y = Conv <group = {group}, strides = [{stride},{stride}]> (x, w) }}",
        w=normal(*weight),
    )
    ((site,), _) = find_convolutions(model.graph)
    pixels = math.prod(site.geometry.output_size((size, size)))
    work = pixels * site.multiplications_per_pixel
    assert count_work(model) == (work, {site.kind: work})
    assert convolution_kind(weight, group) == site.kind
