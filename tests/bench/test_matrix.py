"""A matrix is checked as a whole: every mistake has its line and the nearest right name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxsep.bench.cells import expand
from onnxsep.bench.matrix import (
    Matrix,
    check_files,
    load_matrix,
)
from onnxsep.errors import ConfigurationError, InputError

MODELS = "models: [{name: a, path: a.onnx}, {name: b, path: b.onnx}]\n"

Load = Callable[..., Matrix]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, *assignments: str) -> Matrix:
        path = tmp_path / "bench.yaml"
        path.write_text(text, "utf-8")
        return load_matrix(path, assignments)

    return load_text


def test_the_smallest_matrix(load: Load, tmp_path: Path) -> None:
    matrix = load("models: [{name: a, path: sub/a.onnx}]")
    assert matrix.path == tmp_path / "bench.yaml"
    assert matrix.folder == tmp_path
    assert matrix.resolve(matrix.model("a").path) == tmp_path / "sub" / "a.onnx"
    assert matrix.model("a").data is None
    assert set(matrix.targets) >= {"cpu", "cuda", "xnnpack", "nnapi"}
    assert matrix.axes.targets == ("cpu",)
    assert matrix.defaults.rounds == 5


def test_targets_change_and_add(load: Load, tmp_path: Path) -> None:
    matrix = load(
        MODELS
        + """
targets:
  cuda: {python: gpu/bin/python, provider_options: {use_tf32: 0}}
  on: {provider: CPU, python: python3.12, session_options: {session.intra_op.allow_spinning: 0}}
  mine: {provider: MyExecutionProvider, libraries: {my: libmy.so}}
