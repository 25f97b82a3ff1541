"""Model-local functions, written out at every place that calls them."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common

from onnxsep.constants import NameScope
from onnxsep.passes.base import Change, Refusal


def inline_functions(model: ir.Model, changes: list[Change], refusals: list[Refusal]) -> None:
    """Write every function of ``model`` out where it is called, and drop it.

    onnx-ir's own pass does the work. It stops half-way through a model that it cannot handle, and
    renames the caller's values where a function hands an input straight through; therefore
    functions are checked and prepared first, and those that do not pass stay, with a refusal.
    """
    _drop_uncalled(model)
    obstacles = _obstacles(model)
    refusals.extend(
        Refusal(model.functions[key].name, "function-not-inlined", reason)
        for key, reason in obstacles.items()
    )
    wanted = {key for key in model.functions if key not in obstacles}
    if not wanted:
        return
    for key in wanted:
        _prepare_body(model, model.functions[key])
    names = NameScope.of_values(model.graph)
    for node in _all_nodes(model):
        if node.op_identifier() in wanted:
            _prepare_call(node, model.functions[node.op_identifier()], names)
    bodies = [model.functions[key].name for key in wanted]
    domains = {model.functions[key].domain for key in wanted}
    ir.passes.common.InlinePass(lambda function: function.identifier() in wanted)(model)
    for domain in domains - {node.domain for node in _all_nodes(model)}:
        model.opset_imports.pop(domain, None)
    changes.extend(
        Change(name, "function-inlined", "its body stands where it was called")
        for name in sorted(bodies)
    )


def _drop_uncalled(model: ir.Model) -> None:
    called: set[ir.OperatorIdentifier] = set()
    calls = _calls(model)
    for node in model.graph.all_nodes():
        key = node.op_identifier()
        if key in model.functions and key not in called:
            called |= {key} | _reachable(calls, key)
    for key in set(model.functions) - called:
        del model.functions[key]


def _obstacles(model: ir.Model) -> dict[ir.OperatorIdentifier, str]:
    """Why functions cannot be inlined, by function."""
    calls = _calls(model)
    found: dict[ir.OperatorIdentifier, str] = {}
    imports = dict(model.opset_imports)
    for key, function in model.functions.items():
        clash = next(
            (
                domain
                for domain, version in function.opset_imports.items()
                if imports.get(domain, version) != version
            ),
            None,
        )
        if clash is not None:
            found[key] = (
                f"it uses opset {function.opset_imports[clash]} of domain '{clash}', "
                f"the model {imports[clash]}"
            )
        elif key in _reachable(calls, key):
            found[key] = "it calls itself"
        else:
            imports.update(function.opset_imports)
    for node in _all_nodes(model):
        key = node.op_identifier()
        if key not in model.functions or key in found:
            continue
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            found[key] = f"node '{node.name}' hands it a graph"
        elif len(node.inputs) > len(model.functions[key].inputs):
            found[key] = f"node '{node.name}' hands it {len(node.inputs)} inputs"
        elif len(node.outputs) > len(model.functions[key].outputs):
            found[key] = f"node '{node.name}' expects {len(node.outputs)} outputs of it"
    # A function that stays keeps its own opsets: nothing may be written into its body.
    for key in list(found):
        for callee in _reachable(calls, key):
            found.setdefault(callee, f"function '{model.functions[key].name}' calls it and stays")
    return found


def _calls(model: ir.Model) -> dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]]:
    """The functions that each function calls itself."""
    return {
        key: {node.op_identifier() for node in function.all_nodes()} & set(model.functions)
        for key, function in model.functions.items()
    }


def _reachable(
    calls: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]], start: ir.OperatorIdentifier
) -> set[ir.OperatorIdentifier]:
    seen: set[ir.OperatorIdentifier] = set()
    pending = list(calls[start])
    while pending:
        key = pending.pop()
        if key not in seen:
            seen.add(key)
            pending.extend(calls[key])
    return seen


def _prepare_body(model: ir.Model, function: ir.Function) -> None:
    """Give every output of the function a node of its own, and drop outputs that nodes omit."""
    for node in function.all_nodes():
        if node.op_identifier() in model.functions:
            continue
        count = len(node.outputs)
        while count > 1 and not node.outputs[count - 1].name:
            count -= 1
        node.resize_outputs(count)
    seen: set[ir.Value] = set(function.inputs)
    for index, value in enumerate(function.outputs):
        if value in seen:
            node = ir.node("Identity", [value])
            function.append(node)
            function.outputs[index] = node.outputs[0]
            function.opset_imports.setdefault("", model.opset_imports[""])
        seen.add(value)


def _prepare_call(node: ir.Node, function: ir.Function, names: NameScope) -> None:
    """Name all outputs of the function: the inlined nodes will carry these names."""
    node.resize_outputs(len(function.outputs))
    for output, inner in zip(node.outputs, function.outputs, strict=True):
        if not output.name:
            output.name = names.take(inner.name or node.op_type)


def _all_nodes(model: ir.Model) -> list[ir.Node]:
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes.extend(function.all_nodes())
    return nodes
