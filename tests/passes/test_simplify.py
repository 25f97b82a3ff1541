"""The `simplify` pass: what it folds, and that it believes nothing without proof."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep import simplifier
from onnxsep.errors import InputError
from onnxsep.model import load_model, save_model
from onnxsep.passes import simplify as simplify_module
from onnxsep.passes.base import LosslessPass, Refusal, RewriteResult
from onnxsep.passes.simplify import Simplify

from .helpers import (
    assert_same_model,
    initializer_names,
    interface,
    model_from_text,
    normal,
    operators,
    seeded_feeds,
    statistics,
)

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'


def net(
    body: str,
    signature: str = "(float[N,3,4] x) => (float[N,3,4] y)",
    **arrays: np.ndarray,
) -> ir.Model:
    return model_from_text(f"{OPSET} net {signature} {{ {body} }}", **arrays)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """onnxsim for real, but in this process: a new one takes seconds for every model."""

    def simplified(model: ir.Model) -> ir.Model:
        source, result = tmp_path / "source.onnx", tmp_path / "result.onnx"
        save_model(model, source)
        simplifier._main(str(source), str(result))
        return load_model(result)

    monkeypatch.setattr(simplify_module, "simplify_model", simplified)


def simplified(model: ir.Model, **free: int) -> tuple[ir.Model, RewriteResult]:
    """A copy after the pass, proved here once more, and the account."""
    after = model.clone()
    result = Simplify([seeded_feeds(model, seed=5, free=free)])(after)
    assert result.model is after
    assert result.modified == bool(result.changes)
    assert_same_model(model, after, seeded_feeds(model, seed=6, free=free))
    return after, result


SHAPES = "z = Constant <value_ints = [0]> () rest = Constant <value_ints = [-1]> () "


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph, and the operators that are left of it."""

    id: str
    body: str
    left: Mapping[str, int]
    signature: str = "(float[N,3,4] x) => (float[N,3,4] y)"
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


CASES = [
    Case("shape chain",
         SHAPES + "s = Shape (x) n = Gather (s, z) t = Concat <axis = 0> (n, rest) "
         "y = Reshape (x, t)",
         {"Reshape": 1}, "(float[2,3,4] x) => (float[2,12] y)"),
    Case("constants", "k = Constant <value = float[4] {1,2,3,4}> () a = Neg (k) b = Exp (a) "
         "y = Mul (x, b)", {"Mul": 1}),
    Case("double precision", "a = Neg (k) b = Exp (a) y = Mul (x, b)", {"Mul": 1},
         "(double[N,3,4] x) => (double[N,3,4] y)", {"k": normal(4).astype(np.float64)}),
    Case("dead and idle nodes", "a = Exp (x) b = Identity (x) c = Identity (b) y = Relu (c)",
         {"Relu": 1}),
    Case("decided branch", """flag = Constant <value = bool {1}> ()
         y = If (flag) <then_branch = t () => (float[N,3,4] a) { a = Neg (x) },
                        else_branch = e () => (float[N,3,4] b) { b = Abs (x) }>""", {"Neg": 1}),
    Case("BatchNormalization stays for our own pass",
         "i = Identity (x) c = Conv (i, w) y = BatchNormalization (c, s, b, m, v)",
         {"Conv": 1, "BatchNormalization": 1},
         arrays={"w": normal(3, 3, 1), **statistics(3)}),
    Case("operator that is onnxruntime's own",
         "i = Identity (x) g = com.microsoft.Gelu (i) y = Neg (g)", {"Gelu": 1, "Neg": 1}),
    Case("weight behind Transpose",
         "t = Transpose <perm = [2,1,0]> (w) y = Conv (x, t)", {"Conv": 1},
         arrays={"w": normal(1, 3, 3)}),
    Case("input that nothing uses", "i = Identity (x) y = Relu (i)", {"Relu": 1},
         "(float[N,3,4] x, float[2] unused) => (float[N,3,4] y)"),
]  # fmt: skip


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_is_constant_is_folded_and_the_interface_kept(case: Case) -> None:
    text = f"{OPSET} net {case.signature} {{ {case.body} }}"
    if "com.microsoft" in text:
        text = text.replace('"" : 17', '"" : 17, "com.microsoft" : 1')
    model = model_from_text(text, **case.arrays)
    after, result = simplified(model)
    assert {name: n for name, n in operators(after).items() if name != "Constant"} == case.left
    (change,) = result.changes
    assert not result.refusals
    assert change.code == "simplified"
    assert change.figures["nodes_before"] == model.graph.num_nodes()
    assert change.figures["nodes_after"] == after.graph.num_nodes()
    assert change.detail == f"{model.graph.num_nodes()} nodes became {after.graph.num_nodes()}"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("body", ["y = Relu (x)", "a = Relu (x) b = Neg (a) y = Add (a, b)"])
