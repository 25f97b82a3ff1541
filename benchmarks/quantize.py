"""int8 against int8: our `quantize` pass beside quantize_static of onnxruntime and of onnxsim.

    python benchmarks/quantize.py [--data FOLDER] [--network resnet20_cifar10 ...] [--seconds 4]

FOLDER holds ``models/``, ``cifar10/``, ``imagenet/``, ``set5/`` and ``set68/`` (default:
../shared/data beside the project). Everyone gets the same network, simplified and with
BatchNormalization folded, and the same calibration images, none of which is a test image; peers run
in processes of their own. Ours moves activations behind max pools and corrects biases, as
`optimize` does. Prints a Markdown table per network: quality on the test images, and the
speed-up over float with batch 1 and one thread, all models run in turn. ``auto`` chooses among our
settings by signal-to-noise on 8 to 200 further images. ``--draw`` takes other calibration images
(of VDSR's few there is one draw): by how much that alone changes the qualities. About twenty
minutes for all networks on two cores; qualities are deterministic, speed-ups are not.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from PIL import Image

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.fusion import fusion_report
from onnxsep.model import load_model, save_model
from onnxsep.passes.correct_bias import CorrectBias
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.pool_first import PoolFirst
from onnxsep.passes.quantize import (
    DEFAULT_CANDIDATES,
    Quantize,
    QuantizeSettings,
    best_of,
    values_to_calibrate,
)
from onnxsep.passes.simplify import Simplify
from onnxsep.quality import signal_to_noise_db
from onnxsep.runtime import Feeds, make_session, run

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CALIBRATION_IMAGES = 200
# onnxruntime's histograms keep every activation: 200 photographs would need 12 GB.
PHOTOGRAPHS_FOR_HISTOGRAMS = 24
RESTORATION_IMAGES = 16
SELECTION_IMAGES = 200
# Images by which the draws of calibration images are apart.
DRAW_STEP = 300
BIAS_IMAGES = 64
PEER_SECONDS = 900
WARM_UP_RUNS = 5
FEWEST_ROUNDS = 30
PEERS = (
    "onnxruntime minmax",
    "onnxruntime entropy",
    "onnxruntime percentile",
    "onnxsim minmax",
    "onnxsim entropy",
    "onnxsim percentile",
    "onnxsim mse",
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
RAW = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
NETWORKS: dict[str, object] = {
    "resnet20_cifar10": IMAGENET,
    "resnet56_cifar10": IMAGENET,
    "simpnet300k_cifar10": CIFAR,
    "slimnet8_cifar10": CIFAR,
    "resnet8_wide_cifar10": RAW,
    "tiny_darknet_imagenet": "unit",
    "squeezenet11_imagenet": "caffe",
    "mobilenetv2_imagenet": "signed",
    "vdsr": "luma",
}


@dataclasses.dataclass(frozen=True)
class Images:
    """Feeds by purpose, and what is right for the tests."""

    calibration: list[Feeds]
    selection: list[Feeds]
    test: list[Feeds]
    truth: list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each network")
    parser.add_argument("--draw", type=int, default=0, help="which calibration images, from 0 up")
    parser.add_argument("--peer", choices=PEERS, help="internal: quantize with this one")
    parser.add_argument("--write", type=Path, help="internal: the peer's result")
    arguments = parser.parse_args()
    if not (arguments.data / "models").is_dir():
        raise SystemExit(f"{arguments.data} is not here; say where the data are with --data")
    if arguments.peer:
        images = load_images(arguments.network[0], arguments.data, arguments.draw)
        run_peer(arguments.peer, arguments.network[0], arguments.data, images, arguments.write)
        return
    for name in arguments.network:
        compare(name, arguments.data, arguments.seconds, arguments.draw)


def compare(name: str, data: Path, seconds: float, draw: int) -> None:
    """The table of one network."""
    images = load_images(name, data, draw)
    models, swept = quantized(name, data, images, draw)
    report(name, models, images, seconds, swept)


def quantized(
    name: str, data: Path, images: Images, draw: int
) -> tuple[dict[str, ir.Model | str], float]:
    """The float network, ours and the peers' by title, and the seconds of our calibration.

    A text in place of a model says why there is none.
    """
    model = cleaned(name, data, images)
    started = time.perf_counter()
    settings = QuantizeSettings()
    pooled = model.clone()
    PoolFirst()(pooled)
    statistics = collect_statistics(
        pooled, images.calibration, values_to_calibrate(pooled, settings), threads=1
    )
    swept = time.perf_counter() - started
    models: dict[str, ir.Model | str] = {"float": model}
    for candidate in DEFAULT_CANDIDATES:
        models[f"ours {candidate.method}"] = Quantize(statistics, candidate)(pooled.clone()).model
    expected = joined(outputs(model, images.selection))

    def score(candidate: ir.Model) -> float:
        found = joined(outputs(candidate, images.selection))
        return float(signal_to_noise_db(expected, found))

    chosen, result = best_of(pooled, statistics, DEFAULT_CANDIDATES, score)
    few = max(1, BIAS_IMAGES // max(len(next(iter(images.calibration[0].values()))), 1))
    CorrectBias(pooled, images.calibration[:few], images.selection)(result.model)
    models[f"**ours auto** ({chosen.method})"] = result.model
    with tempfile.TemporaryDirectory() as folder:
        for peer in PEERS:
            models[peer] = ask_peer(peer, name, data, draw, Path(folder, "peer.onnx"))
    return models, swept


def report(
    name: str, models: dict[str, ir.Model | str], images: Images, seconds: float, swept: float
) -> None:
    """Print one table; a text in place of a model says why there is none."""
    # Ours differ in numbers only, so one of them is timed.
    running = {
        title: each
        for title, each in models.items()
        if not isinstance(each, str) and not title.startswith("ours")
    }
    speedups = race(running, images, seconds)
    unit = "dB" if NETWORKS[name] == "luma" else "%"
    print(f"\n## {name}\n\ncalibration: {len(images.calibration)} batches, {swept:.1f} s\n")
    print(f"| quantizer | quality ({unit}) | as float | signal-to-noise | speed-up | QLinearConv |")
    print("|---|---|---|---|---|---|")
    expected: list[np.ndarray] = []
    for title, each in models.items():
        if isinstance(each, str):
            print(f"| {title} | {each} | | | | |")
            continue
        found = outputs(each, images.test)
        expected = expected or found
        noise = signal_to_noise_db(joined(expected), joined(found))
        fused = fusion_report(each)
        timed = f"{speedups[title]:.2f}x" if title in speedups else ""
        print(
            f"| {title} | {quality(found, images):.2f} | {agreement(expected, found)} "
            f"| {noise:.1f} dB | {timed} | {len(fused.fused)} of {fused.convolutions} |",
            flush=True,
        )


def outputs(model: ir.Model, batches: Sequence[Feeds]) -> list[np.ndarray]:
    """First output, batch by batch."""
    session = make_session(model, threads=1)
    return [run(session, feeds, label="a model")[0] for feeds in batches]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All samples; images of several sizes end to end."""
    if len({part.shape[1:] for part in parts}) > 1:
        return np.concatenate([part.reshape(-1) for part in parts])[None]
    return np.concatenate(parts)


