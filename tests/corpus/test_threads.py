"""The same seed gives the same bytes, whatever number of threads is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxsep.options import Options
from onnxsep.pipeline import optimize

from ..small_models import write_small_network
from .samples import REPOSITORY

_SCRIPT = """
import sys
from onnxsep.options import Options
from onnxsep.pipeline import optimize
source, output, precision = sys.argv[1:]
optimize(source, Options(samples=16, rank=1, precision=precision, max_drop=1e9, min_snr_db=-1e9,
                         measure_latency=False), output=output)
"""


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_thread_and_two_give_the_same_bytes(precision: str, tmp_path: Path) -> None:
    source = write_small_network(tmp_path / "small.onnx")
    results = []
    for threads in (1, 2):
        options = Options(
            samples=16,
            rank=1,
            precision=precision,
            max_drop=1e9,
            min_snr_db=-1e9,
            measure_latency=False,
            threads=threads,
        )
        output = tmp_path / f"{threads}.onnx"
        result = optimize(source, options, output=output)
        assert result.record.separated
        results.append(output.read_bytes())
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_libraries_own_threads_change_no_byte(tmp_path: Path) -> None:
    source = write_small_network(tmp_path / "small.onnx")
    results = []
    for threads in ("1", "2"):
        output = tmp_path / f"{threads}.onnx"
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(source), str(output), "int8"],
            env={**os.environ, **dict.fromkeys(names, threads)},
            cwd=REPOSITORY,
            check=True,
        )
        results.append(output.read_bytes())
    assert results[0] == results[1]