def test_simple_model_is_left_alone(body: str) -> None:
    model = net(body)
    graph = model.graph
    result = Simplify([seeded_feeds(model)])(model)
    assert not result.modified
    assert not result.changes
    assert not result.refusals
    assert model.graph is graph


@pytest.mark.usefixtures("in_process")
def test_free_dimensions_stay_free() -> None:
    """Three batch sizes, other than the one on which it was checked."""
    model = net(
        SHAPES + "i = Identity (x) s = Shape (i) n = Gather (s, z) t = Concat <axis = 0> (n, rest) "
        "r = Reshape (i, t) y = Relu (r)",
        "(float[N,3,W] x) => (float[N,K] y)",
    )
    after, result = simplified(model, N=2, W=5)
    assert result.modified
    assert interface(after) == interface(model)
    for batch in (1, 2, 7):
        assert_same_model(model, after, seeded_feeds(model, free={"N": batch, "W": batch + 1}))


@pytest.mark.usefixtures("in_process")
def test_declared_shapes_of_outputs_are_not_overwritten() -> None:
    """What onnxsim infers is sharper than what the model promises."""
    model = net("i = Identity (x) y = Relu (i)", "(float[2,3,4] x) => (float[A,B,C] y)")
    after, _ = simplified(model)
    assert str(after.graph.outputs[0].shape) == "[A,B,C]"


@pytest.mark.usefixtures("in_process")
def test_small_constant_is_not_blown_up() -> None:
    """Folded, Expand would put 2.4 MB into the file."""
    model = net(
        "k = Constant <value_ints = [1, 1000, 150, 4]> () e = Expand (w, k) "
        "i = Identity (x) y = Add (i, e)",
        "(float[N,1,1,4] x) => (float[N,1000,150,4] y)",
        w=normal(1, 1, 1, 4),
    )
    after, _ = simplified(model, N=1)
    weights = [value.const_value for value in after.graph.initializers.values()]
    assert sum(tensor.nbytes for tensor in weights if tensor is not None) < 10**6


@pytest.mark.usefixtures("in_process")
def test_random_numbers_are_not_made_constant() -> None:
    model = net("i = Identity (x) r = RandomNormal <shape = [4]> () y = Mul (i, r)")
    result = Simplify([seeded_feeds(model)])(model)
    assert operators(model)["RandomNormal"] == 1
    assert result.changes or result.refusals


@pytest.mark.usefixtures("in_process")
def test_unknown_operator_is_refused_and_not_lost() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[N,4] x) => (float[N,4] y) { i = Identity (x) y = acme.Foo (i) }"""
    )
    refusal = refused(model)
    assert refusal.code == "result-does-not-run"
    assert "onnxruntime cannot load the original" in refusal.reason


def refused(model: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> Refusal:
    """The only entry of the account, the model being as it was to the last byte."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    graph = model.graph
    result = Simplify([seeded_feeds(model) if feeds is None else feeds])(model)
    assert not result.modified
    assert not result.changes
    assert model.graph is graph
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    (refusal,) = result.refusals
    assert refusal.node == "(whole model)"
    return refusal


@pytest.fixture
def onnxsim_gives(monkeypatch: pytest.MonkeyPatch) -> Callable[[ir.Model], None]:
    """Puts a model in the place of onnxsim's result."""

    def set_result(result: ir.Model) -> None:
        monkeypatch.setattr(simplify_module, "simplify_model", lambda model: result.clone())

    return set_result


def test_failure_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(model: ir.Model) -> ir.Model:
        raise InputError("onnxsim failed: it crashed (signal 11)")

    monkeypatch.setattr(simplify_module, "simplify_model", failing)
    refusal = refused(net("y = Relu (x)"))
    assert refusal.code == "simplifier-failed"
    assert refusal.reason == "onnxsim failed: it crashed (signal 11)"


