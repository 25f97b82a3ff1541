"""The door to onnxruntime: sessions, failures in one sentence, models cut between two values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.errors import InputError
from onnxsep.runtime import cut_model, first_line, make_session, run

from .passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'


def net(body: str, inputs: str = "float[N,4] x", **arrays: np.ndarray) -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => (float[N,4] y) {{ {body} }}", **arrays)


def test_largest_models_go_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(4, 100)
    model = net("a = MatMul (x, w) t = Transpose (w) y = MatMul (a, t)", w=weight)
    values = normal(3, 4)
    (expected,) = run(make_session(model, threads=1), {"x": values}, label="it")
    monkeypatch.setattr("onnxsep.weights.PROTOBUF_LIMIT_BYTES", 0)
    (found,) = run(make_session(model, threads=1), {"x": values}, label="it")
    np.testing.assert_array_equal(found, expected)
    assert isinstance(model.graph.initializers["w"].const_value, ir.TensorProtocol)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight)


def test_largest_models_with_batchnorm_are_fused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {name: normal(4) for name in ("g", "b", "m")} | {"v": np.ones(4, np.float32)}
    body = "a = MatMul (x, w) y = BatchNormalization (a, g, b, m, v)"
    model = net(body, w=normal(4, 4), **arrays)
    values = normal(3, 4)
    (expected,) = run(make_session(model, threads=1), {"x": values}, label="it")
    monkeypatch.setattr("onnxsep.weights.PROTOBUF_LIMIT_BYTES", 0)
    (found,) = run(make_session(model, threads=1), {"x": values}, label="it")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_session_runs_on_the_cpu_with_the_threads_asked_for() -> None:
    session = make_session(net("y = Neg (x)"), threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": np.zeros((3, 5), np.float32)},
        {"x": np.zeros((3, 4), np.float64)},
        {"z": np.zeros((3, 4), np.float32)},
        {},
    ],
    ids=["shape", "type", "name", "nothing"],
)
def test_data_that_do_not_fit_are_an_input_error(feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"^the original fails on the data: ") as caught:
        run(make_session(net("y = Neg (x)"), threads=1), feeds, label="the original")
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_model_that_cannot_be_loaded_is_an_input_error() -> None:
    model = net("y = Neg (x)")
    model.graph[0].op_type = "Negate"
    with pytest.raises(InputError, match=r"^onnxruntime cannot load the result: ") as caught:
        make_session(model, threads=1, label="the result")
    assert "\n" not in str(caught.value)


def test_scalars_out_of_arrays_may_be_fed() -> None:
    session = make_session(net("y = Mul (x, k)", "float[N,4] x, float k"), threads=1)
    values = normal(2, 4)
    (found,) = run(session, {"x": values, "k": np.full(1, 3, np.float32)[0]}, label="it")
    np.testing.assert_array_equal(found, 3 * values)


def test_cut_is_a_model_of_its_own() -> None:
    model = net("a = Neg (x) b = Mul (a, w) c = Add (b, a) y = Relu (c)", w=normal(4))
    values = normal(2, 4)
    cut = cut_model(model, [{"a": values}], ["c"])
    assert [node.op_type for node in cut.graph] == ["Mul", "Add"]
    (found,) = run(make_session(cut, threads=1), {"a": values}, label="it")
    np.testing.assert_allclose(found, values * normal(4) + values, rtol=1e-6)
    assert cut.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_axes_stay_free_where_examples_differ() -> None:
    model = net("a = Neg (x) y = Relu (a)")
    examples = [{"a": np.zeros(shape, np.float16)} for shape in ((2, 3, 4), (2, 5, 4))]
    (value,) = cut_model(model, examples, ["y"]).graph.inputs
    assert value.dtype == ir.DataType.FLOAT16
    assert value.shape is not None
    assert [size if isinstance(size, int) else size.value for size in value.shape] == [
        None,
        None,
        4,
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (ValueError("  \n"), "ValueError"),
        (RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no : such input"),
         "no : such input"),
        (ValueError("x" * 1000), "x" * 240),
    ],
    ids=["lines", "empty", "blank", "prefix", "long"],
)  # fmt: skip
def test_message_of_a_library_on_one_line(error: Exception, expected: str) -> None:
    assert first_line(error) == expected
