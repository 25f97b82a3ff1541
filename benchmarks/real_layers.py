"""Layers of trained networks with samples of what they are fed, for benchmarks of the solvers.

Needs the evaluation data: ONNXSEP_SHARED_DATA, else ../shared/data beside the repository.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxsim
from onnx import numpy_helper
from PIL import Image

from onnxsep.factorize import Activation

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

ROWS = 40_000
RELU = Activation.relu()


def data_folder() -> Path:
    """Where the evaluation data ought to be."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("ONNXSEP_SHARED_DATA", beside)).resolve()


@dataclasses.dataclass(frozen=True)
class Source:
    """A network, the convolutions taken from it, and the pictures it is fed.

    Attributes:
        model: File name below models/.
        layers: Indices among its convolutions with a kernel and more than three input channels.
        feeds: Gives input images for calibration (False) or unseen ones (True).
        activation: What follows its convolutions.
    """

    model: str
    layers: tuple[int, ...]
    feeds: Callable[[Path, bool], Single]
    activation: Activation = RELU


def cifar(mean: Sequence[float], deviation: Sequence[float]) -> Callable[[Path, bool], Single]:
    def feeds(data: Path, unseen: bool) -> Single:
        name = "test.npz" if unseen else "calibration.npz"
        with np.load(data / "cifar10" / name, allow_pickle=False) as archive:
            images = archive["images"][:500].astype(np.float32) / 255
        normal: Single = (images - np.array(mean, np.float32)) / np.array(deviation, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))

    return feeds


def imagenet(size: int, *, caffe: bool) -> Callable[[Path, bool], Single]:
    def feeds(data: Path, unseen: bool) -> Single:
        folder = data / "imagenet" / ("test" if unseen else "calibration")
        border = (256 - size) // 2
        images = []
        for path in sorted(folder.glob("*.jpg"))[:100]:
            pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
            images.append(pixels[border : border + size, border : border + size])
        stack = np.stack(images)
        if caffe:
            stack = stack[..., ::-1] - np.array([104, 117, 123], np.float32)
        else:
            stack /= 255
        return np.ascontiguousarray(stack.transpose(0, 3, 1, 2))

    return feeds


def blurred_luma(data: Path, unseen: bool) -> Single:
    size, images = 240, []
    for path in sorted((data / "set68").iterdir()):
        image = Image.open(path).convert("L").crop((0, 0, size, size))
        small = image.resize((size // 3, size // 3), Image.Resampling.BICUBIC)
        large = small.resize((size, size), Image.Resampling.BICUBIC)
        images.append(np.asarray(large, np.float32)[None] / 255)
    return np.stack(images[16:] if unseen else images[:16])


RESNET = cifar((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIMPNET = cifar((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SOURCES = (
    Source("simpnet300k_cifar10.onnx", (2, 5, 9), SIMPNET),
    Source("resnet56_cifar10.onnx", (3, 25, 50), RESNET),
    Source("vdsr.onnx", (3, 14), blurred_luma),
    Source("squeezenet11_imagenet.onnx", (1, 5), imagenet(227, caffe=True)),
    Source(
        "tiny_darknet_imagenet.onnx",
        (2, 4, 5),
        imagenet(224, caffe=False),
        Activation.leaky_relu(0.1),
    ),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution with samples of its inputs."""

    name: str
    weight: Array
    bias: Array
    known: Single
    unseen: Single
    activation: Activation


def patches(
    x: Single, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Single:
    """All input patches (rows, C * K) of images (n, C, H, W)."""
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * int(np.prod(kernel)))


def sampled(
    session: onnxruntime.InferenceSession, images: Single, conv: onnx.NodeProto, kernel: list[int]
) -> Single:
    """Rows drawn evenly from all images."""
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in conv.attribute}
    random = np.random.default_rng(0)
    per_image = -(-ROWS // len(images))
    name = session.get_inputs()[0].name
    kept = []
    for start in range(0, len(images), 20):
        for x in session.run(None, {name: images[start : start + 20]})[0]:
            rows = patches(
                x[None], kernel, attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
            )
            kept.append(rows[random.permutation(len(rows))[:per_image]])
    return np.concatenate(kept)


def real_layers(data: Path) -> Iterator[Layer]:
    for source in SOURCES:
        model, _ = onnxsim.simplify(onnx.load(data / "models" / source.model))
        arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        convolutions = [
            node
            for node in model.graph.node
            if node.op_type == "Conv"
            and np.prod(arrays[node.input[1]].shape[2:]) > 1
            and arrays[node.input[1]].shape[1] > 3
        ]
        images = [source.feeds(data, unseen) for unseen in (False, True)]
        for index in source.layers:
            conv = convolutions[index]
            del model.graph.output[:]
            model.graph.output.append(onnx.ValueInfoProto(name=conv.input[0]))
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            weight = arrays[conv.input[1]]
            bias = arrays[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
            kernel = list(weight.shape[2:])
            known, unseen = (sampled(session, batch, conv, kernel) for batch in images)
            name = f"{source.model.split('_')[0].removesuffix('.onnx')} {index}"
            yield Layer(
                name, weight.astype(float), bias.astype(float), known, unseen, source.activation
            )
