"""The solvers side by side with the obvious alternatives, on layers of trained networks.

    python benchmarks/solvers.py layers          error and time of depthwise→pointwise and CP fits
    python benchmarks/solvers.py activation      error behind a Relu, before and after the refit
    python benchmarks/solvers.py time            time at 64 and 512 channels, moments given

Competitors: (a) the singular value decomposition of the weights, channel by channel; (b) L-BFGS on
all factors at once with the dense weight formed in every step, run until it stands still, on the
same moments and from the same weights. Errors are shares of the output variance; "unseen" is that
on images that no fit has seen. Set OMP_NUM_THREADS to the number of cores that are free.

Needs the evaluation data (ONNXSEP_SHARED_DATA, else ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxsim
from onnx import numpy_helper
from PIL import Image
from scipy import optimize

from onnxsep.factorize import (
    THOROUGH,
    Activation,
    ActivationFit,
    CanonicalPolyadic,
    DepthwisePointwise,
    Factors,
    Fit,
    LayerProblem,
    MomentAccumulator,
    Moments,
    fit_cp,
    fit_depthwise_pointwise,
    fit_pointwise_depthwise,
    refit_behind_activation,
)

Array = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

ROWS = 40_000
# L-BFGS stands still once a step gains less than this share of the output variance.
STANDSTILL = 1e-9


@dataclasses.dataclass(frozen=True)
class Source:
    """A network, the convolutions taken from it, and the pictures it is fed.

    Attributes:
        model: File name below models/.
        layers: Indices among its convolutions with a kernel and more than three input channels.
        feeds: Gives input images for calibration (False) or unseen ones (True).
    """

    model: str
    layers: tuple[int, ...]
    feeds: Callable[[Path, bool], Single]


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
    Source("tiny_darknet_imagenet.onnx", (2, 4, 5), imagenet(224, caffe=False)),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution with samples of its inputs."""

    name: str
    weight: Array
    bias: Array
    known: Single
    unseen: Single


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
            yield Layer(name, weight.astype(float), bias.astype(float), known, unseen)


def moments(rows: Single) -> Moments:
    accumulator = MomentAccumulator(rows.shape[1])
    for start in range(0, len(rows), 4096):
        accumulator.update(rows[start : start + 4096])
    return accumulator.result()


def dense_lbfgs(
    problem: LayerProblem, start: Factors, enough: float = 0.0
) -> tuple[Factors, float]:
    """All factors at once, the dense weight in every step; the result and the seconds it took.

    Ends at a standstill, or at a relative error of ``enough``.
    """
    names = [field.name for field in dataclasses.fields(start)]  # type: ignore[arg-type]
    shapes = [getattr(start, name).shape for name in names]
    borders = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    second = problem.metric.dense()
    target = problem.target.reshape(problem.outputs, -1)

    def unpacked(point: Array) -> Factors:
        parts = np.split(point, borders)
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return type(start)(*arrays)

    def objective(point: Array) -> tuple[float, Array]:
        factors = unpacked(point)
        difference = factors.dense().reshape(problem.outputs, -1) - target
        product = difference @ second
        value = float(np.vdot(product, difference)) / problem.output_variance
        slope = (2 / problem.output_variance * product).reshape(problem.weight.shape)
        match factors:
            case DepthwisePointwise():
                parts = [
                    np.einsum("nck,nct->ctk", slope, factors.pointwise, optimize=True),
                    np.einsum("nck,ctk->nct", slope, factors.depthwise, optimize=True),
                ]
            case CanonicalPolyadic():
                by_last = np.tensordot(factors.last.T, slope, axes=1)
                parts = [
                    np.einsum("mck,mk->mc", by_last, factors.depthwise),
                    np.einsum("mck,mc->mk", by_last, factors.first),
                    np.einsum(
                        "nck,mc,mk->nm", slope, factors.first, factors.depthwise, optimize=True
                    ),
                ]
            case _:
                raise TypeError(type(factors))
        return value, np.concatenate([part.ravel() for part in parts])

    def judge(intermediate_result: optimize.OptimizeResult) -> None:
        if intermediate_result.fun <= enough:
            raise StopIteration

    point = np.concatenate([getattr(start, name).ravel() for name in names])
    begin = time.perf_counter()
    result = optimize.minimize(
        objective,
        point,
        jac=True,
        method="L-BFGS-B",
        callback=judge,
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": STANDSTILL, "gtol": 0.0},
    )
    return unpacked(result.x), time.perf_counter() - begin


