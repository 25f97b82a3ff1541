"""Bring a legal but unusual graph into the one form that the other passes expect."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common

from onnxsep.constants import NameScope
from onnxsep.passes._inline import inline_functions
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult

WHOLE_MODEL = "(whole model)"

# The first version that lets an initializer be a constant instead of an input's default.
_IR_VERSION_OF_PLAIN_INITIALIZERS = 4

# Constants below this many elements are shapes, axes, pads and single factors: they are read best
# beside the node that uses them, and tools look for them there.
_SMALLEST_INITIALIZER = 16


class Normalize(LosslessPass):
    """Rewrite what may be written in several ways into one of them.

    - The standard domain is ``""``, never ``"ai.onnx"``.
    - There are no model-local functions; those that cannot be inlined are refused.
    - Trailing inputs and outputs that are omitted by an empty name are left out.
    - Initializers are constants: none is a graph input, and the IR version allows that.
    - Every node and value of the model, subgraphs included, has a name of its own.
    - Larger constants are initializers and not Constant nodes.

    Inputs that have no initializer and outputs keep their names, types and dimensions.
    """

    name: ClassVar[str] = "normalize"

    def call(self, model: ir.Model) -> RewriteResult:
        """Normalize in place."""
        changes: list[Change] = []
        refusals: list[Refusal] = []
        _use_one_standard_domain(model, changes)
        inline_functions(model, changes, refusals)
        _leave_out_omitted(model, changes)
        _make_initializers_constants(model, changes)
        _make_names_unique(model, changes)
        _lift_constants(model, changes)
        return RewriteResult(model, modified=bool(changes), changes=changes, refusals=refusals)


def _use_one_standard_domain(model: ir.Model, changes: list[Change]) -> None:
    count = 0
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        if "ai.onnx" in imports:
            version = imports.pop("ai.onnx")
            imports.setdefault("", version)
            count += 1
    if count:
        changes.append(
            Change(WHOLE_MODEL, "domain-renamed", "the opset import 'ai.onnx' is now ''")
        )


def _leave_out_omitted(model: ir.Model, changes: list[Change]) -> None:
    count = 0
    for node in model.graph.all_nodes():
        inputs, outputs = len(node.inputs), len(node.outputs)
        while inputs and node.inputs[inputs - 1] is None:
            inputs -= 1
        while outputs > 1 and not node.outputs[outputs - 1].name:
            outputs -= 1
        if (inputs, outputs) != (len(node.inputs), len(node.outputs)):
            node.resize_inputs(inputs)
            node.resize_outputs(outputs)
            count += 1
    if count:
        changes.append(
            Change(
                WHOLE_MODEL,
                "omissions-removed",
                f"{count} nodes named inputs or outputs that they omit",
                {"nodes": count},
            )
        )


def _make_initializers_constants(model: ir.Model, changes: list[Change]) -> None:
    graph = model.graph
    if model.ir_version < _IR_VERSION_OF_PLAIN_INITIALIZERS:
        changes.append(
            Change(
                WHOLE_MODEL,
                "ir-version-raised",
                f"IR version {model.ir_version} became {_IR_VERSION_OF_PLAIN_INITIALIZERS}, "
                "which lets initializers be constants",
            )
        )
        model.ir_version = _IR_VERSION_OF_PLAIN_INITIALIZERS
    # The main graph only: the inputs of a Loop or Scan body are known by their position.
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    count = len(graph.inputs) - len(inputs)
    if count:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        changes.append(
            Change(
                WHOLE_MODEL,
                "initializers-no-longer-inputs",
                f"{count} initializers were listed as inputs, and are constants now",
                {"initializers": count},
            )
        )


def _make_names_unique(model: ir.Model, changes: list[Change]) -> None:
    nodes, values = _rename_nodes(model.graph), _rename_values(model.graph)
    if nodes or values:
        changes.append(
            Change(
                WHOLE_MODEL,
                "names-made-unique",
                f"{nodes} nodes and {values} values had no name or that of another",
                {"nodes": nodes, "values": values},
            )
        )


def _rename_nodes(graph: ir.Graph) -> int:
    scope = NameScope.of_nodes(graph)
    seen: set[str] = set()
    count = 0
    for node in graph.all_nodes():
        if not node.name:
            result = next((value.name for value in node.outputs if value.name), "")
            node.name = scope.take(f"{node.op_type}_{result}" if result else node.op_type)
            count += 1
        elif node.name in seen:
            node.name = scope.take(node.name)
            count += 1
        seen.add(node.name)
    return count


def _rename_values(graph: ir.Graph) -> int:
    """Rename what is inside where it meets a name from outside or from the branch beside it.

    An output with an empty name is one that the node does not give: it must stay without.
    """
    scope = NameScope.of_values(graph)
    seen = {id(value): value for value in (*graph.inputs, *graph.outputs)}
    owners = {value.name for value in seen.values()}
    count = 0
    for inner in (graph, *graph.subgraphs()):
        values = [*inner.inputs, *inner.initializers.values()]
        values += [value for node in inner for value in node.outputs]
        for value in values:
            if id(value) in seen or not value.name:
                continue
            seen[id(value)] = value
            if value.name in owners:
                value.name = scope.take(value.name)
                count += 1
            owners.add(value.name)
    return count


def _lift_constants(model: ir.Model, changes: list[Change]) -> None:
    before = _initializer_count(model)
    ir.passes.common.LiftConstantsToInitializersPass(size_limit=_SMALLEST_INITIALIZER)(model)
    count = _initializer_count(model) - before
    if count:
        changes.append(
            Change(
                WHOLE_MODEL,
                "constants-became-initializers",
                f"{count} Constant nodes of {_SMALLEST_INITIALIZER} elements or more became "
                "initializers",
                {"constants": count},
            )
        )


def _initializer_count(model: ir.Model) -> int:
    return sum(len(graph.initializers) for graph in model.graphs())
