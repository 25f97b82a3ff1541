"""New constants for the operators that take a BatchNormalization in; nothing is changed here.

Each plan is complete before the first node is touched, so that a rewrite is whole or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array, is_dequantized
from onnxsep.passes import _batchnorm_math as algebra
from onnxsep.passes._batchnorm_math import Affine
from onnxsep.passes._batchnorm_sites import BatchNorm, is_standard, title_of
from onnxsep.passes._obstacle import ObstacleError
from onnxsep.passes._value_facts import ValueFacts

_WEIGHT, _BIAS = 1, 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of one node that takes a BatchNormalization in.

    Attributes:
        node: The node.
        code: What that is called, for `onnxsep.passes.base.Change`.
        constants: New arrays by input index, in their final dtype.
        attributes: Attributes to set.
        op_type: What the node becomes (a MatMul that needs a bias becomes a Gemm).
    """

    node: ir.Node
    code: str
    constants: Mapping[int, np.ndarray]
    attributes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    op_type: str | None = None


def plan_before(node: ir.Node, batchnorm: BatchNorm, facts: ValueFacts) -> Plan:
    """How ``node`` takes in the BatchNormalization that follows it.

    Raises:
        ObstacleError: It cannot, for example because it is no linear operator (``not-linear``) or
            its weight is computed at run time (``weight-not-constant``).
    """
    affine = batchnorm.affine
    if is_standard(node, "Conv"):
        weight, bias = _weight_and_bias(node)
        _check_channels(node, weight.shape[0], affine)
        new = algebra.scale_conv_outputs(weight, bias, affine)
        return _convolution_plan(node, "folded-into-conv", weight, bias, new)
    if is_standard(node, "ConvTranspose"):
        weight, bias = _weight_and_bias(node)
        group = _group(node, weight.shape[0])
        _check_channels(node, weight.shape[1] * group, affine)
        new = algebra.scale_conv_transpose_outputs(weight, bias, group, affine)
        return _convolution_plan(node, "folded-into-conv-transpose", weight, bias, new)
    if is_standard(node, "Gemm") or is_standard(node, "MatMul"):
        matrix, addend, _ = _matrix_product(node, facts)
        _check_channels(node, matrix.shape[1], affine)
        new = algebra.scale_matrix_columns(matrix, addend, affine)
        return _gemm_plan(node, "folded-into-gemm", matrix, new)
    raise ObstacleError("not-linear", f"{title_of(node)} before it can take nothing in")


def plan_behind(node: ir.Node, batchnorm: BatchNorm, facts: ValueFacts) -> Plan:
    """How ``node`` takes in the BatchNormalization whose result is its first input.

    Raises:
        ObstacleError: It cannot, for example because it pads (``next-conv-pads``).
    """
    affine = batchnorm.affine
    if is_standard(node, "Conv"):
        weight, bias = _weight_and_bias(node)
        if affine.shift.any() and _may_pad(node, weight.shape[2:]):
            raise ObstacleError(
                "next-conv-pads",
                f"{title_of(node)} behind it pads with zeros, which the shift would change",
            )
        group = _group(node, weight.shape[0])
        _check_channels(node, weight.shape[1] * group, affine)
        new = algebra.scale_conv_inputs(weight, bias, group, affine)
        return _convolution_plan(node, "folded-into-next-conv", weight, bias, new)
    if is_standard(node, "Gemm") or is_standard(node, "MatMul"):
        matrix, addend, factor = _matrix_product(node, facts)
        if node.attributes.get_int("transA", 0):
            raise ObstacleError("not-linear", f"{title_of(node)} behind it transposes its input")
        _check_channels(node, matrix.shape[0], affine)
        new = algebra.scale_matrix_rows(matrix, addend, affine, factor)
        return _gemm_plan(node, "folded-into-next-gemm", matrix, new)
    raise ObstacleError("not-linear", f"{title_of(node)} behind it can take nothing in")


def plan_merge(second: BatchNorm, batchnorm: BatchNorm) -> Plan:
    """How the BatchNormalization ``second`` takes in the one right before it."""
    node = second.node
    _check_channels(node, second.affine.channels, batchnorm.affine)
    both = batchnorm.affine.then(second.affine)
    numbers = (both.scale, both.shift, np.zeros(both.channels), np.ones(both.channels))
    constants = {
        index: algebra.to_dtype(
            array, _constant_dtype(node, index), f"input {index} of {node.name}"
        )
        for index, array in enumerate(numbers, start=1)
    }
    # Mean 0, variance 1 and epsilon 0 leave scale and bias exactly as they are written.
    return Plan(node, "folded-into-next-batchnorm", constants, {"epsilon": 0.0})


