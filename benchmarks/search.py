"""The search on evaluation networks: speed-up and quality at the default budget.

    python benchmarks/search.py [NETWORK ...] [--precision fp32 int8] [--time-limit SECONDS]

One run of ``optimize`` per network and precision, one thread, without layer times of earlier runs.
Speed-ups are medians of interleaved runs against the input model with their 95 % interval; quality
is on test images that no fit saw. Let nothing else run meanwhile. For VDSR, a restoration network,
the budget is 0.35 dB; calibration images are squares cut out of grey photographs that were shrunk
to a third and enlarged again, test images squares cut out of Set5; the mean PSNR of the whole
pictures is given, too.

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

import numpy as np
from PIL import Image

from onnxsep.data import PRESETS, Preprocessing
from onnxsep.errors import OnnxsepError
from onnxsep.model import load_model
from onnxsep.options import Options
from onnxsep.pipeline import optimize
from onnxsep.runtime import make_session

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its images."""

    file: str
    calibration: str
    test: str
    preprocessing: Preprocessing | None
    label_offset: int = 0
    max_drop: float | None = None


CIFAR = ("cifar10/calibration.npz", "cifar10/test.npz")
IMAGENET = ("imagenet/calibration", "imagenet/test")
NETWORKS = {
    "simpnet300k": Network("simpnet300k_cifar10.onnx", *CIFAR, PRESETS["cifar10"]),
    "slimnet8": Network("slimnet8_cifar10.onnx", *CIFAR, PRESETS["cifar10"]),
    "resnet8_wide": Network("resnet8_wide_cifar10.onnx", *CIFAR, PRESETS["raw"]),
    "resnet20": Network("resnet20_cifar10.onnx", *CIFAR, PRESETS["imagenet"]),
    "tiny_darknet": Network("tiny_darknet_imagenet.onnx", *IMAGENET, PRESETS["unit"]),
    "squeezenet11": Network("squeezenet11_imagenet.onnx", *IMAGENET, PRESETS["caffe"]),
    "mobilenetv2": Network(
        "mobilenetv2_imagenet.onnx", *IMAGENET, PRESETS["inception"], label_offset=1
    ),
    "vdsr": Network("vdsr.onnx", "set68", "set5", None, max_drop=0.35),
}
# Sides of the squares that VDSR is fitted on and tested on, and how many are cut out of an image.
FIT_SIDE, TEST_SIDE = 72, 114
SHRINK = 3
SHAVED = 3


def squares(pictures: list[tuple[np.ndarray, np.ndarray]], side: int, path: Path) -> str:
    """Cut (input, truth) pairs into an archive for VDSR; both luma from 0 to 1."""
    inputs, truths = [], []
    for blurred, truth in pictures:
        for top in range(0, truth.shape[0] - side + 1, side):
            for left in range(0, truth.shape[1] - side + 1, side):
                place = (slice(top, top + side), slice(left, left + side))
                inputs.append(blurred[place][None])
                truths.append(truth[place][None])
    np.savez(path, input=np.stack(inputs), targets=np.stack(truths))
    return str(path)


def photographs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Grey photographs shrunk and enlarged again, beside themselves."""
    pairs = []
    for path in sorted(folder.glob("*.png")):
        image = Image.open(path).convert("L")
        width, height = (size - size % SHRINK for size in image.size)
        image = image.crop((0, 0, width, height))
        small = image.resize((width // SHRINK, height // SHRINK), Image.Resampling.BICUBIC)
        again = small.resize((width, height), Image.Resampling.BICUBIC)
        pairs.append((video_range(again), video_range(image)))
    return pairs


def set5(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The five pictures enlarged from a third, beside themselves; luma as in video."""
    pairs = []
    for path in sorted(folder.glob("*_truth.png")):
        other = path.with_name(path.name.replace("_truth", "_bicubic_x3"))
        first, second = (luma(np.asarray(Image.open(one).convert("RGB"))) for one in (other, path))
        pairs.append((first, second[: first.shape[0], : first.shape[1]]))
    return pairs


def video_range(image: Image.Image) -> np.ndarray:
    """Grey from 0 to 255 as the luma that the network was trained on, from 16 to 235 of 255."""
    return ((16 + np.asarray(image, dtype=np.float32) * (219 / 255)) / 255).astype(np.float32)


def luma(image: np.ndarray) -> np.ndarray:
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return ((16 + image.astype(np.float64) @ weights) / 255).astype(np.float32)


def set5_psnr(model: Path, folder: Path) -> float:
    """Mean over the pictures in dB, borders shaved off."""
    session = make_session(load_model(model), threads=1)
    name = session.get_inputs()[0].name
    ratios = []
    for blurred, truth in set5(folder):
        found = session.run(None, {name: blurred[None, None]})[0][0, 0]
        found = np.clip(found, 0, 1)
        error = 255 * (found - truth)[SHAVED:-SHAVED, SHAVED:-SHAVED]
        ratios.append(10 * np.log10(255**2 / np.mean(np.square(error.astype(np.float64)))))
    return float(np.mean(ratios))


def image_sources(network: Network, data: Path, folder: Path) -> tuple[str, str]:
    """Calibration and test images; squares for VDSR are written into ``folder``."""
    calibration, test = data / network.calibration, data / network.test
    if network.preprocessing is not None:
        return str(calibration), str(test)
    return (
        squares(photographs(calibration), FIT_SIDE, folder / "fit.npz"),
        squares(set5(test), TEST_SIDE, folder / "test.npz"),
    )


def row(name: str, data: Path, precision: str, time_limit: float | None, folder: Path) -> str:
    """One line of the table."""
    network = NETWORKS[name]
    calibration, test = image_sources(network, data, folder)
    options = Options(
        data=calibration,
        test_data=test,
        preprocessing=network.preprocessing,
        label_offset=network.label_offset,
        max_drop=network.max_drop,
        precision=precision,
        time_limit=time_limit,
        timing_cache=False,
    )
    begin = time.perf_counter()
    source, output = data / "models" / network.file, folder / "result.onnx"
    try:
        record = optimize(source, options, output=output).record
    except OnnxsepError as error:
        return f"| {name} | {precision} | {error} | | | | |"
    seconds = time.perf_counter() - begin
    latency, quality = record.latency, record.quality[0].quality
    gain = ""
    if latency is not None:
        gain = f"{latency.speedup:.2f}x ({latency.low:.2f}-{latency.high:.2f})"
    before, after = record.multiplications
    whole = ""
    if network.preprocessing is None:
        first, last = (set5_psnr(model, data / network.test) for model in (source, output))
        whole = f"; Set5 {first:.2f} → {last:.2f} dB"
    return (
        f"| {name} | {precision} | {gain} | {quality.original:.2f} → {quality.value:.2f} "
        f"({0.0 - quality.drop:+.2f}{whole}) | {len(record.separated)} of {len(record.layers)} "
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
    print("| network | precision | speed-up | test quality | separated | work | search |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.networks or NETWORKS:
        for precision in arguments.precision:
            with tempfile.TemporaryDirectory() as folder:
                print(row(name, data, precision, arguments.time_limit, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