def test_other_numbers_are_a_refusal(onnxsim_gives: Callable[[ir.Model], None]) -> None:
    onnxsim_gives(net("k = Constant <value_float = 1.01> () a = Relu (x) y = Mul (a, k)"))
    refusal = refused(net("y = Relu (x)"))
    assert refusal.code == "numbers-changed"
    assert refusal.figures["difference"] == pytest.approx(0.01, rel=1e-3)
    assert "differs by 1.0e-02 of the largest output" in refusal.reason


def test_nan_is_a_refusal(onnxsim_gives: Callable[[ir.Model], None]) -> None:
    onnxsim_gives(net("a = Sub (x, x) y = Div (a, a)"))
    assert refused(net("y = Relu (x)")).code == "numbers-changed"


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        ("(float[N,3,4] image) => (float[N,3,4] y)", "y = Relu (image)",
         "onnxsim's result has inputs ['image'] instead of ['x']"),
        ("(float[N,3,4] x) => (float[N,3,4] z)", "z = Relu (x)",
         "onnxsim's result has outputs ['z'] instead of ['y']"),
        ("(float[N,3,4] x) => (double[N,3,4] y)", "a = Relu (x) y = Cast <to = 11> (a)",
         "onnxsim's result gives 'y' the type DOUBLE"),
        ("() => (float[N,3,4] y)", "y = Constant <value_floats = [1.0]> ()",
         "onnxsim's result has inputs [] instead of ['x']"),
    ],
    ids=["input", "output", "type", "no input"],
)  # fmt: skip
def test_other_interface_is_a_refusal(
    onnxsim_gives: Callable[[ir.Model], None], signature: str, body: str, reason: str
) -> None:
    onnxsim_gives(net(body, signature))
    refusal = refused(net("y = Relu (x)"))
    assert (refusal.code, refusal.reason) == ("interface-changed", reason)


def test_result_that_does_not_run_is_a_refusal(
    onnxsim_gives: Callable[[ir.Model], None],
) -> None:
    onnxsim_gives(net("s = Constant <value_ints = [7]> () y = Reshape (x, s)"))
    refusal = refused(net("y = Relu (x)"))
    assert refusal.code == "result-does-not-run"
    assert "the rewritten model fails on the data" in refusal.reason


def test_every_check_is_made(onnxsim_gives: Callable[[ir.Model], None]) -> None:
    """A difference that shows on the second batch only."""
    onnxsim_gives(net("y = Identity (x)"))
    model = net("y = Relu (x)")
    positive, mixed = np.ones((1, 3, 4), np.float32), normal(1, 3, 4)
    assert Simplify([{"x": positive}])(model.clone()).changes
    result = Simplify([{"x": positive}, {"x": mixed}])(model)
    assert [refusal.code for refusal in result.refusals] == ["numbers-changed"]


def test_functions_and_versions_come_from_the_result(
    onnxsim_gives: Callable[[ir.Model], None],
) -> None:
    function = '<domain: "local", opset_import: ["" : 17]> f (p) => (q) { q = Neg (p) }'
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
    signature = "net (float[N,4] x) => (float[N,4] y)"
    model = model_from_text(f"{header} {signature} {{ y = local.f (x) }} {function}")
    model.metadata_props["author"] = "me"
    inlined = model_from_text(f"{OPSET} {signature} {{ y = Neg (x) }}")
    inlined.ir_version = 9
    onnxsim_gives(inlined)
    after, result = simplified(model.clone())
    assert result.modified
    assert not after.functions
    assert after.ir_version == 9
    assert after.opset_imports == {"": 17}
    assert after.metadata_props == {"author": "me"}


def test_pass_is_lossless() -> None:
    assert issubclass(Simplify, LosslessPass)
    assert Simplify.name == "simplify"


@pytest.mark.usefixtures("in_process")
def test_weights_keep_their_values() -> None:
    weight = normal(5, 3, 1)
    model = net("i = Identity (x) y = Conv (i, w)", "(float[N,3,4] x) => (float[N,5,4] y)",
                w=weight)  # fmt: skip
    after, _ = simplified(model)
    assert len(initializer_names(after)) == 1
    (value,) = after.graph.initializers.values()
    assert value.const_value is not None
    np.testing.assert_array_equal(value.const_value.numpy(), weight)
