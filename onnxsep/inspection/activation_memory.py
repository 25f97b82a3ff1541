"""How many bytes of activations are alive while each node runs.

In the order of the graph a value lives from the node that makes it to the last one that reads it.
Elementwise operators write over their input where nobody needs it any more, as runtimes let them,
and views take no room at all. Weights, and room that kernels take for themselves, are not counted.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxsep.inspection.record import ActivationMemory, MemoryStep
from onnxsep.inspection.sizes import Sizes

# The result may lie where the first input lay.
_IN_PLACE = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Div",
        "Dropout",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mul",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Sub",
        "Sum",
        "Tanh",
        "ThresholdedRelu",
    }
)
# The result is the input under another name.
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_VALUES_NAMED = 4


def find_activation_memory(model: ir.Model, sizes: Sizes) -> ActivationMemory:
    """What is alive at each node of the main graph.

    Args:
        model: Normalized.
        sizes: Of its values, at the batch that is meant.
    """
    inputs = [value for value in model.graph.inputs if value.name in sizes.feeds]
    dependent = _computed_from(model.graph, inputs)
    last_use = _last_uses(model.graph, dependent)
    buffers = _Buffers(sizes)
    unknown = 0
    for value in inputs:
        buffers.add(value)
    steps: list[MemoryStep] = []
    for number, node in enumerate(model.graph):
        if not any(value in dependent for value in node.outputs):
            continue
        for value in node.outputs:
            if not value.name:
                continue
            unknown += sizes.bytes(value) == 0 and value not in sizes.shapes
            buffers.add(value, _reused(node, value, buffers, last_use, number, sizes))
        largest = buffers.largest(_VALUES_NAMED)
        size = sizes.spatial(largest[0][0]) if largest else ()
        named = tuple((value.name or "", count) for value, count in largest)
        steps.append(MemoryStep(node.name or "", node.op_type, buffers.total, size, named))
        for dying in (*node.inputs, *node.outputs):
            if dying is not None and dying in dependent and last_use.get(dying, number) <= number:
                buffers.drop(dying)
        for value in _read_inside(node):
            if value in dependent and last_use.get(value, number) <= number:
                buffers.drop(value)
    peak = max(range(len(steps)), key=lambda index: steps[index].bytes, default=-1)
    return ActivationMemory(tuple(steps), peak, unknown)


class _Buffers:
    """Pieces of memory, and the living values that lie in each."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._buffer: dict[ir.Value, int] = {}
        self._bytes: dict[int, int] = {}
        self._owners: dict[int, list[ir.Value]] = {}
        self._count = 0

    @property
    def total(self) -> int:
        return sum(self._bytes.values())

    def add(self, value: ir.Value, same_as: ir.Value | None = None) -> None:
        if same_as is not None and same_as in self._buffer:
            buffer = self._buffer[same_as]
        else:
            buffer = self._count
            self._count += 1
            self._bytes[buffer] = self._sizes.bytes(value)
            self._owners[buffer] = []
        self._buffer[value] = buffer
        self._owners[buffer].append(value)

    def drop(self, value: ir.Value) -> None:
        buffer = self._buffer.pop(value, None)
        if buffer is None:
            return
        self._owners[buffer].remove(value)
        if not self._owners[buffer]:
            del self._owners[buffer], self._bytes[buffer]

    def alone(self, value: ir.Value) -> bool:
        """Whether nothing else lives where it lies."""
        buffer = self._buffer.get(value)
        return buffer is not None and len(self._owners[buffer]) == 1

    def largest(self, count: int) -> list[tuple[ir.Value, int]]:
        order = sorted(self._bytes, key=lambda buffer: -self._bytes[buffer])[:count]
        return [(self._owners[each][-1], self._bytes[each]) for each in order]


def _reused(
    node: ir.Node,
    value: ir.Value,
    buffers: _Buffers,
    last_use: dict[ir.Value, int],
    number: int,
    sizes: Sizes,
) -> ir.Value | None:
    """The input in whose place ``value`` can lie."""
    if node.op_type in _VIEWS:
        return node.inputs[0] if node.inputs else None
    if node.op_type not in _IN_PLACE:
        return None
    for source in node.inputs:
        if (
            source is not None
            and last_use.get(source, -1) == number
            and buffers.alone(source)
            and sizes.bytes(source) == sizes.bytes(value)
        ):
            return source
    return None


def _computed_from(graph: ir.Graph, inputs: list[ir.Value]) -> set[ir.Value]:
    """Activations: the inputs and whatever depends on them."""
    found = set(inputs)
    for node in graph:
        if any(value in found for value in (*node.inputs, *_read_inside(node))):
            found.update(node.outputs)
    return found


def _last_uses(graph: ir.Graph, dependent: set[ir.Value]) -> dict[ir.Value, int]:
    """Number of the last node that reads each value; outputs of the graph live to the end."""
    last: dict[ir.Value, int] = {}
    count = 0
    for number, node in enumerate(graph):
        count = number + 1
        for value in (*node.inputs, *_read_inside(node)):
            if value is not None and value in dependent:
                last[value] = number
    last.update(dict.fromkeys(graph.outputs, count))
    return last


def _read_inside(node: ir.Node) -> list[ir.Value]:
    """Values from outside that the node's subgraphs read."""
    found: list[ir.Value] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            for inner in graph.all_nodes():
                found += [value for value in inner.inputs if value is not None]
            found += [value for value in graph.outputs if value.graph is not graph]
    return found
