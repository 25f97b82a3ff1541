"""Whole networks through the whole pipeline: each result loads, keeps its interface and its sense.

Marked slow: several minutes. Run with ``pytest -m slow``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxsep.data import PRESETS
from onnxsep.model import load_model
from onnxsep.options import Options
from onnxsep.pipeline import Result, optimize
from onnxsep.proof import tolerance_for

pytestmark = pytest.mark.slow

NETWORKS = (
    "espcn_x3",
    "mnist_cntk",
    "mobilenetv2_imagenet",
    "resnet20_cifar10",
    "resnet56_cifar10",
    "resnet8_wide_cifar10",
    "simpnet300k_cifar10",
    "slimnet8_7x7_cifar10",
    "slimnet8_cifar10",
    "squeezenet11_imagenet",
    "tiny_darknet_imagenet",
    "ultraface_rfb320",
    "vdsr",
    "yunet_n_dynamic",
)
ODD = (
    "simpnet300k_external",
    "slimnet8_autopad",
    "slimnet8_fp16",
    "slimnet8_inside_If",
    "slimnet8_int8_qdq_perchannel",
    "slimnet8_intermediate_outputs",
    "slimnet8_ir3_opset8_init_in_inputs",
    "slimnet8_opset21",
    "slimnet8_siamese_shared_weights_flipTTA",
    "slimnet8_unnamed_nodes",
    "slimnet8_weights_HWIO_Transpose",
    "slimnet8_weights_as_Constant",
)
# Separated at rank 2 in CI; the others take minutes together (``long``).
QUICKEST = (
    "espcn_x3",
    "mnist_cntk",
    "resnet20_cifar10",
    "slimnet8_cifar10",
    "squeezenet11_imagenet",
    "slimnet8_inside_If",
    "slimnet8_siamese_shared_weights_flipTTA",
    "slimnet8_weights_HWIO_Transpose",
)
ARCHITECTURES = (
    "resnet18",
    "resnet50",
    "vgg16",
    "mobilenetv1",
    "mobilenetv2",
    "xception",
    "efficientnet_b0",
    "inception_v3",
    "yolo",
)
# Networks in which nothing but the lossless passes may act, with the reason every layer must give.
UNTOUCHED = {
    "slimnet8_inside_If": {"inside-subgraph"},
    "slimnet8_int8_qdq_perchannel": {"already-quantized"},
}


def path_of(shared_data: Path, name: str) -> Path:
    folder = "odd" if name in ODD else "models"
    return shared_data / folder / f"{name}.onnx"


def signature(path: Path) -> list[tuple[str, str, list[object]]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = [*session.get_inputs(), *session.get_outputs()]
    return [(value.name, value.type, value.shape) for value in values]


def check(source: Path, output: Path, result: Result) -> None:
    """The result loads, passes the checker, and has the input's interface and metadata."""
    onnx.checker.check_model(str(output), full_check=True)
    assert signature(output) == signature(source)
    before, after = (
        onnx.load(str(path), load_external_data=False).metadata_props for path in (source, output)
    )
    assert {entry.key: entry.value for entry in before} == {e.key: e.value for e in after}
    record = result.record
    assert record.lossless_difference <= tolerance_for(load_model(source))
    assert all(row.code for row in record.layers)
    assert all(row.detail for row in record.layers)


@pytest.mark.parametrize("name", [*NETWORKS, *ODD])
def test_lossless_passes_keep_the_numbers(shared_data: Path, tmp_path: Path, name: str) -> None:
    source, output = path_of(shared_data, name), tmp_path / "clean.onnx"
    options = Options(samples=4, passes=("simplify", "fold_batchnorm"), measure_latency=False)
    result = optimize(source, options, output=output)
    check(source, output, result)
    expected = {"slimnet8_fp16": 2e-2, "slimnet8_int8_qdq_perchannel": 5e-2}.get(name, 1e-4)
    assert result.record.lossless_difference <= expected


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICKEST else pytest.param(name, marks=pytest.mark.long)
        for name in (*NETWORKS, *ODD)
    ],
)
def test_separation_of_everything_at_rank_2(shared_data: Path, tmp_path: Path, name: str) -> None:
    source, output = path_of(shared_data, name), tmp_path / "separated.onnx"
    options = Options(samples=8, rank=2, max_drop=100.0, min_snr_db=-100.0, measure_latency=False)
    result = optimize(source, options, output=output)
    check(source, output, result)
    record = result.record
    if name in UNTOUCHED:
        assert record.separated == []
        assert {row.code for row in record.layers} <= UNTOUCHED[name]
    elif record.separated:
        before, after = record.separated_multiplications
        assert after < before
        # Rank 2 from a handful of drawn images is no good network, but every layer is better than
        # none: an error of 1 is what a constant output makes.
        assert all(row.error < 0.95 for row in record.separated)
        assert np.isfinite(record.quality[0].quality.worst_snr_db)
    else:
        assert {row.code for row in record.layers} <= {
            "depthwise",
            "pointwise",
            "too-few-channels",
            "not-worth-it",
            "grouped",
        }


@pytest.mark.parametrize("name", ["simpnet300k_cifar10", "resnet8_wide_cifar10"])
def test_the_budget_holds_on_images_that_nothing_has_seen(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    preset = PRESETS["cifar10" if name.startswith("simpnet") else "raw"]
    options = Options(
        data=str(shared_data / "cifar10" / "calibration.npz"),
        test_data=str(shared_data / "cifar10" / "test.npz"),
        preprocessing=preset,
        max_drop=2.0,
        measure_latency=False,
    )
    source, output = path_of(shared_data, name), tmp_path / "result.onnx"
    result = optimize(source, options, output=output)
    check(source, output, result)
    verification = result.record.quality[0]
    assert verification.role == "verification"
    assert verification.quality.original > 88
    assert verification.quality.drop <= 2.0
    before, after = result.record.separated_multiplications
    assert before > 1.8 * after


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_go_through(name: str, build_network: object, tmp_path: Path) -> None:
    source, output = tmp_path / f"{name}.onnx", tmp_path / "result.onnx"
    onnx.save(build_network(name, width=0.25, size=96), source)  # type: ignore[operator]
    # Random kernels are not separable, so no budget would let any be rewritten.
    options = Options(samples=8, rank=1, min_snr_db=-200.0, max_drop=100.0, measure_latency=False)
    result = optimize(source, options, output=output)
    check(source, output, result)
    operators = {node.op_type for node in result.model.graph}
    assert "BatchNormalization" not in operators
    if name in ("resnet18", "resnet50", "vgg16", "yolo"):
        assert result.record.separated
    if name.startswith(("mobilenet", "efficientnet")):
        assert result.record.separated == []


def test_resnet20_at_rank_3_loses_little(shared_data: Path) -> None:
    source = path_of(shared_data, "resnet20_cifar10")
    cifar = shared_data / "cifar10"
    losses = {}
    for kind, data in {"real": str(cifar / "calibration.npz"), "drawn": None}.items():
        options = Options(
            data=data,
            test_data=str(cifar / "test.npz"),
            preprocessing=PRESETS["imagenet"],
            samples=1000,
            rank=3,
            max_drop=100.0,
            measure_latency=False,
        )
        record = optimize(source, options).record
        assert len(record.separated) == 18
        losses[kind] = record.quality[0].quality.drop
    assert losses["real"] <= 1.5
    assert losses["drawn"] <= 5.0
    assert np.isfinite(list(losses.values())).all()
