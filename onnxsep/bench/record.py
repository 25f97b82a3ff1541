"""The record of a benchmark: everything measured, as plain data that become JSON and come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

CellStatus = Literal["ok", "unavailable", "failed", "pending"]
FailureKind = Literal["", "crash", "timeout", "out-of-memory", "error", "placement", "unreachable"]
Verdict = Literal["better", "worse", "inconclusive"]

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """One model file that cells run.

    Attributes:
        name: As in the matrix.
        path: As in the matrix.
        precision: ``fp32``, ``fp16`` or ``int8``.
        origin: ``file``, or how the variant was made from the file.
        sha256: Of the file that ran.
        bytes: Its size, external data included.
        parameters: Numbers in all initializers.
        multiplications: Of convolutions and matrix products for one image.
        multiplications_by_kind: The same by kind of operator (standard, pointwise, depthwise,
            grouped, Gemm, MatMul …).
    """

    name: str
    path: str
    precision: str
    origin: str
    sha256: str
    bytes: int
    parameters: int
    multiplications: int
    multiplications_by_kind: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the matrix, all questions of defaults answered.

    Attributes:
        id: Unique in the matrix, readable: ``digits cpu b1 t1 fp32``; optimisation and session
            options follow where they are not the usual ones, so that equal cells of different
            matrices have equal names.
        model: Name of the model.
        target: Name of the target in the matrix.
        provider: As onnxruntime calls it.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch: Images per run.
        threads: Threads inside one operator; 0 for all cores. For XNNPACK, of its own pool.
        optimization: ``disable``, ``basic``, ``extended``, ``layout`` or ``all``.
        session_config: onnxruntime session configuration entries, text to text.
        provider_options: Options of the provider, text to text.
        libraries: Plugin providers to register: registration name to path.
        python: Interpreter of the worker; empty for the one that runs onnxsep.
        affinity: Logical cores of the worker; empty for all.
        io_binding: Bind inputs and outputs outside the timed loop.
        intra_threads: What onnxruntime is told (1 for XNNPACK, whose pool is its own).
        rounds: Fresh processes, spread over the whole run.
        seconds: Timed loop of one round.
        fewest_runs: Timed runs of one round at least.
        most_runs: Timed runs of one round at most.
        warm_up_seconds: Longest warm-up of one round.
        timeout: Seconds after which a round counts as hung.
        cool_down: Seconds of rest in front of every round.
    """

    id: str
    model: str
    target: str
    provider: str
    precision: str
    batch: int
    threads: int
    optimization: str
    session_config: Mapping[str, str]
    provider_options: Mapping[str, str]
    libraries: Mapping[str, str]
    python: str
    affinity: tuple[int, ...]
    io_binding: bool
    intra_threads: int
    rounds: int
    seconds: float
    fewest_runs: int
    most_runs: int
    warm_up_seconds: float
    timeout: float
    cool_down: float


@dataclasses.dataclass(frozen=True)
class Round:
    """One fresh process of one cell.

    Attributes:
        index: Of the round, from 0; equal indices of different cells ran next to each other.
        session_ms: Creation of the session.
        first_run_ms: The very first run.
        warm_up_runs: Runs before the timed ones.
        stable: Whether the warm-up became stable.
        samples_ms: Every timed run, in order.
        peak_rss_bytes: Largest resident memory, 0 where unknown.
        energy_joules: Of all timed runs together; None where no counter can be read.
        load: One-minute load average at the start; None where unknown.
    """

    index: int
    session_ms: float
    first_run_ms: float
    warm_up_runs: int
    stable: bool
    samples_ms: tuple[float, ...]
    peak_rss_bytes: int
    energy_joules: float | None
    load: float | None


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95 % confidence interval; NaN ends where it cannot be known."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """All rounds of one cell together; times in milliseconds per run (of a whole batch).

    Attributes:
        median: Median with its interval, from the medians of the rounds.
        mean: Of all samples.
        minimum: Of all samples.
        p90: 90th percentile of all samples.
        p95: 95th.
        p99: 99th.
        mad: Median absolute deviation from the median, of all samples.
        outliers: Samples further than the usual fences from their round.
        samples: Number of samples.
        rounds: Number of rounds.
        throughput: Images per second, from the median.
        session_ms: Median over the rounds.
        first_run_ms: Median over the rounds.
        peak_rss_bytes: Largest of all rounds.
        energy_millijoules: Per image, mean over the rounds; None where unknown.
        unstable_rounds: Rounds whose warm-up did not become stable.
    """

    median: Interval
    mean: float
    minimum: float
    p90: float
    p95: float
    p99: float
    mad: float
    outliers: int
    samples: int
    rounds: int
    throughput: float
    session_ms: float
    first_run_ms: float
    peak_rss_bytes: int
    energy_millijoules: float | None
    unstable_rounds: int


@dataclasses.dataclass(frozen=True)
class KindShare:
    """One kind of operator in one cell.

    Attributes:
        kind: standard, pointwise, depthwise, grouped, or an operator's name.
        provider: Where it ran.
        nodes: How many nodes.
        time_share: Of the profiled time of all nodes, 0 to 1.
        multiplication_share: Of all multiplications, 0 to 1.
    """

    kind: str
    provider: str
    nodes: int
    time_share: float
    multiplication_share: float


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a cell really ran.

    Attributes:
        proof: ``assignment`` (onnxruntime's own account), ``profile`` or ``none``.
        nodes: Provider to number of nodes of the optimised graph.
        time_share: Provider to share of the profiled time.
        fallback: Share of the profiled time outside the provider that was asked for, 0 to 1.
        kinds: Time and multiplications by kind, largest time first.
    """

    proof: str
    nodes: Mapping[str, int]
    time_share: Mapping[str, float]
    fallback: float
    kinds: tuple[KindShare, ...]


