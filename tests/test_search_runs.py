"""Whole runs of the search on a small network: what is handed out, fronts, plans, speeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxsep.search.search as searching
from onnxsep import pipeline
from onnxsep.errors import BudgetError, ConfigurationError, InputError
from onnxsep.latency import Comparison, Timing
from onnxsep.options import Options
from onnxsep.pipeline import Result, optimize
from onnxsep.report.record import QualityRow

from .small_models import write_images, write_small_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_network(tmp_path_factory.mktemp("network") / "small.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def settings(images: Path, **changes: object) -> Options:
    defaults = {
        "data": str(images),
        "max_drop": 20.0,
        "passes": ("fold_batchnorm", "separate", "align_channels", "quantize"),
    }
    return Options(**{**defaults, **changes})  # type: ignore[arg-type]


def cost(model: ir.Model) -> float:
    """Number of weights; those on integers, and scales, cost half."""
    values = list(model.graph.initializers.values())
    return sum(
        value.const_value.size * (1.0 if value.const_value.dtype == ir.DataType.FLOAT else 0.5)
        for value in values
        if value.const_value is not None and "scale" not in (value.name or "")
    )


@pytest.fixture
def fewer_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which time follows from the number of weights, always the same."""

    def measured(first: ir.Model, second: ir.Model, *_: object, **__: object) -> Comparison:
        before, after = cost(first), cost(second)
        speed = before / after
        return Comparison(
            Timing(1.0, 0.0, (1.0,)),
            Timing(1 / speed, 0.0, (1 / speed,)),
            speed,
            0.999 * speed,
            1.001 * speed,
            1,
            1,
        )

    monkeypatch.setattr(searching, "compare_latency", measured)


