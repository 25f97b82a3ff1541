"""A small network with what quantization meets, its statistics, and the pass run on it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.passes.base import RewriteResult
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate

from .helpers import model_from_text, normal

_NETWORK = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3, 16, 16] image) => (float[1, 6] scores)
    <float low = {0.0}, float high = {6.0}> {
        [stem] a = Conv <pads = [1, 1, 1, 1]> (image, W0, B0)
        b = Relu (a)
        c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        [depthwise] d = Conv <pads = [1, 1, 1, 1], group = 16> (c, W1, B1)
        e = Clip (d, low, high)
        [left] f = Conv (e, W2, B2)
        g = Add (f, c)
        h = Relu (g)
        k = Concat <axis = 1> (h, e)
        [right] l = Conv <pads = [1, 1, 1, 1]> (k, W3, B3)
        m = Relu (l)
        n = GlobalAveragePool (m)
        o = Flatten (n)
        [classes] scores = Gemm <transB = 1> (o, W4, B4)
    }
"""


def network() -> ir.Model:
    """Five nodes with weights, fixed dimensions."""
    weights = {
        "W0": normal(16, 3, 3, 3, seed=1) / 4,
        "W1": normal(16, 1, 3, 3, seed=2) / 2,
        "W2": normal(16, 16, 1, 1, seed=3) / 4,
        "W3": normal(32, 32, 3, 3, seed=4) / 16,
        "W4": normal(6, 32, seed=5) / 4,
    }
    biases = {
        f"B{index}": normal(len(weight), seed=10 + index) / 4
        for index, weight in enumerate(weights.values())
    }
    return named(model_from_text(_NETWORK, **weights, **biases))


def named(model: ir.Model) -> ir.Model:
    """The model with names on all nodes."""
    Normalize()(model)
    return model


def test_feeds() -> dict[str, np.ndarray]:
    """One image that no calibration sees."""
    return {"image": normal(1, 3, 16, 16, seed=99)}


test_feeds.__test__ = False  # type: ignore[attr-defined]  # a name, no test


def statistics(
    model: ir.Model, settings: QuantizeSettings | None = None, batches: int = 8
) -> dict[str, ValueStatistics]:
    """Of normal numbers at the inputs."""
    values = values_to_calibrate(model, settings or QuantizeSettings())
    return collect_statistics(model, list(_batches(model, batches)), values, threads=1)


def quantized(
    model: ir.Model,
    target: str = "cpu",
    *,
    settings: QuantizeSettings | None = None,
) -> RewriteResult:
    """The pass on a copy of ``model``."""
    settings = settings or QuantizeSettings(target=target, bits=8)
    return Quantize(statistics(model, settings), settings)(model.clone())


def _batches(model: ir.Model, count: int) -> Iterable[dict[str, np.ndarray]]:
    for seed in range(count):
        yield {
            value.name or "": normal(
                *[size if isinstance(size, int) else 2 for size in value.shape or ()], seed=seed
            )
            for value in model.graph.inputs
        }
