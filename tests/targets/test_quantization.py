"""The table of targets, and the graphs written after it, node by node."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError
from onnxsep.quality import signal_to_noise_db
from onnxsep.targets import TARGETS, quantization
from onnxsep.targets.quantization import SCHEMES, get_scheme, saturates_here, weight_bits

from ..passes.helpers import run
from ..passes.quantize_cases import network, quantized, test_feeds

# One step in 256 of eight-bit numbers is some 50 dB; a few layers of them in a row cost half.
LEAST_SNR_DB = 25.0


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of a target."""

    target: str
    activation: str
    symmetric: bool
    bias: str


ROWS = (
    Row("cpu", "uint8", False, "int32"),
    Row("cpu-arm", "int8", False, "int32"),
    Row("xnnpack", "int8", False, "int32"),
    Row("nnapi", "uint8", False, "int32"),
    Row("tensorrt", "int8", True, "float32"),
)


def test_every_target_has_a_scheme() -> None:
    assert set(SCHEMES) == set(TARGETS)
    assert {row.target for row in ROWS} == {
        name for name, scheme in SCHEMES.items() if scheme.operators
    }


def test_cuda_runs_in_half_precision() -> None:
    scheme = get_scheme("cuda")
    assert scheme.activation == "float16"
    assert not scheme.operators


def test_unknown_target_names_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"'abacus' is not known.* xnnpack"):
        get_scheme("abacus")


@pytest.mark.parametrize(
    ("target", "saturates", "bits"),
    [("cpu", True, 7), ("cpu", False, 8), ("cpu-arm", True, 8), ("tensorrt", True, 8)],
)
def test_seven_bits_only_where_sums_saturate(
    target: str, saturates: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "saturates_here", lambda: saturates)
    assert weight_bits(get_scheme(target)) == bits


def test_saturation_is_measured() -> None:
    assert saturates_here() in (True, False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.target)
def test_graph_follows_the_table(row: Row) -> None:
    model = quantized(network(), row.target).model
    convolutions = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    assert len(convolutions) == 5
    for node in convolutions:
        data, weight, bias = node.inputs
        assert _integers(data, symmetric=row.symmetric) == row.activation
        assert _integers(weight, symmetric=True) == "int8"
        _check_weight(node, row)
        if row.bias == "int32":
            _check_bias(node)
        else:
            assert bias is not None
            assert bias.is_initializer()
            assert bias.dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("row", ROWS[:-1], ids=lambda row: row.target)
def test_results_are_integers_where_the_target_wants_them(row: Row) -> None:
    model = quantized(network(), row.target).model
    for node in model.graph:
        if node.op_type != "Conv":
            continue
        (reader,) = node.outputs[0].consumers()
        while reader.op_type in ("Relu", "Clip"):
            (reader,) = reader.outputs[0].consumers()
        assert reader.op_type == "QuantizeLinear"
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    is_float = gemm.outputs[0].is_graph_output()
    assert is_float == (row.target != "nnapi")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.target)
def test_quantized_graph_runs_and_is_near_its_float_twin(row: Row) -> None:
    before = network()
    after = quantized(before, row.target).model
    feeds = test_feeds()
    (expected,), (found,) = run(before, feeds), run(after, feeds, optimized=True)
    assert LEAST_SNR_DB < signal_to_noise_db(expected, found) < 60


def test_nnapi_clips_at_0_and_6_only() -> None:
    model = quantized(network(), "nnapi").model
    (clip,) = [node for node in model.graph if node.op_type == "Clip"]
    bounds = [constant_array(value) for value in clip.inputs[1:]]
    assert [float(bound) for bound in bounds if bound is not None] == [0.0, 6.0]


def test_tensorrt_quantizes_in_front_of_layers_only() -> None:
    model = quantized(network(), "tensorrt").model
    readers = {
        reader.op_type
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        for reader in node.outputs[0].consumers()
    }
    assert readers == {"Conv", "Gemm", "Add", "GlobalAveragePool"}


def test_tensorrt_gives_every_reader_a_pair_of_its_own() -> None:
    model = quantized(network(), "tensorrt").model
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            assert len(node.outputs[0].uses()) == 1
            assert len(node.inputs[0].uses()) == 1  # type: ignore[union-attr]


def _dequantizer(value: ir.Value | None) -> ir.Node:
    assert value is not None
    node = value.producer()
    assert node is not None
    assert node.op_type == "DequantizeLinear"
    return node


def _integers(value: ir.Value | None, *, symmetric: bool) -> str:
    zero = constant_array(_dequantizer(value).inputs[2])
    assert zero is not None
    if symmetric:
        assert not zero.any()
    return str(zero.dtype)


def _scale(value: ir.Value | None) -> np.ndarray:
    scale = constant_array(_dequantizer(value).inputs[1])
    assert scale is not None
    return scale


def _check_weight(node: ir.Node, row: Row) -> None:
    pair = _dequantizer(node.inputs[1])
    source = pair.inputs[0]
    assert source is not None
    if row.target == "tensorrt":  # from float, through QuantizeLinear
        quantizer = source.producer()
        assert quantizer is not None
        source = quantizer.inputs[0]
    weight = constant_array(source)
    assert weight is not None
    assert pair.attributes.get_int("axis", 1) == 0
    assert _scale(node.inputs[1]).shape == (weight.shape[0],)
    if row.target != "tensorrt":
        assert weight.dtype == np.int8
        assert int(weight.min()) >= -127


def _check_bias(node: ir.Node) -> None:
    data, weight, bias = node.inputs
    pair = _dequantizer(bias)
    integers = constant_array(pair.inputs[0])
    assert integers is not None
    assert integers.dtype == np.int32
    np.testing.assert_allclose(_scale(bias), _scale(data) * _scale(weight), rtol=1e-6)
