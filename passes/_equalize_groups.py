"""Which channels may be scaled: from the layer that makes them to every layer that reads them.

A factor on an output channel of one layer is undone by its inverse on that input channel of the
next, as long as everything between commutes with positive factors: f(t·x) = t·f(x).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.passes._obstacle import ObstacleError

LAYER_OPERATORS = ("Conv", "Gemm")
# f(t·x) = t·f(x) for t > 0, channel by channel.
_ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu")
_LINEAR = ("Identity", "Concat", "AveragePool", "GlobalAveragePool", "Flatten")
_POOLS = ("MaxPool", "GlobalMaxPool")
_GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")
# Those that shifting a channel commutes with, too (the border of a padded pool does not).
_SHIFTABLE = ("Identity", "Concat")
_SMOOTH = ("Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Sigmoid", "Softplus", "Tanh")
_SUMS = ("Add", "Sum", "Sub")
_CHANNEL_AXIS = 1
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer that reads a group: its input channels from ``first`` on."""

    node: ir.Node
    first: int


@dataclasses.dataclass(eq=False)
class ScaleGroup:
    """The output channels of one layer, wherever they go.

    Attributes:
        node: The layer that makes them.
        channels: How many there are.
        measured: Names of the values whose ranges matter: what the layer gives, unless a Relu alone
            reads it, and what each activation makes of it.
        readers: The layers that read them.
        linear: Whether shifting channels commutes with what lies between as well.
        beside: Groups whose channels lie with these in one value, this one included.
        obstacle: Why they cannot be scaled; the first reason found.
    """

    node: ir.Node
    channels: int
    measured: list[str] = dataclasses.field(default_factory=list)
    readers: list[Reader] = dataclasses.field(default_factory=list)
    linear: bool = True
    beside: set[ScaleGroup] = dataclasses.field(default_factory=set)
    obstacle: ObstacleError | None = None

    def stop(self, code: str, reason: str) -> None:
        """Note an obstacle, if it is the first."""
        self.obstacle = self.obstacle or ObstacleError(code, reason)


Layout = tuple[ScaleGroup, ...]


def find_groups(graph: ir.Graph) -> list[ScaleGroup]:
    """One group for each layer of the main graph, in its order; the graph stays as it is."""
    return _Tracker(graph).groups


