"""The search on evaluation networks: speed-up and quality at the default budget.

    python benchmarks/search.py [NETWORK ...] [--precision fp32 int8] [--time-limit SECONDS]

One run of ``optimize`` per network and precision, one thread, without layer times of earlier runs.
Speed-ups are medians of interleaved runs against the input model with their 95 % interval; quality
is on test images that neither fits nor the choice of the plan saw. Let nothing else run meanwhile.

Needs the evaluation data (ONNXSEP_SHARED_DATA, else ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path

from onnxsep.data import PRESETS, Preprocessing
from onnxsep.errors import OnnxsepError
from onnxsep.options import Options
from onnxsep.pipeline import optimize

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its images."""

    file: str
    calibration: str
    test: str
    preprocessing: Preprocessing
    label_offset: int = 0


CIFAR = ("cifar10/calibration.npz", "cifar10/test.npz")
IMAGENET = ("imagenet/calibration", "imagenet/test")
NETWORKS = {
    "simpnet300k": Network("simpnet300k_cifar10.onnx", *CIFAR, PRESETS["cifar10"]),
    "slimnet8": Network("slimnet8_cifar10.onnx", *CIFAR, PRESETS["cifar10"]),
    "resnet8_wide": Network("resnet8_wide_cifar10.onnx", *CIFAR, PRESETS["raw"]),
    "resnet20": Network("resnet20_cifar10.onnx", *CIFAR, PRESETS["imagenet"]),
    "tiny_darknet": Network("tiny_darknet_imagenet.onnx", *IMAGENET, PRESETS["unit"]),
}


def row(name: str, data: Path, precision: str, time_limit: float | None) -> str:
    """One line of the table."""
    network = NETWORKS[name]
    options = Options(
        data=str(data / network.calibration),
        test_data=str(data / network.test),
        preprocessing=network.preprocessing,
        label_offset=network.label_offset,
        precision=precision,
        time_limit=time_limit,
        timing_cache=False,
    )
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = Path(folder, "result.onnx")
            record = optimize(data / "models" / network.file, options, output=output).record
        except OnnxsepError as error:
            return f"| {name} | {precision} | {error} | | | | |"
    seconds = time.perf_counter() - begin
    latency, quality = record.latency, record.quality[0].quality
    gain = ""
    if latency is not None:
        gain = f"{latency.speedup:.2f}x ({latency.low:.2f}-{latency.high:.2f})"
    before, after = record.multiplications
    return (
        f"| {name} | {precision} | {gain} | {quality.original:.1f} → {quality.value:.1f} "
        f"({-quality.drop:+.1f}) | {len(record.separated)} of {len(record.layers)} "
        f"| {before / after:.2f}x fewer | {seconds:.0f} s |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="The search on evaluation networks.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--time-limit", type=float, default=None)
    arguments = parser.parse_args()
    data = Path(os.environ.get("ONNXSEP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not data.is_dir():
        print(f"evaluation data are not here: {data} (set ONNXSEP_SHARED_DATA)", file=sys.stderr)
        return 3
    print("| network | precision | speed-up | test accuracy | separated | work | search |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.networks or NETWORKS:
        for precision in arguments.precision:
            print(row(name, data, precision, arguments.time_limit), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