def cancellation(problem: LayerProblem, factors: CanonicalPolyadic) -> float:
    """As in `Fit.cancellation`, for terms that are not ours."""
    middle = factors.first[:, :, None] * factors.depthwise[:, None, :]
    normal = (
        problem.metric.applied(middle.reshape(factors.terms, -1))
        @ middle.reshape(factors.terms, -1).T
    )
    gram = factors.last.T @ factors.last
    return float(np.sqrt(np.diagonal(gram) @ np.diagonal(normal) / np.vdot(gram, normal)))


def table_layers(data: Path) -> Iterator[str]:
    yield "| layer | N x C x K | form | (a) SVD | (b) dense | ours | against (a) | against (b) |"
    yield "|---|---|---|---|---|---|---|---|"
    for layer in real_layers(data):
        problem = LayerProblem.from_moments(layer.weight, layer.bias, moments(layer.known))
        plain = LayerProblem.weights_only(layer.weight)
        judge = LayerProblem.from_moments(
            layer.weight, layer.bias, moments(layer.unseen), ridge=0.0
        )
        size = " x ".join(map(str, problem.weight.shape))
        begin = time.perf_counter()
        ours = fit_depthwise_pointwise(problem, (1, 2, 3))
        seconds = (time.perf_counter() - begin) / 3
        cases: list[tuple[str, Factors, Factors, float, float]] = [
            (f"rank {fit.factors.rank}", svd.factors, fit.factors, fit.error, seconds)
            for fit, svd in zip(ours, fit_depthwise_pointwise(plain, (1, 2, 3)), strict=True)
        ]
        begin = time.perf_counter()
        cp = fit_cp(problem, [problem.channels], limits=THOROUGH)[0]
        seconds = time.perf_counter() - begin
        weights = fit_cp(plain, [problem.channels])[0]
        name = f"CP {cp.factors.terms} (cancels {cp.cancellation:.1f})"
        cases.append((name, weights.factors, cp.factors, cp.error, seconds))
        for form, start, factors, error, seconds in cases:
            rival, rival_seconds = dense_lbfgs(problem, start)
            svd_error, rival_error = (problem.error(item.dense()) for item in (start, rival))
            cancels = ""
            if isinstance(rival, CanonicalPolyadic):
                cancels = f", cancels {cancellation(problem, rival):.1f}"
            unseen = [judge.error(item.dense()) for item in (start, rival, factors)]
            yield (
                f"| {layer.name} | {size} | {form} "
                f"| {svd_error:.4f} (unseen {unseen[0]:.4f}) "
                f"| {rival_error:.4f} (unseen {unseen[1]:.4f}{cancels}), {rival_seconds:.2f} s "
                f"| {error:.4f} (unseen {unseen[2]:.4f}), {seconds:.2f} s "
                f"| {error / svd_error - 1:+.0%} | {error / rival_error - 1:+.2%} |"
            )


