"""Which layers of an int8 network are left in float because they are faster so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.latency import Comparison, Timing
from onnxsep.progress import Silence
from onnxsep.search.mixed import faster_in_float

from ..passes.helpers import model_from_text

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] x) => (float[1,8,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, A)
    b = Conv <pads = [1, 1, 1, 1]> (a, B)
    c = Conv <pads = [1, 1, 1, 1], group = 12> (b, C)
    y = Conv (c, D)
}"""


def network() -> ir.Model:
    """Three channels, then sixteen (a fast path), then twelve depthwise (none), then dense."""
    shapes = {"A": (16, 3, 3, 3), "B": (12, 16, 3, 3), "C": (12, 1, 3, 3), "D": (8, 12, 1, 1)}
    model = model_from_text(TEXT, **{k: np.ones(v, np.float32) for k, v in shapes.items()})
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


class Clock:
    """A quantized model is the set of its layers in float; its time the sum of theirs."""

    def __init__(self, saved: dict[str, float], doubt: float = 0.0) -> None:
        self.saved, self.doubt = saved, doubt
        self.asked: list[frozenset[str]] = []

    def quantized(self, names: frozenset[str]) -> ir.Model:
        model = network()
        model.metadata_props["float"] = ",".join(sorted(names))
        self.asked.append(names)
        return model

    def compare(self, first: ir.Model, second: ir.Model, seconds: float) -> Comparison:
        assert 0 < seconds < 2
        before, after = self.time(first), self.time(second)
        ratio, timing = before / after, Timing(after, 0.0, (after,))
        return Comparison(timing, timing, ratio, ratio - self.doubt, ratio + self.doubt, 1, 1)

    def time(self, model: ir.Model) -> float:
        names = [name for name in model.metadata_props["float"].split(",") if name]
        return 1.0 - sum(self.saved[name] for name in names)

    def found(self, seconds: float = 100.0) -> frozenset[str]:
        return faster_in_float(network(), self.quantized, self.compare, seconds, Silence())


def test_only_layers_that_miss_the_integer_kernels_are_tried() -> None:
    clock = Clock({"a": 0.1, "b": 0.5, "c": 0.2, "y": 0.5})
    assert clock.found() == {"a", "c"}
    assert clock.asked == [frozenset(), {"a"}, {"a", "c"}]


def test_a_layer_that_is_slower_in_float_stays_and_others_are_measured_without_it() -> None:
    clock = Clock({"a": -0.1, "c": 0.2})
    assert clock.found() == {"c"}
    assert clock.asked[-1] == {"c"}


@pytest.mark.parametrize(("gain", "doubt"), [(0.005, 0.0), (0.05, 0.1), (0.0, 0.0)])
def test_what_is_not_clearly_faster_stays(gain: float, doubt: float) -> None:
    assert Clock({"a": gain, "c": gain}, doubt).found() == frozenset()


def test_time_limits_the_number_of_trials() -> None:
    clock = Clock({"a": 0.1, "c": 0.2})
    assert clock.found(1.0) == {"a"}
    assert clock.found(0.0) == frozenset()
