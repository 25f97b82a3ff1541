"""What the data are worth: CIFAR-10 networks, every convolution but the first in one form.

    python benchmarks/separate_networks.py [--data FOLDER] [--network resnet20]
        [--form depthwise-pointwise] [--ranks 3 2 1]

FOLDER holds ``models/`` and ``cifar10/`` (default: ../shared/data beside the project). Prints a
Markdown table with a row per rank (depthwise filters per channel, as for ``onnxsep optimize``):
multiplications of the rewritten convolutions for one image, and accuracy on 500 test images with
the fit to the weights alone, to drawn images, and to 1,000 calibration images. Deterministic; about
three minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from onnxsep.convolution import find_convolutions
from onnxsep.data import (
    PRESETS,
    Dataset,
    draw_dataset,
    find_normalisation,
    input_specs,
    load_dataset,
)
from onnxsep.decision import DEFAULT_FORM, FORMS
from onnxsep.evaluation import Evaluation, batches_of
from onnxsep.model import load_model
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Calibration, Separate
from onnxsep.plan import forced_plan, output_sizes

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DRAWN_IMAGES = 1000
# Columns: what the fits see.
FITS = ("weights", "drawn", "images")
TITLES = {"weights": "weights alone", "drawn": "drawn images", "images": "1,000 images"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--form", choices=FORMS, default=DEFAULT_FORM)
    parser.add_argument("--ranks", type=float, nargs="+", default=[3, 2, 1])
    parser.add_argument("--fits", choices=FITS, nargs="+", default=FITS, help="columns to fill")
    parser.add_argument("--network", default="resnet20")
    arguments = parser.parse_args()
    path = arguments.data / "models" / f"{arguments.network}_cifar10.onnx"
    if not path.is_file():
        raise SystemExit(f"{path} is not here; say where the evaluation data are with --data")

    original = load_model(path)
    cleaned = original.clone()
    Normalize()(cleaned)
    specs = input_specs(cleaned)
    found, how = find_normalisation(cleaned, specs, seed=0)
    preset = PRESETS["imagenet" if arguments.network.startswith("resnet") else "cifar10"]
    FoldBatchNorm()(cleaned)

    def images(name: str) -> Dataset:
        return load_dataset(
            str(arguments.data / "cifar10" / name),
            specs,
            outputs=["logits"],
            preprocessing=preset,
            samples=None,
            seed=0,
        )

    evaluation = Evaluation(original, batches_of(images("test.npz"), None))
    drawn = draw_dataset(specs, preprocessing=found, samples=DRAWN_IMAGES, seed=0)
    datasets: dict[str, Dataset | None] = {
        "weights": None,
        "drawn": drawn,
        "images": images("calibration.npz"),
    }
    columns: Sequence[str] = arguments.fits
    sizes = output_sizes(cleaned, Calibration(batches_of(drawn, None), len(drawn)))
    pixels = {site.name: sizes[site.output_name] for site in find_convolutions(cleaned.graph)[0]}
    first = evaluation.of(original)
    print(f"{path.name}: {first.original:.1f} % on {first.samples} test images; drawn: {how}\n")
    print(f"form: {arguments.form}\n")
    titles = " | ".join(TITLES[name] for name in columns)
    print(f"| rank | convolutions | multiplications | {titles} |")
    print("|---|---|---|" + "---|" * len(columns))
    for rank in arguments.ranks:
        plan = forced_plan(cleaned, rank, arguments.form)
        cells, figures = [], {}
        for dataset in (datasets[name] for name in columns):
            candidate = cleaned.clone()
            started = time.perf_counter()
            calibration = (
                None if dataset is None else Calibration(batches_of(dataset, None), len(dataset))
            )
            result = Separate(plan.decisions, calibration)(candidate)
            quality = evaluation.of(candidate)
            seconds = time.perf_counter() - started
            cells.append(f"{quality.value:.1f} % ({-quality.drop:+.1f}; {seconds:.0f} s)")
            figures = {
                key: sum(pixels[change.node] * change.figures[key] for change in result.changes)
                for key in ("multiplications_before", "multiplications_after")
            }
        ratio = figures["multiplications_before"] / figures["multiplications_after"]
        print(
            f"| {rank:g} | {len(plan.decisions)} | {ratio:.2f}x fewer | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
