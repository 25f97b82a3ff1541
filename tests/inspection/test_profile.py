"""Kernels of the graph that really ran, led back to the layers of the model."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from onnxsep.errors import InputError
from onnxsep.inspection import inspect
from onnxsep.inspection import profile as profile_module
from onnxsep.inspection.profile import layer_of_kernel

from ..small_models import small_network
from .models import chain, weight


def makers() -> dict[str, ir.Node]:
    model = chain(
        """
        [conv] a = Conv (x, w)
        [bn] b = BatchNormalization (a, s, s, s, s)
        [act] c = Relu (b)
        [other] d = Conv (x, w)
        [sum] e = Add (d, c)
        [pool] y = MaxPool <kernel_shape = [2, 2]> (e)
        """,
        w=weight(4, 3, 3, 3),
        s=weight(4),
    )
    return {value.name or "": node for node in model.graph for value in node.outputs}


@dataclasses.dataclass(frozen=True)
class Kernel:
    name: str
    layer: str | None


KERNELS = [
    Kernel("conv", "conv"),
    Kernel("conv_nchwc", "conv"),
    Kernel("conv_token_12", "conv"),
    Kernel("conv_quant_token_7", "conv"),
    Kernel("fused conv", "conv"),
    Kernel("a_nchwc", "conv"),
    Kernel("b_nchwc", "conv"),
    Kernel("c_nchwc", "conv"),
    Kernel("InsertedPrecisionFreeCast_c_nchwc", "conv"),
    Kernel("d_nchwc_token_3", "other"),
    Kernel("e_nchwc", "other"),
    Kernel("ReorderOutput_token_4", None),
    Kernel("", None),
]


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name or "nameless")
def test_kernels_are_led_back(case: Kernel) -> None:
    assert layer_of_kernel(case.name, {"conv", "other"}, makers()) == case.layer


def test_times_of_the_layers_and_the_rest_are_the_whole() -> None:
    found = inspect(small_network(), profile=True, measure=False)
    assert found.profiled
    assert all(layer.time_ms is not None and layer.time_ms > 0 for layer in found.layers)
    assert sum(row.time_share or 0 for row in found.kinds) == pytest.approx(1)
    assert sum(row.time_ms or 0 for row in found.kinds) == pytest.approx(found.totals.time_ms)
    assert [row.kind for row in found.kinds] == ["standard", "Gemm", "other"]


def test_without_a_profile_there_are_no_times() -> None:
    found = inspect(small_network(), measure=False)
    assert not found.profiled
    assert {layer.time_share for layer in found.layers} == {None}
    assert "other" not in {row.kind for row in found.kinds}


def test_model_that_does_not_run_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "_TIMEOUT_SECONDS", 1e-3)
    with pytest.raises(InputError, match="could not be profiled: no answer within"):
        inspect(small_network(), profile=True, measure=False)
