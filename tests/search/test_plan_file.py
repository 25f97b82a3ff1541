"""Plans as files: there and back, byte for byte, and whatever strangers may hand in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from onnxsep.decision import Decision
from onnxsep.errors import InputError, OutputError
from onnxsep.passes.base import Refusal
from onnxsep.search.plan_file import (
    SavedLayer,
    SavedPlan,
    load_plan,
    model_fingerprint,
    save_plan,
)

from ..small_models import small_network, write_small_network

PLAN = SavedPlan(
    model="net.onnx",
    model_sha256="0" * 64,
    data="images",
    data_sha256="f" * 64,
    target="cpu",
    seed=3,
    layers=(
        SavedLayer.chosen("a/Conv", Decision("cp", 24), "fp32", "2.1x", {"measured_ratio": 2.1}),
        SavedLayer.kept(Refusal("ä b", "not-worth-it", "0.9x as fast", {"ratio": 0.9}), "int8"),
    ),
    settings={"samples": 200, "max_drop": 1.0, "form": None, "passes": "simplify", "x": True},
    predicted={"ms": 1.5, "divergence": 0.02},
)


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(PLAN, path)
    text = path.read_text("utf-8")
    loaded = load_plan(path)
    assert loaded == PLAN
    save_plan(loaded, path)
    assert path.read_text("utf-8") == text
    assert loaded.decisions == {"a/Conv": Decision("cp", 24)}
    assert loaded.precisions == {"a/Conv": "fp32", "ä b": "int8"}
    assert loaded.refusals == {
        "ä b": Refusal("ä b", "not-worth-it", "0.9x as fast", {"ratio": 0.9})
    }


def test_figures_that_json_cannot_hold_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(dataclasses.replace(PLAN, predicted={"ms": math.nan, "b": math.inf, "c": 1.0}), path)
    assert load_plan(path).predicted == {"c": 1.0}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_plan(PLAN, tmp_path / "nowhere" / "plan.json")


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    plain = json.loads(json.dumps(dataclasses.asdict(PLAN)))
    plain |= {"kind": "onnxsep plan", "schema": 1}
    change(plain)
    return json.dumps(plain)


def layer(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["layers"][0].update(changes)


@dataclasses.dataclass(frozen=True)
class BadFile:
    id: str
    content: str | bytes
    pattern: str


BAD = [
    BadFile("empty", "", "is no JSON"),
    BadFile("not-text", b"\xff\xfe\x00", "is no JSON"),
    BadFile("deep", "[" * 200_000, "is no JSON"),
    BadFile("list", "[]", "is no plan of onnxsep"),
    BadFile("other-kind", '{"kind": "bench"}', "is no plan of onnxsep"),
    BadFile("no-schema", '{"kind": "onnxsep plan"}', "schema None, this onnxsep reads 1"),
    BadFile("newer", edited(lambda p: p.update(schema=2)), "schema 2, .* update onnxsep"),
    BadFile("true-schema", edited(lambda p: p.update(schema=True)), "schema True"),
    BadFile("nan", edited(lambda p: None).replace("0.02", "NaN"), "NaN is no number of JSON"),
    BadFile("twice", '{"kind": "onnxsep plan", "seed": 1, "seed": 2}', "'seed' is there twice"),
    BadFile("missing", edited(lambda p: p.pop("seed")), "seed: Field required"),
    BadFile("unknown-key", edited(layer(rnak=2)), r"layers\[0\].rnak: Unexpected"),
    BadFile("unknown-key-above", edited(lambda p: p.update(sede=2)), "sede: "),
    BadFile("form", edited(layer(form="cpp")), r"layers\[0\]: .*unknown form 'cpp': did you mean"),
    BadFile("form-number", edited(layer(form=5)), r"layers\[0\].form: "),
    BadFile("rank-0", edited(layer(rank=0)), r"layers\[0\]: .* whole number from 1 up, not 0"),
    BadFile("rank-true", edited(layer(rank=True)), r"layers\[0\].rank: "),
    BadFile("rank-text", edited(layer(rank="2")), r"layers\[0\].rank: "),
    BadFile("rank-huge", edited(layer(rank=10**7)), r"layers\[0\].rank: 10000000 is above"),
    BadFile("rank-alone", edited(layer(form=None)), "given together or not at all"),
    BadFile("precision", edited(layer(precision="int4")), r"layers\[0\].precision: "),
    BadFile("figure", edited(layer(figures={"a": "b"})), r"layers\[0\].figures.a: "),
    BadFile("no-name", edited(layer(name="")), r"layers\[0\].name: is empty"),
    BadFile("same-name", edited(layer(name="ä b")), r"layers\[1\].name: 'ä b' is there twice"),
    BadFile("digest", edited(lambda p: p.update(model_sha256="xyz")), "model_sha256: not 64"),
    BadFile("data-digest", edited(lambda p: p.update(data_sha256="F" * 64)), "data_sha256: not"),
    BadFile("seed", edited(lambda p: p.update(seed=-1)), "seed: -1 is below 0"),
    BadFile("setting", edited(lambda p: p.update(settings={"a": []})), "settings.a"),
    BadFile("layers", edited(lambda p: p.update(layers={})), "layers: "),
    BadFile("large", " " * (2**24 + 1), "larger than 16 MiB"),
    BadFile("long-number", '{"kind": ' + "1" * 5000 + "}", "is no JSON"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_files_are_one_sentence(tmp_path: Path, case: BadFile) -> None:
    path = tmp_path / "plan.json"
    content = case.content if isinstance(case.content, bytes) else case.content.encode()
    path.write_bytes(content)
    with pytest.raises(InputError, match=case.pattern) as caught:
        load_plan(path)
    message = str(caught.value)
    assert message.startswith((str(path), f"cannot read {path}"))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        load_plan(tmp_path / "missing.json")
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        load_plan(tmp_path)


def test_a_plan_for_another_model_names_the_nodes() -> None:
    PLAN.require_nodes(["a/Conv", "ä b"], "net.onnx")
    with pytest.raises(
        InputError, match=r"made for 'net\.onnx' and names 'ä b', which other\.onnx"
    ):
        PLAN.require_nodes(["a/Conv", "b"], "other.onnx")
    with pytest.raises(
        InputError, match=r"says nothing about 'n0', 'n1', 'n2' and 2 more of other\.onnx"
    ):
        PLAN.require_nodes(["a/Conv", "ä b", *(f"n{n}" for n in range(5))], "other.onnx")


def test_what_keeps_a_replay_from_the_same_bytes() -> None:
    same = {"model_sha256": "0" * 64, "data_sha256": "f" * 64}
    assert PLAN.differences(**same) == []
    other = dataclasses.replace(PLAN, versions=PLAN.versions | {"numpy": "1.0", "unheard-of": "2"})
    (clause,) = other.differences(**same)
    assert clause.startswith("the plan was made with numpy 1.0, here is ")
    found = PLAN.differences(model_sha256="1" * 64, data_sha256="2" * 64)
    assert ["another version of the model" in found[0], "other images" in found[1]] == [True, True]


def test_the_fingerprint_covers_external_weights(tmp_path: Path) -> None:
    single = model_fingerprint(write_small_network(tmp_path / "a.onnx"))
    assert single == model_fingerprint(write_small_network(tmp_path / "b.onnx"))
    assert single != model_fingerprint(write_small_network(tmp_path / "c.onnx", seed=1))
    path = tmp_path / "outside.onnx"
    ir.save(small_network(), path, external_data="outside.data")
    before = model_fingerprint(path)
    assert before == model_fingerprint(path)
    data = tmp_path / "outside.data"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert model_fingerprint(path) != before
    data.unlink()
    with pytest.raises(InputError):
        model_fingerprint(path)
    with pytest.raises(InputError, match="cannot read"):
        model_fingerprint(tmp_path / "missing.onnx")
