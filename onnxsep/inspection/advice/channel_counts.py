"""Channel counts that miss the fast kernels, with the cost measured on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxsep.inspection.facts import Facts, percent, plural
from onnxsep.inspection.measured import PaddingTime, PaddingTimer
from onnxsep.inspection.record import Advice, Layer
from onnxsep.passes.align_channels import find_channel_groups
from onnxsep.search.timing import Precision
from onnxsep.targets.quantization import get_scheme

# Blocked layouts in float and the integer kernels like these; see docs/how-it-works.md.
_MULTIPLES = (8, 16)
# Padding that adds more than this share of channels is not tried: no layout wins that back.
_MOST_GROWTH = 0.5
# Different layers measured at most, the heaviest first.
_MOST_SHAPES = 4
# A gain below this may be the luck of one measurement.
_LEAST_GAIN = 1.03
_LARGE_GAIN = 1.15
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_KINDS = ("standard", "pointwise")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class _Site:
    """A layer, and which of its channel counts may be padded with zeros."""

    layer: Layer
    free_in: bool
    free_out: bool

    @property
    def odd_counts(self) -> list[int]:
        """Counts that miss the multiples and may change."""
        layer = self.layer
        counts = ((layer.in_channels, self.free_in), (layer.out_channels, self.free_out))
        return [count for count, free in counts if free and count % _MULTIPLES[0]]


@dataclasses.dataclass(frozen=True)
class _Finding:
    layers: Sequence[Layer]
    best: PaddingTime


def advise_on_channel_counts(facts: Facts) -> tuple[list[Advice], list[str]]:
    """One piece for all layers that padding makes faster; a note where it does not."""
    sites, notes = _odd_layers(facts)
    if not sites:
        return [], notes
    counts = sorted({count for site in sites for count in site.odd_counts})
    words = (
        f"channel counts {_list(counts)} are no multiples of {_MULTIPLES[0]}"
        if len(counts) > 1
        else f"{counts[0]} channels are no multiple of {_MULTIPLES[0]}"
    )
    if not facts.target.measured_here:
        where = f"on {facts.target.title}"
        return [], [*notes, f"{words}; what that costs {where} cannot be measured here"]
    if not facts.measure:
        return [], [*notes, f"{words}; what that costs was not measured"]
    findings, measured, shapes = _measure(facts, sites)
    if not findings:
        return [], [
            *notes,
            f"{words}, but padding {measured} of {plural(shapes, 'such shape')} gains nothing here",
        ]
    findings.sort(key=lambda each: -sum(layer.macs or 0 for layer in each.layers))
    nodes = tuple(dict.fromkeys(layer.name for each in findings for layer in each.layers))
    gain = max(each.best.speedup for each in findings)
    share = sum(layer.share for layer in facts.layers if layer.name in nodes)
    left = "" if measured == shapes else f" ({shapes - measured} lighter shapes not measured)"
    advice = Advice(
        "channels-miss-kernels",
        "medium" if gain >= _LARGE_GAIN and share >= 1 - 1 / _LARGE_GAIN else "low",
        "channel counts that miss the fast kernels",
        nodes,
        f"{'; '.join(_described(each) for each in findings[:_SHOWN])}{left}. Measured layer by "
        f"layer between pointwise ones; these hold {percent(share)} of the multiplications",
        "onnxsep optimize pads with zeros where that pays (align_channels); in training, choose "
        f"multiples of {_MULTIPLES[0]}, better {_MULTIPLES[-1]}",
        {"layers": len(nodes), "largest_speedup": gain, "share": share},
    )
    return [advice], notes


def _odd_layers(facts: Facts) -> tuple[list[_Site], list[str]]:
    """Layers with a count that misses the multiples and is free to change."""
    candidates = {
        layer.name: layer
        for layer in facts.layers
        if layer.kind in _KINDS
        and not layer.inside
        and layer.precision in ("fp32", "fp16")
        and layer.macs
        and layer.input_size
        and (layer.in_channels % _MULTIPLES[0] or layer.out_channels % _MULTIPLES[0])
    }
    if not candidates:
        return [], []
    free: set[str] = set()
    held: dict[str, int] = {}
    for group in find_channel_groups(facts.folded):
        if group.channels % _MULTIPLES[0] == 0:
            continue
        if group.pin is None:
            free.update(group.values)
        elif group.layer in candidates and group.channels > _MULTIPLES[0]:
            held.setdefault(group.pin.reason, group.channels)
    sites = []
    for node in facts.folded.graph:
        layer = candidates.get(node.name or "")
        source = node.inputs[0] if layer is not None else None
        if layer is None or source is None:
            continue
        site = _Site(layer, source.name in free, node.outputs[0].name in free)
        if _paddings(site):
            sites.append(site)
    notes = []
    if held:
        reason, channels = next(iter(held.items()))
        notes.append(f"a count of {channels} channels is no multiple of {_MULTIPLES[0]}: {reason}")
    return sites, notes


def _measure(facts: Facts, odd: Sequence[_Site]) -> tuple[list[_Finding], int, int]:
    """What padding gains, how many shapes were measured, and how many there are."""
    by_shape: dict[tuple[object, ...], list[_Site]] = {}
    for site in odd:
        layer = site.layer
        channels = (layer.in_channels, layer.out_channels, site.free_in, site.free_out)
        key = (*channels, layer.kernel, layer.strides, layer.dilations, layer.input_size)
        by_shape.setdefault(key, []).append(site)
    order = sorted(by_shape.values(), key=lambda group: -len(group) * (group[0].layer.macs or 0))
    integers = bool(get_scheme(facts.target.name).operators)
    timer = PaddingTimer(facts.target, facts.threads)
    facts.progress.stage("timing channel counts", min(len(order), _MOST_SHAPES))
    findings: list[_Finding] = []
    measured = 0
    for group in order[:_MOST_SHAPES]:
        if timer.is_spent:
            break
        facts.progress.step(group[0].layer.name)
        measured += 1
        for precision in _PRECISIONS if integers else _PRECISIONS[:1]:
            times = [
                timer.time(group[0].layer, *channels, precision)
                for channels in _paddings(group[0])
                if not timer.is_spent
            ]
            gained = [each for each in times if each.low > 1 and each.speedup >= _LEAST_GAIN]
            if gained:
                best = max(gained, key=lambda each: each.speedup)
                findings.append(_Finding([site.layer for site in group], best))
    return findings, measured, len(order)


def _paddings(site: _Site) -> list[tuple[int, int]]:
    layer = site.layer
    found: dict[tuple[int, int], None] = {}
    for multiple in _MULTIPLES:
        inputs = _padded(layer.in_channels, multiple) if site.free_in else layer.in_channels
        outputs = _padded(layer.out_channels, multiple) if site.free_out else layer.out_channels
        growth = max(inputs / layer.in_channels, outputs / layer.out_channels)
        if growth <= 1 + _MOST_GROWTH:
            found[inputs, outputs] = None
    found.pop((layer.in_channels, layer.out_channels), None)
    return list(found)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _described(finding: _Finding) -> str:
    layer, best = finding.layers[0], finding.best
    size = "x".join(map(str, layer.input_size))
    return (
        f"{layer.in_channels} to {layer.out_channels} channels, {'x'.join(map(str, layer.kernel))} "
        f"at {size} ({plural(len(finding.layers), 'layer')}), {best.precision}: "
        f"{best.before_ms:.3g} ms, padded to {best.in_channels} and {best.out_channels} "
        f"{best.after_ms:.3g} ms ({best.speedup:.2f}x, {best.low:.2f}-{best.high:.2f})"
    )


def _list(counts: Sequence[int]) -> str:
    shown = ", ".join(map(str, counts[:8]))
    return shown + (", ..." if len(counts) > 8 else "")
