"""The machine's pulse: one small fixed model, timed in every round of every run.

Two sessions on one machine differ for reasons that no cell knows: clock, temperature, neighbours.
How much this model's time changed from one session to the other tells how much of a cell's change
may be the machine's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxsep.model import save_model

# About a millisecond of dense convolutions on one core: long enough to time, short enough to pay
# for in every round; and the same kind of work as the cells'.
_CHANNELS, _SIDE, _LAYERS = 64, 28, 2
_OPSET, _IR_VERSION = 17, 8
PULSE_MODEL = "pulse.onnx"
PULSE_INPUTS = "pulse.npz"


def write_pulse(folder: Path) -> tuple[Path, Path]:
    """Write the model and its input; the same bytes everywhere.

    Returns:
        Paths of the model and of the inputs.
    """
    random = np.random.default_rng(0)
    shape = (1, _CHANNELS, _SIDE, _SIDE)
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    inputs, nodes, weights = [value], [], []
    for index in range(_LAYERS):
        array = random.normal(0, 0.04, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        weight = ir.Value(name=f"w{index}", const_value=ir.tensor(array, name=f"w{index}"))
        weights.append(weight)
        attributes = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
        for operator, operands, given in (
            ("Conv", [value, weight], attributes),
            ("Relu", None, {}),
        ):
            node = ir.node(operator, operands or [value], given)
            value = node.outputs[0]
            value.name = f"{operator}{index}"
            nodes.append(node)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    graph = ir.Graph(
        inputs,
        [value],
        nodes=nodes,
        initializers=weights,
        opset_imports={"": _OPSET},
        name="pulse",
    )
    model_path, inputs_path = folder / PULSE_MODEL, folder / PULSE_INPUTS
    save_model(ir.Model(graph, ir_version=_IR_VERSION), model_path)
    np.savez(inputs_path, x=random.normal(size=shape).astype(np.float32))
    return model_path, inputs_path
