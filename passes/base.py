"""What every onnxsep pass is: an ``onnx_ir`` pass that accounts for what it did and did not do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class Change:
    """One rewrite that was made.

    Attributes:
        node: Name of the node that was rewritten, as the model had it.
        code: What was done, for programs: lower-case words joined by hyphens
            (``"folded-into-conv"``).
        detail: The same for people, one clause without a full stop.
        figures: Numbers that belong to it (``{"rank": 2, "error": 0.031}``).
    """

    node: str
    code: str
    detail: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One rewrite that was considered and not made.

    Attributes:
        node: Name of the node left as it was.
        code: The reason, for programs: lower-case words joined by hyphens
            (``"weight-not-constant"``).
        reason: The reason for people, one clause that says what stands in the way.
        figures: Numbers behind the decision.
    """

    node: str
    code: str
    reason: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class RewriteResult(ir.passes.PassResult):
    """``onnx_ir`` result plus the account of changes and refusals, in graph order."""

    changes: list[Change] = dataclasses.field(default_factory=list)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)


class RewritePass(ir.passes.InPlacePass):
    """A pass with one job, working in place on an ``onnx_ir.Model``.

    Do not derive from this class but from `LosslessPass` or `LossyPass`: the report tells them
    apart by type. ``call`` returns a `RewriteResult`; it never refuses in silence and never leaves
    a rewrite half done.
    """

    name: ClassVar[str]

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> RewriteResult:
        """Check ``requires``, run ``call``, check ``ensures``.

        Raises:
            TypeError: ``call`` returned something else than a `RewriteResult`.
        """
        result = super().__call__(model_or_result)
        if not isinstance(result, RewriteResult):
            raise TypeError(f"the pass {self.name!r} gave no account of what it did")
        return result

    def call(self, model: ir.Model) -> RewriteResult:
        """Rewrite ``model`` in place and account for it."""
        raise NotImplementedError


class LosslessPass(RewritePass):
    """The rewritten model computes the same numbers, up to rounding."""


class LossyPass(RewritePass):
    """The rewritten model computes an approximation whose quality must be verified."""
