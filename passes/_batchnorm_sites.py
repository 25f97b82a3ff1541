"""What stands around a BatchNormalization: its constants, what comes before it and behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array, is_dequantized
from onnxsep.passes._batchnorm_math import Affine, batchnorm_affine
from onnxsep.passes._obstacle import ObstacleError

# ONNX: what the attribute means when it is absent.
DEFAULT_EPSILON = 1e-5

# Since this version an attribute says whether the node trains; before it, the number of outputs.
_TRAINING_MODE_SINCE = 14

_STATISTICS = ("scale", "bias", "mean", "variance")


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A BatchNormalization node at inference, with all its numbers known.

    Attributes:
        node: The node.
        source: What it normalizes, of shape (N, C, ...).
        result: The normalized value, of the same shape.
        affine: What it does to each of the C channels.
    """

    node: ir.Node
    source: ir.Value
    result: ir.Value
    affine: Affine


def read_batchnorm(node: ir.Node, opset: int) -> BatchNorm:
    """Read the constants of a BatchNormalization.

    Args:
        node: A BatchNormalization of the standard domain.
        opset: Version of that domain, 7 or later.

    Raises:
        ObstacleError: It trains (``training-mode``), has further outputs (``extra-outputs``),
            normalizes every element on its own (``per-activation-statistics``), depends on values
            computed at run time (``statistics-not-constant``), or divides by zero or holds NaN
            (``non-finite-statistics``).
    """
    _check_mode(node, opset)
    source = node.inputs[0] if node.inputs else None
    if source is None or len(node.inputs) != 1 + len(_STATISTICS):
        raise ObstacleError("malformed", f"it has {len(node.inputs)} inputs instead of five")
    arrays: list[np.ndarray] = []
    for role, value in zip(_STATISTICS, node.inputs[1:], strict=True):
        array = constant_array(value)
        if array is None:
            how = "is already quantized" if is_dequantized(value) else "is no constant"
            raise ObstacleError("statistics-not-constant", f"its {role} {_quoted(value)} {how}")
        arrays.append(array)
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ObstacleError("malformed", f"its statistics differ in shape: {shapes}")
    gamma, beta, mean, variance = arrays
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    affine = batchnorm_affine(gamma, beta, mean, variance, epsilon)
    if not affine.is_finite:
        raise ObstacleError(
            "non-finite-statistics", "its statistics hold NaN, infinity or a variance below zero"
        )
    return BatchNorm(node, source, node.outputs[0], affine)


def producer_before(batchnorm: BatchNorm) -> ir.Node:
    """The node whose result is normalized and used for nothing else; Identity is looked through.

    Raises:
        ObstacleError: There is none (``no-producer``), it is in another graph (``other-scope``), or
            its result is needed elsewhere (``output-used-elsewhere``).
    """
    value = batchnorm.source
    user: ir.Node = batchnorm.node
    while True:
        producer = value.producer()
        if producer is None:
            raise ObstacleError("no-producer", f"nothing computes its input '{value.name}'")
        title = title_of(producer)
        if producer.graph is not batchnorm.node.graph:
            raise ObstacleError("other-scope", f"{title} before it is in another graph")
        if value.is_graph_output():
            raise ObstacleError(
                "output-used-elsewhere",
                f"the result '{value.name}' of {title} before it is an output of the graph",
            )
        others = [use.node for use in value.uses() if use.node is not user]
        if others or len(value.uses()) > 1:
            raise ObstacleError(
                "output-used-elsewhere",
                f"the result '{value.name}' of {title} before it also feeds "
                f"{_list_of(others or [user])}",
            )
        if not is_standard(producer, "Identity") or producer.inputs[0] is None:
            return producer
        value, user = producer.inputs[0], producer


def consumers_behind(batchnorm: BatchNorm) -> list[ir.Node]:
    """All nodes that take the normalized value as their first input; Identity is looked through.

    Raises:
        ObstacleError: It is a graph output or another input (``output-used-elsewhere``), or nobody
            needs it (``no-consumer``).
    """
    found: dict[ir.Node, None] = {}
    pending = [batchnorm.result]
    while pending:
        value = pending.pop(0)
        if value.is_graph_output():
            raise ObstacleError(
                "output-used-elsewhere", f"its result '{value.name}' is an output of the graph"
            )
        for node, index in value.uses():
            if is_standard(node, "Identity"):
                pending.append(node.outputs[0])
            elif index != 0 or node in found:
                raise ObstacleError(
                    "output-used-elsewhere",
                    f"its result '{value.name}' is input {index} of {title_of(node)}",
                )
            else:
                found[node] = None
    if not found:
        raise ObstacleError("no-consumer", f"nothing uses its result '{batchnorm.result.name}'")
    return list(found)


def quantized_neighbour(batchnorm: BatchNorm) -> ir.Node | None:
    """A QuantizeLinear or DequantizeLinear right beside the BatchNormalization, if there is one."""
    producer = batchnorm.source.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return producer
    for node in batchnorm.result.consumers():
        if node.op_type == "QuantizeLinear":
            return node
    return None


def is_standard(node: ir.Node, op_type: str) -> bool:
    """Whether ``node`` is the ONNX operator of that name, and not somebody's own."""
    return node.op_type == op_type and node.domain in ("", "ai.onnx")


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that ``node`` is in.

    Raises:
        ValueError: It is in none, having been removed.
    """
    if node.graph is None:
        raise ValueError(f"{title_of(node)} is in no graph")
    return node.graph


def title_of(node: ir.Node) -> str:
    """``Conv 'conv1'``, for messages."""
    return f"{node.op_type} '{node.name or ''}'"


def _check_mode(node: ir.Node, opset: int) -> None:
    if node.attributes.get_int("training_mode", 0):
        raise ObstacleError("training-mode", "it computes its statistics anew (training_mode=1)")
    if opset < _TRAINING_MODE_SINCE and len(node.outputs) > 1:
        raise ObstacleError(
            "training-mode", f"its {len(node.outputs)} outputs put it into training mode"
        )
    extra = [output.name for output in node.outputs[1:] if output.name]
    if extra:
        raise ObstacleError("extra-outputs", f"it has further outputs: {', '.join(extra)}")
    if not node.attributes.get_int("spatial", 1):
        raise ObstacleError(
            "per-activation-statistics", "it normalizes every element on its own (spatial=0)"
        )


def _list_of(nodes: list[ir.Node]) -> str:
    return " and ".join(dict.fromkeys(title_of(node) for node in nodes))


def _quoted(value: ir.Value | None) -> str:
    return "''" if value is None else f"'{value.name}'"
