"""Which nodes run on integers and which values become integers for it.

Operators with weights are quantized because it pays. Those without, which stand between them, are
only where their inputs are integers already and a quantized operator needs their result: elsewhere
converting costs more than it saves, and precision on top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Set

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.passes.base import Refusal
from onnxsep.targets.quantization import RESHAPING, WEIGHTED, QuantizationScheme

# Their result is never negative, or bounded: clipping is what quantization does anyway.
_CLIPPING = ("Relu", "Clip")
# All inputs and the output get one range, so that integers are copied and never converted.
_SAME_RANGE = RESHAPING | {"Concat"}
# Of their inputs only the first is data.
# Has weights, and no target's integers: said for each, as of every other layer that stays in float.
_NEVER_INTEGERS = frozenset({"ConvTranspose"})
_ONE_INPUT = WEIGHTED | RESHAPING | {"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
_MATRIX_RANK = 2


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where integers go.

    Attributes:
        weighted: Quantized nodes with weights, in graph order.
        between: Quantized nodes without.
        groups: Values that become integers; those of one tuple share a range.
        limits: Value → the bounds of the Clip or Relu that made it.
        refusals: Why the other nodes with weights stay float.
    """

    weighted: tuple[ir.Node, ...]
    between: tuple[ir.Node, ...]
    groups: tuple[tuple[str, ...], ...]
    limits: dict[str, tuple[float, float]]
    refusals: tuple[Refusal, ...]

    @property
    def values(self) -> list[str]:
        """Names of all values that become integers."""
        return [name for group in self.groups for name in group]

    @property
    def nodes(self) -> set[ir.Node]:
        """All quantized nodes."""
        return {*self.weighted, *self.between}


def place(
    graph: ir.Graph, scheme: QuantizationScheme, keep_float: Set[str] = frozenset()
) -> Placement:
    """Decide for the main graph; nothing is changed.

    Args:
        graph: With names on all nodes and values, see the pass `normalize`.
        scheme: What the target takes.
        keep_float: Names of nodes to leave alone.
    """
    weighted, refusals = [], []
    for node in _weighted_nodes(graph):
        refusal = _why_not(node, scheme, keep_float)
        if refusal is None:
            weighted.append(node)
        else:
            refusals.append(refusal)
    between = _nodes_between(graph, scheme, set(weighted), keep_float)
    choose = _values_in_front if scheme.inputs_only else _values_around
    values = choose(weighted, between, scheme)
    return Placement(
        weighted=tuple(weighted),
        between=tuple(between),
        groups=_groups(values, [] if scheme.inputs_only else between),
        limits={} if scheme.symmetric else _limits(values),
        refusals=tuple(refusals),
    )


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The activations that a node reads: no weights, shapes or other constants."""
    inputs = node.inputs[:1] if node.op_type in _ONE_INPUT else node.inputs
    return [value for value in inputs if value is not None and constant_array(value) is None]


def clipping_behind(value: ir.Value) -> ir.Node | None:
    """The Relu or Clip that alone reads ``value``: quantizing its result does its work."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    (node,) = value.consumers()
    return node if node.op_type in _CLIPPING and clip_bounds(node) is not None else None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The bounds that a Relu or Clip sets; None if they are no constants or exclude zero."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [-float("inf"), float("inf")]
    for position, name in enumerate(("min", "max")):
        attribute = node.attributes.get(name)
        if attribute is not None:  # before opset 11
            bounds[position] = attribute.as_float()
        elif len(node.inputs) > position + 1 and node.inputs[position + 1] is not None:
            array = constant_array(node.inputs[position + 1])
            if array is None or array.size != 1:
                return None
            bounds[position] = float(array.item())
    low, high = bounds
    return (low, high) if low <= 0 < high else None


def _weighted_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.op_type not in WEIGHTED | _NEVER_INTEGERS or node.domain != "":
            continue
        # Products of two activations have no weight, and gain little from integers.
        if node.op_type == "Conv" or constant_array(node.inputs[1]) is not None:
            yield node


def _why_not(node: ir.Node, scheme: QuantizationScheme, keep_float: Set[str]) -> Refusal | None:
    name = node.name or ""
    if name in keep_float:
        return Refusal(name, "kept-float", "left in float: faster or more accurate so, as measured")
    if node.op_type not in scheme.operators:
        reason = f"the target has no int8 {node.op_type}"
        return Refusal(name, "no-integer-kernel", reason)
    weight = constant_array(node.inputs[1])
    if weight is None:
        reason = "its weight is computed or fed from outside"
        return Refusal(name, "weight-not-constant", reason)
    if weight.dtype != np.float32:
        reason = f"its weight is {weight.dtype}; only float32 is quantized"
        return Refusal(name, "weight-not-float32", reason)
    if not np.isfinite(weight).all():
        return Refusal(name, "weight-not-finite", "its weight holds NaN or infinity")
    if node.op_type in ("Gemm", "MatMul") and weight.ndim != _MATRIX_RANK:
        return Refusal(name, "weight-no-matrix", f"its weight has {weight.ndim} dimensions")
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0 or node.attributes.get_float("alpha", 1.0) != 1.0
    ):
        reason = "it transposes or scales its input, which no int8 kernel does"
        return Refusal(name, "gemm-form", reason)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant_array(node.inputs[2])
        if bias is None:
            return Refusal(name, "bias-not-constant", "its bias is computed or fed from outside")
        if bias.ndim != 1 and node.op_type == "Gemm":
            return Refusal(name, "bias-no-vector", f"its bias has {bias.ndim} dimensions")
    return _why_not_shape(node, scheme)


