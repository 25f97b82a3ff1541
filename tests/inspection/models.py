"""Ten-line models with random weights whose figures can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..passes.helpers import model_from_text


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def chain(
    nodes: str,
    *,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    inputs: str = "",
    opset: int = 17,
    **initializers: np.ndarray,
) -> ir.Model:
    """``nodes`` from ``x`` of a shape to ``y``."""
    sizes = ", ".join(map(str, shape))
    text = f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        tiny (float[{sizes}] x{inputs}) => (float y) {{ {nodes} }}
    """
    model = model_from_text(text, **initializers)
    model.graph.outputs[0].shape = None
    return model


def one_convolution(
    channels: int, outputs: int, kernel: int = 3, size: int = 8, *, attributes: str = ""
) -> ir.Model:
    """A standard convolution without padding."""
    return chain(
        f"[conv] y = Conv {attributes} (x, w)",
        shape=(1, channels, size, size),
        w=weight(outputs, channels, kernel, kernel),
    )
