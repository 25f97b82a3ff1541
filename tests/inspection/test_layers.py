"""Work by hand and by the textbook against what an inspection counts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsep.bench.work import count_work
from onnxsep.inspection import Inspection, Layer, inspect
from onnxsep.inspection.layers import find_layers
from onnxsep.inspection.sizes import example_feeds, find_sizes
from onnxsep.passes.normalize import Normalize

from ..passes.helpers import model_from_text
from .models import chain, one_convolution, weight


def layers_of(model: ir.Model) -> list[Layer]:
    normal = model.clone()
    Normalize()(normal)
    return find_layers(normal, find_sizes(normal, example_feeds(normal), given=True))[0]


def quick(model: ir.Model | Path, **options: object) -> Inspection:
    return inspect(model, measure=False, **options)  # type: ignore[arg-type]


def test_textbook_parameters() -> None:
    """K = 9, C = N = 256: 589,824 weights become 67,840, 11.5 per cent."""
    (layer,) = quick(one_convolution(256, 256, size=3)).layers
    assert layer.parameters == 589_824
    assert layer.formula is not None
    assert layer.formula.parameters == 67_840
    assert layer.formula.ratio == pytest.approx(1 / 256 + 1 / 9)
    assert round(layer.formula.ratio, 3) == 0.115


def test_textbook_multiplications() -> None:
    """A 6x6x3 input under four 3x3 filters without padding: 1,728 become 432 + 192 = 624."""
    found = quick(one_convolution(3, 4, size=6))
    (layer,) = found.layers
    assert layer.output_size == (4, 4)
    assert layer.macs == 1_728
    assert layer.formula is not None
    assert (layer.formula.depthwise_macs, layer.formula.pointwise_macs) == (432, 192)
    assert layer.formula.macs == 624
    assert found.totals.macs == 1_728
    assert found.totals.formula_macs == 624


@given(
    channels=st.integers(1, 6),
    outputs=st.integers(1, 6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pad=st.integers(0, 2),
    size=st.integers(8, 12),
)
@settings(max_examples=25, deadline=None)
def test_any_geometry_is_counted_as_the_sliding_window_is(
    channels: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int, size: int
) -> None:
    attributes = (
        f"<strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}], "
        f"pads = [{pad}, {pad}, {pad}, {pad}]>"
    )
    (layer,) = layers_of(one_convolution(channels, outputs, kernel, size, attributes=attributes))
    reach = dilation * (kernel - 1)
    starts = range(0, size + 2 * pad - reach, stride)
    assert layer.macs == outputs * channels * kernel**2 * len(starts) ** 2
    assert layer.kind == ("pointwise" if kernel == 1 else "standard")


@dataclasses.dataclass(frozen=True)
class Kind:
    id: str
    nodes: str
    initializers: Mapping[str, np.ndarray]
    kind: str
    channels: tuple[int, int]
    macs: int
    has_formula: bool = False


KINDS = [
    Kind(
        "depthwise",
        "y = Conv <group = 4> (x, w)",
        {"w": weight(4, 1, 3, 3)},
        "depthwise",
        (4, 4),
        4 * 9 * 36,
    ),
    Kind(
        "multiplier",
        "y = Conv <group = 4> (x, w)",
        {"w": weight(8, 1, 3, 3)},
        "depthwise",
        (4, 8),
        8 * 9 * 36,
    ),
    Kind(
        "grouped",
        "y = Conv <group = 2> (x, w)",
        {"w": weight(6, 2, 3, 3)},
        "grouped",
        (4, 6),
        6 * 2 * 9 * 36,
    ),
    Kind("pointwise", "y = Conv (x, w)", {"w": weight(6, 4, 1, 1)}, "pointwise", (4, 6), 24 * 64),
    Kind(
        "standard",
        "y = Conv (x, w)",
        {"w": weight(6, 4, 3, 3)},
        "standard",
        (4, 6),
        6 * 4 * 9 * 36,
        has_formula=True,
    ),
    Kind(
        "transposed",
        "y = ConvTranspose <strides = [2, 2]> (x, w)",
        {"w": weight(4, 6, 2, 2)},
        "transposed",
        (4, 6),
        4 * 64 * 6 * 4,
    ),
]


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.id)
def test_kinds(case: Kind) -> None:
    model = chain(case.nodes, shape=(1, 4, 8, 8), **case.initializers)
    found = quick(model)
    (layer,) = found.layers
    assert layer.kind == case.kind
    assert (layer.in_channels, layer.out_channels) == case.channels
    assert layer.macs == case.macs
    assert (layer.formula is not None) is case.has_formula
    assert [(row.kind, row.layers, row.macs) for row in found.kinds] == [(case.kind, 1, case.macs)]
    assert layer.achievable is None
    assert layer.code


def test_shares_and_totals_add_up() -> None:
    found = quick(
        chain(
            """
            a = Conv (x, w1, b1)
            b = Relu (a)
            c = Conv (b, w2)
            d = GlobalAveragePool (c)
            e = Flatten (d)
            y = Gemm <transB = 1> (e, w3)
            """,
            w1=weight(16, 3, 3, 3),
            b1=weight(16),
            w2=weight(32, 16, 3, 3),
            w3=weight(10, 32),
        )
    )
    first, second = 16 * 3 * 9 * 36, 32 * 16 * 9 * 16
    assert [layer.macs for layer in found.layers] == [first, second]
    assert found.totals.macs == first + second + 320
    assert [row.kind for row in found.kinds] == ["standard", "Gemm"]
    assert sum(row.share for row in found.kinds) == pytest.approx(1)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1 - 320 / found.totals.macs)
    assert found.layers[0].bias == 16
    assert found.totals.weights == 16 * 27 + 32 * 144
    assert found.totals.parameters == found.totals.weights + 16 + 320


def test_batch_does_not_count() -> None:
    three = chain("y = Conv (x, w)", shape=(3, 3, 8, 8), w=weight(4, 3, 3, 3))
    one = chain("y = Conv (x, w)", shape=(1, 3, 8, 8), w=weight(4, 3, 3, 3))
    free = chain("y = Conv (x, w)", shape=("N", 3, 8, 8), w=weight(4, 3, 3, 3))
    assert quick(three).totals.macs == quick(one).totals.macs == quick(free).totals.macs
    assert quick(three).batch == 3


def test_shared_weight_is_held_once_and_used_twice() -> None:
    model = chain(
        """
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, w)
        [second] y = Conv <pads = [1, 1, 1, 1]> (a, w)
        """,
        w=weight(3, 3, 3, 3),
    )
    found = quick(model)
    assert [layer.shared_with for layer in found.layers] == ["", "first"]
    assert found.totals.weights == 81
    assert found.totals.macs == 2 * 81 * 64


def test_quantized_layers_are_counted_and_not_separated(shared_data: Path) -> None:
    found = quick(shared_data / "odd" / "slimnet8_int8_qdq_perchannel.onnx")
    original = quick(shared_data / "models" / "slimnet8_cifar10.onnx")
    assert [layer.macs for layer in found.layers] == [layer.macs for layer in original.layers]
    assert {layer.precision for layer in found.layers} == {"int8"}
    assert {layer.code for layer in found.layers} == {"already-quantized"}
    assert any("quantized" in note for note in found.notes)
    assert "batchnorm-in-quantized-model" in {advice.code for advice in found.advice}


def test_integer_operators_are_read() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (uint8[1, 8, 6, 6] x) => (uint8[1, 16, 4, 4] y)
        <float s = {0.1}, uint8 z = {0}, int8 wz = {0}> {
            [q] y = QLinearConv (x, s, z, w, s, wz, s, z)
        }
        """,
        w=np.ones((16, 8, 3, 3), np.int8),
    )
    (layer,) = quick(model).layers
    assert (layer.operator, layer.precision, layer.kind) == ("QLinearConv", "int8", "standard")
    assert layer.macs == 16 * 8 * 9 * 16


