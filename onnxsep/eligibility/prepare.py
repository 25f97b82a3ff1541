"""The graph as onnxruntime hands it to a provider.

Before it asks providers, onnxruntime folds constants, fuses BatchNormalization into convolutions,
removes what does nothing and gives every operator its own DequantizeLinear: its optimization level
``basic``, which is the same for all providers. It is run here on the CPU provider.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.errors import InputError
from onnxsep.model import PROTOBUF_LIMIT_BYTES, weight_bytes
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.runtime import first_line

_SILENT = 4
_CPU = "CPUExecutionProvider"
# The CPU has no float16 kernels; the Casts that help it are not there for other providers.
_HELPER_CAST = "InsertedPrecisionFreeCast_"
# Before it, every initializer had to be listed as an input.
_FIRST_IR_WITH_FIXED = 4
_INLINE_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A graph to ask a provider about.

    Attributes:
        model: Constants may lie outside, only their shapes can then be read.
        opset: Of the standard operators.
        notes: What should be known about how it was made, one sentence each.
    """

    model: ir.Model
    opset: int
    notes: tuple[str, ...]


def prepare(model: ir.Model) -> Prepared:
    """The graph that providers would see.

    Args:
        model: Left unchanged.

    Raises:
        InputError: Neither onnxruntime nor our own passes can make anything of it.
    """
    source = model.clone()
    notes = _open_inputs(source)
    try:
        prepared = _at_basic_level(source)
    except _CannotLoadError as error:
        notes.append(
            f"onnxruntime here cannot load the model ({error}): its graph was prepared by our own "
            "passes, which fold less"
        )
        prepared = source
        for rewrite in (Normalize(), FoldBatchNorm()):
            rewrite(prepared)
    _infer_shapes(prepared)
    opset = max(
        (prepared.opset_imports.get(domain, 0) for domain in ("", "ai.onnx")),
        default=0,
    )
    return Prepared(prepared, opset, tuple(notes))


class _CannotLoadError(Exception):
    """onnxruntime's reason, one line."""


def _open_inputs(model: ir.Model) -> list[str]:
    """Initializers that are inputs as well: constants in old files, changeable in newer ones."""
    both = [value for value in model.graph.inputs if value.name in model.graph.initializers]
    if not both:
        return []
    if (model.ir_version or 0) < _FIRST_IR_WITH_FIXED:
        kept = [value for value in model.graph.inputs if value not in both]
        model.graph.inputs[:] = kept
        model.ir_version = _FIRST_IR_WITH_FIXED
        return []
    return [
        f"{len(both)} initializers are listed as inputs, so that onnxruntime takes them for "
        "changeable and folds nothing into them: write the model anew with "
        "`onnxsep optimize --passes simplify`"
    ]


def _at_basic_level(model: ir.Model) -> ir.Model:
    """What onnxruntime's basic level makes of ``model``.

    Raises:
        _CannotLoadError: It cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_prepacking", "1")
    large = weight_bytes(model) >= PROTOBUF_LIMIT_BYTES
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "basic.onnx")
        ir.save(model, source, format="protobuf", external_data="model.data" if large else None)
        options.optimized_model_filepath = str(target)
        if large:
            for name, entry in (
                ("file_name", "basic.data"),
                ("min_size_in_bytes", str(_INLINE_BYTES)),
            ):
                options.add_session_config_entry(
                    f"session.optimized_model_external_initializers_{name}", entry
                )
        try:
            onnxruntime.InferenceSession(source, options, providers=[_CPU], enable_fallback=0)
            proto = onnx.load(target, load_external_data=False)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise _CannotLoadError(first_line(error)) from error
    prepared = ir.serde.deserialize_model(proto)
    _remove_helper_casts(prepared)
    return prepared


def _remove_helper_casts(model: ir.Model) -> None:
    casts = [
        node
        for node in model.graph.all_nodes()
        if node.op_type == "Cast" and (node.name or "").startswith(_HELPER_CAST)
    ]
    for node in casts:
        (result,), source = node.outputs, node.inputs[0]
        if source is None or node.graph is None:
            continue
        if result.is_graph_output():
            # The value takes the place of the result, under the name that callers know.
            ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
            source.name, result.name = result.name, None
        else:
            ir.convenience.replace_all_uses_with(result, source)
        node.graph.remove(node, safe=True)
    if casts:
        for node in model.graph.all_nodes():
            for value in node.outputs:
                if not value.is_graph_output():
                    value.type, value.shape = None, None


def _infer_shapes(model: ir.Model) -> None:
    if weight_bytes(model) >= PROTOBUF_LIMIT_BYTES:
        return
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    except Exception as error:  # onnx's errors share no base class
        raise InputError(
            f"the shapes of the model cannot be inferred: {first_line(error)}"
        ) from error