def _weight_and_bias(node: ir.Node) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight (C or N, channels/group, *kernel) and bias (N,) or None, of equal dtype."""
    weight = _constant(node, _WEIGHT)
    if weight.ndim < 3:
        raise ObstacleError("malformed", f"the weight of {title_of(node)} has shape {weight.shape}")
    return weight, _optional_constant(node, _BIAS)


def _matrix_product(
    node: ir.Node, facts: ValueFacts
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Matrix (K, N), scaled addend or None, and factor of a Gemm or a two-dimensional MatMul."""
    matrix = _constant(node, _WEIGHT)
    if matrix.ndim != 2 or node.inputs[0] is None or facts.rank(node.inputs[0]) != 2:
        raise ObstacleError("not-linear", f"{title_of(node)} multiplies more than two dimensions")
    if node.op_type == "MatMul":
        return matrix, None, 1.0
    if node.attributes.get_int("transB", 0):
        matrix = matrix.T
    addend = _optional_constant(node, _BIAS)
    if addend is not None:
        addend = addend.astype(np.float64) * node.attributes.get_float("beta", 1.0)
    return matrix, addend, node.attributes.get_float("alpha", 1.0)


def _convolution_plan(
    node: ir.Node,
    code: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    new: tuple[algebra.Float64Array, algebra.Float64Array],
) -> Plan:
    new_weight, new_bias = new
    dtype = ir.DataType.from_numpy(weight.dtype)
    constants = {_WEIGHT: algebra.to_dtype(new_weight, dtype, f"the weight of {title_of(node)}")}
    if bias is not None or new_bias.any():
        constants[_BIAS] = algebra.to_dtype(new_bias, dtype, f"the bias of {title_of(node)}")
    return Plan(node, code, constants)


def _gemm_plan(
    node: ir.Node,
    code: str,
    matrix: np.ndarray,
    new: tuple[algebra.Float64Array, algebra.Float64Array],
) -> Plan:
    new_matrix, addend = new
    dtype = ir.DataType.from_numpy(matrix.dtype)
    if node.attributes.get_int("transB", 0):
        new_matrix = new_matrix.T
    constants = {
        _WEIGHT: algebra.to_dtype(new_matrix, dtype, f"the weight of {title_of(node)}"),
        _BIAS: algebra.to_dtype(addend, dtype, f"the bias of {title_of(node)}"),
    }
    # The addend holds the old beta already.
    return Plan(node, code, constants, {"beta": 1.0}, op_type="Gemm")


def _constant(node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant_array(value)
    role = "weight" if index == _WEIGHT else "bias"
    if array is None:
        name = "" if value is None else value.name
        if is_dequantized(value):
            raise ObstacleError(
                f"{role}-not-constant",
                f"the {role} '{name}' of {title_of(node)} is already quantized",
                final=True,
            )
        raise ObstacleError(
            f"{role}-not-constant", f"the {role} '{name}' of {title_of(node)} is no constant"
        )
    return array


def _optional_constant(node: ir.Node, index: int) -> np.ndarray | None:
    absent = index >= len(node.inputs) or node.inputs[index] is None
    return None if absent else _constant(node, index)


def _constant_dtype(node: ir.Node, index: int) -> ir.DataType:
    return ir.DataType.from_numpy(_constant(node, index).dtype)


def _group(node: ir.Node, channels: int) -> int:
    group = node.attributes.get_int("group", 1)
    if group < 1 or channels % group:
        raise ObstacleError(
            "malformed", f"{title_of(node)} has {channels} channels in {group} groups"
        )
    return group


def _check_channels(node: ir.Node, channels: int, affine: Affine) -> None:
    if channels != affine.channels:
        raise ObstacleError(
            "malformed",
            f"{title_of(node)} has {channels} channels but {affine.channels} are normalized",
        )


def _may_pad(node: ir.Node, kernel: tuple[int, ...]) -> bool:
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic == "VALID":
        return False
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        # A kernel of one never reaches beyond the input, whatever the stride.
        return any(size != 1 for size in kernel)
    return any(node.attributes.get_ints("pads", ()))
