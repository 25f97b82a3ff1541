"""Simplification by onnxsim, believed only after a comparison on data."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxsep.errors import OnnxsepError
from onnxsep.interface import interface_difference, restore_interface
from onnxsep.passes.base import Change, LosslessPass, Refusal, RewriteResult
from onnxsep.proof import largest_relative_difference, tolerance_for
from onnxsep.runtime import Feeds
from onnxsep.simplifier import simplify_model

_WHOLE_MODEL = "(whole model)"


class Simplify(LosslessPass):
    """Constant folding, shape computation and dead code by onnxsim.

    Refuses, and leaves the model as it was, if onnxsim fails, changes the interface, or changes
    the numbers on the given data.
    """

    name = "simplify"

    def __init__(self, checks: Sequence[Feeds]) -> None:
        """Prepare the pass.

        Args:
            checks: Batches of inputs on which the result must agree with the model.
        """
        self._checks = checks

    def call(self, model: ir.Model) -> RewriteResult:
        """Replace the graph by onnxsim's, if it proves equal."""
        try:
            simplified = simplify_model(model)
        except OnnxsepError as error:
            return _refused(model, "simplifier-failed", str(error))
        difference = interface_difference(model, simplified, shapes=False)
        if difference:
            return _refused(model, "interface-changed", f"onnxsim's result {difference}")
        # onnxsim writes what it inferred into the declared shapes; those are not its to change.
        restore_interface(simplified, model)
        try:
            worst = largest_relative_difference(model, simplified, self._checks)
        except OnnxsepError as error:
            return _refused(model, "result-does-not-run", str(error))
        if not worst <= tolerance_for(model):
            return _refused(
                model,
                "numbers-changed",
                f"onnxsim's result differs by {worst:.1e} of the largest output",
                {"difference": worst},
            )
        before, after = model.graph.num_nodes(), simplified.graph.num_nodes()
        if before == after and _operators(model) == _operators(simplified):
            return RewriteResult(model, modified=False)
        model.graph = simplified.graph
        model.ir_version = simplified.ir_version
        model.functions.clear()
        model.functions.update(simplified.functions)
        change = Change(
            _WHOLE_MODEL,
            "simplified",
            f"{before} nodes became {after}",
            {"nodes_before": before, "nodes_after": after, "difference": worst},
        )
        return RewriteResult(model, modified=True, changes=[change])


def _operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def _refused(
    model: ir.Model, code: str, reason: str, figures: dict[str, float] | None = None
) -> RewriteResult:
    refusal = Refusal(_WHOLE_MODEL, code, reason, figures or {})
    return RewriteResult(model, modified=False, refusals=[refusal])
