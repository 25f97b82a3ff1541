"""`check` as a whole: the graph that providers see, states, shares, and what a session confirms."""

from __future__ import annotations

import dataclasses
import functools
import platform
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.eligibility import Eligibility, UnitRow, check
from onnxsep.eligibility import confirm as confirm_module
from onnxsep.errors import ConfigurationError
from onnxsep.fusion import FusionReport
from onnxsep.model import load_model
from onnxsep.targets import TARGETS

from ..passes.helpers import model_from_text
from ..passes.quantize_cases import network
from ..passes.quantize_cases import quantized as quantize
from .asking import BIAS, IMAGE, WEIGHT, Case, conv_arrays, model_of, quantized
from .cases_others import X86_CASES

_W = {"w": (4, 4, 3, 3)}
_X86 = ("x86_64", "AMD64")


def _rows(record: Eligibility) -> dict[str, UnitRow]:
    return {row.name: row for row in record.units}


def _checked(nodes: str, target: str, inputs: str = IMAGE, **arrays: object) -> Eligibility:
    case = Case(target, "", nodes, inputs, arrays=arrays)  # type: ignore[arg-type]
    return check(model_of(case), target)


@functools.cache
def _made_for(target: str) -> ir.Model:
    return quantize(network(), target).model


def test_batch_normalization_is_folded_before_a_provider_is_asked() -> None:
    nodes = "[c] a = Conv(x, w) b = BatchNormalization(a, g, g, g, g) y = Relu(b)"
    record = _checked(nodes, "xnnpack", g=(4,), **_W)
    assert [row.operator for row in record.units] == ["Conv", "Relu"]
    assert record.original_nodes == 3
    assert record.holds


def test_an_activation_runs_inside_the_convolution_before_it() -> None:
    rows = _rows(_checked("[c] a = Conv(x, w) [r] y = Relu(a)", "xnnpack", **_W))
    assert (rows["r"].state, rows["r"].inside) == ("taken", "c")


@dataclasses.dataclass(frozen=True)
class Alone:
    """Nodes whose activation ``r`` XNNPACK does not take, and the code why."""

    nodes: str
    code: str


@pytest.mark.parametrize(
    "alone",
    [
        Alone("[r] y = Relu(x)", "activation-alone"),
        Alone("a = Add(x, x) [r] y = Relu(a)", "activation-alone"),
        Alone('a = Conv <auto_pad = "SAME_LOWER"> (x, w) [r] y = Relu(a)', "activation-alone"),
        Alone("a = Conv(x, w) [r] y = Clip(a, , high)", "clip-bounds"),
    ],
    ids=lambda alone: alone.nodes,
)
def test_an_activation_without_a_convolution_goes_elsewhere(alone: Alone) -> None:
    record = _checked(alone.nodes, "xnnpack", high=np.float32(6), **_W)
    row = _rows(record)["r"]
    assert row.rule is not None
    assert (row.state, row.rule.code) == ("refused", alone.code)


def test_a_lonely_reshape_is_not_worth_a_partition() -> None:
    record = _checked("[r] y = Reshape(x, d)", "nnapi", d=np.array([4, 64]))
    (row,) = record.units
    assert row.rule is not None
    assert (row.rule.code, record.partitions) == ("pointless", 0)
    assert _checked("a = Relu(x) y = Reshape(a, d)", "nnapi", d=np.array([4, 64])).holds


def test_bytes_of_unknown_scale_are_not_moved() -> None:
    record = _checked("[p] y = MaxPool <kernel_shape = [2, 2]> (q)", "nnapi", "uint8[1, 4, 8, 8] q")
    (row,) = record.units
    assert row.rule is not None
    assert row.rule.code == "bytes-from-outside"


def test_shares_count_nodes_and_multiplications() -> None:
    nodes = (
        '[k] a = Conv <pads = [1, 1, 1, 1]> (x, w) [l] y = Conv <auto_pad = "SAME_LOWER"> (a, v)'
    )
    record = _checked(nodes, "xnnpack", v=(4, 4, 1, 1), **_W)
    # 3x3 against 1x1 filters, on images of one size.
    assert record.multiplication_share == pytest.approx(1 / 10)
    assert record.node_share == pytest.approx(1 / 2)
    assert [row.multiplications for row in record.units] == [64 * 4 * 4 * 9, 64 * 4 * 4]


