"""What a search may do, and what it hands back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from onnxsep.latency import Comparison
from onnxsep.passes.quantize import QuantizeSettings
from onnxsep.plan import Plan
from onnxsep.quality import Quality
from onnxsep.search.build import Built, Precision


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search may do.

    Attributes:
        precisions: To be tried.
        threads: Of latency measurements.
        seed: Of every random choice.
        min_speedup: Least speed-up; the most careful plan that reaches it is taken. None takes the
            fastest plan within the budget.
        seconds: Time for the whole search; None for as long as it needs.
        cache: File of layer times measured before; None keeps none.
        calibration_cache: Of activation statistics, see `collect_cached`; None keeps none.
        quantization: Settings of int8.
        aligns: Whether channel counts may be padded.
        front: Also carry out plans beside the best one, for a Pareto front.
    """

    precisions: tuple[Precision, ...]
    threads: int = 1
    seed: int = 0
    min_speedup: float | None = None
    seconds: float | None = None
    cache: Path | None = None
    calibration_cache: Path | None = None
    quantization: QuantizeSettings = dataclasses.field(default_factory=QuantizeSettings)
    aligns: bool = True
    front: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """A result that was built, judged and timed.

    Attributes:
        built: The model and how it came about.
        quality: On images that no fit saw.
        comparison: The cleaned input against it.
        holds: Whether it is within the budget.
        bytes: Size of the model as a file.
    """

    built: Built
    quality: Quality
    comparison: Comparison
    holds: bool
    bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        ranked: To be handed out, the best first; none if nothing is faster within the budget.
        findings: All that was built and timed.
        kept: Reasons of the convolutions that were looked at, for when nothing was rewritten.
        notes: What the report must say.
        retreat: Searches on after images that nothing had seen have rejected a finding, with its
            quality on them, and says what is found then. More careful results take time only when
            they are needed.
    """

    ranked: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    kept: Plan
    notes: tuple[str, ...]
    retreat: Callable[[Finding, Quality], Outcome]
