"""Times of layers, on a machine whose every multiplication takes as long as a test says."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.convolution import ConvSite, Geometry
from onnxsep.decision import Decision
from onnxsep.errors import ConfigurationError
from onnxsep.factorize import Activation
from onnxsep.search import timing
from onnxsep.search.candidates import Candidate, LayerChoices
from onnxsep.search.small_models import arbitrary_factors
from onnxsep.search.timing import LayerTimer
from onnxsep.stopwatch import LocalStopwatch, Run
from onnxsep.targets import TARGETS

_CPU = TARGETS["cpu"]
_CP = Decision("cp", 16)
_DEPTHWISE = Decision("depthwise-pointwise", 1)


def layer(
    name: str = "layer",
    channels: int = 16,
    outputs: int = 32,
    decisions: Sequence[Decision] = (_DEPTHWISE, _CP),
    size: int = 6,
) -> LayerChoices:
    node = ir.node("Conv", [ir.val("x"), ir.val("w")])
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    weight = np.ones((outputs, channels, 3, 3), np.float32)
    candidates = tuple(
        Candidate(
            decision,
            0.1,
            arbitrary_factors(decision, outputs, channels, 9),
            (3, 3),
            np.zeros(outputs, np.float32),
            1,
            1,
        )
        for decision in decisions
    )
    site = ConvSite(node, name, weight, None, 1, geometry)
    return LayerChoices(site, (size, size), (size, size), candidates, None)


def weights_of(model: ir.Model) -> list[tuple[int, ...]]:
    """Shapes of the weights of all convolutions, quantized or not."""
    shapes = [value.shape.numpy() for value in model.graph.initializers.values() if value.shape]
    return [shape for shape in shapes if len(shape) == 4]


@dataclasses.dataclass
class Machine:
    """One weight takes ``unit`` seconds; every run moves the clock."""

    unit: float = 1e-6
    noise: Sequence[float] = (1.0,)
    slow: Callable[[tuple[int, ...]], float] = lambda shape: 1.0
    now: float = 0.0
    runs: int = 0
    models: list[ir.Model] = dataclasses.field(default_factory=list)

    def prepare(self, model: ir.Model) -> Run:
        self.models.append(model)
        seconds = self.unit * sum(
            math.prod(shape) * self.slow(shape) for shape in weights_of(model)
        )
        # Every model begins at another place.
        factors = itertools.cycle(self.noise)
        for _ in self.models:
            next(factors)

        def run() -> float:
            self.runs += 1
            taken = seconds * next(factors)
            self.now += taken
            return taken

        return run

    def timer(self, cache: Path | None = None, **settings: float) -> LayerTimer:
        return LayerTimer(
            _CPU,
            cache=cache,
            prepare=self.prepare,
            clock=lambda: self.now,
            seconds_cap=settings.get("seconds_cap", 1e9),
            threads=int(settings.get("threads", 1)),
        )


def test_times_are_those_of_the_layer_without_its_frame() -> None:
    times = Machine().timer().times([layer()])
    assert set(times) == {("layer", None), ("layer", _DEPTHWISE), ("layer", _CP)}
    # Milliseconds of 1e-6 seconds a weight.
    assert times["layer", None].ms == pytest.approx(32 * 16 * 9 / 1000)
    assert times["layer", _DEPTHWISE].ms == pytest.approx(16 * (9 + 32) / 1000)
    assert times["layer", _CP].ms == pytest.approx(16 * (16 + 9 + 32) / 1000)
    assert all(time.padding == 1 for time in times.values())
    assert all(time.low <= time.ms <= time.high for time in times.values())


def test_layers_of_one_shape_are_timed_once() -> None:
    machine = Machine()
    times = machine.timer().times(
        [layer("a"), layer("b", decisions=[_CP]), layer("c", size=8), layer("d", decisions=[])]
    )
    assert times["a", _CP] == times["b", _CP]
    assert ("b", _DEPTHWISE) not in times
    assert ("d", None) not in times
    # Of two shapes each: two for the frame, the original and two candidates.
    assert len(machine.models) == 2 * 5


def test_padding_is_taken_where_it_pays() -> None:
    def slow(shape: tuple[int, ...]) -> float:
        return 1.0 if all(size % 16 == 0 for size in shape[:2] if size != 8) else 3.0

    some = layer(channels=24, outputs=30)
    times = Machine(slow=slow).timer().times([some])
    assert times["layer", None].padding == 16
    assert times["layer", None].ms == pytest.approx(32 * 32 * 9 / 1000, rel=0.2)
    even = Machine().timer().times([some])
    assert even["layer", None].padding == 1


def test_padding_that_gains_next_to_nothing_is_left() -> None:
    def slow(shape: tuple[int, ...]) -> float:
        return 0.98 * 31 * 31 / (32 * 32) if shape[0] == shape[1] == 32 else 1.0

    times = Machine(slow=slow).timer().times([layer(channels=31, outputs=31)])
    assert times["layer", None].padding == 1


def test_runs_go_on_until_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, noisy = Machine(), Machine(noise=(1.0, 1.3, 0.8, 1.1, 0.9, 1.05, 0.7))
    for machine in (quiet, noisy):
        machine.timer().times([layer()])
    assert quiet.runs == len(quiet.models) * timing._ROUNDS_TO_SETTLE
    assert noisy.runs > 2 * quiet.runs
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 32)
    bounded = Machine(noise=noisy.noise)
    bounded.timer().times([layer()])
    assert bounded.runs <= 32 * len(bounded.models)


def test_the_time_cap_holds() -> None:
    machine = Machine(noise=(1.0, 1.5, 0.5, 2.0, 0.3))
    times = machine.timer(seconds_cap=1e-9).times([layer("a"), layer("b", size=8)])
    assert machine.runs == len(machine.models) * timing._FEWEST_ROUNDS
    assert len(times) == 6


def test_large_layers_are_loaded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Machine().timer().times([layer()])
    monkeypatch.setattr(LocalStopwatch, "most_bytes", 1)
    machine = Machine()
    times = machine.timer().times([layer()])
    assert len(machine.models) == 2 * 4  # the original beside each of the others
    for key, time in times.items():
        assert time.ms == pytest.approx(alone[key].ms)


def test_times_come_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    first = Machine().timer(path).times([layer()])
    machine = Machine()
    assert machine.timer(path).times([layer("another name")]) == {
        ("another name", decision): time for (_, decision), time in first.items()
    }
    assert machine.models == []
    machine.timer(path, threads=2).times([layer()])
    assert machine.models != []


def test_what_the_cache_lacks_is_measured_on_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    Machine().timer(path).times([layer(decisions=[_DEPTHWISE])])
    hot = Machine(unit=2e-6)
    times = hot.timer(path).times([layer()])
    assert len(hot.models) == 4  # frame, original and what is new
    assert times["layer", _CP].ms == pytest.approx(16 * (16 + 9 + 32) / 1000)


def test_a_damaged_cache_is_told_about(tmp_path: Path) -> None:
    notes: list[str] = []

    class Listener:
        def stage(self, title: str, total: int = 0) -> None: ...
        def step(self, detail: str = "") -> None: ...
        def note(self, message: str) -> None:
            notes.append(message)

    path = tmp_path / "times.json"
    path.write_text("{")
    timer = LayerTimer(_CPU, cache=path, prepare=Machine().prepare, progress=Listener())
    timer.times([layer()])
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_int8_models_are_quantized_and_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    Machine().timer(path).times([layer()])
    machine = Machine()
    machine.timer(path).times([layer()], precision="int8")
    assert len(machine.models) == 5
    for model in machine.models:
        assert "QuantizeLinear" in {node.op_type for node in model.graph}


def test_a_target_without_integers_says_so() -> None:
    cuda = dataclasses.replace(_CPU, name="cuda")
    with pytest.raises(ConfigurationError, match="int8"):
        LayerTimer(cuda, prepare=Machine().prepare).times([layer()], precision="int8")


def test_nothing_to_time() -> None:
    machine = Machine()
    assert machine.timer().times([]) == {}
    assert machine.timer().times([layer(decisions=[])]) == {}
    assert machine.models == []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_runs_the_small_models(precision: timing.Precision) -> None:
    times = LayerTimer(_CPU, seconds_cap=0.2).times([layer()], precision=precision)
    assert len(times) == 3
    assert all(0 < time.ms < math.inf for time in times.values())


def test_shapes_tell_layers_apart() -> None:
    """A key that forgot something would hand out another layer's time."""
    base = timing.LayerShape(
        1, 16, 32, Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), (8, 8), Activation.relu()
    )
    others = [
        dataclasses.replace(base, batch=2),
        dataclasses.replace(base, in_channels=32),
        dataclasses.replace(base, out_channels=16),
        dataclasses.replace(base, input_size=(8, 9)),
        dataclasses.replace(base, activation=Activation.leaky_relu(0.1)),
        dataclasses.replace(base, activation=Activation.silu()),
        *(
            dataclasses.replace(base, geometry=dataclasses.replace(base.geometry, **change))
            for change in (
                {"kernel": (3, 5)},
                {"strides": (2, 1)},
                {"dilations": (2, 2)},
                {"pads": ((0, 1), (1, 1))},
                {"pads": None, "auto_pad": "SAME_UPPER"},
            )
        ),
    ]
    texts = {timing._text(timing._Item(1, shape, None)) for shape in (base, *others)}
    texts |= {timing._text(timing._Item(1, base, decision)) for decision in (_CP, _DEPTHWISE)}
    assert len(texts) == len(others) + 3
