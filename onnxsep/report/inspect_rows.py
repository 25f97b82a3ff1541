"""What the tables of an inspection say, whatever they are written in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxsep.report.bench_numbers import UNKNOWN, milliseconds, share
from onnxsep.report.text import printable, quantity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxsep.inspection import Advice, Inspection, Layer

_NODES_SHOWN = 3
# Reasons that need no line: they say what the kind says.
_BY_KIND = ("pointwise", "depthwise")
_WORDS = {
    "over-error": "needing more error",
    "too-few-channels": "with too few channels",
    "grouped": "with groups",
    "not-worth-it": "that no form makes cheaper",
    "already-quantized": "quantized already",
    "inside-subgraph": "inside a subgraph",
    "transposed": "transposed",
    "weight-not-constant": "with a weight that is computed",
    "fit-failed": "that could not be fitted",
}


def macs(count: int | None) -> str:
    """Multiplications: 118 M; a dash where not known."""
    return UNKNOWN if count is None else quantity(count)


def saved(before: int | None, after: int | None) -> str:
    """How much of ``before`` is saved: 88 %; a dash where nothing can be said."""
    if not before or after is None:
        return UNKNOWN
    return share(1 - after / before)


def formula_saving(layer: Layer) -> str:
    """By one filter per channel; a dash where there is nothing to separate."""
    formula = layer.formula
    if formula is None:
        return UNKNOWN
    return share(max(1 - formula.ratio, 0.0)) if formula.ratio < 1 else "0 %"


def saving_here(layer: Layer) -> str:
    """Within the error allowed; nothing where there is nothing to separate."""
    best = layer.achievable
    if best is None:
        return "0 %" if layer.formula is not None else UNKNOWN
    if layer.macs and best.macs is not None:
        return saved(layer.macs, best.macs)
    return saved(layer.parameters, best.parameters)


def how_here(layer: Layer) -> str:
    """The form and rank within the error, or why there is none."""
    best = layer.achievable
    if best is None:
        return printable(layer.reason)
    rank = f"{best.rank} channels" if best.form == "cp" else f"rank {best.rank}"
    return f"{best.form}, {rank}, error {100 * best.error:.2g} %"


def size(layer: Layer) -> str:
    """Of input and output: 56x56, or 56x56 to 28x28."""
    before, after = ("x".join(map(str, each)) for each in (layer.input_size, layer.output_size))
    if not before or not after:
        return UNKNOWN
    return before if before == after else f"{before} to {after}"


def kind(layer: Layer) -> str:
    """The kind, with the precision unless it is single."""
    known = layer.precision in ("", "fp32")
    return layer.kind if known else f"{layer.kind} {layer.precision}"


def time(value: float | None) -> str:
    """Milliseconds; a dash where not measured."""
    return UNKNOWN if value is None else milliseconds(value)


def time_share(value: float | None) -> str:
    """A share of the time; a dash where not measured."""
    return UNKNOWN if value is None else share(value)


def bytes_(count: float) -> str:
    """12.3 MB."""
    return f"{quantity(count)}B"


def summary(found: Inspection) -> list[tuple[str, str]]:
    """The model as a whole: names and values."""
    totals = found.totals
    lines: list[tuple[str, str]] = [
        ("parameters", f"{totals.parameters:,} ({bytes_(totals.bytes)})"),
        (
            "multiplications",
            f"{quantity(totals.macs)} an image ({totals.macs:,})"
            + (f", {totals.unsized} layers not counted" if totals.unsized else ""),
        ),
    ]
    if found.layers:
        lines += _savings(found)
    if totals.peak_bytes:
        lines.append(
            (
                "activations",
                f"{bytes_(totals.peak_bytes)} at most, at {printable(totals.peak_node)} "
                f"(batch {found.batch}; without what kernels need themselves)",
            )
        )
    if totals.time_ms is not None:
        lines.append(("time", f"{milliseconds(totals.time_ms)} in kernels, from the profile"))
    return lines


def _savings(found: Inspection) -> list[tuple[str, str]]:
    totals = found.totals
    lines = [
        (
            "by the formula 1/N + 1/K",
            f"{quantity(totals.formula_macs)} would be left "
            f"({saved(totals.macs, totals.formula_macs)} saved) if every standard convolution "
            "took one filter per channel",
        ),
        (
            f"at {percent(found.error)} error per layer",
            f"{quantity(totals.achievable_macs)} would be left "
            f"({saved(totals.macs, totals.achievable_macs)} saved) in "
            f"{totals.achievable_layers} of {totals.layers} layers, judged by "
            f"{printable(found.basis)}",
        ),
    ]
    why = reasons(found.layers)
    if why:
        lines.append(("the other layers", why))
    return lines


def percent(value: float) -> str:
    """The error allowed: 1 %, 0.5 %."""
    return f"{100 * value:.3g} %"


def reasons(layers: Iterable[Layer]) -> str:
    """How many layers cannot be separated, and why; the least error of those that need more."""
    layers = [layer for layer in layers if layer.achievable is None and layer.code not in _BY_KIND]
    counts = Counter(layer.code for layer in layers)
    words = []
    for code, count in counts.most_common():
        text = f"{count} {_WORDS.get(code, printable(code))}"
        if code == "over-error":
            least = [
                min(point.error for point in layer.curve)
                for layer in layers
                if layer.code == code and layer.curve
            ]
            if least:
                text += f" (the least that saves anything: {percent(min(least))}"
                text += f" to {percent(max(least))})" if max(least) > min(least) else ")"
        words.append(text)
    return ", ".join(words)


def places(advice: Advice, most: int = _NODES_SHOWN) -> str:
    """The first nodes and how many more."""
    names = [printable(name) for name in advice.nodes]
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
