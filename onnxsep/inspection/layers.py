"""Every convolution of a model, quantized ones and those in subgraphs included, with its work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import onnx_ir as ir

from onnxsep.bench.work import convolution_kind
from onnxsep.constants import constant_array
from onnxsep.inspection.record import Layer
from onnxsep.inspection.sizes import Sizes

# Operator to the positions of weight and bias among its inputs.
_CONVOLUTIONS = {
    "Conv": (1, 2),
    "FusedConv": (1, 2),
    "ConvTranspose": (1, 2),
    "ConvInteger": (1, None),
    "QLinearConv": (3, 8),
}
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LEAST_AXES = 3  # outputs, inputs, one spatial axis
# Identity, Transpose and DequantizeLinear between a weight and its node.
_MOST_CHAIN = 8
_PRECISIONS = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.DOUBLE: "fp64",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
}


def find_layers(model: ir.Model, sizes: Sizes) -> tuple[list[Layer], list[str]]:
    """The convolutions in network order, subgraphs where they stand.

    Args:
        model: Normalized.
        sizes: Of its values.

    Returns:
        The layers, without shares and savings, and notes on convolutions that cannot be read.
    """
    layers: list[Layer] = []
    notes: list[str] = []
    owners: dict[ir.Value, str] = {}
    for node, inside in _convolutions(model.graph, ""):
        layer = _read(node, inside, sizes)
        if layer is None:
            notes.append(f"the convolution '{node.name}' has a weight of unknown shape")
            continue
        source = _source(node.inputs[_CONVOLUTIONS[node.op_type][0]])
        if source is not None:
            layer = dataclasses.replace(layer, shared_with=owners.get(source, ""))
            owners.setdefault(source, layer.name)
        layers.append(layer)
    return _with_branches(model.graph, layers), notes


def _convolutions(graph: ir.Graph, inside: str) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        if node.op_type in _CONVOLUTIONS and node.domain in _DOMAINS:
            yield node, inside
        for name, inner in _subgraphs(node):
            yield from _convolutions(inner, f"{inside}{'/' if inside else ''}{node.name}/{name}")


def _subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for number, graph in enumerate(attribute.as_graphs()):
                yield f"{name}{number}", graph


def _read(node: ir.Node, inside: str, sizes: Sizes) -> Layer | None:
    place, bias_place = _CONVOLUTIONS[node.op_type]
    if len(node.inputs) <= place or node.inputs[place] is None:
        return None
    weight = node.inputs[place]
    shape = None if weight is None else sizes.shapes.get(weight)
    if shape is None or len(shape) < _LEAST_AXES or math.prod(shape) == 0:
        return None
    groups = node.attributes.get_int("group", 1)
    spatial = (1,) * (len(shape) - 2)
    output, source = node.outputs[0], node.inputs[0]
    if source is None:
        return None
    transposed = node.op_type == "ConvTranspose"
    macs = None
    if transposed and source in sizes.shapes:
        # Every input value meets every tap of its own channel's kernels.
        macs = sizes.elements(source) * math.prod(shape[1:]) // sizes.batch
    elif not transposed and output in sizes.shapes:
        macs = sizes.elements(output) * math.prod(shape[1:]) // sizes.batch
    bias = None
    if bias_place is not None and len(node.inputs) > bias_place:
        bias = node.inputs[bias_place]
    return Layer(
        name=node.name or "",
        operator=node.op_type,
        kind="transposed" if transposed else convolution_kind(shape, groups),
        inside=inside,
        in_channels=shape[0] if transposed else shape[1] * groups,
        out_channels=shape[1] * groups if transposed else shape[0],
        groups=groups,
        kernel=shape[2:],
        strides=tuple(node.attributes.get_ints("strides", spatial)),
        dilations=tuple(node.attributes.get_ints("dilations", spatial)),
        input_size=sizes.spatial(source),
        output_size=sizes.spatial(output),
        precision=_precision(weight, sizes),
        parameters=math.prod(shape),
        bias=0 if bias is None else sizes.elements(bias),
        macs=macs,
    )


def _source(value: ir.Value | None) -> ir.Value | None:
    """The constant behind a weight; None if it is computed."""
    for _ in range(_MOST_CHAIN):
        if value is None:
            return None
        producer = value.producer()
        if producer is None:
            return value if value.const_value is not None else None
        if producer.op_type == "Constant":
            return value
        if producer.op_type not in ("Identity", "Transpose", "DequantizeLinear", "Cast"):
            return None
        value = producer.inputs[0]
    return None


def _precision(weight: ir.Value | None, sizes: Sizes) -> str:
    source = _source(weight)
    if source is None:
        source = weight
    if source is None:
        return ""
    kind = sizes.types.get(source, source.dtype)
    if kind is None and (array := constant_array(source)) is not None:
        kind = ir.DataType.from_numpy(array.dtype)
    if kind is None:
        return ""
    return _PRECISIONS.get(kind, kind.name.lower())


def _with_branches(graph: ir.Graph, layers: list[Layer]) -> list[Layer]:
    """Layers in those branches of an If that are not the heaviest do not count."""
    left_out: set[str] = set()
    for node in graph.all_nodes():
        if node.op_type != "If":
            continue
        work = {
            name: sum(layer.macs or 0 for layer in layers if _is_in(layer, node, name))
            for name, _ in _subgraphs(node)
        }
        heaviest = max(work, key=lambda name: work[name], default="")
        left_out |= {
            layer.name
            for name in work
            if name != heaviest
            for layer in layers
            if _is_in(layer, node, name)
        }
    return [
        dataclasses.replace(layer, counted=False) if layer.name in left_out else layer
        for layer in layers
    ]


def _is_in(layer: Layer, node: ir.Node, branch: str) -> bool:
    """Whether a layer is in a branch, however deep; names are unique in a normalized model."""
    return f"/{node.name}/{branch}/" in f"/{layer.inside}/"
