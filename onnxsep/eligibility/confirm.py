"""Predictions beside what a session on this machine does, where the provider is here."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from onnxsep.eligibility.record import Confirmation, UnitRow
from onnxsep.eligibility.rules_cpu import INTEGER_KERNELS
from onnxsep.errors import InputError
from onnxsep.fusion import fusion_report
from onnxsep.runtime import first_line

_SILENT = 4
_CPU = "CPUExecutionProvider"


def confirm(model: ir.Model, provider: str, rows: Sequence[UnitRow]) -> Confirmation:
    """Compare ``rows`` with a session of ``provider``.

    Args:
        model: With its dimensions fixed, before onnxruntime changed anything.
        provider: As onnxruntime calls it.
        rows: What was predicted.
    """
    if provider not in onnxruntime.get_available_providers():
        return Confirmation(provider, False, f"{provider} is not in the onnxruntime here")
    try:
        return (_fusion if provider == _CPU else _placement)(model, provider, rows)
    except InputError as error:
        return Confirmation(provider, False, str(error))


def _fusion(model: ir.Model, provider: str, rows: Sequence[UnitRow]) -> Confirmation:
    """On the CPU provider, which takes everything: which groups became integer kernels."""
    report = fusion_report(model, provider)
    fused = {*report.fused}
    predicted = {row.name for row in rows if row.operator == "Conv" and _runs_on_integers(row)}
    names = {*fused, *(one.node for one in report.unfused), *report.in_float}
    reasons = {one.node: one.reason for one in report.unfused}
    differences = [
        f"{name}: predicted {'integers' if name in predicted else 'float'}, runs in "
        f"{'integers' if name in fused else 'float'}"
        + (f" ({reasons[name]})" if name in reasons else "")
        for name in sorted(names)
        if (name in fused) != (name in predicted)
    ]
    compared = len(names)
    integers = Counter(row.operator for row in rows if _runs_on_integers(row))
    for operator, kernels in INTEGER_KERNELS.items():
        if operator == "Conv":
            continue
        running = sum(report.operators.get(kernel, 0) for kernel in kernels)
        compared += integers[operator]
        if running != integers[operator]:
            differences.append(
                f"{operator}: {integers[operator]} predicted on integers, {running} run so"
            )
    return Confirmation(provider, True, "", tuple(differences), compared)


def _runs_on_integers(row: UnitRow) -> bool:
    return row.state == "taken" and row.quantized


def _placement(model: ir.Model, provider: str, rows: Sequence[UnitRow]) -> Confirmation:
    """Where a session of the provider put every node."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, format="protobuf", external_data="model.data")
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=[provider, _CPU], enable_fallback=0
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"{provider} cannot load the model: {first_line(error)}") from error
    places = {
        node.name: part.ep_name
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.name
    }
    differences = []
    compared = 0
    for row in rows:
        if row.name not in places:
            continue
        compared += 1
        taken = places[row.name] == provider
        if taken != (row.state != "refused"):
            differences.append(
                f"{row.name} ({row.operator}): predicted {row.state}, runs on {places[row.name]}"
            )
    return Confirmation(provider, True, "", tuple(differences), compared)
