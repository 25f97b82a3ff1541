"""Channels whose ranges differ so much that one scale for all of them loses the weak ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsep.convolution import find_convolutions
from onnxsep.inspection.facts import Facts, plural
from onnxsep.inspection.record import Advice

# Steps that int8 has on either side of zero.
_STEPS = 127
# A channel that reaches over fewer steps is hardly there: three bits.
_FEWEST_STEPS = 8
# Of the channels of a layer: fewer weak ones are what every network has.
_MANY = 0.1
_VERY_MANY = 0.5
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class _Spread:
    name: str
    kind: str
    channels: int
    weak: int
    ratio: float


def advise_on_channel_ranges(facts: Facts) -> tuple[list[Advice], list[str]]:
    """One piece on weights, and with data one on activations."""
    advice = []
    weights = []
    for site in find_convolutions(facts.folded.graph)[0]:
        largest = np.abs(site.weight.reshape(site.out_channels, -1)).max(axis=1)
        spread = _spread(site.name, site.kind, largest.astype(np.float64))
        if spread is not None:
            weights.append(spread)
    if weights:
        advice.append(_on_weights(weights, len(facts.layers)))
    activations = []
    for name, statistics in facts.statistics.items():
        reach = np.maximum(np.abs(statistics.low), np.abs(statistics.high))
        spread = _spread(name, "", reach)
        if spread is not None:
            activations.append(spread)
    if activations:
        advice.append(_on_activations(activations, len(facts.statistics)))
    return advice, []


def _spread(name: str, kind: str, largest: npt.NDArray[np.float64]) -> _Spread | None:
    """What a layer's channels reach, if one scale would starve many of them; dead ones apart."""
    alive = largest[np.isfinite(largest) & (largest > 0)]
    if len(alive) < 2:
        return None
    weak = int(np.count_nonzero(alive * _STEPS < _FEWEST_STEPS * alive.max()))
    if weak < _MANY * len(alive):
        return None
    weakest = float(np.quantile(alive, _MANY, method="lower"))
    return _Spread(name, kind, len(alive), weak, float(alive.max()) / weakest)


def _on_weights(found: Sequence[_Spread], layers: int) -> Advice:
    order = sorted(found, key=lambda each: -each.weak / each.channels)
    depthwise = sum(each.kind == "depthwise" for each in found)
    worst = order[0]
    return Advice(
        "weight-ranges-differ",
        "medium" if worst.weak >= _VERY_MANY * worst.channels or depthwise else "low",
        "weights need a scale for each channel",
        tuple(each.name for each in order),
        f"in {len(found)} of {plural(layers, 'layer')} ({depthwise} of them depthwise) channels "
        f"differ so much that one int8 scale per tensor leaves weak ones under {_FEWEST_STEPS} "
        f"steps of {_STEPS}: {_examples(order)}",
        "quantize weights per channel, as onnxsep optimize does; quantizers that only know one "
        "scale per tensor need cross-layer equalization first",
        {"layers": len(found), "depthwise": depthwise, "largest_ratio": _largest(found)},
    )


def _on_activations(found: Sequence[_Spread], values: int) -> Advice:
    order = sorted(found, key=lambda each: -each.weak / each.channels)
    worst = order[0]
    return Advice(
        "activation-ranges-differ",
        "medium" if worst.weak >= _VERY_MANY * worst.channels else "low",
        "channels share one activation range",
        tuple(each.name for each in order),
        f"in {len(found)} of {plural(values, 'activation')} weak channels stay under "
        f"{_FEWEST_STEPS} steps of {_STEPS} on the data, and activations have one scale for all "
        f"channels: {_examples(order)}",
        "onnxsep optimize equalizes channels where that is exact (Relu and the like) before it "
        "quantizes; else train with BatchNormalization in front, or keep the layer in float",
        {"values": len(found), "largest_ratio": _largest(found)},
    )


def _examples(order: Sequence[_Spread]) -> str:
    words = [
        f"{each.weak} of {each.channels} channels of {each.name} (the largest reaches "
        f"{each.ratio:.3g} times as far as the weakest tenth)"
        for each in order[:_SHOWN]
    ]
    return "; ".join(words)


def _largest(found: Sequence[_Spread]) -> float:
    return max(each.ratio for each in found)
