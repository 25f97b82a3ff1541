"""Loading what strangers hand us, and saving so that nothing is ever half-written."""

from __future__ import annotations

import dataclasses
import io
import logging
import mmap
import os
import pickle
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxsep import weights
from onnxsep.convolution import find_convolutions
from onnxsep.errors import InputError, OutputError
from onnxsep.model import (
    default_output_path,
    load_model,
    model_bytes,
    save_model,
    serialized_bytes,
    weight_bytes,
)

WEIGHT = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,2,8,8] x) => (float[N,4,8,8] y) {
    scale = Constant <value = float[1] {2}> ()
    h = Conv <pads = [1,1,1,1]> (x, w)
    y = Mul (h, scale)
}
"""
# Below this limit the one weight above would fit; so it goes beside the model.
TINY_LIMIT_BYTES = 100


def network(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


def write(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def with_external_weight(**entries: str) -> onnx.ModelProto:
    """The network with its weight in another file; ``entries`` say where."""
    proto = network()
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def weight_of(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def is_mapped(model: ir.Model) -> bool:
    """Whether the weight's numbers are in the file and not in memory."""
    holder: object = weight_of(model)
    while isinstance(holder, np.ndarray | memoryview):
        holder = holder.base if isinstance(holder, np.ndarray) else holder.obj
    return isinstance(holder, mmap.mmap)


def computed(path: Path) -> np.ndarray:
    """What onnxruntime makes of the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 2, 8, 8)).astype(np.float32)}
    return np.asarray(session.run(None, feeds)[0])


def as_onnx_text(folder: Path) -> bytes:
    del folder
    return TEXT.encode()


def as_pickle(folder: Path) -> bytes:
    del folder
    return pickle.dumps({"state_dict": WEIGHT})


def as_numpy_archive(folder: Path) -> bytes:
    del folder
    buffer = io.BytesIO()
    np.savez(buffer, w=WEIGHT)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [as_onnx_text, as_pickle, as_numpy_archive, lambda folder: b"PNG" * 40],
    ids=["text", "pickle", "npz", "noise"],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: Callable[[Path], bytes]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content(tmp_path))
    with pytest.raises(InputError, match=r"model\.onnx (is not an ONNX model|holds no ONNX graph)"):
        load_model(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*absent\.onnx"):
        load_model(tmp_path / "absent.onnx")


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not a model"):
        load_model(tmp_path)


def test_empty_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="is empty"):
        load_model(tmp_path / "model.onnx")


def test_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="not a regular file"):
        load_model(tmp_path / "model.onnx")


def test_link_to_itself_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "model.onnx")


def test_impossible_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*name too long"):
        load_model(tmp_path / ("x" * 300))


def test_file_beyond_the_limit_of_protobuf_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # a hole: takes no space
    with pytest.raises(InputError, match="larger than 2 GB"):
        load_model(path)


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    path = write(network(), tmp_path)
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"cannot read .*model\.onnx: Permission denied"):
        load_model(path)


def test_model_without_nodes_is_refused(tmp_path: Path) -> None:
    path = write(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g () => () {}'),
                 tmp_path)  # fmt: skip
    with pytest.raises(InputError, match="holds no ONNX graph"):
        load_model(path)


def test_truncated_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = network().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            load_model(path)


def test_one_wrong_bit_is_refused_or_gives_a_sound_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Never a traceback, neither at the door nor in what every run does next."""
    data = network().SerializeToString()
    path = tmp_path / "model.onnx"
    sentences = []
    for bit in random.Random(0).sample(range(8 * len(data)), 600):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            model = load_model(path)
        except InputError as error:
            sentences.append(str(error))
            continue
        find_convolutions(model.clone().graph)
        ir.to_proto(model).SerializeToString()
    assert 100 < len(sentences) < 500
    assert not any("\n" in sentence for sentence in sentences)
    dangling = [r for r in caplog.records if "cannot be found in any scope" in r.getMessage()]
    assert not dangling, "a model with a dangling input was let in"


def break_input(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "nowhere"


def break_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].attribute[0].CopyFrom(onnx.helper.make_attribute("pads", [0.5, 1.0]))


def break_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].op_type = "Convolve"


def break_text(proto: onnx.ModelProto) -> None:
    data = proto.SerializeToString().replace(b"\x12\x01h", b"\x12\x01\xe9")
    proto.ParseFromString(data)


