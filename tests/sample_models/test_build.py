"""Architectures with random weights: alive when small, exact when full-size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, shape_inference

SMALL_WIDTH = 0.25
SMALL_SIZE = 96  # of the sizes that all of them accept, one of the smallest
SEED = 3

# Outputs of different images differ by at least this share of what the outputs span.
LEAST_VARIATION = 0.1
OUTPUT_DEVIATIONS = (0.05, 50.0)


@dataclass(frozen=True)
class Published:
    """Dimensions of the full-size network as published, without running statistics."""

    name: str
    parameters: int
    giga_multiplications: float
    normalisations: int


PUBLISHED = [
    Published("resnet18", 11_689_512, 1.814, 20),
    Published("resnet50", 25_557_032, 4.089, 53),
    Published("vgg16", 138_365_992, 15.470, 13),
    Published("mobilenetv1", 4_231_976, 0.569, 27),
    Published("mobilenetv2", 3_504_872, 0.301, 52),
    Published("xception", 22_855_952, 8.36, 40),
    Published("efficientnet_b0", 5_288_548, 0.386, 49),
    Published("inception_v3", 23_834_568, 5.713, 94),
    # The "small" detector of 2021 (YOLOv5s): 7.2 M parameters, 16.5 GFLOPs.
    Published("yolo", 7_235_389, 8.22, 57),
]
NAMES = [case.name for case in PUBLISHED]


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("build")


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest, script: ModuleType) -> onnx.ModelProto:
    model: onnx.ModelProto = script.build(
        request.param, width=SMALL_WIDTH, size=SMALL_SIZE, seed=SEED
    )
    return model


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


def normalisations(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def count_parameters(model: onnx.ModelProto) -> int:
    """Elements of the weights that training would change."""
    sizes = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    trained = {"Conv": 2, "Gemm": 2, "BatchNormalization": 2}
    return sum(
        sizes[name]
        for node in model.graph.node
        for name in node.input[1 : 1 + trained.get(node.op_type, 0)]
    )


def count_multiplications(model: onnx.ModelProto) -> int:
    """Multiplications of all convolutions and fully connected layers for one image."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")  # shapes do not hang on weights, and copies are dear
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    outputs = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for value in [*inferred.value_info, *inferred.output]
    }
    return sum(
        prod(outputs[node.output[0]]) * prod(weights[node.input[1]][1:])
        for node in inferred.node
        if node.op_type in ("Conv", "Gemm")
    )


def test_the_list_is_complete(script: ModuleType) -> None:
    assert sorted(script.ARCHITECTURES) == sorted(NAMES)


@pytest.mark.parametrize("case", PUBLISHED, ids=NAMES)
def test_full_size_has_the_published_dimensions(script: ModuleType, case: Published) -> None:
    model = script.build(case.name)
    assert len(normalisations(model)) == case.normalisations
    assert count_parameters(model) == case.parameters
    assert count_multiplications(model) / 1e9 == pytest.approx(case.giga_multiplications, rel=2e-3)


def test_small_ones_are_valid(small: onnx.ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    assert [(entry.domain, entry.version) for entry in small.opset_import] == [("", 17)]
    dimensions = small.graph.input[0].type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "batch"
    assert [dim.dim_value for dim in dimensions[1:]] == [3, SMALL_SIZE, SMALL_SIZE]
    names = [node.name for node in small.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("batch", [1, 6])
def test_small_ones_are_alive(small: onnx.ModelProto, batch: int) -> None:
    images = np.random.default_rng(1).standard_normal((batch, 3, SMALL_SIZE, SMALL_SIZE))
    for name, output in run(small, images.astype(np.float32)).items():
        assert len(output) == batch
        assert np.isfinite(output).all(), name
        lowest, highest = OUTPUT_DEVIATIONS
        assert lowest < output.std() < highest, name
        if batch > 1:
            assert output.std(axis=0).mean() > LEAST_VARIATION * output.std(), name


def test_normalisations_hold_the_statistics_of_the_sample_images(
    small: onnx.ModelProto, load_script: Callable[[str], ModuleType]
) -> None:
    # The images are the first thing that is drawn from a seed.
    images = load_script("numpy_layers").sample_images(
        np.random.default_rng(SEED), count=16, size=SMALL_SIZE
    )
    watched = onnx.ModelProto()
    watched.CopyFrom(small)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_empty_tensor_value_info(node.input[0]) for node in normalisations(small)
    )
    seen = run(watched, images)
    arrays = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    for node in normalisations(small):
        values = seen[node.input[0]]
        scale, shift, mean, variance = (arrays[name] for name in node.input[1:])
        deviation = np.sqrt(variance)
        error = np.abs(values.mean(axis=(0, 2, 3)) - mean) / deviation
        assert error.max() < 1e-2, node.name
        np.testing.assert_allclose(
            values.var(axis=(0, 2, 3)), variance, rtol=1e-2, atol=2e-4, err_msg=node.name
        )
        assert min(np.ptp(scale), np.ptp(shift), np.ptp(mean), np.ptp(variance)) > 0, node.name


def test_a_seed_gives_the_same_bytes(script: ModuleType) -> None:
    def bytes_of(seed: int) -> bytes:
        model: onnx.ModelProto = script.build("mobilenetv2", width=0.25, size=32, seed=seed)
        content: bytes = model.SerializeToString()
        return content

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)


def test_detector_has_three_maps_of_its_classes(script: ModuleType) -> None:
    model = script.build("yolo", width=0.25, size=64, classes=7)
    images = np.zeros((2, 3, 64, 64), np.float32)
    shapes = {name: output.shape for name, output in run(model, images).items()}
    assert shapes == {
        "stride8": (2, 36, 8, 8),
        "stride16": (2, 36, 4, 4),
        "stride32": (2, 36, 2, 2),
    }


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet19", {}, "unknown architecture 'resnet19': choose from resnet18"),
        ("resnet18", {"width": 0.0}, "must be above zero"),
        ("inception_v3", {"size": 64, "width": 0.25}, "choose a larger input size"),
        ("yolo", {"size": 100}, "yolo: size 100 is no multiple of 32"),
    ],
    ids=["name", "width", "too-small", "step"],
)
def test_what_cannot_be_built_is_refused(
    script: ModuleType, name: str, arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        script.build(name, **arguments)


def test_command_line(sample_models: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(sample_models / "build.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert call("--list").stdout.split() == NAMES
    small = ("--width", "0.25", "--size", "64", "--classes", "5", "--output", str(tmp_path))
    written = call("resnet18", "mobilenetv1", *small)
    assert written.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mobilenetv1.onnx", "resnet18.onnx"]
    refused = call("nonesuch", *small)
    assert refused.returncode == 2
    assert "unknown architecture 'nonesuch'" in refused.stderr
    assert "Traceback" not in refused.stderr
