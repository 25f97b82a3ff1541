"""Made-up records of benchmarks: two models, four targets, with and without a baseline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxsep.bench.record import (
    SCHEMA_VERSION,
    BenchRecord,
    Cell,
    CellResult,
    Correctness,
    Interval,
    Judgement,
    KindShare,
    ModelFacts,
    Placement,
    Round,
    Summary,
)

ROUNDS, RUNS = 5, 40
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
}
# Names and reasons that try to be more than text in every format that a report has.
HOSTILE = "=1+1\x1b[2J<script>alert('x')</script>|`@you`\n# $x$ [bold]b[/bold] :smile:"


def cell(model: str, target: str, *, batch: int = 1, threads: int = 1, **other: Any) -> Cell:
    """One cell with its usual id."""
    precision = other.pop("precision", "fp32")
    made = Cell(
        id=f"{model} {target} b{batch} t{threads} {precision}",
        model=model,
        target=target,
        provider=PROVIDERS[target],
        precision=precision,
        batch=batch,
        threads=threads,
        optimization="all",
        session_config={},
        provider_options={},
        libraries={},
        python="",
        affinity=(),
        io_binding=target == "cuda",
        intra_threads=threads,
        rounds=ROUNDS,
        seconds=0.4,
        fewest_runs=5,
        most_runs=10_000,
        warm_up_seconds=1.0,
        timeout=120.0,
        cool_down=0.0,
    )
    return dataclasses.replace(made, **other)


def rounds(milliseconds: float, *, seed: int = 0, count: int = ROUNDS) -> tuple[Round, ...]:
    """Rounds around a median, each with its own shift and a few slow runs."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        shift = 1 + 0.01 * random.normal()
        samples = milliseconds * shift * (1 + 0.01 * random.standard_gamma(2, RUNS))
        samples[RUNS // 2] *= 1.3
        made.append(
            Round(
                index=index,
                session_ms=21.5,
                first_run_ms=3 * milliseconds,
                warm_up_runs=30,
                stable=index > 0 or seed % 2 == 0,
                samples_ms=tuple(float(f"{value:.5g}") for value in samples),
                peak_rss_bytes=98_304_000,
                energy_joules=None,
                load=0.25 + 0.1 * index,
            )
        )
    return tuple(made)


def summary(milliseconds: float, entries: tuple[Round, ...], batch: int = 1) -> Summary:
    """Figures that fit a median; made up, because a report must not compute them."""
    return Summary(
        median=Interval(milliseconds, 0.99 * milliseconds, 1.012 * milliseconds),
        mean=1.02 * milliseconds,
        minimum=0.97 * milliseconds,
        p90=1.04 * milliseconds,
        p95=1.06 * milliseconds,
        p99=1.31 * milliseconds,
        mad=0.008 * milliseconds,
        outliers=len(entries),
        samples=RUNS * len(entries),
        rounds=len(entries),
        throughput=1000 * batch / milliseconds,
        session_ms=21.5,
        first_run_ms=3 * milliseconds,
        peak_rss_bytes=98_304_000,
        energy_millijoules=None,
        unstable_rounds=sum(not entry.stable for entry in entries),
    )


def placement(shares: Mapping[str, float]) -> Placement:
    """Convolutions where asked, the rest on the CPU, as far as the shares say so."""
    first = next(iter(shares))
    last = list(shares)[-1]
    return Placement(
        proof="assignment",
        nodes={name: 7 + index for index, name in enumerate(shares)},
        time_share=dict(shares),
        fallback=1 - shares[first],
        kinds=(
            KindShare("depthwise", first, 6, 0.41, 0.06),
            KindShare("pointwise", first, 7, 0.33, 0.71),
            KindShare("standard", first, 1, 0.15, 0.22),
            KindShare("Concat", last, 6, 0.1, 0.0),
            KindShare("Gemm", last, 1, 0.008, 0.009),
            KindShare("Softmax", last, 1, 0.002, 0.001),
        ),
    )


def fine(of: Cell, milliseconds: float, *, seed: int = 0, **other: Any) -> CellResult:
    """A cell that was measured."""
    entries = rounds(milliseconds, seed=seed)
    shares = {of.provider: 1.0} if of.target != "cuda" else {of.provider: 0.734, CPU: 0.266}
    made = CellResult(
        of,
        status="ok",
        rounds=entries,
        summary=summary(milliseconds, entries, of.batch),
        placement=placement(shares),
        correctness=Correctness(0.0, 0.0, 200.0),
    )
    return dataclasses.replace(made, **other)


CPU = PROVIDERS["cpu"]


def scored(largest: float, relative: float, snr_db: float, accuracy: float) -> Correctness:
    """Outputs compared on 360 labelled images."""
    return Correctness(largest, relative, snr_db, accuracy, 98.33, "top-1 accuracy, %", 360)


def unavailable(of: Cell, remedy: str) -> CellResult:
    """A cell whose provider is not there."""
    return CellResult(
        of,
        status="unavailable",
        reason=f"onnxruntime 1.31.1 there has no {of.provider}",
        remedy=remedy,
    )


def model(name: str, precision: str = "fp32") -> ModelFacts:
    """A small network."""
    return ModelFacts(
        name=name,
        path=f"sample_models/{name}.onnx",
        precision=precision,
        origin="file",
        sha256="0123456789abcdef" * 4,
        bytes=1_250_000,
        parameters=312_000,
        multiplications=40_600_000,
        multiplications_by_kind={"standard": 30_000_000, "pointwise": 10_600_000},
    )


def record(**changes: Any) -> BenchRecord:
    """A whole run: accuracy for one model, signal-to-noise for the other, two targets missing."""
    digits_cpu = cell("digits", "cpu")
    net_cpu = cell("denoise-1m", "cpu")
    cuda_way = "install onnxruntime-gpu, or the plugin package beside plain onnxruntime"
    xnnpack_way = "use a build with --use_xnnpack, or a phone over ssh"
    cells = (
        fine(digits_cpu, 0.1234, correctness=scored(0.0, 0.0, 200.0, 98.33)),
        fine(
            cell("digits", "cpu", threads=2),
            0.0712,
            seed=1,
            correctness=scored(1e-6, 1e-7, 128.4, 98.33),
            speedup=Interval(1.733, 1.702, 1.765),
            reference=digits_cpu.id,
        ),
        fine(
            cell("digits", "cpu", precision="int8"),
            0.0533,
            seed=2,
            correctness=scored(0.4, 0.03, 31.25, 97.5),
            speedup=Interval(2.315, 2.281, 2.352),
            reference=digits_cpu.id,
        ),
        fine(
            cell("digits", "cuda"),
            0.0471,
            seed=4,
            correctness=scored(1e-4, 1e-5, 71.3, 98.06),
            speedup=Interval(2.62, math.nan, math.nan),
            reference=digits_cpu.id,
            notes=("TF32 on", "IOBinding on"),
        ),
        unavailable(cell("digits", "xnnpack"), xnnpack_way),
        fine(net_cpu, 12.345, seed=6),
        fine(
            cell("denoise-1m", "cpu", precision="int8"),
            15.21,
            seed=8,
            correctness=Correctness(0.4, 0.03, 38.21),
            speedup=Interval(0.812, 0.79, 0.834),
            reference=net_cpu.id,
        ),
        unavailable(cell("denoise-1m", "cuda"), cuda_way),
        unavailable(cell("denoise-1m", "xnnpack"), xnnpack_way),
        CellResult(
            cell("denoise-1m", "nnapi"),
            status="failed",
            failure="timeout",
            reason="no answer within 120 s",
        ),
    )
    machine = {
        "cpu": "Example CPU @ 2.60GHz",
        "usable_cores": 2,
        "governor": "performance",
        "onnxruntime_version": "1.31.1",
        "available_providers": ["CPUExecutionProvider"],
        "cpu_flags": ["avx2", "avx512_vnni"],
        "gpu": {"name": "Example GPU", "driver": "600.1"},
        "turbo": None,
    }
    complete = BenchRecord(
        schema=SCHEMA_VERSION,
        kind="bench",
        onnxsep_version="0.1.0",
        created="2026-01-01T12:00:00+00:00",
        matrix="bench.yaml",
        matrix_sha256="fedcba9876543210" * 4,
        environments={"cpu": machine, "xnnpack": machine, "nnapi": machine},
        models={
            "digits/fp32": model("digits"),
            "digits/int8": model("digits", "int8"),
            "denoise-1m/fp32": model("denoise-1m"),
        },
        machine_pulse=(1.02, 1.01, 1.03, 1.02, 1.02),
        cells=cells,
        complete=True,
        seconds=83.4,
        warnings=("the machine was busy: more work than its 2 cores can do in 3 of 5 rounds",),
    )
    return dataclasses.replace(complete, **changes)


def judged() -> BenchRecord:
    """The same against a baseline: one worse, one better, the rest inconclusive."""
    verdicts = {
        0: Judgement("worse", Interval(1.1, 1.081, 1.122), "slower by 8.1 % at least", fails=True),
        1: Judgement("better", Interval(0.9, 0.88, 0.921), "faster by 7.9 % at least"),
    }
    same = Judgement("inconclusive", Interval(1.003, 0.981, 1.024), "the interval contains 1")
    plain = record()
    cells = tuple(
        dataclasses.replace(result, judgement=verdicts.get(index, same))
        if result.status == "ok"
        else result
        for index, result in enumerate(plain.cells)
    )
    return dataclasses.replace(plain, cells=cells, baseline="results/main.json")


def half_done() -> BenchRecord:
    """While it runs: one cell with two rounds, one with none."""
    plain = record()
    entries = plain.cells[0].rounds[:2]
    begun = dataclasses.replace(
        plain.cells[0],
        rounds=entries,
        summary=dataclasses.replace(
            summary(0.1234, entries), median=Interval(0.1234, math.nan, math.nan)
        ),
    )
    waiting = CellResult(plain.cells[1].cell)
    return dataclasses.replace(
        plain, cells=(begun, waiting), complete=False, warnings=(), seconds=9.0
    )


def hostile() -> BenchRecord:
    """Every text that comes from a stranger tries to be more than text."""
    plain = judged()

    def spoil(result: CellResult, index: int) -> CellResult:
        changed = dataclasses.replace(
            result.cell,
            id=f"{HOSTILE} {index}",
            model=HOSTILE,
            target=HOSTILE,
            provider=HOSTILE,
            session_config={HOSTILE: HOSTILE},
        )
        return dataclasses.replace(
            result,
            cell=changed,
            reason=HOSTILE,
            remedy=HOSTILE,
            notes=(HOSTILE,),
            reference=f"{HOSTILE} 0" if result.reference else "",
            correctness=result.correctness
            and dataclasses.replace(result.correctness, measure=f"{HOSTILE}, {HOSTILE}"),
            judgement=result.judgement and dataclasses.replace(result.judgement, reason=HOSTILE),
            placement=result.placement
            and dataclasses.replace(
                result.placement,
                time_share={HOSTILE: 1.0},
                kinds=(KindShare(HOSTILE, HOSTILE, 1, 1.0, 0.5),),
            ),
        )

    facts = dataclasses.replace(
        model("x"), name=HOSTILE, path=HOSTILE, precision=HOSTILE, origin=HOSTILE
    )
    return dataclasses.replace(
        plain,
        cells=tuple(spoil(result, index) for index, result in enumerate(plain.cells)),
        environments={HOSTILE: {HOSTILE: HOSTILE, "cpu": HOSTILE}},
        models={HOSTILE: facts},
        matrix=HOSTILE,
        baseline=HOSTILE,
        warnings=(HOSTILE,),
        created=HOSTILE,
        onnxsep_version=HOSTILE,
    )
