"""How units fall into partitions, when a provider takes some of them.

As onnxruntime does it for providers that translate whole partitions
(onnxruntime 1.21.0, onnxruntime/core/providers/partitioning_utils.cc): walk in an order in which
units can run; a unit that is refused right behind the partition waits until no other can be added.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from onnxsep.eligibility.unit import Unit


def partitions(
    units: Sequence[Unit], takes: Callable[[Unit, Sequence[Unit]], bool]
) -> list[list[Unit]]:
    """Group what is taken.

    Args:
        units: Of one graph.
        takes: Whether a unit is taken, given what the partition holds so far.

    Returns:
        The partitions, none empty.
    """
    readers, waiting = _edges(units)
    ready = deque(unit for unit in units if not waiting[unit])
    postponed: deque[Unit] = deque()
    found: list[list[Unit]] = []
    group: list[Unit] = []
    border: set[Unit] = set()
    while ready or postponed:
        if not ready:
            if group:
                found.append(group)
            group, border = [], set()
            ready, postponed = postponed, ready
            continue
        unit = ready.popleft()
        taken = takes(unit, group)
        if not taken and unit in border:
            postponed.append(unit)
            continue
        if taken:
            group.append(unit)
            border.discard(unit)
        for reader in readers[unit]:
            if taken:
                border.add(reader)
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if group:
        found.append(group)
    return found


def _edges(units: Sequence[Unit]) -> tuple[dict[Unit, list[Unit]], dict[Unit, int]]:
    """Who reads whom, once for every value, and for how many values each one waits."""
    maker = {value: unit for unit in units for value in unit.results}
    readers: dict[Unit, list[Unit]] = {unit: [] for unit in units}
    waiting = dict.fromkeys(units, 0)
    for unit in units:
        for value in unit.outer_inputs:
            source = maker.get(value)
            if source is not None and source is not unit:
                readers[source].append(unit)
                waiting[unit] += 1
    return readers, waiting
