"""Depthwise layers with so few channels that a vector register is not filled."""

from __future__ import annotations

from onnxsep.inspection.facts import Facts, percent, plural
from onnxsep.inspection.measured import PaddingTimer
from onnxsep.inspection.record import Advice, Layer, Severity
from onnxsep.targets.quantization import get_scheme

# Channels that the integer kernels for depthwise convolutions take at a time.
_BLOCKS = {"cpu": 16, "cpu-arm": 8, "xnnpack": 8, "nnapi": 8}
_WHY_BLOCK = {
    "cpu": "AVX-512 takes 16 at a time, and so does the integer kernel",
    "cpu-arm": "the integer kernel takes 8 at a time",
    "xnnpack": "NEON takes 8 at a time",
    "nnapi": "NEON takes 8 at a time",
}
# Of the block's time that a narrow layer may take before it is no bargain.
_NO_CHEAPER = 0.8
_MUCH_TIME = 0.1


def advise_on_narrow_depthwise(facts: Facts) -> tuple[list[Advice], list[str]]:
    """One piece for all depthwise layers narrower than a block."""
    block = _BLOCKS.get(facts.target.name)
    if block is None:
        return [], []
    narrow = [
        layer
        for layer in facts.layers
        if layer.kind == "depthwise" and layer.taps > 1 and layer.out_channels < block
    ]
    if not narrow:
        return [], []
    used = sum(layer.out_channels for layer in narrow) / (block * len(narrow))
    reason = (
        f"{plural(len(narrow), 'depthwise layer')} with "
        f"{_counts(narrow)} channels: {_WHY_BLOCK[facts.target.name]}, so {percent(1 - used)} of "
        "that work is on nothing"
    )
    figures: dict[str, float] = {"layers": len(narrow), "block": block, "used": used}
    severity: Severity = "low"
    times = [layer.time_share for layer in narrow if layer.time_share is not None]
    if times:
        macs = sum(layer.share for layer in narrow)
        reason += (
            f"; they take {percent(sum(times))} of the time for {percent(macs)} of the "
            "multiplications"
        )
        figures |= {"time_share": sum(times), "share": macs}
        if sum(times) >= _MUCH_TIME:
            severity = "medium"
    measured = _measured(facts, narrow, block)
    if measured is not None:
        words, ratio = measured
        reason += f"; {words}"
        figures["time_against_block"] = ratio
        if ratio >= _NO_CHEAPER:
            severity = "medium"
    return [
        Advice(
            "narrow-depthwise",
            severity,
            "very narrow depthwise layers",
            tuple(layer.name for layer in narrow),
            reason,
            f"train with {block} channels there, or with a standard convolution, which so few "
            "channels can afford",
            figures,
        )
    ], []


def _counts(layers: list[Layer]) -> str:
    counts = sorted({layer.out_channels for layer in layers})
    return " and ".join(map(str, counts)) if len(counts) < 3 else f"{counts[0]} to {counts[-1]}"


def _measured(facts: Facts, narrow: list[Layer], block: int) -> tuple[str, float] | None:
    """The heaviest of them against the same with a full block of channels."""
    sized = [
        layer
        for layer in narrow
        if layer.macs and layer.input_size and layer.in_channels == layer.out_channels
    ]
    integers = bool(get_scheme(facts.target.name).operators)
    if not (facts.measure and facts.target.measured_here and sized and integers):
        return None
    layer = max(sized, key=lambda each: each.macs or 0)
    facts.progress.stage("timing a narrow depthwise layer")
    found = PaddingTimer(facts.target, facts.threads).time(layer, block, block, "int8")
    return (
        f"in int8 {layer.name} takes {found.before_ms:.3g} ms between two pointwise layers, with "
        f"{block} channels {found.after_ms:.3g} ms",
        found.speedup,
    )