def break_size(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def break_size_of_constant(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute[0].t.dims[0] = 7


def break_type_of_data(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([1] * WEIGHT.size)


def forget_output_shape(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def make_sparse(proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))


@dataclasses.dataclass(frozen=True)
class Damage:
    """Something wrong with a model, and what is said about it."""

    change: Callable[[onnx.ModelProto], None]
    message: str


@pytest.mark.parametrize(
    "damage",
    [
        Damage(break_input, "'nowhere'"),
        Damage(break_attribute, "pads"),
        Damage(break_operator, "Convolve"),
        Damage(break_text, "not UTF-8"),
        Damage(break_size, "not a valid ONNX model"),
        Damage(break_size_of_constant, "not a valid ONNX model"),
        Damage(break_type_of_data, "not a valid ONNX model"),
        Damage(make_sparse, "sparse initializers"),
        Damage(forget_output_shape, "output 'y' declares no shape; export the model again"),
    ],
    ids=lambda damage: damage.change.__name__,
)
def test_malformed_model_is_refused_in_one_sentence(tmp_path: Path, damage: Damage) -> None:
    proto = network()
    damage.change(proto)
    with pytest.raises(InputError, match=damage.message) as caught:
        load_model(write(proto, tmp_path))
    assert "\n" not in str(caught.value)


def test_sparse_weight_inside_a_branch_is_found(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool flag) => (float[2] y) {
            y = If (flag) <then_branch = a () => (float[2] p) { p = Neg (x) },
                           else_branch = b () => (float[2] q) { q = Abs (x) }> }"""
    )
    inner = onnx.ModelProto()
    make_sparse(inner)
    proto.graph.node[0].attribute[1].g.sparse_initializer.extend(inner.graph.sparse_initializer)
    with pytest.raises(InputError, match="sparse"):
        load_model(write(proto, tmp_path))


def test_operators_of_strangers_are_let_in(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
        g (float[N] x) => (float[N] y) { h = com.acme.Foo (x) y = Relu (h) }"""
    )
    assert len(load_model(write(proto, tmp_path)).graph) == 2


def test_message_of_the_checker_has_no_context(tmp_path: Path) -> None:
    proto = network()
    break_operator(proto)
    with pytest.raises(InputError) as caught:
        load_model(write(proto, tmp_path))
    assert "==>" not in str(caught.value)


def test_external_weight_is_read_into_memory(tmp_path: Path) -> None:
    path = write(with_external_weight(location="w.bin"), tmp_path)
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    model = load_model(path)
    (tmp_path / "w.bin").unlink()
    np.testing.assert_array_equal(weight_of(model), WEIGHT)


def test_external_weight_in_a_subfolder_with_an_offset(tmp_path: Path) -> None:
    proto = with_external_weight(location="deep/w.bin", offset="8", length=str(WEIGHT.nbytes))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.bin").write_bytes(b"\xff" * 8 + WEIGHT.tobytes() + b"\xff")
    np.testing.assert_array_equal(weight_of(load_model(write(proto, tmp_path))), WEIGHT)


@pytest.mark.parametrize("limit", [TINY_LIMIT_BYTES, 2**31], ids=["mapped", "in memory"])
def test_external_constant_comes_along_when_the_model_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Weights in Constant nodes may lie outside, too."""
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", limit)
    monkeypatch.setattr(weights, "_LEAST_BESIDE_BYTES", 0)
    proto = network()
    tensor = proto.graph.node[0].attribute[0].t
    tensor.CopyFrom(onnx.TensorProto(data_type=1, dims=[1], name="scale"))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="scale.bin")
    (tmp_path / "scale.bin").write_bytes(np.float32(3).tobytes())
    model = load_model(write(proto, tmp_path))
    (tmp_path / "scale.bin").unlink()
    (tmp_path / "elsewhere").mkdir()
    save_model(model, tmp_path / "elsewhere" / "moved.onnx")
    expected = 1.5 * computed(write(network(), tmp_path))
    np.testing.assert_allclose(
        computed(tmp_path / "elsewhere" / "moved.onnx"), expected, rtol=1e-5, atol=1e-5
    )


def test_relative_path_may_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory-mapped weights are found after a change of folder."""
    write(with_external_weight(location="w.bin"), tmp_path)
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", TINY_LIMIT_BYTES)
    monkeypatch.setattr(weights, "_LEAST_BESIDE_BYTES", 0)
    monkeypatch.chdir(tmp_path)
    model = load_model("model.onnx")
    assert is_mapped(model)
    monkeypatch.chdir("elsewhere")
    (tmp_path / "w.bin").unlink()
    save_model(model, "copy.onnx")
    np.testing.assert_array_equal(weight_of(load_model("copy.onnx")), WEIGHT)


@dataclasses.dataclass(frozen=True)
class External:
    """Where a model says that its weight is, and what is said about that."""

    id: str
    message: str
    location: str = "w.bin"
    offset: str | None = None
    length: str | None = None
    size: int = WEIGHT.nbytes


EXTERNALS = [
    External("missing", "'absent.bin', which is missing", location="absent.bin"),
    External("a folder", "which is missing", location="."),
    External("no location", "outside the model's folder", location=""),
    External("absolute", "outside the model's folder", location="/etc/hostname"),
    External("absolute, inside", "outside the model's folder", location="{folder}/w.bin"),
    External("parent", "outside the model's folder", location="../secret.bin"),
    External("parent of subfolder", "outside the model's", location="deep/../../secret.bin"),
    External("link out of the folder", "outside the model's folder", location="link.bin"),
    External("link to itself", "(outside the model's folder|missing)", location="circle.bin"),
    External("hard link", "hard link", location="hard.bin"),
    External("name too long", "missing", location="x" * 300),
    External("NUL in the name", "(outside|missing)", location="w.bin\0"),
    External("too short", "is not a valid ONNX model", size=WEIGHT.nbytes - 4),
    External("too short for its length", "'w.bin' is too short", length=str(WEIGHT.nbytes + 1)),
    External("offset behind the end", "is too short", offset=str(WEIGHT.nbytes + 1)),
    External("offset at the end", "is not a valid ONNX model", offset=str(WEIGHT.nbytes)),
    External("length below the shape's", "has 4 bytes, its shape", length="4"),
    External("offset in words", "malformed offset", offset="zero"),
    External("offset with a fraction", "malformed offset", offset="0.5"),
    External("negative offset", "is too short", offset="-4"),
    External("length in words", "malformed offset", length="all"),
    External("negative length", "is too short", length="-1"),
    External("huge offset", "is too short", offset=str(2**70)),
]


@pytest.mark.parametrize("case", EXTERNALS, ids=lambda case: case.id)
def test_bad_external_data_are_refused(tmp_path: Path, case: External) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "circle.bin").symlink_to("circle.bin")
    (folder / "hard.bin").hardlink_to(tmp_path / "secret.bin")
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[: case.size])
    entries = {"location": case.location.format(folder=folder)}
    entries |= {
        name: value
        for name, value in (("offset", case.offset), ("length", case.length))
        if value is not None
    }
    with pytest.raises(InputError, match=case.message) as caught:
        load_model(write(with_external_weight(**entries), folder))
    assert "\n" not in str(caught.value)


