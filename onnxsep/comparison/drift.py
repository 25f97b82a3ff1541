"""Where two networks drift apart: inner values of the same name, in graph order.

An inner value that is handed out keeps the operators around it from being fused. What is compared
is therefore the arithmetic of the two graphs; a quantized convolution whose output is looked at
runs in float on its quantized inputs and weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxsep.calibrate.taps import TapPlan, plan_taps
from onnxsep.comparison.record import DriftRow
from onnxsep.comparison.tallies import Tally
from onnxsep.evaluation import Batches
from onnxsep.progress import Progress
from onnxsep.runtime import Feeds, cut_model, make_session, run

# What hands a value on: of interest is the operator behind it.
_PASSED_ON = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
# A value that another operator computes and that differs so many times more than everything that
# is computed from it is another value: int8 graphs, say, leave out a Relu that the range implies.
_UNLIKE = 3.0
_SMALLEST_UNLIKE_ERROR = 0.1

# Bytes of activations that one batch may take, both networks together.
DEFAULT_MEMORY_LIMIT_BYTES = 2**31
# Of these, what `plan_taps` may plan with: two networks, and the values that it derives from
# others, which are computed here.
_PLANNED_SHARE = 0.2


def measure_drift(
    first: ir.Model,
    second: ir.Model,
    batches: Batches,
    *,
    progress: Progress,
    memory_limit: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> list[DriftRow]:
    """The error of every float value that has the same name in both main graphs.

    Memory does not grow with the number of samples: where the values of one batch take too much,
    the networks run several times, for a part of the values each.

    Args:
        first: The network compared with, normalized; left unchanged.
        second: The other one, likewise.
        batches: The data.
        progress: Told of every batch.
        memory_limit: Bytes of activations at a time.

    Returns:
        Rows in the order of the first graph; none where no name is the same.

    Raises:
        InputError: onnxruntime cannot run a part of a network.
        ValueError: A part cannot be taken out of a graph.
    """
    example = next(iter(batches))
    limit = int(memory_limit * _PLANNED_SHARE)
    plan = plan_taps(first, None, example, limit)
    known = set(plan_taps(second, None, example, limit).names)
    common = [name for name in plan.names if name in known and name not in plan.fed]
    groups = _groups(plan, set(common))
    tallies = {name: _Watched() for name in common}
    progress.stage(
        "comparing layers", len(groups) * math.ceil(len(batches.dataset) / max(batches.size, 1))
    )
    for names in groups:
        sessions = [_tapped(model, example, names) for model in (first, second)]
        for feeds in batches:
            values = [
                run(
                    session,
                    {node.name: feeds[node.name] for node in session.get_inputs()},
                    label=label,
                )
                for session, label in zip(sessions, ("the first model", "the second"), strict=True)
            ]
            for name, one, other in zip(names, *values, strict=True):
                tallies[name].add(one, other)
            progress.step()
    operators = [_operators(model) for model in (first, second)]
    rows = [
        tally.row(name, operators[0].get(name, ""), operators[1].get(name, ""))
        for name, tally in tallies.items()
        if tally.met
    ]
    return _with_gains(first.graph, _without_namesakes(first.graph, rows))


class _Watched:
    """One value of both networks."""

    def __init__(self) -> None:
        self.met = False
        self._tally = Tally(by_channel=True)
        self._shape = ""
        self._note = ""

    def add(self, one: object, other: object) -> None:
        """A batch; what is no float tensor after all is not looked at."""
        if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
            return
        if one.dtype.kind != "f" or other.dtype.kind != "f":
            return
        self.met = True
        one, other = np.atleast_1d(one), np.atleast_1d(other)
        self._shape = self._shape or _text(one.shape)
        if one.shape != other.shape:
            self._note = f"shape {_text(one.shape)}, against {_text(other.shape)}"
        else:
            self._tally.add(one, other)

    def row(self, name: str, first: str, second: str) -> DriftRow:
        """The figures; what came in since earlier values is not known here."""
        error = math.nan if self._note else self._tally.relative_error
        decibels = math.nan if self._note else self._tally.snr_db
        broken = self._tally.broken and not self._note
        note = "NaN or infinity in one model only" if broken else self._note
        return DriftRow(name, first, second, self._shape, error, decibels, 0.0, note)


def _groups(plan: TapPlan, wanted: set[str]) -> list[list[str]]:
    """What is looked at together: the groups of the plan, each with what derives from it."""
    place = {name: number for number, group in enumerate(plan.groups) for name in group}
    for name, derived in plan.derived.items():
        # What derives from an input of the network goes anywhere.
        place[name] = place.get(derived.source, 0)
    groups: list[list[str]] = [[] for _ in range(max(place.values(), default=-1) + 1)]
    for name in plan.names:
        if name in wanted:
            groups[place[name]].append(name)
    return [group for group in groups if group]


def _tapped(model: ir.Model, example: Feeds, names: Sequence[str]) -> onnxruntime.InferenceSession:
    part = cut_model(model, [example], names)
    for value in part.graph.inputs:
        # Later batches may be smaller or of another size than the example.
        value.shape = ir.Shape([None] * len(value.shape or ()))
    return make_session(part)


def _operators(model: ir.Model) -> Mapping[str, str]:
    """Value to the operator that computes it, conversions looked through."""
    found: dict[ir.Value, str] = {}
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        passed = found.get(source, "") if source is not None else ""
        for value in node.outputs:
            found[value] = passed if node.op_type in _PASSED_ON and passed else node.op_type
    return {value.name: operator for value, operator in found.items() if value.name}


def _related(graph: ir.Graph, names: set[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """For every named value the named values nearest before it, and nearest behind it."""
    nearest: dict[ir.Value, set[str]] = {}
    before: dict[str, set[str]] = {}
    behind: dict[str, set[str]] = {name: set() for name in names}
    for node in graph:
        sources: set[str] = set()
        for value in node.inputs:
            if value is not None:
                sources |= nearest.get(value, set())
        for value in node.outputs:
            name = value.name or ""
            nearest[value] = {name} if name in names else sources
            if name in names:
                before[name] = sources
                for source in sources:
                    behind[source].add(name)
    return before, behind


def _without_namesakes(graph: ir.Graph, rows: Sequence[DriftRow]) -> list[DriftRow]:
    """Rows, with a note in place of figures where the two values only share their name."""
    errors = {row.name: row.error for row in rows if math.isfinite(row.error)}
    _, behind = _related(graph, set(errors))
    found = []
    for row in rows:
        follows = [errors[name] for name in behind.get(row.name, ())]
        if (
            row.first_operator != row.second_operator
            and follows
            and row.error > max(_UNLIKE * max(follows), _SMALLEST_UNLIKE_ERROR)
        ):
            note = (
                f"not the same value: {row.first_operator} here, {row.second_operator} there, and "
                f"what is computed from it differs by {100 * max(follows):.1f} % only"
            )
            row = dataclasses.replace(row, error=math.nan, snr_db=math.nan, note=note)
        found.append(row)
    return found


def _with_gains(graph: ir.Graph, rows: Sequence[DriftRow]) -> list[DriftRow]:
    """Each error less the largest one that flows into its value."""
    errors = {row.name: row.error for row in rows if math.isfinite(row.error)}
    before, _ = _related(graph, set(errors))
    return [
        dataclasses.replace(
            row,
            gained=row.error
            - max((errors[name] for name in before.get(row.name, ())), default=0.0),
        )
        for row in rows
    ]


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:])) or "1"
