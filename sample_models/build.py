"""Writes well-known architectures with random weights and live BatchNormalization.

    python sample_models/build.py --list
    python sample_models/build.py resnet50 yolo --output models
    python sample_models/build.py --width 0.25 --size 96 --output small

They are for work on latency and coverage, where the weights do not matter but shapes, operators
and sound activations do. At width 1 and the default size they have exactly the parameters and
multiplications of the published networks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import classic_architectures as classic
import onnx
import separable_architectures as separable
from graph_builder import PREPROCESSING_KEY
from random_network import RandomNetwork, Traced

IMAGENET_CLASSES = 1000
COCO_CLASSES = 80
# Standard preprocessing of ImageNet networks: gives inputs of mean 0 and variance 1.
PREPROCESSING = json.dumps(
    {
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "color": "rgb",
    }
)
# BatchNormalization's epsilon in the frameworks that the networks were first trained in.
PYTORCH_EPSILON = 1e-5
TENSORFLOW_EPSILON = 1e-3


@dataclass(frozen=True)
class Architecture:
    """How to write one network, and its published dimensions."""

    write: Callable[[RandomNetwork, int], dict[str, Traced]]
    size: int = 224
    classes: int = IMAGENET_CLASSES
    epsilon: float = PYTORCH_EPSILON
    size_step: int = 1


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(classic.resnet18),
    "resnet50": Architecture(classic.resnet50),
    "vgg16": Architecture(classic.vgg16),
    "mobilenetv1": Architecture(separable.mobilenetv1),
    "mobilenetv2": Architecture(separable.mobilenetv2),
    "xception": Architecture(separable.xception, size=299, epsilon=TENSORFLOW_EPSILON),
    "efficientnet_b0": Architecture(separable.efficientnet_b0, epsilon=TENSORFLOW_EPSILON),
    "inception_v3": Architecture(classic.inception_v3, size=299, epsilon=TENSORFLOW_EPSILON),
    # The neck joins maps that were halved five times: the size must divide by 32.
    "yolo": Architecture(
        classic.yolo, size=640, classes=COCO_CLASSES, epsilon=TENSORFLOW_EPSILON, size_step=32
    ),
}


def build(
    name: str,
    *,
    width: float = 1.0,
    size: int | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """The architecture ``name`` with random weights, the same ones for the same seed.

    Args:
        name: one of `ARCHITECTURES`.
        width: factor on the channel counts, which are rounded to multiples of 8.
        size: height and width of the input in pixels; the published size if None.
        classes: number of classes; the published number if None.
        seed: of the weights.

    Returns:
        A model with the input ``input``, float32 (batch, 3, size, size), and the output ``logits``,
        (batch, classes); ``yolo`` has three outputs, (batch, 3 * (5 + classes), size / s, size / s)
        for the strides s = 8, 16 and 32.

    Raises:
        ValueError: there is no such architecture, a number is not positive, or the network does
            not fit the size.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    size = architecture.size if size is None else size
    classes = architecture.classes if classes is None else classes
    if width <= 0 or size <= 0 or classes <= 0:
        raise ValueError(f"width {width}, size {size} and classes {classes} must be above zero")
    if size % architecture.size_step != 0:
        raise ValueError(f"{name}: size {size} is no multiple of {architecture.size_step}")
    network = RandomNetwork(name, size=size, width=width, seed=seed, epsilon=architecture.epsilon)
    outputs = architecture.write(network, classes)
    return network.model(outputs, {PREPROCESSING_KEY: PREPROCESSING})


def main() -> None:
    """Write the architectures named on the command line, or all of them."""
    parser = argparse.ArgumentParser(
        description="Write well-known architectures with random weights as ONNX models."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all if none")
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channel counts")
    parser.add_argument("--size", type=int, help="input height and width in pixels")
    parser.add_argument("--classes", type=int, help="number of classes")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(ARCHITECTURES))
        return
    for name in arguments.names or ARCHITECTURES:
        try:
            model = build(
                name,
                width=arguments.width,
                size=arguments.size,
                classes=arguments.classes,
                seed=arguments.seed,
            )
        except ValueError as error:
            parser.error(str(error))
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / f"{name}.onnx"
        onnx.save(model, path)
        print(path)


if __name__ == "__main__":
    main()
