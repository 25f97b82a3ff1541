"""Cells: which there are, in which order, under which names, and what each provider is told."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxsep.bench.cells import MOST_CELLS, expand, matrix_fingerprint, select
from onnxsep.bench.matrix import load_matrix
from onnxsep.bench.record import Cell
from onnxsep.errors import ConfigurationError

MODELS = "models: [{name: a, path: a.onnx}, {name: b, path: b.onnx}]\n"
SPIN = "session.intra_op.allow_spinning"

Cells = Callable[[str], tuple[Cell, ...]]


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    def expand_text(text: str) -> tuple[Cell, ...]:
        path = tmp_path / "bench.yaml"
        path.write_text(MODELS + text, "utf-8")
        return expand(load_matrix(path))

    return expand_text


def ids(found: tuple[Cell, ...]) -> list[str]:
    return [cell.id for cell in found]


def test_models_vary_slowest(cells: Cells) -> None:
    found = cells(
        "matrix: {targets: [cpu, cuda], precision: [fp32, int8], batch: [8, 1], threads: [1, 2]}"
    )
    assert len(found) == len(set(ids(found))) == 32
    assert ids(found)[:9] == [
        "a cpu b8 t1 fp32",
        "a cpu b8 t2 fp32",
        "a cpu b1 t1 fp32",
        "a cpu b1 t2 fp32",
        "a cpu b8 t1 int8",
        "a cpu b8 t2 int8",
        "a cpu b1 t1 int8",
        "a cpu b1 t2 int8",
        "a cuda b8 t1 fp32",
    ]
    assert ids(found)[16] == "b cpu b8 t1 fp32"


def test_later_axes_are_named_where_they_are_not_the_default(cells: Cells) -> None:
    found = cells(
        "matrix: {models: b, optimization: [all, basic], session_options: "
        f"[{{}}, {{{SPIN}: 0, ep.x: y}}]}}"
    )
    assert ids(found) == [
        "b cpu b1 t1 fp32",
        "b cpu b1 t1 fp32 ep.x=y intra_op.allow_spinning=0",
        "b cpu b1 t1 fp32 basic",
        "b cpu b1 t1 fp32 basic ep.x=y intra_op.allow_spinning=0",
    ]
    assert found[1].session_config == {SPIN: "0", "ep.x": "y"}
    # One level only, but not the default: a baseline with the default is another cell.
    assert ids(cells("matrix: {models: b, optimization: basic}")) == ["b cpu b1 t1 fp32 basic"]


@dataclasses.dataclass(frozen=True)
class Choice:
    id: str
    text: str
    expected: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Choice("one axis", "exclude: [{batch: 8}]", ["a cpu b1", "a cuda b1"]),
        Choice(
            "all axes must match",
            "exclude: [{target: cuda, batch: 8}]",
            ["a cpu b1", "a cpu b8", "a cuda b1"],
        ),
        Choice("any value", "exclude: [{target: cpu, batch: [1, 8]}]", ["a cuda b1", "a cuda b8"]),
        Choice("any entry", "exclude: [{target: cpu, batch: 1}, {target: cuda}]", ["a cpu b8"]),
        Choice(
            "nothing", "exclude: [{batch: 3}]", ["a cpu b1", "a cpu b8", "a cuda b1", "a cuda b8"]
        ),
        Choice(
            "included is first of the matrix",
            "exclude: [{target: [cpu, cuda]}]\ninclude: [{batch: 32}]",
            ["a cpu b32"],
        ),
        Choice(
            "included in spite of exclude, several values, other model",
            "exclude: [{target: [cpu, cuda]}]\ninclude: [{model: b, target: nnapi, batch: [1, 2]}]",
            ["b nnapi b1", "b nnapi b2"],
        ),
        Choice(
            "included twice",
            "exclude: [{batch: 8}]\n"
            "include: [{target: cpu}, {target: cuda}, {batch: 2}, {batch: 2}]",
            ["a cpu b1", "a cuda b1", "a cpu b2"],
        ),
    ],
    ids=lambda case: case.id,
)
def test_exclude_and_include(cells: Cells, case: Choice) -> None:
    found = cells("matrix: {models: a, targets: [cpu, cuda], batch: [1, 8]}\n" + case.text)
    assert ids(found) == [f"{name} t1 fp32" for name in case.expected]


def test_session_options_of_a_selection_are_a_part(cells: Cells) -> None:
    axes = f"matrix: {{models: a, session_options: [{{}}, {{{SPIN}: 0, ep.x: 1}}, {{ep.x: 1}}]}}\n"
    found = cells(axes + f"exclude: [{{session_options: {{{SPIN}: 0}}}}]")
    assert ids(found) == ["a cpu b1 t1 fp32", "a cpu b1 t1 fp32 ep.x=1"]


def test_overrides_later_ones_win(cells: Cells) -> None:
    found = cells(
        """
