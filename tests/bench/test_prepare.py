"""The files of a cell: the right precision, shape and images, made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxsep.bench.cells import expand
from onnxsep.bench.checks import Referee
from onnxsep.bench.matrix import load_matrix
from onnxsep.bench.prepare import IMAGES_FILE, INPUTS_FILE, MODEL_FILE, Prepared, Workshop
from onnxsep.bench.record import Cell, Correctness
from onnxsep.bench.transport import Failure, LocalTransport
from onnxsep.errors import InputError

from ..small_models import small_network

CPU = "CPUExecutionProvider"
Make = Callable[..., tuple[Workshop, Cell]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(
        entry: str = "", *, batch: object = "batch", **changes: object
    ) -> tuple[Workshop, Cell]:
        model = small_network()
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.shape = ir.Shape([batch, *list(value.shape or ())[1:]])
        ir.save(model, tmp_path / "small.onnx")
        (tmp_path / "bench.yaml").write_text(
            f"models: [{{name: small, path: small.onnx{entry}}}]\nmatrix: {{targets: [cpu]}}\n"
        )
        matrix = load_matrix(tmp_path / "bench.yaml")
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        cell = dataclasses.replace(expand(matrix)[0], **changes)
        return Workshop(matrix, folder), cell

    return build


def run(prepared: Prepared) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(prepared.files[MODEL_FILE]), providers=[CPU])
    return [
        np.asarray(value) for value in session.run(None, dict(np.load(prepared.files[INPUTS_FILE])))
    ]


def test_float_model_is_the_users_own_file(make: Make, tmp_path: Path) -> None:
    workshop, cell = make(batch="batch")
    prepared = workshop.prepare(dataclasses.replace(cell, batch=3))
    assert prepared.files[MODEL_FILE] == tmp_path / "small.onnx"
    assert prepared.facts.origin == "file"
    assert len(run(prepared)[0]) == 3
    assert (
        prepared.facts.multiplications == sum(prepared.facts.multiplications_by_kind.values()) > 0
    )


def test_work_is_counted_for_one_image(make: Make) -> None:
    workshop, cell = make()
    free = workshop.prepare(cell).facts
    workshop, cell = make(batch=4)
    fixed = workshop.prepare(dataclasses.replace(cell, batch=4)).facts
    assert fixed.multiplications == free.multiplications > 0
    assert fixed.parameters == free.parameters


@pytest.mark.parametrize(
    ("precision", "provider", "activation"),
    [
        ("fp16", CPU, None),
        ("int8", CPU, "UINT8"),
        ("int8", "XnnpackExecutionProvider", "INT8"),
        ("int8", "NnapiExecutionProvider", "UINT8"),
    ],
)
def test_precisions_are_made_for_the_provider(
    make: Make, precision: str, provider: str, activation: str | None
) -> None:
    workshop, cell = make(precision=precision, provider=provider)
    prepared = workshop.prepare(cell)
    reference = run(workshop.prepare(dataclasses.replace(cell, precision="fp32", provider=CPU)))[0]
    value = run(prepared)[0]
    assert value.dtype == np.float32
    assert 0 < np.abs(value - reference).max() < 0.2 * np.abs(reference).max()
    assert "made by onnxsep" in prepared.facts.origin
    model = ir.load(prepared.files[MODEL_FILE])
    types = {
        node.inputs[2].dtype.name
        for node in model.graph
        if node.op_type == "QuantizeLinear"
        and node.inputs[2] is not None
        and node.inputs[2].dtype is not None
    }
    assert types == ({activation} if activation else set())


@pytest.mark.parametrize("provider", ["NnapiExecutionProvider", "XnnpackExecutionProvider"])
def test_dimensions_are_fixed_where_they_must_be(make: Make, provider: str) -> None:
    workshop, cell = make()
    cell = dataclasses.replace(cell, provider=provider, batch=2)
    prepared = workshop.prepare(cell)
    model = onnx.load(prepared.files[MODEL_FILE])
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_value for dimension in dimensions] == [2, 3, 16, 16]
    assert "all dimensions fixed" in prepared.facts.origin
    assert len(run(prepared)[0]) == 2


def test_batch_that_the_model_refuses(make: Make) -> None:
    workshop, cell = make(batch=4)
    with pytest.raises(InputError, match="fixed at 4"):
        workshop.prepare(dataclasses.replace(cell, batch=1))
    assert len(run(workshop.prepare(dataclasses.replace(cell, batch=4)))[0]) == 4


def test_shape_of_the_matrix_that_does_not_fit(make: Make) -> None:
    workshop, cell = make(", inputs: {image: [1, 5, 16, 16]}")
    with pytest.raises(InputError, match=r"\[1, 5, 16, 16\]"):
        workshop.prepare(cell)
    workshop, cell = make(", inputs: {picture: [1, 3, 16, 16]}")
    with pytest.raises(InputError, match="'picture', which is no input"):
        workshop.prepare(cell)


def test_variant_of_the_user_is_taken(make: Make, tmp_path: Path) -> None:
    ir.save(small_network(seed=5), tmp_path / "own.onnx")
    workshop, cell = make(", variants: {int8: own.onnx}", precision="int8")
    prepared = workshop.prepare(cell)
    assert prepared.files[MODEL_FILE] == tmp_path / "own.onnx"
    assert prepared.facts.path == "own.onnx"


@pytest.mark.parametrize("batch", ["batch", 4])
def test_referee_agrees_with_the_reference_itself(
    make: Make, tmp_path: Path, batch: object
) -> None:
    workshop, cell = make(batch=batch)
    cell = dataclasses.replace(cell, batch=4)
    local = LocalTransport(tmp_path / "made")
    local.place("cell", workshop.prepare(cell).files)
    verdict = Referee(workshop, local).judge(cell, local, "cell")
    assert isinstance(verdict, Correctness)
    assert verdict.largest == 0.0
    assert verdict.snr_db == 200.0
    assert verdict.accuracy is None


def test_referee_sees_another_model(make: Make, tmp_path: Path) -> None:
    ir.save(small_network(seed=5), tmp_path / "own.onnx")
    workshop, cell = make(", variants: {int8: own.onnx}", precision="int8")
    local = LocalTransport(tmp_path / "made")
    local.place("cell", workshop.prepare(cell).files)
    verdict = Referee(workshop, local).judge(cell, local, "cell")
    if isinstance(verdict, Failure):
        assert "batch" in verdict.reason or "shape" in verdict.reason
    else:
        assert verdict.snr_db < 10


def test_labels_give_an_accuracy(make: Make, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(20, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=images, labels=np.arange(20) % 6)
    workshop, cell = make(", data: data.npz")
    local = LocalTransport(tmp_path / "made")
    prepared = workshop.prepare(cell)
    assert prepared.images == 20
    assert np.load(prepared.files[IMAGES_FILE])["image"].shape == images.shape
    local.place("cell", prepared.files)
    verdict = Referee(workshop, local).judge(cell, local, "cell")
    assert isinstance(verdict, Correctness)
    assert verdict.accuracy == verdict.reference_accuracy
    assert "accuracy" in verdict.measure


def test_name_of_a_model_leads_nowhere(make: Make, tmp_path: Path) -> None:
    workshop, cell = make()
    before = set(tmp_path.iterdir())
    for precision in ("fp32", "fp16"):
        workshop.prepare(dataclasses.replace(cell, precision=precision))
    assert set(tmp_path.iterdir()) == before
