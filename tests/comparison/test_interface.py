"""What can be compared, and one sentence where something cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from onnxsep.comparison import CompareOptions, ComparisonRecord, compare
from onnxsep.errors import InputError

from .models import one_line, save_text

QUICK = CompareOptions(samples=4, measure_latency=False)
PLAIN = one_line("g", "float[N, 4] x", "float[N, 4] y", "y = Relu (x)")


def compared(tmp_path: Path, first: str, second: str) -> ComparisonRecord:
    one, two = save_text(first, tmp_path / "a.onnx"), save_text(second, tmp_path / "b.onnx")
    return compare(one, two, QUICK)


@dataclasses.dataclass(frozen=True)
class Unfit:
    id: str
    second: str
    says: str
    first: str = PLAIN


UNFIT = [
    Unfit(
        "another input",
        one_line("g", "float[N, 4] x, float[N, 4] z", "float[N, 4] y", "y = Add (x, z)"),
        r"second model \(b.onnx\) has the input 'z', which the first model \(a.onnx\) has not",
    ),
    Unfit(
        "renamed input",
        one_line("g", "float[N, 4] u", "float[N, 4] y", "y = Relu (u)"),
        r"first model \(a.onnx\) has the input 'x', which the second",
    ),
    Unfit(
        "type of an input",
        one_line("g", "float16[N, 4] x", "float16[N, 4] y", "y = Relu (x)"),
        r"'x' is tensor\(float\) in .*a.onnx.*, but tensor\(float16\)",
    ),
    Unfit(
        "shape of an input",
        one_line("g", "float[N, 5] x", "float[N, 5] y", "y = Relu (x)"),
        r"'x' has the shape Nx4, against Nx5",
    ),
    Unfit(
        "rank of an input",
        one_line("g", "float[N, 4, 1] x", "float[N, 4, 1] y", "y = Relu (x)"),
        r"'x' has the shape Nx4, against Nx4x1",
    ),
    Unfit(
        "number of outputs",
        one_line("g", "float[N, 4] x", "float[N, 4] u, float[N, 4] v", "u = Relu(x) v = Abs(x)"),
        r"no output .*'y'.* has the name .*'u', 'v'.* 1 against 2 outputs",
    ),
    Unfit(
        "shape of outputs of other names",
        one_line("g", "float[N, 4] x", "float[N, 1] u", "u = ReduceMax <axes = [1]> (x)"),
        r"by position they do not fit: 'y' has the shape Nx4, against Nx1",
    ),
    Unfit(
        "type of the only output",
        one_line("g", "float[N, 4] x", "int64[N, 4] y", "y = Cast <to = 7> (x)"),
        r"'y' is tensor\(float\), but 'y' is tensor\(int64\)",
    ),
]


@pytest.mark.parametrize("case", UNFIT, ids=lambda case: case.id)
def test_what_does_not_match_is_named_in_one_sentence(case: Unfit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=case.says) as raised:
        compared(tmp_path, case.first, case.second)
    assert "\n" not in str(raised.value)


def test_outputs_of_other_names_are_paired_by_position(tmp_path: Path) -> None:
    other = one_line("g", "float[N, 4] x", "float[N, 4] z", "z = Relu (x)")
    record = compared(tmp_path, PLAIN, other)
    assert record.pairing == "position"
    assert [(row.first, row.second) for row in record.outputs] == [("y", "z")]
    assert any("paired by position" in warning for warning in record.warnings)


def test_outputs_are_paired_by_name_in_any_order(tmp_path: Path) -> None:
    one = one_line("g", "float[N, 4] x", "float[N, 4] u, float[N, 4] v", "u = Relu(x) v = Neg(x)")
    two = one_line("g", "float[N, 4] x", "float[N, 4] v, float[N, 4] u", "u = Relu(x) v = Neg(x)")
    record = compared(tmp_path, one, two)
    assert [(row.first, row.second) for row in record.outputs] == [("u", "u"), ("v", "v")]
    assert all(row.relative_error == 0 for row in record.outputs)


def test_outputs_of_one_model_only_are_left_out_aloud(tmp_path: Path) -> None:
    two = one_line("g", "float[N, 4] x", "float[N, 4] y, float[N, 4] v", "y = Relu(x) v = Neg(x)")
    record = compared(tmp_path, PLAIN, two)
    assert [row.first for row in record.outputs] == ["y"]
    assert any("(b.onnx) has the output 'v': left out" in words for words in record.warnings)


def test_the_stricter_batch_counts(tmp_path: Path) -> None:
    fixed = one_line("g", "float[3, 4] x", "float[3, 4] y", "y = Relu (x)")
    record = compared(tmp_path, PLAIN, fixed)
    assert record.samples == 3
    assert any("batches of 3 only" in warning for warning in record.warnings)


def test_half_precision_outputs_compare_with_single(tmp_path: Path) -> None:
    half = one_line("g", "float[N, 4] x", "float16[N, 4] y", "h = Cast <to = 10> (x) y = Relu (h)")
    record = compared(tmp_path, PLAIN, half)
    assert 0 < record.outputs[0].relative_error < 1e-3


def test_integers_compare_by_the_share_that_differs(tmp_path: Path) -> None:
    one = one_line("g", "float[N, 4] x", "int64[N] y", "y = ArgMax <axis = 1, keepdims = 0> (x)")
    two = one_line("g", "float[N, 4] x", "int64[N] y", "y = ArgMin <axis = 1, keepdims = 0> (x)")
    record = compared(tmp_path, one, two)
    assert record.outputs[0].kind == "integers"
    assert record.outputs[0].largest_difference == 1.0


def test_sizes_that_depend_on_the_data_do_not_end_the_run(tmp_path: Path) -> None:
    one = one_line("g", "float[1, 4] x", "int64[2, K] y", "b = Relu (x) y = NonZero (b)")
    two = one_line("g", "float[1, 4] x", "int64[2, K] y", "y = NonZero (x)")
    record = compared(tmp_path, one, two)
    assert "shape" in record.outputs[0].note
    assert record.outputs[0].worst == ""
