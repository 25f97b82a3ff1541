"""What the outside sees of a model: inputs and outputs, their names, types and dimensions."""

from __future__ import annotations

import onnx_ir as ir


def interface_difference(before: ir.Model, after: ir.Model, *, shapes: bool = True) -> str:
    """How the interface of ``after`` differs, as the end of a sentence; empty if it does not.

    Initializers that are listed as inputs are no part of the interface: onnxruntime does not ask
    for them. A dimension that was free must stay free; its name may be lost only where it was none.
    """
    for what, old, new in (
        ("inputs", _fed_inputs(before), _fed_inputs(after)),
        ("outputs", list(before.graph.outputs), list(after.graph.outputs)),
    ):
        old_names, new_names = [v.name for v in old], [v.name for v in new]
        if old_names != new_names:
            return f"has {what} {new_names} instead of {old_names}"
        for old_value, new_value in zip(old, new, strict=True):
            if old_value.dtype is not None and old_value.dtype != new_value.dtype:
                return f"gives '{old_value.name}' the type {new_value.dtype}"
            if shapes and old_value.shape is not None and _shape(old_value) != _shape(new_value):
                return (
                    f"gives '{old_value.name}' the shape {_shape(new_value)} "
                    f"instead of {_shape(old_value)}"
                )
    return ""


def restore_interface(model: ir.Model, reference: ir.Model) -> None:
    """Give the inputs and outputs of ``model`` the declared types and shapes of ``reference``'s."""
    for own, other in (
        (_fed_inputs(model), _fed_inputs(reference)),
        (list(model.graph.outputs), list(reference.graph.outputs)),
    ):
        for value, declared in zip(own, other, strict=True):
            value.type = declared.type
            value.shape = None if declared.shape is None else declared.shape.copy()


def _fed_inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def _shape(value: ir.Value) -> tuple[str, ...] | None:
    return None if value.shape is None else tuple(str(dimension) for dimension in value.shape)
