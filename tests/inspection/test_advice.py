"""Every rule on a model that needs its advice and on one that does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.inspection import Advice, inspect
from onnxsep.inspection.record import SEVERITIES

from ..passes.helpers import model_from_text
from ..small_models import small_network, write_small_network
from .models import chain, one_convolution, weight


def advice_for(model: ir.Model | Path, **options: object) -> dict[str, Advice]:
    options = {"measure": False, **options}
    return {one.code: one for one in inspect(model, **options).advice}  # type: ignore[arg-type]


def test_plain_small_network_needs_none() -> None:
    model = chain(
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a) y = Conv (b, v)",
        shape=(1, 16, 8, 8),
        w=np.sign(weight(32, 16, 3, 3)),
        v=np.sign(weight(16, 32, 1, 1)),
    )
    for target in ("cpu", "cpu-arm", "xnnpack", "nnapi", "cuda", "tensorrt"):
        assert advice_for(model, target=target) == {}


def test_most_severe_comes_first(shared_data: Path) -> None:
    path = shared_data / "odd" / "slimnet8_int8_qdq_perchannel.onnx"
    severities = [one.severity for one in inspect(path, target="nnapi", measure=False).advice]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert severities[0] == "high"


def test_each_has_a_place_a_reason_with_a_figure_and_a_way_out(shared_data: Path) -> None:
    for name in ("yunet_n_dynamic", "ultraface_rfb320", "mobilenetv2_imagenet"):
        found = inspect(shared_data / "models" / f"{name}.onnx", measure=False)
        assert found.advice
        for one in found.advice:
            assert one.nodes
            assert one.way_out
            assert one.figures
            assert any(character.isdigit() for character in one.reason)
            assert not one.reason.endswith(".")


# --- BatchNormalization ---

_STATISTICS = {
    "s": np.full(4, 2, np.float32),
    "z": np.zeros(4, np.float32),
    "o": np.ones(4, np.float32),
}


def test_batchnorm_behind_a_convolution_is_named_with_its_traffic() -> None:
    one = advice_for(
        chain(
            "[conv] a = Conv (x, w) [bn] y = BatchNormalization (a, s, z, z, o)",
            w=weight(4, 3, 3, 3),
            **_STATISTICS,
        )
    )["batchnorm-unfolded"]
    assert one.nodes == ("bn",)
    assert one.figures == {"nodes": 1, "bytes_moved": 2 * 4 * 36 * 4}
    assert "onnxsep optimize" in one.way_out


def test_batchnorm_that_nothing_takes_in_is_told_apart() -> None:
    found = advice_for(
        chain(
            "[relu] a = Relu (x) [bn] b = BatchNormalization (a, s, z, z, o) y = Sigmoid (b)",
            shape=(1, 4, 8, 8),
            **_STATISTICS,
        )
    )
    assert set(found) == {"batchnorm-stands-alone"}
    assert "Relu 'relu'" in found["batchnorm-stands-alone"].reason


def test_batchnorm_in_training_mode_cannot_fold() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
            a = Conv (x, w)
            [bn] y, m, v = BatchNormalization <training_mode = 1> (a, s, z, z, o)
        }
        """,
        w=weight(4, 3, 3, 3),
        **_STATISTICS,
    )
    assert "training_mode=1" in advice_for(model)["batchnorm-cannot-fold"].reason


# --- dynamic dimensions ---


@dataclasses.dataclass(frozen=True)
class Free:
    id: str
    shape: tuple[int | str, ...]
    target: str
    expected: Mapping[str, str]


