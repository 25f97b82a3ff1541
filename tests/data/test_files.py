"""Archives and array files that mean harm, or are damaged."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxsep.data import files
from onnxsep.data.files import map_npy, read_npz
from onnxsep.errors import InputError


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def foreign_npy_bytes() -> bytes:
    """An array whose field names need the third version of the format."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, FOREIGN_FIELDS, version=(3, 0))
    return stream.getvalue()


def promising(shape: tuple[int, ...]) -> bytes:
    """The header of a large array with hardly anything behind it."""
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(64)


class Fires:
    """Unpickling this is an attack."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (_fail, ("unpickled",))


def _fail(word: str) -> None:
    raise AssertionError(word)


OBJECTS = np.array([Fires()], dtype=object)
FIELDS = np.zeros(3, dtype=[("a", "<f4")])
FOREIGN_FIELDS = np.zeros(3, dtype=[("\u03b1", "<f4")])


def archive(path: Path, content: bytes, *, name: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_only_wanted_arrays_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    save(path, x=np.arange(6.0).reshape(2, 3).T, y=OBJECTS)
    arrays = read_npz(path, {"x"}.__contains__)
    assert list(arrays) == ["x"]
    np.testing.assert_array_equal(arrays["x"], [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy_bytes(OBJECTS), "holds Python objects, which are never loaded"),
        (npy_bytes(FIELDS), "has named fields"),
        (foreign_npy_bytes(), "header of an unknown kind"),
        (promising((2**40,)), "header promises 4398046511104 bytes, the file has 64"),
        (promising((3,)), "header promises 12 bytes, the file has 64"),
        (npy_bytes(np.zeros(100))[:-8], "damaged"),
        (b"", "no sound"),
        (b"not an array at all", "no sound"),
    ],
    ids=[
        "objects",
        "fields",
        "foreign fields",
        "promises much",
        "promises little",
        "cut",
        "empty",
        "text",
    ],
)
def test_bad_arrays(tmp_path: Path, content: bytes, said: str) -> None:
    lone = tmp_path / "a.npy"
    lone.write_bytes(content)
    with pytest.raises(InputError, match=said):
        map_npy(lone)
    with pytest.raises(InputError, match=said):
        read_npz(archive(tmp_path / "a.npz", content), lambda _: True)


def test_a_pickle_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Fires()))
    with pytest.raises(InputError, match=r"a\.npz: no sound \.npz archive"):
        read_npz(path, lambda _: True)


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy_bytes(np.zeros(1000)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="no sound"):
        read_npz(path, lambda _: True)


def test_a_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(100.0))
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="no sound"):
        read_npz(path, lambda _: True)


def test_a_password(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy_bytes(np.zeros(3)))
    content = path.read_bytes()
    content = content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    path.write_bytes(content.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01"))
    with pytest.raises(InputError, match=r"no sound.*password"):
        read_npz(path, lambda _: True)


def test_an_archive_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "a.npz", npy_bytes(np.zeros(2**17)))
    assert path.stat().st_size < 2**13
    monkeypatch.setattr(files, "MAX_BYTES", 2**19)
    with pytest.raises(InputError, match="GiB unpacked"):
        read_npz(path, lambda _: True)


def test_an_archive_of_too_many_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, *[np.zeros(1)] * 5)
    monkeypatch.setattr(files, "_MAX_MEMBERS", 4)
    with pytest.raises(InputError, match="5 arrays, more than 4"):
        read_npz(path, lambda _: True)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_npz(tmp_path, lambda _: True)
    with pytest.raises(InputError, match="cannot be read"):
        map_npy(tmp_path)


def test_an_array_file_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6))
    mapped = map_npy(tmp_path / "a.npy")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
