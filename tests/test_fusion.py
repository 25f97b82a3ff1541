"""Which layers really run on integers, and why others do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError
from onnxsep.fusion import fusion_report

from .passes.helpers import model_from_text, normal
from .passes.quantize_cases import named, network, quantized


def _chain() -> ir.Model:
    """Three convolutions, a Relu behind the second."""
    return named(
        model_from_text(
            """<ir_version: 8, opset_import: ["" : 17]>
            net (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
                [one] a = Conv <pads = [1, 1, 1, 1]> (x, W, B)
                [two] b = Conv <pads = [1, 1, 1, 1]> (a, V, C)
                c = Relu (b)
                [three] y = Conv <pads = [1, 1, 1, 1]> (c, U, D)
            }""",
            W=normal(8, 8, 3, 3, seed=1) / 8,
            V=normal(8, 8, 3, 3, seed=2) / 8,
            U=normal(8, 8, 3, 3, seed=3) / 8,
            B=normal(8, seed=4),
            C=normal(8, seed=5),
            D=normal(8, seed=6),
        )
    )


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something done to the second convolution, and what must be said about it."""

    code: str
    spoil: Callable[[ir.Model, ir.Node], None]


def _set(model: ir.Model, value: ir.Value | None, array: np.ndarray) -> ir.Value:
    assert value is not None
    new = ir.Value(
        name=f"{value.name}_spoilt",
        const_value=ir.tensor(array),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
    )
    model.graph.register_initializer(new)
    return new


def _spoil_bias(model: ir.Model, node: ir.Node) -> None:
    pair = node.inputs[2].producer()  # type: ignore[union-attr]
    assert pair is not None
    scale = constant_array(pair.inputs[1])
    assert scale is not None
    pair.replace_input_with(1, _set(model, pair.inputs[1], scale * np.float32(1.5)))


def _spoil_activation(model: ir.Model, node: ir.Node) -> None:
    """A zero point that lets negative numbers through: the Relu has work to do."""
    relu = node.outputs[0].consumers()[0]
    for quantizer in relu.outputs[0].consumers():
        middle = _set(model, quantizer.inputs[2], np.array(128, np.uint8))
        quantizer.replace_input_with(2, middle)
        for back in quantizer.outputs[0].consumers():
            back.replace_input_with(2, middle)


def _spoil_result(model: ir.Model, node: ir.Node) -> None:
    value = node.outputs[0]
    value.shape, value.type = ir.Shape([1, 8, 8, 8]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.append(value)


FAULTS = (
    Fault("bias-scale", _spoil_bias),
    Fault("activation-between", _spoil_activation),
    Fault("result-not-quantized", _spoil_result),
)


def test_everything_fuses() -> None:
    report = fusion_report(quantized(_chain()).model)
    assert report.fused == ("one", "two", "three")
    assert report.convolutions == 3
    assert not report.unfused
    assert not report.in_float
    assert report.operators["QLinearConv"] == 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_what_does_not_fuse_is_named_with_the_reason(fault: Fault) -> None:
    model = quantized(_chain()).model
    fault.spoil(model, next(node for node in model.graph if node.name == "two"))
    report = fusion_report(model)
    assert [(each.node, each.code) for each in report.unfused] == [("two", fault.code)]
    assert report.fused == ("one", "three")


def test_float_layers_are_counted_apart() -> None:
    report = fusion_report(network())
    assert report.in_float == ("stem", "depthwise", "left", "right")
    assert not report.fused
    assert not report.unfused


def test_provider_that_is_not_here() -> None:
    with pytest.raises(ConfigurationError, match="AbacusExecutionProvider is not in this"):
        fusion_report(network(), "AbacusExecutionProvider")