defaults: {rounds: 4, seconds: 0.2}
matrix: {models: a, batch: [1, 8], threads: [1, 2]}
overrides:
  - {match: {batch: 8}, set: {rounds: 6, cool_down: 1}}
  - {match: {batch: 8, threads: 2}, set: {rounds: 5, affinity: 0, io_binding: true}}
"""
    )
    told = [(cell.rounds, cell.seconds, cell.cool_down, cell.affinity) for cell in found]
    # 5 is also the built-in default: what is written counts, not what differs.
    assert told == [(4, 0.2, 0, ()), (4, 0.2, 0, ()), (6, 0.2, 1, ()), (5, 0.2, 1, (0,))]
    assert [cell.io_binding for cell in found] == [False, False, False, True]


def test_overrides_that_fit_alone_but_not_together(cells: Cells) -> None:
    with pytest.raises(
        ConfigurationError, match="overrides together give the cell 'a cpu b1 t1 fp3"
    ):
        cells(
            "overrides: [{match: {}, set: {seconds: 50}}, {match: {model: a}, set: {timeout: 30}}]"
        )


class TestProviders:
    def test_cpu_is_left_as_onnxruntime_has_it(self, cells: Cells) -> None:
        (cell,) = cells("matrix: {models: a, threads: 2}")
        assert (cell.provider, cell.intra_threads, cell.threads) == ("CPUExecutionProvider", 2, 2)
        assert (cell.session_config, cell.provider_options, cell.python) == ({}, {}, "")
        assert cell.io_binding is False

    def test_xnnpack_has_its_own_pool(self, cells: Cells) -> None:
        one, four = cells("matrix: {models: a, targets: xnnpack, threads: [1, 4]}")
        for cell, threads in ((one, 1), (four, 4)):
            assert cell.provider == "XnnpackExecutionProvider"
            assert (cell.threads, cell.intra_threads) == (threads, 1)
            assert cell.session_config == {SPIN: "0"}
            assert cell.provider_options == {"intra_op_num_threads": str(threads)}

    def test_all_cores_have_a_number_for_xnnpack(self, cells: Cells) -> None:
        text = "matrix: {models: a, targets: xnnpack, threads: 0}\n"
        assert cells(text)[0].provider_options["intra_op_num_threads"] == str(os.cpu_count())
        confined = cells(text + "defaults: {affinity: [0]}")[0]
        assert confined.provider_options["intra_op_num_threads"] == "1"

    def test_a_contradiction_to_xnnpack_says_how_to_leave_it_out(self, cells: Cells) -> None:
        sets = f"[{{}}, {{{SPIN}: 1}}]"
        axes = f"matrix: {{models: a, targets: [cpu, xnnpack], session_options: {sets}}}\n"
        with pytest.raises(ConfigurationError) as caught:
            cells(axes)
        said = str(caught.value)
        assert "'a xnnpack b1 t1 fp32 intra_op.allow_spinning=1' contradicts xnnpack" in said
        # The way out that the message gives is one.
        exclude = said[said.index("exclude:") :]
        assert len(cells(axes + exclude)) == 3

    def test_cuda_binds_unless_told(self, cells: Cells) -> None:
        text = "matrix: {models: a, targets: [cpu, cuda, nnapi]}\n"
        assert [cell.io_binding for cell in cells(text)] == [False, True, False]
        told = cells(text + "defaults: {io_binding: false}")
        assert [cell.io_binding for cell in told] == [False, False, False]

    def test_options_of_the_target_go_along(self, cells: Cells) -> None:
        (cell,) = cells(
            "targets: {gpu: {provider: cuda, provider_options: {use_tf32: 0}, session_options: "
            "{session.set_denormal_as_zero: 0, ep.y: 1}, python: python3, libraries: {m: /l.so}}}\n"
            "matrix: {models: a, targets: gpu, session_options: {session.set_denormal_as_zero: 1}}"
        )
        assert (cell.target, cell.provider) == ("gpu", "CUDAExecutionProvider")
        assert cell.provider_options == {"use_tf32": "0"}
        # The axis is nearer to the cell than the target.
        assert cell.session_config == {"session.set_denormal_as_zero": "1", "ep.y": "1"}
        assert (cell.python, cell.libraries) == ("python3", {"m": "/l.so"})


def test_nothing_left(cells: Cells) -> None:
    with pytest.raises(ConfigurationError, match="exclude leaves no cell"):
        cells("exclude: [{batch: 1}]")


def test_too_many(cells: Cells) -> None:
    axis = str(list(range(1, 120)))
    assert MOST_CELLS < 2 * 119 * 119
    with pytest.raises(ConfigurationError, match=f"more than {MOST_CELLS} cells"):
        cells(f"matrix: {{batch: {axis}, threads: {axis}}}")
    with pytest.raises(ConfigurationError, match=f"more than {MOST_CELLS} cells"):
        cells(f"include: [{{model: [a, b], batch: {axis}, threads: {axis}}}]")


@dataclasses.dataclass(frozen=True)
class Only:
    patterns: tuple[str, ...]
    expected: list[str]


AXES = "matrix: {targets: [cpu, cuda], batch: [1, 16], optimization: [all, basic]}"


@pytest.mark.parametrize(
    "case",
    [
        Only(("a cpu b1 t1 fp32",), ["a cpu b1"]),
        Only(("A CPU b1 t1 basic",), []),
        Only(("a CPU b1 t1 fp32 BASIC",), ["a cpu b1 basic"]),
        Only(("a cpu b1",), ["a cpu b1", "a cpu b1 basic"]),
        Only(("a cpu b",), ["a cpu b1", "a cpu b1 basic", "a cpu b16", "a cpu b16 basic"]),
        Only(
            ("a * basic",),
            ["a cpu b1 basic", "a cpu b16 basic", "a cuda b1 basic", "a cuda b16 basic"],
        ),
        Only(("target=cpu,batch=1,optimization=all",), ["a cpu b1", "b cpu b1"]),
        Only(("model=a, target=c*a, optimization=all",), ["a cuda b1", "a cuda b16"]),
        Only(
            ("provider=cudaexecutionprovider,batch=16,model=b",), ["b cuda b16", "b cuda b16 basic"]
        ),
        Only(
            ("model=b,batch=1,target=cpu", "a cpu b1 t1 fp32"),
            ["a cpu b1", "b cpu b1", "b cpu b1 basic"],
        ),
    ],
    ids=lambda case: " + ".join(case.patterns),
)
def test_only(cells: Cells, case: Only) -> None:
    found = cells(AXES)
    if not case.expected:
        with pytest.raises(ConfigurationError, match="names no cell"):
            select(found, case.patterns)
        return
    short = [cell.id.replace(" t1 fp32", "") for cell in select(found, case.patterns)]
    assert short == case.expected


def test_only_without_patterns_is_all(cells: Cells) -> None:
    assert select(cells(AXES), ()) == cells(AXES)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a cpu b2 t1 fp32", "--only a cpu b2 t1 fp32 names no cell; the nearest are 'a cpu b1"),
        ("taget=cpu", "unknown axis 'taget', did you mean 'target'?"),
        ("target=tpu", "names no cell; the nearest are '"),
        ("", "names no cell"),
        ("[", "names no cell"),
    ],
)
def test_only_that_names_nothing(cells: Cells, pattern: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        select(cells(AXES), ["model=a", pattern])
    assert message in str(caught.value)


def test_only_takes_session_options_by_name(cells: Cells) -> None:
    found = cells(f"matrix: {{models: a, session_options: [{{}}, {{{SPIN}: 0}}]}}")
    assert len(select(found, ["allow_spinning=0"])) == 1


def test_fingerprint_is_that_of_the_content(cells: Cells) -> None:
    text = "matrix: {models: a, batch: [1, 8]}\n"
    base = matrix_fingerprint(cells(text))
    assert len(base) == 64
    assert matrix_fingerprint(cells("# other words\n" + text + "include: []")) == base
    for other in (
        "defaults: {rounds: 6}",
        "exclude: [{batch: 8}]",
        "targets: {cpu: {python: python3}}",
        "targets: {cpu: {session_options: {ep.x: 1}}}",
    ):
        assert matrix_fingerprint(cells(text + other)) != base
