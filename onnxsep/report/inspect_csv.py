"""An inspection as CSV: a row per convolution with every figure; advice is in the JSON.

Numbers are plain and unrounded, what is not known is empty. The columns keep their names and order;
new ones go to the end.
"""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

from onnxsep.report.text import printable

if TYPE_CHECKING:
    from onnxsep.inspection import Inspection, Layer

_Value = str | float | int | bool | None
# What makes a spreadsheet take text for a formula (OWASP, "CSV injection"), full-width forms too.
_FORMULA_STARTS = frozenset("=+-@＝＋－＠")

HEADER = (
    "layer",
    "operator",
    "kind",
    "inside",
    "precision",
    "in_channels",
    "out_channels",
    "groups",
    "kernel",
    "strides",
    "dilations",
    "input_size",
    "output_size",
    "parameters",
    "bias",
    "macs",
    "share",
    "counted",
    "shared_with",
    "time_ms",
    "time_share",
    "formula_ratio",
    "formula_parameters",
    "formula_macs",
    "achievable_form",
    "achievable_rank",
    "achievable_error",
    "achievable_parameters",
    "achievable_macs",
    "code",
    "reason",
)


def inspect_csv(found: Inspection) -> str:
    """The table as text with a header line.

    Args:
        found: What was found.
    """
    output = io.StringIO()
    writer = csv.DictWriter(output, HEADER, lineterminator="\n")
    writer.writeheader()
    for layer in found.layers:
        writer.writerow({name: _field(value) for name, value in _row(layer).items()})
    return output.getvalue()


def _row(layer: Layer) -> dict[str, _Value]:
    formula, best = layer.formula, layer.achievable
    return {
        "layer": layer.name,
        "operator": layer.operator,
        "kind": layer.kind,
        "inside": layer.inside,
        "precision": layer.precision,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "groups": layer.groups,
        "kernel": _sizes(layer.kernel),
        "strides": _sizes(layer.strides),
        "dilations": _sizes(layer.dilations),
        "input_size": _sizes(layer.input_size),
        "output_size": _sizes(layer.output_size),
        "parameters": layer.parameters,
        "bias": layer.bias,
        "macs": layer.macs,
        "share": layer.share,
        "counted": layer.counted,
        "shared_with": layer.shared_with,
        "time_ms": layer.time_ms,
        "time_share": layer.time_share,
        "formula_ratio": None if formula is None else formula.ratio,
        "formula_parameters": None if formula is None else formula.parameters,
        "formula_macs": None if formula is None else formula.macs,
        "achievable_form": None if best is None else best.form,
        "achievable_rank": None if best is None else best.rank,
        "achievable_error": None if best is None else best.error,
        "achievable_parameters": None if best is None else best.parameters,
        "achievable_macs": None if best is None else best.macs,
        "code": layer.code,
        "reason": layer.reason,
    }


def _sizes(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _field(value: _Value) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_STARTS else text
