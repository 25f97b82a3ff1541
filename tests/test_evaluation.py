"""Outputs over a whole data set, batch by batch, and the quality of a candidate on it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxsep import evaluation
from onnxsep.data import Dataset
from onnxsep.data.dataset import ArrayColumn
from onnxsep.errors import InputError
from onnxsep.evaluation import Batches, Evaluation, batches_of, collect_outputs
from onnxsep.quality import SNR_CEILING_DB, Measure, Outputs, signal_to_noise_db
from tests.passes.helpers import model_from_text, normal

OPSET = '<ir_version: 8, opset_import: ["" : 17]>'


def dataset(values: np.ndarray, **facts: object) -> Dataset:
    """Samples for an input x."""
    base = Dataset({"x": ArrayColumn(values, values.dtype)}, "made up", np.arange(len(values)))
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


def net(body: str, outputs: str, inputs: str = "float[N,4] x") -> ir.Model:
    return model_from_text(f"{OPSET} net ({inputs}) => ({outputs}) {{ {body} }}")


def linear(factor: float) -> ir.Model:
    """Scores of four classes."""
    return net(f"k = Constant <value_float = {float(factor)}> () y = Mul (x, k)", "float[N,4] y")


def batches(values: np.ndarray, size: int = 3, **facts: object) -> Batches:
    return Batches(dataset(values, **facts), size)


def test_outputs_of_all_batches_come_in_order() -> None:
    values = normal(7, 4)
    model = net("y = Neg (x) z = ReduceMean <axes = [1]> (x)", "float[N,4] y, float[N,1] z")
    found = collect_outputs(model, batches(values), threads=1)
    assert list(found) == ["y", "z"]
    np.testing.assert_array_equal(found["y"], -values)
    np.testing.assert_allclose(found["z"], values.mean(axis=1, keepdims=True), rtol=1e-5)


def test_number_of_a_batch_is_a_row() -> None:
    found = collect_outputs(
        net("y = ReduceMax <keepdims = 0> (x)", "float y"), batches(normal(7, 4)), threads=1
    )
    assert found["y"].shape == (3,)


def test_outputs_of_changing_size_are_refused() -> None:
    model = net("s = Shape (x) y = ConstantOfShape (s) t = Transpose (y)", "float[4,K] t")
    with pytest.raises(InputError, match="outputs of the candidate change their size"):
        collect_outputs(model, batches(normal(7, 4)), threads=1, label="the candidate")


def test_outputs_that_are_no_tensors_are_refused() -> None:
    body = "p = Constant <value_ints = [3, 1]> () y = SplitToSequence <axis = 1> (x, p)"
    with pytest.raises(InputError, match="output 'y' of it is a sequence"):
        collect_outputs(net(body, "seq(float[N, w]) y"), batches(normal(4, 4)), label="it")


def test_data_that_do_not_fit_name_the_model() -> None:
    with pytest.raises(InputError, match="the candidate fails on the data"):
        collect_outputs(linear(1), batches(normal(3, 5)), threads=1, label="the candidate")


def test_model_that_onnxruntime_refuses_is_named() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[N,4] x) => (float[N,4] y) { y = acme.Foo (x) }"""
    )
    with pytest.raises(InputError, match="onnxruntime cannot load the candidate"):
        collect_outputs(model, batches(normal(3, 4)), threads=1, label="the candidate")


@dataclasses.dataclass(frozen=True)
class Size:
    """Samples of so many numbers, and the batch that they get."""

    shape: tuple[int, ...]
    expected: int


@pytest.mark.parametrize(
    "case",
    [
        Size((60, 4), 50),
        Size((60, 3, 224, 224), 13),
        Size((2, 3, 1080, 1920), 1),
    ],
    ids=str,
)
def test_large_images_come_in_small_batches(case: Size) -> None:
    values = np.broadcast_to(np.float32(0), case.shape)
    assert batches_of(dataset(values), None).size == case.expected


@pytest.mark.parametrize(
    "case",
    [
        Size((120, 4), 50),
        Size((120, 1, 128, 128), 16),
        Size((60, 3, 224, 224), 8),
        Size((5, 3, 1080, 1920), 1),
    ],
    ids=str,
)
def test_of_large_images_few_prove(case: Size) -> None:
    values = np.broadcast_to(np.float32(0), case.shape)
    found = batches_of(dataset(values), None).proofs(2)
    assert [len(feeds["x"]) for feeds in found] == [case.expected] * 2


def test_proofs_are_whole_static_batches() -> None:
    values = np.broadcast_to(np.float32(0), (24, 3, 224, 224))
    found = batches_of(dataset(values), 12).proofs(3)
    assert [len(feeds["x"]) for feeds in found] == [12, 12]


def test_largest_input_decides() -> None:
    columns = {
        "small": ArrayColumn(np.zeros((60, 1), np.float32), np.dtype(np.float32)),
        "large": ArrayColumn(np.broadcast_to(np.float32(0), (60, 2**20)), np.dtype(np.float32)),
    }
    assert batches_of(Dataset(columns, "made up", np.arange(60)), None).size == 2


def test_static_batch_leaves_the_rest_out() -> None:
    found = batches_of(dataset(normal(7, 4), labels=np.arange(7)), 3)
    assert found.size == 3
    assert [len(feeds["x"]) for feeds in found] == [3, 3]
    assert found.dataset.labels is not None
    assert found.dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_static_batch_that_fits_takes_all() -> None:
    whole = dataset(normal(6, 4))
    assert batches_of(whole, 3).dataset is whole


