"""Time and multiplications by kind of operator, from a profiled session of each model."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from onnxsep.bench.work import count_work
from onnxsep.bench.worker import read_graph, read_kernels
from onnxsep.comparison.record import KindRow, ModelRow
from onnxsep.comparison.subjects import Subject
from onnxsep.errors import InputError
from onnxsep.model import save_model
from onnxsep.runtime import Feeds, first_line

_WARM_UP_RUNS = 3
_RUNS = 12
# Kernels by other names for operators that `count_work` counts under one.
_FAMILIES = {
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
}


def with_work(subject: Subject, feeds: Feeds) -> tuple[ModelRow, str]:
    """The facts of a model with its multiplications for one image, and why they lack, if they do.

    Args:
        subject: The model.
        feeds: One batch.
    """
    if subject.graph is None:
        return subject.facts, f"multiplications of {subject.title} are not known"
    shapes = {name: value.shape for name, value in feeds.items()}
    batch = max((shape[0] for shape in shapes.values() if shape), default=1)
    try:
        total, by_kind = count_work(subject.graph, shapes)
    except InputError as error:
        return subject.facts, f"multiplications of {subject.title} are not known: {error}"
    facts = dataclasses.replace(
        subject.facts,
        multiplications=total // batch,
        multiplications_by_kind={kind: count // batch for kind, count in by_kind.items()},
    )
    return facts, ""


def time_by_kind(subject: Subject, feeds: Feeds, threads: int) -> dict[str, float]:
    """Milliseconds of one run by kind; slower than unprofiled ones, so that shares count.

    Args:
        subject: The model.
        feeds: One batch.
        threads: Of onnxruntime; 0 for all cores.

    Raises:
        InputError: onnxruntime cannot profile it.
    """
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        path = subject.source
        if not isinstance(path, Path):
            path = save_model(path, Path(folder, "model.onnx"))[0]
        optimized = Path(folder, "optimized.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            for _ in range(_WARM_UP_RUNS + _RUNS):
                session.run(None, dict(feeds))
            events = json.loads(Path(session.end_profiling()).read_text("utf-8", "replace"))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(
                f"onnxruntime cannot profile {subject.title}: {first_line(error)}"
            ) from error
        kernels = read_kernels(events, read_graph(str(optimized)), 1, _WARM_UP_RUNS)
    times: Counter[str] = Counter()
    for kernel in kernels:
        kind = str(kernel["kind"])
        times[_FAMILIES.get(kind, kind)] += kernel["microseconds"] / 1000 / _RUNS
    return dict(times)


def kind_rows(
    first: ModelRow,
    second: ModelRow,
    first_ms: Mapping[str, float] | None,
    second_ms: Mapping[str, float] | None,
) -> list[KindRow]:
    """Every kind that either model has, the longest time or most multiplications first."""
    rows = [
        KindRow(
            kind=kind,
            first_ms=None if first_ms is None else first_ms.get(kind, 0.0),
            second_ms=None if second_ms is None else second_ms.get(kind, 0.0),
            first_multiplications=first.multiplications_by_kind.get(kind, 0),
            second_multiplications=second.multiplications_by_kind.get(kind, 0),
        )
        for kind in dict.fromkeys(
            [
                *first.multiplications_by_kind,
                *second.multiplications_by_kind,
                *(first_ms or {}),
                *(second_ms or {}),
            ]
        )
    ]
    return sorted(
        rows,
        key=lambda row: (
            -max(row.first_ms or 0.0, row.second_ms or 0.0),
            -max(row.first_multiplications, row.second_multiplications),
        ),
    )
