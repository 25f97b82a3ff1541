"""Separation against its own dense equivalent, in every geometry."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.decision import FORMS, Decision, Form
from onnxsep.passes.separate import Calibration, Separate
from onnxsep.targets import TARGETS

from .helpers import (
    assert_same_model,
    interface,
    largest_relative_difference,
    model_from_text,
    normal,
    operators,
    run,
    seeded_feeds,
)
from .one_convolution import at_ranks, calibration_for, one_conv

# A fit at full rank solves a system of normal equations, which squares the rounding.
EXACT = 2e-4


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    attributes: str
    shape: tuple[int, ...] = (12, 8, 3, 3)
    size: tuple[int, ...] = (9, 8)
    bias: bool = True


CASES = [
    Case("same padding", "pads = [1, 1, 1, 1]"),
    Case("no padding, no bias", "group = 1", bias=False),
    Case("asymmetric padding", "pads = [0, 2, 1, 0]"),
    Case("stride 2", "pads = [1, 1, 1, 1], strides = [2, 2]"),
    Case("unequal strides", "pads = [1, 1, 1, 1], strides = [2, 1]"),
    Case("dilation", "pads = [2, 2, 2, 2], dilations = [2, 2]"),
    Case("SAME_UPPER", 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    Case("SAME_LOWER", 'auto_pad = "SAME_LOWER", strides = [2, 2]'),
    Case("VALID", 'auto_pad = "VALID"'),
    Case("even kernel", "pads = [0, 1, 1, 0]", shape=(6, 8, 2, 4)),
    Case("7x7", "pads = [3, 3, 3, 3]", shape=(60, 8, 7, 7)),
    Case("1x3", "pads = [0, 1, 0, 1]", shape=(12, 8, 1, 3)),
    Case("1-D", "pads = [1, 1]", shape=(12, 8, 3), size=(17,)),
    Case("3-D", "pads = [1, 0, 1, 0, 1, 0]", shape=(5, 8, 2, 3, 2), size=(4, 5, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_full_rank_is_exact(case: Case) -> None:
    model = one_conv(case.attributes, shape=case.shape, size=case.size, bias=case.bias)
    original = model.clone()
    full = min(case.shape[0], math.prod(case.shape[2:]))
    result = Separate(at_ranks({"conv": full}), calibration_for(model, batches=8, batch=16))(model)
    assert [change.code for change in result.changes] == ["separated"]
    assert "Conv" in operators(model)
    assert interface(model) == interface(original)
    assert largest_relative_difference(original, model, seeded_feeds(model, seed=99)) < EXACT


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_low_rank_equals_its_dense_equivalent(case: Case, rank: int) -> None:
    model = one_conv(case.attributes, shape=case.shape, size=case.size, bias=case.bias)
    dense = model.clone()
    Separate(at_ranks({"conv": rank}), calibration_for(model))(model)
    sites = {site.name: site for site in find_convolutions(model.graph)[0]}
    depthwise = sites["conv/depthwise"].weight  # (r·C, 1, *kernel), copies of the input in turn
    pointwise = sites["conv/pointwise"]
    channels = case.shape[1]
    mixing = pointwise.weight.reshape(case.shape[0], rank, channels)
    filters = depthwise.reshape(rank, channels, -1)
    weight = np.einsum("nrc,rck->nck", mixing, filters).reshape(case.shape)
    dense.graph.initializers["W"].const_value = ir.tensor(weight.astype(np.float32))
    conv = next(iter(dense.graph))
    conv.resize_inputs(3)
    bias = ir.Value(name="bias", const_value=ir.tensor(pointwise.bias))
    dense.graph.register_initializer(bias)
    conv.replace_input_with(2, bias)
    assert largest_relative_difference(dense, model, seeded_feeds(model, seed=5)) < 1e-5


def full_rank(form: Form, shape: tuple[int, ...]) -> int:
    """The rank at which a form is exact."""
    outputs, channels, positions = shape[0], shape[1], math.prod(shape[2:])
    match form:
        case "depthwise-pointwise":
            return min(outputs, positions)
        case "pointwise-depthwise":
            return min(channels, positions)
        case "cp":
            return channels * positions


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("case", [CASES[3], CASES[6], CASES[12]], ids=lambda case: case.id)
def test_other_forms_are_exact_at_full_rank(case: Case, form: Form) -> None:
    model = one_conv(case.attributes, shape=case.shape, size=case.size, bias=case.bias)
    original = model.clone()
    decisions = {"conv": Decision(form, full_rank(form, case.shape))}
    result = Separate(decisions, calibration_for(model, batches=8, batch=16))(model)
    assert [change.detail.split(",")[0] for change in result.changes] == [form]
    assert interface(model) == interface(original)
    # The CP search ends with a penalty on terms that cancel each other.
    tolerance = 0.02 if form == "cp" else EXACT
    assert largest_relative_difference(original, model, seeded_feeds(model, seed=99)) < tolerance


@pytest.mark.parametrize("form", FORMS)
def test_figures_count_what_the_graph_does(form: Form) -> None:
    model = one_conv("pads = [1, 1, 1, 1], strides = [2, 2]", size=(8, 8))
    decision = Decision(form, 8 if form == "cp" else 2)
    (change,) = Separate({"conv": decision}, None)(model).changes
    sites = find_convolutions(model.graph)[0]
    assert change.figures["rank"] == decision.rank
    assert change.figures["parameters_after"] == sum(site.parameters for site in sites)
    # 8x8 positions in front of the stride, 4x4 behind it.
    behind, done = False, 0
    for site in sites:
        behind = site.kind == "depthwise" or (behind and form != "pointwise-depthwise")
        done += site.multiplications_per_pixel * (16 if behind else 64)
    assert change.figures["multiplications_after"] == done / 16
    assert decision.multiplications(12, 8, 9, 4) == done / 16


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    outputs=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_any_geometry_is_exact_at_full_rank(
    kernel: list[int], stride: int, dilation: int, pads: list[int], outputs: int, seed: int
) -> None:
    axes = len(kernel)
    attributes = (
        f"strides = {[stride] * axes}, dilations = {[dilation] * axes}, pads = {pads[: 2 * axes]}"
    )
    size = tuple(dilation * (extent - 1) + 3 for extent in kernel)
    shape = (outputs, 8, *kernel)
    model = one_conv(attributes, shape=shape, size=size, seed=seed)
    original = model.clone()
    full = min(outputs, math.prod(kernel))
    result = Separate(at_ranks({"conv": full}), None)(model)
    if math.prod(kernel) == 1:
        assert [refusal.code for refusal in result.refusals] == ["pointwise"]
        return
    assert [change.code for change in result.changes] == ["separated"]
    assert largest_relative_difference(original, model) < 1e-5


def test_data_make_the_fit_better() -> None:
    model = one_conv(shape=(16, 8, 3, 3))
    mixing = np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32) ** 3

    def correlated(seed: int) -> dict[str, np.ndarray]:
        noise = seeded_feeds(model, seed=seed, free={"batch": 8})["x"]
        smooth = noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3)
        return {"x": np.einsum("dc,bchw->bdhw", mixing, smooth).astype(np.float32)}

    feeds = [correlated(seed) for seed in range(6)]
    held_out = correlated(77)
    expected = run(model, held_out)[0]
    errors = []
    for calibration in (None, Calibration(feeds, 48, threads=1)):
        candidate = model.clone()
        Separate(at_ranks({"conv": 1}), calibration)(candidate)
        difference = run(candidate, held_out)[0] - expected
        errors.append(float(np.mean(difference**2) / np.var(expected)))
    assert errors[1] < 0.6 * errors[0]


CHAIN = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[batch, 8, 10, 10] x) => (float[batch, 12, 10, 10] y, float[batch, 8, 10, 10] mid)
    {
        [first] mid = Conv <pads = [1, 1, 1, 1]> (x, W1, B1)
        a = Relu (mid)
        [second] b = Conv <pads = [1, 1, 1, 1]> (a, W2)
        s = Add (b, a)
        [third] y = Conv <pads = [1, 1, 1, 1]> (s, W3)
    }
"""


