"""A node as an execution provider judges it: alone, or as one group with what quantizes it.

onnxruntime hands DequantizeLinear → operator (→ Relu or Clip) → QuantizeLinear to providers as one
unit, whose inputs and outputs are the integers on the outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

STANDARD_DOMAINS = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True, eq=False)
class Port:
    """One input or output of a unit.

    Attributes:
        value: In the graph; the integers where the port is quantized.
        parameters: The QuantizeLinear or DequantizeLinear that names scale and zero point, None for
            a port that is not quantized.
    """

    value: ir.Value
    parameters: ir.Node | None = None

    @property
    def dtype(self) -> ir.DataType | None:
        """Type of the elements."""
        return value_type(self.value)

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Sizes, None for a free one; None where not even their number is known."""
        return value_shape(self.value)

    @property
    def rank(self) -> int | None:
        """Number of dimensions."""
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def constant(self) -> bool:
        """Whether it is an initializer that callers cannot replace."""
        return is_constant(self.value)

    @property
    def quantized(self) -> bool:
        """Whether integers with a scale come in or go out."""
        return self.parameters is not None

    def array(self) -> np.ndarray | None:
        """The numbers of a constant."""
        return _numbers(self.value)

    def scale(self) -> np.ndarray | None:
        """The scale, if it is constant."""
        return None if self.parameters is None else _numbers(_input(self.parameters, 1))

    def zero_point(self) -> np.ndarray | None:
        """The zero point, if there is one and it is constant."""
        return None if self.parameters is None else _numbers(_input(self.parameters, 2))

    @property
    def has_zero_point(self) -> bool:
        """Whether one is given; else it is 0."""
        return self.parameters is not None and _input(self.parameters, 2) is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """What a provider takes or refuses as a whole.

    Attributes:
        node: The operator itself.
        opset: Version of the operator: the opset in which it last changed.
        dequantizers: In front, in the order of the inputs; empty for a single node.
        quantizers: Behind.
        activation: A Relu or Clip between, which the range behind it makes superfluous.
        depth: 0 in the main graph, more inside the branches of If, Loop and Scan.
    """

    node: ir.Node
    opset: int
    dequantizers: tuple[ir.Node, ...] = ()
    quantizers: tuple[ir.Node, ...] = ()
    activation: ir.Node | None = None
    depth: int = 0

    @property
    def operator(self) -> str:
        """Type of the operator."""
        return self.node.op_type

    @property
    def name(self) -> str:
        """Of the node, or of its first result where it has none."""
        return self.node.name or (self.node.outputs[0].name if self.node.outputs else "") or ""

    @property
    def grouped(self) -> bool:
        """Whether it is a group with DequantizeLinear in front."""
        return bool(self.dequantizers)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All of it, in an order in which they can run."""
        middle = (self.node,) if self.activation is None else (self.node, self.activation)
        return (*self.dequantizers, *middle, *self.quantizers)

    @property
    def inputs(self) -> tuple[Port | None, ...]:
        """As the provider sees them; None for one that is left out."""
        if self.operator == "DequantizeLinear" and not self.grouped:
            return (self._port_of(self.node.inputs[0], self.node),)
        return tuple(self._input_port(value) for value in self.node.inputs)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """As the provider sees them."""
        if self.operator == "QuantizeLinear" and not self.grouped:
            return (Port(self.node.outputs[0], self.node),)
        behind = {node.inputs[0]: node for node in self.quantizers}
        values = (self.activation or self.node).outputs
        return tuple(
            Port(behind[value].outputs[0], behind[value]) if value in behind else Port(value)
            for value in values
        )

    def input(self, index: int) -> Port | None:
        """Input number ``index``; None if it is left out."""
        ports = self.inputs
        return ports[index] if index < len(ports) else None

    def operand(self, index: int) -> Port | None:
        """Input of the operator itself: the float behind a DequantizeLinear."""
        value = _input(self.node, index)
        return None if value is None else Port(value)

    @property
    def outer_inputs(self) -> tuple[ir.Value, ...]:
        """Values that come from other units, constants left out."""
        own = set(self.nodes)
        return tuple(
            value
            for node in self.nodes
            for value in node.inputs
            if value is not None and value.producer() is not None and value.producer() not in own
        )

    @property
    def results(self) -> tuple[ir.Value, ...]:
        """Values that other units may read."""
        return tuple(value for node in self.nodes for value in node.outputs)

    def integer(self, name: str, default: int) -> int:
        """An attribute."""
        return self.node.attributes.get_int(name, default)

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """An attribute."""
        return tuple(self.node.attributes.get_ints(name, default) or ())

    def number(self, name: str, default: float) -> float:
        """An attribute."""
        return float(self.node.attributes.get_float(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute."""
        return self.node.attributes.get_string(name, default) or default

    def has(self, name: str) -> bool:
        """Whether the attribute is set."""
        return name in self.node.attributes

    def _input_port(self, value: ir.Value | None) -> Port | None:
        if value is None:
            return None
        producer = value.producer()
        if producer is not None and producer in self.dequantizers:
            return self._port_of(producer.inputs[0], producer)
        return Port(value)

    @staticmethod
    def _port_of(value: ir.Value | None, node: ir.Node) -> Port | None:
        return None if value is None else Port(value, node)


def operator_set(names: str) -> frozenset[str]:
    """Types of operators, from their names with spaces between."""
    return frozenset(names.split())


def since_version(node: ir.Node, opset: int) -> int:
    """The opset in which the operator of ``node`` last changed; ``opset`` where it is unknown."""
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return opset


def is_constant(value: ir.Value | None) -> bool:
    """Whether it is an initializer and no input of the graph."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def value_type(value: ir.Value | None) -> ir.DataType | None:
    """Type of the elements, from the constant itself where nothing is noted."""
    if value is None:
        return None
    if value.dtype is None and value.const_value is not None:
        return value.const_value.dtype
    return value.dtype


def value_shape(value: ir.Value) -> tuple[int | None, ...] | None:
    """Sizes, None for a free one; None where not even their number is known."""
    shape = value.shape
    if value.const_value is not None:
        shape = value.const_value.shape  # type: ignore[assignment]  # a Shape as well
    if shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in shape)


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return value.const_value.numpy()


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
