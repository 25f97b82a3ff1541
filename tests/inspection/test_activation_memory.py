"""Bytes alive at each node, against lists written by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.inspection import ActivationMemory
from onnxsep.inspection.activation_memory import find_activation_memory
from onnxsep.inspection.sizes import example_feeds, find_sizes
from onnxsep.passes.normalize import Normalize

from ..passes.helpers import model_from_text
from .models import chain, weight

MAP = 8 * 8 * 4  # bytes of one channel


def memory(model: ir.Model) -> ActivationMemory:
    Normalize()(model)
    return find_activation_memory(model, find_sizes(model, example_feeds(model), given=True))


def alive(model: ir.Model) -> dict[str, int]:
    return {step.operator: step.bytes for step in memory(model).steps}


def test_chain_holds_input_and_output_of_each_layer() -> None:
    found = memory(
        chain(
            "[one] a = Conv (x, w1) [two] b = Conv (a, w2) [three] y = Conv (b, w3)",
            w1=weight(8, 3, 1, 1),
            w2=weight(4, 8, 1, 1),
            w3=weight(2, 4, 1, 1),
        )
    )
    assert [step.bytes // MAP for step in found.steps] == [3 + 8, 8 + 4, 4 + 2]
    assert found.peak_step is not None
    assert found.peak_step.node == "two"
    assert found.peak_step.values == (("a", 8 * MAP), ("b", 4 * MAP))
    assert found.peak_step.size == (8, 8)


def test_elementwise_operators_work_in_place_and_views_take_nothing() -> None:
    steps = alive(
        chain(
            "a = Conv (x, w) b = Relu (a) c = Flatten (b) y = Sigmoid (c)",
            w=weight(8, 3, 1, 1),
        )
    )
    assert steps["Relu"] == steps["Flatten"] == steps["Sigmoid"] == 8 * MAP


def test_value_that_is_needed_again_is_not_written_over() -> None:
    steps = alive(chain("a = Relu (x) b = Sigmoid (a) y = Mul (a, b)"))
    assert steps == {"Relu": 3 * MAP, "Sigmoid": 6 * MAP, "Mul": 6 * MAP}


def test_shortcut_lives_until_the_sum() -> None:
    found = memory(
        chain(
            """
            a = Conv (x, w)
            b = Conv (a, v)
            c = Conv (b, v)
            y = Add (a, c)
            """,
            w=weight(4, 3, 1, 1),
            v=weight(4, 4, 1, 1),
        )
    )
    assert [step.bytes // MAP for step in found.steps] == [7, 8, 12, 8]


def test_output_of_the_model_lives_to_the_end() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] a, float[1, 2, 8, 8] y) {
            a = Conv (x, w1) b = MaxPool <kernel_shape = [1, 1]> (a) y = Conv (b, w2)
        }
        """,
        w1=weight(8, 3, 1, 1),
        w2=weight(2, 8, 1, 1),
    )
    assert [step.bytes // MAP for step in memory(model).steps] == [11, 16, 18]


def test_what_a_branch_reads_lives_until_then() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float[1, 4, 8, 8] x, bool c) => (float[1, 4, 8, 8] y) {
            a = Conv (x, w)
            b = Conv (a, w)
            d = Conv (b, w)
            y = If (c) <
                then_branch = t () => (float[1, 4, 8, 8] p) { p = Add (a, d) },
                else_branch = e () => (float[1, 4, 8, 8] q) { q = Identity (d) }
            >
        }
        """,
        w=weight(4, 4, 1, 1),
    )
    steps = memory(model).steps
    assert [step.bytes // MAP for step in steps] == [8, 8, 12, 12]


def test_half_precision_takes_half() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        tiny (float16[1, 3, 8, 8] x) => (float16[1, 8, 8, 8] y) { y = Conv (x, w) }
        """,
        w=weight(8, 3, 1, 1).astype(np.float16),
    )
    assert alive(model) == {"Conv": 11 * MAP // 2}


def test_weights_are_no_activations() -> None:
    model = chain("k = Mul (w, w) y = Conv (x, k)", w=weight(8, 3, 1, 1))
    assert list(alive(model)) == ["Conv"]
