"""Fold every BatchNormalization into its neighbours, or reduce it to one Mul and one Add."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxsep.constants import NameScope, add_initializer, remove_if_unused
from onnxsep.errors import ConfigurationError
from onnxsep.passes._batchnorm_math import Affine, to_dtype
from onnxsep.passes._batchnorm_plans import Plan, plan_before, plan_behind, plan_merge
from onnxsep.passes._batchnorm_sites import (
    BatchNorm,
    consumers_behind,
    graph_of,
    is_standard,
    producer_before,
    quantized_neighbour,
    read_batchnorm,
    title_of,
)
from onnxsep.passes._obstacle import ObstacleError
from onnxsep.passes._value_facts import ValueFacts
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult

Standalone = Literal["mul-add", "depthwise"]

# Older operators take no broadcasting as we know it, and the runtimes do not take them at all.
_OLDEST_OPSET = 7
# Before IR version 4 every initializer must be a graph input, which ours are not.
_OLDEST_IR_VERSION = 4
# The ranks of a Conv input that runtimes implement: one to three spatial dimensions.
_CONVOLUTION_RANKS = (3, 4, 5)
# onnxruntime's CPU kernels normalize, multiply and add float64, but convolve none.
_CONVOLUTION_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_SUFFIX = "_folded"
# Where operators of several kinds take a BatchNormalization in, the first here names the change.
_CODES_BEHIND = ("folded-into-next-conv", "folded-into-next-gemm", "folded-into-next-batchnorm")


class FoldBatchNorm(LosslessPass):
    """Fold every BatchNormalization that runs in inference mode.

    In this order: into the Conv, ConvTranspose, Gemm or MatMul before it; into all Conv, Gemm,
    MatMul or BatchNormalization behind it, where padding allows; else it becomes one Mul and one
    Add, or one depthwise 1×1 Conv. Each BatchNormalization gives one change or one refusal; a
    change to Mul and Add tells why nothing could take it in.

    The value that the BatchNormalization computed keeps its name, type and shape, unless it is
    folded into what is behind it. Constants are computed in float64 and stored in the type that the
    model has; those that no longer serve are removed.
    """

    name: ClassVar[str] = "fold_batchnorm"

    def __init__(self, standalone: Standalone = "mul-add") -> None:
        """Prepare the pass.

        Args:
            standalone: What a BatchNormalization becomes that nothing can take in. One that has not
                one to three spatial dimensions of float32 or float16 becomes ``"mul-add"`` anyway.

        Raises:
            ConfigurationError: ``standalone`` is none of these.
        """
        if standalone not in get_args(Standalone):
            known = ", ".join(get_args(Standalone))
            raise ConfigurationError(f"unknown standalone form '{standalone}'; choose from {known}")
        self._standalone = standalone

    def requires(self, model: ir.Model) -> None:
        """See that the model may have initializers that are no inputs."""
        if model.ir_version < _OLDEST_IR_VERSION:
            raise ir.passes.PreconditionError(
                f"IR version {model.ir_version} takes no new initializers; run normalize first"
            )

    def call(self, model: ir.Model) -> RewriteResult:
        """Fold in place; subgraphs are included."""
        return _Folding(model, self._standalone).run()


class _Folding:
    """One run of the pass over one model."""

    def __init__(self, model: ir.Model, standalone: Standalone) -> None:
        self._model = model
        self._standalone = standalone
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._facts = ValueFacts(model)
        self._constants = _Constants(model.graph)
        self._node_names = NameScope.of_nodes(model.graph)

    def run(self) -> RewriteResult:
        changes: list[Change] = []
        refusals: list[Refusal] = []
        for node in _batchnorm_nodes(self._model.graph):
            if node.graph is None:  # died with the branch that another one was folded out of
                continue
            name = node.name or ""
            try:
                changes.append(self._fold(node, name))
            except ObstacleError as obstacle:
                refusals.append(Refusal(name, obstacle.code, obstacle.reason))
        for function in self._model.functions.values():
            refusals.extend(
                Refusal(node.name or "", "inside-function", f"it is in function '{function.name}'")
                for node in _batchnorm_nodes(function.graph)
            )
        return RewriteResult(
            self._model, modified=bool(changes), changes=changes, refusals=refusals
        )

    def _fold(self, node: ir.Node, name: str) -> Change:
        if self._opset < _OLDEST_OPSET:
            raise ObstacleError(
                "opset-too-old", f"opset {self._opset} is older than {_OLDEST_OPSET}"
            )
        batchnorm = read_batchnorm(node, self._opset)
        obstacles: list[str] = []
        for attempt in (self._into_producer, self._into_consumers):
            try:
                code, detail = attempt(batchnorm)
            except ObstacleError as obstacle:
                if obstacle.final:
                    raise
                obstacles.append(str(obstacle))
            else:
                return Change(name, code, detail, _figures(batchnorm.affine))
        code, detail = self._replace(batchnorm)
        return Change(name, code, f"{detail}: {'; '.join(obstacles)}", _figures(batchnorm.affine))

    def _into_producer(self, batchnorm: BatchNorm) -> tuple[str, str]:
        producer = producer_before(batchnorm)
        plan = plan_before(producer, batchnorm, self._facts)
        title = title_of(producer)
        self._apply(plan)
        self._take_over(batchnorm.result, producer.outputs[0])
        return plan.code, f"into {title} before it"

    def _into_consumers(self, batchnorm: BatchNorm) -> tuple[str, str]:
        plans = [self._plan_behind(node, batchnorm) for node in consumers_behind(batchnorm)]
        titles = " and ".join(title_of(plan.node) for plan in plans)
        for plan in plans:
            self._apply(plan)
            plan.node.replace_input_with(0, batchnorm.source)
        _remove_identities_behind(batchnorm.result)
        codes = {plan.code for plan in plans}
        code = next(code for code in _CODES_BEHIND if code in codes)
        return code, f"into {titles} behind it"

    def _plan_behind(self, node: ir.Node, batchnorm: BatchNorm) -> Plan:
        if is_standard(node, "BatchNormalization"):
            try:
                second = read_batchnorm(node, self._opset)
            except ObstacleError as obstacle:
                raise ObstacleError(
                    obstacle.code, f"{title_of(node)} behind it stays: {obstacle.reason}"
                ) from obstacle
            return plan_merge(second, batchnorm)
        return plan_behind(node, batchnorm, self._facts)

    def _replace(self, batchnorm: BatchNorm) -> tuple[str, str]:
        neighbour = quantized_neighbour(batchnorm)
        if neighbour is not None:
            raise ObstacleError(
                "already-quantized", f"{title_of(neighbour)} beside it shows a quantized model"
            )
        dtype = self._facts.dtype(batchnorm.source)
        rank = self._facts.rank(batchnorm.source)
        scale = to_dtype(batchnorm.affine.scale, dtype, "its scale")
        shift = to_dtype(batchnorm.affine.shift, dtype, "its shift")
        can_convolve = rank in _CONVOLUTION_RANKS and dtype in _CONVOLUTION_TYPES
        if self._standalone == "depthwise" and can_convolve:
            nodes = [self._depthwise(batchnorm, scale, shift, rank)]
            code, detail = "replaced-by-depthwise", "by a depthwise 1×1 Conv"
        else:
            nodes = self._mul_add(batchnorm, scale, shift, rank)
            code, detail = "replaced-by-mul-add", "by one Mul and one Add"
        last = nodes[-1]
        last.metadata_props.update(batchnorm.node.metadata_props)
        last.doc_string = batchnorm.node.doc_string
        graph_of(batchnorm.node).insert_before(batchnorm.node, nodes)
        self._take_over(batchnorm.result, last.outputs[0])
        return code, detail

    def _mul_add(
        self, batchnorm: BatchNorm, scale: np.ndarray, shift: np.ndarray, rank: int
    ) -> list[ir.Node]:
        shape = (-1,) + (1,) * max(0, rank - 2)  # (C, 1, 1) lines up with (N, C, H, W)
        graph, result, name = graph_of(batchnorm.node), batchnorm.result, _name_of(batchnorm.node)
        product = ir.Value(
            name=self._constants.names.take(f"{result.name}_scaled"),
            type=result.type,
            shape=result.shape,
        )
        factor = self._constants.new(graph, f"{name}_scale", scale.reshape(shape))
        addend = self._constants.new(graph, f"{name}_shift", shift.reshape(shape))
        return [
            ir.node(
                "Mul",
                [batchnorm.source, factor],
                outputs=[product],
                name=self._node_names.take(f"{name}_mul"),
            ),
            ir.node("Add", [product, addend], name=self._node_names.take(f"{name}_add")),
        ]

    def _depthwise(
        self, batchnorm: BatchNorm, scale: np.ndarray, shift: np.ndarray, rank: int
    ) -> ir.Node:
        kernel = (1,) * (rank - 2)
        graph, name = graph_of(batchnorm.node), _name_of(batchnorm.node)
        weight = self._constants.new(graph, f"{name}_scale", scale.reshape(-1, 1, *kernel))
        bias = self._constants.new(graph, f"{name}_shift", shift)
        return ir.node(
            "Conv",
            [batchnorm.source, weight, bias],
            {"group": batchnorm.affine.channels, "kernel_shape": list(kernel)},
            name=self._node_names.take(f"{name}_depthwise"),
        )

    def _apply(self, plan: Plan) -> None:
        node = plan.node
        # Where the weight was, the bias belongs too: branches that share one share the other.
        weight = node.inputs[1]
        home = graph_of(node) if weight is None or weight.graph is None else weight.graph
        node.resize_inputs(max(len(node.inputs), *(index + 1 for index in plan.constants)))
        for index, array in plan.constants.items():
            old = node.inputs[index]
            if old is None:
                wanted = f"{_name_of(node)}_bias"
            else:
                wanted = str(old.name).removesuffix(_SUFFIX) + _SUFFIX
            node.replace_input_with(index, self._constants.new(home, wanted, array))
            remove_if_unused(old)
        for key, number in plan.attributes.items():
            node.attributes[key] = ir.AttrFloat32(key, number)
        if plan.op_type is not None:
            node.op_type = plan.op_type

    def _take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` stand wherever ``old`` does, under its name, and drop ``old``."""
        self._facts.same(new, old)
        new.name = old.name
        new.type = old.type or new.type
        new.shape = old.shape if old.shape is not None else new.shape
        new.doc_string = old.doc_string or new.doc_string
        new.metadata_props.update(old.metadata_props)
        new.meta.update(old.meta)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        remove_if_unused(old)