def test_external_data_of_a_branch_are_checked(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool flag) => (float[2] y) {
            y = If (flag) <then_branch = a () => (float[2] p) { p = Neg (x) },
                           else_branch = b () => (float[2] q) { q = Add (x, w) }> }"""
    )
    branch = proto.graph.node[0].attribute[1].g
    tensor = branch.initializer.add(name="w", data_type=1, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    with pytest.raises(InputError, match="outside the model's folder"):
        load_model(write(proto, tmp_path / "model"))


def test_shared_models_load(shared_data: Path) -> None:
    """The checks at the door refuse none of many real networks."""
    paths = sorted(shared_data.glob("models/*.onnx")) + sorted(shared_data.glob("odd/*.onnx"))
    assert len(paths) > 20
    for path in paths:
        assert len(load_model(path).graph) > 0, path


def test_saved_model_is_the_model(tmp_path: Path) -> None:
    model = load_model(write(network(), tmp_path))
    saved = tmp_path / "saved.onnx"
    assert save_model(model, saved) == [saved]
    np.testing.assert_array_equal(computed(saved), computed(tmp_path / "model.onnx"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "saved.onnx"]


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    model = load_model(write(network(), tmp_path))
    for name in ("a.onnx", "b.onnx"):
        save_model(model, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)], ids=oct
)
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    model = ir.from_proto(network())
    before = os.umask(mask)
    try:
        save_model(model, tmp_path / "saved.onnx")
        assert os.umask(mask) == mask, "saving changed the umask"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "saved.onnx").stat().st_mode) == mode


def test_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "\N{SNOWMAN}" * 83 + ".onnx"  # 254 bytes of the 255 that file systems allow
    save_model(ir.from_proto(network()), tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .*absent does not exist"):
        save_model(ir.from_proto(network()), tmp_path / "absent" / "saved.onnx")


def test_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "saved.onnx").mkdir()
    with pytest.raises(OutputError, match=r"saved\.onnx: it exists and is no regular file"):
        save_model(ir.from_proto(network()), tmp_path / "saved.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved.onnx"]


@pytest.mark.parametrize("limit", [TINY_LIMIT_BYTES, 2**31], ids=["large", "small"])
def test_what_is_no_file_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """An output of /dev/null, as root, must not become a file in its place."""
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", limit)
    monkeypatch.setattr(weights, "_LEAST_BESIDE_BYTES", 0)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="is no regular file"):
            save_model(ir.from_proto(network()), tmp_path / name)
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("step", ["write_bytes", "fsync", "replace"])
def test_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    path = tmp_path / "saved.onnx"
    path.write_bytes(b"old")
    model = ir.from_proto(network())
    if step == "write_bytes":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(OutputError, match=r"saved\.onnx: No space left on device"):
        save_model(model, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved.onnx"]


def test_interruption_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "saved.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(ir.from_proto(network()), path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved.onnx"]


@pytest.fixture
def tiny_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is too large for the model's own file."""
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", TINY_LIMIT_BYTES)
    monkeypatch.setattr(weights, "_LEAST_BESIDE_BYTES", 0)


