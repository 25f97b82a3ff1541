"""Constants of a graph: finding the array behind a value, adding new ones under free names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# A weight behind more of these than anyone exports is not worth chasing.
_MAX_CHAIN = 8


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The array that ``value`` always holds, or None if it is computed or fed from outside.

    Looks through initializers, Constant nodes, and chains of Identity and Transpose over them
    (exporters from channel-last frameworks leave weights behind a Transpose). An initializer that
    is also a graph input can be overridden by the caller and is therefore no constant; the
    `normalize` pass removes such inputs first.
    """
    permutations: list[list[int] | None] = []
    for _ in range(_MAX_CHAIN):
        if value is None or value.is_graph_input():
            return None
        producer = value.producer()
        if producer is None or producer.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                return None
            array = tensor.numpy()
            for permutation in reversed(permutations):
                array = np.transpose(array, permutation)
            return array
        if producer.domain not in ("", "ai.onnx") or len(producer.inputs) != 1:
            return None
        if producer.op_type == "Transpose":
            attribute = producer.attributes.get("perm")
            permutations.append(None if attribute is None else list(attribute.as_ints()))
        elif producer.op_type != "Identity":
            return None
        value = producer.inputs[0]
    return None


def unique_value_name(graph: ir.Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``... if the whole model knows that name already."""
    taken = set(graph.initializers)
    taken.update(value.name for value in graph.inputs if value.name)
    for node in graph.all_nodes():
        taken.update(value.name for value in node.outputs if value.name)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                subgraph = attribute.as_graph()
                taken.update(subgraph.initializers)
                taken.update(value.name for value in subgraph.inputs if value.name)
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def add_initializer(graph: ir.Graph, wanted: str, array: np.ndarray) -> ir.Value:
    """Register ``array`` as a new initializer of ``graph`` under ``wanted`` or the next free name."""
    name = unique_value_name(graph, wanted)
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    graph.register_initializer(value)
    return value
