"""A process that writes the same file again and again, to be killed at any moment.

``python -m tests.reliability.writer KIND PATH SEED``: of KIND ``inside`` a model of one file, of
KIND ``beside`` one whose weights lie beside it. A line is printed when it begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxsep import weights
from onnxsep.model import load_model, save_model

from ..passes.helpers import model_from_text

# Large enough that a kill falls into the writing as often as between two of them.
SIDE = 700


def network(seed: int) -> ir.Model:
    """A model all of whose numbers say by which run it was written."""
    return model_from_text(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[N, {SIDE}] x) => (float[N, {SIDE}] y) "
        "{ h = MatMul (x, a) y = MatMul (h, b) }",
        a=np.full((SIDE, SIDE), seed, np.float32),
        b=np.full((SIDE, SIDE), seed, np.float32),
    )


def beside() -> None:
    """Let every weight be too large for the model's own file."""
    weights.PROTOBUF_LIMIT_BYTES = 1000


def written_by(path: Path) -> int:
    """Which run wrote the model at ``path``; all of its weights must say the same.

    Raises:
        AssertionError: They do not: it is of two runs.
    """
    model = load_model(path)
    values = {
        float(number)
        for value in model.graph.initializers.values()
        if value.const_value is not None
        for number in np.unique(value.const_value.numpy())
    }
    assert len(values) == 1, f"mixed of {values}"
    return int(values.pop())


def _main(kind: str, path: str, seed: str) -> None:
    if kind == "beside":
        beside()
    model = network(int(seed))
    print("begun", flush=True)
    while True:
        save_model(model, path)


if __name__ == "__main__":
    _main(*sys.argv[1:])