FREE = [
    Free("fixed", (1, 3, 8, 8), "nnapi", {}),
    Free("batch on nnapi", ("N", 3, 8, 8), "nnapi", {"dynamic-batch": "high"}),
    Free("batch on xnnpack", ("N", 3, 8, 8), "xnnpack", {"dynamic-batch": "low"}),
    Free("size on xnnpack", (1, 3, "H", "W"), "xnnpack", {"dynamic-size": "high"}),
    Free("size on cpu", (1, 3, "H", 8), "cpu", {"dynamic-size": "low"}),
    Free(
        "all on nnapi",
        ("N", 3, "H", "W"),
        "nnapi",
        {"dynamic-batch": "high", "dynamic-size": "high"},
    ),
]


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.id)
def test_free_dimensions(case: Free) -> None:
    model = chain("y = Conv (x, w)", shape=case.shape, w=np.sign(weight(16, 3, 3, 3)))
    found = advice_for(model, target=case.target)
    severities = {code: one.severity for code, one in found.items() if code.startswith("dynamic-")}
    assert severities == case.expected
    if "dynamic-batch" in found:
        assert "bars nnapi: the 1 conv" in found["dynamic-batch"].reason
        assert "--dim_param N --dim_value 1" in found["dynamic-batch"].way_out


# --- int8 chains ---


def between(operator: str, *, opset: int = 17) -> ir.Model:
    return chain(
        f"[first] a = Conv (x, w) [act] b = {operator} (a) [second] y = Conv (b, v)",
        opset=opset,
        w=np.sign(weight(16, 3, 3, 3)),
        v=np.sign(weight(16, 16, 1, 1)),
    )


@pytest.mark.parametrize("operator", ["HardSwish", "Elu", "Tanh", "Softplus"])
def test_activation_without_an_integer_kernel_breaks_the_chain(operator: str) -> None:
    one = advice_for(between(operator))["breaks-int8-chain"]
    assert one.nodes == ("act",)
    assert one.severity == "high"
    assert one.figures["elements"] == 16 * 36
    assert one.figures["share"] == pytest.approx(0.5)
    assert f"1 {operator} between quantized layers" in one.reason


@pytest.mark.parametrize("operator", ["Relu", "LeakyRelu", "Sigmoid", "Clip"])
def test_activation_with_one_does_not(operator: str) -> None:
    assert advice_for(between(operator)) == {}


def test_target_decides_what_breaks_a_chain() -> None:
    assert "breaks-int8-chain" in advice_for(between("LeakyRelu"), target="nnapi")
    assert advice_for(between("HardSwish"), target="cuda") == {}


def test_activation_at_the_end_breaks_nothing() -> None:
    model = chain("a = Conv (x, w) y = Tanh (a)", w=np.sign(weight(16, 3, 3, 3)))
    assert advice_for(model) == {}


