"""Shares of time and multiplications from answers of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from onnxsep.bench.job import Answer
from onnxsep.bench.placement import make_placement, why_unavailable
from onnxsep.bench.record import KindShare, ModelFacts

CPU, XNNPACK, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "Xnnpack", "Tensorrt"))


def facts(**by_kind: int) -> ModelFacts:
    return ModelFacts("m", "m.onnx", "fp32", "file", "0", 1, 1, sum(by_kind.values()), by_kind)


def kernel(
    kind: str, provider: str, microseconds: int, multiplications: int = 0, runs: int = 10
) -> dict[str, Any]:
    return {
        "name": f"{kind}{microseconds}",
        "op_type": "Conv",
        "provider": provider,
        "microseconds": microseconds,
        "runs": runs,
        "kind": kind,
        "multiplications": multiplications,
    }


def assigned(**counts: int) -> Mapping[str, list[dict[str, str]]]:
    node = {"name": "", "op_type": "Conv", "domain": ""}
    return {f"{name}ExecutionProvider": [node] * count for name, count in counts.items()}


def shares(kinds: tuple[KindShare, ...]) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (row.kind, row.provider): (round(row.time_share, 9), round(row.multiplication_share, 9))
        for row in kinds
    }


def test_everything_where_it_was_asked_for() -> None:
    answer = Answer(
        "ok",
        assignment=assigned(CPU=4),
        kernels=(
            kernel("pointwise", CPU, 300, 64),
            kernel("depthwise", CPU, 600, 9),
            kernel("Relu", CPU, 100),
        ),
    )
    placement = make_placement(answer, CPU, facts(pointwise=75, depthwise=25))
    assert placement.proof == "assignment"
    assert placement.nodes == {CPU: 4}
    assert placement.time_share == {CPU: 1.0}
    assert placement.fallback == 0
    assert placement.kinds == (
        KindShare("depthwise", CPU, 1, 0.6, 0.25),
        KindShare("pointwise", CPU, 1, 0.3, 0.75),
        KindShare("Relu", CPU, 1, 0.1, 0.0),
    )


def test_partial_fallback_divides_a_kind_among_its_providers() -> None:
    answer = Answer(
        "ok",
        assignment=assigned(Xnnpack=3, CPU=2),
        kernels=(
            kernel("standard", XNNPACK, 500, 300),
            kernel("standard", CPU, 200, 100),
            kernel("Add", CPU, 300),
        ),
    )
    placement = make_placement(answer, XNNPACK, facts(standard=1000))
    assert placement.nodes == {XNNPACK: 3, CPU: 2}
    assert placement.fallback == pytest.approx(0.5)
    assert shares(placement.kinds) == {
        ("standard", XNNPACK): (0.5, 0.75),
        ("standard", CPU): (0.2, 0.25),
        ("Add", CPU): (0.3, 0.0),
    }


@pytest.mark.parametrize("kind", ["Gemm", "QGemm", "FusedGemm", "QLinearMatMul", "MatMulInteger"])
def test_matrix_products_are_found_under_the_name_of_their_kernel(kind: str) -> None:
    """onnxruntime turns MatMul and Add into Gemm, and both into quantized kernels."""
    answer = Answer("ok", kernels=(kernel("standard", CPU, 50, 6), kernel(kind, CPU, 50, 4)))
    placement = make_placement(answer, CPU, facts(standard=60, MatMul=40))
    assert [row.multiplication_share for row in placement.kinds] == pytest.approx([0.6, 0.4])
    assert {row.kind for row in placement.kinds} <= {"standard", "Gemm", "MatMul"}


def test_a_compiled_part_did_what_the_others_did_not() -> None:
    answer = Answer(
        "ok",
        assignment=assigned(Tensorrt=9, CPU=1),
        kernels=(kernel("compiled", TENSORRT, 800), kernel("standard", CPU, 200, 30)),
    )
    placement = make_placement(answer, TENSORRT, facts(standard=80, pointwise=20))
    assert shares(placement.kinds) == {
        ("compiled", TENSORRT): (0.8, 0.7),
        ("standard", CPU): (0.2, 0.3),
    }


def test_without_an_assignment_the_profile_counts() -> None:
    answer = Answer("ok", kernels=(kernel("Relu", CPU, 1), kernel("Add", CPU, 1)))
    placement = make_placement(answer, CPU, facts())
    assert (placement.proof, placement.nodes) == ("profile", {CPU: 2})


def test_nothing_is_known() -> None:
    placement = make_placement(Answer("ok"), CPU, facts(standard=10))
    assert (placement.proof, placement.nodes, placement.kinds) == ("none", {}, ())
    assert placement.fallback == 0


def test_kinds_of_kernels_without_known_work_are_divided_by_nodes() -> None:
    answer = Answer(
        "ok",
        kernels=(
            kernel("standard", XNNPACK, 3),
            kernel("standard", XNNPACK, 4),
            kernel("standard", CPU, 1),
        ),
    )
    placement = make_placement(answer, XNNPACK, facts(standard=9))
    assert [row.multiplication_share for row in placement.kinds] == pytest.approx([2 / 3, 1 / 3])


@dataclasses.dataclass(frozen=True)
class Unavailable:
    id: str
    answer: Answer
    reason: str


UNAVAILABLE = [
    Unavailable("said", Answer("unavailable", "no such thing"), "no such thing"),
    Unavailable("unsaid", Answer("unavailable"), f"{XNNPACK} is not there"),
    Unavailable(
        "dropped", Answer("ok", providers=(CPU,)), f"onnxruntime ran on {CPU} instead of {XNNPACK}"
    ),
    Unavailable(
        "idle",
        Answer("ok", providers=(XNNPACK, CPU), assignment=assigned(CPU=3)),
        f"{XNNPACK} took none of the 3 nodes",
    ),
    Unavailable(
        "there", Answer("ok", providers=(XNNPACK, CPU), assignment=assigned(CPU=1, Xnnpack=1)), ""
    ),
    Unavailable("failed-for-another-reason", Answer("failed", "out of memory"), ""),
]


@pytest.mark.parametrize("case", UNAVAILABLE, ids=lambda case: case.id)
def test_why_a_provider_is_unavailable(case: Unavailable) -> None:
    assert why_unavailable(XNNPACK, case.answer) == case.reason
