"""`align_channels`: groups, names, shared weights and the account of it all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError
from onnxsep.passes.align_channels import AlignChannels, find_channel_groups
from onnxsep.passes.normalize import Normalize

from .helpers import (
    FLOAT32_TOLERANCE,
    Rewritten,
    model_from_text,
    normal,
    rewrite,
    run,
    seeded_feeds,
)

# Real channels of the value `a` that most graphs here have; a prime, to be a multiple of nothing.
CHANNELS = 5
MULTIPLE = 4
PADDED = 8

OUTPUT_REFUSAL = "graph-output"
PER_CHANNEL = normal(CHANNELS, 1, 1, seed=4)


def network(body: str, *, opset: int = 17, **arrays: np.ndarray) -> ir.Model:
    """The value ``a`` of 5 channels, ``body`` that makes ``b`` of it, and a layer behind ``b``."""
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[2,3,8,6] x) => (float[2,7,M,P] y)
        {{ [first] a = Conv (x, w, c)
           {body}
           [last] y = Conv (b, v) }}""",
        **{
            "w": normal(CHANNELS, 3, 3, 3),
            "c": normal(CHANNELS, seed=2),
            "v": normal(7, CHANNELS, 1, 1, seed=3),
            **arrays,
        },
    )


def align(
    model: ir.Model,
    multiples: int | dict[str, int],
    feeds: dict[str, np.ndarray] | None = None,
    tolerance: float = FLOAT32_TOLERANCE,
) -> Rewritten:
    """The padded model, which computes the same and nothing that is no number."""
    feeds = seeded_feeds(model) if feeds is None else feeds
    rewritten = rewrite(model, AlignChannels(multiples), feeds=feeds, tolerance=tolerance)
    assert all(np.isfinite(array).all() for array in run(rewritten.after, feeds))
    return rewritten


def figures(rewritten: Rewritten) -> dict[str, tuple[float, float]]:
    """Layer → channels before and after."""
    return {
        change.node: (change.figures["channels_before"], change.figures["channels_after"])
        for change in rewritten.changes
    }


def shape_of(model: ir.Model, node: str, index: int = 1) -> tuple[int, ...]:
    """Shape of a constant input of a node."""
    array = constant_array(model.graph.node(node).inputs[index])
    assert array is not None
    return array.shape


def test_an_image_of_any_size_cannot_be_flattened() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,W] x) => (float[N,7] y) {
            a = Conv (x, w)  b = Flatten (a)  y = Gemm (b, v) }""",
        w=normal(CHANNELS, 3, 3, 3),
        v=normal(CHANNELS * 4, 7),
    )
    rewritten = align(before, MULTIPLE, feeds={"x": normal(2, 3, 4, 4)})
    assert [refusal.code for refusal in rewritten.refusals] == ["unknown-shape", "graph-output"]


def test_both_sides_of_an_add_are_padded_alike() -> None:
    rewritten = align(
        network(
            "d = Conv (a, e)  m = Add (d, a)  b = Tanh (m)", e=normal(CHANNELS, CHANNELS, 1, 1)
        ),
        MULTIPLE,
    )
    assert figures(rewritten) == {"first": (CHANNELS, PADDED)}


def test_padding_lies_in_the_middle_behind_a_concat() -> None:
    rewritten = align(
        network(
            "k = Conv (x, u)  m = Concat <axis = 1> (a, k, a)  b = Tanh (m)",
            u=normal(2, 3, 3, 3),
            v=normal(7, 2 * CHANNELS + 2, 1, 1),
        ),
        {"a": 4, "k": 3},
    )
    assert len(rewritten.changes) == 2
    weight = constant_array(rewritten.after.graph.node("last").inputs[1])
    assert weight is not None
    real = np.any(weight != 0, axis=(0, 2, 3))
    first = [True] * CHANNELS + [False] * 3
    np.testing.assert_array_equal(real, [*first, True, True, False, *first])


def test_what_is_added_to_a_concat_is_split_at_its_seams() -> None:
    rewritten = align(
        network(
            "k = Conv (x, u)  n = Conv (x, s)  m = Concat <axis = 1> (k, a)  b = Add (m, n)",
            u=normal(2, 3, 3, 3),
            s=normal(CHANNELS + 2, 3, 3, 3),
            v=normal(7, CHANNELS + 2, 1, 1),
        ),
        MULTIPLE,
    )
    assert len(rewritten.changes) == 2
    assert shape_of(rewritten.after, "last")[1] == PADDED + MULTIPLE


def test_added_channels_keep_their_place_and_number() -> None:
    """The shortcut of a residual network that fills up missing channels with zeros."""
    rewritten = align(
        network(
            "k = Conv (x, u)  m = Pad (k, p)  n = Add (a, m)  b = Relu (n)",
            u=normal(3, 3, 3, 3),
            p=np.array([0, 1, 0, 0, 0, 1, 0, 0], np.int64),
        ),
        MULTIPLE,
    )
    assert [change.detail for change in rewritten.changes] == ["3 channels of 'k' became 4"]
    assert {refusal.code for refusal in rewritten.refusals} == {"channel-pad", OUTPUT_REFUSAL}
    assert shape_of(rewritten.after, "first")[0] == CHANNELS + 1


def test_branches_that_share_weights_still_do() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,7,8,8] y) {
            n = Neg (x)  a = Conv (x, w, c)  b = Conv (n, w, c)
            d = Conv (a, v)  e = Conv (b, v)  y = Add (d, e) }""",
        w=normal(CHANNELS, 3, 1, 1),
        c=normal(CHANNELS),
        v=normal(7, CHANNELS, 1, 1),
    )
    # Only the second time do both branches want the same.
    for multiples, weights in (({"a": 4, "b": 3}, 6), ({"a": 4, "b": 8}, 3)):
        rewritten = align(before, multiples)
        assert len(rewritten.changes) == 2
        assert len(rewritten.after.graph.initializers) == weights