def chain() -> ir.Model:
    generator = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    return model_from_text(
        CHAIN, W1=normal(8, 8, 3, 3), B1=normal(8), W2=normal(8, 8, 3, 3), W3=normal(12, 8, 3, 3)
    )


def test_later_layers_are_fitted_to_what_earlier_rewrites_feed_them() -> None:
    ranks = {"first": 2, "second": 2, "third": 2}
    calibration = calibration_for(chain(), batches=8, batch=16)
    held_out = seeded_feeds(chain(), seed=1234, free={"batch": 32})
    expected = run(chain(), held_out)[0]

    together = chain()
    Separate(at_ranks(ranks), calibration)(together)
    apart = chain()
    # Each layer alone on the original's inputs, then all put together.
    for name in ranks:
        single = chain()
        Separate(at_ranks({name: 2}), calibration)(single)
        _take_over(apart, single, name)
    errors = [
        float(np.mean((run(model, held_out)[0] - expected) ** 2)) for model in (together, apart)
    ]
    assert errors[0] < errors[1]


def _take_over(model: ir.Model, donor: ir.Model, name: str) -> None:
    sites = {site.name: site for site in find_convolutions(donor.graph)[0]}
    depthwise, pointwise = sites[f"{name}/depthwise"], sites[f"{name}/pointwise"]
    own = next(site for site in find_convolutions(model.graph)[0] if site.name == name)
    rank = depthwise.group // own.in_channels
    weight = np.einsum(
        "nrc,rck->nck",
        pointwise.weight.reshape(own.out_channels, rank, own.in_channels),
        depthwise.weight.reshape(rank, own.in_channels, -1),
    ).reshape(own.weight.shape)
    value = ir.Value(name=f"{name}_w", const_value=ir.tensor(weight.astype(np.float32)))
    bias = ir.Value(name=f"{name}_b", const_value=ir.tensor(pointwise.bias))
    for new in (value, bias):
        model.graph.register_initializer(new)
    own.node.resize_inputs(3)
    own.node.replace_input_with(1, value)
    own.node.replace_input_with(2, bias)


