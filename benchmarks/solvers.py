"""The solvers side by side with the obvious alternatives, on layers of trained networks.

    python benchmarks/solvers.py layers          error and time of depthwise→pointwise and CP fits
    python benchmarks/solvers.py activation      error behind the activation, refitted
    python benchmarks/solvers.py rounding        cp fits with and without heeding rounding to int8
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
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from real_layers import Array, Layer, Single, data_folder, real_layers
from scipy import optimize

from onnxsep.blas import blas_threads_for
from onnxsep.factorize import (
    INT8_ROUNDING,
    THOROUGH,
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
    rounding_gain,
)

# L-BFGS stands still once a step gains less than this share of the output variance.
STANDSTILL = 1e-9
# It is stopped here, relative to our error, where times are compared: its last percent takes ages.
NEARLY = 1.01
# It is given up there once it has taken this many times as long as ours.
PATIENCE = 60.0


def moments(rows: Single) -> Moments:
    accumulator = MomentAccumulator(rows.shape[1])
    for start in range(0, len(rows), 4096):
        accumulator.update(rows[start : start + 4096])
    return accumulator.result()


def dense_lbfgs(
    problem: LayerProblem, start: Factors, enough: float = 0.0, most_seconds: float = math.inf
) -> tuple[Factors, float]:
    """All factors at once, the dense weight in every step; the result and the seconds it took.

    Ends at a standstill, at a relative error of ``enough`` or after ``most_seconds``.
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
        late = time.perf_counter() - begin > most_seconds
        if intermediate_result.fun <= enough or late:
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


def error_behind(
    layer: Layer, targets: Single, fit: Fit[Factors] | ActivationFit[Factors]
) -> float:
    """Relative error behind the activation on unseen rows."""
    wanted = layer.activation.value(targets)
    made = layer.unseen @ fit.factors.dense().reshape(len(fit.bias), -1).T.astype(np.float32)
    difference = layer.activation.value(made + fit.bias.astype(np.float32)) - wanted
    return float((difference**2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())


def table_activation(data: Path) -> Iterator[str]:
    yield "| layer | form | parameters | unseen error behind the activation | refitted | seconds |"
    yield "|---|---|---|---|---|---|"
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
            again = refit_behind_activation(
                fit.factors, fit.bias, layer.known, targets, layer.activation
            )
            seconds = time.perf_counter() - begin
            before, after = (error_behind(layer, unseen, item) for item in (fit, again))
            yield (
                f"| {layer.name} | {fit.factors.form} | {fit.factors.parameters:,} "
                f"| {before:.4f} | {after:.4f} ({after / before - 1:+.0%}) | {seconds:.1f} |"
            )


def table_rounding(data: Path) -> Iterator[str]:
    yield "| layer | cp channels | fit | error | noise of rounding | both |"
    yield "|---|---|---|---|---|---|"
    for layer in real_layers(data):
        problem = LayerProblem.from_moments(layer.weight, layer.bias, moments(layer.known))
        judge = LayerProblem.from_moments(
            layer.weight, layer.bias, moments(layer.unseen), ridge=0.0
        )
        terms = (problem.channels, 2 * problem.channels)
        for name, rounding in (("plain", 0.0), ("steady", INT8_ROUNDING)):
            for fit in fit_cp(problem, terms, rounding=rounding):
                error = judge.error(fit.factors.dense())
                noise = INT8_ROUNDING * rounding_gain(judge, fit.factors)
                yield (
                    f"| {layer.name} | {fit.factors.terms} | {name} | {error:.5f} "
                    f"| {noise:.5f} | {error + noise:.5f} |"
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
        # As in the optimizer: two threads cost more than they bring where the products are small.
        with blas_threads_for(problem.metric.features):
            yield from time_layer(problem, terms)


def time_layer(problem: LayerProblem, terms: tuple[int, ...]) -> Iterator[str]:
    name = f"{problem.outputs} x {problem.channels} x 3 x 3"
    begin = time.perf_counter()
    fits = fit_depthwise_pointwise(problem, (1, 2, 3, 4))
    seconds = time.perf_counter() - begin
    errors = ", ".join(f"{fit.error:.4f}" for fit in fits)
    yield f"| {name} | depthwise-pointwise 1, 2, 3, 4 | {seconds:.2f} | {errors} |"
    begin = time.perf_counter()
    cps = fit_cp(problem, terms)
    seconds = time.perf_counter() - begin
    errors = ", ".join(f"{fit.error:.4f} (cancels {fit.cancellation:.1f})" for fit in cps)
    yield f"| {name} | CP {', '.join(map(str, terms))} | {seconds:.2f} | {errors} |"
    begin = time.perf_counter()
    single = fit_depthwise_pointwise(problem, (2,))[0]
    seconds = time.perf_counter() - begin
    yield f"| {name} | depthwise-pointwise 2 | {seconds:.2f} | {single.error:.4f} |"
    start = fit_depthwise_pointwise(LayerProblem.weights_only(problem.weight), (2,))[0]
    # Where ours takes milliseconds, the rival gets the seconds that it needs to arrive.
    most = max(PATIENCE * seconds, 60.0)
    rival, rival_seconds = dense_lbfgs(problem, start.factors, NEARLY * single.error, most)
    error = problem.error(rival.dense())
    there = "to 1 % above" if error <= NEARLY * single.error else "given up"
    longer = f"dense L-BFGS 2, {there}, {rival_seconds / seconds:.0f} times as long"
    yield f"| {name} | {longer} | {rival_seconds:.2f} | {error:.4f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="The solvers against the obvious alternatives.")
    parser.add_argument("table", choices=("layers", "activation", "rounding", "time"))
    table = parser.parse_args().table
    data = data_folder()
    if table != "time" and not data.is_dir():
        print(f"evaluation data are not here: {data} (set ONNXSEP_SHARED_DATA)", file=sys.stderr)
        return 3
    tables: dict[str, Callable[[], Iterator[str]]] = {
        "layers": lambda: table_layers(data),
        "activation": lambda: table_activation(data),
        "rounding": lambda: table_rounding(data),
        "time": table_time,
    }
    for line in tables[table]():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
