"""The thin door to onnxsim: only ``simplify``, in a process of its own.

onnxsim is native code that meets other people's models: a crash there must not be a crash here. The
process also keeps its import (seconds, and a large package) out of ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx_ir as ir

from onnxsep.errors import InputError
from onnxsep.model import load_model
from onnxsep.weights import is_large

# A model of this kind simplifies in seconds; what takes longer has lost its way.
_TIME_LIMIT_SECONDS = 300
# Constants that folding may blow up a smaller one to (onnxsim's own limit is 1.5 GB a piece).
_LARGEST_EXPANSION = "1MB"
_LONGEST_REASON = 200


def simplify_model(model: ir.Model) -> ir.Model:
    """A simplified copy of ``model``, BatchNormalization left for our own pass.

    Raises:
        InputError: onnxsim failed, crashed or took too long.
    """
    if is_large(model):
        raise InputError("models above 2 GB are not given to onnxsim")
    try:
        with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
            source, result = Path(folder, "source.onnx"), Path(folder, "result.onnx")
            source.write_bytes(ir.to_proto(model).SerializeToString())
            # -P: modules that lie in the current folder are not ours.
            command = [sys.executable, "-P", "-m", "onnxsep.simplifier", str(source), str(result)]
            done = subprocess.run(  # noqa: S603 - our own interpreter and files, no shell
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIME_LIMIT_SECONDS,
                check=False,
            )
            if done.returncode != 0 or not result.is_file():
                raise InputError(f"onnxsim failed: {_reason(done)}")
            return _result(result)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"onnxsim took more than {_TIME_LIMIT_SECONDS} s") from error
    except OSError as error:
        raise InputError(f"onnxsim could not be run: {error.strerror or error}") from error


def _result(path: Path) -> ir.Model:
    try:
        return load_model(path)
    except InputError as error:
        # The name of a temporary file says nothing, and differs from run to run.
        raise InputError(
            f"onnxsim's result is of no use: {str(error).replace(str(path), 'it')}"
        ) from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what it said, or how it ended."""
    if done.returncode < 0:
        return f"it crashed (signal {-done.returncode})"
    lines = done.stderr.strip().splitlines()
    return lines[-1][:_LONGEST_REASON] if lines else f"exit code {done.returncode}"


def _main(source: str, result: str) -> None:
    import onnx
    import onnxsim

    simplified, agreed = onnxsim.simplify(
        onnx.load(source), skip_fuse_bn=True, tensor_size_threshold=_LARGEST_EXPANSION
    )
    if not agreed:
        raise SystemExit("its own check failed")
    onnx.save(simplified, result)


if __name__ == "__main__":
    _main(*sys.argv[1:])