matrix: {targets: [on, mine]}
"""
    )
    cuda, other, mine = (matrix.targets[name] for name in ("cuda", "on", "mine"))
    assert cuda.provider.onnxruntime_name == "CUDAExecutionProvider"
    assert cuda.python == str(tmp_path / "gpu/bin/python")
    assert cuda.provider_options == {"use_tf32": "0"}
    assert other.provider.name == "cpu"
    assert other.python == "python3.12"  # looked for, not a path
    assert other.session_config == {"session.intra_op.allow_spinning": "0"}
    assert mine.provider.onnxruntime_name == "MyExecutionProvider"
    assert mine.libraries == {"my": str(tmp_path / "libmy.so")}


def test_a_link_to_an_interpreter_stays_a_link(load: Load, tmp_path: Path) -> None:
    """What makes a virtual environment one is the path of its python."""
    (tmp_path / "python").symlink_to("/usr/bin/env")
    matrix = load(MODELS + "targets: {cpu: {python: ./python}}")
    assert Path(matrix.targets["cpu"].python).name == "python"


def test_keys_without_anything_are_not_there(load: Load) -> None:
    matrix = load(MODELS + "targets:\n  # cpu: {}\ninclude:\ndefaults:\nmatrix:\n")
    assert matrix.include == ()
    assert matrix.defaults.seconds == 0.4


def test_one_value_is_a_list_of_one(load: Load) -> None:
    matrix = load(MODELS + "matrix: {batch: 8, models: a, session_options: {ep.x: 1}}")
    assert matrix.axes.batch == (8,)
    assert matrix.axes.models == ("a",)
    assert matrix.axes.session_options == ({"ep.x": "1"},)


@dataclasses.dataclass(frozen=True)
class Mistake:
    id: str
    text: str
    message: str  # behind "bench.yaml:"
    others: int = 0  # further lines of the report


MISTAKES = [
    Mistake(
        "key",
        "models:\n  - name: a\n    pth: x\n    path: x",
        "3: models[0].pth: unknown key 'pth', did you mean 'path'?",
    ),
    Mistake(
        "key far from any",
        "models: [{name: a, path: x, zzzzzz: 1}]",
        "1: models[0].zzzzzz: unknown key 'zzzzzz'; known are name, path, data, compare_to, "
        "variants, inputs",
    ),
    Mistake(
        "key one level too high",
        MODELS + "rounds: 3",
        "2: rounds: unknown key 'rounds', did you mean 'defaults.rounds'?",
    ),
    Mistake(
        "axis", MODELS + "batch: 3", "2: batch: unknown key 'batch', did you mean 'matrix.batc"
    ),
    Mistake(
        "top level", MODELS + "includ: []", "2: includ: unknown key 'includ', did you mean 'inc"
    ),
    Mistake("no models", "defaults: {}", "1: the key 'models' is missing"),
    Mistake("empty models", "models: []", "1: models: must not be empty, not an empty list"),
    Mistake("missing key", "models:\n  - {name: a}", "2: models[0]: the key 'path' is missing"),
    Mistake("list", "- a\n- b", "1: a matrix is a mapping"),
    Mistake("word", "just words", "1: a matrix is a mapping"),
    Mistake(
        "text for number", MODELS + "matrix: {batch: ['8']}", "2: matrix.batch[0]: must be a wh"
    ),
    Mistake("true for number", MODELS + "matrix: {batch: true}", "not true"),
    Mistake(
        "fraction", MODELS + "matrix: {batch: [1.0]}", "2: matrix.batch[0]: must be a whole numb"
    ),
    Mistake(
        "true for seconds", MODELS + "defaults: {seconds: true}", "2: defaults.seconds: must be "
    ),
    Mistake(
        "number as name", "models: [{name: 5, path: x}]", "must be text, not 5; write it in quote"
    ),
    Mistake(
        "name with blank", "models: [{name: a b, path: x}]", "1: models[0].name: may have letters"
    ),
    Mistake(
        "zero batch", MODELS + "matrix: {batch: 0}", "2: matrix.batch: must be 1 or more, not 0"
    ),
    Mistake("no axis", MODELS + "matrix: {batch: []}", "2: matrix.batch: must not be empty"),
    Mistake("repeated", MODELS + "matrix: {batch: [1, 2, 1]}", "2: matrix.batch: holds 1 twice"),
    Mistake("negative time", MODELS + "defaults: {seconds: -1}", "must be more than 0, not -1"),
    Mistake("endless", MODELS + "defaults: {seconds: .inf}", "must be a finite number"),
    Mistake("no number", MODELS + "defaults: {timeout: .nan}", "must be a finite number"),
    Mistake(
        "level",
        MODELS + "matrix: {optimization: [extendet]}",
        "did you mean 'extended'?",
    ),
    Mistake(
        "io_binding", MODELS + "defaults: {io_binding: 1}", "must be auto, true or false, not 1"
    ),
    Mistake(
        "io_binding text", MODELS + "defaults: {io_binding: on}", "auto, true or false, not 'on'"
    ),
    Mistake(
        "variant", "models: [{name: a, path: x, variants: {fp32: y}}]", "must be 'fp16' or 'int8'"
    ),
    Mistake(
        "shape", "models: [{name: a, path: x, inputs: {x: [1, -3]}}]", "inputs.x[1]: must be 1 or"
    ),
    Mistake(
        "target name", MODELS + "targets: {'a b': {provider: cpu}}", '["a b"]: may have letters'
    ),
    Mistake(
        "switch", MODELS + "targets: {cuda: {provider_options: {use_tf32: true}}}", "0 and 1), no"
    ),
    Mistake(
        "mapping", MODELS + "defaults: [1]", "2: defaults: must be a mapping of keys to values"
    ),
    Mistake(
        "not a list", MODELS + "include: {model: a}", "2: include: must be a list, not a mapping"
    ),
    Mistake(
        "provider",
        MODELS + "targets:\n  gpu:\n    provider: cdua",
        "4: targets.gpu.provider: unknown provider 'cdua', did you mean 'cuda'?",
    ),
    Mistake("no provider", MODELS + "targets: {gpu: {}}", "name its provider, as in provider: cpu"),
    Mistake(
        "option of a provider",
        MODELS + "targets: {cuda: {provider_options: {use_tf23: 0}}}",
        "2: targets.cuda.provider_options.use_tf23: unknown option 'use_tf23' of cuda, did you "
        "mean 'use_tf32'?",
    ),
    Mistake(
        "XNNPACK's pool",
        MODELS + "targets: {xnnpack: {provider_options: {intra_op_num_threads: 4}}}",
        "is set from the axis 'threads'",
    ),
    Mistake(
        "XNNPACK spins",
        MODELS + "targets: {xnnpack: {session_options: {session.intra_op.allow_spinning: 1}}}",
        "is always '0' on xnnpack",
    ),
    Mistake(
        "session entry",
        MODELS + "matrix:\n  session_options:\n    - {session.intra_op.allow_spining: 0}",
        '4: matrix.session_options[0]["session.intra_op.allow_spining"]: unknown session '
        "configuration entry 'session.intra_op.allow_spining', did you mean "
        "'session.intra_op.allow_spinning'?",
    ),
    Mistake(
        "value of a session entry",
        MODELS + "include: [{session_options: {session.intra_op.allow_spinning: 2}}]",
        "takes 0 or 1, not '2'",
    ),
    Mistake("model", MODELS + "matrix: {models: [a, c]}", "2: matrix.models[1]: unknown model 'c'"),
    Mistake(
        "target", MODELS + "matrix: {targets: [cpuu]}", "unknown target 'cpuu', did you mean 'cpu'?"
    ),
    Mistake(
        "included model", MODELS + "include: [{model: aa}]", "2: include[0].model: unknown model"
    ),
    Mistake("excluded target", MODELS + "exclude: [{target: cdua}]", "did you mean 'cuda'?"),
    Mistake(
        "matched target",
        MODELS + "overrides: [{match: {target: xnpack}, set: {rounds: 2}}]",
        "2: overrides[0].match.target: unknown target 'xnpack', did you mean 'xnnpack'?",
    ),
    Mistake("reference", "models: [{name: a, path: x, compare_to: b}]", "unknown model 'b'"),
    Mistake("own reference", "models: [{name: a, path: x, compare_to: a}]", "its own reference"),
    Mistake(
        "two of a name",
        "models: [{name: a, path: x}, {name: a, path: y}]",
        "1: models[1].name: 'a' is the name of two models",
    ),
    Mistake("everything excluded", MODELS + "exclude: [{}]", "would leave out every cell"),
    Mistake("empty override", MODELS + "overrides: [{match: {}, set: {}}]", "sets nothing"),
    Mistake(
        "timeout",
        MODELS + "defaults: {seconds: 2, warm_up_seconds: 3, timeout: 5}",
        "2: defaults.timeout: 5 s are over before seconds and warm_up_seconds, 5 s together",
    ),
    Mistake(
        "timeout of an override",
        MODELS + "overrides:\n - match: {}\n   set: {seconds: 200}",
        "4: overrides[0].set.timeout: 120 s are over",
    ),
    Mistake(
        "runs", MODELS + "defaults: {fewest_runs: 9, most_runs: 8}", "8 is less than fewest_runs, 9"
    ),
    Mistake(
        "core", MODELS + "defaults: {affinity: [100000]}", "there is no core 100000; this machine"
    ),
    Mistake("core twice", MODELS + "defaults: {affinity: [0, 0]}", "holds 0 twice"),
]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.id)
def test_mistakes(load: Load, tmp_path: Path, case: Mistake) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(case.text)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'bench.yaml'}:")
    assert case.message in lines[0].removeprefix(str(tmp_path / "bench.yaml"))
    assert len(lines) == 1 + case.others, lines


def test_all_mistakes_are_named_together_in_the_order_of_the_file(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(
            """
