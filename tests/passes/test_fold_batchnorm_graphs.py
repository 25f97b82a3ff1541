"""Folding where the graph is no plain chain: shared weights, subgraphs, types, any geometry."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxsep.constants import constant_array
from onnxsep.passes.fold_batchnorm import FoldBatchNorm, Standalone

from .helpers import (
    initializer_names,
    largest_relative_difference,
    model_from_text,
    normal,
    operators,
    rewrite,
    statistics,
)

FOUR = statistics(4)
OTHER_FOUR = statistics(4, seed=5, suffix="2")
WEIGHT = {"w": normal(4, 3, 3, 3)}


def model(graph: str, **arrays: np.ndarray) -> ir.Model:
    return model_from_text(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}', **arrays)


def test_the_other_user_of_a_shared_weight_keeps_it() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v)
            r = Relu (x)  z = Conv (r, w) }""",
        **WEIGHT,
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.change.code == "folded-into-conv"
    weight = rewritten.after.graph.initializers["w"]
    assert [use.node.outputs[0].name for use in weight.uses()] == ["z"]
    np.testing.assert_array_equal(constant_array(weight), WEIGHT["w"])


def test_twin_branches_still_share_one_weight() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v)
            r = Relu (x)  d = Conv (r, w)  z = BatchNormalization (d, s, b, m, v) }""",
        **WEIGHT,
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert len(rewritten.after.graph.initializers) == 2


def test_branches_with_one_weight_that_part_later() -> None:
    """What the first branch folds at first is gone when the second one comes to the same."""
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
            c = Conv (x, w)  k = BatchNormalization (c, s, b, m, v)
            y = BatchNormalization (k, s2, b2, m2, v2)
            r = Relu (x)  d = Conv (r, w)  z = BatchNormalization (d, s, b, m, v) }""",
        **WEIGHT,
        **FOUR,
        **OTHER_FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.codes == ["folded-into-conv"] * 3
    assert len(rewritten.after.graph.initializers) == 4


def test_one_weight_under_two_different_batchnorms() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v)
            r = Relu (x)  d = Conv (r, w)  z = BatchNormalization (d, s2, b2, m2, v2) }""",
        **WEIGHT,
        **FOUR,
        **OTHER_FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.codes == ["folded-into-conv"] * 2
    assert len(rewritten.after.graph.initializers) == 4


def test_a_weight_that_is_an_output_stays() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4,3,3,3] w) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        **WEIGHT,
        **FOUR,
    )
    assert rewrite(graph, FoldBatchNorm()).change.code == "folded-into-conv"


def test_new_names_avoid_those_that_are_taken() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] z, float[N,3,8,8] w_folded) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v)
            w_folded = Relu (x)  z = Relu (y) }""",
        **WEIGHT,
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert "w_folded_1" in initializer_names(rewritten.after)


def test_a_batchnorm_that_nobody_needs_does_no_harm() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,3,8,8] z) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v)
            k = BatchNormalization (y, s2, b2, m2, v2)  z = Relu (x) }""",
        **WEIGHT,
        **FOUR,
        **OTHER_FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert not operators(rewritten.after)["BatchNormalization"]


def test_idle_identities_do_not_keep_it_alive() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)  i = Identity (n)  j = Identity (i)
            k = Identity (n)  l = Identity (k)  y = Conv (l, w) }""",
        w=normal(5, 4, 3, 3),
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.change.code == "folded-into-next-conv"
    assert operators(rewritten.after) == {"Conv": 1}


INSIDE_IF = """(float[2,3,8,8] x, bool flag) => (float[2,4,6,6] y) {
    y = If (flag) <
        then_branch = then () => (float[2,4,6,6] t) {
            c = Conv (x, w)  t = BatchNormalization (c, s, b, m, v) },
        else_branch = otherwise () => (float[2,4,6,6] e) {
            d = Conv (x, w)  n = BatchNormalization (d, s, b, m, v)  e = Neg (n) }
    > }"""


@pytest.mark.parametrize("flag", [True, False])
def test_inside_if_with_weights_from_outside(flag: bool) -> None:
    graph = model(INSIDE_IF, **WEIGHT, **FOUR)
    feeds = {"x": normal(2, 3, 8, 8, seed=9), "flag": np.array(flag)}
    rewritten = rewrite(graph, FoldBatchNorm(), feeds=feeds)
    assert rewritten.codes == ["folded-into-conv"] * 2
    assert operators(rewritten.after) == {"If": 1, "Conv": 2, "Neg": 1}
    assert len(rewritten.after.graph.initializers) == 2  # both branches share what they shared


