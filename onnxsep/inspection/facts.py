"""All that the rules of the advice may look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from onnxsep.inspection.record import ActivationMemory, Layer
from onnxsep.inspection.sizes import Sizes
from onnxsep.passes.base import RewriteResult
from onnxsep.passes.equalize import ChannelStatistics
from onnxsep.progress import Progress
from onnxsep.targets import Target


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """One inspected model.

    Attributes:
        original: As it came.
        model: Normalized.
        folded: Normalized, BatchNormalization folded.
        folding: What was folded, and what was not.
        layers: Its convolutions, savings and times included.
        sizes: Of all values.
        memory: Activations in memory.
        target: Where it shall run.
        threads: Threads inside one operator, for measurements.
        measure: Whether small models may be timed.
        statistics: Of values with the outputs of convolutions, channel by channel; empty without
            data.
        weights_bytes: Of all initializers.
        progress: Told about measurements.
    """

    original: ir.Model
    model: ir.Model
    folded: ir.Model
    folding: RewriteResult
    layers: tuple[Layer, ...]
    sizes: Sizes
    memory: ActivationMemory
    target: Target
    threads: int
    measure: bool
    statistics: Mapping[str, ChannelStatistics]
    weights_bytes: int
    progress: Progress

    @property
    def macs(self) -> int:
        """Multiplications of the convolutions that count."""
        return sum(layer.macs or 0 for layer in self.layers if layer.counted)

    @property
    def is_quantized(self) -> bool:
        """Whether any convolution runs on integers, or is meant to."""
        return any(layer.precision == "int8" for layer in self.layers)


def percent(share: float) -> str:
    """A share in words of a reason: 12 %, 0.4 %."""
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def megabytes(count: float) -> str:
    """Bytes in words of a reason: 12.3 MB, 340 kB."""
    if count >= 10**6:
        return f"{count / 1e6:.3g} MB" if count < 10**9 else f"{count / 1e9:.3g} GB"
    return f"{count / 1e3:.3g} kB"


def plural(count: int, what: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{count} {what}{'' if count == 1 else 's'}"
