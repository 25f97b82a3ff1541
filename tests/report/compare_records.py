"""Comparisons made up for the reports: a fine one, one that says nothing, and a hostile one."""

from __future__ import annotations

import dataclasses
import math

from onnxsep.comparison.record import (
    SCHEMA_VERSION,
    ChangedRow,
    ComparisonRecord,
    DriftRow,
    GateRow,
    KindRow,
    ModelRow,
    OutputRow,
    TaskRow,
)
from onnxsep.latency import Comparison, Timing

HOSTILE = "<script>alert(1)</script> \"' @all #1 |*_` \x1b]0;\x07\n=cmd() \u202e"


def output(name: str, snr_db: float, *, scores: bool = True) -> OutputRow:
    return OutputRow(
        first=name,
        second=name,
        kind="scores" if scores else "numbers",
        shape="10" if scores else "4420x4",
        snr_db=snr_db,
        relative_error=10 ** (-snr_db / 20),
        largest_difference=0.614,
        agreement=99.4 if scores else None,
        agreement_low=98.25 if scores else None,
        agreement_high=99.8 if scores else None,
        worst="cats/0037.jpg",
        worst_snr_db=snr_db - 12,
    )


def layer(name: str, error: float, gained: float, operator: str = "Conv") -> DriftRow:
    return DriftRow(name, operator, operator, "64x28x28", error, -20 * math.log10(error), gained)


def record(**changes: object) -> ComparisonRecord:
    complete = ComparisonRecord(
        schema=SCHEMA_VERSION,
        kind="compare",
        onnxsep_version="0.1.0",
        created="2026-01-01T12:00:00+00:00",
        versions={"onnxruntime": "1.31.1", "python": "3.11.7"},
        settings={"data": "photos", "samples": None, "max_drop": 0.5},
        seconds=12.4,
        warnings=["only the second model (int8.onnx) has the output 'extra': left out"],
        first=ModelRow(
            "models/float.onnx",
            "ab" * 32,
            1_214_948,
            302_369,
            30,
            97_106_436,
            {"standard": 97_105_536, "Gemm": 900},
        ),
        second=ModelRow(
            "models/int8.onnx",
            "cd" * 32,
            337_577,
            304_635,
            97,
            31_000_900,
            {"pointwise": 25_000_000, "depthwise": 6_000_000, "Gemm": 900},
        ),
        data="folder photos, 500 images; preprocessing as given",
        drawn=False,
        samples=500,
        pairing="name",
        outputs=[output("logits", 30.8), output("boxes", 41.2, scores=False)],
        task=TaskRow(
            "top-1 accuracy", "%", "logits", 92.0, 91.6, 0.4, 0.28, -0.28, 1.07, 2, 0, 0.5, 500
        ),
        changed=[ChangedRow("cats/0183.jpg", 2, 2, 6), ChangedRow("dogs/0052.jpg", 0, 9, 7)],
        changed_count=3,
        layers=[
            layer("conv1_out", 0.0097, 0.0097),
            dataclasses.replace(
                layer("relu1_out", 0.5, 0.0, "Relu"),
                error=math.nan,
                snr_db=math.nan,
                note="not the same value: Relu here, Conv there",
            ),
            layer("conv2_out", 0.026, 0.0163),
            layer("pool2_out", 0.024, -0.002, "MaxPool"),
            layer("logits", 0.0288, 0.0048, "Gemm"),
        ],
        layers_note="1 of 5 values of the same name are not comparable",
        layer_samples=100,
        kinds=[
            KindRow("standard", 2.2, 0.0, 97_105_536, 0),
            KindRow("pointwise", 0.0, 0.61, 0, 25_000_000),
            KindRow("depthwise", 0.0, 0.33, 0, 6_000_000),
            KindRow("Gemm", 0.004, 0.007, 900, 900),
        ],
        latency=Comparison(
            Timing(1.28, 0.03, (1.27, 1.28, 1.31)),
            Timing(0.84, 0.02, (0.83, 0.84, 0.86)),
            1.52,
            1.49,
            1.55,
            1,
            1,
        ),
        latency_note="",
        gates=[
            GateRow("--fail-below-db", 25.0, 30.8, "dB", True),
            GateRow("--max-drop", 0.2, 0.4, "points", False),
        ],
    )
    return dataclasses.replace(complete, **changes)  # type: ignore[arg-type]


def bare() -> ComparisonRecord:
    """Nothing that can be missing is there."""
    plain = record()
    unknown = dataclasses.replace(
        plain.second, parameters=None, nodes=None, multiplications=None, multiplications_by_kind={}
    )
    return record(
        warnings=[],
        second=unknown,
        outputs=[
            dataclasses.replace(
                output("map", -200.0, scores=False),
                relative_error=math.inf,
                largest_difference=math.nan,
                worst="",
                note="NaN or infinity in one model only",
            )
        ],
        task=None,
        changed=[],
        changed_count=0,
        layers=[],
        layers_note="layers were not compared: --no-layers",
        layer_samples=0,
        kinds=[],
        latency=None,
        latency_note="latency was not measured: --no-latency",
        gates=[],
    )


def equal() -> ComparisonRecord:
    """A model against itself."""
    plain = record()
    same = dataclasses.replace(
        output("logits", 200.0), relative_error=0.0, largest_difference=0.0, worst=""
    )
    return record(
        second=plain.first,
        outputs=[same],
        layers=[dataclasses.replace(layer("a", 1.0, 0.0), error=0.0, snr_db=200.0)],
        layers_note="",
        changed=[],
        changed_count=0,
        gates=[],
        warnings=[],
    )


def deep() -> ComparisonRecord:
    """More layers than fit as bars."""
    return record(
        layers=[layer(f"stage{n}/block/Conv_output_0", 0.001 * n, 0.001) for n in range(1, 90)]
    )


def hostile() -> ComparisonRecord:
    """Strangers' words wherever there are any."""
    plain = record()
    return record(
        warnings=[HOSTILE],
        data=HOSTILE,
        versions={HOSTILE: HOSTILE},
        settings={"data": HOSTILE},
        first=dataclasses.replace(plain.first, path=HOSTILE),
        second=dataclasses.replace(plain.second, path=f"b{HOSTILE}"),
        outputs=[dataclasses.replace(output(HOSTILE, 30.0), worst=HOSTILE, note=HOSTILE)],
        changed=[ChangedRow(HOSTILE, 1, 2, 3)],
        layers=[layer(HOSTILE, 0.1, 0.1, HOSTILE)],
        layers_note=HOSTILE,
        kinds=[KindRow(HOSTILE, 1.0, 2.0, 3, 4)],
        latency_note=HOSTILE,
    )