@pytest.mark.usefixtures("tiny_limit")
def test_large_weights_go_beside_the_model(tmp_path: Path) -> None:
    model = ir.from_proto(network())
    path = tmp_path / "saved.onnx"
    assert save_model(model, path) == [path, tmp_path / "saved.onnx.data"]
    assert sorted(e.name for e in tmp_path.iterdir()) == ["saved.onnx", "saved.onnx.data"]
    onnx.checker.check_model(path)
    # The pair may be moved together.
    (tmp_path / "moved").mkdir()
    for file in ("saved.onnx", "saved.onnx.data"):
        shutil.move(tmp_path / file, tmp_path / "moved" / file)
    np.testing.assert_array_equal(
        computed(tmp_path / "moved" / "saved.onnx"), computed(write(network(), tmp_path))
    )


@pytest.mark.usefixtures("tiny_limit")
def test_large_model_may_replace_itself(tmp_path: Path) -> None:
    """Its weights are still mapped from the file that is being replaced."""
    path = tmp_path / "model.onnx"
    save_model(ir.from_proto(network()), path)
    model = load_model(path)
    assert is_mapped(model)
    save_model(model, path)
    np.testing.assert_array_equal(weight_of(load_model(path)), WEIGHT)


@pytest.mark.usefixtures("tiny_limit")
@pytest.mark.parametrize(("existed", "failing"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_failure_between_model_and_weights_brings_the_old_pair_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, existed: bool
) -> None:
    path = tmp_path / "model.onnx"
    if existed:
        save_model(ir.from_proto(network()), path)
    replace, calls = os.replace, 0

    def fails_once(source: Path, target: Path) -> None:
        nonlocal calls
        if tmp_path in (Path(source).parent, Path(target).parent):
            calls += 1
            if calls == failing:
                raise OSError(5, "Input/output error")
        replace(source, target)

    model = ir.from_proto(network(-WEIGHT))
    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(OutputError, match="Input/output error"):
        save_model(model, path)
    monkeypatch.undo()
    if existed:
        np.testing.assert_array_equal(weight_of(load_model(path)), WEIGHT)
        assert sorted(e.name for e in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model.onnx", "model.onnxsep.onnx"),
        ("folder/net.v2.onnx", "folder/net.v2.onnxsep.onnx"),
        ("/abs/model", "/abs/model.onnxsep.onnx"),
    ],
)
def test_default_output_lies_beside_the_input(given: str, expected: str) -> None:
    assert default_output_path(Path(given)) == Path(expected)


@pytest.mark.parametrize("given", [".", "/"])
def test_folder_has_no_default_output(given: str) -> None:
    with pytest.raises(InputError, match="is a folder"):
        default_output_path(Path(given))


def test_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(network(), tmp_path)
    model = load_model(path)
    assert weight_bytes(model) == WEIGHT.nbytes
    assert model_bytes(path) == path.stat().st_size
    saved = tmp_path / "saved.onnx"
    save_model(model, saved)
    assert serialized_bytes(model) == saved.stat().st_size
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", TINY_LIMIT_BYTES)
    monkeypatch.setattr(weights, "_LEAST_BESIDE_BYTES", 0)
    assert serialized_bytes(model) == WEIGHT.nbytes


def test_size_counts_weights_that_lie_outside(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).standard_normal((64, 32, 3, 3)).astype(np.float32)
    proto = network(wide)
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin")
    path = tmp_path / "model.onnx"
    size = model_bytes(path)
    assert size == path.stat().st_size + (tmp_path / "w.bin").stat().st_size


def test_size_counts_what_lies_outside_once(tmp_path: Path) -> None:
    """Half of the weights inside, half of them beside."""
    proto = with_external_weight(location="w.bin")
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    inside = np.zeros(WEIGHT.nbytes, np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(inside, "unused"))
    path = write(proto, tmp_path)
    assert model_bytes(path) == path.stat().st_size + WEIGHT.nbytes


def test_nothing_is_logged_about_a_sound_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        save_model(load_model(write(network(), tmp_path)), tmp_path / "saved.onnx")
    assert not caplog.records