@pytest.fixture(scope="module")
def searched(
    network: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("searched")
    result = optimize(
        network, settings(images), output=folder / "small.onnx", pareto=folder / "front"
    )
    return result, folder


@pytest.mark.usefixtures("fewer_is_faster")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_precision_that_is_asked_for_is_what_comes(
    network: Path, images: Path, precision: str
) -> None:
    result = optimize(network, settings(images, precision=precision))
    assert result.record.precision == precision
    operators = {node.op_type for node in result.model.graph}
    assert ("QuantizeLinear" in operators) == (precision == "int8")
    assert {row.precision for row in result.record.trials} <= {precision}
    if precision == "int8":
        assert any(row.precision == "int8" for row in result.record.layers)


@pytest.mark.usefixtures("fewer_is_faster")
def test_fastest_within_the_budget_is_handed_out(network: Path, images: Path) -> None:
    record = optimize(network, settings(images)).record
    within = [row for row in record.trials if row.holds]
    assert [row.chosen for row in record.trials].count(True) == 1
    chosen = next(row for row in record.trials if row.chosen)
    assert chosen.speedup == max(row.speedup for row in within)
    assert chosen.drop <= 20.0


@pytest.mark.usefixtures("fewer_is_faster")
def test_speed_that_is_out_of_reach_is_said(network: Path, images: Path) -> None:
    with pytest.raises(BudgetError, match="no plan is 900 times as fast"):
        optimize(network, settings(images, min_speedup=900.0))


@pytest.mark.usefixtures("fewer_is_faster")
def test_speed_that_is_asked_for_is_reached(network: Path, images: Path) -> None:
    result = optimize(network, settings(images, min_speedup=1.3, max_drop=None, precision="int8"))
    assert next(row for row in result.record.trials if row.chosen).speedup >= 1.3


def test_front_is_made_of_files_that_run(searched: tuple[Result, Path], network: Path) -> None:
    result, folder = searched
    rows = json.loads((folder / "front" / "front.json").read_text())
    assert [row["file"] for row in rows] == [row.file for row in result.front]
    assert [row["speedup"] for row in rows] == sorted(row["speedup"] for row in rows)
    feeds = {"image": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    for row in rows:
        path = folder / "front" / row["file"]
        onnx.checker.check_model(path, full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: np.repeat(feeds["image"], 1, axis=0)}
        assert np.isfinite(session.run(None, feed)[0]).all()
    page = (folder / "front" / "front.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert all(row["file"] in page for row in rows)


def test_plan_is_saved_and_gives_the_same_bytes_again(
    searched: tuple[Result, Path], network: Path, images: Path, tmp_path: Path
) -> None:
    _, folder = searched
    plan = folder / "small.plan.json"
    if not plan.exists():
        pytest.skip("nothing was faster on this machine at this moment, so there is no plan")
    again = tmp_path / "again.onnx"
    optimize(network, settings(images, plan=plan), output=again)
    assert again.read_bytes() == (folder / "small.onnx").read_bytes()


def test_plan_is_repeated_to_the_byte(network: Path, images: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        first, second = tmp_path / f"a-{precision}.onnx", tmp_path / f"b-{precision}.onnx"
        forced = settings(images, rank=2.0, precision=precision, max_drop=90.0)
        optimize(network, forced, output=first)
        plan = tmp_path / f"a-{precision}.plan.json"
        repeated = settings(images, plan=plan, max_drop=90.0)
        result = optimize(network, repeated, output=second)
        assert first.read_bytes() == second.read_bytes()
        assert not [warning for warning in result.record.warnings if "plan" in warning]
        assert result.record.precision == precision


def test_plan_for_something_else_is_refused(network: Path, images: Path, tmp_path: Path) -> None:
    forced = settings(images, rank=2.0, precision="fp32", max_drop=90.0)
    optimize(network, forced, output=tmp_path / "a.onnx")
    plan = tmp_path / "a.plan.json"
    with pytest.raises(ConfigurationError, match="--target cpu"):
        optimize(network, settings(images, plan=plan, target="nnapi"))
    plain = json.loads(plan.read_text())
    plain["layers"][1]["name"] = "elsewhere"
    plan.write_text(json.dumps(plain))
    with pytest.raises(InputError, match="'elsewhere'"):
        optimize(network, settings(images, plan=plan))
    with pytest.raises(ConfigurationError, match="leave out --rank"):
        settings(images, plan=plan, rank=2.0)
    with pytest.raises(InputError, match="cannot read"):
        optimize(network, settings(images, plan=tmp_path / "none.json"))


@pytest.mark.usefixtures("fewer_is_faster")
def test_what_other_images_reject_is_followed_by_more_careful_results(
    network: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def holds(row: QualityRow, *_: object) -> bool:
        if row.role != "verification":
            return True
        asked.append(row.quality.samples)
        untouched = row.quality.worst_snr_db > 100
        return len(asked) > rejected or untouched

    monkeypatch.setattr(pipeline, "_holds", holds)
    chosen = []
    for rejected in (0, 1, 2, 3, 4, 5):
        asked.clear()
        options = settings(images, precision="int8", test_data=str(images))
        record = optimize(network, options).record
        assert len(asked) == min(rejected, len(record.trials)) + 1
        chosen.append([row.chosen for row in record.trials])
        speeds = [row.speedup for row in record.trials]
        assert speeds == sorted(speeds, reverse=True)
        assert sum("another result was taken" in text for text in record.warnings) >= 1 * bool(
            rejected
        )
    assert chosen[0] == [True]
    assert chosen[1] == [False, True]
    # In the end nothing is separated any more, and after that nothing is handed out at all.
    assert not any(chosen[-1])


def test_time_limit_ends_the_search_with_a_result(network: Path, images: Path) -> None:
    record = optimize(network, settings(images, time_limit=0.5)).record
    assert record.quality


@pytest.mark.usefixtures("fewer_is_faster")
@pytest.mark.parametrize(
    "passes", [("quantize",), ("separate", "quantize")], ids=["quantized", "searched"]
)
@pytest.mark.parametrize(
    ("least_db", "in_float"), [(30.0, []), (40.0, ["tail"]), (45.0, ["stem", "tail"])]
)
def test_layers_that_cost_most_stay_in_float(
    network: Path,
    images: Path,
    passes: tuple[str, ...],
    least_db: float,
    in_float: list[str],
) -> None:
    options = settings(images, precision="int8", passes=passes, max_drop=50.0, min_snr_db=least_db)
    record = optimize(network, options).record
    kept = [row for row in record.layers if row.action == "kept"]
    assert [row.name for row in kept if row.precision == "fp32"] == in_float
    assert record.quality[0].quality.worst_snr_db >= least_db
    assert record.fusion is not None
    assert record.fusion.integer == record.fusion.convolutions - len(in_float)


def test_statistics_are_kept_and_used_again(
    network: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = settings(
        images, precision="int8", passes=("quantize",), calibration_cache=tmp_path / "cache"
    )
    first = optimize(network, options, output=tmp_path / "first.onnx")
    kept = list((tmp_path / "cache").iterdir())
    assert len(kept) == 1

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("swept again")

    monkeypatch.setattr("onnxsep.calibrate.cache.collect_statistics", measured)
    optimize(network, options, output=tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert first.record.precision == "int8"