def test_fewer_samples_than_one_static_batch_are_refused() -> None:
    with pytest.raises(InputError, match="batches of 8, but made up has only 7 samples"):
        batches_of(dataset(normal(7, 4)), 8)


def test_batches_can_be_walked_through_again() -> None:
    again = batches(normal(7, 4))
    first, second = ([feeds["x"] for feeds in again] for _ in range(2))
    assert len(first) == len(second) == 3
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))


def test_quality_of_the_original_itself() -> None:
    judge = Evaluation(linear(1), batches(normal(7, 4)), threads=1)
    assert judge.measure == Measure("agreement", "y", "%")
    quality = judge.of(linear(1))
    assert (quality.original, quality.value, quality.drop, quality.drop_error) == (100, 100, 0, 0)
    assert quality.snr_db == {"y": SNR_CEILING_DB}
    assert quality.samples == 7


def test_accuracy_of_a_candidate() -> None:
    values = normal(8, 4)
    labels = values.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 4
    judge = Evaluation(linear(1), batches(values, labels=labels), threads=1)
    assert judge.measure.kind == "accuracy"
    assert judge.of(linear(3)).value == 87.5
    flipped = judge.of(linear(-1))
    assert flipped.original == 87.5
    assert flipped.value == 100 * np.mean((-values).argmax(axis=1) == labels)
    expected = -10 * np.log10(4 * np.mean(values**2) / np.mean(np.var(values, axis=0)))
    assert flipped.snr_db["y"] == pytest.approx(expected, abs=1e-3)


def test_targets_make_it_psnr() -> None:
    values = np.abs(normal(7, 4)) / 8
    judge = Evaluation(linear(1), batches(values, targets={"y": values}), threads=1)
    assert judge.measure.kind == "psnr"
    assert judge.of(linear(1)).value == pytest.approx(200)
    errors = (0.1 * values) ** 2
    assert judge.of(linear(0.9)).value == pytest.approx(
        float(np.mean(-10 * np.log10(errors.mean(axis=1)))), abs=1e-3
    )


def test_metric_and_label_offset_reach_the_measure() -> None:
    def metric(outputs: Outputs, labels: np.ndarray | None, targets: Outputs | None) -> float:
        return float(outputs["y"].mean())

    values = normal(7, 4) + 3
    judge = Evaluation(linear(1), batches(values), metric=metric, threads=1)
    assert judge.of(linear(2)).drop == pytest.approx(-values.mean(), rel=1e-5)
    labels = (values.argmax(axis=1) - 1).astype(np.int64)
    judge = Evaluation(linear(1), batches(values, labels=labels), label_offset=1, threads=1)
    assert judge.of(linear(2)).value == 100


def test_given_measure_is_used() -> None:
    measure = Measure("snr", "", "dB")
    judge = Evaluation(linear(1), batches(normal(7, 4)), measure=measure, threads=1)
    assert judge.measure is measure
    assert judge.of(linear(0.9)).value == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("Softmax <axis = 1>", "pixel-agreement"), ("Sigmoid", "pixel-agreement"), ("Relu", "snr")],
)
def test_maps_of_two_classes_are_known_by_their_last_operator(operator: str, kind: str) -> None:
    model = net(f"y = {operator} (x)", "float[N,2,5,6] y", "float[N,2,5,6] x")
    assert Evaluation(model, batches(normal(4, 2, 5, 6)), threads=1).measure.kind == kind


def test_samples_are_those_of_the_data_even_if_no_output_has_a_row_for_each() -> None:
    model = net("y = ReduceMax <keepdims = 0> (x) z = Neg (x)", "float y, float[N,4] z")
    judge = Evaluation(model, batches(normal(7, 4)), threads=1)
    assert judge.of(model).samples == 7


def test_original_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    def noted(
        model: ir.Model, batches: Batches, *, threads: int, label: str
    ) -> dict[str, np.ndarray]:
        labels.append(label)
        return collect_outputs(model, batches, threads=threads, label=label)

    monkeypatch.setattr(evaluation, "collect_outputs", noted)
    judge = Evaluation(linear(1), batches(normal(7, 4)), threads=1)
    judge.of(linear(2))
    judge.of(linear(3))
    assert labels == ["the original", "the rewritten model", "the rewritten model"]


def test_what_is_the_same_for_every_image_is_no_signal() -> None:
    # A large offset per class, as biases make it: no noise may hide behind it.
    values = normal(64, 4) + np.array([100, -100, 50, 0], np.float32)
    judge = Evaluation(linear(1), batches(values), threads=1)
    noise = normal(64, 4, seed=9)
    noisy = Evaluation(linear(1), batches(values + noise), threads=1)
    found = signal_to_noise_db(judge._outputs["y"], noisy._outputs["y"])
    assert found == pytest.approx(0, abs=1)


def test_doubts_are_spoken() -> None:
    few = Evaluation(linear(1), batches(normal(8, 4)), threads=1)
    assert any("8 images only" in doubt for doubt in few.doubts())
    one_sided = normal(200, 4) + np.array([100, 0, 0, 0], np.float32)
    doubts = Evaluation(linear(1), batches(one_sided), threads=1).doubts()
    assert any("1 class only" in doubt for doubt in doubts)
    assert not any("images only" in doubt for doubt in doubts)
    assert Evaluation(linear(1), batches(normal(200, 4)), threads=1).doubts() == []
