"""What follows a convolution is recognised, and nothing is seen where nothing can be relied on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxsep.factorize import Activation
from onnxsep.surroundings import find_surroundings

from .passes.helpers import model_from_text

IDENTITY = Activation.identity()


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    nodes: str
    shortcut: str
    activation: Activation
    outputs: str = "float[b, 4, 5, 5] y"


CASES = [
    Case("nothing", "y = Identity (c)", "", IDENTITY),
    Case("Relu", "y = Relu (c)", "", Activation.relu()),
    Case("LeakyRelu", "y = LeakyRelu <alpha = 0.25> (c)", "", Activation.leaky_relu(0.25)),
    Case("Clip", "y = Clip (c, zero, six)", "", Activation.clip(0.0, 6.0)),
    Case("half a Clip", "y = Clip (c, , six)", "", Activation.clip(high=6.0)),
    Case("computed Clip", "m = ReduceMax <keepdims = 0> (x) y = Clip (c, , m)", "", IDENTITY),
    Case("HardSwish", "y = HardSwish (c)", "", Activation.hard_swish()),
    Case("SiLU", "g = Sigmoid (c) y = Mul (c, g)", "", Activation.silu()),
    Case("a gate of something else", "g = Sigmoid (c) y = Mul (x, g)", "", IDENTITY),
    Case("sum", "y = Add (c, x)", "x", IDENTITY),
    Case("sum, Relu", "s = Add (x, c) y = Relu (s)", "x", Activation.relu()),
    Case("sum with a constant", "y = Add (c, zero)", "", IDENTITY),
    Case("doubled", "y = Add (c, c)", "", IDENTITY),
    Case("sum with itself", "r = Relu (c) y = Add (c, r)", "", IDENTITY),
    Case(
        "an output cannot be hidden",
        "y = Relu (c)",
        "",
        IDENTITY,
        outputs="float[b, 4, 5, 5] y, float[b, 4, 5, 5] c",
    ),
    Case(
        "a sum that is an output",
        "s = Add (c, x) y = Relu (s)",
        "x",
        IDENTITY,
        outputs="float[b, 4, 5, 5] y, float[b, 4, 5, 5] s",
    ),
    Case(
        "read twice",
        "y = Relu (c) z = Abs (c)",
        "",
        IDENTITY,
        outputs="float[b,4,5,5] y, float[b,4,5,5] z",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_surroundings(case: Case) -> None:
    model = model_from_text(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[b, 4, 5, 5] x) => ({case.outputs}) {{
            c = Conv <pads = [1, 1, 1, 1]> (x, W)
            {case.nodes}
        }}
        """,
        W=np.ones((4, 4, 3, 3), np.float32),
        zero=np.float32(0),
        six=np.float32(6),
    )
    conv = next(node for node in model.graph if node.op_type == "Conv")
    found = find_surroundings(conv)
    assert (found.shortcut, found.activation) == (case.shortcut, case.activation)
    assert found.is_linear == (case.activation == IDENTITY)
