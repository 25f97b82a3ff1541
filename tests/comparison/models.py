"""Ten-line models to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from ..passes.helpers import model_from_text

CHAIN = """
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[batch, 3, 8, 8] image) => (float[batch, 5] scores) {
        a = Conv <pads = [1, 1, 1, 1]> (image, W0)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, W1)
        d = Relu (c)
        e = GlobalAveragePool (d)
        f = Flatten (e)
        scores = Gemm <transB = 1> (f, W2)
    }
"""


def chain(seed: int = 0, *, noise: dict[str, float] | None = None, text: str = CHAIN) -> ir.Model:
    """Two convolutions and a product.

    Args:
        seed: Of the weights.
        noise: By how much, relatively, a weight is disturbed.
        text: The graph.
    """
    generator = np.random.default_rng(seed)
    shapes = {"W0": (8, 3, 3, 3), "W1": (8, 8, 3, 3), "W2": (5, 8)}
    weights = {
        name: (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    disturbance = np.random.default_rng(99)
    for name, size in (noise or {}).items():
        deviation = size * weights[name].std()
        weights[name] = weights[name] + np.float32(deviation) * disturbance.standard_normal(
            weights[name].shape
        ).astype(np.float32)
    return model_from_text(text, **weights)


def save(model: ir.Model, path: Path) -> Path:
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path


def save_text(text: str, path: Path) -> Path:
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def one_line(name: str, inputs: str, outputs: str, body: str) -> str:
    """A model in text form around one line of nodes."""
    return (
        f'<ir_version: 8, opset_import: ["" : 17]>\n{name} ({inputs}) => ({outputs}) {{ {body} }}'
    )


def write_arrays(path: Path, count: int = 40, **extra: np.ndarray) -> Path:
    """Inputs for `chain`, used as they are."""
    images = np.random.default_rng(7).standard_normal((count, 3, 8, 8)).astype(np.float32)
    np.savez(path, image=images, **extra)
    return path