def reader_padding(node: ir.Node) -> bool:
    """Whether the layer sees zeros that no other layer made."""
    if node.op_type != "Conv":
        return False
    if (node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(node.attributes.get_ints("pads", ()))


class _Tracker:
    """Follows channels from layer to layer."""

    def __init__(self, graph: ir.Graph) -> None:
        self.groups: list[ScaleGroup] = []
        self._graph = graph
        self._layouts: dict[ir.Value, Layout] = {}
        for node in graph:
            self._read(node)
        for value, layout in self._layouts.items():
            if value.is_graph_output():
                _stop(layout, "graph-output", f"'{value.name}' is an output of the model")
            elif any(use.node.graph is not graph for use in value.uses()):
                _stop(layout, "inside-subgraph", f"a branch or a loop reads '{value.name}'")
        for group in self.groups:
            if not group.readers:
                group.stop("no-reader", "no layer behind it reads its channels alone")

    def _read(self, node: ir.Node) -> None:
        standard = node.domain in _STANDARD_DOMAINS
        if standard and node.op_type in (*LAYER_OPERATORS, "PRelu"):
            for value in node.inputs[1:]:
                layout = () if value is None else self._layouts.get(value, ())
                _stop(layout, "used-as-parameter", f"{_title(node)} takes them as parameters")
        if standard and node.op_type in LAYER_OPERATORS:
            self._layer(node)
        elif standard and node.op_type in (*_ACTIVATIONS, *_LINEAR, *_POOLS):
            self._pass_on(node)
        else:
            for value in node.inputs:
                layout = () if value is None else self._layouts.get(value, ())
                _stop(layout, *_why_not(node, standard))

    def _layer(self, node: ir.Node) -> None:
        layout = () if node.inputs[0] is None else self._layouts.get(node.inputs[0], ())
        try:
            inputs, outputs = _layer_channels(node)
        except ObstacleError as obstacle:
            _stop(layout, obstacle.code, obstacle.reason)
            group = ScaleGroup(node, 0, obstacle=obstacle)
        else:
            if layout and sum(each.channels for each in layout) != inputs:
                _stop(layout, "channels-unknown", f"{_title(node)} reads other channels")
            first = 0
            for each in layout:
                each.readers.append(Reader(node, first))
                first += each.channels
            group = ScaleGroup(node, outputs)
        group.beside = {group}
        self.groups.append(group)
        result = node.outputs[0]
        self._layouts[result] = (group,)
        users = [use.node for use in result.uses()]
        if [user.op_type for user in users] != ["Relu"]:
            group.measured.append(result.name or "")

    def _pass_on(self, node: ir.Node) -> None:
        sources = node.inputs[:1] if node.op_type == "PRelu" else node.inputs
        layouts = [() if value is None else self._layouts.get(value, ()) for value in sources]
        joined = tuple(group for layout in layouts for group in layout)
        if not joined:
            return
        try:
            _check_passage(node, all(layouts))
        except ObstacleError as obstacle:
            _stop(joined, obstacle.code, obstacle.reason)
            return
        together = set().union(*(group.beside for group in joined))
        for group in together:
            group.beside = together
        for group in joined:
            if node.op_type in _ACTIVATIONS:
                group.measured.append(node.outputs[0].name or "")
            group.linear = group.linear and node.op_type in _SHIFTABLE
        self._layouts[node.outputs[0]] = joined


def _stop(layout: Layout, code: str, reason: str) -> None:
    for group in layout:
        group.stop(code, reason)


def _layer_channels(node: ir.Node) -> tuple[int, int]:
    """Input and output channels of a layer whose parameters may be changed.

    Raises:
        ObstacleError: They may not.
    """
    weight = constant_array(node.inputs[1])
    title = _title(node)
    if weight is None:
        raise ObstacleError("weight-not-constant", f"the weight of {title} is computed or fed")
    if weight.dtype != np.float32:
        raise ObstacleError("weight-not-float32", f"the weight of {title} is {weight.dtype}")
    if not np.isfinite(weight).all():
        raise ObstacleError("weight-not-finite", f"the weight of {title} holds NaN or infinity")
    if node.op_type == "Conv":
        group = node.attributes.get_int("group", 1)
        inputs, outputs = weight.shape[1] * group, weight.shape[0]
    else:
        factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        if node.attributes.get_int("transA", 0) or weight.ndim != 2 or factors != [1.0, 1.0]:
            raise ObstacleError("gemm-form", f"{title} transposes its input or has factors")
        inputs, outputs = weight.shape
        if node.attributes.get_int("transB", 0):
            inputs, outputs = outputs, inputs
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant_array(node.inputs[2])
        if bias is None:
            raise ObstacleError("bias-not-constant", f"the bias of {title} is computed or fed")
        if bias.shape != (outputs,):
            raise ObstacleError("bias-no-vector", f"the bias of {title} is not one per channel")
    return int(inputs), int(outputs)


def _check_passage(node: ir.Node, known: bool) -> None:
    """See that channels keep their places.

    Raises:
        ObstacleError: They do not, or may not.
    """
    title = _title(node)
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise ObstacleError("several-outputs", f"{title} has more than one output")
    if node.op_type == "Concat":
        if node.attributes.get_int("axis", 0) != _CHANNEL_AXIS:
            raise ObstacleError("concat-axis", f"{title} joins another axis than the channels")
        if not known:
            reason = f"{title} joins them with channels that no layer makes"
            raise ObstacleError("concat-unknown", reason)
    if node.op_type == "PRelu" and constant_array(node.inputs[1]) is None:
        raise ObstacleError("slope-not-constant", f"the slope of {title} is computed or fed")
    if node.op_type == "Flatten" and not (
        node.attributes.get_int("axis", 1) == _CHANNEL_AXIS and _is_pixel(node.inputs[0])
    ):
        raise ObstacleError("flattened", f"{title} mixes channels and positions")


def _is_pixel(value: ir.Value | None) -> bool:
    """Whether every channel of ``value`` is one number."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type in _GLOBAL_POOLS:
        return True
    shape = None if value is None else value.shape
    return shape is not None and all(size == 1 for size in list(shape)[2:])


def _why_not(node: ir.Node, standard: bool) -> tuple[str, str]:
    title = _title(node)
    if standard and node.op_type == "Clip":
        return (
            "clipped",
            f"{title} cuts all channels at the same bound, which factors would move",
        )
    if standard and node.op_type in _SMOOTH:
        return "not-scale-equivariant", f"{title} does not commute with factors"
    if standard and node.op_type == "Mul":
        return "product", f"{title} multiplies them, as SiLU does with its gate"
    if standard and node.op_type in _SUMS:
        return "residual-sum", f"{title} adds them to channels of another layer"
    return "unknown-operator", f"{title} may mix channels or not commute with factors"


def _title(node: ir.Node) -> str:
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"
