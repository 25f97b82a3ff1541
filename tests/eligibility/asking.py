"""One-node models in text form, and the rule that a target has against the node called ``n``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.eligibility import RULES
from onnxsep.eligibility.grouping import inner_graphs, make_units
from onnxsep.eligibility.rule import Circumstances, Rule
from onnxsep.eligibility.unit import Unit, since_version

from ..passes.helpers import model_from_text

Arrays = Mapping[str, np.ndarray | tuple[int, ...] | list[float]]

# A scale and zero points that any model may use.
_COMMON = "float s = {0.1}, uint8 u = {128}, uint8 u0 = {0}, int8 i = {3}, int8 i0 = {0}"

IMAGE = "float[1, 4, 8, 8] x"


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and the code of the first rule against its node ``n``; empty where it is taken."""

    target: str
    code: str
    nodes: str
    inputs: str = IMAGE
    opset: int = 17
    arrays: Arrays = dataclasses.field(default_factory=dict)
    api_level: int = 29

    def __str__(self) -> str:
        return f"{self.target}-{self.code or 'taken'}-{self.nodes.strip()[:24]}"


def model_of(case: Case) -> ir.Model:
    """The model of a case; a tuple among its arrays is the shape of some floats."""
    arrays = {
        name: np.full(given, 0.5, np.float32)
        if isinstance(given, tuple)
        else np.asarray(given, np.float32)
        if isinstance(given, list)
        else given
        for name, given in case.arrays.items()
    }
    text = (
        f'<ir_version: 10, opset_import: ["" : {case.opset}]> '
        f"m ({case.inputs}) => (y) <{_COMMON}> {{ {case.nodes} }}"
    )
    return model_from_text(text, **arrays)


def unit_of(case: Case, name: str = "n") -> Unit:
    """The unit of the node called ``name``, also inside branches."""
    model = model_of(case)
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    units = _units(model.graph, case, 0)
    return next(unit for unit in units if unit.node.name == name)


def rule_against(case: Case) -> Rule | None:
    """The first rule of the case's target against its node."""
    rules = RULES[case.target]
    return rules.first_against(unit_of(case), Circumstances(case.api_level))


def _units(graph: ir.Graph, case: Case, depth: int) -> list[Unit]:
    if RULES[case.target].groups:
        units = make_units(graph, case.opset, depth)
    else:
        units = [Unit(node, since_version(node, case.opset), depth=depth) for node in graph]
    for inner in inner_graphs(graph):
        units += _units(inner, case, depth + 1)
    return units


def quantized(node: str, *, data: str = "u", result: str = "u", more: str = "") -> str:
    """``node`` between its own DequantizeLinear of q and a QuantizeLinear; zero points by name."""
    before = f"a = DequantizeLinear(q, s, {data}) {more}"
    return f"{before} [n] b = {node} y = QuantizeLinear(b, s, {result})"


# Weights and bias of a quantized convolution of four channels, each behind its DequantizeLinear.
WEIGHT = "w = DequantizeLinear <axis = 0> (wq, ws, wz)"
BIAS = "c = DequantizeLinear <axis = 0> (cq, cs)"


def conv_arrays(
    *, dtype: type[np.integer] = np.int8, channels: int = 4, zero: int = 0, bias_scale: float = 0.01
) -> dict[str, np.ndarray]:
    """What `WEIGHT` and `BIAS` need, one scale for each of ``channels``; one in all for 1."""
    scales = np.full(channels, 0.1, np.float32) if channels > 1 else np.float32(0.1)
    zeros = np.full_like(scales, zero).astype(dtype)
    return {
        "wq": np.ones((4, 4, 3, 3), dtype),
        "ws": np.asarray(scales),
        "wz": np.asarray(zeros),
        "cq": np.ones(4, np.int32),
        "cs": np.full(4, bias_scale, np.float32),
    }