class _Constants:
    """The initializers that this run adds; equal ones are shared, as twin branches share theirs."""

    def __init__(self, graph: ir.Graph) -> None:
        self.names = NameScope.of_values(graph)
        self._known: dict[tuple[int, str, tuple[int, ...], bytes], ir.Value] = {}

    def new(self, graph: ir.Graph, wanted: str, array: np.ndarray) -> ir.Value:
        """An initializer of ``graph`` that holds ``array``."""
        digest = hashlib.blake2b(np.asarray(array, order="C").tobytes()).digest()
        key = (id(graph), str(array.dtype), array.shape, digest)
        known = self._known.get(key)
        if known is None or not known.is_initializer():  # it may have been folded again, and gone
            known = self._known[key] = add_initializer(graph, wanted, array, names=self.names)
        return known


def _batchnorm_nodes(graph: ir.Graph) -> Sequence[ir.Node]:
    return [node for node in graph.all_nodes() if is_standard(node, "BatchNormalization")]


def _remove_identities_behind(value: ir.Value) -> None:
    """Remove ``value`` that nothing but idle Identity nodes uses any more, and them."""
    for node in value.consumers():
        _remove_identities_behind(node.outputs[0])
    remove_if_unused(value)


def _name_of(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def _figures(affine: Affine) -> dict[str, float]:
    magnitude = np.abs(affine.scale)
    return {
        "channels": affine.channels,
        "largest_scale": float(magnitude.max(initial=0.0)),
    }
