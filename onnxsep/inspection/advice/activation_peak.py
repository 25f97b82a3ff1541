"""Where activations need most memory, and whether halving the image earlier would help."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxsep.inspection.facts import Facts, megabytes, percent
from onnxsep.inspection.record import Advice, MemoryStep

# What microcontrollers commonly have (MCUNet, Lin et al. 2020, plans for 320 kB); below it the peak
# is no trouble anywhere.
_LEAST_BYTES = 320_000
# The second-level caches of phones' processors hold half a megabyte to two; what is larger travels
# through main memory.
_BEYOND_CACHES = 2_000_000
# Area of the image behind one halving; a peak above it was downsampled at most once.
_ONE_HALVING = 1 / 4
# The peak must be so many times what the rest of the network needs.
_STANDS_OUT = 1.5
_INTEGER_SHARE = 1 / 4


def advise_on_activation_peak(facts: Facts) -> tuple[list[Advice], list[str]]:
    """The peak if it is large against the weights; late downsampling if that is why."""
    peak = facts.memory.peak_step
    if peak is None or peak.bytes < _LEAST_BYTES:
        return [], []
    late = _late(facts, peak)
    advice = [late] if late is not None else []
    if late is None and peak.bytes > facts.weights_bytes:
        advice.append(
            Advice(
                "activation-peak",
                "low",
                "activations need more memory than weights",
                (peak.node,),
                f"{megabytes(peak.bytes)} of activations are alive at {peak.node} "
                f"({peak.operator}{_at(peak.size)}) at batch {facts.sizes.batch}, against "
                f"{megabytes(facts.weights_bytes)} of weights; the largest are {_values(peak)}",
                "int8 needs about a quarter of it: onnxsep optimize --precision int8; a smaller "
                "image shrinks it with its area",
                {
                    "bytes": peak.bytes,
                    "int8_bytes": peak.bytes * _INTEGER_SHARE,
                    "weights_bytes": facts.weights_bytes,
                },
            )
        )
    return advice, []


def _late(facts: Facts, peak: MemoryStep) -> Advice | None:
    """Late downsampling, if the peak is where the image is still large and stands out."""
    image = max(map(_area, _images(facts)), default=0)
    if not image or len(peak.size) < 2:
        return None
    border = image * _ONE_HALVING
    if math.prod(peak.size) < border:
        return None
    later = [
        step
        for step in facts.memory.steps
        if len(step.size) == len(peak.size) and math.prod(step.size) < math.prod(peak.size)
    ]
    rest = max((step.bytes for step in later), default=0)
    if peak.bytes < _STANDS_OUT * rest:
        return None
    early = [
        layer
        for layer in facts.layers
        if layer.counted and math.prod(layer.output_size or (0,)) >= math.prod(peak.size)
    ]
    share = sum(layer.macs or 0 for layer in early) / max(facts.macs, 1)
    never = not later
    where = f"{peak.node} ({peak.operator}{_at(peak.size)})"
    against = (
        "and the network never halves the image"
        if never
        else f"{peak.bytes / rest:.1f} times what any smaller size needs ({megabytes(rest)})"
    )
    return Advice(
        "late-downsampling",
        "medium" if peak.bytes >= _BEYOND_CACHES else "low",
        "the image is never downsampled" if never else "late downsampling",
        (peak.node, *(layer.name for layer in early if layer.name != peak.node)),
        f"{megabytes(peak.bytes)} of activations are alive at {where}, {against}; "
        f"{percent(share)} of the multiplications are done at that size. The largest values are "
        f"{_values(peak)}",
        "fold blocks of 2x2 pixels into channels at the entry and unfold them at the exit "
        "(SpaceToDepth, DepthToSpace)"
        if never
        else f"when you train again, halve the image once more before {peak.node}, or let the "
        "channels grow only behind it",
        {"bytes": peak.bytes, "later_bytes": rest, "share": share},
    )


def _images(facts: Facts) -> Sequence[np.ndarray]:
    return [array for array in facts.sizes.feeds.values() if array.ndim > 2]


def _area(array: np.ndarray) -> int:
    """Pixels of one image, whichever side its channels are on."""
    return max(math.prod(array.shape[2:]), math.prod(array.shape[1:-1]))


def _at(size: tuple[int, ...]) -> str:
    return f" at {'x'.join(map(str, size))}" if size else ""


def _values(step: MemoryStep) -> str:
    return ", ".join(f"{name} {megabytes(count)}" for name, count in step.values[:2])