def test_quantized_layer_that_runs_in_float_is_found() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y)
        <float s = {0.1}, uint8 z = {0}, int8 n = {0}> {
            a = QuantizeLinear (x, s, z)
            b = DequantizeLinear (a, s, z)
            k = DequantizeLinear (w, s, n)
            [conv] y = Conv (b, k)
        }
        """,
        w=np.ones((4, 4, 3, 3), np.int8),
    )
    one = advice_for(model)["quantized-runs-in-float"]
    assert one.nodes == ("conv",)
    assert "its result is an output of the model in float" in one.reason
    assert one.figures["share"] == pytest.approx(1)


# --- ranges of channels ---


def uneven(weak: int, factor: float = 1e-3) -> np.ndarray:
    values = np.sign(weight(16, 1, 3, 3))
    values[:weak] *= factor
    return values


@pytest.mark.parametrize(("weak", "expected"), [(0, False), (1, False), (2, True), (12, True)])
def test_weak_channels_of_weights(weak: int, expected: bool) -> None:
    model = chain("[dw] y = Conv <group = 16> (x, w)", shape=(1, 16, 8, 8), w=uneven(weak))
    found = advice_for(model)
    assert ("weight-ranges-differ" in found) is expected
    if expected:
        one = found["weight-ranges-differ"]
        assert one.nodes == ("dw",)
        assert f"{weak} of 16 channels of dw" in one.reason
        assert one.figures["largest_ratio"] == pytest.approx(1e3, rel=1e-4)


def test_dead_channels_are_no_weak_ones() -> None:
    model = chain("y = Conv <group = 16> (x, w)", shape=(1, 16, 8, 8), w=uneven(12, 0.0))
    assert advice_for(model) == {}


def test_batchnorm_that_folds_decides_the_ranges() -> None:
    scale = np.ones(16, np.float32)
    scale[:8] = 1e-3
    model = chain(
        "[dw] a = Conv <group = 16> (x, w) y = BatchNormalization (a, s, z, z, o)",
        shape=(1, 16, 8, 8),
        w=uneven(0),
        s=scale,
        z=np.zeros(16, np.float32),
        o=np.ones(16, np.float32),
    )
    assert "8 of 16 channels of dw" in advice_for(model)["weight-ranges-differ"].reason


def test_weak_channels_of_activations_need_data(tmp_path: Path) -> None:
    model = chain(
        "[conv] a = Conv (x, w, b) y = Relu (a)",
        shape=("N", 16, 4, 4),
        w=np.zeros((16, 16, 1, 1), np.float32) + np.eye(16, dtype=np.float32)[..., None, None],
        b=np.zeros(16, np.float32),
    )
    images = np.abs(np.random.default_rng(0).standard_normal((8, 16, 4, 4))).astype(np.float32)
    images[:, :8] *= 1e-3
    np.savez(tmp_path / "x.npz", x=images)
    assert "activation-ranges-differ" not in advice_for(model)
    one = advice_for(model, data=str(tmp_path / "x.npz"))["activation-ranges-differ"]
    assert one.nodes == ("y",)
    assert "8 of 16 channels of y" in one.reason


# --- memory ---


def pyramid(early: int, late: int, size: int = 128) -> ir.Model:
    """``early`` channels at full size, ``late`` at a quarter of it."""
    return chain(
        """
        [wide] a = Conv <pads = [1, 1, 1, 1]> (x, w)
        [step] b = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (a, v)
        [deep] y = Conv <pads = [1, 1, 1, 1]> (b, u)
        """,
        shape=(1, 3, size, size),
        w=np.sign(weight(early, 3, 3, 3)),
        v=np.sign(weight(late, early, 3, 3)),
        u=np.sign(weight(late, late, 3, 3)),
    )


def test_late_downsampling_is_found_where_the_peak_is() -> None:
    one = advice_for(pyramid(32, 8))["late-downsampling"]
    assert one.nodes == ("wide",)
    assert one.figures["bytes"] == 35 * 128**2 * 4
    assert one.figures["later_bytes"] == 16 * 32**2 * 4
    assert one.severity == "medium"
    assert "Conv at 128x128" in one.reason


def test_even_memory_is_no_late_downsampling() -> None:
    assert "late-downsampling" not in advice_for(pyramid(8, 128))


def test_small_peak_is_no_trouble() -> None:
    assert advice_for(pyramid(32, 8, size=32)) == {}


def test_network_that_never_halves_the_image_is_told_so() -> None:
    model = chain(
        "[one] y = Conv <pads = [1, 1, 1, 1]> (x, w)",
        shape=(1, 3, 128, 128),
        w=np.sign(weight(32, 3, 3, 3)),
    )
    one = advice_for(model)["late-downsampling"]
    assert one.title == "the image is never downsampled"
    assert "SpaceToDepth" in one.way_out


# --- on a whole network ---


def test_file_and_model_give_the_same(tmp_path: Path) -> None:
    path = write_small_network(tmp_path / "small.onnx")
    from_file, in_memory = inspect(path, measure=False), inspect(small_network(), measure=False)
    assert from_file.advice == in_memory.advice
    assert from_file.layers == in_memory.layers
    assert (from_file.model, in_memory.model) == (str(path), "(in memory)")


def test_no_advice_on_channels_of_the_image() -> None:
    found = inspect(one_convolution(3, 16), measure=False)
    assert not any("multiple" in note for note in found.notes)
