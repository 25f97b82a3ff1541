"""Conditions of NNAPI's rules."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.conditions import IMAGE_RANK
from onnxsep.eligibility.grouping import clip_bounds
from onnxsep.eligibility.rule import Circumstances, Condition
from onnxsep.eligibility.unit import Port, Unit, operator_set

UINT8 = ir.DataType.UINT8
# Groups of these have a builder of their own; of all others there is none.
GROUPED = operator_set(
    "Conv Resize AveragePool Add Mul Transpose Reshape Softmax Concat Gemm MatMul"
)
# Groups and QLinear operators that take signed weights beside unsigned numbers.
_SIGNED_WEIGHTS = operator_set("Conv QLinearConv Gemm MatMul QLinearMatMul")
_PRODUCTS = operator_set("MatMul QLinearMatMul")
# Quantized by what is given to them, without a group around.
_BORDERS = operator_set("QuantizeLinear DequantizeLinear")
# The only scale that NNAPI gives out behind these.
_FIXED_SCALE = np.float32(1 / 256)

_CLIPS = ((0.0, 6.0), (-1.0, 1.0))

# Android API levels, which are NNAPI's feature levels.
PIE, Q, R = 28, 29, 30
LEVELS: dict[str, int] = {
    **dict.fromkeys(
        operator_set(
            "Conv QLinearConv MaxPool AveragePool GlobalAveragePool GlobalMaxPool "
            "QLinearAveragePool Sub Div Softmax LRN ReduceMean Slice Squeeze Transpose"
        ),
        PIE,
    ),
    **dict.fromkeys(
        operator_set(
            "Pow PRelu Cast QuantizeLinear Gather Pad Split Max Min Abs Exp Neg Sin Sqrt Log"
        ),
        Q,
    ),
    "Elu": R,
}
OPSETS: dict[str, int] = {
    "BatchNormalization": 7,
    **dict.fromkeys(operator_set("Add Sub Mul Div Pow Gemm"), 7),
    **dict.fromkeys(operator_set("Cast Elu LeakyRelu Max Min"), 6),
    **dict.fromkeys(operator_set("Abs Exp Floor Log Neg Sigmoid Sin Sqrt Tanh"), 6),
    "Pad": 11,
    "Reshape": 5,
    "Resize": 11,
    "Slice": 10,
    "Split": 13,
}
NEWEST_OPSET = 21


def level_too_low(unit: Unit, circumstances: Circumstances) -> bool:
    """Android is too old for the operator."""
    level = LEVELS.get(unit.operator, 0)
    port = unit.input(0)
    if unit.operator == "Resize":
        level = PIE if port is not None and port.dtype == UINT8 else Q
    return circumstances.api_level < level


def opset_out_of_range(unit: Unit, _: Circumstances) -> bool:
    """The operator is older or newer than the builder knows."""
    return not OPSETS.get(unit.operator, 1) <= unit.opset <= NEWEST_OPSET


def in_branch(unit: Unit, _: Circumstances) -> bool:
    """It stands inside an If, Loop or Scan."""
    return unit.depth > 0


def group_without_builder(unit: Unit, _: Circumstances) -> bool:
    """A group of an operator whose groups are not built."""
    return unit.grouped and unit.operator not in GROUPED


def free_dimension(unit: Unit, _: Circumstances) -> bool:
    """Some dimension of an input is free, or not even their number is known."""
    ports = [port for port in unit.inputs if port is not None]
    return any(port.shape is None or None in port.shape for port in ports)


def activation_not_uint8(unit: Unit, _: Circumstances) -> bool:
    """A quantized input or result is something else than uint8; signed weights aside."""
    if not _is_quantized(unit):
        return False
    return any(
        port.dtype != UINT8
        for position, port in _quantized_ports(unit)
        if not (position == 1 and unit.operator in _SIGNED_WEIGHTS)
    )


def weight_not_bytes(unit: Unit, _: Circumstances) -> bool:
    """A quantized weight is neither uint8 nor int8."""
    weight = unit.input(1)
    return (
        unit.grouped
        and unit.operator in _SIGNED_WEIGHTS
        and (weight is None or weight.dtype not in (UINT8, ir.DataType.INT8))
    )


def scale_changes(unit: Unit, _: Circumstances) -> bool:
    """A scale or zero point is computed."""
    return _is_quantized(unit) and any(
        port.scale() is None or (port.has_zero_point and port.zero_point() is None)
        for _position, port in _quantized_ports(unit)
    )


def scales_by_channel(unit: Unit, circumstances: Circumstances) -> bool:
    """Several scales where one is wanted, or where Android is too old for several."""
    for position, port in _quantized_ports(unit) if _is_quantized(unit) else ():
        scale = port.scale()
        if scale is None or scale.size == 1:
            continue
        signed_weight = (
            position == 1 and unit.operator in _SIGNED_WEIGHTS and port.dtype == ir.DataType.INT8
        )
        if not signed_weight or unit.operator in _PRODUCTS or circumstances.api_level < Q:
            return True
        if port.shape is None or port.shape[0] != scale.size:
            return True
    return False


def weight_zero_point(unit: Unit, _: Circumstances) -> bool:
    """Signed weights whose zero point is not 0."""
    weight = unit.input(1)
    if not unit.grouped or unit.operator not in _SIGNED_WEIGHTS or weight is None:
        return False
    zero = weight.zero_point()
    return weight.dtype == ir.DataType.INT8 and zero is not None and bool(np.any(zero != 0))


def result_scale_unfit(unit: Unit, _: Circumstances) -> bool:
    """A quantized Softmax or Sigmoid with another scale than 1/256, or a zero point."""
    if not unit.grouped and unit.operator != "QLinearSigmoid":
        return False
    scale, zero = unit.outputs[0].scale(), unit.outputs[0].zero_point()
    if scale is None or np.float32(scale.flat[0]) != _FIXED_SCALE:
        return True
    return zero is not None and bool(np.any(zero != 0))


def changes_scale(unit: Unit, _: Circumstances) -> bool:
    """Scale or zero point differ in front and behind."""
    first = unit.input(0)
    return unit.grouped and first is not None and not _same_scale(first, unit.outputs[0])


def joins_scales(unit: Unit, circumstances: Circumstances) -> bool:
    """Inputs or result of a Concat differ in scale, and Android is too old for that."""
    if not unit.grouped or circumstances.api_level >= Q:
        return False
    ports = [port for port in unit.inputs if port is not None]
    return not all(_same_scale(ports[0], port) for port in (*ports[1:], unit.outputs[0]))


def type_unfit(*allowed: ir.DataType, groups_too: bool = True) -> Condition:
    """The first input is of another type."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        port = unit.input(0)
        if unit.grouped and not groups_too:
            return False
        return port is None or port.dtype not in allowed

    return refuses