def classes(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.reshape(len(part), -1).argmax(1) for part in parts])


def agreement(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> str:
    """How often the class is that of the float network; empty for images."""
    if expected[0].shape[0] == 1:
        return ""
    return f"{100 * float((classes(expected) == classes(found)).mean()):.1f} %"


def quality(found: Sequence[np.ndarray], images: Images) -> float:
    """Top-1 accuracy in per cent, or PSNR in dB with three pixels shaved off."""
    if images.truth[0].ndim == 1:
        return 100 * float((classes(found) == np.concatenate(images.truth)).mean())
    ratios = []
    for each, truth in zip(found, images.truth, strict=True):
        image = np.clip(each[0, 0], 0, 1)
        error = 255 * (image - truth[: image.shape[0], : image.shape[1]])[3:-3, 3:-3]
        ratios.append(10 * np.log10(255**2 / np.mean(np.square(error.astype(np.float64)))))
    return float(np.mean(ratios))


def race(models: dict[str, ir.Model], images: Images, seconds: float) -> dict[str, float]:
    """Speed-up over float: median over rounds in which each model runs once."""
    feeds = {key: value[:1] for key, value in images.calibration[0].items()}
    sessions = {title: make_session(model, threads=1) for title, model in models.items()}
    for session in sessions.values():
        for _ in range(WARM_UP_RUNS):
            session.run(None, feeds)
    rounds: list[dict[str, float]] = []
    generator = np.random.default_rng(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < FEWEST_ROUNDS:
        times = {}
        for title in generator.permutation(list(sessions)).tolist():
            start = time.perf_counter()
            sessions[title].run(None, feeds)
            times[title] = time.perf_counter() - start
        rounds.append(times)
    return {
        title: float(np.median([times["float"] / times[title] for times in rounds]))
        for title in models
    }


def ask_peer(peer: str, name: str, data: Path, draw: int, target: Path) -> ir.Model | str:
    """The peer's model, or why there is none."""
    target.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--data", str(data), "--network", name]
    command += ["--draw", str(draw)]
    try:
        subprocess.run(
            [*command, "--peer", peer, "--write", str(target)],
            check=True,
            capture_output=True,
            timeout=PEER_SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        model = load_model(target)
        make_session(model)
    except subprocess.TimeoutExpired:
        return f"not ready within {PEER_SECONDS} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return f"fails: {lines[-1][:90] if lines else error.returncode}"
    return model


def run_peer(peer: str, name: str, data: Path, images: Images, target: Path) -> None:
    """Quantize with a peer's defaults, per channel."""
    tool, method = peer.split()
    source = target.with_suffix(".float.onnx")
    save_model(cleaned(name, data, images), source)
    if tool == "onnxsim":
        import onnxsim

        onnx.save(
            onnxsim.quantize_static(
                onnx.load(source), calibration_data=images.calibration, method=method
            ),
            target,
        )
        return
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    batches = images.calibration
    if method != "minmax" and NETWORKS[name] in ("unit", "caffe", "signed"):
        size = len(next(iter(batches[0].values())))
        batches = batches[: PHOTOGRAPHS_FOR_HISTOGRAMS // size]
    methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    quantize_static(
        source,
        target,
        Reader(batches),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[methods[method]],
    )


class Reader:
    """The batches, in the form that onnxruntime asks for."""

    def __init__(self, batches: Sequence[Feeds]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._batches, None)


def cleaned(name: str, data: Path, images: Images) -> ir.Model:
    """The network without BatchNormalization."""
    model = load_model(data / "models" / f"{name}.onnx")
    Normalize()(model)
    check = {key: value[:2] for key, value in images.calibration[0].items()}
    Simplify([check])(model)
    FoldBatchNorm()(model)
    return model


def load_images(name: str, data: Path, draw: int) -> Images:
    """Calibration, selection and test images of one network."""
    kind = NETWORKS[name]
    model = load_model(data / "models" / f"{name}.onnx")
    key = model.graph.inputs[0].name or ""
    if isinstance(kind, tuple):
        images, _ = cifar(data, "calibration", kind)
        test, labels = cifar(data, "test", kind)
        size = 50
    elif kind == "luma":
        return restoration(data, key)
    else:
        images, _ = imagenet(data, "calibration", str(kind))
        test, labels = imagenet(data, "test", str(kind))
        size = 8
    images = np.roll(images, -draw * DRAW_STEP, axis=0)
    end = CALIBRATION_IMAGES + SELECTION_IMAGES
    return Images(
        batched(images[:CALIBRATION_IMAGES], key, size),
        batched(images[CALIBRATION_IMAGES:end], key, size),
        batched(test, key, size),
        [labels[start : start + size] for start in range(0, len(labels), size)],
    )


def batched(images: np.ndarray, key: str, size: int) -> list[Feeds]:
    return [{key: images[start : start + size]} for start in range(0, len(images), size)]


def cifar(
    data: Path, part: str, normalisation: tuple[Sequence[float], Sequence[float]]
) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(data / "cifar10" / f"{part}.npz")
    mean, deviation = (np.array(values, np.float32) for values in normalisation)
    images = (arrays["images"].astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), arrays["labels"]


def imagenet(
    data: Path, part: str, kind: str, place: tuple[float, float] = (0.5, 0.5)
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; ``place`` of the crop from 0 (top, left) to 1 (bottom, right)."""
    folder, images, labels = data / "imagenet" / part, [], []
    size = 227 if kind == "caffe" else 224
    top, left = (int((256 - size) * share) for share in place)
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        file_name, label = list(row.values())[:2]
        pixels = np.asarray(Image.open(folder / file_name).convert("RGB"), np.float32)
        pixels = pixels[top : top + size, left : left + size]
        if kind == "caffe":
            pixels = pixels[..., ::-1] - np.array((104, 117, 123), np.float32)
        else:
            pixels = pixels / 127.5 - 1 if kind == "signed" else pixels / 255
        images.append(pixels.transpose(2, 0, 1))
        # That network's class 0 is "background".
        labels.append(int(label) + (kind == "signed"))
    return np.ascontiguousarray(images, np.float32), np.array(labels)


def restoration(data: Path, key: str) -> Images:
    """Set68 for calibration and selection, Set5 for the test."""
    calibration = []
    for path in sorted((data / "set68").iterdir()):
        image = Image.open(path).convert("L").crop((0, 0, 198, 198))
        low = image.resize((66, 66), Image.Resampling.BICUBIC)
        grey = np.asarray(low.resize((198, 198), Image.Resampling.BICUBIC), np.float32)
        calibration.append({key: ((16 + 219 / 255 * grey) / 255)[None, None]})
    test = sorted((data / "set5").glob("*_bicubic_x3.png"))
    truth = [path.with_name(path.name.replace("bicubic_x3", "truth")) for path in test]
    return Images(
        calibration[:RESTORATION_IMAGES],
        calibration[RESTORATION_IMAGES:],
        [{key: luma(path)[None, None]} for path in test],
        [luma(path) for path in truth],
    )


def luma(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    return (16 + pixels @ np.array((65.481, 128.553, 24.966), np.float32) / 255) / 255


if __name__ == "__main__":
    main()
