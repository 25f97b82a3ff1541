"""The Python API: light to import, typed, in step with the commands, and doing what it says."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import onnxsep
from onnxsep.cli.app import app
from onnxsep.errors import ConfigurationError, InputError, OutputError

from .small_models import small_network, write_images, write_small_network

REPOSITORY = Path(__file__).resolve().parents[1]
_HEAVY = ("numpy", "scipy", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "PIL", "pydantic", "typer")
_LOSSLESS = ("fold_batchnorm",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one, images, and a matrix of both models."""
    place = tmp_path_factory.mktemp("api")
    write_small_network(place / "model.onnx")
    write_small_network(place / "other.onnx", seed=1)
    write_images(place / "images.npz", 16, labels=True)
    (place / "bench.yaml").write_text(
        "defaults: {rounds: 1, seconds: 0.01, warm_up_seconds: 0.01, fewest_runs: 1}\n"
        "models: [{name: small, path: model.onnx}]\n"
        "matrix: {batch: [1, 2]}\n"
    )
    return place


def python(script: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return done.stdout


def test_import_reads_nothing_heavy() -> None:
    script = f"import sys, onnxsep; dir(onnxsep); print(set({_HEAVY}) & set(sys.modules))"
    assert python(script) == "set()\n"


def test_errors_come_without_the_rest() -> None:
    script = (
        f"import sys; from onnxsep import OnnxsepError; print(set({_HEAVY}) & set(sys.modules))"
    )
    assert python(script) == "set()\n"


def test_no_submodule_takes_the_place_of_a_name() -> None:
    """Whatever was imported before: importing a submodule sets its name on the package."""
    packages = {path.stem for path in (REPOSITORY / "onnxsep").iterdir()} | {"passes"}
    assert not packages & set(onnxsep.__all__)


@pytest.mark.parametrize("first", ["onnxsep.pipeline", "onnxsep.inspection.inspect"])
def test_names_are_functions_in_every_order_of_imports(first: str) -> None:
    script = (
        f"import {first}, onnxsep\n"
        "print(all(callable(getattr(onnxsep, name)) for name in onnxsep.__all__))\n"
        "from onnxsep import inspect, optimize\n"
        "import onnxsep.pipeline, onnxsep.inspection\n"
        "print(onnxsep.optimize is optimize, onnxsep.inspect is inspect)\n"
    )
    assert python(script) == "True\nTrue True\n"


def test_names_are_known_to_dir_star_and_help() -> None:
    assert set(onnxsep.__all__) <= set(dir(onnxsep))
    assert list(onnxsep.__all__) == sorted(onnxsep.__all__)
    assert onnxsep.__version__ == importlib.import_module("importlib.metadata").version("onnxsep")
    assert all(getattr(onnxsep, name).__doc__ for name in onnxsep.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        onnxsep.optimise  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", onnxsep.__all__)
def test_everything_is_typed_and_takes_no_unnamed_rest(name: str) -> None:
    thing = getattr(onnxsep, name)
    if inspect.isclass(thing):
        return
    signature = inspect.signature(thing)
    hints = typing.get_type_hints(thing, vars(sys.modules[thing.__module__]))
    assert set(hints) == {*signature.parameters, "return"}
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    if thing.__module__ == "onnxsep.api":
        documented = inspect.getdoc(thing) or ""
        assert all(f"    {parameter}:" in documented for parameter in signature.parameters)


@dataclasses.dataclass(frozen=True)
class Door:
    """A command, its function, and what only one of them has and why.

    Attributes:
        command: On the command line.
        function: In Python.
        only_command: Options of the terminal, of files that `write_report` writes, and such as
            Python says in another way (``--mean`` is `Preprocessing`, ``--workers`` an executor).
        only_python: What cannot be said in a command.
    """

    command: str
    function: Callable[..., object]
    only_command: frozenset[str]
    only_python: frozenset[str]


_TERMINAL = {"json", "quiet", "no_color", "debug", "report"}
_PREPROCESSING = {"mean", "std", "scale", "layout", "color"}
DOORS = [
    Door(
        "optimize",
        onnxsep.optimize,
        frozenset({*_TERMINAL, *_PREPROCESSING, "verbose", "dry_run", "workers", "dask"}),
        frozenset({"preprocessing", "executor", "progress"}),
    ),
    Door("inspect", onnxsep.inspect, frozenset(_TERMINAL), frozenset({"progress"})),
    Door(
        "compare",
        onnxsep.compare,
        frozenset({*_TERMINAL, *_PREPROCESSING, "verbose"}),
        frozenset({"preprocessing", "progress"}),
    ),
    Door(
        "check",
        onnxsep.check,
        frozenset({*_TERMINAL, "strict", "output", "everything"}),
        frozenset(),
    ),
    Door(
        "bench",
        onnxsep.benchmark,
        frozenset({*_TERMINAL, "list_cells", "schema", "csv", "markdown", "html"}) - {"report"},
        frozenset({"progress"}),
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.command)
def test_functions_take_what_the_commands_take(door: Door) -> None:
    (command,) = (one for one in app.registered_commands if one.name == door.command)
    assert command.callback is not None
    options = inspect.signature(command.callback).parameters
    keywords = inspect.signature(door.function).parameters
    assert set(options) - set(keywords) == door.only_command
    assert set(keywords) - set(options) == door.only_python
    for name in set(options) & set(keywords):
        written, default = options[name].default, keywords[name].default
        if name == "passes":
            assert written == ",".join(default)
        elif name == "matrix":
            assert str(written) == default
        elif written is None:
            assert default in (None, (), "")
        else:
            assert written == default, name


def test_optimize_hands_out_model_record_and_save(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.iterdir())
    result = onnxsep.optimize(
        folder / "model.onnx",
        data=folder / "images.npz",
        preset="unit",
        target="cpu",
        max_drop=100.0,
        passes=("fold_batchnorm", "separate"),
        rank=2.0,
    )
    assert isinstance(result, onnxsep.Result)
    assert sorted(folder.iterdir()) == before
    assert [row.name for row in result.record.separated] == ["body", "tail"]
    assert {row.rank for row in result.record.separated} == {2}
    assert result.save(tmp_path / "small.onnx") == [tmp_path / "small.onnx"]
    again = onnxsep.load_model(tmp_path / "small.onnx")
    assert [node.op_type for node in again.graph] == [node.op_type for node in result.model.graph]


def test_optimize_takes_functions_and_preprocessing(folder: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def metric(
        outputs: dict[str, np.ndarray],
        labels: np.ndarray | None,
        targets: dict[str, np.ndarray] | None,
    ) -> float:
        del targets
        assert labels is not None
        seen.append(outputs["scores"].shape)
        return 1.0

    result = onnxsep.optimize(
        str(folder / "model.onnx"),
        data=str(folder / "images.npz"),
        preprocessing=onnxsep.Preprocessing(scale=1 / 255, name="mine"),
        metric=metric,
        passes=_LOSSLESS,
    )
    assert seen
    assert result.record.settings["preprocessing"]["name"] == "mine"
    assert {row.measure for row in result.record.quality} == {"metric"}


def test_inspect_takes_files_and_models(folder: Path) -> None:
    by_file = onnxsep.inspect(folder / "model.onnx", measure=False)
    in_memory = onnxsep.inspect(small_network(), measure=False)
    assert [layer.name for layer in by_file.layers] == ["stem", "body", "tail"]
    assert by_file.totals == in_memory.totals


def test_compare_says_whether_limits_are_kept(folder: Path) -> None:
    for second, holds in (("model.onnx", True), ("other.onnx", False)):
        record = onnxsep.compare(
            folder / "model.onnx",
            folder / second,
            data=folder / "images.npz",
            preset="unit",
            fail_below_db=20,
            latency=False,
            layers=False,
        )
        assert record.holds is holds


def test_check_takes_files_and_models(folder: Path) -> None:
    found = onnxsep.check(folder / "model.onnx", "nnapi", fix_shape={"batch": 1})
    assert found.model == str(folder / "model.onnx")
    model = onnxsep.load_model(folder / "model.onnx")
    same = onnxsep.check(model, "nnapi", fix_shape={"batch": 1})
    assert (same.units, same.model) == (found.units, "(in memory)")


def test_benchmark_measures_and_keeps_nothing_unasked(folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener:
        def stage(self, title: str, total: int = 0) -> None:
            heard.append(title)

        def step(self, detail: str = "") -> None:
            del detail

        def note(self, message: str) -> None:
            del message

    before = sorted(folder.iterdir())
    record = onnxsep.benchmark(
        folder / "bench.yaml", only=["batch=2"], checks=False, progress=Listener()
    )
    assert [row.status for row in record.cells] == ["ok"]
    assert any("small cpu b2" in title for title in heard)
    assert sorted(folder.iterdir()) == before
    kept = tmp_path / "old.json"
    onnxsep.write_report(record, kept)
    judged = onnxsep.benchmark(
        folder / "bench.yaml",
        only=["batch=2"],
        checks=False,
        baseline=kept,
        fail_if_slower="5%",
    )
    assert judged.cells[0].judgement is not None


def test_targets_and_doctor_answer() -> None:
    assert "xnnpack" in [row.name for row in onnxsep.list_targets()]
    assert "onnxruntime" in onnxsep.diagnose().to_json()


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, typing.Any]:
    """One record of each kind."""
    model = folder / "model.onnx"
    return {
        "optimize": onnxsep.optimize(
            model, data=folder / "images.npz", preset="unit", passes=_LOSSLESS
        ).record,
        "inspect": onnxsep.inspect(model, measure=False),
        "compare": onnxsep.compare(model, model, samples=8, latency=False, layers=False),
        "bench": onnxsep.benchmark(folder / "bench.yaml", only=["batch=1"], checks=False),
        "check": onnxsep.check(model, "cpu"),
    }


_BEGINNINGS = {".json": "{", ".html": "<!DOCTYPE html>", ".md": "#", ".csv": ""}


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        (kind, ending)
        for kind, ending in itertools.product(
            ("optimize", "inspect", "compare", "bench", "check"), _BEGINNINGS
        )
        if kind != "check" or ending in (".json", ".md")
    ],
)
def test_reports_are_written_by_their_ending(
    records: dict[str, typing.Any], tmp_path: Path, kind: str, ending: str
) -> None:
    path = tmp_path / f"report{ending}"
    onnxsep.write_report(records[kind], path)
    text = path.read_text("utf-8")
    assert text.startswith(_BEGINNINGS[ending])
    assert len(text) > 100
    if ending == ".json":
        assert isinstance(json.loads(text), dict)


@dataclasses.dataclass(frozen=True)
class Refused:
    id: str
    call: Callable[[Path], object]
    error: type[onnxsep.OnnxsepError]
    words: str


REFUSED = [
    Refused("no model", lambda at: onnxsep.optimize(at / "no.onnx"), InputError, "no such file"),
    Refused(
        "preset",
        lambda at: onnxsep.optimize(at / "model.onnx", preset="imagnet"),
        ConfigurationError,
        "unknown preset 'imagnet'",
    ),
    Refused(
        "two preprocessings",
        lambda at: onnxsep.compare(
            at / "model.onnx",
            at / "model.onnx",
            preset="unit",
            preprocessing=onnxsep.Preprocessing(),
        ),
        ConfigurationError,
        "exclude each other",
    ),
    Refused(
        "pass",
        lambda at: onnxsep.optimize(at / "model.onnx", passes=["fold"]),
        ConfigurationError,
        "unknown pass 'fold'",
    ),
    Refused(
        "target",
        lambda at: onnxsep.check(at / "model.onnx", "nnap"),
        ConfigurationError,
        "did you mean 'nnapi'",
    ),
    Refused(
        "allowance alone",
        lambda at: onnxsep.benchmark(at / "bench.yaml", fail_if_slower="5%"),
        ConfigurationError,
        "--baseline",
    ),
    Refused(
        "two result files",
        lambda at: onnxsep.benchmark(at / "bench.yaml", resume="a.json", output="b.json"),
        ConfigurationError,
        "--output",
    ),
    Refused("no matrix", lambda at: onnxsep.benchmark(at / "no.yaml"), InputError, "no.yaml"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_makes_no_sense_is_refused_in_words(case: Refused, folder: Path) -> None:
    with pytest.raises(case.error, match=case.words):
        case.call(folder)


def test_report_that_cannot_be_written_is_refused(
    records: dict[str, typing.Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="the ending says"):
        onnxsep.write_report(records["optimize"], tmp_path / "report.pdf")
    with pytest.raises(ConfigurationError, match=r"Eligibility is written as \.json or \.md"):
        onnxsep.write_report(records["check"], tmp_path / "report.html")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxsep.reporting.atomic_file", full)
    with pytest.raises(OutputError, match="No space left"):
        onnxsep.write_report(records["inspect"], tmp_path / "report.md")
    assert not list(tmp_path.iterdir())


def test_save_model_writes_what_was_loaded(folder: Path, tmp_path: Path) -> None:
    model = onnxsep.load_model(folder / "model.onnx")
    assert isinstance(model, ir.Model)
    onnxsep.save_model(model, tmp_path / "copy.onnx")
    assert onnxsep.load_model(tmp_path / "copy.onnx").graph.num_nodes() == model.graph.num_nodes()