def rank_outside(least: int, most: int) -> Condition:
    """The first input has fewer or more dimensions."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        port = unit.input(0)
        return port is None or port.rank is None or not least <= port.rank <= most

    return refuses


def second_rank_above_four(unit: Unit, _: Circumstances) -> bool:
    """Either input of an operator of two has more than four dimensions."""
    ports = [port for port in unit.inputs[:2] if port is not None]
    return any(port.rank is None or port.rank > IMAGE_RANK for port in ports)


def clip_unfit(unit: Unit, _: Circumstances) -> bool:
    """Other bounds than 0 and 6, or -1 and 1."""
    return clip_bounds(unit.node) not in _CLIPS


def conv_rank(unit: Unit, _: Circumstances) -> bool:
    """The weight has not four dimensions."""
    weight = unit.input(1)
    return weight is None or weight.rank != IMAGE_RANK


def grouped_and_dilated(unit: Unit, _: Circumstances) -> bool:
    """Gaps between the taps of a convolution in groups of several channels."""
    weight = unit.input(1)
    depthwise = weight is not None and weight.shape is not None and weight.shape[1] == 1
    return _dilated(unit) and unit.integer("group", 1) != 1 and not depthwise


def dilated_too_early(unit: Unit, circumstances: Circumstances) -> bool:
    """Gaps between the taps, and Android is too old for them."""
    return _dilated(unit) and circumstances.api_level < Q


def pool_kernel(unit: Unit, _: Circumstances) -> bool:
    """The window is not of two dimensions."""
    return len(unit.integers("kernel_shape", (1, 1))) != 2


def several_results(unit: Unit, _: Circumstances) -> bool:
    """More than one result."""
    return len(unit.node.outputs) != 1


def factors_unfit(unit: Unit, circumstances: Circumstances) -> bool:
    """The factors are neither two matrices nor two stacks of as many."""
    first, second = unit.input(0), unit.input(1)
    shapes = [None if port is None else port.shape for port in (first, second)]
    if shapes[0] is None or shapes[1] is None:
        return True
    if len(shapes[0]) == len(shapes[1]) == 2:
        return False
    stacks = (
        len(shapes[0]) == len(shapes[1]) > 2
        and shapes[0][:-2] == shapes[1][:-2]
        and unit.operator == "MatMul"
        and not unit.grouped
        and circumstances.api_level >= Q
    )
    return not stacks


def gemm_scaled(unit: Unit, _: Circumstances) -> bool:
    """The first factor is transposed, or alpha or beta are not 1."""
    return (
        unit.integer("transA", 0) != 0
        or unit.number("alpha", 1.0) != 1.0
        or unit.number("beta", 1.0) != 1.0
    )


def gemm_weight_changes(unit: Unit, _: Circumstances) -> bool:
    """The weight is computed, and not already transposed; or the bias of a group is computed."""
    weight, bias = unit.input(1), unit.input(2)
    if unit.grouped and bias is not None and not bias.constant:
        return True
    return unit.integer("transB", 0) == 0 and (weight is None or not weight.constant)


def matmul_weight_changes(unit: Unit, _: Circumstances) -> bool:
    """The second of two matrices is computed."""
    weight = unit.input(1)
    return weight is not None and weight.rank == 2 and not weight.constant


def more_than_two_inputs(unit: Unit, _: Circumstances) -> bool:
    """Max or Min of something else than two."""
    return len(unit.node.inputs) != 2


def cast_unfit(unit: Unit, _: Circumstances) -> bool:
    """A Cast to something else than float32 or int32."""
    return unit.integer("to", 0) not in (int(ir.DataType.FLOAT), int(ir.DataType.INT32))


def reshape_to_zero(unit: Unit, _: Circumstances) -> bool:
    """A target size of 0 that means 0."""
    port = unit.operand(1)
    sizes = None if port is None else port.array()
    return sizes is not None and bool(np.any(sizes == 0)) and unit.integer("allowzero", 0) == 1


def uneven_split(unit: Unit, _: Circumstances) -> bool:
    """Parts of different size."""
    port, sizes = unit.input(0), unit.operand(1)
    if sizes is not None:
        parts = sizes.array()
        return parts is None or len(set(parts.tolist())) > 1
    shape = None if port is None else port.shape
    size = shape[unit.integer("axis", 0)] if shape else None
    return size is None or size % len(unit.node.outputs) != 0


def negative_padding(unit: Unit, _: Circumstances) -> bool:
    """Numbers are cut off."""
    port = unit.operand(1)
    pads = None if port is None else port.array()
    return pads is not None and bool(np.any(pads < 0))


def resize_coordinates(unit: Unit, circumstances: Circumstances) -> bool:
    """Coordinates that NNAPI computes in another way, or that Android is too old for."""
    mode = unit.text("coordinate_transformation_mode", "half_pixel")
    if unit.text("mode", "nearest") == "nearest":
        floor = unit.text("nearest_mode", "round_prefer_floor") == "floor"
        return mode != "asymmetric" or not floor
    if mode in ("half_pixel", "align_corners"):
        return circumstances.api_level < R
    return mode != "asymmetric"


def _dilated(unit: Unit) -> bool:
    return any(step != 1 for step in unit.integers("dilations"))


def _is_quantized(unit: Unit) -> bool:
    return unit.grouped or unit.operator in _BORDERS


def _quantized_ports(unit: Unit) -> list[tuple[int, Port]]:
    """Quantized ports that a builder looks at, with their position; -1 for the result."""
    inputs = [(i, port) for i, port in enumerate(unit.inputs) if port and port.quantized and i < 2]
    if unit.operator == "Concat":
        inputs = [(0, port) for port in unit.inputs if port and port.quantized]
    return [*inputs, *((-1, port) for port in unit.outputs if port.quantized)]


def _same_scale(one: Port, other: Port) -> bool:
    scales, zeros = (one.scale(), other.scale()), (one.zero_point(), other.zero_point())
    if scales[0] is None or scales[1] is None:
        return False
    middles = [0 if zero is None else int(zero.flat[0]) for zero in zeros]
    return bool(scales[0].flat[0] == scales[1].flat[0]) and middles[0] == middles[1]
