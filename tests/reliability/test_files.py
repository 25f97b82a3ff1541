"""Files under fire: kill -9, several writers at once, full disks, folders not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxsep import files, weights
from onnxsep.errors import OutputError
from onnxsep.files import atomic_file, claimed, sweep, unfinished_file
from onnxsep.model import load_model, save_model

from .killing import REPOSITORY, kill_writers
from .writer import network, written_by


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as one of more than 2 GB."""
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", 1000)


@pytest.mark.parametrize("kind", ["inside", "beside"])
def test_a_kill_leaves_the_old_file_or_the_new_one(kind: str, tmp_path: Path) -> None:
    found = kill_writers(kind, tmp_path, times=5, seed=0)
    assert found["old"] + found["new"] + found["none yet"] == 5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", ["inside", "beside"])
def test_many_kills_leave_the_old_file_or_the_new_one(kind: str, tmp_path: Path) -> None:
    found = kill_writers(kind, tmp_path, times=40, seed=1)
    assert found["new"]
    assert found["with unfinished files"]


@pytest.mark.parametrize("kind", ["inside", "beside"])
def test_runs_on_the_same_output_do_not_mix(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.reliability.writer import beside, network\n"
        "from onnxsep.model import save_model\n"
        "if sys.argv[1] == 'beside': beside()\n"
        "model = network(int(sys.argv[3]))\n"
        "for _ in range(12): save_model(model, Path(sys.argv[2]))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, kind, str(path), str(seed)], cwd=REPOSITORY)
        for seed in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert written_by(path) in (0, 1, 2)
    assert len(list(tmp_path.iterdir())) == (2 if kind == "beside" else 1)


def test_what_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with unfinished_file(tmp_path / "a") as temporary:
        sweep(tmp_path)
        assert temporary.exists()
        with atomic_file(tmp_path / "b") as other:  # sweeps, too
            other.write_text("b")
        assert temporary.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b"]


def test_what_only_looks_like_ours_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / ".onnxsep-folder.part").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / ".onnxsep-link.part").symlink_to("precious")
    os.mkfifo(tmp_path / ".onnxsep-pipe")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    sweep(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_a_claim_of_another_user_is_not_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared folder it could name any file of ours."""
    (tmp_path / "photos").write_text("keep")
    content = {"target": "m.onnx", "names": ["photos"]}
    claim = tmp_path / ".onnxsep-x.part"
    claim.write_bytes(b"onnxsep claim\n" + json.dumps(content).encode())
    monkeypatch.setattr(os, "geteuid", lambda: claim.stat().st_uid + 1)
    sweep(tmp_path)
    assert claim.exists()
    assert (tmp_path / "photos").exists()
    monkeypatch.undo()
    sweep(tmp_path)
    assert not claim.exists()
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"target": "m", "names": 3}', b'{"target": "m", "names": ["../x"]}'],
)
def test_a_claim_that_is_none_removes_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_text("keep")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".onnxsep-x.part").write_bytes(b"onnxsep claim\n" + content)
    sweep(tmp_path / "folder")
    assert (tmp_path / "x").exists()
    assert not list((tmp_path / "folder").iterdir())


def test_weights_that_a_model_mentions_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"...w.data...")
    (tmp_path / "w.data").write_text("keep")
    (tmp_path / "v.data").write_text("nobody's")
    with claimed(tmp_path / "model.onnx", ["w.data", "v.data"]):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.onnx", "w.data"]


@pytest.mark.usefixtures("large")
def test_weights_that_a_copy_of_the_model_shares_stay(tmp_path: Path) -> None:
    save_model(network(1), tmp_path / "model.onnx")
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    save_model(network(2), tmp_path / "model.onnx")
    assert written_by(tmp_path / "copy.onnx") == 1
    assert written_by(tmp_path / "model.onnx") == 2
    save_model(network(3), tmp_path / "model.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "copy.onnx",
        "model.onnx",
        "model.onnx.2.data",
        "model.onnx.data",
    ]


@pytest.mark.usefixtures("large")
def test_a_strangers_file_in_the_way_of_the_weights_stays(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_text("a stranger's")
    save_model(network(1), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").read_text() == "a stranger's"
    assert written_by(tmp_path / "model.onnx") == 1


@pytest.mark.usefixtures("large")
def test_weights_of_a_model_that_shrank_are_inside_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped weights must not leave the result pointing at the input's file."""
    save_model(network(1), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", 2**31)
    (tmp_path / "elsewhere").mkdir()
    save_model(model, tmp_path / "elsewhere" / "result.onnx")
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == ["result.onnx"]
    assert written_by(tmp_path / "elsewhere" / "result.onnx") == 1


@pytest.mark.parametrize("kind", ["inside", "beside"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_file_larger_than_allowed_is_one_sentence(kind: str, tmp_path: Path) -> None:
    """The limit of ``ulimit -f`` fails a write in its middle, as a full disk does."""
    (tmp_path / "model.onnx").write_bytes(b"old")
    script = (
        "import resource, signal, sys\n"
        "from tests.reliability.writer import beside, network\n"
        "from onnxsep.model import save_model\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "if sys.argv[1] == 'beside': beside()\n"
        "model = network(1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "try: save_model(model, sys.argv[2])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, kind, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OutputError cannot write ")
    assert "File too large" in done.stdout
    assert (tmp_path / "model.onnx").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        tmp_path.chmod(0o500)
    else:  # root may write everywhere

        def denied(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(files.tempfile, "mkstemp", denied)
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx: Permission denied"):
        save_model(network(1), tmp_path / "model.onnx")
    tmp_path.chmod(0o700)


@pytest.mark.usefixtures("large")
def test_no_room_for_the_temporary_copy_of_a_large_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onnxsep import runtime

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime, "save_beside", full)
    with pytest.raises(OutputError, match=r"No space left on device.*set TMPDIR"):
        runtime.make_session(network(1))


@pytest.mark.usefixtures("large")
def test_changed_weights_of_a_large_model_go_to_disk(tmp_path: Path) -> None:
    from onnxsep.constants import add_initializer

    save_model(network(1), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx").clone()
    array = np.arange(3000, dtype=np.float32).reshape(30, 100)
    tensor = add_initializer(model.graph, "new", array).const_value
    assert tensor is not None
    kept = tensor.numpy()
    np.testing.assert_array_equal(kept, array)
    assert not kept.flags.owndata
    assert not kept.flags.writeable
    weights.drop_pages(model)
    np.testing.assert_array_equal(kept, array)


def test_a_large_model_of_very_many_weights_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may hold about a thousand files open: not one for every weight."""
    import resource

    import onnx
    import onnx_ir as ir

    count = 300
    lines = "".join(f"v{i + 1} = Add (v{i}, w{i}) " for i in range(count))
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[4] v0) => (float[4] v{count}) {{ {lines} }}"
    )
    for index in range(count):
        tensor = proto.graph.initializer.add(name=f"w{index}", data_type=1, dims=[4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", 16 * index), ("length", 16)):
            tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "w.bin").write_bytes(np.arange(4 * count, dtype=np.float32).tobytes())
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    monkeypatch.setattr(weights, "PROTOBUF_LIMIT_BYTES", 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, limits[1]))
    try:
        model = load_model(tmp_path / "model.onnx")
        arrays = [value.const_value.numpy() for value in model.graph.initializers.values()]  # type: ignore[union-attr]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(model, ir.Model)
    np.testing.assert_array_equal(np.concatenate(arrays), np.arange(4 * count))
