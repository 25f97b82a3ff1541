"""What equalization and the correction of biases are worth before and after int8, separable or not.

    python benchmarks/equalize.py [--data FOLDER] [--network simpnet300k_cifar10 ...]
        [--separated FOLDER] [--form original separated]

FOLDER of ``--data`` holds what benchmarks/quantize.py asks for, whose networks and images these
are: ranges and shifts come from the calibration images, whether a correction is kept from the
selection images, quality from the test images. Separable versions are made by ``onnxsep optimize
--rank 2`` on the calibration images, and kept in the folder of ``--separated`` for the next run.
Prints a Markdown table per network. Deterministic; about half an hour for all on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from quantize import DEFAULT_DATA, Images, cleaned, joined, load_images, outputs, quality

from onnxsep.calibrate.ranges import RangeMethod
from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.model import load_model, save_model
from onnxsep.passes.correct_bias import CorrectBias
from onnxsep.passes.equalize import Equalize, collect_channel_statistics, values_to_equalize
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate
from onnxsep.quality import signal_to_noise_db

SEPARABLE = ("simpnet300k_cifar10", "slimnet8_cifar10", "resnet20_cifar10", "vdsr")
NETWORKS = (*SEPARABLE, "mobilenetv2_imagenet")
METHODS: tuple[RangeMethod, ...] = ("minmax", "mse")
RANK = "2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--separated", type=Path, help="folder to keep separable networks in")
    parser.add_argument(
        "--form", nargs="+", choices=("original", "separated"), default=["original", "separated"]
    )
    arguments = parser.parse_args()
    if not (arguments.data / "models").is_dir():
        raise SystemExit(f"{arguments.data} is not here; say where the data are with --data")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.separated or Path(temporary)
        for name in arguments.network:
            images = load_images(name, arguments.data)
            if "original" in arguments.form:
                compare(name, cleaned(name, arguments.data, images), images)
            if "separated" in arguments.form and name in SEPARABLE:
                model = separated(name, arguments.data, images, folder)
                compare(f"{name}, separated", model, images)


def compare(title: str, model: ir.Model, images: Images) -> None:
    """The table of one network."""
    exact = outputs(model, images.test)
    chosen_by = joined(outputs(model, images.selection))
    before = quality(exact, images)
    unit = "dB" if images.truth[0].ndim > 1 else "%"
    print(f"\n## {title}\n\nin float: {before:.2f} {unit}\n")
    print("| ranges | steps | quality | lost | signal-to-noise, test | selection |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        for steps, quantized in variants(model, images, method):
            found = outputs(quantized, images.test)
            after = quality(found, images)
            noise = signal_to_noise_db(joined(exact), joined(found))
            selection = signal_to_noise_db(chosen_by, joined(outputs(quantized, images.selection)))
            print(
                f"| {method} | {steps} | {after:.2f} {unit} | {before - after:+.2f} "
                f"| {noise:.1f} dB | {selection:.1f} dB |",
                flush=True,
            )


def variants(
    model: ir.Model, images: Images, method: RangeMethod
) -> Iterator[tuple[str, ir.Model]]:
    """The four ways to int8."""
    settings = QuantizeSettings(method=method, weight_method="mse")
    known = collect_channel_statistics(
        model, images.calibration, values_to_equalize(model), threads=1
    )
    even = Equalize(known)(model.clone())
    scaled = sum(change.code == "equalized" for change in even.changes)
    for steps, source in (("plain", model), (f"equalize ({scaled})", even.model)):
        statistics = collect_statistics(
            source, images.calibration, values_to_calibrate(source, settings), threads=1
        )
        quantized = Quantize(statistics, settings)(source.clone()).model
        yield steps, quantized
        corrected = CorrectBias(source, images.calibration, images.selection, threads=1)(
            quantized.clone()
        )
        kept = str(len(corrected.changes)) if corrected.modified else "taken back"
        yield f"{steps}, correct_bias ({kept})", corrected.model


def separated(name: str, data: Path, images: Images, folder: Path) -> ir.Model:
    """Every convolution but the first at rank 2, fitted on the calibration images."""
    path = folder / f"{name}.rank{RANK}.onnx"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            source, arrays = Path(temporary, "model.onnx"), Path(temporary, "images.npz")
            save_model(cleaned(name, data, images), source)
            key = next(iter(images.calibration[0]))
            np.savez(arrays, **{key: np.concatenate([each[key] for each in images.calibration])})
            command = [sys.executable, "-m", "onnxsep", "optimize", str(source), "-o", str(path)]
            # No budget: what is lost here is not the question.
            free = ["--max-drop", "100", "--min-snr", "0"]
            subprocess.run(
                [*command, "--data", str(arrays), "--rank", RANK, "--quiet", *free], check=True
            )
    model = load_model(path)
    Normalize()(model)
    return model


if __name__ == "__main__":
    main()
