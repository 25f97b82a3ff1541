"""`PoolFirst`: the same numbers to the last bit, less work, and every refusal."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.passes.base import RewriteResult
from onnxsep.passes.pool_first import PoolFirst

from .helpers import make_session, model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'
POOL = "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"


def net(body: str, outputs: str = "float[N,2,4,4] y", **arrays: np.ndarray) -> ir.Model:
    text = f"{OPSET} net (float[N,2,8,8] x) => ({outputs}) {{ {body} }}"
    model = model_from_text(text, **arrays)
    for node in model.graph:
        node.name = node.outputs[0].name
    return ShapeInferencePass()(model).model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def pooled(model: ir.Model) -> tuple[ir.Model, RewriteResult]:
    """A copy after the pass; asserts that no bit of an output has changed."""
    after = model.clone()
    result = PoolFirst()(after)
    feeds = {"x": normal(2, 2, 8, 8, seed=3)}
    for before, now in zip(
        make_session(model).run(None, feeds), make_session(after).run(None, feeds), strict=True
    ):
        np.testing.assert_array_equal(before, now)
    assert [value.name for value in after.graph.outputs] == [
        value.name for value in model.graph.outputs
    ]
    return after, result


@dataclasses.dataclass(frozen=True)
class Exchanged:
    id: str
    body: str
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Exchanged("leaky relu", f"a = LeakyRelu <alpha = 0.1> (x) y = {POOL} (a)"),
        Exchanged("a leak of nothing", f"a = LeakyRelu <alpha = 0.0> (x) y = {POOL} (a)"),
        Exchanged("default leak", f"a = LeakyRelu (x) y = {POOL} (a)"),
        Exchanged("tanh", f"a = Tanh (x) y = {POOL} (a)"),
        Exchanged(
            "slope by channel",
            f"a = PRelu (x, s) y = {POOL} (a)",
            {"s": np.array([[[0.1]], [[0.3]]], np.float32)},
        ),
        Exchanged("one slope", f"a = PRelu (x, s) y = {POOL} (a)", {"s": np.float32([0.2])}),
        Exchanged("somebody behind", f"a = LeakyRelu (x) p = {POOL} (a) y = Neg (p)"),
        Exchanged("twice behind", f"a = LeakyRelu (x) p = {POOL} (a) n = Neg (p) y = Add (p, n)"),
    ],
    ids=lambda case: case.id,
)
def test_pool_comes_first(case: Exchanged) -> None:
    after, result = pooled(net(case.body, **case.arrays))
    assert operators(after)[:2] == ["MaxPool", operators(net(case.body, **case.arrays))[0]]
    (change,) = result.changes
    assert (change.node, change.code, result.refusals) == ("a", "moved-behind-pool", [])


def test_global_pool_is_a_pool() -> None:
    after, _ = pooled(net("a = LeakyRelu (x) y = GlobalMaxPool (a)", "float[N,2,1,1] y"))
    assert operators(after) == ["GlobalMaxPool", "LeakyRelu"]


def test_inner_value_is_called_otherwise_and_knows_its_size() -> None:
    after, _ = pooled(net(f"a = LeakyRelu (x) p = {POOL} (a) y = Neg (p)"))
    names = [node.outputs[0].name for node in after.graph]
    assert names == ["p_before_activation", "p", "y"]
    shapes = [list(node.outputs[0].shape or ())[1:] for node in after.graph]
    assert shapes == [[2, 4, 4]] * 3


@dataclasses.dataclass(frozen=True)
class Kept:
    id: str
    body: str
    code: str
    outputs: str = "float[N,2,4,4] y"
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Kept("falls", f"a = LeakyRelu <alpha = -0.1> (x) y = {POOL} (a)", "falls"),
        Kept("elu that falls", f"a = Elu <alpha = -1.0> (x) y = {POOL} (a)", "falls"),
        Kept(
            "slope that falls in one channel",
            f"a = PRelu (x, s) y = {POOL} (a)",
            "falls",
            arrays={"s": np.array([[[0.1]], [[-0.3]]], np.float32)},
        ),
        Kept(
            "slope by place",
            f"a = PRelu (x, s) y = {POOL} (a)",
            "slope-by-place",
            arrays={"s": np.full((8,), 0.1, np.float32)},
        ),
        Kept(
            "computed slope",
            f"s = Abs (t) a = PRelu (x, s) y = {POOL} (a)",
            "slope-unknown",
            arrays={"t": np.float32([0.2])},
        ),
        Kept(
            "read twice",
            f"a = LeakyRelu (x) p = {POOL} (a) q = {POOL} (a) y = Add (p, q)",
            "read-elsewhere",
        ),
        Kept(
            "handed out",
            f"a = LeakyRelu (x) y = {POOL} (a)",
            "read-elsewhere",
            "float[N,2,8,8] a, float[N,2,4,4] y",
        ),
        Kept(
            "positions",
            f"a = LeakyRelu (x) y, i = {POOL} (a) z = Identity (i)",
            "positions-wanted",
            "float[N,2,4,4] y, int64[N,2,4,4] z",
        ),
        Kept(
            "nothing saved",
            "a = LeakyRelu (x) y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)",
            "no-saving",
            "float[N,2,8,8] y",
        ),
    ],
    ids=lambda case: case.id,
)
def test_refusals(case: Kept) -> None:
    model = net(case.body, case.outputs, **case.arrays)
    after, result = pooled(model)
    assert operators(after) == operators(model)
    assert {refusal.code for refusal in result.refusals} == {case.code}
    assert not result.modified


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_what_is_free_or_falls_is_not_even_mentioned(activation: str) -> None:
    model = net(f"a = {activation} (x) y = {POOL} (a)")
    after, result = pooled(model)
    assert (operators(after), result.changes, result.refusals) == ([activation, "MaxPool"], [], [])
