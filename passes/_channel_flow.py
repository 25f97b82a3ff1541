"""How channels flow through a graph: the layout of every value, and what padding must edit.

Padded channels are zeros where a layer makes them, because its weights and bias for them are zero.
What follows may turn these zeros into something else (a Sigmoid makes them 0.5), and need not care:
every layer that reads them has zeros for weights there. Zero times a finite number is zero, so only
operators that keep them finite are let through; all others pin the channels of what they read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxsep.constants import constant_array
from onnxsep.passes._channel_groups import Groups, Layout, Pin
from onnxsep.passes._obstacle import ObstacleError

_STANDARD_DOMAINS = ("", "ai.onnx")
# The oldest opset whose operators broadcast as we know it.
_OLDEST_OPSET = 7
# The axis that this package calls channels.
CHANNEL_AXIS = 1
# What makes channels.
LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class ConstantEdit:
    """A constant to pad.

    Attributes:
        node: Its user.
        index: Of the input.
        axes: Axes to pad, each with the layout that it must follow.
        fill: Value of the new entries.
    """

    node: ir.Node
    index: int
    axes: tuple[tuple[int, Layout], ...]
    fill: float = 0.0


@dataclasses.dataclass(frozen=True)
class ExtentEdit:
    """An extent that stands in a constant, say the shape that a Reshape asks for.

    Attributes:
        node: Its user.
        index: Of the input.
        position: Of the extent in the constant.
        layout: The extent is this row's.
    """

    node: ir.Node
    index: int
    position: int
    layout: Layout


@dataclasses.dataclass(frozen=True)
class GroupEdit:
    """The attribute ``group`` of a depthwise convolution, which is the extent of ``layout``."""

    node: ir.Node
    layout: Layout


@dataclasses.dataclass(frozen=True)
class GatherEdit:
    """The constant indices of a Gather along the channel axis.

    Attributes:
        node: The Gather.
        source: Layout of what it reads.
        result: Layout of its output.
    """

    node: ir.Node
    source: Layout
    result: Layout


Edit = ConstantEdit | ExtentEdit | GatherEdit | GroupEdit


@dataclasses.dataclass(frozen=True)
class Layer:
    """A node with a weight: what makes channels, and what costs time.

    Attributes:
        node: One of `LAYER_OPERATORS`.
        result: Layout of its output.
        touched: Layouts of input and output, whose padding makes it larger.
        multiplications: For one image, where sizes are known; else for one position.
    """

    node: ir.Node
    result: Layout
    touched: tuple[Layout, ...]
    multiplications: int


Rule = Callable[["Flow", ir.Node], Layout | None]


class Flow:
    """The main graph of a model, read once from inputs to outputs."""

    def __init__(self, model: ir.Model, rules: Mapping[str, Rule]) -> None:
        """Read ``model`` and leave it unchanged.

        Args:
            model: Names of values are unique.
            rules: For each operator that padded channels may pass, a function that gives the layout
                of its first output and notes its edits, or raises ObstacleError, which
                pins the channels of its inputs.
        """
        self.groups = Groups()
        self.layouts: dict[ir.Value, Layout] = {}
        self.edits: list[Edit] = []
        self.layers: list[Layer] = []
        self.stopped: list[tuple[ir.Node, Pin]] = []  # would-be layers, and what is wrong with them
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._shapes = _inferred_shapes(model)
        self._rules = rules
        for value in model.graph.inputs:
            self._begin(value, Pin("graph-input", f"'{value.name}' is an input of the model"))
        for node in model.graph:
            self._read(node)
        self._pin_what_leaves(model.graph)

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Layout of a computed value; None for constants and where channels are not known."""
        return None if value is None else self.layouts.get(value)

    def shape(self, value: ir.Value) -> tuple[int | None, ...]:
        """Extents of ``value``, None for those that are free.

        Raises:
            ObstacleError: Not even their number is known.
        """
        shape = self._shapes.get(value, value.shape)
        if shape is None:
            raise ObstacleError("unknown-shape", f"the shape of '{value.name}' is unknown")
        return tuple(extent if isinstance(extent, int) else None for extent in shape)

    def pin(self, layout: Layout, code: str, reason: str) -> None:
        """Let the row keep its channels."""
        self.groups.pin(layout, Pin(code, reason))

    def add_layer(self, node: ir.Node, weight: np.ndarray, *layouts: Layout | None) -> None:
        """Note a layer; the last layout is its output's."""
        positions = 1
        if node.op_type == "Conv":
            sizes = self._known_shape(node.outputs[0])[2:]
            positions = int(np.prod([size or 1 for size in sizes], dtype=np.int64))
        touched = tuple(layout for layout in layouts if layout is not None)
        self.layers.append(Layer(node, touched[-1], touched, weight.size * positions))

    def _known_shape(self, value: ir.Value) -> tuple[int | None, ...]:
        try:
            return self.shape(value)
        except ObstacleError:
            return ()

    def _begin(self, value: ir.Value, pin: Pin) -> None:
        """Give ``value`` a layout that keeps its channels, if it is known to have any."""
        shape = self._known_shape(value)
        channels = shape[CHANNEL_AXIS] if len(shape) > CHANNEL_AXIS else None
        if channels is not None:
            self.layouts[value] = self.groups.new(channels, pin)

    def _read(self, node: ir.Node) -> None:
        if _is_constant(node):
            return
        try:
            layout = self._rule_for(node)(self, node)
        except ObstacleError as obstacle:
            self._stop(node, Pin(obstacle.code, obstacle.reason))
            return
        if layout is not None:
            self.layouts[node.outputs[0]] = layout

    def _rule_for(self, node: ir.Node) -> Rule:
        if self.opset < _OLDEST_OPSET:
            raise ObstacleError(
                "opset-too-old", f"opset {self.opset} is older than {_OLDEST_OPSET}"
            )
        rule = self._rules.get(node.op_type) if node.domain in _STANDARD_DOMAINS else None
        if rule is None:
            raise ObstacleError(
                "unknown-operator",
                f"{title_of(node)} may mix channels or depend on their number",
            )
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise ObstacleError("several-outputs", f"{title_of(node)} has more than one output")
        return rule

    def _stop(self, node: ir.Node, pin: Pin) -> None:
        if node.op_type in LAYER_OPERATORS:
            self.stopped.append((node, pin))
        for value in node.inputs:
            layout = self.layout(value)
            if layout is not None:
                self.groups.pin(layout, pin)
        for value in node.outputs:
            self._begin(value, pin)

    def _pin_what_leaves(self, graph: ir.Graph) -> None:
        for value, layout in self.layouts.items():
            if value.is_graph_output():
                self.pin(layout, "graph-output", f"'{value.name}' is an output of the model")
            elif any(use.node.graph is not graph for use in value.uses()):
                self.pin(layout, "inside-subgraph", f"a branch or a loop reads '{value.name}'")


def title_of(node: ir.Node) -> str:
    """A node as messages call it."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


def _is_constant(node: ir.Node) -> bool:
    if node.op_type == "Constant":
        return True
    return node.op_type in ("Identity", "Transpose") and constant_array(node.outputs[0]) is not None


def _inferred_shapes(model: ir.Model) -> dict[ir.Value, ir.Shape]:
    """What ONNX's shape inference knows, found on a copy that the model knows nothing of."""
    try:
        copy = model.clone()
    except RuntimeError:  # malformed, say an input that nothing provides: nothing is known
        return {}
    onnx_ir.passes.common.ShapeInferencePass(strict_mode=False)(copy)
    return {
        value: twin.shape
        for node, double in zip(model.graph, copy.graph, strict=True)
        for value, twin in zip(node.outputs, double.outputs, strict=True)
        if twin.shape is not None
    }
