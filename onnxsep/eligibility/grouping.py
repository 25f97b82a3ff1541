"""Which DequantizeLinear and QuantizeLinear onnxruntime hands over together with an operator.

The conditions are those of onnxruntime 1.21.0, in
onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc and
onnxruntime/core/framework/node_unit.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.unit import (
    STANDARD_DOMAINS,
    Unit,
    is_constant,
    operator_set,
    since_version,
    value_type,
)

_CLIPS = ("Relu", "Clip")
_GROUPED_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
# MaxPool is grouped in one version of the operator only.
_MAX_POOL_VERSION = 12

_MOVING = operator_set(
    "Gather GatherElements Reshape Expand Flatten Transpose MaxPool Resize Squeeze Unsqueeze Tile"
)
_UNARY = operator_set(
    "AveragePool GlobalAveragePool GlobalMaxPool LeakyRelu ReduceMean ReduceMin ReduceMax "
    "ReduceProd ReduceSum Relu Gelu Elu HardSigmoid HardSwish Sigmoid Slice LogSoftmax Softmax "
    "Sqrt Atan Asin Sin Cos Sign Tanh Exp Log LRN Ceil Floor Round Abs Neg DepthToSpace "
    "SpaceToDepth Clip LpNormalization"
)
_BINARY = operator_set("Add Div Mul Pow Sub PRelu GridSample")
_VARIADIC = operator_set("Concat Max Min")
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

Nodes = Sequence[ir.Node]


def make_units(graph: ir.Graph, opset: int, depth: int = 0) -> list[Unit]:
    """The units of ``graph`` in topological order, graphs inside its nodes left out."""
    groups = {unit.node: unit for node in graph if (unit := _group(node, opset, depth)) is not None}
    taken = {node for unit in groups.values() for node in unit.nodes}
    units = []
    for node in graph:
        if node in groups:
            units.append(groups[node])
        elif node not in taken:
            units.append(Unit(node, since_version(node, opset), depth=depth))
    return units


def inner_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """The graphs inside the nodes of ``graph``, one level down."""
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield from attribute.as_graphs()


def dequantizers_of(node: ir.Node) -> list[ir.Node]:
    """The DequantizeLinear nodes in front of ``node``, in the order of its inputs."""
    producers = [None if value is None else value.producer() for value in node.inputs]
    return [
        producer
        for producer in producers
        if producer is not None and producer.op_type == "DequantizeLinear"
    ]


def readers_of(value: ir.Value) -> list[ir.Node]:
    """Every node that reads ``value``, once for each input."""
    return [use.node for use in value.uses()]


def is_superfluous(clip: ir.Node, quantizer: ir.Node) -> bool:
    """Whether the integers behind ``quantizer`` end where a Relu or Clip would cut."""
    scale, zero = _scalar(quantizer, 1), _scalar(quantizer, 2)
    integers = value_type(quantizer.outputs[0])
    if scale is None or integers is None or not integers.is_integer():
        return False
    least, most = np.iinfo(integers.numpy()).min, np.iinfo(integers.numpy()).max
    middle = 0 if zero is None else int(zero)
    if clip.op_type == "Relu":
        return middle == int(least)
    bounds = clip_bounds(clip)
    if bounds is None or not float(scale):
        return False
    low, high = (np.rint(bound / float(scale)) + middle for bound in bounds)
    return bool(low <= least and high >= most)


def clip_bounds(clip: ir.Node) -> tuple[float, float] | None:
    """Both ends of a Clip; None if they are not constant."""
    limit = float(np.finfo(np.float32).max)
    bounds = [clip.attributes.get_float("min", -limit), clip.attributes.get_float("max", limit)]
    for index, value in enumerate(clip.inputs[1:]):
        if value is None:
            continue
        if not is_constant(value) or value.const_value is None or value.const_value.size != 1:
            return None
        bounds[index] = value.const_value.numpy().item()
    return float(bounds[0] or 0.0), float(bounds[1] or 0.0)


def _group(node: ir.Node, opset: int, depth: int) -> Unit | None:
    version = since_version(node, opset)
    check = _check_of(node.op_type)
    if node.domain not in _GROUPED_DOMAINS or check is None or not node.outputs:
        return None
    if node.op_type == "MaxPool" and version != _MAX_POOL_VERSION:
        return None
    before = dequantizers_of(node)
    clip = _clip_behind(node)
    behind = _quantizers_of(clip or node)
    if clip is not None and (len(behind) != 1 or not is_superfluous(clip, behind[0])):
        return None
    if clip is not None and node.op_type in _MOVING | {"Split"}:
        return None
    if not before or not _may_be_one(node, clip, before) or not check(node, before, behind):
        return None
    return Unit(node, version, tuple(before), tuple(behind), clip, depth)


def _clip_behind(node: ir.Node) -> ir.Node | None:
    readers = [reader for value in node.outputs for reader in readers_of(value)]
    if len(readers) != 1 or readers[0].op_type not in _CLIPS:
        return None
    (result,) = readers[0].outputs
    if len(readers_of(result)) != 1 or result.is_graph_output():
        return None
    return readers[0]


def _quantizers_of(node: ir.Node) -> list[ir.Node]:
    readers = [reader for value in node.outputs for reader in readers_of(value)]
    return [reader for reader in readers if reader.op_type == "QuantizeLinear"]


def _may_be_one(node: ir.Node, clip: ir.Node | None, before: Nodes) -> bool:
    """Whether nothing else reads what would disappear inside the group."""
    for quantized in before:
        (value,) = quantized.outputs
        if value.is_graph_output() or readers_of(value) != [node]:
            return False
    return clip is None or not any(value.is_graph_output() for value in node.outputs)


def _complete(node: ir.Node, behind: Nodes) -> bool:
    """Whether every result goes into one QuantizeLinear of its own and nowhere else."""
    last = _clip_behind(node) or node
    readers = [reader for value in last.outputs for reader in readers_of(value)]
    outputs = [value for value in last.outputs if value.name]
    hidden = any(value.is_graph_output() for value in last.outputs)
    return len(outputs) == len(behind) == len(readers) and not hidden


def _check_of(operator: str) -> Callable[[ir.Node, Nodes, Nodes], bool] | None:
    if operator in _MOVING:
        return _moves
    if operator in _UNARY:
        return lambda node, before, behind: _all_alike(node, before, behind, inputs=1)
    if operator in _BINARY or operator in _VARIADIC:
        return lambda node, before, behind: _all_alike(node, before, behind)
    if operator in _CONVOLUTIONS:
        return _convolves
    return {
        "MatMul": _multiplies,
        "Gemm": _multiplies_and_adds,
        "Split": _splits,
        "Where": lambda node, before, behind: _all_alike(node, before, behind, inputs=2),
        "Pad": _pads,
        "BatchNormalization": _normalizes,
        "InstanceNormalization": _normalizes,
        "LayerNormalization": _normalizes,
    }.get(operator)


def _types(before: Nodes, behind: Nodes) -> list[ir.DataType | None]:
    return [value_type(node.inputs[0]) for node in before] + [
        value_type(node.outputs[0]) for node in behind
    ]


def _inputs(node: ir.Node) -> int:
    return sum(value is not None for value in node.inputs)


def _all_alike(node: ir.Node, before: Nodes, behind: Nodes, inputs: int = 0) -> bool:
    """All inputs and the result are integers of one type."""
    if len(before) != (inputs or _inputs(node)) or not _complete(node, behind):
        return False
    return len(set(_types(before, behind))) == 1


def _moves(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    """One scale and one zero point in front and behind."""
    if not _all_alike(node, before, behind, inputs=1):
        return False
    first, last = before[0], behind[0]
    return all(
        (one := _scalar(first, index)) is not None
        and (other := _scalar(last, index)) is not None
        and one == other
        for index in (1, 2)
    )


def _convolves(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    if len(before) != _inputs(node) or not _complete(node, behind):
        return False
    data, weight, *bias = [value_type(one.inputs[0]) for one in before]
    return (
        data == value_type(behind[0].outputs[0])
        and (data != ir.DataType.INT8 or weight == data)
        and all(dtype == ir.DataType.INT32 for dtype in bias)
    )


def _multiplies(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    if len(before) != 2 or not _complete(node, behind):
        return False
    data, weight, result = _types(before, behind)
    return data == result and (data != ir.DataType.INT8 or weight == data)


def _multiplies_and_adds(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    if len(before) != _inputs(node) or (behind and not _complete(node, behind)):
        return False
    data, weight, *bias = [value_type(one.inputs[0]) for one in before]
    fits = data != ir.DataType.INT8 or weight == data
    if behind and value_type(behind[0].outputs[0]) != data:
        return False
    if bias:
        fits &= node.attributes.get_float("beta", 1.0) == 1.0
    return fits and all(dtype == ir.DataType.INT32 for dtype in bias)


def _splits(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    return len(before) == 1 and _complete(node, behind) and len(set(_types(before, behind))) == 1


def _pads(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    whole = len(before) in (1, 2) and _complete(node, behind)
    return whole and len(set(_types(before, behind))) == 1


def _normalizes(node: ir.Node, before: Nodes, behind: Nodes) -> bool:
    return _complete(node, behind) and len(set(_types(before[:1], behind))) == 1


def _scalar(node: ir.Node, index: int) -> np.ndarray | None:
    """A constant without dimensions; onnxruntime takes no vector of one for it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.ndim == 0 else None
