"""What padding channels with zeros is worth, in float and behind onnxruntime's own quantizer.

    python benchmarks/align_channels.py [--data FOLDER] [--seconds 20] [--network simpnet300k ...]

FOLDER holds ``models/``, ``cifar10/`` and ``imagenet/`` (default: ../shared/data beside the
project). Prints a Markdown table: for each network, simplified and with BatchNormalization folded,
the speed-up of the padded model over the unpadded one with its 95 % interval: all groups of
channels padded to multiples of 4, 8 and 16 as `AlignChannels` does it when told so, and what
`choose_alignment` chose. "/2" is the network with every convolution but the first separated at
rank 2, by its weights alone. int8: onnxruntime.quantization.quantize_static, min-max ranges of 64
images, int8 weights per channel, of the padded and the unpadded model. One thread, runs of both
models in turn, each pair in fresh sessions: ratios hold on a machine that others use, times do not.
About fifteen minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from onnxsep.convolution import find_convolutions
from onnxsep.data import PRESETS, input_specs, load_dataset
from onnxsep.decision import Decision
from onnxsep.evaluation import batches_of
from onnxsep.latency import Comparison, compare_latency
from onnxsep.model import load_model
from onnxsep.passes.align_channels import AlignChannels, choose_alignment
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Separate
from onnxsep.passes.simplify import Simplify
from onnxsep.runtime import Feeds

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MULTIPLES = (4, 8, 16)
IMAGES = 64
# Ranges do not change the time that a model takes: while plans are only timed, few images do.
IMAGES_OF_A_TRIAL = 4
SEPARATED = "/2"


@dataclasses.dataclass(frozen=True)
class Network:
    """A file of the evaluation data, and what its images go through."""

    file: str
    images: str
    preset: str


NETWORKS = {
    "simpnet300k": Network("simpnet300k_cifar10", "cifar10", "cifar10"),
    "slimnet8": Network("slimnet8_cifar10", "cifar10", "cifar10"),
    "resnet20": Network("resnet20_cifar10", "cifar10", "imagenet"),
    "resnet8_wide": Network("resnet8_wide_cifar10", "cifar10", "raw"),
    "squeezenet11": Network("squeezenet11_imagenet", "imagenet", "caffe"),
    "mobilenetv2": Network("mobilenetv2_imagenet", "imagenet", "unit"),
}
DEFAULT_NETWORKS = [*NETWORKS, "simpnet300k/2", "slimnet8/2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each choice")
    parser.add_argument("--network", nargs="+", default=DEFAULT_NETWORKS)
    arguments = parser.parse_args()
    if not (arguments.data / "models").is_dir():
        raise SystemExit(f"{arguments.data} is not here; say where with --data")
    logging.disable(logging.WARNING)  # the quantizer advises to preprocess, which is done

    heads = ["network", *(f"to {multiple}" for multiple in MULTIPLES), "chosen", "groups padded"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for name in arguments.network:
        model, images = prepare(name, arguments.data)
        for precision in ("float", "int8"):
            cells = measure(model, images, arguments.seconds, int8=precision == "int8")
            print(f"| {name}, {precision} | {' | '.join(cells)} |", flush=True)


def prepare(name: str, data: Path) -> tuple[ir.Model, list[Feeds]]:
    """The cleaned network, and single images for it."""
    network = NETWORKS[name.removesuffix(SEPARATED)]
    model = load_model(data / "models" / f"{network.file}.onnx")
    Normalize()(model)
    source = {"cifar10": "cifar10/calibration.npz", "imagenet": "imagenet/calibration"}
    dataset = load_dataset(
        str(data / source[network.images]),
        input_specs(model),
        outputs=[str(value.name) for value in model.graph.outputs],
        preprocessing=PRESETS[network.preset],
        samples=IMAGES,
        seed=0,
    )
    images = [
        {key: value[index : index + 1] for key, value in feeds.items()}
        for feeds in batches_of(dataset, None)
        for index in range(len(next(iter(feeds.values()))))
    ]
    Simplify(images[:2])(model)
    FoldBatchNorm()(model)
    if name.endswith(SEPARATED):
        sites = find_convolutions(model.graph)[0][1:]
        Separate({site.name: Decision("depthwise-pointwise", 2) for site in sites}, None)(model)
    return model, images


def measure(model: ir.Model, images: list[Feeds], seconds: float, *, int8: bool) -> list[str]:
    """The cells of one row."""

    def finished(candidate: ir.Model, samples: int = IMAGES) -> ir.Model:
        return quantized(candidate, images[:samples]) if int8 else candidate

    cells = []
    original = finished(model)
    for multiple in MULTIPLES:
        padded = model.clone()
        if AlignChannels(multiple)(padded).modified:
            found = compare_latency(original, finished(padded), images[0], seconds=seconds / 8)
            cells.append(describe(found))
        else:
            cells.append("aligned already")
    choice = choose_alignment(
        model,
        images[0],
        MULTIPLES,
        seconds=seconds,
        transform=lambda candidate: finished(candidate, IMAGES_OF_A_TRIAL),
    )
    if not choice.multiples:
        return [*cells, "as it is", "0"]
    chosen = model.clone()
    groups = AlignChannels(choice.multiples)(chosen).changes
    found = compare_latency(original, finished(chosen), images[0], seconds=seconds / 8)
    counts = [
        f"{change.figures['channels_before']:.0f}→{change.figures['channels_after']:.0f}"
        for change in groups
    ]
    runs = [f"{len(list(run))}× {count}" for count, run in itertools.groupby(sorted(counts))]
    return [*cells, describe(found), ", ".join(runs)]


def describe(found: Comparison) -> str:
    return f"{found.speedup:.3f} ({found.low:.3f}–{found.high:.3f})"


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to onnxruntime.quantization, one by one."""

    def __init__(self, images: list[Feeds]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        feeds = next(self._left, None)
        return None if feeds is None else dict(feeds)


def quantized(model: ir.Model, images: list[Feeds]) -> ir.Model:
    """onnxruntime's own int8 of ``model``, which stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        ir.save(model, source)
        quantize_static(
            source,
            target,
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = ir.load(target)
        ir.external_data.load_to_model(result)
        return result


if __name__ == "__main__":
    main()
