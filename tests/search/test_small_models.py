"""Small models: the layer in its frame, every form, and integers where the pass would put them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxsep.calibrate.ranges import ValueStatistics
from onnxsep.convolution import Geometry, find_convolutions
from onnxsep.decision import Decision
from onnxsep.errors import ConfigurationError
from onnxsep.factorize import Activation
from onnxsep.passes.quantize import Quantize, QuantizeSettings, values_to_calibrate
from onnxsep.runtime import make_session
from onnxsep.search.small_int8 import to_int8
from onnxsep.search.small_models import (
    INPUT,
    LayerShape,
    arbitrary_factors,
    example_input,
    frame_models,
    layer_model,
)
from onnxsep.targets import TARGETS

_PADDED = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
_SHAPE = LayerShape(1, 32, 48, _PADDED, (8, 8), Activation.relu())
_DECISIONS = [
    None,
    Decision("depthwise-pointwise", 1),
    Decision("depthwise-pointwise", 2),
    Decision("pointwise-depthwise", 2),
    Decision("cp", 32),
]
_ACTIVATIONS = {
    "none": Activation.identity(),
    "relu": Activation.relu(),
    "leaky": Activation.leaky_relu(0.1),
    "relu6": Activation.clip(0.0, 6.0),
    "below": Activation.clip(high=1.0),
    "silu": Activation.silu(),
    "hard_swish": Activation.hard_swish(),
}


def name_of(decision: Decision | None) -> str:
    return "dense" if decision is None else f"{decision.form}-{decision.rank}"


def output_of(model: ir.Model) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    (output,) = make_session(model, threads=1).run(None, {INPUT: example_input(model)})
    return np.asarray(output)


@pytest.mark.parametrize("activation", _ACTIVATIONS.values(), ids=list(_ACTIVATIONS))
@pytest.mark.parametrize("decision", _DECISIONS, ids=name_of)
def test_numbers_neither_vanish_nor_grow(decision: Decision | None, activation: Activation) -> None:
    """Denormal numbers would be timed, and not the layer."""
    shape = dataclasses.replace(_SHAPE, activation=activation)
    output = output_of(layer_model(shape, decision, TARGETS["cpu"]))
    assert output.shape == (1, 8, 8, 8)
    assert 0.1 < output.std() < 10
    model = layer_model(shape, decision, TARGETS["cpu"])
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        numbers = np.abs(value.const_value.numpy())
        assert not ((numbers > 0) & (numbers < 1e-30)).any()


_GEOMETRIES = {
    "stride 2": Geometry((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))),
    "dilated": Geometry((3, 3), (1, 1), (2, 2), ((2, 2), (2, 2))),
    "one-sided": Geometry((3, 3), (1, 1), (1, 1), ((0, 1), (0, 1))),
    "5x3": Geometry((5, 3), (1, 1), (1, 1), ((2, 2), (1, 1))),
    "auto_pad": Geometry((3, 3), (2, 2), (1, 1), None, "SAME_UPPER"),
    "valid": Geometry((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), "VALID"),
}


@pytest.mark.parametrize("geometry", _GEOMETRIES.values(), ids=list(_GEOMETRIES))
def test_the_geometry_is_the_layers(geometry: Geometry) -> None:
    shape = dataclasses.replace(_SHAPE, geometry=geometry, batch=2)
    for decision in _DECISIONS:
        model = layer_model(shape, decision, TARGETS["cpu"])
        assert output_of(model).shape == (2, 8, *shape.output_size)
    site = find_convolutions(layer_model(shape, None, TARGETS["cpu"]).graph)[0][1]
    assert site.geometry == geometry


def test_one_spatial_axis() -> None:
    shape = LayerShape(1, 16, 16, Geometry((5,), (1,), (1,), ((2, 2),)), (20,), Activation.relu())
    assert output_of(layer_model(shape, Decision("cp", 8), TARGETS["cpu"])).shape == (1, 8, 20)


def test_the_frame_is_what_is_left_without_the_layer() -> None:
    shape = dataclasses.replace(_SHAPE, geometry=_GEOMETRIES["stride 2"])
    before, behind = frame_models(shape)
    assert output_of(before).shape == (1, 8, 8, 8)
    assert output_of(behind).shape == (1, 8, 4, 4)
    assert [site.out_channels for site in find_convolutions(before.graph)[0]] == [32, 8]
    assert [site.out_channels for site in find_convolutions(behind.graph)[0]] == [48, 8]


def test_the_target_decides_the_graph_form() -> None:
    decision = Decision("depthwise-pointwise", 2)
    operators = {
        target: Counter(
            node.op_type for node in layer_model(_SHAPE, decision, TARGETS[target]).graph
        )
        for target in ("cpu", "nnapi")
    }
    assert operators["cpu"]["Concat"] == 1
    assert operators["nnapi"]["Concat"] == 0


def test_padding_rounds_both_sides_up() -> None:
    padded = dataclasses.replace(_SHAPE, in_channels=30, out_channels=33).padded(16)
    assert (padded.in_channels, padded.out_channels) == (32, 48)


@pytest.mark.parametrize("decision", _DECISIONS[1:], ids=name_of)
def test_arbitrary_factors_have_the_right_shapes(decision: Decision) -> None:
    assert arbitrary_factors(decision, 48, 32, 9).dense().shape == (48, 32, 9)


@pytest.mark.parametrize("target", ["cpu", "cpu-arm"])
@pytest.mark.parametrize("activation", _ACTIVATIONS.values(), ids=list(_ACTIVATIONS))
@pytest.mark.parametrize("decision", _DECISIONS, ids=name_of)
def test_integers_are_where_the_quantize_pass_puts_them(
    decision: Decision | None, activation: Activation, target: str
) -> None:
    shape = dataclasses.replace(_SHAPE, activation=activation)
    own, passed = (layer_model(shape, decision, TARGETS[target]) for _ in range(2))
    to_int8(own, target)
    settings = QuantizeSettings(target=target)
    ranges = np.array([-8.0, 8.0], np.float32)
    statistics = {
        name: ValueStatistics.of(name, ranges) for name in values_to_calibrate(passed, settings)
    }
    result = Quantize(statistics, settings)(passed)
    assert result.modified
    operators = [Counter(node.op_type for node in model.graph) for model in (own, result.model)]
    assert operators[0] == operators[1]
    types = [
        Counter(
            (value.dtype, value.shape.rank())
            for value in model.graph.initializers.values()
            if value.dtype != ir.DataType.FLOAT and value.shape is not None and value.shape.rank()
        )
        for model in (own, result.model)
    ]
    assert types[0][ir.DataType.INT8, 4] == types[1][ir.DataType.INT8, 4]
    assert types[0][ir.DataType.INT32, 1] == types[1][ir.DataType.INT32, 1]


@pytest.mark.parametrize("decision", _DECISIONS, ids=name_of)
def test_integers_compute_about_the_same(decision: Decision | None) -> None:
    model = layer_model(_SHAPE, decision, TARGETS["cpu"])
    wanted = output_of(model)
    to_int8(model, "cpu")
    given = output_of(model)
    # Beyond the arbitrary ranges numbers are cut off.
    inside = np.abs(wanted) < 6
    assert inside.mean() > 0.8
    assert np.corrcoef(wanted[inside], given[inside])[0, 1] > 0.95


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_targets_with_other_rules_are_refused(target: str) -> None:
    with pytest.raises(ConfigurationError, match=target):
        to_int8(layer_model(_SHAPE, None, TARGETS["cpu"]), target)
