"""Files that are written whole or not at all, whatever happens while they are written.

What is unfinished lies beside its target under a name of our own and is locked by the process that
writes it. The system lets go of the lock when that process ends, however it ends; so whoever writes
to the same folder next can tell what nobody will finish, and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

if os.name == "posix":
    import fcntl

# Elsewhere nothing is locked, and so nothing is swept.
_HAS_LOCKS = os.name == "posix"

# Not made from the target's name: that may be as long as the file system allows.
_PREFIX = ".onnxsep-"
_SUFFIX = ".part"
# Such a file names others that may have to go, see `claimed`.
_CLAIM = b"onnxsep claim\n"
_LONGEST_CLAIM_BYTES = 2**20


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    What runs that were killed have left in the folder is removed.

    Raises:
        OSError: It cannot be written, or something else than a regular file is in its place.
    """
    with unfinished_file(path) as temporary:
        yield temporary
        finish(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, removed at the end of the block unless it was moved away.

    Raises:
        OSError: It cannot be made, or something else than a regular file is at ``path``.
    """
    require_replaceable(path)
    sweep(path.parent)
    handle, temporary = _locked_file(path.parent)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def finish(temporary: Path) -> None:
    """Bring a file to the disk and give it the permissions of any new file.

    Raises:
        OSError: The disk is full or fails.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    # mkstemp makes files private; a result should be as readable as any other new file.
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)


def require_replaceable(path: Path) -> None:
    """Refuse what is there but no regular file.

    Raises:
        FileExistsError: Replacing /dev/null or /dev/stdout would break the machine, not write.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it exists and is no regular file", str(path))


def holds_bytes(path: Path, text: bytes) -> bool:
    """Whether ``text`` occurs in a file, which is not read into memory for that.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the system can: a rename is one of these."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Wait until no other run is changing files of several parts in ``folder``."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that may be written to but not read, or Windows
        yield
        return
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def claimed(target: Path, names: Sequence[str]) -> Iterator[None]:
    """In the end, whatever happens, those of ``names`` go that no model mentions.

    The block moves a file of weights into place and then the model that mentions it. Ended early,
    it leaves weights that belong to nothing; ended well, the old model's. If the process is killed,
    the next `sweep` does what is left to do.

    Args:
        target: The model.
        names: Files beside it.

    Raises:
        OSError: The claim cannot be written.
    """
    handle, claim = _locked_file(target.parent)
    try:
        content = {"target": target.name, "names": list(names)}
        with claim.open("wb") as file:
            file.write(_CLAIM + json.dumps(content).encode())
            file.flush()
            os.fsync(file.fileno())
        yield
    finally:
        _settle(claim)
        claim.unlink(missing_ok=True)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove unfinished files that nobody holds: those of runs that were killed."""
    if not _HAS_LOCKS:
        return
    try:
        names = [name for name in os.listdir(folder) if _is_ours(name)]
    except OSError:
        return
    for name in names:
        # Not ours to remove, or gone already: then it stays, or is gone.
        with contextlib.suppress(OSError):
            handle = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # Another user's could claim any file in a folder that both may write to.
                if os.fstat(handle).st_uid == os.geteuid() and _lock(handle, wait=False):
                    _settle(folder / name)
                    os.unlink(folder / name)
            finally:
                os.close(handle)


def _settle(claim: Path) -> None:
    """Remove what a claim names and no model mentions."""
    try:
        with claim.open("rb") as file:
            content = file.read(_LONGEST_CLAIM_BYTES)
        if not content.startswith(_CLAIM):
            return
        claims = json.loads(content[len(_CLAIM) :])
        target, names = str(claims["target"]), [str(name) for name in claims["names"]]
    except (OSError, ValueError, KeyError, TypeError):  # killed while it was written
        return
    for name in names:
        if os.path.basename(name) == name and not _is_mentioned(claim.parent, target, name):
            with contextlib.suppress(OSError):
                (claim.parent / name).unlink()


def _is_mentioned(folder: Path, target: str, name: str) -> bool:
    """Whether a model in ``folder`` has the file name in it; in doubt, it has."""
    try:
        models = {folder / target, *(path for path in folder.iterdir() if path.suffix == ".onnx")}
        return any(holds_bytes(path, os.fsencode(name)) for path in models if path.is_file())
    except OSError:
        return True


def _is_ours(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _locked_file(folder: Path) -> tuple[int, Path]:
    """A new file that this process holds; the caller closes it."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX, suffix=_SUFFIX)
        _lock(handle, wait=True)
        # Between making and locking it, another run may have taken it for a dead one's.
        if not _HAS_LOCKS or os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether the lock is ours. File systems without locks give none: nothing is swept there."""
    if not _HAS_LOCKS:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
