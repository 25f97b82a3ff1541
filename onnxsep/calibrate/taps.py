"""Which values of a network a sweep has to look at, and which follow from others.

An inner value that becomes an output costs time: it leaves the memory layout of the convolutions
for the plain one, and keeps the operators around it from being fused. So what an activation makes
of a value that is looked at anyway is computed from that value's sample, exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

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
# Every element is one of some input's.
_SOME_ELEMENT = (*_SAME_ELEMENTS, "MaxPool", "GlobalMaxPool", "Concat", "Slice", "Split")
# The result has the type of the first input. With these, most files that carry no types need no
# shape inference, which takes as long as a session.
_TYPE_OF_FIRST_INPUT = frozenset((
    *_SOME_ELEMENT, "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "Softmax", "Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul", "Add",
    "Sub", "Mul", "Div", "Neg", "Exp", "Pad", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "Resize", "DepthToSpace", "SpaceToDepth",
))  # fmt: skip
_STANDARD_DOMAINS = ("", "ai.onnx")
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
class TapChoice:
    """How to learn about every value that was asked for.

    Attributes:
        names: The values asked for, in the order of the graph.
        fed: Those of them that are inputs of the model.
        tapped: Those that onnxruntime hands out.
        derived: The others.
        lowest: What elements of tapped values cannot be below, where an activation sees to that.
    """

    names: list[str]
    fed: list[str]
    tapped: list[str]
    derived: dict[str, Derived]
    lowest: Mapping[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class TapPlan(TapChoice):
    """A choice, divided by memory.

    Attributes:
        groups: The tapped values, in groups that fit into memory together.
    """

    groups: list[list[str]]


def choose_taps(model: ir.Model, values: Sequence[str] | None, example: Feeds) -> TapChoice:
    """Divide the values that are asked for into those three kinds.

    Args:
        model: Left unchanged.
        values: Names of values of the main graph, or None for every float value that depends on
            the inputs; values whose type the file does not betray count as floats.
        example: One batch.

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
    types = _types(model.graph, example)
    kept = [name for name in computed if _may_be_float(known[name], types.get(name))]
    if values is not None and len(kept) < len(computed):
        raise not_a_float(next(name for name in computed if name not in kept))
    fed = [name for name in inputs if name and name in asked and example[name].dtype.kind == "f"]
    derived: dict[str, Derived] = {}
    tapped: list[str] = []
    available = set(fed)
    for name in kept:
        found = _derivation(known[name], available, types)
        if found is None:
            tapped.append(name)
        else:
            earlier = derived.get(found.source)
            derived[name] = found if earlier is None else _composed(earlier, found)
        available.add(name)
    lowest = _lower_bounds(model.graph)
    return TapChoice(
        names=[*fed, *kept],
        fed=fed,
        tapped=tapped,
        derived=derived,
        lowest={name: lowest[name] for name in tapped if name in lowest},
    )


def plan_taps(
    model: ir.Model, values: Sequence[str] | None, example: Feeds, memory_limit: int
) -> TapPlan:
    """A choice of taps, and groups by the sizes that shape inference finds.

    Args:
        model: Left unchanged.
        values: As for `choose_taps`.
        example: One batch.
        memory_limit: Bytes that the values of one group may take together for such a batch.

    Raises:
        ConfigurationError: A value does not exist, is a constant, or is known to be no float.
    """
    choice = choose_taps(model, values, example)
    typed = {value.name: value for value in _computed_values(model.graph) if value.name}
    images = images_in(example)
    if any(_bytes(typed[name], images) is None for name in choice.tapped):
        typed = _with_shapes(model, example, choice.tapped)
    for name in choice.tapped:
        if values is not None and not _may_be_float(typed[name], None):
            raise not_a_float(name)
    sizes = {name: _bytes(typed[name], images) for name in choice.tapped}
    groups = list(groups_of(choice.tapped, sizes, memory_limit))
    fields = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice)}
    return TapPlan(**fields, groups=groups)


def images_in(example: Feeds) -> int:
    """Length of the first axis, which is the batch as a rule."""
    return max((array.shape[0] for array in example.values() if array.ndim), default=1)


def not_a_float(name: str) -> ConfigurationError:
    """What to raise where a value was asked for that has no range."""
    return ConfigurationError(f"value '{name}' is no float tensor, so it has no range")


def groups_of(
    names: Sequence[str], sizes: Mapping[str, int | None], memory_limit: int
) -> Iterator[list[str]]:
    """Neighbours together, as many as fit; a value of unknown size counts as the largest known."""
    largest = max((size for size in sizes.values() if size is not None), default=0)
    group: list[str] = []
    room = memory_limit
    for name in names:
        size = sizes[name]
        needed = largest if size is None else size
        if group and needed > room:
            yield group
            group, room = [], memory_limit
        group.append(name)
        room -= needed
    if group:
        yield group


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


def _types(graph: ir.Graph, example: Feeds) -> dict[str, ir.DataType]:
    """Of all values whose type the file says or a few operators pass on."""
    found: dict[str, ir.DataType] = {}
    for name, initializer in graph.initializers.items():
        if initializer.dtype is not None:
            found[name] = initializer.dtype
    for name, array in example.items():
        found[name] = ir.DataType.from_numpy(array.dtype)
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        passed = found.get(first.name or "") if first is not None else None
        for value in node.outputs:
            if value.dtype is not None:
                found[value.name or ""] = value.dtype
            elif (
                passed is not None
                and value.type is None
                and node.domain in _STANDARD_DOMAINS
                and node.op_type in _TYPE_OF_FIRST_INPUT
            ):
                found[value.name or ""] = passed
    return found


def _lower_bounds(graph: ir.Graph) -> dict[str, float]:
    """What the elements of values cannot be below."""
    bounds: dict[str, float] = {}
    for node in graph:
        if node.domain not in _STANDARD_DOMAINS:
            continue
        bound = None
        if node.op_type == "Relu":
            bound = 0.0
        elif node.op_type == "Clip":
            limits = _clip_limits(node)
            bound = float(limits[0]) if limits is not None else None
        elif node.op_type in _SOME_ELEMENT:
            sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            each = [bounds.get(value.name or "") for value in sources if value is not None]
            bound = min((low for low in each if low is not None), default=None)
            bound = None if None in each else bound
        if bound is not None:
            bounds.update({value.name or "": bound for value in node.outputs})
    return bounds


def _may_be_float(value: ir.Value, dtype: ir.DataType | None) -> bool:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return False
    dtype = value.dtype if dtype is None else dtype
    return dtype is None or dtype in _FLOATS


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


def _derivation(
    value: ir.Value, available: set[str], types: Mapping[str, ir.DataType]
) -> Derived | None:
    """How ``value`` follows from the first input of its node, if it does."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.name not in available:
        return None
    # Half precision would round on the way; a value that is not typed may be anything.
    if types.get(source.name) != ir.DataType.FLOAT:
        return None
    function = _rising_function(node)
    return None if function is None else Derived(source.name, function)


def _composed(inner: Derived, outer: Derived) -> Derived:
    return Derived(inner.source, lambda values: outer.function(inner.function(values)))


def _rising_function(node: ir.Node) -> Elementwise | None:
    """What the node does to each element of its first input, where that never falls."""
    if node.domain not in _STANDARD_DOMAINS:
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
    limits = _clip_limits(node)
    if limits is None:
        return None
    low, high = limits
    return lambda values: np.clip(values, low, high)


def _clip_limits(node: ir.Node) -> tuple[np.float32, np.float32] | None:
    """The bounds of a Clip, or None where they are computed or exclude everything."""
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
    return (low, high) if low <= high else None
