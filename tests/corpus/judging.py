"""Running a model of any operator set, and telling whether two results are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

Feeds = Mapping[str, Any]
Runner = Callable[[onnx.ModelProto, Feeds], list[Any]]

_SILENT = 4
# Two steps of bfloat16, as the onnx package's runner allows.
_BFLOAT16_RTOL = 2**-6
# Rounding of a sum whose terms cancel out, relative to the largest number of the output: the
# runner's absolute tolerance is for operators, not for a product folded into the one before it.
_ROUNDING = {"float16": 1e-3, "bfloat16": 1e-2}
_FLOAT32_ROUNDING = 2e-6


def run_in_onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """All outputs, from a session as a user would make it, but with one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    source = model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        # Which of them become integer kernels depends on what is a constant: with rounding of
        # activations, or without. As written, the graph has no such choice.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    types = {value.name: value.type for value in model.graph.input}
    values = {name: _as_fed(value, types.get(name)) for name, value in feeds.items()}
    if not any(isinstance(value, onnxruntime.OrtValue) for value in values.values()):
        return list(session.run(None, values))
    wrapped = {
        name: value
        if isinstance(value, onnxruntime.OrtValue)
        else onnxruntime.OrtValue.ortvalue_from_numpy(value)
        for name, value in values.items()
    }
    return [value.numpy() for value in session.run_with_ort_values(None, wrapped)]


def run_in_interpreter(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """All outputs, by ONNX's reference interpreter."""
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def _as_fed(value: Any, declared: onnx.TypeProto | None) -> Any:
    """Types that NumPy has not itself go through an OrtValue."""
    if not isinstance(value, np.ndarray) or type(value.dtype.type(0)).__module__ == "numpy":
        return value
    element = declared.tensor_type.elem_type if declared is not None else 0
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(value, element)


def difference(expected: Sequence[Any], found: Sequence[Any], *, rtol: float, atol: float) -> str:
    """Where two results differ by more than rounding, empty where they do not."""
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        if isinstance(one, list | tuple):
            if not isinstance(other, list | tuple):
                return f"output {index} is no sequence"
            inner = difference(one, other, rtol=rtol, atol=atol)
            if inner:
                return f"output {index}: {inner}"
            continue
        if isinstance(one, dict):
            if one != other:
                return f"output {index} is another map"
            continue
        if one is None or other is None:
            if one is not other:
                return f"output {index} is empty in one of both"
            continue
        inner = _array_difference(np.asarray(one), np.asarray(other), rtol, atol)
        if inner:
            return f"output {index} {inner}"
    return ""


def _array_difference(one: np.ndarray, other: np.ndarray, rtol: float, atol: float) -> str:
    if one.shape != other.shape:
        return f"has shape {other.shape} instead of {one.shape}"
    if one.dtype.kind in "OUS" or other.dtype.kind in "OUS":
        same = np.array_equal(one.astype(str), other.astype(str))
        return "" if same else "holds other texts"
    if one.dtype != other.dtype:
        return f"has type {other.dtype} instead of {one.dtype}"
    if one.dtype.kind in "biu":
        return "" if np.array_equal(one, other) else _worst(one, other)
    if one.dtype.kind == "c":
        return "" if np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True) else "differs"
    name = one.dtype.name
    wide, narrow = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], narrow[~finite], equal_nan=True):
        return "has NaN or infinity in other places"
    if name == "bfloat16":
        rtol = max(rtol, _BFLOAT16_RTOL)
    scale = np.abs(wide[finite]).max(initial=0.0)
    atol = max(atol, _ROUNDING.get(name, _FLOAT32_ROUNDING) * float(scale))
    if np.allclose(wide, narrow, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return _worst(wide, narrow)


def _worst(one: np.ndarray, other: np.ndarray) -> str:
    with np.errstate(invalid="ignore"):
        gap = np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64)))
    return f"differs by {gap.max(initial=0.0):.1e} at most"