def test_shares_are_unknown_where_a_size_is() -> None:
    record = _checked("y = Conv(x, w)", "cuda", "float[N, 4, H, 8] x", **_W)
    assert record.multiplication_share is None
    assert record.free == ("N", "H")


def test_fixed_dimensions_are_what_is_asked_about() -> None:
    model = model_of(Case("nnapi", "", "y = Conv(x, w)", "float[N, 4, 8, 8] x", arrays=_W))
    assert not check(model, "nnapi").holds
    record = check(model, "nnapi", fix_shape={"N": 1})
    assert record.holds
    assert (record.fixed, record.free, record.api_level) == ({"N": 1}, (), 29)


def test_half_precision_is_asked_about_as_it_is() -> None:
    weight = np.ones((4, 4, 3, 3), np.float16)
    record = _checked("a = Conv(x, w) y = Relu(a)", "nnapi", "float16[1, 4, 8, 8] x", w=weight)
    codes = [(row.operator, row.rule.code) for row in record.units if row.rule is not None]
    assert codes == [("Conv", "input-type"), ("Relu", "input-type")]
    assert _checked("y = Conv(x, w)", "xnnpack", "float16[1, 4, 8, 8] x", w=weight).holds


@pytest.mark.parametrize(("version", "taken"), [(3, True), (8, False)])
def test_initializers_that_are_inputs_are_constants_in_old_files_only(
    version: int, taken: bool
) -> None:
    model = model_from_text(
        f"""
        <ir_version: {version}, opset_import: ["" : 13]>
        m (float[1, 4, 8, 8] x, float[4, 4, 3, 3] w) => (y) {{ y = Conv(x, w) }}
        """,
        w=np.ones((4, 4, 3, 3), np.float32),
    )
    record = check(model, "xnnpack")
    assert record.holds is taken
    assert any("listed as inputs" in note for note in record.notes) is not taken


def test_branches_are_asked_about_too() -> None:
    nodes = (
        "y = If (c) <then_branch = t () => (o) { [n] o = Conv(x, w) }, "
        "else_branch = e () => (p) { p = Relu(x) }>"
    )
    record = _checked(nodes, "xnnpack", "float[1, 4, 8, 8] x, bool c", **_W)
    assert {row.operator: row.state for row in record.units} == {
        "If": "refused",
        "Conv": "taken",
        "Relu": "refused",
    }


def test_a_model_that_onnxruntime_cannot_load_is_judged_all_the_same() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17, "their.own" : 1]>
        m (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) {
            [c] a = Conv (x, w)
            [o] y = their.own.Thing (a)
        }
        """,
        w=np.ones((4, 4, 3, 3), np.float32),
    )
    record = check(model, "xnnpack")
    assert {row.name: row.state for row in record.units} == {"c": "taken", "o": "refused"}
    assert any("cannot load" in note for note in record.notes)
    assert not check(model, "cpu").confirmation.confirmed


# --- what onnxsep's own quantization gives each target ---


@pytest.mark.parametrize("target", ["xnnpack", "nnapi"])
def test_convolutions_quantized_for_a_target_are_taken_by_it(target: str) -> None:
    record = check(_made_for(target), target)
    convolutions = [row for row in record.units if row.operator == "Conv"]
    assert len(convolutions) == 4
    assert all(row.quantized and row.state == "taken" for row in convolutions)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Quantized for one target, run on another, and the code against its convolutions."""

    made_for: str
    run_on: str
    code: str


@pytest.mark.parametrize(
    "foreign",
    [
        Foreign("cpu", "xnnpack", "unsigned-activation"),
        Foreign("xnnpack", "nnapi", "signed-activation"),
        Foreign("xnnpack", "cuda", "no-integer-kernel"),
    ],
    ids=lambda foreign: f"{foreign.made_for}-on-{foreign.run_on}",
)
def test_convolutions_quantized_for_another_target_are_not(foreign: Foreign) -> None:
    record = check(_made_for(foreign.made_for), foreign.run_on)
    rules = [row.rule for row in record.units if row.operator == "Conv"]
    assert [rule and rule.code for rule in rules] == [foreign.code] * 4


# --- a session of the CPU provider confirms ---


@pytest.mark.parametrize("case", X86_CASES, ids=str)
@pytest.mark.skipif(platform.machine() not in _X86, reason="rules of x86, to be run there")
def test_the_cpu_provider_runs_every_case_as_predicted(case: Case) -> None:
    model = model_of(case)
    found = check(model, "cpu").confirmation
    assert found.confirmed, found.reason
    assert found.disagreements == ()


