"""Operators between layers that run in float when the layers run on integers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.errors import OnnxsepError
from onnxsep.fusion import fusion_report
from onnxsep.inspection.facts import Facts, megabytes, percent, plural
from onnxsep.inspection.record import Advice, Severity
from onnxsep.passes._placement import clip_bounds, place
from onnxsep.targets.quantization import get_scheme

# Quantizing absorbs these, or they are bookkeeping.
_ABSORBED = ("Relu", "Clip", "Identity", "Dropout", "Cast")
_INTEGER, _FLOAT = 1, 4  # bytes of a number
# Shares of the activations between layers.
_MUCH, _SOME, _NEGLIGIBLE = 0.2, 0.03, 0.001
_CHEAPER = {
    "HardSwish": "Relu6",
    "HardSigmoid": "Sigmoid",
    "Elu": "Relu",
    "PRelu": "LeakyRelu, or Relu",
    "Selu": "Relu",
    "Softplus": "Relu",
    "Erf": "Relu",
    "Gelu": "Relu",
    "Mish": "Relu",
    "Tanh": "Sigmoid",
}


def advise_on_int8_chains(facts: Facts) -> tuple[list[Advice], list[str]]:
    """For a float model what would break its chains; for a quantized one what does."""
    if facts.is_quantized:
        return _of_quantized(facts)
    # Free dimensions have advice of their own.
    scheme = dataclasses.replace(get_scheme(facts.target.name), free_batch=True, free_size=True)
    if not scheme.operators or not facts.layers:
        return [], []
    graph = facts.folded.graph
    placement = place(graph, scheme)
    quantized = placement.nodes
    if not quantized:
        return [], []
    by_type: dict[str, list[ir.Node]] = {}
    dragged: Counter[str] = Counter()
    for node in _between(graph, quantized):
        if node.op_type in scheme.operators:
            dragged[node.op_type] += 1  # It could, if those beside it did.
        else:
            by_type.setdefault(node.op_type, []).append(node)
    # Sizes were found for the model with its BatchNormalization: values keep their names.
    known: dict[str, ir.Value] = {value.name: value for value in facts.sizes.shapes if value.name}
    total = sum(_elements(facts, known, node) for node in graph if node in quantized) or 1
    beside = ", ".join(f"{count} {operator}" for operator, count in dragged.items())
    also = f"; beside such nodes {beside} stay in float too" if beside else ""
    advice = []
    for operator, nodes in by_type.items():
        elements = sum(_elements(facts, known, node) for node in nodes)
        share = elements / total
        if share < _NEGLIGIBLE:
            continue
        severity: Severity = "high" if share >= _MUCH else "medium" if share >= _SOME else "low"
        moved = 2 * (_INTEGER + _FLOAT) * elements
        instead = _CHEAPER.get(operator)
        advice.append(
            Advice(
                "breaks-int8-chain",
                severity,
                f"{operator} has no integer kernel",
                tuple(node.name or "" for node in nodes),
                f"{plural(len(nodes), operator)} between quantized layers run in float on "
                f"{facts.target.name}: {elements:,} numbers an image ({percent(share)} of what "
                f"the quantized layers give) become floats and integers again, "
                f"{megabytes(moved)} of traffic{also}",
                f"train with {instead} instead, or accept that these stay in float"
                if instead
                else "leave the part around them in float: onnxsep optimize --precision auto "
                "measures what pays",
                {"nodes": len(nodes), "elements": elements, "share": share, "bytes_moved": moved},
            )
        )
    return advice, []


def _between(graph: ir.Graph, quantized: set[ir.Node]) -> list[ir.Node]:
    """Nodes that run in float although quantized ones come before and behind."""
    behind: set[ir.Node] = set()
    for node in graph:
        sources = [value.producer() for value in node.inputs if value is not None]
        if any(source in quantized or source in behind for source in sources if source is not None):
            behind.add(node)
    leading: set[ir.Node] = set()
    for node in reversed(graph):
        readers = [reader for value in node.outputs for reader in value.consumers()]
        if any(reader in quantized or reader in leading for reader in readers):
            leading.add(node)
    return [
        node
        for node in graph
        if node in behind
        and node in leading
        and node not in quantized
        and not _is_absorbed(node)
        and constant_array(node.outputs[0]) is None
    ]


def _is_absorbed(node: ir.Node) -> bool:
    if node.op_type in ("Relu", "Clip"):
        return clip_bounds(node) is not None
    return node.op_type in _ABSORBED or node.op_type == "Shape"


def _elements(facts: Facts, known: Mapping[str, ir.Value], node: ir.Node) -> int:
    value = known.get(node.outputs[0].name or "")
    if value is None:
        return 0
    kind = facts.sizes.types.get(value)
    if kind is None or not kind.is_floating_point():
        return 0
    return facts.sizes.elements(value) // facts.sizes.batch


def _of_quantized(facts: Facts) -> tuple[list[Advice], list[str]]:
    """What the runtime left in float, convolution by convolution."""
    try:
        report = fusion_report(facts.model)
    except OnnxsepError as error:
        return [], [f"which quantized layers run on integers is not known: {error}"]
    shares = {layer.name: layer.share for layer in facts.layers}
    by_code: dict[str, list[tuple[str, str]]] = {}
    for unfused in report.unfused:
        by_code.setdefault(unfused.code, []).append((unfused.node, unfused.reason))
    advice = []
    for code, entries in by_code.items():
        share = sum(shares.get(name, 0.0) for name, _ in entries)
        advice.append(
            Advice(
                "quantized-runs-in-float",
                "high",
                "quantized convolutions that run in float",
                tuple(name for name, _ in entries),
                f"{len(entries)} of {report.convolutions} convolutions, with {percent(share)} of "
                f"the multiplications, run in float on this machine ({code}): {entries[0][1]}",
                "quantize the float model with onnxsep optimize, which checks that every layer "
                "runs on integers",
                {"nodes": len(entries), "share": share},
            )
        )
    return advice, []
