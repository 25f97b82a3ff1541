"""Inner values of a network, handed out into memory that is used again for every batch.

Fresh memory for a hundred megabytes of activations costs as much as computing them: the system
clears it page by page. And what is handed out leaves the layout of the convolutions for the plain
one. Of a large value that cannot be negative, onnxruntime therefore hands out only the largest
element of each channel and a lattice of its elements, both of which it finds within that layout
(MobileNetV2: a fifth of a plain run less). For others it would have to look for the smallest
element too, which costs what it saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxsep.calibrate.taps import groups_of, images_in
from onnxsep.errors import InputError
from onnxsep.runtime import Feeds, cut_model, first_line, make_session, run

_T = TypeVar("_T")

# What onnxruntime calls the types whose values have ranges.
FLOAT_TYPES: Mapping[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
# Outputs begin at whole lines of the cache.
_ALIGNMENT = 64
# Of values with so many elements in an image there is a lattice...
_LARGE = 2**15
# ...of every fourth row and column, six of each at least. So the first ones, which see padding, are
# met a little too often: on maps of 56 rows, the two at the ends are one in 14 instead of in 28.
_STRIDE = 4
_FEWEST_ROWS = 6 * _STRIDE
# What the statistics of such a value depend on.
POOLING: Mapping[str, int] = {"large": _LARGE, "stride": _STRIDE, "rows": _FEWEST_ROWS}
_IMAGE_RANK = 4
# Where sizes depend on the data, not only on sizes, nothing can be foreseen.
_MOST_SURPRISES = 2
# Inputs of so many sizes in turn are remembered.
_MOST_LAYOUTS = 64


class _Output(NamedTuple):
    """Of one value, in one batch."""

    shape: tuple[int, ...]
    type: type[np.floating]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.type).itemsize


class Pooled(NamedTuple):
    """What is handed out of a large value (N, C, H, W) without negative elements.

    Attributes:
        largest: (N, C, 1, 1), of each channel.
        lattice: (N, C, h, w), every fourth row and column.
        size: Number of all elements.
    """

    largest: np.ndarray
    lattice: np.ndarray
    size: int


_Layout = tuple[_Output, ...]
_Sizes = tuple[tuple[int, ...], ...]


class _Place(NamedTuple):
    """Where a session writes for inputs of certain sizes."""

    layout: _Layout
    binding: onnxruntime.IOBinding
    arrays: list[np.ndarray]


class OutputMemory:
    """One block that serves as memory for the outputs of any batch; for one thread.

    Attributes:
        places: By session and sizes; binding a hundred outputs takes as long as digesting them.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[TappedSession, _Sizes], _Place] = {}
        self._block = np.empty(0, np.uint8)

    def arrays(self, layout: _Layout) -> list[np.ndarray]:
        """Arrays of these shapes and types, side by side; earlier ones are overwritten."""
        starts = [0]
        for output in layout:
            starts.append(starts[-1] + -(-output.bytes // _ALIGNMENT) * _ALIGNMENT)
        if len(self._block) < starts[-1] or len(self.places) >= _MOST_LAYOUTS:
            self.places.clear()
        if len(self._block) < starts[-1]:
            # At once, so that the system gives few large pages.
            self._block = np.empty(starts[-1], np.uint8)
        return [
            self._block[start : start + output.bytes].view(output.type).reshape(output.shape)
            for start, output in zip(starts, layout, strict=False)
        ]


class TappedSession:
    """Runs the part of a network that some values need. May be used by several threads at a time.

    Attributes:
        names: The values, in the order in which they are handed out.
    """

    def __init__(
        self,
        model: ir.Model,
        example: Feeds,
        names: Sequence[str],
        *,
        lowest: Mapping[str, float] | None = None,
        threads: int,
    ) -> None:
        """Make the session.

        Args:
            model: Left unchanged.
            example: One batch.
            names: Values of the main graph that depend on the inputs.
            lowest: What the elements of some of them cannot be below.
            threads: Of onnxruntime.

        Raises:
            InputError: onnxruntime cannot load the model.
        """
        part = cut_model(model, [example], names)
        declared = {value.name: value.shape for value in model.graph.inputs}
        for value in part.graph.inputs:
            # Later batches may differ from the example wherever the model lets them.
            shape = declared[value.name]
            value.shape = (
                None
                if shape is None
                else ir.Shape([axis if isinstance(axis, int) else None for axis in shape])
            )
        self._pooled = _pool(part, lowest or {})
        self._session = make_session(part, threads=threads)
        outputs = self._session.get_outputs()
        self.names = tuple(names)
        self._declared = [value.shape for value in outputs]
        self._types = [value.type for value in outputs]
        self._outputs = [value.name for value in outputs]
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._layouts: dict[_Sizes, _Layout | None] = {}
        self._surprises = 0

    @property
    def types(self) -> list[str]:
        """What onnxruntime calls the types of the values."""
        return [part[0] for part in self._divided(self._types)]

    def sizes(self, images: int) -> dict[str, int | None]:
        """Bytes handed out of each value for so many images along a free first axis.

        None where they are not known.
        """
        sizes = [output.bytes if output else None for output in self._expected(images)]
        return {
            name: None if None in part else sum(size or 0 for size in part)
            for name, part in zip(self.names, self._divided(sizes), strict=True)
        }

    def run(self, feeds: Feeds, memory: OutputMemory) -> list[object]:
        """All values for one batch: arrays or `Pooled`; else no tensors.

        Args:
            feeds: Inputs by name; others than those needed may be among them.
            memory: Where the arrays may lie; whoever uses it again overwrites them.

        Raises:
            InputError: The data do not fit the model, or an operator fails on them.
        """
        needed = {name: np.asarray(feeds[name], order="C") for name in self._inputs}
        sizes = tuple(array.shape for array in needed.values())
        layout = self._layouts.get(sizes)
        if sizes not in self._layouts:
            layout = self._promised(images_in(needed))
            self._remember(sizes, layout)
        if layout is not None and self._surprises < _MOST_SURPRISES:
            try:
                return self._values(self._run_into(needed, sizes, layout, memory))
            except InputError:  # a plain run tells whether it is only the sizes
                self._surprises += 1
        outputs = run(self._session, needed, label="the model")
        self._remember(sizes, _layout_of(outputs))
        return self._values(outputs)

    def _values(self, outputs: Sequence[np.ndarray]) -> list[object]:
        return [
            part[0]
            if len(part) == 1
            else Pooled(part[0], part[1], len(part[1]) * self._pooled[name])
            for name, part in zip(self.names, self._divided(outputs), strict=True)
        ]

    def _divided(self, outputs: Sequence[_T]) -> Iterator[Sequence[_T]]:
        """What belongs to each value."""
        start = 0
        for name in self.names:
            end = start + (2 if name in self._pooled else 1)
            yield outputs[start:end]
            start = end

    def _run_into(
        self, feeds: Mapping[str, np.ndarray], sizes: _Sizes, layout: _Layout, memory: OutputMemory
    ) -> list[np.ndarray]:
        place = memory.places.get((self, sizes))
        try:
            if place is None or place.layout != layout:
                place = _Place(layout, self._session.io_binding(), memory.arrays(layout))
                for name, array in zip(self._outputs, place.arrays, strict=True):
                    place.binding.bind_output(name, *_address(array))
                memory.places[self, sizes] = place
            for name, array in feeds.items():
                place.binding.bind_input(name, *_address(array))
            self._session.run_with_iobinding(place.binding)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(f"the model fails on the data: {first_line(error)}") from error
        return place.arrays

    def _promised(self, images: int) -> _Layout | None:
        """What the session says beforehand, if it says all."""
        expected = list(self._expected(images))
        layout = tuple(output for output in expected if output is not None)
        return layout if len(layout) == len(expected) and _can_be_bound(layout) else None

    def _expected(self, images: int) -> Iterator[_Output | None]:
        for shape, kind in zip(self._declared, self._types, strict=True):
            free = [place for place, axis in enumerate(shape) if not isinstance(axis, int)]
            if kind in FLOAT_TYPES and free in ([], [0]):
                axes = [images, *shape[1:]] if free else shape
                yield _Output(tuple(axes), FLOAT_TYPES[kind])
            else:
                yield None

    def _remember(self, sizes: _Sizes, layout: _Layout | None) -> None:
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        self._layouts[sizes] = layout


def tapped_sessions(
    model: ir.Model,
    example: Feeds,
    names: Sequence[str],
    *,
    lowest: Mapping[str, float],
    memory_limit: int,
    threads: int,
) -> list[TappedSession]:
    """Sessions that hand out all ``names`` together, in groups that fit into memory.

    Args:
        model: Left unchanged.
        example: One batch.
        names: Values of the main graph that depend on the inputs, in its order.
        lowest: What the elements of some of them cannot be below.
        memory_limit: Bytes that the values of one group may take together for such a batch.
        threads: Of onnxruntime.

    Raises:
        InputError: onnxruntime cannot load the model.
    """
    if not names:
        return []

    def session(group: Sequence[str]) -> TappedSession:
        return TappedSession(model, example, group, lowest=lowest, threads=threads)

    # It knows the sizes, and is enough as a rule.
    whole = session(names)
    groups = list(groups_of(names, whole.sizes(images_in(example)), memory_limit))
    if len(groups) == 1:
        return [whole]
    del whole
    return [session(group) for group in groups]


def _pool(part: ir.Model, lowest: Mapping[str, float]) -> dict[str, int]:
    """Replace large outputs by what `Pooled` holds.

    Returns:
        Of each: elements per image.
    """
    pooled: dict[str, int] = {}
    outputs = []
    for value in part.graph.outputs:
        name = value.name or ""
        elements = _elements_of_large(value) if lowest.get(name) == 0 else None
        if elements is None:
            outputs.append(value)
            continue
        pooled[name] = elements
        lattice = {"kernel_shape": [1, 1], "strides": [_STRIDE, _STRIDE]}
        for operator, attributes in (("GlobalMaxPool", {}), ("MaxPool", lattice)):
            node = ir.node(operator, [value], attributes=attributes)
            part.graph.append(node)
            outputs.append(node.outputs[0])
    part.graph.outputs[:] = outputs
    return pooled


def _elements_of_large(value: ir.Value) -> int | None:
    """Elements per image, where the value is large, of float32, and of known size."""
    if value.shape is None or value.dtype != ir.DataType.FLOAT or len(value.shape) != _IMAGE_RANK:
        return None
    axes = [axis for axis in value.shape[1:] if isinstance(axis, int)]
    if len(axes) < _IMAGE_RANK - 1 or min(axes[1:]) < _FEWEST_ROWS:
        return None
    elements = math.prod(axes)
    return elements if elements >= _LARGE else None


def _address(array: np.ndarray) -> tuple[str, int, type, tuple[int, ...], int]:
    """Where an array lies, as onnxruntime asks for it."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def _layout_of(outputs: Sequence[object]) -> _Layout | None:
    """The layout of what a run gave, if it can be foreseen for the next."""
    layout = tuple(
        _Output(output.shape, output.dtype.type)
        for output in outputs
        if isinstance(output, np.ndarray) and output.dtype.type in FLOAT_TYPES.values()
    )
    return layout if len(layout) == len(outputs) and _can_be_bound(layout) else None


def _can_be_bound(layout: _Layout) -> bool:
    # An array without elements has no memory.
    return all(output.bytes for output in layout)