@dataclasses.dataclass(frozen=True)
class Correctness:
    """A cell's outputs against those of the float model on the CPU provider, same input.

    Attributes:
        largest: Largest absolute difference.
        relative: The same relative to the largest reference output.
        snr_db: Reference against difference, worst output.
        accuracy: Of this cell on the labelled data, None where there are none.
        reference_accuracy: Of the reference on the same.
        measure: What ``accuracy`` is, with its unit.
        images: Number of labelled images.
    """

    largest: float
    relative: float
    snr_db: float
    accuracy: float | None = None
    reference_accuracy: float | None = None
    measure: str = ""
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One cell against the same cell of a baseline.

    Attributes:
        verdict: ``worse`` and ``better`` only on evidence.
        ratio: New time / old time with its interval (simultaneous over all cells of the run).
        reason: One clause, what the verdict rests on.
        fails: Whether ``--fail-if-slower`` counts it.
    """

    verdict: Verdict
    ratio: Interval
    reason: str
    fails: bool = False


@dataclasses.dataclass(frozen=True)
class CellResult:
    """One row of the report.

    Attributes:
        cell: What was asked.
        status: ``pending`` until the first round is done.
        failure: What kind of failure, empty unless ``failed``.
        reason: Why it is not ``ok``, one clause.
        remedy: What would make it so, one clause; may be empty.
        rounds: What was measured so far.
        summary: Of all rounds; None without any.
        speedup: Time of the reference cell / time of this one; None for the reference itself.
        reference: Id of that reference cell, empty if there is none.
        placement: None where it was not looked at.
        correctness: None where it was not compared.
        judgement: Against a baseline, if there is one.
        notes: What the reader must know, such as ``TF32 on``.
    """

    cell: Cell
    status: CellStatus = "pending"
    failure: FailureKind = ""
    reason: str = ""
    remedy: str = ""
    rounds: tuple[Round, ...] = ()
    summary: Summary | None = None
    speedup: Interval | None = None
    reference: str = ""
    placement: Placement | None = None
    correctness: Correctness | None = None
    judgement: Judgement | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class BenchRecord:
    """One run of ``bench``.

    Attributes:
        schema: Version of this structure.
        kind: Always ``bench``.
        onnxsep_version: Of this package.
        created: UTC, ISO 8601.
        matrix: Path of the YAML file.
        matrix_sha256: Of the matrix after all defaults and overrides, so that only equal runs are
            resumed.
        environments: Target name to what its worker says of machine and onnxruntime.
        models: Every model file that ran, keyed ``name/precision``.
        machine_pulse: A fixed computation timed in every round, in milliseconds, one median per
            round, by its index: how fast the machine itself was; NaN where that is not known.
        cells: In the order of the matrix.
        complete: Whether every round of every cell was run or given up.
        seconds: Wall time so far.
        baseline: Path of the baseline, empty without.
        warnings: What the reader must know.
        machine_pulses: As ``machine_pulse``, which is that of this machine, for targets elsewhere:
            target name to the pulse of its machine.
    """

    schema: int
    kind: str
    onnxsep_version: str
    created: str
    matrix: str
    matrix_sha256: str
    environments: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, ModelFacts]
    machine_pulse: tuple[float, ...]
    cells: tuple[CellResult, ...]
    complete: bool
    seconds: float
    baseline: str = ""
    warnings: tuple[str, ...] = ()
    machine_pulses: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