def test_branches_with_equal_weights_of_their_own() -> None:
    """Equal as they are, an initializer of one branch is unknown in the other."""
    weight = "w = Constant <value = float[4,1,1,1] {1, -2, 3, 4}> ()"
    graph = model(
        f"""(float[2,1,8,8] x, bool flag) => (float[2,4,8,8] y) {{
            y = If (flag) <
                then_branch = then () => (float[2,4,8,8] t) {{
                    {weight}  c = Conv (x, w)  t = BatchNormalization (c, s, b, m, v) }},
                else_branch = otherwise () => (float[2,4,8,8] e) {{
                    {weight}  d = Conv (x, w)  e = BatchNormalization (d, s, b, m, v) }}
            > }}""",
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.codes == ["folded-into-conv"] * 2
    assert operators(rewritten.after) == {"If": 1, "Conv": 2}


def test_inside_if_where_type_and_rank_must_be_inferred() -> None:
    graph = model(
        """(float[2,4,8,8] x, bool flag) => (float[2,4,8,8] y) {
            y = If (flag) <
                then_branch = then () => (float[2,4,8,8] t) {
                    c = Relu (x)  n = BatchNormalization (c, s, b, m, v)  t = Neg (n) },
                else_branch = otherwise () => (float[2,4,8,8] e) { e = Neg (x) }
            > }""",
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.change.code == "replaced-by-mul-add"


def test_a_conv_outside_does_not_take_in_what_is_inside() -> None:
    graph = model(
        """(float[2,3,8,8] x, bool flag) => (float[2,4,6,6] y) {
            c = Conv (x, w)
            y = If (flag) <
                then_branch = then () => (float[2,4,6,6] t) {
                    t = BatchNormalization (c, s, b, m, v) },
                else_branch = otherwise () => (float[2,4,6,6] e) {
                    e = MaxPool <kernel_shape=[3,3]> (p) }
            > }""",
        **WEIGHT,
        **FOUR,
        p=normal(2, 4, 8, 8),
    )
    change = rewrite(graph, FoldBatchNorm()).change
    assert change.code == "replaced-by-mul-add"
    assert "other-scope" in change.detail


def test_a_conv_inside_takes_in_what_is_outside() -> None:
    graph = model(
        """(float[2,4,8,8] x, bool flag) => (float[2,5,6,6] y) {
            n = BatchNormalization (x, s, b, m, v)
            y = If (flag) <
                then_branch = then () => (float[2,5,6,6] t) { t = Conv (n, w) },
                else_branch = otherwise () => (float[2,5,6,6] e) { e = Conv (n, u) }
            > }""",
        **{"w": normal(5, 4, 3, 3), "u": normal(5, 4, 3, 3, seed=3), **FOUR},
    )
    rewritten = rewrite(graph, FoldBatchNorm())
    assert rewritten.change.code == "folded-into-next-conv"
    assert operators(rewritten.after) == {"If": 1, "Conv": 2}


def test_inside_loop_with_weights_of_its_own() -> None:
    graph = model(
        """(float[2,4,8,8] x, int64 count) => (float[2,4,8,8] y) {
            y = Loop (count, , x) <body = step
                (int64 i, bool go, float[2,4,8,8] state)
                => (bool go_on, float[2,4,8,8] t)
                <float[4,4,1,1] w = {NUMBERS}> {
                    go_on = Identity (go)  c = Conv (state, w)
                    t = BatchNormalization (c, s, b, m, v)
            }> }""".replace("NUMBERS", ",".join(str(0.1 * number) for number in range(16))),
        **FOUR,
    )
    feeds = {"x": normal(2, 4, 8, 8, seed=9), "count": np.array(3)}
    rewritten = rewrite(graph, FoldBatchNorm(), feeds=feeds)
    assert rewritten.change.code == "folded-into-conv"
    (body,) = rewritten.after.graph.subgraphs()
    assert set(body.initializers) == {"w_folded", "c_bias"}


def test_inside_a_function_it_is_refused() -> None:
    graph = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2,4,8,8] x) => (float[2,4,8,8] y) { y = local.norm (x, s, b, m, v) }
        <domain: "local", opset_import: ["" : 17]>
        norm (x, s, b, m, v) => (y) { y = BatchNormalization (x, s, b, m, v) }""",
        **FOUR,
    )
    assert rewrite(graph, FoldBatchNorm()).refusal.code == "inside-function"


def test_double_precision_is_kept() -> None:
    arrays = {name: array.astype(np.float64) for name, array in FOUR.items()}
    arrays["w"] = normal(3, 4).astype(np.float64)
    graph = model(
        """(double[N,3] x) => (double[N,4] y) {
            c = MatMul (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        **arrays,
    )
    rewritten = rewrite(graph, FoldBatchNorm(), tolerance=1e-13)
    assert rewritten.change.code == "folded-into-gemm"


def test_double_precision_does_not_become_a_conv_that_nothing_runs() -> None:
    arrays = {name: array.astype(np.float64) for name, array in FOUR.items()}
    graph = model(
        """(double[N,4,8,8] x) => (double[N,4,8,8] y) {
            y = BatchNormalization (x, s, b, m, v) }""",
        **arrays,
    )
    rewritten = rewrite(graph, FoldBatchNorm("depthwise"), tolerance=1e-13)
    assert rewritten.change.code == "replaced-by-mul-add"


@pytest.mark.parametrize("standalone", ["mul-add", "depthwise"])
def test_half_precision_with_statistics_in_single(standalone: Standalone) -> None:
    graph = model(
        """(float16[N,4,8,8] x) => (float16[N,4,8,8] y) {
            r = Relu (x)  n = BatchNormalization (r, s, b, m, v)  y = Relu (n) }""",
        **FOUR,
    )
    rewritten = rewrite(graph, FoldBatchNorm(standalone), tolerance=5e-3)
    assert {value.dtype for value in rewritten.after.graph.initializers.values()} == {
        ir.DataType.FLOAT16
    }


def test_variance_may_be_zero_or_a_little_negative() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            c = Conv (x, w)
            y = BatchNormalization <epsilon=0.001> (c, s, b, m, v) }""",
        **WEIGHT,
        **{**FOUR, "v": np.array([0, 1, -5e-4, 0], np.float32)},
    )
    assert rewrite(graph, FoldBatchNorm()).change.code == "folded-into-conv"


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ir.Model, int, bool]:
    """A convolution of any geometry before (or after) a BatchNormalization, and its input size."""
    rank = draw(st.integers(1, 3))
    before = draw(st.booleans())
    transposed = before and draw(st.booleans())
    group = draw(st.integers(1, 3))
    inputs, outputs = (group * draw(st.integers(1, 3)) for _ in range(2))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {
        "group": group,
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 2)) for _ in range(rank)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
    }
    if before:  # what comes behind folds without padding only
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
    seed = draw(st.integers(0, 10_000))
    first, second = (inputs, outputs) if transposed else (outputs, inputs)
    arrays = {"w": normal(first, second // group, *kernel, seed=seed)}
    if draw(st.booleans()):
        arrays["a"] = normal(outputs, seed=seed + 1)
    arrays |= statistics(outputs if before else inputs, seed=seed + 2)
    operator = "ConvTranspose" if transposed else "Conv"
    written = ", ".join(f"{name}={value}" for name, value in attributes.items())
    bias = ", a" if "a" in arrays else ""
    body = (
        f"c = {operator} <{written}> (x, w{bias}) y = BatchNormalization (c, s, b, m, v)"
        if before
        else f"n = BatchNormalization (x, s, b, m, v) y = {operator} <{written}> (n, w{bias})"
    )
    free = ",".join(f"D{axis}" for axis in range(rank))
    sizes = ",".join(f"E{axis}" for axis in range(rank))
    text = f"(float[N,{inputs},{free}] x) => (float[N,{outputs},{sizes}] y) {{ {body} }}"
    return model(text, **arrays), rank, before


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(convolutions(), st.integers(0, 10_000))
def test_any_geometry(drawn: tuple[ir.Model, int, bool], seed: int) -> None:
    graph, rank, before = drawn
    (channels,) = (value.shape[1] for value in graph.graph.inputs if value.shape is not None)
    assert isinstance(channels, int)
    # Seven holds the widest kernel, three wide and dilated by two.
    feeds = {"x": normal(2, channels, *(7 + axis for axis in range(rank)), seed=seed)}
    after = graph.clone()
    codes = [change.code for change in FoldBatchNorm().call(after).changes]
    assert len(codes) == 1
    assert codes[0].startswith("folded-into-conv" if before else "folded-into-next-conv")
    assert operators(after).total() == 1
    assert largest_relative_difference(graph, after, feeds) <= 1e-5
