"""Advice that rests on a measurement, with the clock in the hands of the test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.convolution import find_convolutions
from onnxsep.inspection import Advice, Inspection, Layer, inspect
from onnxsep.inspection import measured as measured_module
from onnxsep.inspection.measured import PaddingTimer
from onnxsep.latency import Comparison, Timing
from onnxsep.runtime import make_session
from onnxsep.search.small_models import INPUT, example_input
from onnxsep.targets import TARGETS

from .models import chain, weight

_CPU = TARGETS["cpu"]


def comparison(first: float, second: float, width: float = 0.01) -> Comparison:
    ratio = first / second
    return Comparison(
        Timing(first, 0.0, (first,)),
        Timing(second, 0.0, (second,)),
        ratio,
        ratio * (1 - width),
        ratio * (1 + width),
        1,
        1,
    )


def layer_channels(model: ir.Model) -> tuple[int, int]:
    """Of the one convolution with a kernel between two pointwise ones."""
    site = next(site for site in find_convolutions(model.graph)[0] if site.taps > 1)
    return site.in_channels, site.out_channels


@dataclasses.dataclass
class Machine:
    """Takes a millisecond per channel, and twenty more where any count misses eight."""

    misses: float = 20.0
    seen: list[tuple[tuple[int, int], tuple[int, int]]] = dataclasses.field(default_factory=list)
    quantized: int = 0

    def compare(self, first: ir.Model, second: ir.Model, *_: object, **__: object) -> Comparison:
        if any(node.op_type == "QuantizeLinear" for node in first.graph):
            self.quantized += 1
            return comparison(1.0, 1.0)
        before, after = layer_channels(first), layer_channels(second)
        self.seen.append((before, after))
        return comparison(self._time(before), self._time(after))

    def _time(self, channels: tuple[int, int]) -> float:
        return sum(channels) + (
            self.misses if any(count % 8 for count in channels if count > 8) else 0
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(measured_module, "compare_latency", made.compare)
    return made


def odd_network(counts: Sequence[int] = (85, 85)) -> ir.Model:
    first, second = counts
    return chain(
        """
        [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        [body] b = Conv <pads = [1, 1, 1, 1]> (a, w1)
        [head] y = Conv <pads = [1, 1, 1, 1]> (b, w2)
        """,
        w0=np.sign(weight(first, 3, 3, 3)),
        w1=np.sign(weight(second, first, 3, 3)),
        w2=np.sign(weight(16, second, 3, 3)),
    )


def channel_advice(found: Inspection) -> Advice | None:
    codes = {one.code: one for one in found.advice}
    return codes.get("channels-miss-kernels")


def test_count_that_misses_is_advised_with_its_measured_cost(machine: Machine) -> None:
    one = channel_advice(inspect(odd_network()))
    assert one is not None
    assert set(one.nodes) == {"stem", "body", "head"}
    assert (
        "85 to 85 channels, 3x3 at 8x8 (1 layer), fp32: 190 ms, padded to 88 and 88 176 ms (1.08x"
        in one.reason
    )
    # The image's three channels and the sixteen that are handed out stay as they are.
    assert ((3, 85), (3, 88)) in machine.seen
    assert ((85, 16), (88, 16)) in machine.seen
    assert machine.quantized > 0
    assert "align_channels" in one.way_out


def test_padding_that_gains_nothing_is_a_note_and_no_advice(machine: Machine) -> None:
    machine.misses = 0.0
    found = inspect(odd_network())
    assert channel_advice(found) is None
    assert any("gains nothing here" in note for note in found.notes)


def test_gain_within_the_noise_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(first: ir.Model, second: ir.Model, *_: object, **__: object) -> Comparison:
        return comparison(1.2, 1.0, width=0.3)

    monkeypatch.setattr(measured_module, "compare_latency", noisy)
    assert channel_advice(inspect(odd_network())) is None


def test_even_counts_are_not_measured(machine: Machine) -> None:
    assert channel_advice(inspect(odd_network((88, 96)))) is None
    assert machine.seen == []


def test_counts_that_the_outputs_ask_for_are_left(machine: Machine) -> None:
    model = chain("[head] y = Conv (x, w)", shape=(1, 16, 8, 8), w=np.sign(weight(85, 16, 3, 3)))
    found = inspect(model)
    assert channel_advice(found) is None
    assert machine.seen == []
    assert any("'y' is an output of the model" in note for note in found.notes)


@pytest.mark.parametrize("target", ["nnapi", "cpu-arm"])
def test_elsewhere_nothing_is_measured(machine: Machine, target: str) -> None:
    found = inspect(odd_network(), target=target)
    assert channel_advice(found) is None
    assert machine.seen == []
    assert any("cannot be measured here" in note for note in found.notes)


def test_nothing_is_measured_when_not_wanted(machine: Machine) -> None:
    found = inspect(odd_network(), measure=False)
    assert machine.seen == []
    assert any("was not measured" in note for note in found.notes)


def narrow_network() -> ir.Model:
    return chain(
        "[dw] y = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)",
        shape=(1, 4, 8, 8),
        w=np.sign(weight(4, 1, 3, 3)),
    )


def test_narrow_depthwise_layer_that_costs_as_much_as_a_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compare(first: ir.Model, second: ir.Model, *_: object, **__: object) -> Comparison:
        return comparison(2.0, 1.0)

    monkeypatch.setattr(measured_module, "compare_latency", compare)
    (one,) = inspect(narrow_network()).advice
    assert (one.code, one.severity, one.nodes) == ("narrow-depthwise", "medium", ("dw",))
    assert one.figures["used"] == 0.25
    assert one.figures["time_against_block"] == 2.0
    assert "75 % of that work is on nothing" in one.reason
    assert "takes 2 ms between two pointwise layers, with 16 channels 1 ms" in one.reason


def test_narrow_depthwise_layer_without_measurement() -> None:
    (one,) = inspect(narrow_network(), measure=False).advice
    assert (one.code, one.severity) == ("narrow-depthwise", "low")
    (one,) = inspect(narrow_network(), target="cpu-arm").advice
    assert one.figures["used"] == 0.5


def test_full_block_is_not_narrow() -> None:
    model = chain(
        "y = Conv <group = 16> (x, w)", shape=(1, 16, 8, 8), w=np.sign(weight(16, 1, 3, 3))
    )
    assert inspect(model).advice == ()


def depthwise_layer(channels: int = 6) -> Layer:
    model = chain(
        "y = Conv <group = 6, strides = [2, 2]> (x, w)",
        shape=(1, channels, 9, 9),
        w=weight(channels, 1, 3, 3),
    )
    return inspect(model, measure=False).layers[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_models_that_are_timed_are_what_they_claim(precision: str) -> None:
    pairs: list[tuple[ir.Model, ir.Model]] = []

    def compare(first: ir.Model, second: ir.Model) -> Comparison:
        pairs.append((first, second))
        return comparison(1.0, 1.0)

    timer = PaddingTimer(_CPU, 1, compare=compare)
    timer.time(depthwise_layer(), 16, 16, precision)  # type: ignore[arg-type]
    ((first, second),) = pairs
    for model, channels in ((first, 6), (second, 16)):
        feeds = {INPUT: example_input(model)}
        (output,) = make_session(model).run(None, feeds)
        assert np.isfinite(output).all()
        assert output.shape[2:] == (5, 5)
        (node,) = [node for node in model.graph if node.attributes.get_int("group", 1) > 1]
        assert node.attributes.get_int("group", 1) == channels


def test_timer_stops_when_its_seconds_are_spent() -> None:
    seconds = iter([0.0, 1.0, 6.0])
    timer = PaddingTimer(_CPU, 1, seconds=5.0, clock=lambda: next(seconds))
    assert not timer.is_spent
    assert timer.is_spent