def test_the_other_user_of_a_weight_keeps_it() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x)
            => (float[N,7,8,8] y, float[N,5,8,8] z) {
            a = Conv (x, w)  z = Conv (x, w)  y = Conv (a, v) }""",
        w=normal(CHANNELS, 3, 1, 1),
        v=normal(7, CHANNELS, 1, 1),
    )
    rewritten = align(before, MULTIPLE)
    assert len(rewritten.changes) == 1
    assert set(rewritten.after.graph.initializers) == {"w", "w_padded", "v_padded"}


def test_every_consumer_gets_zeros() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x)
            => (float[N,7,8,8] y, float[N,2,8,8] z, float[N,7,1,1] t) {
            a = Conv (x, w)  s = Sigmoid (a)  y = Conv (s, v)  z = Conv (s, u)
            p = GlobalAveragePool (s)  t = Conv (p, v) }""",
        w=normal(CHANNELS, 3, 1, 1),
        v=normal(7, CHANNELS, 1, 1),
        u=normal(2, CHANNELS, 1, 1),
    )
    assert len(align(before, MULTIPLE).changes) == 1


def test_a_value_that_is_an_output_too_keeps_its_channels() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x)
            => (float[N,7,8,8] y, float[N,5,8,8] r) {
            [first] a = Conv (x, w)  r = Relu (a)  [last] y = Conv (r, v) }""",
        w=normal(CHANNELS, 3, 1, 1),
        v=normal(7, CHANNELS, 1, 1),
    )
    rewritten = align(before, MULTIPLE)
    assert [(refusal.node, refusal.code) for refusal in rewritten.refusals] == [
        ("first", OUTPUT_REFUSAL),
        ("last", OUTPUT_REFUSAL),
    ]


def test_weights_that_the_caller_may_feed_pin() -> None:
    before = model_from_text(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[1,3,8,8] x, float[5,3,1,1] w, float[7,5,1,1] v) => (float[1,7,8,8] y) {
            [first] a = Conv (x, w)  [last] y = Conv (a, v) }""",
        w=normal(CHANNELS, 3, 1, 1),
        v=normal(7, CHANNELS, 1, 1),
    )
    rewritten = align(before, MULTIPLE)
    assert rewritten.codes == ["weight-not-constant"] * 2
    # The pass that removes such inputs opens the way.
    assert "channels-padded" in rewrite(before, Normalize(), AlignChannels(MULTIPLE)).codes


def test_layers_in_branches_are_refused() -> None:
    before = network(
        """f = Constant <value = bool {1}> ()
        b = If (f) < then_branch = t () => (float[2,5,6,4] p) { [inner] p = Conv (a, d) },
                     else_branch = e () => (float[2,5,6,4] q) { q = Neg (a) } >""",
        d=normal(CHANNELS, CHANNELS, 1, 1),
    )
    rewritten = align(before, MULTIPLE)
    assert not rewritten.changes
    assert ("inner", "inside-subgraph") in [(no.node, no.code) for no in rewritten.refusals]


