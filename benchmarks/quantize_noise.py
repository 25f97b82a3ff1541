"""Where the noise of int8 is from: weights alone rounded, activations alone, and both.

    python benchmarks/quantize_noise.py [--network resnet8_wide_cifar10 ...]

Signal-to-noise of the outputs on test images against the float network, and how often the class is
the same. Images and networks are those of ``quantize.py``; biases are not corrected. Deterministic;
nothing is timed. A few minutes for all classifiers on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import onnx_ir as ir
from quantize import (
    DEFAULT_DATA,
    NETWORKS,
    agreement,
    cleaned,
    joined,
    load_images,
    outputs,
    signal_to_noise_db,
)

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.passes._weight_grid import Rounding, weight_grid
from onnxsep.passes.pool_first import PoolFirst
from onnxsep.passes.quantize import (
    DEFAULT_CANDIDATES,
    Quantize,
    QuantizeSettings,
    values_to_calibrate,
)

WEIGHTED = ("Conv", "Gemm")
CLASSIFIERS = [name for name, kind in NETWORKS.items() if kind != "luma"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--network", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
    arguments = parser.parse_args()
    if not (arguments.data / "models").is_dir():
        raise SystemExit(f"{arguments.data} is not here; say where the data are with --data")
    print("| network | rounded | signal-to-noise | as float |")
    print("|---|---|---|---|")
    for name in arguments.network:
        compare(name, arguments.data)


def compare(name: str, data: Path) -> None:
    """The rows of one network."""
    images = load_images(name, data, draw=0)
    model = cleaned(name, data, images)
    expected = outputs(model, images.test)

    def report(title: str, candidate: ir.Model) -> None:
        found = outputs(candidate, images.test)
        noise = signal_to_noise_db(joined(expected), joined(found))
        print(f"| {name} | {title} | {noise:.1f} dB | {agreement(expected, found)} |", flush=True)

    for rounding in get_args(Rounding):
        report(f"weights, {rounding}", with_rounded_weights(model, rounding))
    pooled = model.clone()
    PoolFirst()(pooled)
    values = values_to_calibrate(pooled, QuantizeSettings())
    statistics = collect_statistics(pooled, images.calibration, values, threads=1)
    for settings in DEFAULT_CANDIDATES:
        both = Quantize(statistics, settings)(pooled.clone()).model
        report(f"activations, {settings.method}", with_float_weights(both, pooled))
        report(f"both, {settings.method}", both)


def with_rounded_weights(model: ir.Model, rounding: Rounding) -> ir.Model:
    """A copy in float whose weights are what int8 makes of them."""
    result = model.clone()
    for node in result.graph:
        if node.op_type in WEIGHTED:
            weight = node.inputs[1]
            rows_first = node.op_type == "Conv" or node.attributes.get_int("transB", 0)
            grid = weight_grid(
                weight.const_value.numpy(),
                0 if rows_first else 1,
                bits=8,
                method="minmax",
                rounding=rounding,
            )
            weight.const_value = ir.tensor(grid.rounded)
    return result


def with_float_weights(quantized: ir.Model, model: ir.Model) -> ir.Model:
    """A copy of the quantized model with the weights of the float one."""
    result = quantized.clone()
    originals = {node.name: node for node in model.graph}
    for node in list(result.graph):
        if node.op_type in WEIGHTED and node.name in originals:
            tensor = originals[node.name].inputs[1].const_value
            weight = ir.Value(
                name=f"{node.name}_float_weight",
                shape=ir.Shape(tensor.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            result.graph.register_initializer(weight)
            node.replace_input_with(1, weight)
    return result


if __name__ == "__main__":
    main()
