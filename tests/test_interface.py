"""What of a model's inputs and outputs counts as changed, and putting it back."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from onnxsep.interface import interface_difference, restore_interface

from .passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'
PLAIN = "(float[N,4] x, int64 k) => (float[N,4] y, float[M,2] z)"


def net(signature: str) -> ir.Model:
    return model_from_text(f"{OPSET} net {signature} {{ y = Neg (x) z = Abs (x) }}")


@dataclasses.dataclass(frozen=True)
class Case:
    """Another signature, and how it differs from `PLAIN`."""

    id: str
    signature: str
    difference: str


DIFFERENT = [
    Case("name of an input", "(float[N,4] image, int64 k) => (float[N,4] y, float[M,2] z)",
         "has inputs ['image', 'k'] instead of ['x', 'k']"),
    Case("order of inputs", "(int64 k, float[N,4] x) => (float[N,4] y, float[M,2] z)",
         "has inputs ['k', 'x'] instead of ['x', 'k']"),
    Case("lost input", "(float[N,4] x) => (float[N,4] y, float[M,2] z)",
         "has inputs ['x'] instead of ['x', 'k']"),
    Case("lost output", "(float[N,4] x, int64 k) => (float[N,4] y)",
         "has outputs ['y'] instead of ['y', 'z']"),
    Case("type of an input", "(float16[N,4] x, int64 k) => (float[N,4] y, float[M,2] z)",
         "gives 'x' the type FLOAT16"),
    Case("type of an output", "(float[N,4] x, int64 k) => (double[N,4] y, float[M,2] z)",
         "gives 'y' the type DOUBLE"),
    Case("free dimension fixed", "(float[1,4] x, int64 k) => (float[N,4] y, float[M,2] z)",
         "gives 'x' the shape ('1', '4') instead of ('N', '4')"),
    Case("fixed dimension freed", "(float[N,C] x, int64 k) => (float[N,4] y, float[M,2] z)",
         "gives 'x' the shape ('N', 'C') instead of ('N', '4')"),
    Case("name of a dimension", "(float[N,4] x, int64 k) => (float[B,4] y, float[M,2] z)",
         "gives 'y' the shape ('B', '4') instead of ('N', '4')"),
    Case("rank", "(float[N,4] x, int64[1] k) => (float[N,4] y, float[M,2] z)",
         "gives 'k' the shape ('1',) instead of ()"),
    Case("shape lost", "(float[N,4] x, int64 k) => (float[N,4] y, float z)",
         "gives 'z' the shape () instead of ('M', '2')"),
]  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: case.id)
def test_difference_is_said(case: Case) -> None:
    assert interface_difference(net(PLAIN), net(case.signature)) == case.difference


def test_same_interface_is_none() -> None:
    other = model_from_text(f"{OPSET} other {PLAIN} {{ a = Neg (x) y = Exp (a) z = Abs (x) }}")
    assert interface_difference(net(PLAIN), other) == ""


def test_shapes_may_be_left_out_of_the_comparison() -> None:
    fixed = net("(float[1,4] x, int64 k) => (float[1,4] y, float[1,2] z)")
    assert interface_difference(net(PLAIN), fixed, shapes=False) == ""
    other_type = net("(float[1,4] x, int64 k) => (float[1,4] y, double[1,2] z)")
    assert interface_difference(net(PLAIN), other_type, shapes=False) != ""


def test_what_was_not_declared_may_be_found_out() -> None:
    before, after = net(PLAIN), net(PLAIN)
    before.graph.outputs[0].shape = None
    before.graph.outputs[1].type = None
    assert interface_difference(before, after) == ""
    assert "the shape None" in interface_difference(after, before)


def test_initializer_among_the_inputs_is_no_part_of_the_interface() -> None:
    text = f"{OPSET} net (float[N,4] x) => (float[N,4] y) {{ y = Mul (x, w) }}"
    plain, listed = model_from_text(text, w=normal(4)), model_from_text(text, w=normal(4))
    listed.graph.inputs.append(listed.graph.initializers["w"])
    assert interface_difference(listed, plain) == ""
    assert interface_difference(plain, listed) == ""


def test_restoring_gives_back_types_and_dimensions() -> None:
    reference = net(PLAIN)
    changed = net("(float[1,4] x, int64[1] k) => (float16[1,4] y, float[7,2] z)")
    restore_interface(changed, reference)
    assert interface_difference(reference, changed) == ""
    shape = changed.graph.inputs[0].shape
    assert shape is not None
    shape[0] = 8
    assert interface_difference(reference, net(PLAIN)) == "", "the two share a shape"


def test_restoring_skips_initializers_among_the_inputs() -> None:
    text = f"{OPSET} net (float[N,4] x) => (float[N,4] y) {{ y = Mul (x, w) }}"
    listed = model_from_text(text, w=normal(4))
    listed.graph.inputs.insert(0, listed.graph.initializers["w"])
    plain = model_from_text(text.replace("[N,4] x", "[1,4] x"), w=normal(4))
    restore_interface(plain, listed)
    assert str(plain.graph.inputs[0].shape) == "[N,4]"
