"""A model above 2 GB: in and out with external data, its memory bounded."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnx
import pytest

from .large_model import optimize_with_peak, write_large_model

# The model, the code, and what is being changed at the moment.
MOST_MEMORY = 1.5
_NEEDED_BYTES = 8 * 10**9


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


@pytest.mark.slow
@pytest.mark.long
def test_a_model_above_two_gigabytes(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < _NEEDED_BYTES:
        pytest.skip("the disk has no room for a model of 2 GB and its copies")
    source = tmp_path / "large.onnx"
    size = write_large_model(source)
    assert size > 2**31
    before = [digest(source), digest(tmp_path / "large.onnx.data")]
    output = tmp_path / "result.onnx"
    try:
        code, stages = optimize_with_peak(
            source, "--passes", "simplify,fold_batchnorm", "--samples", "4", "-o", str(output)
        )
        assert code == 0, stages
        peaks = {stage: round(peak / size, 2) for stage, peak in stages}
        assert max(peaks.values()) <= MOST_MEMORY, peaks
        assert [digest(source), digest(tmp_path / "large.onnx.data")] == before
        onnx.checker.check_model(output)
        graph = onnx.load(output, load_external_data=False).graph
        assert not any(node.op_type == "BatchNormalization" for node in graph.node)
        assert (tmp_path / "result.onnx.data").stat().st_size > 2**31
        assert not list(tmp_path.glob(".onnxsep-*"))
    finally:
        for path in tmp_path.iterdir():
            path.unlink()
