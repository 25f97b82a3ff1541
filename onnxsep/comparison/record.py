"""The record of a comparison: everything its reports say, as plain data that become JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from onnxsep.latency import Comparison
from onnxsep.report.head import record_text

SCHEMA_VERSION = 1

OutputKind = Literal["scores", "class-map", "numbers", "integers"]


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One of the two models.

    Attributes:
        path: Its file; ``(in memory)`` without one.
        sha256: Of the file; empty without one.
        bytes: On disk, external data included.
        parameters: Numbers in all initializers; None where the graph could not be read.
        nodes: Nodes of the main graph; None likewise.
        multiplications: Of convolutions and matrix products for one image; None where unknown.
        multiplications_by_kind: The same by kind of operator, largest first.
    """

    path: str
    sha256: str
    bytes: int
    parameters: int | None
    nodes: int | None
    multiplications: int | None
    multiplications_by_kind: dict[str, int]


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """One output of both models.

    Attributes:
        first: Its name in the first model.
        second: Its name in the second.
        kind: ``scores`` (of classes), ``class-map`` (scores for every pixel), ``numbers``, or
            ``integers`` (truth values and texts too).
        shape: Of one sample, such as ``10`` or ``3x32x32``.
        snr_db: First against difference; the power is that about the mean over the samples.
        relative_error: The same as a ratio of amplitudes, 0 to infinity; NaN if not comparable.
        largest_difference: Largest absolute difference; of integers the share that differs.
        agreement: Share of samples (or pixels) of which the class is the same, in %; None where
            there are no classes.
        agreement_low: Lower end of its 95 % interval (Wilson 1927); None of class maps.
        agreement_high: Upper end.
        worst: The sample with the largest error: file or ``sample N``; empty where outputs do not
            belong to samples, or all are equal.
        worst_snr_db: Power over all samples against the difference of that one.
        note: Why figures are missing; empty if none are.
    """

    first: str
    second: str
    kind: OutputKind
    shape: str
    snr_db: float
    relative_error: float
    largest_difference: float
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    worst: str
    worst_snr_db: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """What the task itself loses.

    Attributes:
        measure: ``top-1 accuracy``, ``PSNR``, or agreement with the first model.
        unit: ``%`` or ``dB``.
        output: Name of the output, in the first model.
        first: Measure of the first model (100 for agreement).
        second: Measure of the second.
        drop: ``first - second``, in points or dB.
        drop_error: Standard error of ``drop``, paired by sample.
        low: Lower end of the 95 % interval of ``drop``.
        high: Upper end.
        right_to_wrong: Samples that only the first has right; None where there are no labels.
        wrong_to_right: Samples that only the second has right; None likewise.
        p_value: Of McNemar's exact test: the chance of so uneven a change if neither model were
            better; None where there are no labels.
        samples: Number of samples.
    """

    measure: str
    unit: str
    output: str
    first: float
    second: float
    drop: float
    drop_error: float
    low: float
    high: float
    right_to_wrong: int | None
    wrong_to_right: int | None
    p_value: float | None
    samples: int


@dataclasses.dataclass(frozen=True)
class ChangedRow:
    """One sample whose class differs.

    Attributes:
        sample: File or ``sample N``.
        label: Its class index by the labels; None without.
        first: Class of the first model; -1 for NaN.
        second: Class of the second.
    """

    sample: str
    label: int | None
    first: int
    second: int


@dataclasses.dataclass(frozen=True)
class DriftRow:
    """One value that has the same name in both graphs.

    Attributes:
        name: Its name.
        first_operator: What computes it in the first model.
        second_operator: The same in the second.
        shape: Of one sample.
        error: Root of the mean squared difference, relative to the deviation of the first model's
            value about the mean of its channel; infinite where one has NaN and the other has not,
            NaN where the shapes differ.
        snr_db: The same in dB.
        gained: ``error`` less the largest error among the values that it is computed from: what
            came in since there.
        note: Why it was not compared; empty if it was.
    """

    name: str
    first_operator: str
    second_operator: str
    shape: str
    error: float
    snr_db: float
    gained: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class KindRow:
    """One kind of operator.

    Attributes:
        kind: standard, pointwise, depthwise or grouped convolution, or an operator's name.
        first_ms: Time for one run in a profiled session of the first model; None if not measured.
        second_ms: The same of the second.
        first_multiplications: For one image, first model.
        second_multiplications: The same of the second.
    """

    kind: str
    first_ms: float | None
    second_ms: float | None
    first_multiplications: int
    second_multiplications: int


@dataclasses.dataclass(frozen=True)
class GateRow:
    """A limit that was asked for.

    Attributes:
        option: As on the command line, such as ``--max-drop``.
        limit: Its value.
        value: What was measured.
        unit: Of both.
        holds: Whether the limit is kept.
    """

    option: str
    limit: float
    value: float
    unit: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class ComparisonRecord:
    """One run of ``compare``.

    Attributes:
        schema: Version of this structure.
        kind: Always ``compare``.
        onnxsep_version: Of this package.
        created: When the run began: UTC, ISO 8601.
        versions: Of onnx, onnxruntime and the like.
        settings: The options of the run.
        seconds: Wall time.
        warnings: What the reader must know.
        first: The model compared with.
        second: The other one.
        data: Where the samples come from, and how they were preprocessed.
        drawn: Whether they are made up, so that real quality was not measured.
        samples: Their number.
        pairing: ``name`` or ``position``: how outputs were paired.
        outputs: In the order of the first model.
        task: What the task loses; None where outputs have no such measure.
        changed: Samples whose class differs, a few of them, first those that the first has right.
        changed_count: All of them.
        layers: Values of the same name, in the order of the first graph.
        layers_note: What limits that comparison; why there is none.
        layer_samples: Samples on which it was made.
        kinds: Time and multiplications by kind, those of the first model first.
        latency: First against second in interleaved runs; None if not measured.
        latency_note: Why not.
        gates: Limits that were asked for.
    """

    schema: int
    kind: str
    onnxsep_version: str
    created: str
    versions: dict[str, str]
    settings: dict[str, Any]
    seconds: float
    warnings: list[str]
    first: ModelRow
    second: ModelRow
    data: str
    drawn: bool
    samples: int
    pairing: str
    outputs: list[OutputRow]
    task: TaskRow | None
    changed: list[ChangedRow]
    changed_count: int
    layers: list[DriftRow]
    layers_note: str
    layer_samples: int
    kinds: list[KindRow]
    latency: Comparison | None
    latency_note: str
    gates: list[GateRow]

    @property
    def worst_output(self) -> OutputRow:
        """The output with the least signal-to-noise."""
        return min(self.outputs, key=lambda row: row.snr_db)

    @property
    def holds(self) -> bool:
        """Whether every limit that was asked for is kept."""
        return all(gate.holds for gate in self.gates)

    def to_json(self) -> str:
        """The record as JSON with sorted keys; numbers that are not finite become null."""
        return record_text(self)
