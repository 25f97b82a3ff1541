"""The README's main command left a model: it loads, computes, and has the input's interface."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime


def signature(session: onnxruntime.InferenceSession) -> list[tuple[str, str, list[object]]]:
    values = [*session.get_inputs(), *session.get_outputs()]
    return [(value.name, value.type, value.shape) for value in values]


def main(before: str, after: str) -> None:
    onnx.checker.check_model(after, full_check=True)
    sessions = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (before, after)
    ]
    if signature(sessions[0]) != signature(sessions[1]):
        raise SystemExit(f"{after} has another interface than {before}")
    name = sessions[1].get_inputs()[0].name
    images = np.load("sample_models/digits_test.npz")["images"][:8]
    values = np.moveaxis(images.astype(np.float32) / 255, -1, 1)
    output = sessions[1].run(None, {name: values})[0]
    if not np.isfinite(output).all() or output.std() == 0:
        raise SystemExit(f"{after} computes nothing sensible")
    operators = {node.op_type for node in onnx.load(after).graph.node}
    if "BatchNormalization" in operators:
        raise SystemExit(f"{after} still has BatchNormalization")
    print(f"{after}: loads, computes, same interface")


if __name__ == "__main__":
    main(*sys.argv[1:])