def _why_not_shape(node: ir.Node, scheme: QuantizationScheme) -> Refusal | None:
    value = node.inputs[0]
    if scheme.free_batch and scheme.free_size:
        return None
    shape = None if value is None else value.shape
    sizes = [] if shape is None else list(shape)[0 if not scheme.free_batch else 1 :]
    if shape is not None and all(isinstance(size, int) for size in sizes):
        return None
    found = "unknown" if shape is None else f"({', '.join(str(size) for size in shape)})"
    return Refusal(
        node.name or "",
        "free-dimension",
        f"the shape of its input is {found}, and the target takes fixed "
        f"{'sizes' if scheme.free_batch else 'dimensions, that of the batch too,'} only",
    )


def _nodes_between(
    graph: ir.Graph, scheme: QuantizationScheme, weighted: set[ir.Node], keep_float: Set[str]
) -> list[ir.Node]:
    """Nodes without weights whose inputs are integers and whose results quantized nodes read."""
    integers: set[ir.Value] = set()
    candidates: list[ir.Node] = []
    for node in graph:
        if node in weighted:
            # What it reads is made integers for it, whoever computed it.
            integers.update(data_inputs(node))
            integers.add(node.outputs[0])
        elif node.op_type in _CLIPPING:
            source = node.inputs[0]
            if source in integers and clip_bounds(node) is not None:
                integers.add(node.outputs[0])
        elif _may_stand_between(node, scheme, keep_float):
            present = [value in integers for value in data_inputs(node)]
            # A sum of integers and a float costs the same either way, converting one or the other.
            if any(present) and (all(present) or node.op_type == "Add"):
                candidates.append(node)
                integers.add(node.outputs[0])
    if scheme.inputs_only:
        return candidates
    needed = {value for node in weighted for value in data_inputs(node)}
    kept = []
    for node in reversed(candidates):
        result = node.outputs[0]
        behind = clipping_behind(result)
        if result in needed or (behind is not None and behind.outputs[0] in needed):
            kept.append(node)
            needed.update(data_inputs(node))
    return kept[::-1]


def _may_stand_between(node: ir.Node, scheme: QuantizationScheme, keep_float: Set[str]) -> bool:
    return (
        node.domain == ""
        and node.op_type in scheme.operators - WEIGHTED
        and node.name not in keep_float
        and len(node.outputs) == 1
        and all(value is None or value.dtype != ir.DataType.FLOAT16 for value in node.inputs)
    )


def _values_around(
    weighted: list[ir.Node], between: list[ir.Node], scheme: QuantizationScheme
) -> dict[str, ir.Value]:
    """What quantized nodes read and what they give."""
    values: dict[str, ir.Value] = {}

    def add(value: ir.Value) -> None:
        values.setdefault(value.name or "", value)

    read = {value for node in (*weighted, *between) for value in data_inputs(node)}
    for node in (*weighted, *between):
        for value in data_inputs(node):
            add(value)
        result = node.outputs[0]
        behind = clipping_behind(result)
        result = result if behind is None else behind.outputs[0]
        if result in read or node.op_type not in scheme.float_results or behind is not None:
            add(result)
    return values


def _values_in_front(
    weighted: list[ir.Node], between: list[ir.Node], scheme: QuantizationScheme
) -> dict[str, ir.Value]:
    """What quantized nodes read, but for the sum into which a convolution goes as it is."""
    del scheme
    values: dict[str, ir.Value] = {}
    makers = set(weighted)
    for node in (*weighted, *between):
        for value in data_inputs(node):
            if node.op_type != "Add" or value.producer() not in makers:
                values.setdefault(value.name or "", value)
    return values


def _groups(values: dict[str, ir.Value], between: list[ir.Node]) -> tuple[tuple[str, ...], ...]:
    """Values that must share a range, found by joining sets (union-find)."""
    parent = {name: name for name in values}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in between:
        if node.op_type not in _SAME_RANGE:
            continue
        names = [value.name or "" for value in (*data_inputs(node), node.outputs[0])]
        present = [name for name in names if name in parent]
        for name in present[1:]:
            parent[root(name)] = root(present[0])
    groups: dict[str, list[str]] = {}
    for name in values:
        groups.setdefault(root(name), []).append(name)
    return tuple(tuple(group) for group in groups.values())


def _limits(values: dict[str, ir.Value]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, value in values.items():
        producer = value.producer()
        if producer is not None and producer.op_type in _CLIPPING:
            bounds = clip_bounds(producer)
            if bounds is not None:
                found[name] = bounds
    return found
