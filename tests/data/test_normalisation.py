"""The normalisation is read off the first BatchNormalization, or a hint, or assumed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.data import PRESETS, Preprocessing, find_normalisation, input_specs
from onnxsep.data.drawn import DrawnImages
from onnxsep.data.first_layers import find_first_batchnorm
from onnxsep.data.hint import METADATA_KEY

CHANNELS = 12
WEIGHT = np.random.default_rng(1).normal(0, 0.3, (CHANNELS, 3, 3, 3)).astype(np.float32)
# Real layers have some channels that see colour and some that see light, not only edges.
WEIGHT[:6] += np.random.default_rng(2).normal(0, 0.2, (6, 3, 1, 1)).astype(np.float32)

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 3, 32, 32] x) => (float[n, 12, 32, 32] y) {
    %s
    y = BatchNormalization (c, one, zero, mean, var)
}"""
CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w)"


def constants(mean: np.ndarray, var: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "w": weight,
        "mean": mean.astype(np.float32),
        "var": var.astype(np.float32),
        "one": np.ones(len(mean), np.float32),
        "zero": np.zeros(len(mean), np.float32),
    }


def build(text: str, arrays: dict[str, np.ndarray]) -> ir.Model:
    """A model in ONNX text, with ``arrays`` as the values that nothing in it defines."""
    from onnx import numpy_helper, parser

    proto = parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    return ir.from_proto(proto)


def statistics_under(preprocessing: Preprocessing, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a BatchNormalization behind the convolution would have learned (drawn, another seed)."""
    drawn = DrawnImages(77, 64, 0, 32, 32, weight.shape[1])
    images = preprocessing.apply(np.stack([drawn.image(i) for i in range(64)]))
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    outputs = np.einsum("nchwij,ocij->onhw", windows, weight, optimize=True)
    flat = outputs.reshape(len(weight), -1)
    return flat.mean(axis=1), flat.var(axis=1)


def trained_under(
    preprocessing: Preprocessing, first: str = CONV, weight: np.ndarray = WEIGHT
) -> ir.Model:
    mean, var = statistics_under(preprocessing, weight)
    text = (MODEL % first).replace("[n, 3, 32, 32] x", f"[n, {weight.shape[1]}, 32, 32] x")
    return build(text, constants(mean, var, weight))


def find(model: ir.Model) -> tuple[Preprocessing, str]:
    return find_normalisation(model, input_specs(model), seed=0)


@pytest.mark.parametrize("name", ["imagenet", "unit", "raw", "caffe", "inception", "cifar10"])
def test_the_preset_is_found(name: str) -> None:
    found, said = find(trained_under(PRESETS[name]))
    assert (found.name, found.color, found.assumed) == (name, PRESETS[name].color, False)
    assert said.startswith("normalisation found by the statistics of 'y'")


@pytest.mark.parametrize("name", ["gray_unit", "gray_raw", "gray_inception"])
def test_the_preset_of_a_gray_model_is_found(name: str) -> None:
    found, _ = find(trained_under(PRESETS[name], weight=WEIGHT[:, :1]))
    assert (found.name, found.color, found.assumed) == (name, "gray", False)


@dataclass(frozen=True)
class PathCase:
    name: str
    nodes: str


PATHS = [
    PathCase("identity", f"i = Identity (x) {CONV.replace('(x,', '(i,')}"),
    PathCase(
        "pad apart",
        "p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () q = Pad (x, p) c = Conv (q, w)",
    ),
    PathCase("cast to half and back", f"h = Cast <to = 10> (x) f = Cast <to = 1> (h) "
             f"{CONV.replace('(x,', '(f,')}"),
    PathCase("weights transposed", "t = Transpose <perm = [1, 0, 2, 3]> (w) "
             "u = Transpose <perm = [1, 0, 2, 3]> (t) c = Conv <pads = [1, 1, 1, 1]> (x, u)"),
    PathCase(
        "bias added apart",
        "d = Conv <pads = [1, 1, 1, 1]> (x, w) z = Constant <value_float = 0.0> () c = Add (d, z)",
    ),
    PathCase("another branch first", "r = Relu (x) s = Relu (x) "
             "k = Add (r, s) " + CONV),
]  # fmt: skip


@pytest.mark.parametrize("case", PATHS, ids=lambda case: case.name)
def test_the_way_to_the_batchnorm_may_hold_simple_nodes(case: PathCase) -> None:
    assert find(trained_under(PRESETS["raw"], case.nodes))[0].name == "raw"


def test_arithmetic_inside_the_model_counts() -> None:
    """A model that divides by 255 itself was trained with 0 to 1 behind that, so it wants raw."""
    nodes = "k = Constant <value_float = 255.0> () d = Div (x, k) " + CONV.replace("(x,", "(d,")
    assert find(trained_under(PRESETS["unit"], nodes))[0].name == "raw"


def test_channels_last() -> None:
    mean, var = statistics_under(PRESETS["unit"], WEIGHT)
    nodes = "t = Transpose <perm = [0, 3, 1, 2]> (x) " + CONV.replace("(x,", "(t,")
    text = (MODEL % nodes).replace("[n, 3, 32, 32] x", "[n, 32, 32, 3] x")
    found, _ = find(build(text, constants(mean, var, WEIGHT)))
    assert (found.name, found.layout) == ("unit", "NHWC")


def test_statistics_listed_as_inputs_count_with_their_defaults() -> None:
    mean, var = statistics_under(PRESETS["raw"], WEIGHT)
    text = (MODEL % CONV).replace(
        "32] x)", "32] x, float[12] mean, float[12] var, float[12,3,3,3] w)"
    )
    assert find(build(text, constants(mean, var, WEIGHT)))[0].name == "raw"


def test_a_few_dead_channels_do_not_matter() -> None:
    weight = WEIGHT.copy()
    weight[:2] *= 1e-9
    mean, var = statistics_under(PRESETS["imagenet"], weight)
    var[:2] = (0.0, 1e-12)
    found, _ = find(build(MODEL % CONV, constants(mean, var, weight)))
    assert (found.name, found.assumed) == ("imagenet", False)


def test_an_order_of_colors_that_cannot_be_told_is_assumed() -> None:
    gray = np.repeat(WEIGHT.mean(axis=1, keepdims=True), 3, axis=1)
    found, said = find(trained_under(PRESETS["unit"], weight=gray))
    assert (found.name, found.color) == ("unit", "rgb")
    assert said.endswith("the order of the colours is assumed")


@dataclass(frozen=True)
class AssumedCase:
    name: str
    model: ir.Model
    said: str


def _unexplained() -> ir.Model:
    return build(MODEL % CONV, constants(np.full(12, 1e4), np.full(12, 1e-3), WEIGHT))


def _without_batchnorm() -> ir.Model:
    return build(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, 32, 32] x) => (float[n, 12, 30, 30] y) { y = Conv (x, w) }""",
        {"w": WEIGHT},
    )