def relu_error(rows: Single, targets: Single, fit: Fit[Factors] | ActivationFit[Factors]) -> float:
    """Relative error behind a Relu."""
    wanted = np.maximum(targets, 0)
    made = rows @ fit.factors.dense().reshape(len(fit.bias), -1).T.astype(np.float32)
    difference = np.maximum(made + fit.bias.astype(np.float32), 0) - wanted
    return float((difference**2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())


def table_activation(data: Path) -> Iterator[str]:
    yield "| layer | form | parameters | unseen error behind a Relu | refitted | seconds |"
    yield "|---|---|---|---|---|---|"
    relu = Activation.relu()
    for layer in real_layers(data):
        flat = layer.weight.reshape(len(layer.weight), -1).astype(np.float32)
        targets, unseen = (
            rows @ flat.T + layer.bias.astype(np.float32) for rows in (layer.known, layer.unseen)
        )
        problem = LayerProblem.from_moments(layer.weight, layer.bias, moments(layer.known))
        fits: list[Fit[Factors]] = [
            *fit_depthwise_pointwise(problem, (1, 2)),
            *fit_pointwise_depthwise(problem, (1,)),
            *fit_cp(problem, (problem.channels,)),
        ]
        for fit in fits:
            begin = time.perf_counter()
            again = refit_behind_activation(fit.factors, fit.bias, layer.known, targets, relu)
            seconds = time.perf_counter() - begin
            before, after = (relu_error(layer.unseen, unseen, item) for item in (fit, again))
            yield (
                f"| {layer.name} | {fit.factors.form} | {fit.factors.parameters:,} "
                f"| {before:.4f} | {after:.4f} ({after / before - 1:+.0%}) | {seconds:.1f} |"
            )


def made_up(channels: int, rows: int = 6000) -> LayerProblem:
    """A layer with correlated, rectified inputs, for timing where no network has one so large."""
    random = np.random.default_rng(0)
    decay = np.arange(1, channels + 1) ** -0.5
    mixing = (random.normal(size=(channels, channels)) / np.sqrt(channels) * decay[:, None]).astype(
        np.float32
    )
    accumulator = MomentAccumulator(channels * 9)
    for _ in range(rows // 500):
        image = random.normal(size=(500, channels, 7, 7)).astype(np.float32)
        mixed = np.tensordot(image, mixing, axes=(1, 1)).transpose(0, 3, 1, 2)
        smooth = np.lib.stride_tricks.sliding_window_view(mixed, (5, 5), axis=(2, 3)).sum((4, 5))
        accumulator.update(np.maximum(smooth.reshape(500, -1) + 0.5, 0))
    weight = random.normal(size=(channels, channels, 3, 3))
    return LayerProblem.from_moments(weight, None, accumulator.result())


def table_time() -> Iterator[str]:
    yield "| layer | fits | seconds | errors |"
    yield "|---|---|---|---|"
    for channels, terms in ((64, (32, 64, 128)), (512, (256, 512, 1024))):
        problem = made_up(channels)
        begin = time.perf_counter()
        fits = fit_depthwise_pointwise(problem, (1, 2, 3, 4))
        seconds = time.perf_counter() - begin
        errors = ", ".join(f"{fit.error:.4f}" for fit in fits)
        name = f"{channels} x {channels} x 3 x 3"
        yield f"| {name} | depthwise-pointwise 1, 2, 3, 4 | {seconds:.2f} | {errors} |"
        begin = time.perf_counter()
        single = fit_depthwise_pointwise(problem, (2,))[0]
        seconds = time.perf_counter() - begin
        yield f"| {name} | depthwise-pointwise 2 | {seconds:.2f} | {single.error:.4f} |"
        start = fit_depthwise_pointwise(LayerProblem.weights_only(problem.weight), (2,))[0]
        rival, rival_seconds = dense_lbfgs(problem, start.factors, single.error)
        error = problem.error(rival.dense())
        longer = f"dense L-BFGS to the same error, {rival_seconds / seconds:.0f} times as long"
        yield f"| {name} | {longer} | {rival_seconds:.2f} | {error:.4f} |"
        begin = time.perf_counter()
        cps = fit_cp(problem, terms)
        seconds = time.perf_counter() - begin
        errors = ", ".join(f"{fit.error:.4f} (cancels {fit.cancellation:.1f})" for fit in cps)
        yield f"| {name} | CP {', '.join(map(str, terms))} | {seconds:.2f} | {errors} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="The solvers against the obvious alternatives.")
    parser.add_argument("table", choices=("layers", "activation", "time"))
    table = parser.parse_args().table
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("ONNXSEP_SHARED_DATA", data)).resolve()
    if table != "time" and not data.is_dir():
        print(f"evaluation data are not here: {data} (set ONNXSEP_SHARED_DATA)", file=sys.stderr)
        return 3
    lines = {
        "layers": lambda: table_layers(data),
        "activation": lambda: table_activation(data),
        "time": table_time,
    }[table]()
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
