"""`check`: what a target would take of a model, node by node, and the rule against the rest."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import onnxruntime

from onnxsep.eligibility.conditions import always
from onnxsep.eligibility.confirm import confirm
from onnxsep.eligibility.fixing import fix_shapes, free_dimensions
from onnxsep.eligibility.grouping import inner_graphs, make_units
from onnxsep.eligibility.partition import partitions
from onnxsep.eligibility.prepare import prepare
from onnxsep.eligibility.record import Confirmation, Eligibility, RuleFacts, State, UnitRow
from onnxsep.eligibility.rule import (
    DEFAULT_API_LEVEL,
    READ_VERSION,
    Circumstances,
    Rule,
    TargetRules,
    in_onnxruntime,
)
from onnxsep.eligibility.rules_cpu import CPU, CPU_ARM, on_integers
from onnxsep.eligibility.rules_cuda import CUDA
from onnxsep.eligibility.rules_nnapi import NNAPI
from onnxsep.eligibility.rules_tensorrt import TENSORRT
from onnxsep.eligibility.rules_xnnpack import XNNPACK
from onnxsep.eligibility.unit import Unit, since_version
from onnxsep.eligibility.work import multiplications
from onnxsep.errors import ConfigurationError
from onnxsep.targets import get_target

RULES: Mapping[str, TargetRules] = {
    rules.target: rules for rules in (CPU, CPU_ARM, XNNPACK, NNAPI, TENSORRT, CUDA)
}
# Android releases with NNAPI, by API level; onnxruntime asks for no newer one.
OLDEST_API_LEVEL, NEWEST_API_LEVEL = 27, 31
_POINTLESS = Rule(
    "pointless",
    tuple(sorted(NNAPI.pointless)),
    always,
    "alone it only copies, which is not worth a partition",
    "none",
    in_onnxruntime("providers/nnapi/nnapi_builtin/builders/helper.cc"),
)


def check(
    model: ir.Model,
    target: str,
    *,
    fix_shape: Mapping[str, int] | None = None,
    api_level: int = DEFAULT_API_LEVEL,
    path: str = "",
) -> Eligibility:
    """Predict what ``target`` would take of ``model``.

    Where this machine's onnxruntime has the target's provider, the prediction is compared with a
    session of it.

    Args:
        model: Left unchanged.
        target: Name of a target.
        fix_shape: Sizes for free dimensions, by their name or by ``input:axis``.
        api_level: Of Android, 27 to 31, for NNAPI.
        path: What to call the model in the record.

    Raises:
        ConfigurationError: The target or a dimension is unknown, or the API level has no NNAPI.
        InputError: Nothing can be made of the model.
    """
    rules = RULES[get_target(target).name]
    if not OLDEST_API_LEVEL <= api_level <= NEWEST_API_LEVEL:
        raise ConfigurationError(
            f"the API level is {OLDEST_API_LEVEL} (Android 8.1) to {NEWEST_API_LEVEL} "
            f"(Android 12), not {api_level}"
        )
    fixed = fix_shapes(model, fix_shape or {})
    prepared = prepare(fixed)
    circumstances = Circumstances(api_level)
    rows: list[UnitRow] = []
    count = 0
    for units in _all_units(prepared.model.graph, prepared.opset, rules.groups):
        judged = _Judge(rules, circumstances, units)
        rows.extend(judged.rows(first_partition=count + 1))
        count += len(judged.groups)
    reason = why_not_here(rules)
    confirmation = (
        Confirmation(rules.provider, False, reason)
        if reason
        else confirm(fixed, rules.provider, rows)
    )
    nodes = sum(1 for _ in fixed.graph.all_nodes())
    return Eligibility(
        model=path,
        target=target,
        provider=rules.provider,
        onnxruntime_version=onnxruntime.__version__,
        rules_version=READ_VERSION,
        api_level=api_level if target == NNAPI.target else 0,
        fixed=dict(fix_shape or {}),
        free=free_dimensions(fixed),
        original_nodes=nodes,
        units=tuple(rows),
        partitions=count,
        confirmation=confirmation,
        notes=prepared.notes,
    )


def why_not_here(rules: TargetRules) -> str:
    """Why a model cannot run on the target here, one clause; empty if it can."""
    if rules.provider not in onnxruntime.get_available_providers():
        return f"{rules.provider} is not in the onnxruntime of this machine"
    machine = platform.machine().casefold()
    if rules.machines and machine not in rules.machines:
        return f"this machine's processor is {machine}"
    return ""


def _all_units(graph: ir.Graph, opset: int, groups: bool, depth: int = 0) -> list[list[Unit]]:
    """The units of ``graph``, then of each graph inside its nodes."""
    if groups:
        units = make_units(graph, opset, depth)
    else:
        units = [Unit(node, since_version(node, opset), depth=depth) for node in graph]
    found = [units]
    for inner in inner_graphs(graph):
        found.extend(_all_units(inner, opset, groups, depth + 1))
    return found


class _Judge:
    """Asks a target's rules about the units of one graph."""

    def __init__(
        self, rules: TargetRules, circumstances: Circumstances, units: Sequence[Unit]
    ) -> None:
        self._rules = rules
        self._circumstances = circumstances
        self._units = units
        self._makers = {value: unit for unit in units for value in unit.results}
        self._against = {unit: rules.first_against(unit, circumstances) for unit in units}
        self._inside = {unit: host for unit in units if (host := self._host(unit)) is not None}
        for unit in self._inside:
            self._against[unit] = None
        found = partitions(units, self._takes)
        self.groups = [group for group in found if not self._is_pointless(group)]

    def rows(self, first_partition: int) -> list[UnitRow]:
        """One row for each unit."""
        places = {
            unit: first_partition + index
            for index, group in enumerate(self.groups)
            for unit in group
        }
        return [self._row(unit, places.get(unit, 0)) for unit in self._units]

    def _row(self, unit: Unit, partition: int) -> UnitRow:
        rule = self._against[unit]
        state: State = "taken" if rule is None else rule.effect
        if rule is None and not partition:
            rule, state = _POINTLESS, "refused"
        host = self._inside.get(unit)
        return UnitRow(
            name=unit.name,
            operator=unit.operator,
            quantized=unit.grouped or (unit.operator == "MatMul" and on_integers(unit)),
            nodes=len(unit.nodes),
            multiplications=multiplications(unit.node),
            state=state,
            partition=partition,
            inside="" if host is None else host.name,
            rule=None if rule is None else _facts(rule),
        )

    def _takes(self, unit: Unit, group: Sequence[Unit]) -> bool:
        if self._is_alone_with_bytes(unit, group):
            self._against[unit] = self._rules.company_rule
        rule = self._against[unit]
        return rule is None or rule.effect == "float"

    def _is_alone_with_bytes(self, unit: Unit, group: Sequence[Unit]) -> bool:
        port = unit.input(0)
        if unit.grouped or unit.operator not in self._rules.company or port is None:
            return False
        return port.dtype == ir.DataType.UINT8 and self._makers.get(port.value) not in group

    def _host(self, unit: Unit) -> Unit | None:
        """The unit in whose kernel an activation runs."""
        hosts = self._rules.fused.get(unit.operator)
        if hosts is None:
            return None
        value = unit.node.inputs[0] if unit.node.inputs else None
        host = None if value is None else self._makers.get(value)
        if (
            unit.grouped
            or host is None
            or host.grouped
            or host.operator not in hosts
            or self._against[host] is not None
        ):
            self._against[unit] = self._rules.alone
            return None
        for rule in self._rules.fused_unless:
            if rule.concerns(unit) and rule.refuses(unit, self._circumstances):
                self._against[unit] = rule
                return None
        return host

    def _is_pointless(self, group: Sequence[Unit]) -> bool:
        return (
            self._rules.compiled
            and len(group) == 1
            and not group[0].grouped
            and group[0].operator in self._rules.pointless
        )


def _facts(rule: Rule) -> RuleFacts:
    return RuleFacts(rule.code, rule.sentence, rule.way_out, rule.source, rule.confidence)
