"""Rules for the layers: where channels are made and where they are read, with weights to pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array, is_dequantized
from onnxsep.passes._channel_flow import ConstantEdit, Flow, GroupEdit, title_of
from onnxsep.passes._channel_groups import Layout, widened
from onnxsep.passes._obstacle import ObstacleError

_MATRIX = 2
# Of a weight: output channels, input channels, at least one spatial axis.
_FEWEST_CONV_AXES = 3


def conv(flow: Flow, node: ir.Node) -> Layout | None:
    """Conv, dense or depthwise; other groups would all need padding of their own."""
    weight = _weight(node, _FEWEST_CONV_AXES)
    bias = _bias(node)
    source = flow.layout(node.inputs[0])
    group = node.attributes.get_int("group", 1)
    outputs = weight.shape[0]
    if group == 1:
        _check_extent(flow, node, source, weight.shape[1])
        result = flow.groups.new(outputs)
        axes = [(0, result)] if source is None else [(0, result), (1, source)]
    elif weight.shape[1] == 1 and outputs % group == 0 and source is not None:
        _check_extent(flow, node, source, group)
        result = widened(source, outputs // group)
        axes = [(0, result)]
        flow.edits.append(GroupEdit(node, source))
    else:
        raise ObstacleError("grouped", f"{title_of(node)} has {group} groups")
    flow.edits.append(ConstantEdit(node, 1, tuple(axes)))
    if bias is not None:
        flow.edits.append(ConstantEdit(node, 2, ((0, result),)))
    flow.add_layer(node, weight, source, result)
    return result


def conv_transpose(flow: Flow, node: ir.Node) -> Layout | None:
    """ConvTranspose without groups."""
    weight = _weight(node, _FEWEST_CONV_AXES)
    bias = _bias(node)
    source = flow.layout(node.inputs[0])
    group = node.attributes.get_int("group", 1)
    if group != 1:
        raise ObstacleError("grouped", f"{title_of(node)} has {group} groups")
    _check_extent(flow, node, source, weight.shape[0])
    result = flow.groups.new(weight.shape[1])
    axes = [(1, result)] if source is None else [(0, source), (1, result)]
    flow.edits.append(ConstantEdit(node, 1, tuple(axes)))
    if bias is not None:
        flow.edits.append(ConstantEdit(node, 2, ((0, result),)))
    flow.add_layer(node, weight, source, result)
    return result


def gemm(flow: Flow, node: ir.Node) -> Layout | None:
    """Gemm whose first factor is the activation."""
    if node.attributes.get_int("transA", 0):
        raise ObstacleError("transposed", f"{title_of(node)} reads its input transposed")
    bias = _bias(node)
    transposed = node.attributes.get_int("transB", 0) != 0
    result = _matrix(flow, node, transposed=transposed)
    if bias is not None and bias.ndim and bias.shape[-1] == flow.groups.span(result) > 1:
        flow.edits.append(ConstantEdit(node, 2, ((bias.ndim - 1, result),)))
    return result


def matmul(flow: Flow, node: ir.Node) -> Layout | None:
    """MatMul of a matrix of activations and a constant one."""
    value = node.inputs[0]
    # With more axes, the one that is summed over is not the one we pad.
    if value is None or len(flow.shape(value)) != _MATRIX:
        raise ObstacleError("no-matrix", f"{title_of(node)} multiplies no matrix by a constant one")
    return _matrix(flow, node, transposed=False)


def _matrix(flow: Flow, node: ir.Node, *, transposed: bool) -> Layout:
    weight = _weight(node, _MATRIX)
    if weight.ndim != _MATRIX:
        raise ObstacleError("no-matrix", f"{title_of(node)} multiplies no matrix by a constant one")
    source = flow.layout(node.inputs[0])
    outer, inner = (0, 1) if transposed else (1, 0)
    _check_extent(flow, node, source, weight.shape[inner])
    result = flow.groups.new(weight.shape[outer])
    axes = [(outer, result)] if source is None else [(outer, result), (inner, source)]
    flow.edits.append(ConstantEdit(node, 1, tuple(axes)))
    flow.add_layer(node, weight, source, result)
    return result


def _weight(node: ir.Node, fewest_axes: int) -> np.ndarray:
    value = node.inputs[1] if len(node.inputs) > 1 else None
    weight = constant_array(value)
    if weight is None or weight.ndim < fewest_axes:
        raise _not_constant(node, value, "weight")
    return weight


def _bias(node: ir.Node) -> np.ndarray | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    bias = constant_array(value)
    if bias is None:
        raise _not_constant(node, value, "bias")
    return bias


def _not_constant(node: ir.Node, value: ir.Value | None, what: str) -> ObstacleError:
    if is_dequantized(value):
        return ObstacleError(
            "already-quantized", f"the {what} of {title_of(node)} is quantized already"
        )
    return ObstacleError(
        "weight-not-constant", f"the {what} of {title_of(node)} is computed or fed from outside"
    )


def _check_extent(flow: Flow, node: ir.Node, source: Layout | None, channels: int) -> None:
    if source is not None and flow.groups.span(source) != channels:
        raise ObstacleError(
            "malformed",
            f"{title_of(node)} reads {flow.groups.span(source)} channels with weights for "
            f"{channels}",
        )
