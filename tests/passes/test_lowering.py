"""Every form's graph against the one convolution that its factors stand for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.errors import FactorizationError
from onnxsep.factorize import (
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    PointwiseDepthwise,
    RaggedDepthwisePointwise,
)
from onnxsep.passes.lowering import replace_by_dense_equivalent, replace_by_factors
from onnxsep.targets import Repeat

from .helpers import assert_same_model, model_from_text, operators, run, seeded_feeds

FORMS = ("dp", "ragged", "pd", "cp")


def draw_factors(
    form: str, outputs: int, channels: int, positions: int, rank: int, seed: int = 0
) -> Factors:
    """Random factors; ``rank`` is r, or the number of terms per channel."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape) / math.sqrt(shape[-1])

    if form == "dp":
        return DepthwisePointwise(
            normal(channels, rank, positions), normal(outputs, channels, rank)
        )
    if form == "pd":
        return PointwiseDepthwise(normal(outputs, rank, channels), normal(outputs, rank, positions))
    if form == "cp":
        terms = rank * channels
        return CanonicalPolyadic(
            normal(terms, channels), normal(terms, positions), normal(outputs, terms)
        )
    # From no filter at all to twice the rank.
    sources = np.repeat(np.arange(channels), generator.integers(0, 2 * rank + 1, channels))
    sources = sources if len(sources) else np.zeros(1, np.int64)
    return RaggedDepthwisePointwise(
        sources, normal(len(sources), positions), normal(outputs, len(sources)), channels
    )


def one_conv(
    attributes: str,
    shape: tuple[int, ...],
    size: tuple[int, ...],
    *,
    dtype: str = "float",
    batch: int = 2,
) -> ir.Model:
    free = ", ".join(f"s{axis}" for axis in range(len(size)))
    spatial = ", ".join(str(extent) for extent in size)
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph ({dtype}[{batch}, {shape[1]}, {spatial}] x) => ({dtype}[{batch}, {shape[0]}, {free}]
            y) {{
            [conv] y = Conv <{attributes}> (x, W)
        }}
    """
    numpy_dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    return model_from_text(text, W=np.ones(shape, numpy_dtype))


def only_site(model: ir.Model) -> ConvSite:
    (site,) = find_convolutions(model.graph)[0]
    return site


def lowered_pair(
    model: ir.Model, factors: Factors, repeat: Repeat = "concat"
) -> tuple[ir.Model, ir.Model]:
    """The model with the dense equivalent, and with the form."""
    bias = np.random.default_rng(7).standard_normal(only_site(model).out_channels)
    dense, separable = model.clone(), model.clone()
    replace_by_dense_equivalent(dense.graph, only_site(dense), factors.dense(), bias)
    replace_by_factors(separable.graph, only_site(separable), factors, bias, repeat)
    return dense, separable


@st.composite
def geometries(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Attributes, kernel and input size of one to three spatial axes."""
    axes = draw(st.integers(1, 3))

    def several(low: int, high: int, count: int = axes) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel = several(1, 5 if axes < 3 else 3)
    strides, dilations = several(1, 3), several(1, 2)
    padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "none"]))
    attributes = [f"strides = {strides}"]
    if padding == "pads":
        attributes.append(f"pads = {several(0, 2, 2 * axes)}")
    elif padding != "none":
        attributes.append(f'auto_pad = "{padding}"')
    if padding.startswith("SAME"):
        dilations = [1] * axes  # onnxruntime refuses the combination
    attributes.append(f"dilations = {dilations}")
    if draw(st.booleans()):
        attributes.append(f"kernel_shape = {kernel}")
    extra = several(0, 4)
    size = [
        dilation * (extent - 1) + 1 + more
        for extent, dilation, more in zip(kernel, dilations, extra, strict=True)
    ]
    return ", ".join(attributes), tuple(kernel), tuple(size)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    geometry=geometries(),
    outputs=st.integers(1, 6),
    channels=st.integers(1, 6),
    rank=st.integers(1, 3),
    batch=st.integers(1, 3),
    repeat=st.sampled_from(["concat", "multiplier"]),
    seed=st.integers(0, 99),
)
def test_every_form_equals_its_dense_equivalent(
    form: str,
    geometry: tuple[str, tuple[int, ...], tuple[int, ...]],
    outputs: int,
    channels: int,
    rank: int,
    batch: int,
    repeat: Repeat,
    seed: int,
) -> None:
    attributes, kernel, size = geometry
    model = one_conv(attributes, (outputs, channels, *kernel), size, batch=batch)
    factors = draw_factors(form, outputs, channels, math.prod(kernel), rank, seed)
    dense, separable = lowered_pair(model, factors, repeat)
    assert_same_model(dense, separable)
    assert operators(dense) == operators(model)


@dataclasses.dataclass(frozen=True)
class GraphCase:
    id: str
    factors: Factors
    nodes: list[str]
    repeat: Repeat = "concat"


