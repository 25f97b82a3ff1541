"""Free dimensions get sizes by name or by place, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep.eligibility import fix_shapes, free_dimensions, parse_sizes
from onnxsep.errors import ConfigurationError

from ..passes.helpers import model_from_text

_TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[N, 3, H, H] x, float[N, ?] z) => (float[N, 4, H, H] y, float[N, ?] v)
    <float[N, 4, H, H] a> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Relu (a)
        v = Relu (z)
    }
"""


def _model() -> ir.Model:
    return model_from_text(_TEXT, w=np.ones((4, 3, 3, 3), np.float32))


def test_free_dimensions_have_names_or_places() -> None:
    assert free_dimensions(_model()) == ("N", "H", "z:1")


def test_sizes_go_to_every_place_of_a_name() -> None:
    model = _model()
    fixed = fix_shapes(model, {"N": 1, "H": 8, "z:1": 5})
    assert [list(value.shape or ()) for value in fixed.graph.inputs] == [[1, 3, 8, 8], [1, 5]]
    assert free_dimensions(fixed) == ()
    assert free_dimensions(model) == ("N", "H", "z:1")


def test_what_was_noted_for_other_sizes_is_forgotten() -> None:
    fixed = fix_shapes(_model(), {"H": 8})
    (conv, *_others) = fixed.graph
    assert conv.outputs[0].shape is None
    assert not any(isinstance(size, int) for size in fixed.graph.outputs[0].shape or ())


def test_one_place_of_a_name_may_differ() -> None:
    fixed = fix_shapes(_model(), {"H": 8, "x:3": 6})
    assert [str(size) for size in fixed.graph.inputs[0].shape or ()] == ["N", "3", "8", "6"]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Assignments, and a word of the sentence against them."""

    texts: tuple[str, ...]
    word: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(("N",), "NAME=SIZE"),
        Wrong(("=3",), "NAME=SIZE"),
        Wrong(("N=x",), "NAME=SIZE"),
        Wrong(("N=-1",), "NAME=SIZE"),
        Wrong(("N=²",), "NAME=SIZE"),
        Wrong(("N=0",), "1 or more"),
        Wrong(("N=99999999999",), "1 or more"),
        Wrong(("N=1", "N=2"), "two sizes"),
        Wrong(("M=1",), "free are N, H, z:1"),
        Wrong(("n=1",), "no dimension 'n'"),
        Wrong(("x:1=4",), "is 3 already"),
    ],
    ids=lambda wrong: ",".join(wrong.texts),
)
def test_what_has_no_meaning_is_refused(wrong: Wrong) -> None:
    with pytest.raises(ConfigurationError, match=wrong.word):
        fix_shapes(_model(), parse_sizes(wrong.texts))


def test_a_name_may_hold_an_equals_sign() -> None:
    assert parse_sizes(["a=b=3"]) == {"a=b": 3}
