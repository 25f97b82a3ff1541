"""Numerical comparison of two models on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from onnxsep.errors import VerificationError
from onnxsep.runtime import Feeds, make_session, run

# Rounding of a few dozen layers, relative to the largest output, by the narrowest float type used.
_TOLERANCES = {ir.DataType.FLOAT16: 2e-2, ir.DataType.BFLOAT16: 1e-1}
_FLOAT32_TOLERANCE = 1e-4
# One step of an eight-bit output, and room for a few steps inside.
_QUANTIZED_TOLERANCE = 5e-2


def tolerance_for(model: ir.Model) -> float:
    """Largest difference, relative to the largest output, that rounding in this model explains."""
    tolerance = _FLOAT32_TOLERANCE
    for data_type in _data_types(model):
        tolerance = max(tolerance, _TOLERANCES.get(data_type, 0.0))
    if any(node.op_type == "DequantizeLinear" for node in model.graph.all_nodes()):
        tolerance = max(tolerance, _QUANTIZED_TOLERANCE)
    return tolerance


def _data_types(model: ir.Model) -> Iterator[ir.DataType]:
    """Types that numbers of this model are known to have: fed, stored or converted to."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype is not None:
            yield value.dtype
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.dtype is not None:
                yield value.dtype
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor().dtype
            elif node.op_type == "Cast" and attribute.name == "to":
                yield ir.DataType(attribute.as_int())


def largest_relative_difference(
    before: ir.Model, after: ir.Model, batches: Iterable[Feeds]
) -> float:
    """Worst output over all batches: largest absolute difference over largest absolute value.

    NaN where the original is finite counts as infinite; NaN and infinity in the same places count
    as equal. Of integers, truth values and texts it is the share that differs: rounding may decide
    between two classes that are equally likely. Eight-bit numbers, which may be either, count as
    what is the less. Shapes and types must be equal.
    """
    first = make_session(before, label="the original")
    second = make_session(after, label="the rewritten model")
    worst = 0.0
    for feeds in batches:
        expected = run(first, feeds, label="the original")
        found = run(second, feeds, label="the rewritten model")
        for one, other in zip(expected, found, strict=True):
            worst = max(worst, _difference(np.asarray(one), np.asarray(other)))
    return worst


def require_equal(before: ir.Model, after: ir.Model, batches: Iterable[Feeds], what: str) -> float:
    """`largest_relative_difference`, which must be within `tolerance_for` the original.

    Raises:
        VerificationError: It is not.
    """
    worst = largest_relative_difference(before, after, batches)
    tolerance = tolerance_for(before)
    if not worst <= tolerance:
        raise VerificationError(
            f"{what} changed the numbers: the largest difference is {worst:.1e} of the largest "
            f"output, {tolerance:.0e} would be rounding; nothing was written"
        )
    return worst


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        share = float(np.mean(expected != found))
        if expected.dtype.kind not in "iu" or expected.dtype.itemsize > 1:
            return share
        return min(share, _relative(expected.astype(np.float64), found.astype(np.float64)))
    one, other = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    if not np.isfinite(other[finite]).all():
        return float("inf")
    return _relative(one[finite], other[finite])


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference over the largest expected value; absolute where all of these are 0."""
    if expected.size == 0:
        return 0.0
    scale = float(np.abs(expected).max())
    return float(np.abs(expected - found).max()) / (scale or 1.0)
