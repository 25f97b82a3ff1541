"""Multiplications of one node, from the shapes noted in the graph."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxsep.eligibility.unit import value_shape

# Operator to the position of its weight among the inputs.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {"Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}


def multiplications(node: ir.Node) -> int | None:
    """Of one run, one image where the batch is free; None where a shape is not known."""
    position = _CONVOLUTIONS.get(node.op_type, _PRODUCTS.get(node.op_type, 1))
    if node.op_type not in _CONVOLUTIONS and node.op_type not in (*_PRODUCTS, "ConvTranspose"):
        return 0
    first, second, result = _sizes(node, 0), _sizes(node, position), _result(node)
    if first is None or second is None or result is None:
        return None
    if node.op_type in _CONVOLUTIONS:
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        # Every input value meets every tap of its own channel's kernels.
        return math.prod(first) * math.prod(second[1:])
    if not first:
        return 0
    inner = first[0] if node.attributes.get_int("transA", 0) else first[-1]
    return math.prod(result) * inner


def _sizes(node: ir.Node, index: int) -> tuple[int, ...] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else _known(value)


def _result(node: ir.Node) -> tuple[int, ...] | None:
    return _known(node.outputs[0])


def _known(value: ir.Value) -> tuple[int, ...] | None:
    """Sizes; a free first one counts as 1."""
    shape = value_shape(value)
    if shape is None:
        return None
    sizes = [1 if axis == 0 and size is None else size for axis, size in enumerate(shape)]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None
