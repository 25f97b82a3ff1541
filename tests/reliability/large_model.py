"""A generated model of more than 2 GB with external data, and the memory a run over it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

# Numbers are written in blocks of so many; every weight begins with one of its own.
_BLOCK = 2**20
_CHANNELS, _WIDTH = 1024, 8192


def write_large_model(path: Path, *, convolutions: int = 10, layers: int = 8) -> int:
    """Convolutions with BatchNormalization, then wide layers; the bytes of its weights.

    Args:
        path: Of the model; the weights go to ``path.data``.
        convolutions: 38 MB each, all changed by folding.
        layers: 268 MB each but the first, changed by nothing.
    """
    block = np.random.default_rng(0).standard_normal(_BLOCK).astype(np.float32) * np.float32(0.01)
    tensors: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    with path.with_name(path.name + ".data").open("wb") as file:

        def weight(name: str, *shape: int) -> str:
            offset, left = file.tell(), int(np.prod(shape)) - 1
            file.write(np.float32(len(tensors)).tobytes())  # equal weights would be shared
            while left > 0:
                file.write(block[:left].tobytes())
                left -= _BLOCK
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": path.name + ".data", "offset": offset}
            for key, value in (entries | {"length": 4 * int(np.prod(shape))}).items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            return name

        def node(operator: str, *inputs: str, **attributes: object) -> str:
            name = f"{operator}_{len(nodes)}"
            nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
            return name

        value = node("Conv", "x", weight("stem", _CHANNELS, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
        for number in range(convolutions):
            kernel = weight(f"w{number}", _CHANNELS, _CHANNELS, 3, 3)
            value = node("Conv", value, kernel, pads=[1] * 4)
            parameters = [
                helper.make_tensor(
                    f"{letter}{number}", 1, [_CHANNELS], np.full(_CHANNELS, start, np.float32)
                )
                for letter, start in zip("gbmv", (1.1, 0, 0, 1), strict=True)
            ]
            tensors.extend(parameters)
            value = node("BatchNormalization", value, *(tensor.name for tensor in parameters))
            value = node("Relu", value)
        value = node("Flatten", node("GlobalAveragePool", value))
        width = _CHANNELS
        for number in range(layers):
            value = node("Relu", node("Gemm", value, weight(f"l{number}", _WIDTH, width), transB=1))
            width = _WIDTH
        nodes.append(helper.make_node("Gemm", [value, weight("last", 10, width)], ["y"], transB=1))
        size = file.tell()
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        tensors,
    )
    imports = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    )
    return size


def optimize_with_peak(path: Path, *arguments: str) -> tuple[int, list[tuple[str, int]]]:
    """Run ``onnxsep optimize`` over a model; exit code, and the peak of every stage.

    Returns:
        The exit code; stages in order with the most bytes resident in memory in each, mapped files
        counted as far as they are in memory.
    """
    command = [sys.executable, "-m", "onnxsep", "optimize", str(path), "--json", *arguments]
    run = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    peaks = [0]

    def watch() -> None:
        status = Path(f"/proc/{run.pid}/status")
        while run.poll() is None:
            try:
                found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
            except OSError:
                return
            if found:
                peaks[-1] = max(peaks[-1], 1024 * int(found[1]))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    stages = ["starting"]
    assert run.stderr is not None
    for line in run.stderr:
        stages.append(line.partition("] ")[2].strip() or line.strip())
        peaks.append(0)
    code = run.wait()
    watcher.join()
    return code, list(zip(stages, peaks, strict=True))
