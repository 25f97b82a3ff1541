"""Where a cell really ran, from what its worker found out in the profiled session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnxsep.bench.job import Answer
from onnxsep.bench.record import KindShare, ModelFacts, Placement

# Kernels by other names for operators that `ModelFacts` counts under one. onnxruntime also makes
# a Gemm of MatMul and Add, so that the two share what both do.
_MATRIX_KINDS = ("Gemm", "MatMul")
_FAMILIES = {
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "TransposeMatMul": "MatMul",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulNBits": "MatMul",
}
# What the worker calls a part of the graph that a provider translated as a whole.
_COMPILED = "compiled"

_Place = tuple[str, str]


def make_placement(answer: Answer, asked: str, facts: ModelFacts) -> Placement:
    """Nodes, time and multiplications by provider and kind.

    Args:
        answer: Of the task ``profile``.
        asked: The provider that was asked for, as onnxruntime calls it.
        facts: Of the model that ran; its multiplications are the true ones, those of the kernels
            (which blocked layouts round up) only say how a kind's share falls to its providers.
    """
    time, nodes, work = Counter[_Place](), Counter[_Place](), Counter[_Place]()
    for kernel in answer.kernels:
        kind = str(kernel["kind"])
        place = (_FAMILIES.get(kind, kind), str(kernel["provider"]))
        time[place] += kernel["microseconds"]
        nodes[place] += 1
        work[place] += kernel["multiplications"]
    total = sum(time.values())
    by_provider: Counter[str] = Counter()
    for (_, provider), microseconds in time.items():
        by_provider[provider] += microseconds
    time_share = {name: _ratio(value, total) for name, value in by_provider.most_common()}
    shares = _multiplication_shares(nodes, work, facts.multiplications_by_kind)
    proof, counts = _nodes_by_provider(answer, nodes)
    return Placement(
        proof=proof,
        nodes=counts,
        time_share=time_share,
        fallback=sum(share for name, share in time_share.items() if name != asked),
        kinds=tuple(
            KindShare(
                kind=place[0],
                provider=place[1],
                nodes=nodes[place],
                time_share=_ratio(microseconds, total),
                multiplication_share=shares.get(place, 0.0),
            )
            for place, microseconds in time.most_common()
        ),
    )


def why_unavailable(provider: str, answer: Answer) -> str:
    """Why a cell did not get the provider it asked for, one clause; empty if it did.

    Args:
        provider: As onnxruntime calls it.
        answer: Of any task.
    """
    if answer.status == "unavailable":
        return answer.reason or f"{provider} is not there"
    if answer.status == "ok" and answer.providers and provider not in answer.providers:
        return f"onnxruntime ran on {' and '.join(answer.providers)} instead of {provider}"
    if answer.assignment and not answer.assignment.get(provider):
        total = sum(map(len, answer.assignment.values()))
        return f"{provider} took none of the {total} nodes"
    return ""


def _nodes_by_provider(
    answer: Answer, profiled: Mapping[_Place, int]
) -> tuple[str, dict[str, int]]:
    """The proof, and the number of nodes per provider."""
    if answer.assignment is not None:
        return "assignment", {name: len(nodes) for name, nodes in answer.assignment.items()}
    if not profiled:
        return "none", {}
    counts: Counter[str] = Counter()
    for (_, provider), count in profiled.items():
        counts[provider] += count
    return "profile", dict(counts)


def _multiplication_shares(
    nodes: Mapping[_Place, int], work: Mapping[_Place, int], by_kind: Mapping[str, int]
) -> dict[_Place, float]:
    """Every kind's share of the multiplications, divided among the places where it ran."""
    total = sum(by_kind.values())
    shares: dict[_Place, float] = {}
    left = float(total)
    kinds = [(kind,) for kind in by_kind if kind not in _MATRIX_KINDS]
    compiled = [place for place in nodes if place[0] == _COMPILED]
    for group in (*kinds, _MATRIX_KINDS):
        places = [place for place in nodes if place[0] in group]
        multiplications = float(sum(by_kind.get(kind, 0) for kind in group))
        done = sum(work[place] for place in places)
        if compiled:  # What these kernels did not do was done inside.
            multiplications = min(multiplications, float(done))
        weights = {place: work[place] if done else nodes[place] for place in places}
        for place, weight in weights.items():
            part = _ratio(multiplications * weight, sum(weights.values()))
            shares[place] = _ratio(part, total)
            left -= part
    for place in compiled:
        shares[place] = _ratio(left * nodes[place], total * sum(nodes[each] for each in compiled))
    return shares


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
