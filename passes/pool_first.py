"""Max pooling in front of an activation that never falls, where the activation costs a kernel.

max f(xᵢ) = f(max xᵢ) for every f that does not fall, to the last bit; behind a pool with stride 2
the activation has a quarter of the numbers to work on. In float such an activation is fused into
its convolution and costs nothing, so this is for integers: there a LeakyRelu is a table that every
number is looked up in, and took a quarter of the time of a network that has one behind each
convolution. Relu and Clip are absorbed by the quantization itself and stay where they are.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxsep.constants import NameScope, constant_array
from onnxsep.passes._obstacle import ObstacleError
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult

_STANDARD_DOMAINS = ("", "ai.onnx")
_POOLS = ("MaxPool", "GlobalMaxPool")
_NEVER_FALL = ("Sigmoid", "Tanh", "Softplus", "Softsign")
# These fall left of zero if their factor is negative.
_FALL_BY_FACTOR = {"LeakyRelu": 0.01, "Elu": 1.0, "Celu": 1.0}


class PoolFirst(LosslessPass):
    """Exchange an activation and the max pool behind it.

    Only activations that a pool follows are accounted for.
    """

    name: ClassVar[str] = "pool_first"

    def call(self, model: ir.Model) -> RewriteResult:
        """Rewrite in place."""
        changes: list[Change] = []
        refusals: list[Refusal] = []
        for pool in list(model.graph):
            if pool.domain not in _STANDARD_DOMAINS or pool.op_type not in _POOLS:
                continue
            value = pool.inputs[0]
            activation = None if value is None else value.producer()
            if activation is None or not _is_activation(activation):
                continue
            name = activation.name or ""
            try:
                _check(activation, pool)
            except ObstacleError as obstacle:
                refusals.append(Refusal(name, obstacle.code, obstacle.reason))
                continue
            _exchange(model.graph, activation, pool)
            detail = f"{activation.op_type} works on what '{pool.name}' leaves"
            changes.append(Change(name, "moved-behind-pool", detail))
        return RewriteResult(model, modified=bool(changes), changes=changes, refusals=refusals)


def _is_activation(node: ir.Node) -> bool:
    known = (*_NEVER_FALL, *_FALL_BY_FACTOR, "PRelu")
    return node.domain in _STANDARD_DOMAINS and node.op_type in known


def _check(activation: ir.Node, pool: ir.Node) -> None:
    """That the two may be exchanged, and that it saves work.

    Raises:
        ObstacleError: They may not.
    """
    between = activation.outputs[0]
    if between.is_graph_output() or len(between.uses()) != 1:
        raise ObstacleError("read-elsewhere", f"'{between.name}' is read before the pool as well")
    if len(pool.outputs) > 1 and pool.outputs[1].uses():
        raise ObstacleError("positions-wanted", "the pool also says where its maxima lay")
    if pool.op_type == "MaxPool" and math.prod(pool.attributes.get_ints("strides", [1])) == 1:
        raise ObstacleError("no-saving", "the pool leaves as many numbers as it reads")
    if activation.op_type in _FALL_BY_FACTOR:
        factor = activation.attributes.get_float("alpha", _FALL_BY_FACTOR[activation.op_type])
        if factor < 0:
            raise ObstacleError("falls", f"it falls left of zero (alpha {factor:g})")
    if activation.op_type == "PRelu":
        _check_slope(activation)


def _check_slope(activation: ir.Node) -> None:
    slope = constant_array(activation.inputs[1])
    shape = activation.outputs[0].shape
    if slope is None or shape is None:
        raise ObstacleError("slope-unknown", "its slope is computed, or its shape unknown")
    if np.any(slope < 0):
        raise ObstacleError("falls", "it falls left of zero in some channel")
    # Slopes are aligned with the last axes: all but batch and channels must be one.
    if math.prod(slope.shape[max(slope.ndim - (len(shape) - 2), 0) :]) != 1:
        raise ObstacleError("slope-by-place", "its slope differs from place to place")


def _exchange(graph: ir.Graph, activation: ir.Node, pool: ir.Node) -> None:
    """Let the pool read what the activation did, and the activation what the pool leaves."""
    source, between, result = activation.inputs[0], activation.outputs[0], pool.outputs[0]
    for use in list(result.uses()):
        use.node.replace_input_with(use.idx, between)
    for position, output in enumerate(graph.outputs):
        if output is result:
            graph.outputs[position] = between
    pool.replace_input_with(0, source)
    activation.replace_input_with(0, result)
    # What left the two together is called as before; what lies between them is another value.
    names = NameScope.of_values(graph)
    between.name, result.name = result.name, names.take(f"{pool.name}_before_activation")
    between.shape = result.shape
    graph.remove(activation)
    graph.insert_after(pool, activation)
