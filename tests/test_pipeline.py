"""The whole story on a network of three convolutions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxsep.pipeline as story
import onnxsep.search.search as searching
from onnxsep.data import PRESETS
from onnxsep.errors import BudgetError, ConfigurationError, InputError, VerificationError
from onnxsep.latency import Comparison, Timing
from onnxsep.options import Options
from onnxsep.passes.base import RewriteResult
from onnxsep.pipeline import optimize

from .passes.helpers import model_from_text
from .small_models import write_images, write_small_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_network(tmp_path_factory.mktemp("network") / "small.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def quick(**changes: object) -> Options:
    """No timing, a generous budget, and no onnxsim, whose start takes seconds."""
    defaults = {
        "measure_latency": False,
        "max_drop": 10.0,
        "passes": ("fold_batchnorm", "separate"),
    }
    return Options(**{**defaults, **changes})  # type: ignore[arg-type]


def test_a_network_becomes_smaller_and_stays_itself(
    network: Path, images: Path, tmp_path: Path
) -> None:
    before = network.read_bytes()
    output = tmp_path / "result.onnx"
    result = optimize(network, quick(data=str(images)), output=output)
    record = result.record
    assert network.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.onnx", "result.plan.json"]
    assert record.plan == str(tmp_path / "result.plan.json")
    onnx.checker.check_model(str(output), full_check=True)

    assert {row.name: row.action for row in record.layers} == {
        "stem": "kept",
        "body": "separated",
        "tail": "separated",
    }
    saved, taken = record.separated_multiplications
    assert saved > 1.8 * taken
    assert record.bytes_after == output.stat().st_size < record.bytes_before
    assert record.quality[0].role == "selection"
    assert record.quality[0].quality.drop <= 10
    assert record.lossless_difference < 1e-4

    sessions = [onnxruntime.InferenceSession(str(path)) for path in (network, output)]
    signatures = [
        [(value.name, value.type, value.shape) for value in (*s.get_inputs(), *s.get_outputs())]
        for s in sessions
    ]
    assert signatures[0] == signatures[1]
    assert not any(node.op_type == "BatchNormalization" for node in result.model.graph)


def test_multiplications_are_counted_by_hand(network: Path, images: Path) -> None:
    record = optimize(network, quick(data=str(images), rank=1, max_drop=100.0)).record
    rows = {row.name: row for row in record.layers}
    assert rows["stem"].multiplications_before == 16 * 16 * 32 * 3 * 9
    assert rows["body"].multiplications_before == 16 * 16 * 64 * 32 * 9
    assert rows["body"].multiplications_after == 16 * 16 * 32 * (9 + 64)
    assert rows["tail"].multiplications_after == 8 * 8 * 64 * (9 + 64)


def test_same_seed_same_file(network: Path, images: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        optimize(network, quick(data=str(images), seed=7), output=file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_data_the_report_says_that_images_were_drawn(network: Path) -> None:
    record = optimize(network, quick(samples=24)).record
    assert record.quality[0].drawn
    assert any("drawn" in warning for warning in record.warnings)
    assert json.loads(record.to_json())["quality"][0]["drawn"] is True


def test_lossless_passes_alone_change_nothing_but_rounding(network: Path, images: Path) -> None:
    record = optimize(
        network, quick(data=str(images), passes=("simplify", "fold_batchnorm"))
    ).record
    assert [row.name for row in record.passes] == ["normalize", "simplify", "fold_batchnorm"]
    assert [row.kind for row in record.passes] == ["lossless"] * 3
    assert {row.code for row in record.layers} == {"pass-not-run"}
    assert record.quality[0].quality.worst_snr_db > 90


def test_budget_of_nothing_hands_out_the_cleaned_input(network: Path, images: Path) -> None:
    record = optimize(network, quick(data=str(images), max_drop=0.0, min_snr_db=110.0)).record
    assert record.separated == []
    assert {row.code for row in record.layers} >= {"over-budget"}


def test_forced_rank_over_budget_is_an_error_and_writes_nothing(
    network: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"rank 1 everywhere loses .* nothing was written"):
        optimize(
            network,
            quick(data=str(images), rank=1, min_snr_db=100.0),
            output=tmp_path / "result.onnx",
        )
    assert list(tmp_path.iterdir()) == []


def test_test_data_that_contradict_the_choice_fail_the_verification(
    network: Path, images: Path, tmp_path: Path
) -> None:
    # White noise: nothing that the fit has seen.
    noise = tmp_path / "noise.npz"
    generator = np.random.default_rng(0)
    np.savez(noise, image=generator.normal(0, 30, (64, 3, 16, 16)).astype(np.float32))
    settings = {"data": str(images), "test_data": str(noise), "rank": 1, "max_drop": 100.0}
    seen = optimize(network, quick(**settings)).record.quality
    assert [row.role for row in seen] == ["verification", "selection"]
    verification, selection = (row.quality.worst_snr_db for row in seen)
    assert verification < selection
    options = quick(**settings, min_snr_db=(verification + selection) / 2)
    with pytest.raises(VerificationError, match=r"no fit had seen.*nothing was written"):
        optimize(network, options, output=tmp_path / "result.onnx")
    assert not (tmp_path / "result.onnx").exists()


def test_a_result_that_is_slower_is_taken_back(
    network: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(first: ir.Model, second: ir.Model, *_: object, **__: object) -> Comparison:
        separated = [
            any(node.name and "pointwise" in node.name for node in model.graph)
            for model in (first, second)
        ]
        speed = 0.8 if separated == [False, True] else 1.0
        timing = Timing(1.0, 0.0, (1.0,))
        return Comparison(timing, timing, speed, speed - 0.01, speed + 0.01, 1, 1)

    monkeypatch.setattr(story, "compare_latency", measured)
    monkeypatch.setattr(searching, "compare_latency", measured)
    record = optimize(network, quick(data=str(images), measure_latency=True)).record
    assert record.separated == []
    assert {row.code for row in record.layers} & {"not-faster", "not-worth-it"}
    assert not any(row.chosen for row in record.trials)
    assert record.latency is not None
    assert record.latency.speedup == 1.0


def test_lossless_pass_that_changes_numbers_is_found_out(
    network: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(story.FoldBatchNorm):
        def call(self, model: ir.Model) -> RewriteResult:
            value = model.graph.initializers["W3"]
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy() * 1.01)
            return super().call(model)

    monkeypatch.setattr(story, "FoldBatchNorm", Broken)
    with pytest.raises(VerificationError, match="cleaning changed the numbers"):
        optimize(network, quick(data=str(images)))


def test_metric_of_the_user_decides(network: Path, images: Path) -> None:
    def metric(outputs: dict[str, np.ndarray], labels: object, targets: object) -> float:
        assert labels is None
        assert targets is None
        return float(np.abs(outputs["scores"]).mean())

    record = optimize(network, quick(data=str(images), metric=metric)).record
    assert record.quality[0].measure == "metric"
    assert record.settings["metric"].endswith("metric")


def test_labels_give_accuracy(network: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "labelled.npz", labels=True)
    record = optimize(network, quick(data=str(images), max_drop=100.0)).record
    assert record.quality[0].measure == "top-1 accuracy"


def test_output_over_the_input_needs_force(network: Path, images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(network.read_bytes())
    with pytest.raises(ConfigurationError, match="--force"):
        optimize(copy, quick(data=str(images)), output=copy)
    assert copy.read_bytes() == network.read_bytes()
    optimize(copy, quick(data=str(images)), output=copy, force=True)
    assert copy.read_bytes() != network.read_bytes()


def test_input_of_whole_numbers_gets_pixels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        pixels (uint8[batch, 3, 16, 16] image) => (float[batch, 8, 16, 16] y) {
            x = Cast <to = 1> (image)
            scaled = Div (x, full)
            y = Conv <pads = [1, 1, 1, 1]> (scaled, W)
        }
        """,
        W=generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        full=np.float32(255),
    )
    path = tmp_path / "pixels.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    record = optimize(path, quick(samples=8)).record
    assert "pixels were fed as they are" in record.calibration
    with pytest.raises(ConfigurationError, match="--preset raw"):
        optimize(path, quick(samples=8, preprocessing=PRESETS["imagenet"]))


def test_too_few_samples(network: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "one.npz", count=1)
    with pytest.raises(InputError, match="at least 2"):
        optimize(network, quick(data=str(images)))


def test_two_inputs_of_which_one_feeds_a_convolution(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        two (float[batch, 16, 8, 8] x, float[batch, 32] gain) => (float[batch, 32, 8, 8] y) {
            [conv] a = Conv <pads = [1, 1, 1, 1]> (x, W)
            axes = Constant <value_ints = [2, 3]> ()
            wide = Unsqueeze (gain, axes)
            y = Mul (a, wide)
        }
        """,
        W=generator.standard_normal((32, 16, 3, 3)).astype(np.float32),
    )
    path = tmp_path / "two.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    data = tmp_path / "data.npz"
    np.savez(
        data,
        x=generator.standard_normal((40, 16, 8, 8)).astype(np.float32),
        gain=generator.uniform(0.5, 1.5, (40, 32)).astype(np.float32),
    )
    record = optimize(path, quick(data=str(data), max_drop=100.0)).record
    assert [row.name for row in record.separated] == ["conv"]
    assert record.quality[0].measure.startswith("per-pixel")
