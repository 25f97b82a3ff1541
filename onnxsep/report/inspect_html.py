"""An inspection as one self-contained HTML file: totals, advice, layers with bars, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsep.report import inspect_rows as rows
from onnxsep.report.bench_numbers import duration, share
from onnxsep.report.html import (
    Column,
    Content,
    Group,
    Html,
    Row,
    Tone,
    bar,
    element,
    facts,
    figure,
    folded,
    gallery,
    join,
    notice,
    page,
    paragraph,
    pill,
    section,
    table,
)
from onnxsep.report.plots import Pair, Words, pairs
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from onnxsep.inspection import Advice, Inspection, KindRow, Layer, MemoryStep

_TONES: dict[str, Tone] = {"high": "bad", "medium": "", "low": "quiet"}
# Bars in a drawing; the rest is in the table.
_LAYERS_DRAWN = 12
_STEPS_SHOWN = 20
_NODES_SHOWN = 8
_MEGA = 1e6


def inspect_html(found: Inspection) -> str:
    """The whole report as a document.

    Args:
        found: What was found.
    """
    name = printable(found.model).rpartition("/")[2]
    subtitle = " · ".join(
        (
            printable("; ".join(found.inputs)),
            f"target {printable(found.target)}",
            duration(found.seconds),
            f"onnxsep {printable(found.onnxsep_version)}",
        )
    )
    drawings = [*_kind_figure(found), *_saving_figure(found)]
    parts = [
        section("The model as a whole", facts(rows.summary(found))),
        notice(list(found.notes), "Keep in mind"),
        _advice(found),
        section("Where the work is", join([_kinds(found), gallery(drawings)]))
        if found.layers
        else Html(),
        section("Layers", _layers(found)) if found.layers else Html(),
        section("Activations in memory", _memory(found)) if found.memory.steps else Html(),
    ]
    return page(f"Inspection of {name}", subtitle, join(parts))


def _advice(found: Inspection) -> Html:
    if not found.advice:
        words = "Nothing was found that would have to be changed."
        return section(f"Advice for {printable(found.target)}", paragraph(words))
    parts = [_piece(advice) for advice in found.advice]
    return section(f"Advice for {printable(found.target)}", join(parts))


def _piece(advice: Advice) -> Html:
    head = join([pill(advice.severity, _TONES.get(advice.severity, "")), f" {advice.title}"])
    parts = [element("h3", head), paragraph(f"{advice.reason}.")]
    if advice.nodes:
        parts.append(paragraph(f"At {rows.places(advice, _NODES_SHOWN)}", quiet=True))
    parts.append(element("p", f"Way out: {advice.way_out}", {"class": "indented"}))
    return join(parts)


def _kinds(found: Inspection) -> Html:
    columns = [
        Column("kind"),
        Column("layers", numeric=True),
        Column("parameters", numeric=True),
        Column("MACs", numeric=True),
        Column("share", numeric=True),
    ]
    if found.profiled:
        columns += [Column("time", numeric=True), Column("of time", numeric=True)]
    return table(columns, [Row(_kind(row, found)) for row in found.kinds], label="Kinds of layers")


def _kind(row: KindRow, found: Inspection) -> list[Content]:
    cells: list[Content] = [
        row.kind,
        str(row.layers) if row.layers else "",
        quantity(row.parameters) if row.parameters else "",
        quantity(row.macs) if row.macs else "",
        join([share(row.share), bar(row.share)]) if row.macs else "",
    ]
    if found.profiled:
        cells += [rows.time(row.time_ms), rows.time_share(row.time_share)]
    return cells


def _kind_figure(found: Inspection) -> list[Html]:
    """Shares by kind: of multiplications, and of time or else of parameters."""
    weights = sum(row.parameters for row in found.kinds) or 1
    lines = []
    for row in found.kinds:
        second = (row.time_share or 0.0) if found.profiled else row.parameters / weights
        if max(row.share, second) > 0:
            lines.append(Pair(row.kind, 100 * row.share, 100 * second))
    if not lines:
        return []
    other = "time" if found.profiled else "weights"
    words = Words(
        "kinds",
        "Work by kind",
        f"Share of multiplications and of {other} of every kind of layer.",
        "per cent",
    )
    columns = [Column("kind"), Column("multiplications", numeric=True), Column(other, numeric=True)]
    cells = [Row([line.label, f"{line.first:.1f} %", f"{line.second:.1f} %"]) for line in lines]
    caption = f"Filled: share of the multiplications. Outlined: share of the {other}."
    data = table(columns, cells, label=words.title)
    return [figure(pairs(lines, words), words.title, caption, data)]


def _saving_figure(found: Inspection) -> list[Html]:
    """The heaviest standard layers, before and by the formula."""
    heavy = [layer for layer in found.layers if layer.formula is not None and layer.macs]
    heavy = sorted(heavy, key=lambda layer: -(layer.macs or 0))[:_LAYERS_DRAWN]
    if not heavy:
        return []
    lines, cells = [], []
    for layer in heavy:
        best = layer.achievable
        here = layer.macs if best is None or best.macs is None else best.macs
        by_formula = None if layer.formula is None else layer.formula.macs
        counts = [rows.macs(count) for count in (layer.macs, here, by_formula)]
        lines.append(Pair(layer.name, (layer.macs or 0) / _MEGA, (here or 0) / _MEGA))
        cells.append(Row([layer.name, *counts]))
    allowed = f"at {rows.percent(found.error)} error"
    words = Words(
        "savings",
        "What can be saved here",
        f"Multiplications of the heaviest standard layers, as they are and {allowed}.",
        "million multiplications",
    )
    columns = [
        Column("layer", wide=True),
        Column("as it is", numeric=True),
        Column(allowed, numeric=True),
        Column("by the formula", numeric=True),
    ]
    caption = f"Filled: as it is. Outlined: {allowed}, judged by {printable(found.basis)}."
    data = table(columns, cells, label=words.title)
    return [figure(pairs(lines, words), words.title, caption, data)]


def _layers(found: Inspection) -> Html:
    columns = [
        Column("layer", wide=True),
        Column("kind"),
        Column("shape"),
        Column("at"),
        Column("parameters", numeric=True),
        Column("MACs", numeric=True),
        Column("share", numeric=True),
    ]
    if found.profiled:
        columns.append(Column("of time", numeric=True))
    columns += [
        Column("formula", numeric=True),
        Column(f"at {rows.percent(found.error)}", numeric=True),
        Column("how, or why not", wide=True),
    ]
    most = max(layer.share for layer in found.layers)
    lines: list[Row | Group] = [
        Row(_layer(layer, most, profiled=found.profiled), quiet=not layer.counted)
        for layer in found.layers
    ]
    legend = paragraph(
        "Formula: multiplications saved by one depthwise filter per channel and a pointwise "
        f"convolution, 1 - 1/N - 1/K. At {rows.percent(found.error)}: saved by the form that needs "
        "fewest multiplications within that relative output error.",
        quiet=True,
    )
    return join([table(columns, lines, label="Layers", stacked=True), legend])


def _layer(layer: Layer, most: float, *, profiled: bool) -> list[Content]:
    cells: list[Content] = [
        layer.name,
        rows.kind(layer),
        layer.shape,
        rows.size(layer),
        quantity(layer.parameters),
        rows.macs(layer.macs),
        join([share(layer.share), bar(layer.share / most if most else 0.0)]),
    ]
    if profiled:
        cells.append(rows.time_share(layer.time_share))
    return [*cells, rows.formula_saving(layer), rows.saving_here(layer), rows.how_here(layer)]


def _memory(found: Inspection) -> Html:
    peak = found.memory.peak_step
    if peak is None:
        return Html()
    order = sorted(found.memory.steps, key=lambda step: -step.bytes)
    names = [Column("node", wide=True), Column("operator"), Column("largest at")]
    columns = [*names, Column("alive", numeric=True)]
    shown = table(
        columns,
        [Row(_step(step, peak.bytes)) for step in order[:_STEPS_SHOWN]],
        label="Activations in memory",
    )
    words = paragraph(
        "A lower bound: in the order of the graph, elementwise operators in place, kernels without "
        "room of their own.",
        quiet=True,
    )
    title = f"The {min(len(order), _STEPS_SHOWN)} nodes at which most is alive"
    return join([words, folded(title, shown)])


def _step(step: MemoryStep, most: int) -> list[Content]:
    return [
        step.node,
        step.operator,
        "x".join(map(str, step.size)) or "-",
        join([rows.bytes_(step.bytes), bar(step.bytes / most if most else 0.0)]),
    ]
