"""Which values of a network a sweep has to look at, and which follow from others.

An inner value that becomes an output costs time: it leaves the memory layout of the convolutions
for the plain one, and keeps the operators around it from being fused. So what an activation makes
of a value that is looked at anyway is computed from that value's sample, exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.calibrate.histogram import Elementwise
from onnxsep.constants import constant_array
from onnxsep.errors import ConfigurationError
from onnxsep.runtime import Feeds, cut_model

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
# The elements are the same ones, in another shape or order.
_SAME_ELEMENTS = ("Identity", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
_DEFAULT_LEAK = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Derived:
    """A value whose elements are a function of another's.

    Attributes:
        source: Name of a value that is looked at itself, be it an input.
        function: Of its elements; rising, so that extremes stay extremes.
    """

    source: str
    function: Elementwise


@dataclasses.dataclass(frozen=True, eq=False)
class TapPlan:
    """How to learn about every value that was asked for.

    Attributes:
        names: The values asked for, in the order of the graph.
        fed: Those of them that are inputs of the model.
        groups: Those that onnxruntime hands out, in groups that fit into memory together.
        derived: The others.
    """

    names: list[str]
    fed: list[str]
    groups: list[list[str]]
    derived: dict[str, Derived]


def plan_taps(
    model: ir.Model, values: Sequence[str] | None, example: Feeds, memory_limit: int
) -> TapPlan:
    """Divide the values that are asked for into those three kinds.

    Args:
        model: Left unchanged.
        values: Names of values of the main graph, or None for every float value that depends on
            the inputs.
        example: One batch.
        memory_limit: Bytes that the values of one group may take together for such a batch.

    Raises:
        ConfigurationError: A value does not exist, is a constant, or is known to be no float.
    """
    known = {value.name: value for value in _computed_values(model.graph) if value.name}
    inputs = [value.name for value in model.graph.inputs if value.name in example]
    if values is not None:
        for name in values:
            if name not in known and name not in inputs:
                raise ConfigurationError(
                    f"there is no computed value '{name}' in the model's main graph to calibrate"
                )
    asked = set(known) | set(inputs) if values is None else set(values)
    computed = [name for name in known if name in asked]
    images = max((array.shape[0] for array in example.values() if array.ndim), default=1)
    typed = {name: known[name] for name in computed}
    if any(_bytes(value, images) is None for value in typed.values()):
        typed = _with_shapes(model, example, computed)
    kept = [name for name in computed if _may_be_float(typed[name])]
    if values is not None and len(kept) < len(computed):
        other = next(name for name in computed if name not in kept)
        raise ConfigurationError(f"value '{other}' is no float tensor, so it has no range")
    fed = [name for name in inputs if name and name in asked and example[name].dtype.kind == "f"]
    derived: dict[str, Derived] = {}
    tapped: list[str] = []
    available = set(fed)
    for name in kept:
        found = _derivation(known[name], available, typed)
        if found is None:
            tapped.append(name)
        else:
            earlier = derived.get(found.source)
            derived[name] = found if earlier is None else _composed(earlier, found)
        available.add(name)
    sizes = [_bytes(typed[name], images) for name in tapped]
    groups = list(_groups(tapped, sizes, memory_limit))
    return TapPlan([*fed, *kept], fed, groups, derived)


def _computed_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Outputs of the nodes of the main graph that depend on an input."""
    dependent: set[ir.Value] = {
        value for value in graph.inputs if value.name not in graph.initializers
    }
    for node in graph:
        # A branch or loop body may read any value from outside.
        has_body = any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        )
        if has_body or any(value in dependent for value in node.inputs):
            dependent.update(node.outputs)
            yield from node.outputs


def _with_shapes(model: ir.Model, example: Feeds, names: Sequence[str]) -> dict[str, ir.Value]:
    """The named values, with types and shapes as far as shape inference finds them."""
    if not names:
        return {}
    part = cut_model(model, [example], names)
    for value in part.graph.inputs:
        value.shape = ir.Shape(example[value.name or ""].shape)
    part = ShapeInferencePass()(part).model
    found = ir.convenience.create_value_mapping(part.graph, include_subgraphs=False)
    return {name: found[name] for name in names}


def _may_be_float(value: ir.Value) -> bool:
    if value.type is None:
        return True
    return isinstance(value.type, ir.TensorType) and value.dtype in _FLOATS


def _bytes(value: ir.Value, images: int) -> int | None:
    """Size of the value for so many images along a free first axis, or None where not known."""
    if value.shape is None or value.dtype is None:
        return None
    sizes = [
        images if place == 0 and not isinstance(axis, int) else axis
        for place, axis in enumerate(value.shape)
    ]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes):
        return None
    return math.ceil(math.prod(known) * value.dtype.itemsize)


def _groups(
    names: Sequence[str], sizes: Sequence[int | None], memory_limit: int
) -> Iterator[list[str]]:
    """Neighbours together, as many as fit; a value of unknown size counts as the largest known."""
    largest = max((size for size in sizes if size is not None), default=0)
    group: list[str] = []
    room = memory_limit
    for name, size in zip(names, sizes, strict=True):
        needed = largest if size is None else size
        if group and needed > room:
            yield group
            group, room = [], memory_limit
        group.append(name)
        room -= needed
    if group:
        yield group


def _derivation(value: ir.Value, available: set[str], typed: dict[str, ir.Value]) -> Derived | None:
    """How ``value`` follows from the first input of its node, if it does."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.name not in available:
        return None
    # Half precision would round on the way; a value that is not typed may be anything.
    if source.name in typed and typed[source.name].dtype != ir.DataType.FLOAT:
        return None
    if source.name not in typed and source.dtype != ir.DataType.FLOAT:
        return None
    function = _rising_function(node)
    return None if function is None else Derived(source.name, function)


def _composed(inner: Derived, outer: Derived) -> Derived:
    return Derived(inner.source, lambda values: outer.function(inner.function(values)))


def _rising_function(node: ir.Node) -> Elementwise | None:
    """What the node does to each element of its first input, where that never falls."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _SAME_ELEMENTS:
        return lambda values: values
    if node.op_type == "Relu":
        return lambda values: np.maximum(values, np.float32(0))
    if node.op_type == "LeakyRelu":
        attribute = node.attributes.get("alpha")
        leak = np.float32(_DEFAULT_LEAK if attribute is None else attribute.as_float())
        return (lambda values: np.where(values < 0, values * leak, values)) if leak >= 0 else None
    if node.op_type == "Clip":
        return _clipping(node)
    return None


def _clipping(node: ir.Node) -> Elementwise | None:
    limits = [np.float32(-np.inf), np.float32(np.inf)]
    for place, key in enumerate(("min", "max")):
        attribute = node.attributes.get(key)
        value = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if attribute is not None:
            limits[place] = np.float32(attribute.as_float())
        elif value is not None:
            array = constant_array(value)
            if array is None or array.size != 1:
                return None
            limits[place] = np.float32(array.reshape(-1)[0])
    low, high = limits
    if not low <= high:
        return None
    return lambda values: np.clip(values, low, high)
