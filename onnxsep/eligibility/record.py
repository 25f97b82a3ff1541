"""What a check found, as plain data that reports and programs read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

State = Literal["taken", "float", "refused"]


@dataclasses.dataclass(frozen=True)
class RuleFacts:
    """The rule behind a refusal.

    Attributes:
        code: For programs.
        sentence: Why, one clause.
        way_out: What helps, one clause; ``none`` with or without a reason where nothing does.
        source: Where the rule stands.
        confidence: ``source``, ``documented`` or ``measured``.
    """

    code: str
    sentence: str
    way_out: str
    source: str
    confidence: str


@dataclasses.dataclass(frozen=True)
class UnitRow:
    """One unit of the graph: an operator, alone or with what quantizes it.

    Attributes:
        name: Of the operator's node, or of its first result.
        operator: Its type.
        quantized: Whether it is one group with QuantizeLinear and DequantizeLinear.
        nodes: How many nodes it consists of.
        multiplications: Of one run; None where a size is not known.
        state: ``taken``, ``float`` (taken, but not on integers as was meant) or ``refused``.
        partition: Which of the target's partitions it is in, from 1; 0 for none.
        inside: Name of the unit that it runs inside of, empty for none.
        rule: Why it is not taken as it was meant; None if it is.
    """

    name: str
    operator: str
    quantized: bool
    nodes: int
    multiplications: int | None
    state: State
    partition: int = 0
    inside: str = ""
    rule: RuleFacts | None = None


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """What a session of the provider on this machine said.

    Attributes:
        provider: As onnxruntime calls it.
        confirmed: Whether there was one; else ``reason`` tells why not.
        reason: One clause.
        disagreements: Where prediction and session differ, one sentence each.
        compared: How many units could be compared.
    """

    provider: str
    confirmed: bool
    reason: str = ""
    disagreements: tuple[str, ...] = ()
    compared: int = 0


@dataclasses.dataclass(frozen=True)
class Eligibility:
    """What a target would take of a model, and what would go elsewhere.

    Attributes:
        model: Path of the model, as it was given; empty for one in memory.
        target: Name of the target.
        provider: Its provider, as onnxruntime calls it.
        onnxruntime_version: The one here, which prepared the graph.
        rules_version: The onnxruntime whose source the rules were read in.
        api_level: Android's, for NNAPI; 0 for all others.
        fixed: Sizes that were given to free dimensions.
        free: Dimensions of inputs that are still free.
        original_nodes: In the model as it is.
        units: Of the graph that the provider would see, in an order in which they can run.
        partitions: How many parts the target would get: of a provider that translates whole
            parts, those; of one that runs kernel by kernel, stretches without a foreign node.
        confirmation: By a session, if there was one.
        notes: What else should be known, one sentence each.
    """

    model: str
    target: str
    provider: str
    onnxruntime_version: str
    rules_version: str
    api_level: int
    fixed: dict[str, int]
    free: tuple[str, ...]
    original_nodes: int
    units: tuple[UnitRow, ...]
    partitions: int
    confirmation: Confirmation
    notes: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[UnitRow, ...]:
        """Units that another provider would run."""
        return tuple(row for row in self.units if row.state == "refused")

    @property
    def in_float(self) -> tuple[UnitRow, ...]:
        """Units that stay, but compute in float what was meant for integers."""
        return tuple(row for row in self.units if row.state == "float")

    @property
    def nodes(self) -> int:
        """Nodes of the graph that the provider would see."""
        return sum(row.nodes for row in self.units)

    @property
    def node_share(self) -> float:
        """Share of nodes that leave the target, 0 to 1."""
        return _share(sum(row.nodes for row in self.refused), self.nodes)

    @property
    def multiplication_share(self) -> float | None:
        """Share of multiplications that leave the target; None where a size is not known."""
        return self._multiplications(self.refused)

    @property
    def float_share(self) -> float | None:
        """Share of multiplications that stay, but are computed in float."""
        return self._multiplications(self.in_float)

    @property
    def holds(self) -> bool:
        """Whether nothing leaves the target and all that is quantized runs on integers."""
        return not self.refused and not self.in_float

    def to_json(self) -> str:
        """All of it, with the shares, as JSON."""
        return json.dumps(self.plain(), indent=2) + "\n"

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            **dataclasses.asdict(self),
            "nodes": self.nodes,
            "node_share": self.node_share,
            "multiplication_share": self.multiplication_share,
            "float_share": self.float_share,
            "holds": self.holds,
        }

    def _multiplications(self, rows: tuple[UnitRow, ...]) -> float | None:
        counts = [row.multiplications for row in self.units]
        if None in counts:
            return None
        total = sum(count for count in counts if count is not None)
        return _share(sum(row.multiplications or 0 for row in rows), total)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