@pytest.mark.parametrize("target", ["cpu", "cpu-arm", "xnnpack", "nnapi", "tensorrt"])
@pytest.mark.skipif(platform.machine() not in _X86, reason="rules of x86, to be run there")
def test_the_cpu_provider_runs_what_was_predicted(target: str) -> None:
    found = check(_made_for(target), "cpu").confirmation
    assert found.confirmed
    assert found.disagreements == ()
    assert found.compared >= 4


@dataclasses.dataclass(frozen=True)
class Running:
    """A quantized convolution and whether it runs on integers."""

    code: str
    bias_scale: float = 0.01
    result: str = "u"


@pytest.mark.parametrize(
    "running",
    [Running(""), Running("bias-scale", 0.0103), Running("types-differ", result="i")],
    ids=lambda running: running.code or "taken",
)
def test_the_cpu_provider_confirms_each_reason(running: Running) -> None:
    nodes = quantized("Conv(a, w, c)", result=running.result, more=WEIGHT + BIAS)
    arrays = conv_arrays(bias_scale=running.bias_scale)
    case = Case("cpu", running.code, nodes, "uint8[1, 4, 8, 8] q", arrays=arrays)
    record = check(model_of(case), "cpu")
    row = _rows(record)["n"]
    assert (row.rule.code if row.rule else "") == running.code
    assert record.confirmation.confirmed
    assert record.confirmation.disagreements == ()


def test_a_session_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_fused(model: ir.Model, provider: str) -> FusionReport:
        names = tuple(node.name or "" for node in model.graph if node.op_type == "Conv")
        return FusionReport(provider, len(names), (), (), names, {})

    monkeypatch.setattr(confirm_module, "fusion_report", nothing_fused)
    found = check(_made_for("cpu"), "cpu").confirmation
    assert any("predicted integers, runs in float" in words for words in found.disagreements)
    assert any(words.startswith("Add: ") for words in found.disagreements)


def test_without_the_provider_it_says_so() -> None:
    found = _checked("y = Conv(x, w)", "nnapi", **_W).confirmation
    assert not found.confirmed
    assert "NnapiExecutionProvider" in found.reason


# --- what has no meaning ---


@pytest.mark.parametrize("level", [0, 26, 32])
def test_an_android_without_nnapi_is_refused(level: int) -> None:
    with pytest.raises(ConfigurationError, match="API level"):
        check(model_of(Case("nnapi", "", "y = Relu(x)")), "nnapi", api_level=level)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="xnnpack"):
        check(model_of(Case("nnapi", "", "y = Relu(x)")), "xnnpak")


def test_the_model_is_left_as_it_was() -> None:
    model = _made_for("cpu")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    for target in TARGETS:
        check(model, target)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


# --- whole networks ---


@dataclasses.dataclass(frozen=True)
class Network:
    """A file of the evaluation data, its sizes, and what XNNPACK does not take of it."""

    file: str
    sizes: dict[str, int]
    refused: dict[str, int]


@pytest.mark.parametrize(
    "network",
    [
        Network(
            "models/mobilenetv2_imagenet.onnx",
            {"batch": 1},
            {"Add": 10, "GlobalAveragePool": 1, "Flatten": 1},
        ),
        Network(
            "models/squeezenet11_imagenet.onnx",
            {"batch": 1},
            {"Concat": 8, "MaxPool": 3, "GlobalAveragePool": 1, "Flatten": 1},
        ),
        Network(
            "models/yunet_n_dynamic.onnx",
            {"batch": 1, "height": 320, "width": 320},
            {"Transpose": 12, "Reshape": 12, "Sigmoid": 6, "Resize": 2, "Add": 2},
        ),
        Network(
            "odd/slimnet8_int8_qdq_perchannel.onnx",
            {"batch": 1},
            {
                "BatchNormalization": 8,
                "QuantizeLinear": 2,
                "DequantizeLinear": 2,
                "GlobalMaxPool": 1,
                "Flatten": 1,
                "Gemm": 1,
            },
        ),
    ],
    ids=lambda network: network.file,
)
def test_whole_networks_on_xnnpack(network: Network, shared_data: Path) -> None:
    record = check(load_model(shared_data / network.file), "xnnpack", fix_shape=network.sizes)
    refused: dict[str, int] = {}
    for row in record.refused:
        refused[row.operator] = refused.get(row.operator, 0) + 1
    assert refused == network.refused
    assert record.multiplication_share == pytest.approx(0.0, abs=1e-3)
