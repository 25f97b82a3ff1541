"""Free dimensions of inputs: which there are, and a copy of the model with sizes for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxsep.errors import ConfigurationError

_LARGEST_SIZE = 2**31 - 1


def parse_sizes(assignments: Sequence[str]) -> dict[str, int]:
    """Sizes by the name of a dimension or by ``input:axis``, from ``name=size`` texts.

    Raises:
        ConfigurationError: One is malformed, or two contradict each other.
    """
    sizes: dict[str, int] = {}
    for text in assignments:
        name, equals, size = text.rpartition("=")
        if not equals or not name.strip() or not size.strip().isascii() or not size.isdecimal():
            raise ConfigurationError(
                f"--fix-shape takes NAME=SIZE or INPUT:AXIS=SIZE, not {text!r}"
            )
        number = int(size)
        if not 0 < number <= _LARGEST_SIZE:
            raise ConfigurationError(f"--fix-shape {text!r}: a size is 1 or more")
        if sizes.setdefault(name.strip(), number) != number:
            raise ConfigurationError(f"--fix-shape gives {name.strip()!r} two sizes")
    return sizes


def free_dimensions(model: ir.Model) -> tuple[str, ...]:
    """How the free dimensions of inputs are called: by name, else ``input:axis``."""
    return tuple(
        dict.fromkeys(
            _title(value, axis)
            for value in _fed(model)
            for axis, size in enumerate(value.shape or ())
            if not isinstance(size, int)
        )
    )


def fix_shapes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy in which dimensions have the given sizes; what was noted of inner shapes is dropped.

    Args:
        model: Left unchanged.
        sizes: By the name of a dimension, or by ``input:axis``.

    Raises:
        ConfigurationError: There is no such dimension, or it has another size already.
    """
    fixed = model.clone()
    if not sizes:
        return fixed
    unused = dict(sizes)
    for value in _fed(fixed):
        if value.shape is None:
            continue
        new: list[int | ir.SymbolicDim] = []
        for axis, size in enumerate(value.shape):
            place = f"{value.name}:{axis}"
            name = "" if isinstance(size, int) else str(size.value or "")
            key = place if place in sizes else name
            wanted = sizes.get(key)
            if wanted is None:
                new.append(size)
                continue
            unused.pop(key, None)
            if isinstance(size, int) and size != wanted:
                raise ConfigurationError(
                    f"--fix-shape {key}={wanted}: axis {axis} of the input '{value.name}' is "
                    f"{size} already"
                )
            new.append(wanted)
        value.shape = ir.Shape(new)
    if unused:
        raise ConfigurationError(_unknown(next(iter(unused)), model))
    _forget_shapes(fixed)
    return fixed


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def _title(value: ir.Value, axis: int) -> str:
    size = (value.shape or ())[axis]
    name = "" if isinstance(size, int) else size.value
    return str(name) if name else f"{value.name}:{axis}"


def _unknown(name: str, model: ir.Model) -> str:
    free = free_dimensions(model)
    close = difflib.get_close_matches(name, free, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    there = f"free are {', '.join(free)}" if free else "none is free"
    return f"no dimension {name!r} among the inputs: {hint}{there}"


def _forget_shapes(model: ir.Model) -> None:
    """What exporters noted was for other sizes; onnxruntime infers it again."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is None:
                continue
            value.shape = ir.Shape([None] * len(value.shape)) if value.is_graph_output() else None
