"""What follows a convolution: the sum of a residual block, and the activation its error meets."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.factorize.activation import Activation

_IDENTITY = Activation.identity()


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """The way from a convolution to the first activation behind it.

    Attributes:
        shortcut: Name of the value that is added to the output, empty if none is.
        activation: What the output, or that sum, goes through next; the identity if unknown.
    """

    shortcut: str = ""
    activation: Activation = _IDENTITY

    @property
    def is_linear(self) -> bool:
        """Whether moments say all there is to say about the error."""
        return self.activation == _IDENTITY


def find_surroundings(node: ir.Node) -> Surroundings:
    """Look behind a Conv node.

    A value that somebody else reads too, or that is an output of the graph, counts as it is: then
    neither sum nor activation may hide an error in it.
    """
    value = node.outputs[0]
    user = _only_user(value)
    shortcut = ""
    if user is not None and user.op_type == "Add" and len(user.inputs) == 2:
        other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
        if (
            other is None
            or other is value
            or not other.name
            or constant_array(other) is not None
            or _depends_on(other, node)
        ):
            return Surroundings()
        shortcut, value = other.name, user.outputs[0]
        # The sum of a residual block is read by the next block too; what counts is its activation.
        users = {use.node for use in value.uses()}
        user = next(iter(users)) if len(users) == 1 else None
        if value.is_graph_output():
            user = None
    return Surroundings(shortcut, _activation(user, value))


def _only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``, if nothing else does."""
    if value.is_graph_output():
        return None
    users = {use.node for use in value.uses()}
    return next(iter(users)) if len(users) == 1 else None


def _activation(user: ir.Node | None, value: ir.Value) -> Activation:
    if user is None:
        return _silu(value) or _IDENTITY
    match user.op_type:
        case "Relu":
            return Activation.relu()
        case "LeakyRelu":
            return Activation.leaky_relu(float(user.attributes.get_float("alpha", 0.01)))
        case "Clip":
            return _clip(user)
        case "HardSwish":
            return Activation.hard_swish()
    return _IDENTITY


def _clip(node: ir.Node) -> Activation:
    bounds = {"low": float("-inf"), "high": float("inf")}
    for position, (name, attribute) in enumerate((("low", "min"), ("high", "max")), start=1):
        if len(node.inputs) > position and node.inputs[position] is not None:
            array = constant_array(node.inputs[position])
            if array is None or array.size != 1:
                return _IDENTITY
            bounds[name] = float(array.reshape(()))
        elif attribute in node.attributes:
            bounds[name] = float(node.attributes.get_float(attribute, bounds[name]))
    if not bounds["low"] < bounds["high"]:
        return _IDENTITY
    return Activation.clip(bounds["low"], bounds["high"])


def _silu(value: ir.Value) -> Activation | None:
    """x · Sigmoid(x), which ONNX writes as two nodes."""
    if value.is_graph_output():
        return None
    users = {use.node for use in value.uses()}
    if {node.op_type for node in users} != {"Sigmoid", "Mul"} or len(users) != 2:
        return None
    gate = next(node for node in users if node.op_type == "Sigmoid")
    product = next(node for node in users if node.op_type == "Mul")
    if _only_user(gate.outputs[0]) is product and value in product.inputs:
        return Activation.silu()
    return None


def _depends_on(value: ir.Value, node: ir.Node) -> bool:
    """Whether ``value`` is computed from the outputs of ``node``."""
    seen: set[ir.Node] = set()
    stack = [value.producer()]
    while stack:
        current = stack.pop()
        if current is None or current in seen:
            continue
        if current is node:
            return True
        seen.add(current)
        stack.extend(source.producer() for source in current.inputs if source is not None)
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in current.attributes.values()
        ):
            return True  # A branch may read anything; taking no shortcut is always right.
    return False
