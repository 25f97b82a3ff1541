"""What the data are worth: CIFAR-10 networks, every convolution but the first at one rank.

    python benchmarks/separate_networks.py [--data FOLDER] [--ranks 3 2 1] [--network resnet20]

FOLDER holds ``models/`` and ``cifar10/`` (default: ../shared/data beside the project). Prints a
Markdown table: accuracy on 500 test images with the fit to the weights alone, to drawn images, and
to 1,000 calibration images. Deterministic; about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from onnxsep.data import (
    PRESETS,
    Dataset,
    draw_dataset,
    find_normalisation,
    input_specs,
    load_dataset,
)
from onnxsep.evaluation import Evaluation, batches_of
from onnxsep.model import load_model
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Calibration, Separate
from onnxsep.plan import forced_plan

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DRAWN_IMAGES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--ranks", type=int, nargs="+", default=[3, 2, 1])
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
    real = images("calibration.npz")
    drawn = draw_dataset(specs, preprocessing=found, samples=DRAWN_IMAGES, seed=0)
    first = evaluation.of(original)
    print(f"{path.name}: {first.original:.1f} % on {first.samples} test images; drawn: {how}\n")
    print("| rank | convolutions | multiplications | weights alone | drawn images | 1,000 images |")
    print("|---|---|---|---|---|---|")
    for rank in arguments.ranks:
        plan = forced_plan(cleaned, rank)
        cells, figures = [], {}
        for dataset in (None, drawn, real):
            candidate = cleaned.clone()
            started = time.perf_counter()
            calibration = (
                None if dataset is None else Calibration(batches_of(dataset, None), len(dataset))
            )
            result = Separate(plan.ranks, calibration)(candidate)
            quality = evaluation.of(candidate)
            seconds = time.perf_counter() - started
            cells.append(f"{quality.value:.1f} % ({-quality.drop:+.1f}; {seconds:.0f} s)")
            figures = {
                key: sum(change.figures[key] for change in result.changes)
                for key in ("multiplications_before", "multiplications_after")
            }
        ratio = figures["multiplications_before"] / figures["multiplications_after"]
        print(
            f"| {rank} | {len(plan.ranks)} | {ratio:.2f}x fewer | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