_BRANCHES = """
    <ir_version: 8, opset_import: ["" : 17]>
    tiny (float[1, 8, 6, 6] x, bool c) => (float[1, 8, 6, 6] y) {
        [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w)
        [choice] y = If (c) <
            then_branch = small () => (float[1, 8, 6, 6] t) { [light] t = Conv (a, w1) },
            else_branch = large () => (float[1, 8, 6, 6] e) {
                [heavy] e = Conv <pads = [1, 1, 1, 1]> (a, w)
            }
        >
    }
"""


def test_of_the_branches_of_an_if_the_heaviest_counts() -> None:
    model = model_from_text(_BRANCHES, w=weight(8, 8, 3, 3), w1=weight(8, 8, 1, 1))
    found = quick(model)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["light"].inside == "choice/then_branch"
    assert [by_name[name].counted for name in ("stem", "light", "heavy")] == [True, False, True]
    assert found.totals.macs == 2 * 8 * 8 * 9 * 36
    assert by_name["heavy"].code == "inside-subgraph"
    assert any("choice/else_branch" in note for note in found.notes)


def test_weight_that_is_computed_has_work_and_no_savings() -> None:
    model = chain("y = Conv (x, k)", inputs=", float[4, 3, 3, 3] k")
    (layer,) = quick(model).layers
    assert layer.macs == 4 * 27 * 36
    assert layer.code == "weight-not-constant"


def test_model_without_convolution() -> None:
    found = quick(chain("y = Relu (x)"))
    assert found.layers == ()
    assert found.totals.macs == 0
    assert "there is no convolution in this model: nothing to separate" in found.notes
    assert found.to_json()


