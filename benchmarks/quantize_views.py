"""int8 against int8 on many views of every test image: accuracies with less chance in them.

    python benchmarks/quantize_views.py [--network resnet8_wide_cifar10 ...] [--draw 1]

The models are those of ``quantize.py``. Of CIFAR-10 every test image is taken as it is and moved by
two pixels in eight directions (edges repeated), each also mirrored: 18 views. Of ImageNet the four
corners and the centre of the 256 pixels and their mirror images: 10 views. No view changes the
class, and nothing saw any of them. Standard errors are over test images, of which each counts with
the mean of its views. Deterministic; nothing is timed. About half an hour for all networks on two
cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from quantize import (
    DEFAULT_DATA,
    NETWORKS,
    batched,
    cifar,
    classes,
    imagenet,
    load_images,
    outputs,
    quantized,
)

SHIFT = 2
CORNERS = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
BATCH = 25
CLASSIFIERS = [name for name, kind in NETWORKS.items() if kind != "luma"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--network", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
    parser.add_argument("--draw", type=int, default=0, help="which calibration images, from 0 up")
    arguments = parser.parse_args()
    if not (arguments.data / "models").is_dir():
        raise SystemExit(f"{arguments.data} is not here; say where the data are with --data")
    for name in arguments.network:
        compare(name, arguments.data, arguments.draw)


def compare(name: str, data: Path, draw: int) -> None:
    """The table of one network."""
    models, _ = quantized(name, data, load_images(name, data, draw), draw)
    runnable = {title: model for title, model in models.items() if not isinstance(model, str)}
    found: dict[str, list[np.ndarray]] = {title: [] for title in runnable}
    labels = np.zeros(0)
    for images, labels in views(name, data):  # noqa: B007, the same in every view
        key = runnable["float"].graph.inputs[0].name or ""
        for title, model in runnable.items():
            found[title].append(classes(outputs(model, batched(images, key, BATCH))))
    # (views, images)
    answers = {title: np.stack(each) for title, each in found.items()}
    right = {title: (each == labels).mean(axis=0) for title, each in answers.items()}
    ours = next(title for title in answers if title.startswith("**"))
    count = answers[ours].size
    print(f"\n## {name}: {count} views of {len(labels)} images, draw {draw}\n")
    print("| quantizer | accuracy | as float | more than ours | more than float |")
    print("|---|---|---|---|---|")
    for title, each in answers.items():
        same = (each == answers["float"]).mean()
        print(
            f"| {title} | {100 * right[title].mean():.2f} % | {100 * same:.2f} % "
            f"| {difference(right[title], right[ours])} "
            f"| {difference(right[title], right['float'])} |",
            flush=True,
        )


def difference(one: np.ndarray, other: np.ndarray) -> str:
    """Points between two accuracies (per image, from 0 to 1), with the standard error."""
    apart = 100 * (one - other)
    return f"{apart.mean():+.2f} ± {apart.std(ddof=1) / math.sqrt(len(apart)):.2f}"


def views(name: str, data: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All test images (N, 3, height, width) in one view after the other, with their labels."""
    kind = NETWORKS[name]
    if isinstance(kind, tuple):
        images, labels = cifar(data, "test", kind)
        size = images.shape[-1]
        edges = ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))
        wide = np.pad(images, edges, mode="edge")
        for top in range(0, 2 * SHIFT + 1, SHIFT):
            for left in range(0, 2 * SHIFT + 1, SHIFT):
                view = wide[..., top : top + size, left : left + size]
                yield from mirrored(view, labels)
        return
    for place in CORNERS:
        yield from mirrored(*imagenet(data, "test", str(kind), place))


def mirrored(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for each in (images, images[..., ::-1]):
        yield np.ascontiguousarray(each), labels


if __name__ == "__main__":
    main()
