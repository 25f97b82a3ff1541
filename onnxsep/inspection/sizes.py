"""The sizes of all values of a model when one batch goes through it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxsep.data import draw_dataset, input_specs, static_batch
from onnxsep.data.inputs import leading_input
from onnxsep.errors import InputError
from onnxsep.runtime import Feeds, make_session, run

_SHAPE_LOGGER = "onnx_ir.passes.common.shape_inference"


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
    """Shapes and types of values; what is not in ``shapes`` is not known.

    Attributes:
        feeds: What the inputs were given.
        batch: Images among it.
        shapes: By value, those of subgraphs included as far as ONNX infers them.
        types: Element types by value.
        inputs: The inputs in words, with their sizes.
        notes: Sizes that were assumed, and what could not be found out.
    """

    feeds: Feeds
    batch: int
    shapes: Mapping[ir.Value, tuple[int, ...]]
    types: Mapping[ir.Value, ir.DataType]
    inputs: tuple[str, ...]
    notes: tuple[str, ...]

    def spatial(self, value: ir.Value | None) -> tuple[int, ...]:
        """Size behind batch and channels; empty where it is not known."""
        return () if value is None else self.shapes.get(value, ())[2:]

    def elements(self, value: ir.Value) -> int:
        """Numbers in it; 0 where its shape is not known."""
        return math.prod(self.shapes[value]) if value in self.shapes else 0

    def bytes(self, value: ir.Value) -> int:
        """Bytes that it takes; 0 where shape or type is not known."""
        kind = self.types.get(value)
        return 0 if kind is None else math.ceil(self.elements(value) * kind.itemsize)


def example_feeds(model: ir.Model) -> Feeds:
    """Something to feed: one image, or the batch that the model insists on, free sizes chosen.

    Raises:
        InputError: The model has no inputs that could be fed.
    """
    specs = input_specs(model)
    batch = static_batch(specs) or 1
    dataset = draw_dataset(specs, preprocessing=None, samples=batch, seed=0)
    return next(iter(dataset.batches(batch)))


def find_sizes(model: ir.Model, feeds: Feeds, *, given: bool) -> Sizes:
    """Infer the shapes of all values; the model runs once where inference does not follow.

    Args:
        model: Normalized; left unchanged.
        feeds: One batch.
        given: Whether the sizes of ``feeds`` come from the user's data and are no assumption.
    """
    twin = model.clone()
    notes = [] if given else _assumptions(model, feeds)
    for value in twin.graph.inputs:
        if value.name and value.name in feeds:
            value.shape = ir.Shape(feeds[value.name].shape)
    for node in twin.graph.all_nodes():
        # Declared shapes of inner values were made for other sizes of the inputs.
        for value in node.outputs:
            value.shape = None
    with _silent(_SHAPE_LOGGER):
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(twin)
    pairs = _twins(model, twin)
    shapes: dict[ir.Value, tuple[int, ...]] = {}
    types: dict[ir.Value, ir.DataType] = {}
    for value, other in pairs.items():
        shape = _static_shape(other)
        if shape is not None:
            shapes[value] = shape
        if other.dtype is not None:
            types[value] = other.dtype
    unknown = [
        value
        for node in model.graph
        for value in node.outputs
        if value.name and (value not in shapes or value not in types)
    ]
    if unknown:
        try:
            _fill_by_running(model, feeds, unknown, shapes, types)
        except InputError as error:
            notes.append(f"sizes that are not known: {len(unknown)} values; {error}")
    leading = feeds[leading_input(input_specs(model)).name]
    batch = leading.shape[0] if leading.ndim else 1
    return Sizes(
        feeds=feeds,
        batch=max(batch, 1),
        shapes=shapes,
        types=types,
        inputs=tuple(
            f"{name} {'x'.join(map(str, array.shape)) or 'single value'}, {array.dtype}"
            for name, array in feeds.items()
        ),
        notes=tuple(notes),
    )


def free_axes(model: ir.Model) -> dict[str, list[int]]:
    """The axes of each input that have no fixed size, inputs without any left out."""
    found: dict[str, list[int]] = {}
    for value in model.graph.inputs:
        if value.shape is None or value.name in model.graph.initializers:
            continue
        axes = [axis for axis, size in enumerate(value.shape) if not isinstance(size, int)]
        if axes:
            found[value.name or ""] = axes
    return found


def _assumptions(model: ir.Model, feeds: Feeds) -> list[str]:
    notes = []
    for name, axes in free_axes(model).items():
        # A free batch is how models are; counts are for one image anyway.
        inner = [axis for axis in axes if axis > 0]
        if inner and name in feeds:
            sizes = "x".join(str(feeds[name].shape[axis]) for axis in inner)
            places = " and ".join(map(str, inner))
            notes.append(
                f"axis {places} of the input '{name}' has no fixed size: everything was counted "
                f"at {sizes}; --data with images of the real size counts at theirs"
            )
    return notes


def _twins(model: ir.Model, twin: ir.Model) -> dict[ir.Value, ir.Value]:
    """Each value of the model and its copy, by position: branches may use the same names."""
    pairs: dict[ir.Value, ir.Value] = dict(zip(model.graph.inputs, twin.graph.inputs, strict=True))
    for node, other in zip(model.graph.all_nodes(), twin.graph.all_nodes(), strict=True):
        pairs.update(zip(node.outputs, other.outputs, strict=True))
        for value, copy in zip(node.inputs, other.inputs, strict=True):
            if value is not None and copy is not None:
                pairs.setdefault(value, copy)
    return pairs


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    tensor = value.const_value
    shape = tensor.shape if value.shape is None and tensor is not None else value.shape
    if shape is None:
        return None
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else None


def _fill_by_running(
    model: ir.Model,
    feeds: Feeds,
    values: list[ir.Value],
    shapes: dict[ir.Value, tuple[int, ...]],
    types: dict[ir.Value, ir.DataType],
) -> None:
    tapped = model.clone()
    wanted = {value.name: value for value in values}
    handed_out = {value.name for value in tapped.graph.outputs}
    for node in tapped.graph:
        for value in node.outputs:
            if value.name in wanted and value.name not in handed_out:
                tapped.graph.outputs.append(value)
    session = make_session(tapped)
    names = [value.name for value in session.get_outputs()]
    for name, array in zip(names, run(session, feeds, label="the model"), strict=True):
        if name in wanted and isinstance(array, np.ndarray) and array.dtype != object:
            shapes[wanted[name]] = array.shape
            types[wanted[name]] = ir.DataType.from_numpy(array.dtype)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """What inference does not follow is found out by running, and needs no warning."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
