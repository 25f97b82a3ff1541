"""Constants of a graph: finding the array behind a value, adding new ones under free names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from onnxsep.weights import kept_array

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
            array = _tensor_array(value)
            if array is None:
                return None
            for permutation in reversed(permutations):
                array = np.transpose(array, permutation)
            return array
        if not _only_rearranges(producer):
            return None
        if producer.op_type == "Transpose":
            attribute = producer.attributes.get("perm")
            permutations.append(None if attribute is None else list(attribute.as_ints()))
        value = producer.inputs[0]
    return None


def is_dequantized(value: ir.Value | None) -> bool:
    """Whether ``value`` comes out of a DequantizeLinear, be it through Identity and Transpose."""
    for _ in range(_MAX_CHAIN):
        producer = None if value is None else value.producer()
        if producer is None:
            return False
        if producer.op_type == "DequantizeLinear":
            return True
        if not _only_rearranges(producer):
            return False
        value = producer.inputs[0]
    return False


class NameScope:
    """A set of taken names that hands out free ones.

    Walking a model for its names costs time in proportion to its size: a pass that adds many
    values makes one scope and asks it again and again.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: Counter[str] = Counter()

    @classmethod
    def of_values(cls, graph: ir.Graph) -> NameScope:
        """The names of all values of ``graph`` and of the graphs inside it."""
        return cls(_value_names(graph))

    @classmethod
    def of_nodes(cls, graph: ir.Graph) -> NameScope:
        """The names of all nodes of ``graph`` and of the graphs inside it."""
        return cls(node.name for node in graph.all_nodes() if node.name)

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def take(self, wanted: str) -> str:
        """Hand out ``wanted``, or ``wanted_1``, ``wanted_2``... if it is taken, and remember it."""
        name = wanted
        while name in self._taken:
            self._counts[wanted] += 1
            name = f"{wanted}_{self._counts[wanted]}"
        self._taken.add(name)
        return name


def unique_value_name(graph: ir.Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``... if the graph or one inside it knows that name.

    For a subgraph, or for many names, use `NameScope` on the main graph instead.
    """
    return NameScope.of_values(graph).take(wanted)


def add_initializer(
    graph: ir.Graph, wanted: str, array: np.ndarray, *, names: NameScope | None = None
) -> ir.Value:
    """Register ``array`` as a new initializer of ``graph`` under ``wanted`` or the next free name.

    Args:
        graph: The graph that gets it; a subgraph is fine if ``names`` covers the whole model.
        wanted: The name to use if it is free.
        array: The values, in the dtype they shall have.
        names: The names taken so far; read from ``graph`` when absent.
    """
    name = unique_value_name(graph, wanted) if names is None else names.take(wanted)
    # Not ascontiguousarray: that makes a one-element vector of a scalar.
    tensor = ir.tensor(kept_array(graph, np.asarray(array, order="C")), name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    graph.register_initializer(value)
    return value


def remove_if_unused(value: ir.Value | None) -> None:
    """Take ``value`` out of the model if nothing needs it any more, and what fed only it.

    An initializer leaves its graph; a node leaves when none of its outputs is used. Graph inputs
    and outputs stay.
    """
    suspects = [value]
    while suspects:
        suspect = suspects.pop()
        if suspect is None or suspect.uses() or suspect.is_graph_output():
            continue
        producer = suspect.producer()
        if producer is None:
            graph, name = suspect.graph, suspect.name
            # Not "if graph": a graph without nodes counts as false.
            if suspect.is_initializer() and not suspect.is_graph_input() and graph is not None:
                graph.initializers.pop(name or "")
        elif producer.graph is not None and not any(
            output.uses() or output.is_graph_output() for output in producer.outputs
        ):
            suspects.extend(producer.inputs)
            producer.graph.remove(producer, safe=True)


def _only_rearranges(node: ir.Node) -> bool:
    return (
        node.op_type in ("Identity", "Transpose")
        and node.domain in ("", "ai.onnx")
        and len(node.inputs) == 1
    )


def _tensor_array(value: ir.Value) -> np.ndarray | None:
    try:
        tensor = ir.convenience.get_const_tensor(value)
    except ValueError:  # a Constant node in a form we do not read (sparse, or malformed)
        return None
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy()


def _value_names(graph: ir.Graph) -> Iterator[str]:
    for inner in (graph, *graph.subgraphs()):
        for value in (*inner.inputs, *inner.initializers.values()):
            if value.name:
                yield value.name
        for node in inner:
            for value in node.outputs:
                if value.name:
                    yield value.name
