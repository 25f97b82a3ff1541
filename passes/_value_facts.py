"""Type and rank of any value of a model, inferred only where the model does not state them."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common

from onnxsep.passes._obstacle import ObstacleError


class ValueFacts:
    """Answers from the model's own annotations, else from one run of ONNX's shape inference.

    The inference runs on a copy, so that a pass that merely asks leaves no trace in the model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[ir.Value, ir.Value] | None = None

    def dtype(self, value: ir.Value) -> ir.DataType:
        """Element type of ``value``.

        Raises:
            ObstacleError: Neither the model nor shape inference knows it (``unknown-type``).
        """
        if value.dtype is not None:
            return value.dtype
        inferred = self._inference().get(value)
        if inferred is None or inferred.dtype is None:
            raise ObstacleError("unknown-type", f"the type of '{value.name}' is unknown")
        return inferred.dtype

    def rank(self, value: ir.Value) -> int:
        """Number of dimensions of ``value``.

        Raises:
            ObstacleError: Neither the model nor shape inference knows it (``unknown-rank``).
        """
        if value.shape is not None:
            return len(value.shape)
        inferred = self._inference().get(value)
        if inferred is None or inferred.shape is None:
            raise ObstacleError("unknown-rank", f"the rank of '{value.name}' is unknown")
        return len(inferred.shape)

    def same(self, new: ir.Value, old: ir.Value) -> None:
        """Remember that ``new``, made since, has type and shape of ``old``."""
        inferred = self._inference().get(old) if self._inferred is not None else None
        if self._inferred is not None and inferred is not None:
            self._inferred[new] = inferred

    def _inference(self) -> dict[ir.Value, ir.Value]:
        if self._inferred is None:
            self._inferred = {}
            try:
                copy = self._model.clone()
            except RuntimeError:  # malformed, say an input that nothing provides: nothing is known
                return self._inferred
            ir.passes.common.ShapeInferencePass(strict_mode=False)(copy)
            # By position, not by name: two branches of an If may use the same names.
            nodes = zip(self._model.graph.all_nodes(), copy.graph.all_nodes(), strict=True)
            for node, twin in nodes:
                self._inferred.update(zip(node.outputs, twin.outputs, strict=True))
                for value, inferred in zip(node.inputs, twin.inputs, strict=True):
                    if value is not None and inferred is not None:
                        self._inferred.setdefault(value, inferred)
        return self._inferred
