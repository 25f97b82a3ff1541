"""Conditions of XNNPACK's rules."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.conditions import IMAGE_RANK
from onnxsep.eligibility.rule import Circumstances
from onnxsep.eligibility.unit import Port, Unit

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# What is asked of the scale behind a quantized Softmax, and how near it has to be.
_SOFTMAX_SCALE, _SOFTMAX_SLACK = 1 / 256, 1e-4
_LAST_AXIS_OPSET = 13
_BY_CHANNEL = "int8 by channel"


def _held(port: Port | None) -> str:
    """What a quantized port holds: uint8, int8 or int8 by channel; empty for nothing of use."""
    scale = None if port is None else port.scale()
    if port is None or scale is None:
        return ""
    zero = port.zero_point()
    if port.has_zero_point and zero is None:
        return ""
    if port.dtype == ir.DataType.UINT8:
        return "" if zero is not None and (scale.size != 1 or zero.size != 1) else "uint8"
    if port.dtype != ir.DataType.INT8 or (zero is not None and zero.size != scale.size):
        return ""
    if scale.size == 1:
        return "int8"
    return _BY_CHANNEL if port.shape and port.shape[0] == scale.size else ""


def _conv_types(unit: Unit) -> tuple[str, str, str]:
    return _held(unit.input(0)), _held(unit.input(1)), _held(unit.outputs[0])


def unsigned_by_signed(unit: Unit, _: Circumstances) -> bool:
    """Unsigned activations beside signed weights."""
    data, weight, _result = _conv_types(unit)
    return unit.grouped and data == "uint8" and weight.startswith("int8")


def integers_differ(unit: Unit, _: Circumstances) -> bool:
    """Input, weight and result of a group are not of one kind."""
    data, weight, result = _conv_types(unit)
    if not unit.grouped:
        return False
    if weight == _BY_CHANNEL:
        return not data == result == "int8"
    return not weight or not data == weight == result


def bias_unfit(unit: Unit, _: Circumstances) -> bool:
    """The bias of a group is no constant of int32."""
    bias = unit.input(2)
    if not unit.grouped or bias is None or _held(unit.input(1)) == _BY_CHANNEL:
        return False
    return bias.dtype != ir.DataType.INT32 or not bias.constant


def half_dequantized(unit: Unit, _: Circumstances) -> bool:
    """A weight comes out of DequantizeLinear, but no group formed."""
    weight = unit.operand(1)
    producer = None if weight is None else weight.value.producer()
    return not unit.grouped and producer is not None and producer.op_type == "DequantizeLinear"


def size_free(unit: Unit, _: Circumstances) -> bool:
    """Something but the batch is free."""
    port = unit.input(0)
    return port is None or port.shape is None or None in port.shape[1:]


def conv_weight_changes(unit: Unit, _: Circumstances) -> bool:
    """The weight of a convolution is no constant."""
    port = unit.input(3 if unit.operator == "QLinearConv" else 1)
    return port is None or not port.constant


def conv_bias_changes(unit: Unit, _: Circumstances) -> bool:
    """Its bias is none."""
    port = unit.input(8 if unit.operator == "QLinearConv" else 2)
    return port is not None and not port.constant


def padded_below(unit: Unit, _: Circumstances) -> bool:
    """Padding is computed, and its odd half goes in front."""
    return not unit.has("pads") and unit.text("auto_pad", "NOTSET") == "SAME_LOWER"


def kernel_unfit(unit: Unit, _: Circumstances) -> bool:
    """The window of a pool is 1x1 or not of two dimensions."""
    kernel = unit.integers("kernel_shape")
    return len(kernel) != 2 or kernel == (1, 1)


def counts_padding(unit: Unit, _: Circumstances) -> bool:
    """Padding counts in an average of floats."""
    return not unit.grouped and unit.integer("count_include_pad", 0) != 0


def leaves_padding_out(unit: Unit, _: Circumstances) -> bool:
    """Padding does not count in an average of integers."""
    return unit.grouped and unit.integer("count_include_pad", 0) == 0


def not_uint8(unit: Unit, _: Circumstances) -> bool:
    """A group of other integers than uint8."""
    return unit.grouped and not _held(unit.input(0)) == _held(unit.outputs[0]) == "uint8"


def pool_types_differ(unit: Unit, _: Circumstances) -> bool:
    """A group whose integers differ in front and behind."""
    data, result = _held(unit.input(0)), _held(unit.outputs[0])
    return unit.grouped and (data != result or data not in ("uint8", "int8"))


def has_indices(unit: Unit, _: Circumstances) -> bool:
    """The optional second result is used."""
    return len(unit.node.outputs) > 1 and bool(unit.node.outputs[1].name)


def softmax_scale_unfit(unit: Unit, _: Circumstances) -> bool:
    """Another scale behind Softmax than 1/256, or a zero point."""
    if not unit.grouped:
        return False
    scale, zero = unit.outputs[0].scale(), unit.outputs[0].zero_point()
    if scale is None or abs(float(scale.flat[0]) - _SOFTMAX_SCALE) > _SOFTMAX_SLACK:
        return True
    return zero is not None and bool(np.any(zero != 0))


def not_the_last_axis(unit: Unit, _: Circumstances) -> bool:
    """Softmax along another axis than the last."""
    port = unit.input(0)
    if port is None or not port.rank:
        return True
    axis = unit.integer("axis", -1)
    return unit.opset >= _LAST_AXIS_OPSET and axis not in (-1, port.rank - 1)


def last_axis_free(unit: Unit, _: Circumstances) -> bool:
    """The axis of Softmax has no fixed size."""
    port = unit.input(0)
    return unit.opset >= _LAST_AXIS_OPSET and bool(port and port.shape and port.shape[-1] is None)


def factor_type(unit: Unit, _: Circumstances) -> bool:
    """The first factor of a product is no float."""
    port = unit.operand(0)
    return port is None or port.dtype not in FLOATS


def factor_changes(unit: Unit, _: Circumstances) -> bool:
    """The second factor, or what is added, is no constant."""
    ports = [unit.operand(1), unit.operand(2)]
    return any(port is not None and not port.constant for port in ports)


def not_matrices(unit: Unit, _: Circumstances) -> bool:
    """Something has more than two dimensions."""
    ports = [port for index in range(3) if (port := unit.operand(index)) is not None]
    return any(port.rank is None or port.rank > 2 for port in ports)


def scaled(unit: Unit, _: Circumstances) -> bool:
    """alpha or beta are not 1."""
    return unit.number("alpha", 1.0) != 1.0 or unit.number("beta", 1.0) != 1.0


def no_bias(unit: Unit, _: Circumstances) -> bool:
    """Nothing is added."""
    return unit.operand(2) is None


def bias_length(unit: Unit, _: Circumstances) -> bool:
    """What is added has neither the length of a row nor of a column."""
    weight, bias = unit.operand(1), unit.operand(2)
    if weight is None or bias is None or not weight.shape or not bias.shape:
        return True
    return bias.shape[0] not in weight.shape


def factor_free(unit: Unit, _: Circumstances) -> bool:
    """The first factor has a free dimension."""
    port = unit.operand(0)
    return port is None or not port.shape or None in port.shape


def coordinates_unfit(unit: Unit, _: Circumstances) -> bool:
    """A way to compute coordinates that there is no kernel for."""
    mode = unit.text("coordinate_transformation_mode", "half_pixel")
    if mode == "pytorch_half_pixel":
        shape = unit.outputs[0].shape or ()
        return len(shape) != IMAGE_RANK or any(size is None or size <= 1 for size in shape[2:])
    return mode not in ("asymmetric", "half_pixel", "align_corners")


def not_linear(unit: Unit, _: Circumstances) -> bool:
    """Another interpolation than linear."""
    return unit.text("mode", "nearest") != "linear"


def channels_free(unit: Unit, _: Circumstances) -> bool:
    """No batch of images with a known number of channels."""
    port = unit.input(0)
    return port is None or port.shape is None or port.rank != IMAGE_RANK or port.shape[1] is None


def clip_bound_missing(unit: Unit, _: Circumstances) -> bool:
    """A bound of a Clip is computed, or its lower one is left out while the upper one is not."""
    bounds = unit.inputs[1:]
    return any(port is None or not port.constant for port in bounds)
