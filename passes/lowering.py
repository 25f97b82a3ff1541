"""How factors become nodes: depthwise → pointwise in the graph form that a target runs fast."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.constants import add_initializer
from onnxsep.convolution import ConvSite
from onnxsep.targets import Repeat

# Attributes that say how the kernel moves; they go to the depthwise convolution as they are.
_GEOMETRY_ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


def replace_by_depthwise_pointwise(
    graph: ir.Graph,
    site: ConvSite,
    depthwise: np.ndarray,
    pointwise: np.ndarray,
    bias: np.ndarray,
    repeat: Repeat,
) -> None:
    """Put a depthwise and a pointwise convolution in the place of ``site.node``.

    All padding happens in front of the depthwise convolution, which has no bias; the bias is the
    pointwise one's. The output keeps its name.

    Args:
        graph: The graph that holds the node.
        site: The convolution to replace.
        depthwise: (C, r, K) filters.
        pointwise: (N, C, r) mixing weights.
        bias: (N,).
        repeat: Graph form for r > 1, see `onnxsep.targets.Target`.
    """
    node = site.node
    channels, rank, _ = depthwise.shape
    kernel = site.geometry.kernel
    dtype = site.weight.dtype
    ones = (1,) * len(kernel)
    new_nodes: list[ir.Node] = []
    source = node.inputs[0]
    if repeat == "concat":
        # Copy t of the input holds channels t·C … t·C + C - 1.
        depthwise_weight = depthwise.transpose(1, 0, 2).reshape(rank * channels, 1, *kernel)
        mixing = pointwise.transpose(0, 2, 1).reshape(len(pointwise), rank * channels, *ones)
        if rank > 1:
            repeated = ir.node("Concat", [source] * rank, {"axis": 1}, name=f"{site.name}/repeat")
            new_nodes.append(repeated)
            source = repeated.outputs[0]
            source.name = f"{site.output_name}/repeated"
        groups = rank * channels
    else:
        # Group c holds outputs c·r … c·r + r - 1.
        depthwise_weight = depthwise.reshape(channels * rank, 1, *kernel)
        mixing = pointwise.reshape(len(pointwise), channels * rank, *ones)
        groups = channels
    attributes = [node.attributes[name] for name in _GEOMETRY_ATTRIBUTES if name in node.attributes]
    filtered = ir.Node(
        "",
        "Conv",
        [
            source,
            add_initializer(graph, f"{site.name}/depthwise_weight", depthwise_weight.astype(dtype)),
        ],
        [ir.Attr(a.name, a.type, a.value) for a in attributes] + [ir.AttrInt64("group", groups)],
        name=f"{site.name}/depthwise",
    )
    filtered.outputs[0].name = f"{site.output_name}/depthwise"
    new_nodes.append(filtered)
    mixed = ir.node(
        "Conv",
        [
            filtered.outputs[0],
            add_initializer(graph, f"{site.name}/pointwise_weight", mixing.astype(dtype)),
            add_initializer(graph, f"{site.name}/pointwise_bias", bias.astype(dtype)),
        ],
        {"kernel_shape": list(ones)},
        name=f"{site.name}/pointwise",
    )
    new_nodes.append(mixed)
    old, new = node.outputs[0], mixed.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_after(node, new_nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
