"""Words and numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsep.report.text import printable, quantity, shortened, times

PREFIXES = {"": 1e0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer4.1/conv2", "layer4.1/conv2"),
        ("größe_層", "größe_層"),
        ("a\x1b[2Jb", "a�[2Jb"),
        ("a\rb\nerror: c\td", "a b error: c d"),
        ("a\u202eb\x7fc\x9bd", "a�b�c�d"),
        ("a\u2028b\u00a0c", "a b c"),
        ("", ""),
    ],
    ids=["plain", "letters", "escape", "lines", "direction", "unusual spaces", "nothing"],
)
def test_names_cannot_move_the_cursor(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text())
def test_printable_text_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert printable(printable(text)) == printable(text)


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortened_text_is_short_and_ends_alike(text: str, width: int) -> None:
    found = shortened(text, width)
    assert len(found) == min(len(text), width)
    if len(text) > width:
        assert found[0] == "…"
        assert printable(text).endswith(found[1:])
    else:
        assert found == printable(text)


def test_end_of_a_name_tells_most() -> None:
    assert shortened("model/backbone/stage3/block1/conv2", 14) == "…/block1/conv2"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.7, "1.00 k"),
        (1000, "1.00 k"),
        (1728, "1.73 k"),
        (9_994, "9.99 k"),
        (9_996, "10.0 k"),
        (67_840, "67.8 k"),
        (99_960, "100 k"),
        (589_824, "590 k"),
        (999_499, "999 k"),
        (999_600, "1.00 M"),
        (40_600_000, "40.6 M"),
        (3.8e9, "3.80 G"),
        (1.2e12, "1.20 T"),
        (5e15, "5 P"),
        (-1500, "-1.50 k"),
    ],
)
def test_quantity(value: float, expected: str) -> None:
    assert quantity(value) == expected


@given(st.integers(1000, 10**17))
def test_three_digits_and_no_more(value: int) -> None:
    number, prefix = quantity(value).split(" ")
    if prefix != "P":
        assert len(number.replace(".", "")) == 3
    assert math.isclose(float(number) * PREFIXES[prefix], value, rel_tol=5.01e-3)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(589_824, 67_840, "8.69x"), (1, 1, "1.00x"), (1, 2, "0.50x"), (0, 0, "-"), (3, 0, "-")],
)
def test_times(before: float, after: float, expected: str) -> None:
    assert times(before, after) == expected
