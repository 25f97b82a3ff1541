"""Divergence of single layers: equal to running the whole network, bounded work, interpolation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.data.dataset import ArrayColumn, Dataset
from onnxsep.decision import Decision
from onnxsep.evaluation import Batches, collect_outputs
from onnxsep.passes.lowering import replace_by_dense_equivalent
from onnxsep.quality import Measure, choose_measure
from onnxsep.search.divergence import (
    DEFAULT_WORK,
    Curve,
    Effort,
    divergences,
    find_border,
    informative,
)
from onnxsep.search.output_distance import OutputDistance

from ..passes.helpers import model_from_text

IMAGES = 6


@dataclasses.dataclass(frozen=True)
class FakeCandidate:
    decision: Decision
    error: float
    weight: np.ndarray
    bias: np.ndarray
    rounding: float = 0.0


@dataclasses.dataclass(frozen=True)
class FakeChoices:
    site: ConvSite
    output_size: tuple[int, ...]
    candidates: tuple[FakeCandidate, ...]


HEADER = '<ir_version: 8, opset_import: ["" : 17]> agraph (float[batch, 4, 6, 6] x) => '
PLAIN = """(float[batch, 3] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
    b = Relu (a)
    [second] c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (b, W2)
    d = GlobalAveragePool (c)
    y0 = Flatten (d)
    y = Gemm (y0, G)
}"""
RESIDUAL = """(float[batch, 3] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
    b = Relu (a)
    [second] c = Conv <pads = [1, 1, 1, 1]> (b, W2)
    [beside] s = Conv (x, P)
    d = Add (c, s)
    e = Mul (d, b)
    f = GlobalAveragePool (e)
    y0 = Flatten (f)
    y = Gemm (y0, G)
}"""
SOFTMAX = PLAIN.replace("y = Gemm (y0, G)", "z = Gemm (y0, G)  y = Softmax (z)")
SIGMOID = PLAIN.replace("y = Gemm (y0, G)", "z = Gemm (y0, G)  y = Sigmoid (z)")
OUTPUTS = """(float[batch, 4, 6, 6] a, float[batch, 4, 3, 3] c, float[batch, 4, 6, 6] other) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
    [second] c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, W2)
    other = Relu (x)
}"""
BRANCHES = """(float[batch, 4, 6, 6] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, W1)
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    [second] b = Conv <pads = [1, 1, 1, 1]> (x, W2)
    y = If (positive) <
        then_branch = g () => (float[batch, 4, 6, 6] t) { t = Add (a, b) },
        else_branch = h () => (float[batch, 4, 6, 6] u) { u = Sub (b, a) }
    >
}"""


def network(text: str, seed: int = 0) -> ir.Model:
    generator = np.random.default_rng(seed)
    shapes = {"W1": (4, 4, 3, 3), "W2": (4, 4, 3, 3), "P": (4, 4, 1, 1), "G": (4, 3)}
    arrays = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
        if name in text
    }
    if "G" in arrays:
        arrays["G"] /= 4  # scores that are not saturated
    if "zero" in text:
        arrays["zero"] = np.zeros((), np.float32)
    return model_from_text(HEADER + text, **arrays)


def data(count: int = IMAGES, size: int = 4, seed: int = 1) -> Batches:
    images = np.random.default_rng(seed).standard_normal((count, 4, 6, 6)).astype(np.float32)
    columns = {"x": ArrayColumn(images, np.dtype(np.float32))}
    return Batches(Dataset(columns, "drawn", np.arange(count)), size)


def choices(
    model: ir.Model, errors: Sequence[float] = (0.01, 0.1, 0.5), seed: int = 2
) -> list[FakeChoices]:
    generator = np.random.default_rng(seed)
    found = []
    for site in find_convolutions(model.graph)[0]:
        made = [
            FakeCandidate(
                Decision("cp", 8 + 4 * place),
                error,
                site.weight * (1 + error * generator.standard_normal(site.weight.shape)),
                (error * generator.standard_normal(site.out_channels)).astype(np.float32),
            )
            for place, error in enumerate(errors)
        ]
        found.append(FakeChoices(site, (6, 6), tuple(made) if site.taps > 1 else ()))
    return found


def measure_of(model: ir.Model, batches: Batches) -> Measure:
    return choose_measure(collect_outputs(model, batches, threads=1), labels=None, targets=None)


def by_the_whole_network(
    model: ir.Model, layer: FakeChoices, candidate: FakeCandidate, batches: Batches
) -> float:
    reference = collect_outputs(model, batches, threads=1)
    copy = model.clone()
    site = next(s for s in find_convolutions(copy.graph)[0] if s.name == layer.site.name)
    replace_by_dense_equivalent(copy.graph, site, candidate.weight, candidate.bias)
    distance = OutputDistance.choose(model, measure_of(model, batches), reference)
    return distance.of(reference, collect_outputs(copy, batches, threads=1))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PLAIN, id="plain"),
        pytest.param(RESIDUAL, id="values-from-before-and-beside"),
        pytest.param(SOFTMAX, id="softmax"),
        pytest.param(SIGMOID, id="sigmoid"),
        pytest.param(OUTPUTS, id="convolutions-are-outputs"),
        pytest.param(BRANCHES, id="read-inside-branches"),
    ],
)
def test_the_network_behind_a_layer_says_what_the_whole_does(text: str) -> None:
    model, batches = network(text), data()
    layers = choices(model)
    found = divergences(model, layers, batches, measure_of(model, batches), threads=1)
    assert found == divergences(model, layers, batches, measure_of(model, batches), threads=1)
    compared = 0
    for layer in layers:
        values = [
            found[layer.site.name, candidate.decision].exact for candidate in layer.candidates
        ]
        for candidate, value in zip(layer.candidates, values, strict=True):
            expected = by_the_whole_network(model, layer, candidate, batches)
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-9)
            compared += 1
        if values:
            assert 0 < values[0] < values[-1]
    assert compared == 6


def test_nothing_to_measure() -> None:
    model, batches = network(PLAIN), data()
    layers = [dataclasses.replace(layer, candidates=()) for layer in choices(model)]
    assert divergences(model, layers, batches, measure_of(model, batches)) == {}


def test_a_layer_that_only_unjudged_outputs_read_costs_something() -> None:
    model, batches = network(OUTPUTS), data()
    found = divergences(model, choices(model), batches, Measure("psnr", "a", "dB"), threads=1)
    assert {name for name, _ in found} >= {"second"}
    assert all(value.exact > 0 for value in found.values())


def test_nan_is_infinitely_far() -> None:
    model, batches = network(PLAIN), data()
    layers = choices(model)
    fatal = layers[0].candidates[-1]
    broken = dataclasses.replace(fatal, weight=np.full_like(fatal.weight, np.nan))
    layers[0] = dataclasses.replace(layers[0], candidates=(*layers[0].candidates[:-1], broken))
    found = divergences(model, layers, batches, measure_of(model, batches), threads=1)
    assert found["first", fatal.decision] == (math.inf, math.inf)
    assert all(
        math.isfinite(value.exact) for key, value in found.items() if key[1] != fatal.decision
    )


def test_little_work_takes_few_images_and_few_candidates() -> None:
    model = network(PLAIN)
    layers = choices(model, errors=np.geomspace(0.01, 0.6, 9).tolist())
    assert Effort.for_work(layers, 1e12) == Effort(images=96, measured=9)
    # 144 weights, 36 positions: the first has two layers behind it, the second one.
    one = 3 * 36 * 144
    assert Effort.for_work(layers, 48 * 9 * one) == Effort(images=48, measured=9)
    assert Effort.for_work(layers, 48 * 5 * one) == Effort(images=48, measured=5)
    assert Effort.for_work(layers, 20 * 3 * one) == Effort(images=20, measured=3)
    assert Effort.for_work(layers, 10 * 2 * one) == Effort(images=10, measured=2)
    assert Effort.for_work(layers, 0) == Effort(images=4, measured=2)
    assert Effort.for_work([], 0).measured == 0
    found = divergences(model, layers, data(40), measure_of(model, data(40)), work=0, threads=1)
    assert len(found) == 18
    assert all(math.isfinite(value.rounded) for value in found.values())
    assert DEFAULT_WORK > 0


def test_a_static_batch_is_never_broken() -> None:
    model = network(PLAIN)
    model.graph.inputs[0].shape = ir.Shape([10, 4, 6, 6])
    batches = data(40, size=10)
    found = divergences(model, choices(model), batches, measure_of(model, batches), work=0)
    assert len(found) == 6


def test_borders() -> None:
    graph = network(RESIDUAL).graph
    nodes = {node.name: node for node in graph}
    assert find_border(graph, nodes["first"]).inputs == ["s"]
    assert find_border(graph, nodes["second"]).inputs == ["s", "b"]
    graph = network(OUTPUTS).graph
    nodes = {node.name: node for node in graph}
    assert find_border(graph, nodes["first"]).outputs == ["c"]
    assert find_border(graph, nodes["second"]).outputs == []


def test_rounding_counts_as_more_error() -> None:
    model, batches = network(PLAIN), data()
    plain, *others = choices(model)
    noisy = [
        dataclasses.replace(candidate, rounding=rounding)
        for candidate, rounding in zip(plain.candidates, (0.09, 0.0, 0.5), strict=True)
    ]
    layers = [dataclasses.replace(plain, candidates=tuple(noisy)), *others]
    found = divergences(model, layers, batches, measure_of(model, batches), threads=1)
    low, middle, high = (found["first", candidate.decision] for candidate in noisy)
    # 0.01 of error and 0.09 of noise are as bad as 0.1 of error.
    assert low.rounded == pytest.approx(middle.exact)
    assert middle.rounded == middle.exact
    assert high.rounded == pytest.approx(2 * high.exact)


ERRORS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=14)


def interpolate(errors: Sequence[float], measured: dict[int, float]) -> list[float]:
    curve = Curve(errors, measured)
    return [curve.of(place) for place in range(len(errors))]


@given(ERRORS, st.integers(2, 6))
def test_informative_candidates_hold_the_extremes(errors: list[float], most: int) -> None:
    chosen = informative(errors, most)
    assert len(chosen) == len(set(chosen)) == min(len(errors), most)
    picked = [errors[place] for place in chosen]
    assert picked == sorted(picked)
    assert picked[0] == min(errors)
    assert picked[-1] == max(errors)


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=14, unique=True),
    st.floats(0.5, 2.5),
    st.floats(0.01, 10),
)
def test_a_power_law_is_interpolated_exactly(
    errors: list[float], power: float, factor: float
) -> None:
    truth = [max(factor * error**power, 1e-12) for error in errors]
    if min(truth) <= 1e-12:
        return
    chosen = informative(errors, 3)
    found = interpolate(errors, {place: truth[place] for place in chosen})
    assert found == pytest.approx(truth, rel=1e-6)


def test_interpolation_of_what_is_no_power_law() -> None:
    errors = [0.01, 0.1, 0.2, 0.4]
    assert interpolate(errors, {0: 0.0, 3: 0.4})[0] == 0.0
    assert interpolate(errors, {1: 0.2, 3: 0.4})[0] == pytest.approx(0.02)
    assert interpolate(errors, {0: 0.01, 2: math.inf}) == [
        0.01,
        pytest.approx(0.1),
        math.inf,
        math.inf,
    ]
    assert (
        interpolate(errors, {0: math.nan})
        == [pytest.approx(math.nan, nan_ok=True)] + [math.inf] * 3
    )
    assert interpolate([0.1, 0.1], {0: 0.3}) == [0.3, pytest.approx(0.3)]


def scores(seed: int, shape: tuple[int, ...] = (8, 5)) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 1, 1), (4, 5, 3, 3)], ids=["2d", "4d", "map"])
def test_logits_and_probabilities_give_one_distance(shape: tuple[int, ...]) -> None:
    first, second = scores(0, shape), scores(0, shape) + 0.3 * scores(1, shape)
    logits = OutputDistance({"y": "logits"}).of({"y": first}, {"y": second})
    probabilities = OutputDistance({"y": "probabilities"}).of(
        {"y": softmax(first)}, {"y": softmax(second)}
    )
    assert logits > 0.01
    # Temperatures differ: log-probabilities have another mean, but the same spread.
    assert probabilities == pytest.approx(logits, rel=1e-4)
    # A constant added to all logits of an image is no change.
    assert OutputDistance({"y": "logits"}).of({"y": first}, {"y": first + 7}) < 1e-9


def test_the_distance_of_small_shifts_is_quadratic() -> None:
    first = scores(0)
    distance = OutputDistance({"y": "logits"})
    near, far = (
        distance.of({"y": first}, {"y": first + step * scores(1)}) for step in (0.001, 0.002)
    )
    assert far / near == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("scale", "spoiled"),
    [("logits", np.nan), ("values", np.nan), ("logits", np.inf), ("values", np.inf)],
)
def test_what_is_not_finite_is_infinitely_far(scale: str, spoiled: float) -> None:
    first, second = scores(0), scores(0)
    second[3, 2] = spoiled
    distance = OutputDistance({"y": scale})  # type: ignore[dict-item]
    assert distance.of({"y": first}, {"y": second}) == math.inf
    assert distance.of({"y": first}, {"y": first[:4]}) == math.inf


def test_classes_masked_by_infinity_and_images_that_were_nan_already() -> None:
    first, second = scores(0), scores(0) + 0.1 * scores(1)
    distance = OutputDistance({"y": "logits"})
    first[:, 4] = second[:, 4] = -np.inf
    masked = distance.of({"y": first}, {"y": second})
    assert masked == pytest.approx(distance.of({"y": first[:, :4]}, {"y": second[:, :4]}))
    first[7] = second[7] = np.nan
    assert distance.of({"y": first}, {"y": second}) == pytest.approx(
        distance.of({"y": first[:7]}, {"y": second[:7]})
    )


def test_of_several_outputs_the_worst_counts() -> None:
    first = {"a": scores(0), "b": scores(1)}
    second = {"a": first["a"] + 0.1, "b": first["b"] + 0.5}
    both = OutputDistance({"a": "values", "b": "values"}).of(first, second)
    assert both == OutputDistance({"b": "values"}).of(first, second)
    assert both > OutputDistance({"a": "values"}).of(first, second)
    power = np.mean(np.var(first["b"].astype(np.float64), axis=0))
    assert both == pytest.approx(0.25 / power, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        pytest.param(PLAIN, "accuracy", {"y": "logits"}, id="gemm"),
        pytest.param(SOFTMAX, "agreement", {"y": "probabilities"}, id="softmax"),
        pytest.param(
            SOFTMAX.replace("y = Softmax (z)", "p = Softmax (z)  y = Identity (p)"),
            "accuracy",
            {"y": "probabilities"},
            id="hidden-softmax",
        ),
        pytest.param(SIGMOID, "accuracy", {"y": "independent"}, id="sigmoid"),
        pytest.param(PLAIN, "psnr", {"y": "values"}, id="psnr"),
        pytest.param(PLAIN, "snr", {"y": "values"}, id="snr"),
        pytest.param(PLAIN, "metric", {"y": "logits"}, id="metric"),
        pytest.param(
            OUTPUTS,
            "metric",
            {"a": "values", "c": "values", "other": "values"},
            id="metric-on-maps",
        ),
    ],
)
def test_the_distance_follows_the_measure(text: str, kind: str, expected: dict[str, str]) -> None:
    model = network(text)
    reference = collect_outputs(model, data(), threads=1)
    measure = Measure(kind, "y", "%")  # type: ignore[arg-type]
    assert OutputDistance.choose(model, measure, reference).scales == expected
