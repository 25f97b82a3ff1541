"""Whole comparisons of small models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from PIL import Image

from onnxsep.comparison import CompareOptions, compare
from onnxsep.data import PRESETS
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.report.head import read_head

from ..passes.quantize_cases import quantized
from ..small_models import small_network, write_images
from .models import CHAIN, chain, one_line, save, save_text, write_arrays


def quick(data: Path | None = None, **changes: object) -> CompareOptions:
    given = {"data": None if data is None else str(data), "measure_latency": False, **changes}
    return CompareOptions(**given)  # type: ignore[arg-type]


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "data.npz")


def test_a_model_is_equal_to_itself(tmp_path: Path, arrays: Path) -> None:
    path = save(chain(), tmp_path / "a.onnx")
    record = compare(path, path, quick(arrays, measure_latency=True))
    assert record.outputs[0].relative_error == 0
    assert record.task is not None
    assert (record.task.drop, record.changed_count) == (0.0, 0)
    assert all(row.error == 0 for row in record.layers)
    assert record.first == record.second
    assert record.latency is not None
    assert record.latency.low <= record.latency.speedup <= record.latency.high
    assert {row.kind for row in record.kinds if row.first_multiplications} == {"standard", "Gemm"}


def test_files_and_models_in_memory_say_the_same(tmp_path: Path, arrays: Path) -> None:
    models = chain(), chain(noise={"W1": 0.1})
    files = [save(model, tmp_path / f"{place}.onnx") for place, model in enumerate(models)]
    memory, disk = compare(*models, quick(arrays)), compare(*files, quick(arrays))
    assert memory.outputs == disk.outputs
    assert memory.layers == disk.layers
    assert memory.first.bytes == disk.first.bytes == files[0].stat().st_size
    assert (memory.first.path, memory.first.sha256) == ("(in memory)", "")


def test_folding_is_seen_as_rounding() -> None:
    original = small_network()
    folded = original.clone()
    Normalize()(folded)
    FoldBatchNorm()(folded)
    record = compare(original, folded, quick(samples=20))
    assert record.outputs[0].snr_db > 80
    assert record.second.parameters is not None
    assert record.first.parameters is not None
    assert record.second.parameters < record.first.parameters
    assert record.first.multiplications == record.second.multiplications


def test_a_quantized_model_is_compared(arrays: Path) -> None:
    original = chain()
    Normalize()(original)  # The pass wants names for nodes.
    record = compare(original, quantized(original).model, quick(arrays))
    assert 10 < record.outputs[0].snr_db < 60
    assert record.layers[0].name == "a"
    assert record.first.multiplications == record.second.multiplications


def test_labels_give_accuracy_and_name_the_samples(tmp_path: Path) -> None:
    """The second model swaps two classes: exactly the samples of these change."""
    first = chain()
    swapped = first.clone()
    weight = swapped.graph.initializers["W2"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy()[[1, 0, 2, 3, 4]], name="W2")
    data = write_arrays(tmp_path / "data.npz")
    classes = _classes(first, data)
    truth = np.where(np.arange(40) % 4 == 0, (classes + 1) % 5, classes)
    data = write_arrays(tmp_path / "data.npz", labels=truth)
    record = compare(first, swapped, quick(data))
    swaps = np.isin(classes, [0, 1])
    assert record.task is not None
    assert record.task.measure == "top-1 accuracy"
    assert record.task.first == 75.0
    assert record.changed_count == swaps.sum()
    assert record.task.right_to_wrong == (swaps & (truth == classes)).sum()
    named = {row.sample for row in record.changed}
    assert named == {f"sample {place}" for place in np.flatnonzero(swaps)}


def _classes(model: object, data: Path) -> np.ndarray:
    from onnxsep.runtime import make_session

    session = make_session(model)  # type: ignore[arg-type]
    return session.run(None, {"image": np.load(data)["image"]})[0].argmax(axis=1)


def test_label_offset_shifts(tmp_path: Path) -> None:
    labels = np.zeros(40, np.int64)
    data = write_arrays(tmp_path / "data.npz", labels=labels + 4)
    with pytest.raises(InputError, match="class scores for 6 classes"):
        compare(chain(), chain(), quick(data, label_offset=1))
    assert compare(chain(), chain(), quick(data)).task is not None


def test_worst_sample_of_a_folder_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for place, name in enumerate(("a.png", "sub/bright.png", "c.png")):
        value = 250 if "bright" in name else 10 * place
        Image.new("RGB", (8, 8), (value, value, value)).save(folder / name)
    options = quick(folder, preprocessing=PRESETS["unit"])
    record = compare(chain(), chain(noise={"W0": 0.2}), options)
    assert record.outputs[0].worst == "sub/bright.png"


def test_targets_give_psnr(tmp_path: Path) -> None:
    one = save_text(
        one_line("g", "float[N, 1, 4, 4] x", "float[N, 1, 4, 4] y", "y = Relu (x)"),
        tmp_path / "a.onnx",
    )
    two = save_text(
        one_line("g", "float[N, 1, 4, 4] x", "float[N, 1, 4, 4] y", "h = Relu (x) y = Sqrt (h)"),
        tmp_path / "b.onnx",
    )
    images = np.random.default_rng(0).uniform(0, 1, (6, 1, 4, 4)).astype(np.float32)
    data = tmp_path / "data.npz"
    np.savez(data, x=images, targets=np.clip(images + 0.01, 0, 1))
    record = compare(one, two, quick(data))
    assert record.task is not None
    assert (record.task.measure, record.task.unit) == ("PSNR", "dB")
    assert record.task.first == pytest.approx(40, abs=1)
    assert record.task.drop > 10


def test_what_only_onnxruntime_can_read_is_compared_without_its_graph(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        one_line("g", "float[N, 4] x", "float[N, 4] y", "y = Mul (x, w)")
    )
    dense = onnx.ModelProto.FromString(proto.SerializeToString())
    dense.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4], [2, 0, 3, 0]))
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            helper.make_tensor("w", TensorProto.FLOAT, [2], [2.0, 3.0]),
            helper.make_tensor("w_indices", TensorProto.INT64, [2], [0, 2]),
            [4],
        )
    )
    paths = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    for path, model in zip(paths, (dense, proto), strict=True):
        path.write_bytes(model.SerializeToString())
    record = compare(*paths, CompareOptions(samples=5))
    assert record.outputs[0].relative_error == 0
    assert record.latency is not None
    assert (record.second.parameters, record.second.multiplications) == (None, None)
    assert record.layers == []
    assert any("sparse initializers" in warning for warning in record.warnings)


def test_weights_outside_the_folder_stay_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        one_line("g", "float[N, 4] x", "float[N, 4] y", "y = Mul (x, w)")
    )
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(tensor)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside the model's folder"):
        compare(path, path, quick())


def test_limits_are_judged_and_not_raised(arrays: Path) -> None:
    strict = quick(arrays, fail_below_db=60, max_drop=100)
    record = compare(chain(), chain(noise={"W1": 0.1}), strict)
    assert [(gate.option, gate.holds) for gate in record.gates] == [
        ("--fail-below-db", False),
        ("--max-drop", True),
    ]
    assert not record.holds
    assert compare(chain(), chain(), strict).holds


def test_a_drop_needs_something_to_drop(tmp_path: Path) -> None:
    path = save_text(
        one_line("g", "float[N, 1, 4, 4] x", "float[N, 1, 4, 4] y", "y = Relu (x)"),
        tmp_path / "a.onnx",
    )
    with pytest.raises(ConfigurationError, match="use --fail-below-db"):
        compare(path, path, quick(samples=4, max_drop=1))


def test_not_a_number_breaks_every_limit(arrays: Path) -> None:
    broken = chain(text=CHAIN.replace("d = Relu (c)", "z = Sub (c, c) d = Div (z, z)"))
    record = compare(chain(), broken, quick(arrays, fail_below_db=-100, max_drop=99))
    assert not any(gate.holds for gate in record.gates)
    assert math.isinf(record.outputs[0].relative_error)
    assert "NaN" in record.outputs[0].note
    assert json.loads(record.to_json())["outputs"][0]["relative_error"] is None


def test_layers_and_latency_can_be_left_out(arrays: Path) -> None:
    record = compare(chain(), chain(), quick(arrays, compare_layers=False))
    assert (record.layers, record.latency) == ([], None)
    assert "--no-layers" in record.layers_note
    assert "--no-latency" in record.latency_note


def test_normalisation_is_found_in_whichever_model_still_has_it(tmp_path: Path) -> None:
    folded = small_network()
    Normalize()(folded)
    FoldBatchNorm()(folded)
    images = write_images(tmp_path / "images.npz")
    found = [
        compare(*pair, quick(images, samples=4)).data
        for pair in ((small_network(), folded), (folded, small_network()))
    ]
    assert found[0] == found[1]


def test_head_of_the_record_is_that_of_all_records(tmp_path: Path, arrays: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(compare(chain(), chain(), quick(arrays)).to_json())
    head = read_head(path)
    assert (head.kind, head.schema) == ("compare", 1)
    assert head.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": 0}, "--samples takes 1 or more"),
        ({"threads": -1}, "--threads takes 0"),
        ({"max_drop": -1.0}, "--max-drop takes 0 or more"),
        ({"fail_below_db": math.nan}, "--fail-below-db takes a number"),
        ({"seed": -1}, "--seed takes 0 or more"),
        ({"data": ""}, "--data takes a name"),
    ],
)
def test_options_without_meaning_are_refused(change: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        CompareOptions(**change)  # type: ignore[arg-type]