RAGGED = draw_factors("ragged", 5, 8, 9, 2, seed=1)
GRAPHS = [
    GraphCase("dp rank 1", draw_factors("dp", 5, 8, 9, 1), ["conv/depthwise", "conv/pointwise"]),
    GraphCase(
        "dp rank 2",
        draw_factors("dp", 5, 8, 9, 2),
        ["conv/repeat", "conv/depthwise", "conv/pointwise"],
    ),
    GraphCase(
        "dp multiplier",
        draw_factors("dp", 5, 8, 9, 2),
        ["conv/depthwise", "conv/pointwise"],
        "multiplier",
    ),
    GraphCase("ragged", RAGGED, ["conv/gather", "conv/depthwise", "conv/pointwise"]),
    GraphCase("pd rank 1", draw_factors("pd", 5, 8, 9, 1), ["conv/pointwise", "conv/depthwise"]),
    GraphCase(
        "pd rank 2",
        draw_factors("pd", 5, 8, 9, 2),
        [
            *("conv/pointwise_1", "conv/depthwise_1"),
            *("conv/pointwise_2", "conv/depthwise_2"),
            "conv/sum_2",
        ],
    ),
    GraphCase(
        "cp",
        draw_factors("cp", 5, 8, 9, 2),
        ["conv/first_pointwise", "conv/depthwise", "conv/last_pointwise"],
    ),
]


@pytest.mark.parametrize("case", GRAPHS, ids=lambda case: case.id)
def test_graph_has_one_bias_and_pads_only_at_the_depthwise(case: GraphCase) -> None:
    model = one_conv("pads = [1, 0, 2, 1], strides = [2, 2]", (5, 8, 3, 3), (9, 9))
    dense, separable = lowered_pair(model, case.factors, case.repeat)
    assert_same_model(dense, separable, optimized=True)
    assert [node.name for node in separable.graph] == case.nodes
    convolutions = [node for node in separable.graph if node.op_type == "Conv"]
    assert sum(len(node.inputs) == 3 for node in convolutions) == 1
    for node in convolutions:
        moves = {"pads", "strides"} & set(node.attributes)
        assert bool(moves) == ("depthwise" in (node.name or ""))
    (biased,) = [node for node in convolutions if len(node.inputs) == 3]
    # Nothing with a kernel may follow: it would see the bias leak into its padding.
    assert {use.node.op_type for use in biased.outputs[0].uses()} <= {"Add"}


def test_ragged_terms_are_filled_up_to_whole_blocks_of_zeros() -> None:
    model = one_conv("pads = [1, 1, 1, 1]", (5, 8, 3, 3), (6, 6))
    _, separable = lowered_pair(model, RAGGED)
    weight = separable.graph.initializers["conv/depthwise_weight"].const_value.numpy()
    assert isinstance(RAGGED, RaggedDepthwisePointwise)
    assert 16 < RAGGED.terms < 32
    assert len(weight) == 32
    assert not weight[RAGGED.terms :].any()


def test_terms_for_every_channel_in_turn_need_no_gather() -> None:
    model = one_conv("pads = [1, 1, 1, 1]", (5, 16, 3, 3), (6, 6))
    factors = RaggedDepthwisePointwise(np.arange(16), np.ones((16, 9)), np.ones((5, 16)), 16)
    dense, separable = lowered_pair(model, factors)
    assert operators(separable) == {"Conv": 2}
    assert_same_model(dense, separable)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_stays_half_precision(form: str) -> None:
    model = one_conv("pads = [1, 1, 1, 1]", (5, 4, 3, 3), (6, 6), dtype="float16")
    dense, separable = lowered_pair(model, draw_factors(form, 5, 4, 9, 2))
    floats = {
        value.dtype
        for value in separable.graph.initializers.values()
        if value.dtype != ir.DataType.INT64 and value.uses()
    }
    assert floats == {ir.DataType.FLOAT16}
    # Each stage rounds to 11 bits.
    assert_same_model(dense, separable, tolerance=5e-3, interpreted=True)


def test_a_factor_that_half_precision_cannot_hold_leaves_the_graph_alone() -> None:
    model = one_conv("pads = [1, 1, 1, 1]", (5, 4, 3, 3), (6, 6), dtype="float16")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    factors = PointwiseDepthwise(np.full((5, 1, 4), 1e6), np.full((5, 1, 9), 1e-6))
    with pytest.raises(FactorizationError, match="do not fit into float16"):
        replace_by_factors(model.graph, only_site(model), factors, np.zeros(5), "concat")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_names_that_are_taken_are_left_to_their_owners() -> None:
    generator = np.random.default_rng(0)
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] z) {
            [conv] y = Conv <pads = [1, 1, 1, 1]> (x, W)
            taken = Relu (y)
            z = Add (taken, taken_too)
        }
        """,
        W=generator.standard_normal((4, 4, 3, 3)).astype(np.float32),
        taken_too=generator.standard_normal((1, 4, 1, 1)).astype(np.float32),
    )
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and (value.name or "").startswith("taken"):
                value.name = {"taken": "y/depthwise"}.get(value.name, "conv/depthwise_weight")
    dense, separable = lowered_pair(model, draw_factors("dp", 4, 4, 9, 2))
    assert_same_model(dense, separable)
    assert {"conv/depthwise_weight", "conv/depthwise_weight_1"} <= set(separable.graph.initializers)


def test_dense_equivalent_of_a_convolution_without_bias_gets_one() -> None:
    model = one_conv("pads = [1, 1, 1, 1]", (5, 4, 3, 3), (6, 6))
    factors = draw_factors("cp", 5, 4, 9, 1)
    bias = np.arange(5.0)
    site = only_site(model)
    replace_by_dense_equivalent(model.graph, site, factors.dense(), bias)
    changed = only_site(model)
    np.testing.assert_allclose(changed.weight.reshape(5, 4, 9), factors.dense(), rtol=1e-6)
    assert changed.bias is not None
    np.testing.assert_array_equal(changed.bias, bias)
    feeds = seeded_feeds(model)
    assert np.isfinite(run(model, feeds)[0]).all()