def _behind_two_convolutions() -> ir.Model:
    square = np.random.default_rng(0).normal(0, 0.1, (12, 12, 1, 1)).astype(np.float32)
    nodes = CONV.replace("c =", "d =") + " c = Conv (d, v)"
    arrays = constants(np.zeros(12), np.ones(12), WEIGHT) | {"v": square}
    return build(MODEL % nodes, arrays)


ASSUMED = [
    AssumedCase("no BatchNormalization", _without_batchnorm(), "no BatchNormalization follows"),
    AssumedCase("too deep", _behind_two_convolutions(), "no BatchNormalization follows"),
    AssumedCase("nothing fits", _unexplained(), "no common one explains the statistics of 'y'"),
]


@pytest.mark.parametrize("case", ASSUMED, ids=lambda case: case.name)
def test_what_cannot_be_found_is_assumed(case: AssumedCase) -> None:
    found, said = find(case.model)
    assert (found.name, found.assumed) == ("imagenet", True)
    assert said.startswith("the normalisation was assumed, not found: imagenet")
    assert case.said in said


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, "imagenet"), (1 / 128, "raw")], ids=["unit", "raw"]
)
@pytest.mark.parametrize("channels", [3, 1], ids=["color", "gray"])
def test_biases_far_above_what_images_change_speak_for_the_full_range(
    channels: int, scale: float, expected: str
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, CHANNELS, 32, 32] x) => (float[n, 12, 30, 30] y) { y = Conv (x, w, b) }"""
    bias = np.random.default_rng(0).normal(0, 1, 12).astype(np.float32)
    arrays = {"w": WEIGHT[:, :channels] * np.float32(scale), "b": bias}
    found, said = find(build(text.replace("CHANNELS", str(channels)), arrays))
    if channels == 1:
        expected = {"imagenet": "gray_unit", "raw": "gray_raw"}[expected]
    assert (found.name, found.assumed) == (expected, True)
    assert ("because the biases of 'y' are" in said) == expected.endswith("raw")


def test_a_model_without_images() -> None:
    model = build(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 8] x) => (float[n, 8] y) { y = Relu (x) }""",
        {},
    )
    found, said = find(model)
    assert found.assumed
    assert said == "no input looks like an image, so no normalisation was looked for"


def test_the_model_is_left_as_it_was() -> None:
    model = trained_under(PRESETS["raw"])
    before = ir.to_proto(model).SerializeToString()
    find(model)
    assert ir.to_proto(model).SerializeToString() == before


# --- the hint in the metadata ------------------------------------------------------------------


def hinted(model: ir.Model, text: str) -> ir.Model:
    model.metadata_props[METADATA_KEY] = text
    return model


