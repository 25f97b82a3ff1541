"""What equalization measures and how it decides, without a graph to rewrite."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.errors import InputError
from onnxsep.passes._equalize_scales import (
    LARGEST_FACTOR,
    ReaderWeights,
    choose_exponent,
    full_factors,
    predicted_noise,
)
from onnxsep.passes.equalize import collect_channel_statistics

from .helpers import model_from_text, normal, run


def batches(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(count)]


def network(activation: str = "Relu") -> ir.Model:
    """Two convolutions; the values a and b lie between them."""
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {{
            a = Conv (x, W1)
            b = {activation} (a)
            y = Conv (b, W2)
        }}""",
        W1=normal(8, 3, 1, 1, seed=1),
        W2=normal(4, 8, 1, 1, seed=3),
    )


def test_statistics_are_those_of_all_images_together() -> None:
    model = network()
    found = collect_channel_statistics(model, batches(5), ["b"], threads=1)["b"]
    inner = model.clone()
    inner.graph.outputs[0] = next(n for n in inner.graph if n.op_type == "Relu").outputs[0]
    values = np.concatenate([run(inner, feeds)[0] for feeds in batches(5)])
    assert found.high == pytest.approx(values.max(axis=(0, 2, 3)))
    assert found.mean == pytest.approx(values.mean(axis=(0, 2, 3)), rel=1e-4)
    assert found.variance == pytest.approx(values.var(axis=(0, 2, 3)), rel=1e-4)
    assert found.high_spread == pytest.approx(values.max(axis=(2, 3)).std(axis=0), rel=1e-4)


def test_statistics_do_not_depend_on_batches_or_memory() -> None:
    model = network("LeakyRelu")
    whole = {"x": np.concatenate([each["x"] for each in batches(4)])}
    first = collect_channel_statistics(model, [whole], ["a", "b"], threads=1)
    second = collect_channel_statistics(model, batches(4), ["a", "b"], threads=1, memory_limit=1)
    for name in ("a", "b"):
        for field in dataclasses.fields(first[name]):
            expected, found = (getattr(each[name], field.name) for each in (first, second))
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_statistics_of_nothing_are_an_error() -> None:
    with pytest.raises(InputError, match="no calibration data"):
        collect_channel_statistics(network(), [], ["b"])
    bad = {"x": np.full((1, 3, 8, 8), np.inf, np.float32)}
    with pytest.raises(InputError, match="NaN or infinite"):
        collect_channel_statistics(network(), [bad], ["b"])


def test_full_factors_touch_the_range_and_stop_at_the_largest() -> None:
    low = [np.array([-1.0, 0.0, -4.0, 0.0])]
    high = [np.array([2.0, 8.0, 1.0, 0.0])]
    assert full_factors(low, high, [(-4.0, 8.0)]) == pytest.approx([4.0, 1.0, 1.0, 1.0])
    tiny = full_factors([np.zeros(1)], [np.full(1, 1e-20)], [(0.0, 1.0)])
    assert tiny == pytest.approx([LARGEST_FACTOR])


def test_predicted_noise_of_the_activation_is_that_of_rounding() -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((1, 3, 5, 1))
    values = generator.uniform(0, 1, (100_000, 5))
    step = 2.0 / 255
    rounded = np.rint(values / step) * step
    matrix = weight[0, :, :, 0].T
    power = np.square(values).mean(axis=0)
    measured = np.square((rounded - values) @ matrix).mean(axis=0)
    signal = (np.square(matrix) * power[:, None]).sum(axis=0)
    found, _ = predicted_noise([ReaderWeights(weight, 0)], np.ones(5), 2.0, power)
    assert found == pytest.approx(float((measured / signal).mean()), rel=0.05)


def test_where_only_weights_suffer_nothing_is_widened() -> None:
    weight = np.ones((1, 4, 3, 1))
    power = np.array([1.0, 1.0, 1e-6])
    full = np.array([1.0, 1.0, 16.0])
    exponent, gain = choose_exponent([ReaderWeights(weight, 0)], full, 1e-6, power * 1e3)
    assert (exponent, gain) == (0.0, 0.0)
