"""A model of one convolution, data for it, and decisions in short."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.decision import Decision
from onnxsep.passes.separate import Calibration

from .helpers import model_from_text, seeded_feeds


def one_conv(
    attributes: str = "pads = [1, 1, 1, 1]",
    *,
    shape: tuple[int, ...] = (12, 8, 3, 3),
    size: tuple[int, ...] = (9, 8),
    bias: bool = True,
    seed: int = 0,
) -> ir.Model:
    generator = np.random.default_rng(seed)
    spatial = ", ".join(str(extent) for extent in size)
    inputs = f"x, W{', B' if bias else ''}"
    free = ", ".join(f"s{axis}" for axis in range(len(size)))
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[batch, {shape[1]}, {spatial}] x) => (float[batch, {shape[0]}, {free}] y) {{
            [conv] y = Conv <{attributes}> ({inputs})
        }}
    """
    arrays = {"W": generator.standard_normal(shape).astype(np.float32)}
    if bias:
        arrays["B"] = generator.standard_normal(shape[0]).astype(np.float32)
    return model_from_text(text, **arrays)


def at_ranks(ranks: dict[str, int]) -> dict[str, Decision]:
    """Depthwise → pointwise at these ranks."""
    return {name: Decision("depthwise-pointwise", rank) for name, rank in ranks.items()}


def calibration_for(model: ir.Model, *, batches: int = 3, batch: int = 4) -> Calibration:
    feeds = [seeded_feeds(model, seed=seed, free={"batch": batch}) for seed in range(batches)]
    return Calibration(feeds, batches * batch, threads=1)
