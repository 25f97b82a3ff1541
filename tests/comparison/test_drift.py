"""Layer by layer: the error is found where it was made."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.comparison.drift import measure_drift
from onnxsep.comparison.record import DriftRow
from onnxsep.data import draw_dataset, input_specs
from onnxsep.evaluation import Batches
from onnxsep.progress import Silence
from onnxsep.runtime import make_session

from .models import CHAIN, chain


def drift(
    first: ir.Model, second: ir.Model, *, size: int = 5, limit: int = 2**30
) -> list[DriftRow]:
    dataset = draw_dataset(input_specs(first), preprocessing=None, samples=12, seed=0)
    return measure_drift(
        first, second, Batches(dataset, size), progress=Silence(), memory_limit=limit
    )


def test_rows_are_in_the_order_of_the_graph() -> None:
    rows = drift(chain(), chain())
    assert [row.name for row in rows] == ["a", "b", "c", "d", "e", "f", "scores"]
    assert [row.first_operator for row in rows][:3] == ["Conv", "Relu", "Conv"]
    assert [row.shape for row in rows][::6] == ["8x8x8", "5"]
    assert all(row.error == 0 for row in rows)


@pytest.mark.parametrize(("weight", "value"), [("W0", "a"), ("W1", "c"), ("W2", "scores")])
def test_error_comes_in_where_it_was_made(weight: str, value: str) -> None:
    rows = drift(chain(), chain(noise={weight: 0.05}))
    assert max(rows, key=lambda row: row.gained).name == value
    before = rows[: [row.name for row in rows].index(value)]
    assert all(row.error == 0 for row in before)


def test_figures_are_those_of_the_whole_arrays() -> None:
    first, second = chain(), chain(noise={"W0": 0.1})
    row = next(row for row in drift(first, second) if row.name == "a")
    dataset = draw_dataset(input_specs(first), preprocessing=None, samples=12, seed=0)
    values = []
    for model in (first, second):
        model.graph.outputs[:] = [
            value for node in model.graph for value in node.outputs if value.name == "a"
        ]
        model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        feeds = next(iter(dataset.batches(12)))
        values.append(make_session(model).run(None, feeds)[0].astype(np.float64))
    signal = values[0] - values[0].mean(axis=(0, 2, 3), keepdims=True)
    expected = math.sqrt(np.mean((values[0] - values[1]) ** 2) / np.mean(signal**2))
    assert row.error == pytest.approx(expected, rel=1e-4)
    assert row.snr_db == pytest.approx(-20 * math.log10(expected), abs=1e-3)


def test_little_memory_and_other_batches_change_nothing() -> None:
    first, second = chain(), chain(noise={"W0": 0.05, "W1": 0.02})
    plenty = drift(first, second)
    little = drift(first, second, size=1, limit=2000)
    for one, other in zip(plenty, little, strict=True):
        assert one.name == other.name
        assert one.error == pytest.approx(other.error, rel=1e-4)


def test_values_of_another_shape_are_said_to_be() -> None:
    wide = chain()
    weights = wide.graph.initializers
    grown = np.concatenate([weights["W0"].const_value.numpy()] * 2)  # type: ignore[union-attr]
    weights["W0"].const_value = ir.tensor(grown, name="W0")
    half = weights["W1"].const_value.numpy() / 2  # type: ignore[union-attr]
    weights["W1"].const_value = ir.tensor(np.concatenate([half] * 2, axis=1), name="W1")
    for value in (weights["W0"], weights["W1"]):
        value.shape = ir.Shape(value.const_value.shape)  # type: ignore[union-attr]
    rows = {row.name: row for row in drift(chain(), wide)}
    assert rows["a"].note == "shape 8x8x8, against 16x8x8"
    assert math.isnan(rows["a"].error)
    assert rows["c"].error < 1e-5


def test_another_value_under_the_same_name_is_no_error() -> None:
    """As int8 graphs leave out a Relu that comes later in another way."""
    moved = CHAIN.replace("b = Relu (a)", "b = Identity (a)").replace(
        "c = Conv <pads = [1, 1, 1, 1]> (b, W1)",
        "b2 = Relu (b) c = Conv <pads = [1, 1, 1, 1]> (b2, W1)",
    )
    rows = {row.name: row for row in drift(chain(), chain(text=moved, noise={"W1": 0.01}))}
    assert "not the same value: Relu here, Conv there" in rows["b"].note
    assert not rows["c"].note
    assert rows["c"].gained == pytest.approx(rows["c"].error)


def test_not_a_number_in_one_model_is_named() -> None:
    broken = chain(
        text=CHAIN.replace("b = Relu (a)", "z = Sub (a, a) q = Div (z, z) b = Add (q, a)")
    )
    rows = {row.name: row for row in drift(chain(), broken)}
    assert rows["b"].note == "NaN or infinity in one model only"
    assert not rows["a"].note


def test_graphs_without_a_common_name_have_no_rows() -> None:
    renamed = re.sub(r"\b([a-f])\b(?! =>)", r"_\1", CHAIN).replace("scores", "other")
    assert drift(chain(), chain(text=renamed)) == []