def test_names_outside_stay_and_old_weights_go() -> None:
    model = chain()
    Separate(at_ranks({"first": 2, "third": 1}), calibration_for(model))(model)
    assert [value.name for value in model.graph.outputs] == ["y", "mid"]
    assert "W1" not in model.graph.initializers
    assert "W2" in model.graph.initializers
    names = [node.name for node in model.graph]
    assert names == [
        "first/repeat",
        "first/depthwise",
        "first/pointwise",
        "",
        "second",
        "",
        "third/depthwise",
        "third/pointwise",
    ]


def test_shared_weight_stays_for_its_other_user() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[batch, 8, 6, 6] x) => (float[batch, 8, 2, 2] y) {
            [first] a = Conv (x, W)
            [second] y = Conv (a, W)
        }
        """,
        W=np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32),
    )
    original = model.clone()
    result = Separate(at_ranks({"first": 8}), calibration_for(model, batches=20, batch=16))(model)
    assert [change.node for change in result.changes] == ["first"]
    assert "W" in model.graph.initializers
    assert largest_relative_difference(original, model) < EXACT


def test_multiplier_form_computes_the_same() -> None:
    concat, multiplier = one_conv(), one_conv()
    Separate(at_ranks({"conv": 3}), calibration_for(concat))(concat)
    Separate(at_ranks({"conv": 3}), calibration_for(concat), target=TARGETS["nnapi"])(multiplier)
    assert "Concat" in operators(concat)
    assert "Concat" not in operators(multiplier)
    assert_same_model(concat, multiplier)


def test_same_seed_same_bytes() -> None:
    models = [chain(), chain()]
    decisions = {
        "first": Decision("depthwise-pointwise", 2),
        "second": Decision("cp", 8),
        "third": Decision("pointwise-depthwise", 2),
    }
    for model in models:
        Separate(decisions, calibration_for(model), seed=3)(model)
    first, second = (ir.to_proto(model).SerializeToString(deterministic=True) for model in models)
    assert first == second


def test_plans_that_begin_alike_share_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,8,9,9] x) => (float[batch,8,9,9] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, A)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, B)
        d = Relu (c)
        y = Conv <pads = [1, 1, 1, 1]> (d, C)
    }"""
    weights = {name: normal(8, 8, 3, 3, seed=seed) for seed, name in enumerate("ABC")}
    model = model_from_text(text, **weights)
    for node in model.graph:
        node.name = node.outputs[0].name
    calibration = calibration_for(model)
    fitted: list[str] = []
    fit = Separate._fit

    def watched(self: Separate, site: ConvSite, *rest: Any) -> Any:
        fitted.append(site.name)
        return fit(self, site, *rest)

    monkeypatch.setattr(Separate, "_fit", watched)
    memory: dict[Any, Any] = {}
    Separate(at_ranks({"a": 2, "c": 2, "y": 1}), calibration, memory=memory)(model.clone())
    shared, alone = model.clone(), model.clone()
    Separate(at_ranks({"a": 2, "c": 3, "y": 1}), calibration, memory=memory)(shared)
    assert fitted == ["a", "c", "y", "c", "y"]
    Separate(at_ranks({"a": 2, "c": 3, "y": 1}), calibration)(alone)
    assert ir.to_proto(shared).SerializeToString() == ir.to_proto(alone).SerializeToString()


