"""Layers that are faster in float, within a network that is quantized.

The integer kernels want input channels by fours, and depthwise layers sixteen channels at a time;
what misses that may be faster in float, quantization of what it leaves included. Whether it is,
depends on what stands beside it, so whole networks are timed, with the layer in float and without.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.latency import Comparison
from onnxsep.progress import Progress

Compare = Callable[[ir.Model, ir.Model, float], Comparison]
"""Two models in turn for so many seconds."""

# What the integer kernels want of a dense, and of a depthwise layer.
_DENSE_CHANNELS, _DEPTHWISE_CHANNELS = 4, 16
# A layer must save this share of the network's time beyond doubt.
_LEAST_GAIN = 0.01
# Seconds for one layer; less is not tried.
_TRIAL_SECONDS = 0.6


def faster_in_float(
    model: ir.Model,
    quantized: Callable[[frozenset[str]], ir.Model],
    compare: Compare,
    seconds: float,
    progress: Progress,
) -> frozenset[str]:
    """Names of convolutions with which in float the quantized network is faster.

    Args:
        model: In float.
        quantized: The model with these nodes in float, as fast as with the right ranges.
        compare: Times two models in turn for so many seconds.
        seconds: Time to spend.
        progress: Told about every measurement.
    """
    doubtful = [site for site in find_convolutions(model.graph)[0] if _misses_kernels(site)]
    doubtful = doubtful[: int(seconds / _TRIAL_SECONDS)]
    if not doubtful:
        return frozenset()
    progress.stage("timing layers in float within the int8 network", len(doubtful))
    found: frozenset[str] = frozenset()
    best = quantized(found)
    for site in doubtful:
        progress.step(site.name)
        names = found | {site.name}
        other = quantized(names)
        if compare(best, other, _TRIAL_SECONDS).low >= 1 + _LEAST_GAIN:
            found, best = names, other
    return found


def _misses_kernels(site: ConvSite) -> bool:
    if site.group == 1:
        return bool(site.in_channels % _DENSE_CHANNELS)
    return bool(site.group % _DEPTHWISE_CHANNELS)
