"""Finding, adding and removing constants of a graph."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxsep.constants import (
    NameScope,
    add_initializer,
    constant_array,
    is_dequantized,
    remove_if_unused,
    unique_value_name,
)

HEADER = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool flag) => (float[2] y) '
WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def graph_of(body: str) -> ir.Graph:
    proto = onnx.parser.parse_model(HEADER + "{ " + body + " y = Relu (x) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    return ir.from_proto(proto).graph


def value_of(graph: ir.Graph, name: str) -> ir.Value:
    return ir.convenience.create_value_mapping(graph)[name]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("c = Identity (w)", WEIGHT),
        ("c = Transpose (w)", WEIGHT.transpose()),
        ("t = Transpose <perm=[1,2,0]> (w) c = Transpose <perm=[0,2,1]> (t)",
         WEIGHT.transpose(1, 2, 0).transpose(0, 2, 1)),
        ("i = Identity (w) t = Transpose <perm=[2,0,1]> (i) c = Identity (t)",
         WEIGHT.transpose(2, 0, 1)),
        ("k = Constant <value = float[2] {1, 2}> () c = Identity (k)", np.array([1.0, 2.0])),
        ("c = Constant <value_float = 2.5> ()", np.array(2.5)),
        ("c = Constant <value_ints = [3, 4]> ()", np.array([3, 4])),
    ],
)  # fmt: skip
def test_constants_are_found(body: str, expected: np.ndarray) -> None:
    found = constant_array(value_of(graph_of(body), "c"))
    assert found is not None
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape


@pytest.mark.parametrize(
    "body",
    [
        "c = Identity (x)",
        "c = Neg (w)",
        "c = some.where.Identity (w)",
        'c = Constant <value_string = "text"> ()',
        "".join(f"i{n + 1} = Identity (i{n}) " for n in range(9)).replace("(i0)", "(w)")
        + "c = Identity (i9)",
    ],
    ids=["input", "computed", "not ours", "text", "endless"],
)
def test_what_is_no_constant_is_not_found(body: str) -> None:
    assert constant_array(value_of(graph_of(body), "c")) is None


def test_no_value_is_no_constant() -> None:
    assert constant_array(None) is None
    assert not is_dequantized(None)


def test_an_initializer_that_the_caller_may_override_is_no_constant() -> None:
    graph = graph_of("c = Neg (w)")
    weight = graph.initializers["w"]
    assert constant_array(weight) is not None
    graph.inputs.append(weight)
    assert constant_array(weight) is None


def test_malformed_constant_is_no_constant() -> None:
    graph = graph_of("c = Constant <value_float = 2.5> ()")
    graph[0].attributes["value_int"] = ir.AttrInt64("value_int", 3)
    assert constant_array(value_of(graph, "c")) is None


def test_dequantized_values_are_known() -> None:
    graph = graph_of(
        "d = DequantizeLinear (q, s) t = Transpose (d) i = Identity (t) n = Neg (d) z = Neg (i)"
    )
    assert is_dequantized(value_of(graph, "i"))
    assert not is_dequantized(value_of(graph, "n"))
    assert not is_dequantized(value_of(graph, "w"))


def test_names_of_subgraphs_are_taken_too() -> None:
    graph = graph_of(
        """z = If (flag) <then_branch = a () => (float[2] inside) { inside = Neg (x) },
                          else_branch = b () => (float[2] other) { other = Abs (x) }>"""
    )
    assert unique_value_name(graph, "inside") == "inside_1"
    assert unique_value_name(graph, "x") == "x_1"
    assert unique_value_name(graph, "w") == "w_1"
    assert unique_value_name(graph, "free") == "free"


def test_scope_hands_out_every_name_once() -> None:
    scope = NameScope(["a", "a_1"])
    assert [scope.take("a") for _ in range(3)] == ["a_2", "a_3", "a_4"]
    assert scope.take("b") == "b"
    assert "b" in scope


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_new_initializer_has_the_shape_and_type_of_its_array(shape: tuple[int, ...]) -> None:
    graph = graph_of("c = Neg (w)")
    array = np.full(shape, 3, np.float16)
    value = add_initializer(graph, "w", array)
    assert value.name == "w_1"
    assert graph.initializers["w_1"] is value
    assert value.const_value is not None
    assert value.const_value.numpy().shape == shape
    assert value.dtype == ir.DataType.FLOAT16
    assert tuple(value.shape or ()) == shape


def test_transposed_array_is_stored_in_its_own_order() -> None:
    value = add_initializer(graph_of("c = Neg (w)"), "t", WEIGHT.transpose())
    stored = ir.to_proto(value.const_value).raw_data if value.const_value else b""
    assert stored == WEIGHT.transpose().tobytes()


def test_unused_chain_is_removed_and_what_is_used_stays() -> None:
    graph = graph_of("a = Identity (w) b = Transpose (a) c = Neg (b) d = Neg (a)")
    remove_if_unused(value_of(graph, "b"))  # c needs it
    assert len(graph) == 5
    remove_if_unused(value_of(graph, "c"))
    assert [node.outputs[0].name for node in graph] == ["a", "d", "y"]
    remove_if_unused(value_of(graph, "d"))
    assert [node.outputs[0].name for node in graph] == ["y"]
    assert not graph.initializers


def test_inputs_and_outputs_are_never_removed() -> None:
    graph = graph_of("")
    remove_if_unused(value_of(graph, "y"))
    remove_if_unused(graph.inputs[1])
    remove_if_unused(None)
    assert len(graph) == 1
    assert len(graph.inputs) == 2
    weight = graph.initializers["w"]
    graph.inputs.append(weight)
    remove_if_unused(weight)
    assert "w" in graph.initializers


def test_last_node_of_a_graph_may_go_with_its_initializers() -> None:
    """A graph without nodes counts as false, and still has initializers."""
    graph = graph_of("c = Neg (w)")
    graph.outputs.clear()
    for name in ("y", "c"):
        remove_if_unused(value_of(graph, name))
    assert len(graph) == 0
    assert not graph.initializers
