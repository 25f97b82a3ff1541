"""Numerical comparison of two models on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
    feeds = list(batches)
    # One after the other: two sessions of a large model would take twice its memory.
    expected = _outputs(before, feeds, "the original")
    found = _outputs(after, feeds, "the rewritten model")
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            worst = max(worst, _distance(ours, theirs))
    return worst


def _outputs(model: ir.Model, batches: Sequence[Feeds], label: str) -> list[list[np.ndarray]]:
    session = make_session(model, label=label)
    return [run(session, feeds, label=label) for feeds in batches]


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


def _distance(expected: object, found: object) -> float:
    """`_difference` of two outputs, which may also be sequences, maps or (optional) nothing."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) != list(found):
            return float("inf")
        expected, found = list(expected.values()), list(found.values())
    if isinstance(expected, list) and isinstance(found, list):
        # Not as one array: the parts of a sequence may differ in shape.
        if len(expected) != len(found):
            return float("inf")
        return max(map(_distance, expected, found), default=0.0)
    if expected is None or found is None:
        return 0.0 if expected is found else float("inf")
    return _difference(np.asarray(expected), np.asarray(found))


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