def test_operators_without_modern_broadcasting_are_refused() -> None:
    before = model_from_text(
        """<ir_version: 3, opset_import: ["" : 6]> g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
            [only] y = Conv (x, w) }""",
        w=normal(CHANNELS, 3, 1, 1),
    )
    result = AlignChannels(MULTIPLE)(before)
    assert [(refusal.node, refusal.code) for refusal in result.refusals] == [
        ("only", "opset-too-old")
    ]


def test_half_precision_stays_half() -> None:
    before = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float16[1,3,8,8] x) => (float16[1,2,8,8] y) {
            a = Conv (x, w)  b = Mul (a, s)  y = Conv (b, v) }""",
        w=normal(CHANNELS, 3, 1, 1).astype(np.float16),
        s=PER_CHANNEL.astype(np.float16),
        v=normal(2, CHANNELS, 1, 1).astype(np.float16),
    )
    rewritten = align(before, MULTIPLE, tolerance=2e-3)
    assert {value.dtype for value in rewritten.after.graph.initializers.values()} == {
        ir.DataType.FLOAT16
    }


CHAIN = "b = Relu (a)"


def test_what_is_aligned_is_refused() -> None:
    rewritten = align(network(CHAIN), CHANNELS)
    assert [(refusal.node, refusal.code) for refusal in rewritten.refusals] == [
        ("first", "already-aligned"),
        ("last", OUTPUT_REFUSAL),
    ]
    assert not rewritten.changes


@pytest.mark.parametrize("name", ["a", "b"])
def test_any_value_names_its_group(name: str) -> None:
    rewritten = align(network(CHAIN), {name: MULTIPLE})
    assert figures(rewritten) == {"first": (CHANNELS, PADDED)}
    assert rewritten.refusals[0].code == "not-chosen"


def test_the_largest_of_several_names_of_a_group_counts() -> None:
    rewritten = align(network(CHAIN), {"a": 16, "b": MULTIPLE})
    assert figures(rewritten) == {"first": (CHANNELS, 16)}


def test_an_unknown_name_leaves_the_model_alone() -> None:
    model = network(CHAIN)
    with pytest.raises(ConfigurationError, match="'nowhere'"):
        AlignChannels({"a": MULTIPLE, "nowhere": MULTIPLE})(model)
    assert shape_of(model, "first")[0] == CHANNELS


@pytest.mark.parametrize("multiples", [0, -4, {"a": 0}])
def test_a_multiple_below_one_is_an_error(multiples: int | dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="give 1 or more"):
        AlignChannels(multiples)


def test_the_groups_of_a_network() -> None:
    first, last = find_channel_groups(network("b = Conv <group = 5> (a, d)", d=normal(5, 1, 1, 1)))
    assert (first.name, first.channels, first.values, first.layer) == ("a", 5, ("a", "b"), "first")
    assert first.pin is None
    # 24 pixels of a dense, a depthwise and a pointwise convolution.
    assert first.multiplications == 24 * (5 * 3 * 9 + 5 + 7 * 5)
    assert last.pin is not None


def test_shapes_that_the_model_states_are_kept_true() -> None:
    model = network(CHAIN)
    (relu,) = (node for node in model.graph if node.op_type == "Relu")
    relu.outputs[0].shape = ir.Shape([2, CHANNELS, 6, 4])
    AlignChannels(MULTIPLE)(model)
    assert relu.outputs[0].shape == ir.Shape([2, PADDED, 6, 4])


def test_aligning_again_changes_nothing() -> None:
    once = align(network(CHAIN), MULTIPLE).after
    assert not align(once, MULTIPLE).changes


def test_padded_channels_are_zero_behind_their_layer() -> None:
    """Quantization relies on it: padding must not widen a range."""
    rewritten = align(network("b = Tanh (a)"), MULTIPLE)
    after = rewritten.after
    (tanh,) = (node for node in after.graph if node.op_type == "Tanh")
    after.graph.outputs.append(tanh.outputs[0])
    tanh.outputs[0].dtype = ir.DataType.FLOAT
    (_, inside) = run(after, {"x": normal(2, 3, 8, 6)})
    assert inside.shape[1] == PADDED
    assert not inside[:, CHANNELS:].any()
    assert inside[:, :CHANNELS].any()