defaults: {round: 3}
models:
  - {name: a}
targets:
  gpu: {provider: cdua}
matrix:
  batch: [x]
  targets: [gup]
exclude:
  - {model: c}
""",
            "overrides=[{match: {}, set: {rounds: 0}}]",
        )
    lines = str(caught.value).splitlines()
    # The one from the command line first: it has no place in the file.
    setting = "--set overrides=[{match: {}, set: {rounds: 0}}]: "
    assert lines[0] == f"{setting}overrides[0].set.rounds: must be 1 or more, not 0"
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "defaults.round",
        "models[0]",
        "targets.gpu.provider",
        "matrix.batch[0]",
        "matrix.targets[0]",
        "exclude[0].model",
    ]
    # A model whose entry is wrong is a model all the same.
    assert "unknown model 'c', did you mean" not in lines[-1]
    assert "known are a" in lines[-1]


def test_many_mistakes_are_counted(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(MODELS + "matrix: {batch: [" + ", ".join(f"x{index}" for index in range(50)) + "]}")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and more problems: 30"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("defaults.round=3", "defaults.round: unknown key 'round', did you mean 'rounds'?"),
        ("rounds=3", "rounds: unknown key 'rounds', did you mean 'defaults.rounds'?"),
        ("matrix.batch=['8']", "matrix.batch[0]: must be a whole number, not '8'"),
        ("matrix.targets=[gpu]", "matrix.targets[0]: unknown target 'gpu'"),
        ("models[0].path=", "models[0].path: must be text, not nothing"),
    ],
)
def test_mistakes_of_the_command_line_name_it(load: Load, assignment: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(MODELS, assignment)
    assert str(caught.value).startswith(f"--set {assignment}: {message}")


def test_assignments_come_before_the_checks(load: Load) -> None:
    text = "models: [{name: a}]\ndefaults: {rounds: x}\n"
    matrix = load(
        text,
        "models[0].path=new.onnx",
        "defaults.rounds=7",
        "targets.gpu.provider=cuda",
        "matrix.targets=[gpu]",
        'targets.gpu.session_options["session.intra_op.allow_spinning"]=0',
    )
    assert matrix.model("a").path == "new.onnx"
    assert matrix.defaults.rounds == 7
    assert matrix.targets["gpu"].session_config == {"session.intra_op.allow_spinning": "0"}


def test_a_matrix_cannot_be_changed(load: Load) -> None:
    matrix = load(MODELS)
    with pytest.raises(ValueError, match="frozen"):
        matrix.defaults.rounds = 3


class TestFiles:
    def test_only_cells_count(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").touch()
        matrix = load(MODELS + "exclude: [{model: b}]")
        check_files(matrix, expand(matrix))
        with pytest.raises(InputError, match=r"the model 'b': .*b\.onnx does not exist"):
            check_files(load(MODELS), expand(load(MODELS)))

    def test_all_that_is_missing(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").touch()
        matrix = load(
            """
models:
  - {name: a, path: a.onnx, data: nowhere, variants: {int8: a8.onnx, fp16: a16.onnx}}
targets: {cpu: {python: ./python, libraries: {my: libmy.so}}}
matrix: {precision: [fp32, int8]}
"""
        )
        with pytest.raises(InputError) as caught:
            check_files(matrix, expand(matrix))
        lines = str(caught.value).split("; ")
        assert [line.rsplit("/", 1)[-1] for line in lines] == [
            "a8.onnx does not exist",
            "nowhere does not exist",
            "python does not exist",
            "libmy.so does not exist",
        ]

    def test_what_is_no_file(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").touch()
        matrix = load(
            "models: [{name: a, path: a.onnx, data: 'package.module:images'}]\n"
            "targets: {cpu: {python: python3}}"
        )
        check_files(matrix, expand(matrix))


def test_affinity_of_this_machine(load: Load) -> None:
    last = (os.cpu_count() or 1) - 1
    values: Any = load(MODELS + f"defaults: {{affinity: {last}}}").defaults.affinity
    assert values == (last,)
