"""The committed digit network: what it reaches, what it is made of, where it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

# 538 of the 540 test digits are named rightly; another processor may round one of them away.
REQUIRED_ACCURACY = 0.99
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def model(sample_models: Path) -> onnx.ModelProto:
    return onnx.load(sample_models / "digits.onnx")


@pytest.fixture(scope="module")
def preprocessing(model: onnx.ModelProto) -> dict[str, object]:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    record: dict[str, object] = json.loads(metadata["onnxsep.preprocessing"])
    return record


def load_arrays(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["images", "labels"]
        return archive["images"], archive["labels"]


def prepare(
    images: npt.NDArray[np.uint8], preprocessing: Mapping[str, object]
) -> npt.NDArray[np.float32]:
    scaled = images * np.asarray(preprocessing["scale"])
    normalised = (scaled - np.asarray(preprocessing["mean"])) / np.asarray(preprocessing["std"])
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=np.float32)


def scores_of(model: onnx.ModelProto, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores: npt.NDArray[np.float32] = session.run(["logits"], {"input": inputs})[0]
    return scores


def test_it_reads_held_out_digits(
    model: onnx.ModelProto, preprocessing: dict[str, object], sample_models: Path
) -> None:
    images, labels = load_arrays(sample_models / "digits_test.npz")
    scores = scores_of(model, prepare(images, preprocessing))
    assert (scores.argmax(axis=1) == labels).mean() >= REQUIRED_ACCURACY


def test_it_needs_the_preprocessing_that_it_records(
    model: onnx.ModelProto, preprocessing: dict[str, object], sample_models: Path
) -> None:
    images, labels = load_arrays(sample_models / "digits_test.npz")
    assert preprocessing["color"] == "gray"
    raw = images.transpose(0, 3, 1, 2).astype(np.float32)
    assert (scores_of(model, raw).argmax(axis=1) == labels).mean() < REQUIRED_ACCURACY


def test_the_model_is_valid_and_keeps_its_normalisations(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    producers = {node.output[0]: node for node in model.graph.node}
    normalisations = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(normalisations) == len(convolutions) == 15
    assert all(producers[node.input[0]].op_type == "Conv" for node in normalisations)


def test_it_is_made_of_standard_convolutions(model: onnx.ModelProto) -> None:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    convolutions = {
        node.name: shapes[node.input[1]] for node in model.graph.node if node.op_type == "Conv"
    }
    assert convolutions["stage1.block0.conv1"] == (32, 32, 3, 3)
    assert convolutions["stage2.block0.conv1"] == (64, 32, 3, 3)
    assert convolutions["stage3.block1.conv2"] == (128, 128, 3, 3)
    wide = [shape for shape in convolutions.values() if shape[2:] == (3, 3) and shape[1] >= 32]
    assert len(wide) == 12


def test_the_batch_is_dynamic(model: onnx.ModelProto) -> None:
    inputs = np.random.default_rng(0).standard_normal((5, 1, 32, 32), dtype=np.float32)
    together = scores_of(model, inputs)
    assert together.shape == (5, 10)
    alone = np.concatenate([scores_of(model, row[np.newaxis]) for row in inputs])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_the_arrays_are_two_disjoint_stratified_parts_of_all_digits(
    sample_models: Path, preprocessing: dict[str, object]
) -> None:
    calibration, calibration_labels = load_arrays(sample_models / "digits_calibration.npz")
    test, test_labels = load_arrays(sample_models / "digits_test.npz")
    assert (len(calibration), len(test)) == (1257, 540)
    for images, labels in ((calibration, calibration_labels), (test, test_labels)):
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 32, 32, 1)
        assert labels.dtype == np.int64
    share = np.bincount(test_labels) / np.bincount(
        np.concatenate([test_labels, calibration_labels])
    )
    np.testing.assert_allclose(share, 0.3, atol=0.005)
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in test}
    pixels = calibration / 255
    assert preprocessing["mean"] == [round(pixels.mean(), 4)]
    assert preprocessing["std"] == [round(pixels.std(), 4)]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("digits.onnx", 3 * MEGABYTE),
        ("digits_calibration.npz", MEGABYTE),
        ("digits_test.npz", MEGABYTE / 2),
    ],
)
def test_the_files_stay_small(sample_models: Path, name: str, limit: float) -> None:
    assert (sample_models / name).stat().st_size < limit


def test_the_script_draws_the_same_arrays(
    load_script: Callable[[str], ModuleType], sample_models: Path
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    pytest.importorskip("sklearn", reason="needs the extra 'train'")
    script = load_script("train_digits")
    parts = script.draw_digits().split(script.TEST_FRACTION)
    for part, name in zip(parts, ("calibration", "test"), strict=True):
        images, labels = load_arrays(sample_models / f"digits_{name}.npz")
        np.testing.assert_array_equal(part.images, images)
        np.testing.assert_array_equal(part.labels, labels)


def test_the_export_computes_what_was_trained(load_script: Callable[[str], ModuleType]) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    pytest.importorskip("sklearn", reason="needs the extra 'train'")
    script = load_script("train_digits")
    torch.manual_seed(0)
    network = script.DigitNetwork()
    inputs = torch.randn(16, 1, 32, 32)
    network(inputs)  # moves the running statistics away from 0 and 1
    network.eval()
    model = script.to_onnx(network, script.Preprocessing(mean=0.3, std=0.35))
    with torch.inference_mode():
        wanted = network(inputs).numpy()
    np.testing.assert_allclose(scores_of(model, inputs.numpy()), wanted, rtol=1e-3, atol=1e-4)
