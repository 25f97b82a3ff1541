"""An inspection as Markdown, for a pull request; strangers' words mean nothing but themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import inspect_rows as rows
from onnxsep.report.bench_markdown import escaped
from onnxsep.report.bench_numbers import share
from onnxsep.report.text import quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxsep.inspection import Inspection, Layer

_BAR_WIDTH = 10
_FULL, _EMPTY = "█", "░"


def inspect_markdown(found: Inspection) -> str:
    """Totals and advice first, the layers folded away where there are many.

    Args:
        found: What was found.
    """
    blocks = [
        f"### onnxsep inspect: {escaped(found.model)}",
        _table(("", ""), [(name, escaped(value)) for name, value in rows.summary(found)], set()),
        _kinds(found),
        _advice(found),
        _layers(found),
        "\n".join(f"- **Note:** {escaped(note)}" for note in found.notes),
        escaped(
            f"onnxsep {found.onnxsep_version}, target {found.target}, {'; '.join(found.inputs)}"
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _kinds(found: Inspection) -> str:
    if not found.kinds:
        return ""
    titles = ["kind", "layers", "parameters", "MACs", "share"]
    if found.profiled:
        titles += ["time", "of time"]
    lines = []
    for row in found.kinds:
        line = [
            escaped(row.kind),
            str(row.layers) if row.layers else "",
            quantity(row.parameters) if row.parameters else "",
            quantity(row.macs) if row.macs else "",
            share(row.share) if row.macs else "",
        ]
        if found.profiled:
            line += [rows.time(row.time_ms), rows.time_share(row.time_share)]
        lines.append(line)
    return _table(titles, lines, set(range(1, len(titles))))


def _advice(found: Inspection) -> str:
    blocks = []
    for advice in found.advice:
        place = f" ({escaped(rows.places(advice))})" if advice.nodes else ""
        blocks.append(
            f"- **{advice.severity}: {escaped(advice.title)}**{place}: {escaped(advice.reason)}\n"
            f"  - *Way out:* {escaped(advice.way_out)}"
        )
    if not blocks:
        return ""
    return f"**Advice for {escaped(found.target)}**\n\n" + "\n".join(blocks)


def _layers(found: Inspection) -> str:
    if not found.layers:
        return ""
    titles = ["layer", "kind", "shape", "at", "parameters", "MACs", "share", ""]
    if found.profiled:
        titles.append("of time")
    titles += ["formula", f"at {rows.percent(found.error)}", "how, or why not"]
    most = max(layer.share for layer in found.layers)
    table = _table(
        titles,
        [_layer(layer, most, profiled=found.profiled) for layer in found.layers],
        set(range(4, 7)) | set(range(8, len(titles) - 1)),
    )
    title = f"The {len(found.layers)} convolutions; formula and error: what would be saved"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def _layer(layer: Layer, most: float, *, profiled: bool) -> list[str]:
    filled = round(_BAR_WIDTH * layer.share / most) if most else 0
    line = [
        escaped(layer.name),
        escaped(rows.kind(layer)),
        escaped(layer.shape),
        rows.size(layer),
        quantity(layer.parameters),
        rows.macs(layer.macs),
        share(layer.share),
        _FULL * filled + _EMPTY * (_BAR_WIDTH - filled),
    ]
    if profiled:
        line.append(rows.time_share(layer.time_share))
    how = escaped(rows.how_here(layer))
    return [*line, rows.formula_saving(layer), rows.saving_here(layer), how]


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], right: set[int]) -> str:
    """Of cells that are escaped already."""
    rule = ["---:" if place in right else "---" for place in range(len(titles))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))
