"""What the tests of obstacles share: a graph, and what is said about it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from .helpers import model_from_text, normal, statistics

FOUR = statistics(4)
CONV = {"w": normal(4, 3, 3, 3), **FOUR}
NEXT_CONV = {"w": normal(5, 4, 3, 3), **FOUR}


def model(graph: str, arrays: dict[str, np.ndarray], opset: int = 17) -> ir.Model:
    """A model whose nodes are each called after their first result, ``y_maker`` makes ``y``."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g {graph}'
    result = model_from_text(text, **arrays)
    for node in result.graph:
        node.name = f"{node.outputs[0].name}_maker"
    return result


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph, and what is said about it.

    Attributes:
        id: Of the test.
        graph: Signature and body.
        arrays: Initializers.
        code: Of the refusal, or one that the detail of the change names.
        says: A part of what people read.
        opset: Of the standard domain.
    """

    id: str
    graph: str
    arrays: dict[str, np.ndarray]
    code: str
    says: str
    opset: int = 17

    def model(self) -> ir.Model:
        """The graph as a model."""
        return model(self.graph, self.arrays, self.opset)