@pytest.mark.parametrize("form", FORMS)
def test_refit_behind_the_activation_serves_every_form(form: Form) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[batch, 8, 10, 10] x) => (float[batch, 12, 10, 10] y) {
            [conv] a = Conv <pads = [1, 1, 1, 1]> (x, W, B)
            y = Relu (a)
        }
    """
    generator = np.random.default_rng(2)
    model = model_from_text(
        text,
        W=generator.standard_normal((12, 8, 3, 3)).astype(np.float32),
        B=np.full(12, -6, np.float32),
    )
    calibration = calibration_for(model, batches=10, batch=16)
    held_out = seeded_feeds(model, seed=4321, free={"batch": 64})
    expected = run(model, held_out)[0]
    errors = []
    for behind in (False, True):
        candidate = model.clone()
        decisions = {"conv": Decision(form, 8 if form == "cp" else 1)}
        Separate(decisions, calibration, behind_activation=behind)(candidate)
        errors.append(float(np.mean((run(candidate, held_out)[0] - expected) ** 2)))
    assert errors[1] < 0.97 * errors[0]


RESIDUAL = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[batch, 8, 12, 12] x) => (float[batch, 8, 12, 12] y) {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
        b = Relu (a)
        [second] c = Conv <pads = [1, 1, 1, 1]> (b, W2)
        s = Add (c, b)
        y = Relu (s)
    }
"""


@pytest.mark.parametrize("behind", [False, True])
def test_last_layer_of_a_block_repairs_its_shortcut(behind: bool) -> None:
    generator = np.random.default_rng(5)
    model = model_from_text(
        RESIDUAL,
        W1=generator.standard_normal((8, 8, 3, 3)).astype(np.float32),
        W2=generator.standard_normal((8, 8, 3, 3)).astype(np.float32) / 4,
    )
    # The same block with the shortcut hidden behind a node through which no sum is seen.
    hidden = model_from_text(
        RESIDUAL.replace("s = Add (c, b)", "d = Abs (b) e = Identity (c) s = Add (e, d)"),
        **{name: value.const_value.numpy() for name, value in model.graph.initializers.items()},
    )
    held_out = seeded_feeds(model, seed=321, free={"batch": 32})
    expected = run(model, held_out)[0]
    errors = []
    for candidate in (model, hidden):
        calibration = calibration_for(candidate, batches=10, batch=16)
        ranks = {"first": 2, "second": 4}
        result = Separate(at_ranks(ranks), calibration, behind_activation=behind)(candidate)
        assert len(result.changes) == 2
        errors.append(float(np.mean((run(candidate, held_out)[0] - expected) ** 2)))
    assert errors[0] < 0.97 * errors[1]


def test_error_behind_the_activation_is_what_counts() -> None:
    generator = np.random.default_rng(2)
    weight = generator.standard_normal((16, 8, 3, 3)).astype(np.float32)
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[batch, 8, 12, 12] x) => (float[batch, 16, 12, 12] y) {
            [conv] a = Conv <pads = [1, 1, 1, 1]> (x, W, B)
            y = Relu (a)
        }
    """
    bias = np.full(16, -6, np.float32)  # Most outputs are cut off.
    errors = []
    for behind in (False, True):
        model = model_from_text(text, W=weight, B=bias)
        held_out = seeded_feeds(model, seed=99, free={"batch": 32})
        expected = run(model, held_out)[0]
        calibration = calibration_for(model, batches=16, batch=16)
        Separate(at_ranks({"conv": 2}), calibration, behind_activation=behind)(model)
        errors.append(float(np.mean((run(model, held_out)[0] - expected) ** 2)))
    assert errors[1] < 0.95 * errors[0]
