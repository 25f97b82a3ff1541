"""The one record of a run: everything the report says, as plain data that become JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from onnxsep.errors import OutputError
from onnxsep.latency import Comparison
from onnxsep.model import atomic_file
from onnxsep.quality import Quality
from onnxsep.report.head import record_text

SCHEMA_VERSION = 1
# Kind of a convolution that could not be read, of which there are no figures.
UNREAD = "unknown"


@dataclasses.dataclass(frozen=True)
class PassRow:
    """One pass of the run.

    Attributes:
        name: As on the command line.
        kind: ``lossless`` or ``lossy``.
        changes: One mapping per rewrite: node, code, detail, figures.
        refusals: One mapping per refusal: node, code, reason, figures.
    """

    name: str
    kind: str
    changes: list[dict[str, Any]]
    refusals: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One convolution of the input model.

    Attributes:
        name: Its node's name.
        kind: standard, pointwise, depthwise, grouped or unknown.
        shape: Such as ``64x64 3x3``: inputs x outputs, kernel.
        action: ``separated`` or ``kept``.
        detail: Form and rank, or the reason.
        code: The same for programs.
        rank: Filters per channel, or channels in the middle of cp; 0 if kept.
        error: Relative output error of the fit, 0 if kept.
        parameters_before: Weights without bias.
        parameters_after: The same after the rewrite.
        multiplications_before: For one image.
        multiplications_after: The same after the rewrite.
        precision: ``int8`` if it, or a convolution that it became, is quantized, else ``fp32``.
    """

    name: str
    kind: str
    shape: str
    action: str
    detail: str
    code: str
    rank: int
    error: float
    parameters_before: int
    parameters_after: int
    multiplications_before: int
    multiplications_after: int
    precision: str = "fp32"


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """One result that was built and measured on the way.

    Attributes:
        precision: ``fp32`` or ``int8``.
        separated: Number of convolutions separated.
        speedup: Against the cleaned input, with its interval.
        low: Lower end of the 95 % interval.
        high: Upper end.
        value: The measure on the images that the choice is made on.
        drop: What is lost there.
        holds: Whether it is within the budget.
        bytes: Size of the model.
        chosen: Whether it was handed out.
    """

    precision: str
    separated: int
    speedup: float
    low: float
    high: float
    value: float
    drop: float
    holds: bool
    bytes: int
    chosen: bool


@dataclasses.dataclass(frozen=True)
class QualityRow:
    """Quality of the result on one data set.

    Attributes:
        data: Where the images come from.
        role: ``verification`` (seen by nothing before) or ``selection`` (not seen by any fit, but
            the ranks were chosen on it).
        drawn: Whether the images are made up, so that real quality was not measured.
        measure: What was measured.
        unit: Of the values.
        quality: The figures.
    """

    data: str
    role: str
    drawn: bool
    measure: str
    unit: str
    quality: Quality


@dataclasses.dataclass(frozen=True)
class FusionRow:
    """What a runtime makes of the convolutions of a quantized model.

    Attributes:
        provider: Of onnxruntime.
        convolutions: How many there are.
        integer: How many run on integers.
        in_float: Names of those that were never quantized.
        unfused: Those between quantized values that run in float all the same: node, code, reason.
    """

    provider: str
    convolutions: int
    integer: int
    in_float: list[str]
    unfused: list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of ``optimize``.

    Attributes:
        schema: Version of this structure.
        onnxsep_version: Of this package.
        versions: Of onnx, onnxruntime and the like.
        input: The model that came in.
        output: Where the result went, empty on a dry run.
        target: Name of the target.
        budget: What was allowed, in words.
        calibration: Where the calibration images come from, and how they were preprocessed.
        passes: In the order they ran.
        layers: One row per convolution, in network order.
        parameters_before: Numbers in all initializers.
        parameters_after: The same in the result.
        bytes_before: Size on disk, external data included.
        bytes_after: The same of the result.
        lossless_difference: Largest difference after the lossless passes, relative to the largest
            output.
        latency: Input against result, None if not measured.
        latency_note: What the latency does not say.
        quality: One row per data set.
        warnings: What the reader must know.
        settings: The options of the run.
        seconds: Wall time of the run.
        precision: Of the result: ``fp32``, ``int8`` or ``fp16``.
        trials: Results built and measured by the search, in order.
        fusion: What ONNX Runtime's CPU provider makes of the convolutions of an int8 result; None
            where nothing was quantized.
        kind: Always ``optimize``.
        created: When the run began: UTC, ISO 8601.
        plan: Where the plan went that repeats the result, empty where there is none.
    """

    schema: int
    onnxsep_version: str
    versions: dict[str, str]
    input: str
    output: str
    target: str
    budget: str
    calibration: str
    passes: list[PassRow]
    layers: list[LayerRow]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    lossless_difference: float
    latency: Comparison | None
    latency_note: str
    quality: list[QualityRow]
    warnings: list[str]
    settings: dict[str, Any]
    seconds: float
    precision: str = "fp32"
    trials: list[TrialRow] = dataclasses.field(default_factory=list)
    fusion: FusionRow | None = None
    kind: str = "optimize"
    created: str = ""
    plan: str = ""

    @property
    def separated(self) -> list[LayerRow]:
        """The convolutions that were rewritten."""
        return [row for row in self.layers if row.action == "separated"]

    @property
    def multiplications(self) -> tuple[int, int]:
        """Of all convolutions for one image, before and after."""
        before = sum(row.multiplications_before for row in self.layers)
        return before, sum(row.multiplications_after for row in self.layers)

    @property
    def separated_multiplications(self) -> tuple[int, int]:
        """Of the rewritten convolutions for one image, before and after."""
        before = sum(row.multiplications_before for row in self.separated)
        return before, sum(row.multiplications_after for row in self.separated)

    def to_json(self) -> str:
        """The record as JSON with sorted keys and a newline at the end.

        JSON knows neither NaN nor infinity: such numbers become null.
        """
        return record_text(self)


def write_record(record: Record, path: Path) -> None:
    """Write the record as JSON, whole or not at all.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(record.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