def test_a_hint_wins() -> None:
    hint = {"scale": 0.0625, "mean": [1, 2, 3], "std": 4.0, "color": "bgr"}
    found, said = find(hinted(trained_under(PRESETS["raw"]), json.dumps(hint)))
    assert (found.scale, found.mean, found.std) == (0.0625, (1.0, 2.0, 3.0), (4.0,))
    assert (found.color, found.layout, found.assumed) == ("bgr", "NCHW", False)
    assert said.startswith("normalisation taken from the model's metadata")


def test_a_hint_may_leave_out_what_is_usual() -> None:
    found, _ = find(hinted(_without_batchnorm(), "{}"))
    assert (found.scale, found.mean, found.std, found.color) == (1.0, (0.0,), (1.0,), "rgb")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagenet", "Expecting value"),
        ("[1]", "not a JSON object"),
        ('{"means": [1]}', "unknown field 'means'"),
        ('{"mean": "a"}', "'mean' is no number"),
        ('{"mean": []}', "'mean' is empty"),
        ('{"std": [true]}', "'std' is no number"),
        ('{"std": 0}', "positive"),
        ('{"scale": NaN}', "finite"),
        ('{"mean": [1, 2]}', "2 channels"),
        ('{"color": "pink"}', "'pink'"),
        ('{"color": []}', r"\[\]"),
        ("[" * 1999, "is of no use"),
        ("9" * 3000, "longer than 2000"),
    ],
)
def test_a_hint_that_is_not_valid_is_passed_over(text: str, said: str) -> None:
    found, clause = find(hinted(_without_batchnorm(), text))
    assert (found.name, found.assumed) == ("imagenet", True)
    assert clause.startswith("the model's metadata 'onnxsep.preprocessing' is of no use (")
    assert re.search(said, clause)


def test_a_hint_that_is_not_valid_leaves_the_statistics_to_decide() -> None:
    found, clause = find(hinted(trained_under(PRESETS["raw"]), "[]"))
    assert (found.name, found.assumed) == ("raw", False)
    assert "is of no use (not a JSON object); normalisation found by" in clause


# --- trained networks --------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedCase:
    file: str
    batchnorm: bool
    name: str


TRAINED = [
    TrainedCase("models/resnet20_cifar10.onnx", True, "imagenet"),
    TrainedCase("models/resnet56_cifar10.onnx", True, "imagenet"),
    TrainedCase("models/simpnet300k_cifar10.onnx", True, "cifar10"),
    TrainedCase("models/slimnet8_cifar10.onnx", True, "cifar10"),
    TrainedCase("models/slimnet8_7x7_cifar10.onnx", True, "cifar10"),
    TrainedCase("models/tiny_darknet_imagenet.onnx", True, "unit"),
    TrainedCase("models/vdsr.onnx", False, "gray_unit"),
    TrainedCase("models/squeezenet11_imagenet.onnx", False, "imagenet"),
    TrainedCase("models/mobilenetv2_imagenet.onnx", False, "imagenet"),
    TrainedCase("models/resnet8_wide_cifar10.onnx", False, "raw"),
    TrainedCase("models/yunet_n_dynamic.onnx", False, "raw"),
    TrainedCase("odd/slimnet8_inside_If.onnx", True, "cifar10"),
    TrainedCase("odd/slimnet8_fp16.onnx", True, "cifar10"),
    TrainedCase("odd/slimnet8_ir3_opset8_init_in_inputs.onnx", True, "cifar10"),
    TrainedCase("odd/slimnet8_siamese_shared_weights_flipTTA.onnx", True, "cifar10"),
    TrainedCase("odd/slimnet8_weights_HWIO_Transpose.onnx", True, "cifar10"),
    TrainedCase("odd/slimnet8_int8_qdq_perchannel.onnx", False, "imagenet"),
]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: Path(case.file).stem)
def test_trained_networks(shared_data: Path, case: TrainedCase) -> None:
    model = ir.load(shared_data / case.file)
    (spec, *_) = input_specs(model)
    assert (find_first_batchnorm(model, spec.name) is not None) == case.batchnorm
    found, _ = find(model)
    assert (found.name, found.assumed) == (case.name, not case.batchnorm)
    if case.batchnorm:
        assert found.color == "rgb"


def test_a_face_detector_is_near_minus_one_to_one(shared_data: Path) -> None:
    """Trained with (x − 127) / 128: two presets are equal to it in effect."""
    found, _ = find(ir.load(shared_data / "models/ultraface_rfb320.onnx"))
    values = found.apply(np.array([[[[0] * 3, [255] * 3]]], dtype=np.uint8))
    assert not found.assumed
    np.testing.assert_allclose(values[0, :, 0], [[-1, 1]] * 3, atol=0.02)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_statistics_that_are_no_numbers_explain_nothing(wrong: float) -> None:
    mean = np.zeros(CHANNELS)
    mean[3] = wrong
    model = build(MODEL % CONV, constants(mean, np.ones(CHANNELS), WEIGHT))
    preprocessing, said = find_normalisation(model, input_specs(model), seed=0)
    assert preprocessing.assumed
    assert "no common one explains" in said
