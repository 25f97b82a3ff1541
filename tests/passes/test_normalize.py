"""Unusual graphs come into one form, and neither their numbers nor their interface change."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.passes.base import LosslessPass
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize

from .helpers import initializer_names, model_from_text, normal, operators, rewrite, statistics

PLAIN = '<ir_version: 8, opset_import: ["" : 17]> g '
WITH_FUNCTIONS = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g '
FUNCTION = ' <domain: "local", opset_import: ["" : 17, "local" : 1]> '


def test_ordinary_model_stays_untouched() -> None:
    model = model_from_text(
        PLAIN + "(float[N,4] x) => (float[N,3] y) { [first] y = MatMul (x, w) }", w=normal(4, 3)
    )
    model.metadata_props["author"] = "somebody"
    rewritten = rewrite(model, Normalize())
    assert not rewritten.codes
    assert str(ir.to_proto(rewritten.after)) == str(ir.to_proto(model))


def test_standard_domain_has_one_name() -> None:
    model = model_from_text(
        '<ir_version: 8, opset_import: ["ai.onnx" : 17]> g (float[2] x) => (float[2] y) '
        "{ [first] y = Relu (x) }"
    )
    rewritten = rewrite(model, Normalize())
    assert rewritten.change.code == "domain-renamed"
    assert rewritten.after.opset_imports == {"": 17}


@dataclasses.dataclass(frozen=True)
class FunctionCase:
    """A model whose functions can all be inlined, and the operators that are left.

    onnxruntime rejects some legal functions, and ONNX's reference interpreter some others;
    ``interpreted`` says which of the two runs the original.
    """

    id: str
    text: str
    operators: dict[str, int]
    interpreted: bool = False


FUNCTIONS = [
    FunctionCase(
        "called twice",
        """(float[4] x) => (float[4] y) { h = local.f (x)  y = local.f (h) }
        FUNCTION f (a) => (c) { b = Relu (a)  c = Sin (b) }""",
        {"Relu": 2, "Sin": 2},
    ),
    FunctionCase(
        "one calls another",
        """(float[4] x) => (float[4] y) { y = local.f (x) }
        FUNCTION f (a) => (c) { b = local.h (a)  c = Sin (b) }
        FUNCTION h (a) => (c) { c = Cos (a) }""",
        {"Cos": 1, "Sin": 1},
    ),
    FunctionCase(
        "hands an input through",
        """(float[4] x, float[4] z) => (float[4] y, float[4] w) { y, w = local.f (x, z) }
        FUNCTION f (a, b) => (a, c) { c = Relu (b) }""",
        {"Identity": 1, "Relu": 1},
        interpreted=True,
    ),
    FunctionCase(
        "gives one result twice",
        """(float[4] x) => (float[4] y, float[4] w) { y, w = local.f (x) }
        FUNCTION f (a) => (c, c) { c = Cos (a) }""",
        {"Identity": 1, "Cos": 1},
        interpreted=True,
    ),
    FunctionCase(
        "a result that is needed inside is omitted outside",
        """(float[4] x) => (float[4] y) { , y = local.f (x) }
        FUNCTION f (a) => (b, c) { b = Cos (a)  c = Sin (b) }""",
        {"Cos": 1, "Sin": 1},
    ),
    FunctionCase(
        "the last result is left out",
        """(float[4] x) => (float[4] y) { y = local.f (x) }
        FUNCTION f (a) => (b, c) { b = Cos (a)  c = Sin (b) }""",
        {"Cos": 1, "Sin": 1},
        interpreted=True,
    ),
    FunctionCase(
        "an optional input is left out",
        """(float[4] x) => (float[4] y) { y = local.f (x) }
        FUNCTION f (a, least) => (b) { b = Clip (a, least) }""",
        {"Clip": 1},
    ),
    FunctionCase(
        "an attribute is handed on, another has its default",
        """(float[4] x) => (float[4] y) { y = local.f <alpha=0.3> (x) }
        FUNCTION f <alpha, beta : float = 0.2> (a) => (c) {
            b = LeakyRelu <alpha : float = @alpha> (a)
            c = Elu <alpha : float = @beta> (b) }""",
        {"LeakyRelu": 1, "Elu": 1},
    ),
    FunctionCase(
        "called in a branch, with names that the model uses",
        """(float[4] x, bool flag) => (float[4] y) {
            b = Sin (x)
            y = If (flag) <
                then_branch = then () => (float[4] t) { t = local.f (b) },
                else_branch = otherwise () => (float[4] t) { t = Neg (b) } > }
        FUNCTION f (x) => (t) { b = Cos (x)  t = Exp (b) }""",
        {"Sin": 1, "If": 1, "Cos": 1, "Exp": 1, "Neg": 1},
    ),
    FunctionCase(
        "never called",
        """(float[4] x) => (float[4] y) { [one] y = Cos (x) }
        FUNCTION f (a) => (c) { c = Sin (a) }""",
        {"Cos": 1},
    ),
]


@pytest.mark.parametrize("case", FUNCTIONS, ids=lambda case: case.id)
def test_functions_are_inlined(case: FunctionCase) -> None:
    model = model_from_text(WITH_FUNCTIONS + case.text.replace("FUNCTION", FUNCTION))
    rewritten = rewrite(model, Normalize(), interpreted=case.interpreted)
    assert not rewritten.refusals
    assert not rewritten.after.functions
    assert operators(rewritten.after) == case.operators
    assert_names_unique(rewritten.after)


def test_domain_of_inlined_functions_is_no_longer_imported() -> None:
    model = model_from_text(WITH_FUNCTIONS + FUNCTIONS[0].text.replace("FUNCTION", FUNCTION))
    rewritten = rewrite(model, Normalize())
    assert rewritten.after.opset_imports == {"": 17}
    (inlined,) = (change for change in rewritten.changes if change.code == "function-inlined")
    assert inlined.node == "f"


def test_batchnorm_inside_a_function_is_folded_after_inlining() -> None:
    """Outputs that a body omits must not come to life: five outputs mean training before 14."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13, "local" : 1]>
        g (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = local.block (x, w, s, b, m, v) }
        <domain: "local", opset_import: ["" : 13]>
        block (x, w, s, b, m, v) => (y) {
            c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }""",
        **{"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    before = model.clone()
    (function,) = model.functions.values()
    omitting = function[1]
    omitting.resize_outputs(5)
    for output in omitting.outputs[1:]:
        output.name = ""
    Normalize()(model)
    assert [len(node.outputs) for node in model.graph] == [1, 1]
    assert FoldBatchNorm().call(model).changes[0].code == "folded-into-conv"
    assert rewrite(before, Normalize(), FoldBatchNorm()).codes[-1] == "folded-into-conv"


def test_function_of_another_opset_stays_and_so_does_what_it_calls() -> None:
    model = model_from_text(
        WITH_FUNCTIONS
        + """(float[4] x) => (float[4] y) { h = local.old (x)  y = local.new (h) }
        <domain: "local", opset_import: ["" : 12, "local" : 1]>
        old (a) => (c) { c = local.new (a) }
        <domain: "local", opset_import: ["" : 17]>
        new (a) => (c) { c = Relu (a) }"""
    )
    result = Normalize().call(model)  # no runtime takes such a model, the format does
    assert {refusal.node: refusal.code for refusal in result.refusals} == {
        "old": "function-not-inlined",
        "new": "function-not-inlined",
    }
    assert "opset 12" in result.refusals[0].reason
    assert "'old' calls it" in result.refusals[1].reason
    assert operators(model) == {"old": 1, "new": 1}


def test_function_that_calls_itself_is_refused() -> None:
    model = model_from_text(
        WITH_FUNCTIONS
        + """(float[4] x) => (float[4] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        f (a) => (c) { c = local.f (a) }"""
    )
    (refusal,) = Normalize().call(model).refusals
    assert (refusal.node, refusal.code) == ("f", "function-not-inlined")
    assert "calls itself" in refusal.reason


@pytest.mark.parametrize(
    ("call", "says"),
    [("y = local.f (x, x)", "2 inputs"), ("y, z = local.f (x)", "2 outputs")],
    ids=["inputs", "outputs"],
)
def test_call_that_does_not_fit_its_function_is_refused(call: str, says: str) -> None:
    model = model_from_text(
        WITH_FUNCTIONS
        + f"(float[4] x) => (float[4] y) {{ [caller] {call} }}"
        + FUNCTION
        + "f (a) => (c) { c = Relu (a) }"
    )
    before = str(ir.to_proto(model))
    (refusal,) = Normalize().call(model).refusals
    assert "'caller'" in refusal.reason
    assert says in refusal.reason
    assert str(ir.to_proto(model)) == before


def test_initializers_are_no_inputs() -> None:
    model = model_from_text(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] s, float[4] b, float[4] m, float[4] v)
        => (float[N,4,6,6] y) {
            [one] c = Conv (x, w)  [two] y = BatchNormalization (c, s, b, m, v) }""",
        **{"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    rewritten = rewrite(model, Normalize())
    assert rewritten.codes == ["ir-version-raised", "initializers-no-longer-inputs"]
    assert rewritten.changes[1].figures == {"initializers": 5}
    assert rewritten.after.ir_version == 4
    assert [value.name for value in rewritten.after.graph.inputs] == ["x"]
    assert rewrite(model, Normalize(), FoldBatchNorm()).codes[-1] == "folded-into-conv"


def test_inputs_of_a_loop_body_keep_their_places() -> None:
    model = model_from_text(
        """<ir_version: 3, opset_import: ["" : 11]>
        g (float[4] x, int64 count) => (float[4] y) {
            [loop] y = Loop (count, , x) <body = step
                (int64 i, bool go, float[4] state) => (bool go_on, float[4] t) {
                    [a] go_on = Identity (go)  [b] t = Sin (state) }> }"""
    )
    feeds = {"x": normal(4), "count": np.array(3)}
    rewritten = rewrite(model, Normalize(), feeds=feeds)
    (body,) = rewritten.after.graph.subgraphs()
    assert [value.name for value in body.inputs] == ["i", "go", "state"]


def test_omitted_inputs_and_outputs_are_left_out() -> None:
    model = model_from_text(
        PLAIN
        + """(float[1,2,6,6] x) => (float[1,3,2,2] y) {
            [one] c = Conv (x, w, "")  [two] y, "" = MaxPool <kernel_shape=[3,3]> (c) }""",
        w=normal(3, 2, 3, 3),
    )
    rewritten = rewrite(model, Normalize())
    assert rewritten.change.code == "omissions-removed"
    assert rewritten.change.figures == {"nodes": 2}
    assert [(len(n.inputs), len(n.outputs)) for n in rewritten.after.graph] == [(2, 1), (1, 1)]


def test_an_output_omitted_before_another_stays_omitted() -> None:
    model = model_from_text(
        PLAIN
        + """(float[3,1,4] x) => (float[1,1,5] h, float[1,1,5] k, float[1,1,5] l) {
            , h = LSTM <hidden_size=5> (x, w, r)  , k = LSTM <hidden_size=5> (x, w, r)
            , l = LSTM <hidden_size=5> (x, w, r) }""",
        w=normal(1, 20, 4),
        r=normal(1, 20, 5),
    )
    rewritten = rewrite(model, Normalize())
    names = [[output.name for output in node.outputs] for node in rewritten.after.graph]
    assert names == [["", "h"], ["", "k"], ["", "l"]]
    assert [node.name for node in rewritten.after.graph] == ["LSTM_h", "LSTM_k", "LSTM_l"]


def test_nodes_get_names_of_their_own() -> None:
    model = model_from_text(
        PLAIN
        + """(float[4] x) => (float[4] y) {
            a = Sin (x)  [same] b = Cos (a)  [same] c = Exp (b)  [Neg_y] d = Abs (c)
            y = Neg (d) }"""
    )
    rewritten = rewrite(model, Normalize(), interpreted=True)
    assert rewritten.change.figures == {"nodes": 3, "values": 0}
    assert [node.name for node in rewritten.after.graph] == [
        "Sin_a",
        "same",
        "same_1",
        "Neg_y",
        "Neg_y_1",
    ]


def test_branches_get_value_names_of_their_own() -> None:
    model = model_from_text(
        PLAIN
        + """(float[4] x, bool flag) => (float[4] y, float[4] t) {
            [i] y = If (flag) <
                then_branch = then () => (float[4] r) { [a] h = Sin (x)  [b] r = Cos (h) },
                else_branch = otherwise () => (float[4] r) { [c] h = Exp (x)  [d] r = Neg (h) } >
            [e] t = Abs (x) }"""
    )
    rewritten = rewrite(model, Normalize())
    assert rewritten.change.figures == {"nodes": 0, "values": 2}
    assert_names_unique(rewritten.after)


def test_large_constants_become_initializers_small_ones_stay() -> None:
    model = model_from_text(
        PLAIN
        + """(float[2,16] x) => (float[4,8] y, float[16] z) {
            [a] w = Constant <value = float[16] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> ()
            [b] z = Constant <value = float[16] {7,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}> ()
            [c] shape = Constant <value_ints = [4, 8]> ()
            [d] p = Mul (x, w)  [e] y = Reshape (p, shape) }"""
    )
    rewritten = rewrite(model, Normalize())
    assert rewritten.change.code == "constants-became-initializers"
    assert initializer_names(rewritten.after) == {"w"}
    assert operators(rewritten.after)["Constant"] == 2  # an output must come from a node


def test_constants_inside_a_branch() -> None:
    numbers = "value = float[16] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}"
    model = model_from_text(
        PLAIN
        + f"""(float[16] x, bool flag) => (float[16] y) {{
            y = If (flag) <
                then_branch = then () => (float[16] r) {{
                    c = Constant <{numbers}> ()  r = Mul (x, c) }},
                else_branch = otherwise () => (float[16] q) {{
                    c = Constant <{numbers}> ()  q = Add (x, c) }} > }}"""
    )
    rewritten = rewrite(model, Normalize())
    assert operators(rewritten.after) == {"If": 1, "Mul": 1, "Add": 1}
    assert_names_unique(rewritten.after)


def test_second_run_finds_nothing_to_do() -> None:
    model = model_from_text(WITH_FUNCTIONS + FUNCTIONS[8].text.replace("FUNCTION", FUNCTION))
    Normalize()(model)
    assert not Normalize().call(model).changes


def test_is_told_apart_as_lossless() -> None:
    assert issubclass(Normalize, LosslessPass)


def assert_names_unique(model: ir.Model) -> None:
    """No two nodes, and no two values, of the model and its subgraphs share a name."""
    nodes = [node.name for node in model.graph.all_nodes()]
    values = [
        value.name
        for graph in model.graphs()
        for value in (
            *graph.inputs,
            *(value for value in graph.initializers.values() if not value.is_graph_input()),
            *(value for node in graph for value in node.outputs),
        )
        if value.name
    ]
    assert len(nodes) == len(set(nodes))
    assert len(values) == len(set(values))
