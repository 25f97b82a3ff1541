"""Trains the sample network on scikit-learn's handwritten digits and writes it as ONNX.

    pip install -e '.[train]'
    python sample_models/train_digits.py      # about four minutes on one processor core

The network is a plain residual one (He et al. 2016): a 3x3 stem and three stages of two blocks of
standard 3x3 convolutions, 32, 64 and 128 channels wide, every convolution followed by a
BatchNormalization that stays in the file. The recipe was chosen with ``--development``, which
trains on four fifths of the training digits and measures on the last fifth; the test digits are
looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from graph_builder import PREPROCESSING_KEY, FloatArray, GraphBuilder, Value
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
CLASSES = 10
SIZE = 32
STAGE_CHANNELS = (32, 64, 128)
BLOCKS_PER_STAGE = 2
TEST_FRACTION = 0.3
DEVELOPMENT_FRACTION = 0.2

EPOCHS = 40
BATCH_SIZE = 32
PEAK_LEARNING_RATE = 0.1
WARM_UP = 0.2  # share of the steps in which the learning rate rises
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.05

# What handwriting does anyway: a little turning, leaning, growing and moving.
MAX_ROTATION = np.deg2rad(12.0)
MAX_SHEAR = 0.15
MAX_SCALING = 0.12
MAX_SHIFT = 3 / SIZE * 2  # three pixels, in affine_grid's units of half an image

GREY_LEVELS = 16  # the digits count ink in 4x4 blocks of binary pixels
PIXEL_SCALE = 1 / 255

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """``images`` uint8 (N, 32, 32, 1), ``labels`` int64 (N,)."""

    images: Images
    labels: Labels

    def split(self, fraction: float) -> tuple[Digits, Digits]:
        """Cut off ``fraction`` of the digits, every class in proportion."""
        kept, cut = train_test_split(
            np.arange(len(self.labels)),
            test_size=fraction,
            stratify=self.labels,
            random_state=SEED,
        )
        return (
            Digits(self.images[kept], self.labels[kept]),
            Digits(self.images[cut], self.labels[cut]),
        )

    def save(self, path: Path) -> None:
        """Write an .npz archive with the arrays ``images`` and ``labels``."""
        np.savez_compressed(path, images=self.images, labels=self.labels)


@dataclass(frozen=True)
class Preprocessing:
    """The network's input is (pixel * scale - mean) / std, grey, NCHW."""

    mean: float
    std: float
    scale: float = PIXEL_SCALE

    @classmethod
    def of(cls, images: Images) -> Preprocessing:
        """Mean and standard deviation of the scaled pixels, to four digits."""
        pixels = images.astype(np.float64) * PIXEL_SCALE
        return cls(mean=round(float(pixels.mean()), 4), std=round(float(pixels.std()), 4))

    def to_json(self) -> str:
        """The record kept in the model's metadata."""
        return json.dumps(
            {"scale": self.scale, "mean": [self.mean], "std": [self.std], "color": "gray"}
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.add_module(
                "conv", nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            )
            self.shortcut.add_module("bn", nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, channels, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class DigitNetwork(nn.Module):
    """Stem, three stages of residual blocks, global average, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        channels = STAGE_CHANNELS[0]
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(1, channels, 3, 1, 1, bias=False))
        self.stem.add_module("bn", nn.BatchNorm2d(channels))
        self.stages = nn.Sequential()
        for index, width in enumerate(STAGE_CHANNELS, start=1):
            stage = nn.Sequential()
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if index > 1 and block == 0 else 1
                stage.add_module(f"block{block}", ResidualBlock(channels, width, stride))
                channels = width
            self.stages.add_module(f"stage{index}", stage)
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, 32, 32) to class scores (N, 10)."""
        x = self.stages(functional.relu(self.stem(x)))
        scores: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return scores


def draw_digits() -> Digits:
    """All 1,797 digits of 8x8, drawn up to 32x32 with bicubic interpolation."""
    source = load_digits()
    small = np.rint(source.images * (255 / GREY_LEVELS)).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(digit).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for digit in small
    ]
    return Digits(np.stack(large)[..., np.newaxis], source.target.astype(np.int64))


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise raw pixels (N, 1, H, W) of 0-255."""
    return (pixels * preprocessing.scale - preprocessing.mean) / preprocessing.std


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random affine map per image; what comes in from outside is background, 0."""
    count = len(pixels)

    def draw(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, shear = draw(MAX_ROTATION), draw(MAX_SHEAR)
    scale_x, scale_y = 1 + draw(MAX_SCALING), 1 + draw(MAX_SCALING)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, draw(MAX_SHIFT)], dim=1),
        torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, draw(MAX_SHIFT)], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def train(digits: Digits, preprocessing: Preprocessing, epochs: int) -> DigitNetwork:
    """Fit a new network to ``digits`` with SGD under a one-cycle learning rate (Smith 2018)."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = DigitNetwork()
    # A quarter faster on processors; the type stubs of torch lack this overload.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.from_numpy(digits.images).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(digits.labels)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=PEAK_LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    steps_per_epoch = len(labels) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_LEARNING_RATE,
        total_steps=epochs * steps_per_epoch,
        pct_start=WARM_UP,
    )
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(labels), generator=generator)
        total_loss = 0.0
        for step in range(steps_per_epoch):
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            batch = to_input(augment(pixels[chosen], generator), preprocessing)
            scores = network(batch.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}/{epochs}: loss {total_loss / steps_per_epoch:.4f}, {seconds:.0f} s")
    network.eval()
    return network


def count_correct(network: DigitNetwork, digits: Digits, preprocessing: Preprocessing) -> int:
    """How many digits the network names rightly."""
    pixels = torch.from_numpy(digits.images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        scores = network(to_input(pixels, preprocessing))
    return int((scores.argmax(dim=1).numpy() == digits.labels).sum())


def to_onnx(network: DigitNetwork, preprocessing: Preprocessing) -> onnx.ModelProto:
    """The trained network as an ONNX model, node for layer, nothing folded.

    Written by hand rather than by an exporter, because exporters fold BatchNormalization.
    """
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    builder = GraphBuilder("digits", (1, SIZE, SIZE))

    def conv_norm(x: Value, source: str, target: str, suffix: str, stride: int) -> Value:
        weight: FloatArray = state[f"{source}conv{suffix}.weight"]
        border = (weight.shape[2] // 2, weight.shape[3] // 2)
        y = builder.conv(x, weight, name=f"{target}conv{suffix}", stride=stride, padding=border)
        return builder.batch_norm(
            y,
            state[f"{source}bn{suffix}.weight"],
            state[f"{source}bn{suffix}.bias"],
            state[f"{source}bn{suffix}.running_mean"],
            state[f"{source}bn{suffix}.running_var"],
            name=f"{target}bn{suffix}",
        )

    x = builder.relu(conv_norm(builder.input, "stem.", "stem.", "", 1), name="stem.relu")
    for source, block in network.named_modules():
        if not isinstance(block, ResidualBlock):
            continue
        prefix = source.removeprefix("stages.") + "."
        y = conv_norm(x, f"{source}.", prefix, "1", block.stride)
        y = conv_norm(builder.relu(y, name=f"{prefix}relu1"), f"{source}.", prefix, "2", 1)
        if len(block.shortcut) > 0:
            side = f"{source}.shortcut."
            x = conv_norm(x, side, f"{prefix}shortcut.", "", block.stride)
        x = builder.relu(builder.add(y, x, name=f"{prefix}add"), name=f"{prefix}relu2")
    x = builder.flatten(builder.global_average_pool(x, name="pool"), name="flatten")
    scores = builder.gemm(
        x, state["classifier.weight"], state["classifier.bias"], name="classifier"
    )
    return builder.model({"logits": scores}, {PREPROCESSING_KEY: preprocessing.to_json()})


def main() -> None:
    """Train, measure, and write the model beside its calibration and test digits."""
    parser = argparse.ArgumentParser(description="Train and export the sample digit network.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1, help="more threads, other roundings")
    parser.add_argument(
        "--development",
        action="store_true",
        help="measure on a fifth of the training digits instead, write nothing",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(mode=True)

    training, held_out = draw_digits().split(TEST_FRACTION)
    if arguments.development:
        training, held_out = training.split(DEVELOPMENT_FRACTION)
    preprocessing = Preprocessing.of(training.images)
    network = train(training, preprocessing, arguments.epochs)
    correct = count_correct(network, held_out, preprocessing)
    total = len(held_out.labels)
    print(f"{correct} of {total} held-out digits right: {100 * correct / total:.2f} %")
    if arguments.development:
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    training.save(arguments.output / "digits_calibration.npz")
    held_out.save(arguments.output / "digits_test.npz")
    model = to_onnx(network, preprocessing)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.output / "digits.onnx")


if __name__ == "__main__":
    main()
