"""What separation can save: the rank curve against the theorem that it rests on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.decision import FORMS
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.inspection import Inspection, Layer, inspect

from ..small_models import small_network, write_images
from .models import chain, one_convolution, weight


def looked_at(model: ir.Model, **options: object) -> Inspection:
    return inspect(model, measure=False, **options)  # type: ignore[arg-type]


def only(found: Inspection) -> Layer:
    (layer,) = found.layers
    return layer


def of_rank(rank: int, outputs: int = 16, channels: int = 12) -> np.ndarray:
    """A weight whose slice of every input channel has that rank."""
    generator = np.random.default_rng(rank)
    left = generator.standard_normal((channels, outputs, rank))
    right = generator.standard_normal((channels, rank, 9))
    return (left @ right).transpose(1, 0, 2).reshape(outputs, channels, 3, 3).astype(np.float32)


def with_weight(values: np.ndarray, size: int = 8) -> ir.Model:
    return chain("[conv] y = Conv (x, w)", shape=(1, values.shape[1], size, size), w=values)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layer_of_a_rank_is_found_to_have_it(rank: int) -> None:
    layer = only(looked_at(with_weight(of_rank(rank))))
    best = layer.achievable
    assert best is not None
    assert (best.form, best.rank) == ("depthwise-pointwise", rank)
    assert best.error < 1e-9
    assert best.parameters == rank * 12 * (9 + 16)
    assert best.macs == best.parameters * 36
    assert layer.code == layer.reason == ""


def test_errors_of_the_weights_are_those_of_eckart_and_young() -> None:
    values = weight(24, 16, 3, 3)
    layer = only(looked_at(with_weight(values)))
    strengths = np.linalg.svd(values.reshape(24, 16, 9).transpose(1, 0, 2), compute_uv=False) ** 2
    left = 1 - np.cumsum(strengths.sum(axis=0)) / strengths.sum()
    points = [point for point in layer.curve if point.form == "depthwise-pointwise"]
    assert [point.rank for point in points] == list(range(1, 7))
    np.testing.assert_allclose([p.error for p in points], left[:6], rtol=1e-5)
    assert layer.achievable is None
    assert layer.code == "over-error"
    assert f"{100 * min(p.error for p in layer.curve):.1f} %" in layer.reason


def test_every_point_of_the_curve_saves() -> None:
    layer = only(looked_at(one_convolution(16, 24)))
    assert layer.macs is not None
    assert layer.curve
    assert {point.form for point in layer.curve} == {"depthwise-pointwise", "pointwise-depthwise"}
    assert all(point.macs is not None and point.macs < layer.macs for point in layer.curve)


def test_more_error_saves_more() -> None:
    generator = np.random.default_rng(5)
    values = of_rank(1) + 0.1 * generator.standard_normal((16, 12, 3, 3)).astype(np.float32)
    left = [
        looked_at(with_weight(values), error=error).totals.achievable_macs
        for error in (0.001, 0.01, 0.1)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]


def test_kernel_with_many_ranks_is_sampled_and_says_so() -> None:
    found = looked_at(one_convolution(64, 64, kernel=7))
    ranks = [p.rank for p in only(found).curve if p.form == "depthwise-pointwise"]
    assert len(ranks) <= 8
    assert ranks[0] == 1
    assert ranks[-1] == 63 * 49 // (49 + 64)
    assert "up to 8 ranks each" in found.basis


def test_batchnorm_decides_what_outputs_weigh() -> None:
    """Of a layer whose only full-rank outputs are scaled to nothing, rank 1 is enough."""
    values = of_rank(1)
    values[:4] = 50 * weight(4, 12, 3, 3, seed=7)
    scale = np.ones(16, np.float32)
    scale[:4] = 1e-3
    model = chain(
        "[conv] a = Conv (x, w) [bn] y = BatchNormalization (a, s, z, z, o)",
        shape=(1, 12, 8, 8),
        w=values,
        s=scale,
        z=np.zeros(16, np.float32),
        o=np.ones(16, np.float32),
    )
    best = only(looked_at(model)).achievable
    assert best is not None
    assert best.rank == 1
    unscaled = only(looked_at(with_weight(values))).achievable
    assert unscaled is None or unscaled.rank > 1


def test_data_decide_where_weights_do_not(tmp_path: Path) -> None:
    """On images that are constant every kernel acts like its sum, so that rank 1 is enough."""
    model = one_convolution(8, 16, size=10)
    generator = np.random.default_rng(0)
    levels = generator.standard_normal((32, 8, 1, 1)).astype(np.float32)
    np.savez(tmp_path / "flat.npz", x=np.broadcast_to(levels, (32, 8, 10, 10)))
    assert only(looked_at(model)).achievable is None
    found = looked_at(batched(model), data=str(tmp_path / "flat.npz"))
    best = only(found).achievable
    assert best is not None
    assert best.error < 0.01
    assert "32 samples" in found.basis or "flat.npz" in found.basis


def batched(model: ir.Model) -> ir.Model:
    value = model.graph.inputs[0]
    sizes = [] if value.shape is None else list(value.shape)
    value.shape = ir.Shape(["N", *sizes[1:]])
    return model


def test_images_reach_curves_and_sizes(tmp_path: Path) -> None:
    model = chain(
        "[stem] a = Conv (x, w) b = Relu (a) [body] y = Conv (b, v)",
        shape=("N", 3, "H", "W"),
        w=weight(12, 3, 3, 3),
        v=weight(12, 12, 3, 3),
    )
    data = write_images(tmp_path / "images.npz", 24)
    found = looked_at(model, data=str(data), samples=16, preset="unit")
    assert [layer.output_size for layer in found.layers] == [(14, 14), (12, 12)]
    assert {point.form for point in found.layers[1].curve} == set(FORMS)
    assert "images.npz" in found.basis
    assert not any("no fixed size" in note for note in found.notes)
    unsized = looked_at(model)
    assert unsized.layers[0].output_size == (222, 222)
    assert any("axis 2 and 3 of the input 'x'" in note for note in unsized.notes)


@dataclasses.dataclass(frozen=True)
class Bad:
    id: str
    options: dict[str, object]
    error: type[Exception]
    says: str


BAD = [
    Bad("error of 0", {"error": 0.0}, ConfigurationError, "--error takes a share"),
    Bad("error of 1", {"error": 1.0}, ConfigurationError, "--error takes a share"),
    Bad("NaN", {"error": float("nan")}, ConfigurationError, "--error takes a share"),
    Bad("target", {"target": "gpu"}, ConfigurationError, "unknown target 'gpu'"),
    Bad("threads", {"threads": -1}, ConfigurationError, "--threads takes 0"),
    Bad("preset", {"preset": "imagnet", "data": "x"}, ConfigurationError, "unknown preset"),
    Bad("samples alone", {"samples": 3}, ConfigurationError, "--samples and --preset"),
    Bad("no data", {"data": "nowhere"}, InputError, "nowhere: no such file"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_options_without_meaning(case: Bad) -> None:
    with pytest.raises(case.error, match=case.says):
        looked_at(one_convolution(8, 8), **case.options)


def test_model_is_left_as_it_was() -> None:
    model = small_network()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    looked_at(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
