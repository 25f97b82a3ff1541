"""Rules for the operators between layers: which of them padded channels may pass, and how."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.passes import _channel_layers as layers
from onnxsep.passes._channel_flow import (
    CHANNEL_AXIS,
    ConstantEdit,
    ExtentEdit,
    Flow,
    GatherEdit,
    Rule,
    title_of,
)
from onnxsep.passes._channel_groups import Layout, Pin, joined, widened
from onnxsep.passes._obstacle import ObstacleError

# Finite for every finite input, whatever a padded channel holds. Log, Sqrt or Reciprocal are not.
_UNARY = (
    "Abs",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Dropout",
    "Elu",
    "Erf",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)
_POOLS = (
    "AveragePool",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "LpPool",
    "MaxPool",
)
_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
_ELEMENTWISE = ("Add", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum")
# The values that make a padded channel zero: scale, bias, mean, variance.
_BATCHNORM_FILLS = (0.0, 0.0, 0.0, 1.0)


def _channelwise(flow: Flow, node: ir.Node) -> Layout | None:
    """Every channel by itself; other inputs are single numbers."""
    return flow.layout(node.inputs[0])


def _elementwise(flow: Flow, node: ir.Node) -> Layout | None:
    return _broadcast(flow, node, fill=0.0)


def _div(flow: Flow, node: ir.Node) -> Layout | None:
    """Division by a constant; padded channels are divided by one."""
    if constant_array(node.inputs[1]) is None:
        raise ObstacleError(
            "unknown-operator", f"{title_of(node)} would divide by the zeros of padded channels"
        )
    return _broadcast(flow, node, fill=1.0)


def _broadcast(flow: Flow, node: ir.Node, *, fill: float) -> Layout:
    computed = [(value, layout) for value in node.inputs if (layout := flow.layout(value))]
    ranks = {len(flow.shape(value)) for value, _ in computed if value is not None}
    constants = {
        index: array
        for index, value in enumerate(node.inputs)
        if flow.layout(value) is None and (array := constant_array(value)) is not None
    }
    if len(ranks) != 1 or len(computed) + len(constants) != len(node.inputs):
        raise ObstacleError("unknown-shape", f"{title_of(node)} broadcasts shapes that differ")
    (rank,) = ranks
    result = max((layout for _, layout in computed), key=flow.groups.span)
    channels = flow.groups.span(result)
    for value, layout in computed:
        if flow.groups.span(layout) == channels:
            flow.groups.unify(result, layout)
        elif flow.groups.span(layout) == 1:
            name = "" if value is None else value.name
            flow.pin(layout, "broadcast", f"{title_of(node)} spreads the channel of '{name}'")
        else:
            raise ObstacleError("malformed", f"{title_of(node)} meets different channel counts")
    for index, array in constants.items():
        axis = array.ndim - rank + CHANNEL_AXIS
        if array.ndim > rank or not np.isfinite(array).all():
            raise ObstacleError("odd-constant", f"{title_of(node)} has a constant of an odd kind")
        if axis < 0 or array.shape[axis] == 1:
            continue  # one number for all channels, padded ones too
        if array.shape[axis] != channels:
            raise ObstacleError("broadcast", f"{title_of(node)} spreads one channel over several")
        flow.edits.append(ConstantEdit(node, index, ((axis, result),), fill))
    return result


def _batchnorm(flow: Flow, node: ir.Node) -> Layout | None:
    source = flow.layout(node.inputs[0])
    if node.attributes.get_int("training_mode", 0) or not node.attributes.get_int("spatial", 1):
        raise ObstacleError("training-mode", f"{title_of(node)} does not run in inference mode")
    for index, fill in enumerate(_BATCHNORM_FILLS, start=1):
        array = constant_array(node.inputs[index])
        if array is None or source is None or array.shape != (flow.groups.span(source),):
            raise ObstacleError(
                "weight-not-constant", f"{title_of(node)} has parameters that are not constant"
            )
        flow.edits.append(ConstantEdit(node, index, ((0, source),), fill))
    return source


def _concat(flow: Flow, node: ir.Node) -> Layout | None:
    rank = next((len(flow.shape(value)) for value in node.inputs if value in flow.layouts), 0)
    axis = node.attributes.get_int("axis", 0)
    if axis % max(rank, 1) != CHANNEL_AXIS:
        raise ObstacleError("other-axis", f"{title_of(node)} does not join channels")
    parts = []
    for value in node.inputs:
        layout = flow.layout(value)
        if layout is None:
            array = constant_array(value)
            if array is None or array.ndim != rank:
                raise ObstacleError(
                    "unknown-shape", f"{title_of(node)} reads a value of unknown shape"
                )
            pin = Pin("constant", f"{title_of(node)} reads a constant")
            layout = flow.groups.new(array.shape[CHANNEL_AXIS], pin)
        parts.append(layout)
    return joined(parts)


def _gather(flow: Flow, node: ir.Node) -> Layout | None:
    """Gather that repeats, drops or permutes channels: its output is a group of its own."""
    source, shape = _known(flow, node)
    indices = np.array(_integers(node, 1))
    channels = flow.groups.span(source)
    if node.attributes.get_int("axis", 0) % len(shape) != CHANNEL_AXIS:
        raise ObstacleError("other-axis", f"{title_of(node)} does not take channels")
    if not len(indices) or not channels or indices.min() < -channels or indices.max() >= channels:
        raise ObstacleError("malformed", f"{title_of(node)} takes channels that do not exist")
    result = flow.groups.new(len(indices))
    flow.edits.append(GatherEdit(node, source, result))
    return result


def _flatten(flow: Flow, node: ir.Node) -> Layout | None:
    source, shape = _known(flow, node)
    if node.attributes.get_int("axis", 1) % len(shape) != CHANNEL_AXIS:
        raise ObstacleError("other-axis", f"{title_of(node)} mixes channels with the batch")
    return widened(source, _pixels(node, shape))


def _reshape(flow: Flow, node: ir.Node) -> Layout | None:
    """Reshape that flattens all but the batch."""
    source, shape = _known(flow, node)
    target = _integers(node, 1)
    result = widened(source, _pixels(node, shape))
    extent = flow.groups.span(result)
    # With allowzero, a zero means an empty axis; nothing we know of is flattened in this way.
    keeps_batch = len(target) == 2 and (
        (target[0] == 0 and not node.attributes.get_int("allowzero", 0))
        or (target[0] == -1 and target[1] == extent)
        or (target[0] > 0 and target[0] == shape[0])
    )
    if not keeps_batch or target[1] not in (-1, extent):
        raise ObstacleError("unknown-operator", f"{title_of(node)} does not flatten images")
    if target[1] != -1:
        flow.edits.append(ExtentEdit(node, 1, 1, result))
    return result


def _reduce(flow: Flow, node: ir.Node) -> Layout | None:
    source, shape = _known(flow, node)
    _check_spatial(node, _axes(node, 1), len(shape))
    return source


def _squeeze(flow: Flow, node: ir.Node) -> Layout | None:
    source, shape = _known(flow, node)
    _check_spatial(node, _axes(node, 1), len(shape))
    return source


def _unsqueeze(flow: Flow, node: ir.Node) -> Layout | None:
    source, shape = _known(flow, node)
    axes = _axes(node, 1)
    _check_spatial(node, axes, len(shape) + len(axes))
    return source


def _slice(flow: Flow, node: ir.Node) -> Layout | None:
    source, shape = _known(flow, node)
    _check_spatial(node, _axes(node, 3), len(shape), batch_too=True)
    return source


def _pad(flow: Flow, node: ir.Node) -> Layout | None:
    """Pad; the channels that it adds keep their number, and stay outside our padding."""
    source, shape = _known(flow, node)
    rank = len(shape)
    listed = node.attributes.get_ints("pads", ()) or _integers(node, 1)
    number = constant_array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
    if number is None or not np.isfinite(number).all():
        raise ObstacleError("odd-constant", f"{title_of(node)} pads with an unknown number")
    axes = _axes(node, 3) if len(node.inputs) > 3 else list(range(rank))
    if len(listed) != 2 * len(axes):
        raise ObstacleError("malformed", f"{title_of(node)} has pads for other axes")
    position = next((i for i, axis in enumerate(axes) if axis % rank == CHANNEL_AXIS), None)
    if position is None:
        return source
    before, behind = listed[position], listed[position + len(axes)]
    if before == behind == 0:
        return source
    if min(before, behind) < 0 or node.attributes.get_string("mode", "constant") != "constant":
        raise ObstacleError("unknown-operator", f"{title_of(node)} cuts or repeats channels")
    pin = Pin("channel-pad", f"{title_of(node)} adds channels")
    rows = [flow.groups.new(count, pin) if count else () for count in (before, behind)]
    return joined([rows[0], source, rows[1]])


def _resize(flow: Flow, node: ir.Node) -> Layout | None:
    """Resize or Upsample of images."""
    source, _ = _known(flow, node)
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise ObstacleError("unknown-operator", f"{title_of(node)} crops")
    axes = node.attributes.get_ints("axes", ())
    if axes:
        raise ObstacleError("unknown-operator", f"{title_of(node)} names its axes")
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        sizes = _integers(node, 3)
        if sizes[CHANNEL_AXIS] != flow.groups.span(source):
            raise ObstacleError("unknown-operator", f"{title_of(node)} resizes the channel axis")
        flow.edits.append(ExtentEdit(node, 3, CHANNEL_AXIS, source))
        return source
    # opset 9: an input right behind the image; opset 7: an attribute; since 11 a region in between.
    index = 1 if node.op_type == "Upsample" or flow.opset < 11 else 2
    value = node.inputs[index] if len(node.inputs) > index else None
    array = constant_array(value)
    scales = list(node.attributes.get_floats("scales", ())) if array is None else array.tolist()
    if len(scales) <= CHANNEL_AXIS or scales[CHANNEL_AXIS] != 1:
        raise ObstacleError("unknown-operator", f"{title_of(node)} resizes by unknown factors")
    return source


def _known(flow: Flow, node: ir.Node) -> tuple[Layout, tuple[int | None, ...]]:
    """Layout and shape of the first input."""
    value = node.inputs[0]
    layout = flow.layout(value)
    if value is None or layout is None:
        raise ObstacleError("unknown-shape", f"the channels before {title_of(node)} are unknown")
    return layout, flow.shape(value)


def _pixels(node: ir.Node, shape: tuple[int | None, ...]) -> int:
    sizes = [extent for extent in shape[CHANNEL_AXIS + 1 :] if extent is not None]
    if len(sizes) != len(shape) - CHANNEL_AXIS - 1:
        raise ObstacleError("unknown-shape", f"{title_of(node)} reads images of any size")
    return math.prod(sizes)


def _axes(node: ir.Node, index: int) -> list[int]:
    """The axes that an attribute, or since a later opset an input, names."""
    listed = node.attributes.get_ints("axes", ())
    return list(listed) if listed else _integers(node, index)


def _integers(node: ir.Node, index: int) -> list[int]:
    array = constant_array(node.inputs[index]) if len(node.inputs) > index else None
    if array is None or array.dtype.kind != "i" or array.ndim != 1:
        raise ObstacleError("computed-setting", f"{title_of(node)} has settings that are computed")
    return [int(number) for number in array]


def _check_spatial(node: ir.Node, axes: list[int], rank: int, *, batch_too: bool = False) -> None:
    allowed = set(range(CHANNEL_AXIS + 1, rank)) | ({0} if batch_too else set())
    if not {axis % rank for axis in axes} <= allowed:
        raise ObstacleError("other-axis", f"{title_of(node)} works along the channel axis")


RULES: dict[str, Rule] = {
    **dict.fromkeys((*_UNARY, *_POOLS), _channelwise),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "BatchNormalization": _batchnorm,
    "Concat": _concat,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Div": _div,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
