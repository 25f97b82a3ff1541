"""Reading .npz and .npy files that nobody vouches for: no pickles, nothing larger than it says."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from onnxsep.errors import InputError

#: An archive may declare this much in the arrays we read; calibration data are far smaller, and a
#: zip of a few kilobytes can declare terabytes.
MAX_BYTES = 4 * 2**30
# Nobody's data set has more arrays; an archive's directory alone can be made huge.
_MAX_MEMBERS = 4096

_HEADER_READERS: dict[
    tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype]]
]
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_SUFFIX = ".npy"
_LONGEST_REASON = 160
# The header of an array is Python text, which NumPy parses with Python's own means.
_HEADER_ERRORS = (
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    OverflowError,
    RecursionError,
    tokenize.TokenError,
)
# zipfile answers a password with RuntimeError, an unknown compression with NotImplementedError.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


def read_npz(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive whose names are ``wanted``.

    Every array's header is held against the size its archive member declares before anything is
    allocated.

    Raises:
        InputError: The file cannot be read, is no archive of plain arrays, is damaged, or declares
            more than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise InputError(f"{path}: holds {len(members)} arrays, more than {_MAX_MEMBERS}")
            chosen = {
                member.filename.removesuffix(_SUFFIX): member
                for member in members
                if member.filename.endswith(_SUFFIX)
                and wanted(member.filename.removesuffix(_SUFFIX))
            }
            declared = sum(member.file_size for member in chosen.values())
            if declared > MAX_BYTES:
                raise InputError(
                    f"{path}: its arrays are {declared / 2**30:.1f} GiB unpacked, more than "
                    f"{MAX_BYTES // 2**30}; store fewer samples, or use package.module:function"
                )
            arrays = {}
            for name, member in chosen.items():
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size, f"{path}: array '{name}'")
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (*_ZIP_ERRORS, *_HEADER_ERRORS) as error:
        raise InputError(
            f"{path}: no sound .npz archive ({_said(error)}); write it with numpy.savez"
        ) from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under any names; `numpy.savez` takes none that is called ``file``."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)


def map_npy(path: Path) -> np.ndarray:
    """The array of an .npy file, mapped into memory read-only rather than read.

    Raises:
        InputError: The file cannot be read, or is no plain array.
    """
    origin = f"{path}: the array"
    try:
        with path.open("rb") as stream:
            _check_header(stream, path.stat().st_size, origin)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _HEADER_ERRORS as error:
        raise InputError(
            f"{path}: no sound .npy file ({_said(error)}); write it with numpy.save"
        ) from error
    return array


def _said(error: BaseException) -> str:
    """A library's message on one line; some hold the whole header."""
    return " ".join(str(error).split())[:_LONGEST_REASON]


def _check_header(stream: IO[bytes], size: int, origin: str) -> None:
    """Compare what an array's header promises with the bytes there are.

    ``stream`` stands at the beginning; ``size`` counts header and data.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise InputError(f"{origin} has a header of an unknown kind; write it with numpy.save")
    shape, _, dtype = _HEADER_READERS[version](stream)
    if dtype.names is not None:
        raise InputError(f"{origin} has named fields; only plain arrays are supported")
    if dtype.hasobject:
        raise InputError(
            f"{origin} holds Python objects, which are never loaded; store plain numbers"
        )
    expected = dtype.itemsize
    for axis in shape:
        expected *= axis
    if expected != size - stream.tell():
        raise InputError(
            f"{origin} is damaged: its header promises {expected} bytes, "
            f"the file has {size - stream.tell()}"
        )
