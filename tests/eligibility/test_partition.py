"""Partitions: what onnxruntime could hand over as a whole, for any graph."""

from __future__ import annotations

import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.eligibility.partition import partitions
from onnxsep.eligibility.unit import Unit


def _units(parents: list[list[int]]) -> list[Unit]:
    """One Add-like node for each list of earlier nodes whose results it reads."""
    nodes: list[ir.Node] = []
    for index, sources in enumerate(parents):
        inputs = [nodes[source].outputs[0] for source in sources]
        result = ir.Value(name=f"v{index}")
        nodes.append(ir.Node("", "Sum", inputs, outputs=[result], name=f"n{index}"))
    return [Unit(node, 13) for node in nodes]


def _groups(parents: list[list[int]], taken: set[int]) -> list[list[int]]:
    units = _units(parents)
    index = {unit: place for place, unit in enumerate(units)}
    found = partitions(units, lambda unit, _: index[unit] in taken)
    return [sorted(index[unit] for unit in group) for group in found]


def test_a_refused_node_between_makes_two() -> None:
    assert _groups([[], [0], [1], [2]], {0, 1, 3}) == [[0, 1], [3]]


def test_a_refused_branch_waits_until_nothing_else_can_be_added() -> None:
    # 0 feeds 1 (refused) and 2; 3 reads 2 only, 4 reads both.
    assert _groups([[], [0], [0], [2], [1, 3]], {0, 2, 3, 4}) == [[0, 2, 3], [4]]


def test_nothing_taken_makes_none() -> None:
    assert _groups([[], [0]], set()) == []


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[list[list[int]], set[int]]:
    size = draw(st.integers(1, 12))
    parents = [
        sorted(draw(st.sets(st.integers(0, index - 1), max_size=3))) if index else []
        for index in range(size)
    ]
    return parents, draw(st.sets(st.integers(0, size - 1)))


@given(_graphs())
def test_partitions_hold_what_is_taken_and_can_run_one_after_the_other(
    drawn: tuple[list[list[int]], set[int]],
) -> None:
    parents, taken = drawn
    groups = _groups(parents, taken)
    assert sorted(node for group in groups for node in group) == sorted(taken)
    for group in groups:
        # Whatever leaves a partition must not come back into it.
        outside: set[int] = set()
        for node, sources in enumerate(parents):
            if node in group:
                assert not outside & set(sources)
            elif set(sources) & (set(group) | outside):
                outside.add(node)
