"""A trained-looking network of three convolutions, small enough to optimize in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from .passes.helpers import model_from_text

_TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    small (float[batch, 3, 16, 16] image) => (float[batch, 6] scores) {
        [stem] a = Conv <pads = [1, 1, 1, 1]> (image, W0)
        [stem_bn] b = BatchNormalization (a, g, s, m, v)
        c = Relu (b)
        [body] d = Conv <pads = [1, 1, 1, 1]> (c, W1, B1)
        e = Relu (d)
        [tail] f = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (e, W2)
        h = GlobalAveragePool (f)
        k = Flatten (h)
        scores = Gemm <transB = 1> (k, W3)
    }
"""


def small_network(seed: int = 0) -> ir.Model:
    """Random weights whose kernels are nearly separable, as trained ones are."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    def nearly_separable(outputs: int, inputs: int) -> np.ndarray:
        kernels = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16
        weight = normal(outputs, inputs, 1, 1) * kernels + 0.02 * normal(outputs, inputs, 3, 3)
        return weight / np.sqrt(inputs, dtype=np.float32)

    return model_from_text(
        _TEXT,
        W0=normal(32, 3, 3, 3) / 5,
        g=np.ones(32, np.float32),
        s=normal(32) / 10,
        m=np.zeros(32, np.float32),
        v=np.ones(32, np.float32),
        W1=nearly_separable(64, 32),
        B1=normal(64) / 10,
        W2=nearly_separable(64, 64),
        W3=normal(6, 64),
    )


def write_small_network(path: Path, seed: int = 0) -> Path:
    """The network as a file."""
    path.write_bytes(ir.to_proto(small_network(seed)).SerializeToString())
    return path


def write_images(path: Path, count: int = 48, *, labels: bool = False, seed: int = 1) -> Path:
    """uint8 images of smooth noise, with labels that mean nothing."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    images = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
    images = np.clip(images + generator.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
    arrays = {"images": images}
    if labels:
        arrays["labels"] = generator.integers(0, 6, count)
    np.savez(path, **arrays)
    return path
