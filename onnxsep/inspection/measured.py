"""What a number of channels costs on this machine: a layer beside its padded self, in turn.

Both are small models, framed as in `onnxsep.search.small_models`, so that the layer works in the
memory layout that it would have in a network. The frame's time is part of both.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxsep.constants import add_initializer, remove_if_unused
from onnxsep.convolution import Geometry, find_convolutions
from onnxsep.factorize import Activation
from onnxsep.inspection.record import Layer
from onnxsep.latency import Comparison, compare_latency
from onnxsep.search.small_int8 import to_int8
from onnxsep.search.small_models import INPUT, LayerShape, example_input, layer_model
from onnxsep.search.timing import Precision
from onnxsep.targets import Target

# Of one comparison, besides its warm-up.
_SECONDS = 0.25
# All measurements of an inspection together.
MOST_SECONDS = 5.0

Compare = Callable[[ir.Model, ir.Model], Comparison]


@dataclasses.dataclass(frozen=True)
class PaddingTime:
    """A layer as it is against the same with more channels.

    Attributes:
        in_channels: After padding.
        out_channels: After padding.
        precision: ``fp32`` or ``int8``.
        before_ms: Median of the layer as it is, frame included.
        after_ms: Median of the padded one.
        speedup: Median ratio of the two in the same round.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    in_channels: int
    out_channels: int
    precision: Precision
    before_ms: float
    after_ms: float
    speedup: float
    low: float
    high: float


class PaddingTimer:
    """Times layers until its seconds are spent."""

    def __init__(
        self,
        target: Target,
        threads: int,
        *,
        seconds: float = MOST_SECONDS,
        compare: Compare | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare.

        Args:
            target: Decides the types of int8.
            threads: Threads inside one operator.
            seconds: After so many nothing new is begun.
            compare: Two models in turn; None runs them on onnxruntime.
            clock: Seconds.
        """
        self._target = target
        self._threads = threads
        self._compare = compare or self._run
        self._clock = clock
        self._end = clock() + seconds

    @property
    def is_spent(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._end

    def time(
        self, layer: Layer, in_channels: int, out_channels: int, precision: Precision
    ) -> PaddingTime:
        """One layer against itself with so many channels.

        Args:
            layer: Standard, pointwise or depthwise, its sizes known.
            in_channels: C after padding; of a depthwise layer N as well.
            out_channels: N after padding.
            precision: Of both.
        """
        depthwise = layer.kind == "depthwise"
        shape = _shape(layer)
        padded = dataclasses.replace(shape, in_channels=in_channels, out_channels=out_channels)
        models = [_model(each, self._target, depthwise) for each in (shape, padded)]
        if precision == "int8":
            for model in models:
                to_int8(model, self._target.name)
        found = self._compare(*models)
        return PaddingTime(
            in_channels,
            out_channels,
            precision,
            found.first.median,
            found.second.median,
            found.speedup,
            found.low,
            found.high,
        )

    def _run(self, first: ir.Model, second: ir.Model) -> Comparison:
        feeds = {INPUT: example_input(first)}
        return compare_latency(first, second, feeds, threads=self._threads, seconds=_SECONDS)


def _shape(layer: Layer) -> LayerShape:
    dimensions = len(layer.kernel)
    reach = [d * (k - 1) for d, k in zip(layer.dilations, layer.kernel, strict=True)]
    geometry = Geometry(
        kernel=layer.kernel,
        strides=layer.strides,
        dilations=layer.dilations,
        # How much is padded hardly matters to the time; this keeps sizes as they mostly are.
        pads=tuple((each // 2, each - each // 2) for each in reach[:dimensions]),
    )
    return LayerShape(
        batch=1,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        geometry=geometry,
        input_size=layer.input_size,
        activation=Activation.relu(),
    )


def _model(shape: LayerShape, target: Target, depthwise: bool) -> ir.Model:
    model = layer_model(shape, None, target)
    if not depthwise:
        return model
    sites = find_convolutions(model.graph)[0]
    site = next(each for each in sites if each.taps > 1)
    old = site.node.inputs[1]
    weight = np.ascontiguousarray(site.weight[:, :1]) * math.sqrt(shape.in_channels)
    site.node.replace_input_with(
        1, add_initializer(model.graph, "filters", weight.astype(np.float32))
    )
    site.node.attributes["group"] = ir.AttrInt64("group", shape.in_channels)
    remove_if_unused(old)
    return model
