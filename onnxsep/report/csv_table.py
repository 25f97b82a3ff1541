"""The kit that CSV reports are made of: plain, unrounded numbers, and no text that is a formula."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from onnxsep.report.text import printable

Value = str | float | int | bool | None
# What makes a spreadsheet take text for a formula (OWASP, "CSV injection"), full-width forms too.
_FORMULA_STARTS = frozenset("=+-@＝＋－＠")


def csv_text(header: Sequence[str], lines: Iterable[Mapping[str, Value]]) -> str:
    """A table with a header line; what a line lacks, and what is not finite, is left empty."""
    output = io.StringIO()
    writer = csv.DictWriter(output, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _field(value) for name, value in line.items()} for line in lines)
    return output.getvalue()


def _field(value: Value) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_STARTS else text