@pytest.mark.parametrize(
    "name",
    [
        "slimnet8_autopad",
        "slimnet8_fp16",
        "slimnet8_inside_If",
        "slimnet8_unnamed_nodes",
        "slimnet8_weights_HWIO_Transpose",
        "slimnet8_weights_as_Constant",
    ],
)
def test_unusual_ways_of_writing_do_not_change_the_count(shared_data: Path, name: str) -> None:
    odd = quick(shared_data / "odd" / f"{name}.onnx")
    assert sum(layer.macs or 0 for layer in odd.layers) == 97_105_536
    assert odd.totals.weights == 298_764
    assert odd.totals.unsized == 0


def test_mobilenetv2_by_hand(shared_data: Path) -> None:
    """Sandler et al. (2018) give 300 million multiply-adds at 224x224."""
    found = quick(shared_data / "models" / "mobilenetv2_imagenet.onnx")
    macs = {row.kind: row.macs for row in found.kinds}
    assert found.totals.macs == pytest.approx(300e6, rel=0.01)
    assert macs == {"pointwise": 269_221_120, "depthwise": 20_716_416, "standard": 10_838_016}
    assert found.totals.macs == sum(macs.values())


BuildNetwork = Callable[..., onnx.ModelProto]


def resnet50_by_hand() -> int:
    """Bottlenecks of 3, 4, 6 and 3 with the stride in the 3x3 (torchvision's ResNet-50 v1.5)."""
    total = 3 * 64 * 49 * 112**2
    channels, size = 64, 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            after = size // stride
            total += channels * width * size**2 + 9 * width**2 * after**2
            total += width * 4 * width * after**2
            if not block:
                total += channels * 4 * width * after**2
            channels, size = 4 * width, after
    return total + 2048 * 1000


def test_resnet50_by_hand(build_network: BuildNetwork) -> None:
    model = ir.from_proto(build_network("resnet50"))
    layers = layers_of(model)
    convolutions = sum(layer.macs or 0 for layer in layers)
    assert convolutions + 2048 * 1000 == resnet50_by_hand()
    assert resnet50_by_hand() == pytest.approx(4.1e9, rel=0.005)
    assert sum(layer.parameters for layer in layers) == 23_454_912


def vgg16_by_hand() -> tuple[int, int]:
    total, channels, size = 0, 3, 224
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            total += 9 * channels * outputs * size**2
            channels = outputs
        size //= 2
    return total, 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_large_networks_whole(build_network: BuildNetwork, name: str) -> None:
    found = quick(ir.from_proto(build_network(name)))
    if name == "vgg16":
        convolutions, dense = vgg16_by_hand()
        assert found.totals.macs == convolutions + dense
        assert convolutions == pytest.approx(15.35e9, rel=0.001)
        assert found.totals.macs == pytest.approx(15.47e9, rel=0.001)
    else:
        assert found.totals.macs == resnet50_by_hand()
    assert all(layer.curve for layer in found.layers[1:] if layer.kind == "standard")


@pytest.mark.parametrize("name", ["ultraface_rfb320", "espcn_x3", "mnist_cntk"])
def test_sum_of_the_layers_is_what_the_benchmark_counts(shared_data: Path, name: str) -> None:
    found = quick(shared_data / "models" / f"{name}.onnx")
    model = ir.from_proto(onnx.load(shared_data / "models" / f"{name}.onnx"))
    shapes = {}
    for text in found.inputs:
        words = text.partition(",")[0].split()
        shapes[words[0]] = [int(size) for size in words[1].split("x")]
    total, by_kind = count_work(model, shapes)
    assert found.totals.macs == total
    assert {row.kind: row.macs for row in found.kinds} == by_kind
    assert math.isclose(sum(row.share for row in found.kinds), 1.0)


def test_operator_that_nobody_knows_leaves_sizes_unknown_in_words() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        tiny (float[1, 8, 8, 8] x) => (float y) {
            a = Conv (x, w) b = mine.Foo (a) y = Conv (b, w)
        }
        """,
        w=weight(8, 8, 3, 3),
    )
    found = quick(model)
    assert [layer.macs for layer in found.layers] == [8 * 8 * 9 * 36, None]
    assert found.totals.unsized == 1
    assert found.layers[1].curve
    notes = " | ".join(found.notes)
    assert "mine:Foo" in notes
    assert "not counted: 1 convolution of unknown size" in notes
    assert "not in the activation memory: 2 values of unknown size" in notes
    assert json.loads(found.to_json())["layers"][1]["macs"] is None


@pytest.mark.parametrize(
    ("shape", "kernel", "macs"),
    [((1, 8, 32), (5,), 8 * 16 * 5 * 28), ((1, 8, 6, 6, 6), (3, 3, 3), 8 * 16 * 27 * 64)],
)
def test_one_and_three_dimensions(
    shape: tuple[int, ...], kernel: tuple[int, ...], macs: int
) -> None:
    (layer,) = quick(chain("y = Conv (x, w)", shape=shape, w=weight(16, 8, *kernel))).layers
    assert layer.macs == macs
    assert layer.formula is not None
    assert layer.formula.ratio == pytest.approx(1 / 16 + 1 / math.prod(kernel))
    assert layer.curve
