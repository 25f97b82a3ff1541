"""Half precision for targets whose kernels are fastest in it, with inputs and outputs as they were.

The conversion is onnxruntime's own: it keeps operators that need single precision in float32 and
puts Casts around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnxsep.calibrate.sweep import collect_statistics
from onnxsep.constants import constant_array
from onnxsep.errors import InputError, OnnxsepError
from onnxsep.interface import interface_difference
from onnxsep.passes.base import Change, LossyPass, Refusal, RewriteResult
from onnxsep.proof import largest_relative_difference
from onnxsep.runtime import Feeds, first_line
from onnxsep.weights import is_large

WHOLE_MODEL = "(whole model)"
_LARGEST = float(np.finfo(np.float16).max)
# Ten bits of mantissa over a few dozen layers lose less; a value that overflowed loses everything.
_TOLERANCE = 0.1


class ToFp16(LossyPass):
    """Weights and arithmetic in float16.

    Refuses, and leaves the model as it was, where a weight or an activation does not fit into
    float16, or the converted model is no valid model.
    """

    name = "to_fp16"

    def __init__(self, checks: Sequence[Feeds] = (), *, keep_float: frozenset[str] = frozenset()):
        """Prepare the pass.

        Args:
            checks: Batches of inputs on which the result must be near the model; none skips this.
            keep_float: Names of nodes to leave in float32.
        """
        self._checks = checks
        self._keep_float = keep_float

    def call(self, model: ir.Model) -> RewriteResult:
        """Convert in place."""
        refusal = _why_not(model) or _why_not_values(model, self._checks)
        if refusal is not None:
            return RewriteResult(model, modified=False, refusals=[refusal])
        try:
            converted = _converted(model, self._keep_float)
        except InputError as error:
            return _refused(model, "not-convertible", str(error))
        difference = interface_difference(model, converted, shapes=False)
        if difference:
            return _refused(model, "interface-changed", f"the converted model {difference}")
        try:
            worst = largest_relative_difference(model, converted, self._checks)
        except OnnxsepError as error:
            return _refused(model, "result-does-not-run", str(error))
        if not worst <= _TOLERANCE:
            reason = f"the converted model differs by {worst:.1e} of the largest output"
            return _refused(model, "numbers-changed", reason)
        count = _weights_in_half(converted)
        model.graph = converted.graph
        model.ir_version = converted.ir_version
        change = Change(
            WHOLE_MODEL,
            "converted-to-fp16",
            f"{count} weights in half precision, inputs and outputs as they were",
            {"weights": count, "difference": worst},
        )
        return RewriteResult(model, modified=True, changes=[change])


def _converted(model: ir.Model, keep_float: frozenset[str]) -> ir.Model:
    try:
        proto = convert_float_to_float16(
            onnx.shape_inference.infer_shapes(ir.to_proto(model)),
            keep_io_types=True,
            node_block_list=sorted(keep_float),
        )
        # Casts stand behind what reads them.
        converted: ir.Model = TopologicalSortPass()(ir.from_proto(proto)).model
        onnx.checker.check_model(ir.to_proto(converted), full_check=True)
    except Exception as error:  # the library and the checker raise many kinds
        raise InputError(f"the conversion to fp16 fails: {first_line(error)}") from error
    return converted


def _why_not(model: ir.Model) -> Refusal | None:
    if is_large(model):
        return Refusal(WHOLE_MODEL, "too-large", "its weights are larger than 2 GB")
    for node in model.graph.all_nodes():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reason = f"it holds {node.op_type} ('{node.name}'); give the float model"
            return Refusal(WHOLE_MODEL, "already-quantized", reason)
    kinds = {value.dtype for graph in model.graphs() for value in graph.initializers.values()}
    if ir.DataType.FLOAT not in kinds:
        return Refusal(WHOLE_MODEL, "no-float32-weights", "it has no weights in float32")
    return None


def _why_not_values(model: ir.Model, checks: Sequence[Feeds]) -> Refusal | None:
    """Whether a number does not fit; the CPU, which computes float16 in float32, would not show."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            array = constant_array(value)
            if array is not None and array.dtype == np.float32 and array.size:
                largest = float(np.abs(array).max())
                if largest > _LARGEST:
                    reason = f"the weight '{value.name}' holds {largest:.3g}, above {_LARGEST:g}"
                    return Refusal(WHOLE_MODEL, "weight-too-large", reason)
    if not checks:
        return None
    for name, found in collect_statistics(model, checks).items():
        largest = max(-found.minimum, found.maximum)
        if largest > _LARGEST:
            reason = f"the value '{name}' reaches {largest:.3g} on data, above {_LARGEST:g}"
            return Refusal(WHOLE_MODEL, "value-too-large", reason)
    return None


def _weights_in_half(model: ir.Model) -> int:
    return sum(
        value.dtype == ir.DataType.FLOAT16
        for graph in model.graphs()
        for value in graph.initializers.values()
    )


def _refused(model: ir.Model, code: str, reason: str) -> RewriteResult:
    refusal = Refusal(WHOLE_MODEL, code, reason)
    return RewriteResult(model, modified=False, refusals=[refusal])
