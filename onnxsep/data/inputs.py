"""What a model wants to be fed: names, shapes and types of its inputs; which is the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxsep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

Layout = Literal["NCHW", "NHWC"]

# Channel counts that make a rank 4 input an image: grey and colour.
_IMAGE_CHANNELS = (1, 3)
_IMAGE_RANK = 4
# What can be fed as a plain NumPy array: booleans, integers and the floats that NumPy itself knows.
_FEEDABLE_KINDS = "biuf"
# A gigabyte of float32; a model that declares more asks for all memory with a few bytes.
_MOST_NUMBERS = 2**28


@dataclass(frozen=True)
class InputSpec:
    """One input that the caller of a model must feed.

    Attributes:
        name: Name of the input.
        shape: One entry per axis: an int, or a dynamic dimension's name, or None if it has none.
        dtype: Element type.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype

    def describe(self) -> str:
        """The input in one word group for messages: ``'x' (float32, N×3×?×?)``."""
        axes = "×".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"'{self.name}' ({self.dtype}, {axes or 'a single value'})"


@dataclass(frozen=True)
class ImageGeometry:
    """The image axes of a rank 4 input.

    Attributes:
        layout: Where the channels stand.
        height: Rows, or None if dynamic.
        width: Columns, or None if dynamic.
        channels: Channels; a dynamic number of channels counts as 3.
    """

    layout: Layout
    height: int | None
    width: int | None
    channels: int

    @property
    def has_image_channels(self) -> bool:
        """Whether the channels can be a photograph's: one or three."""
        return self.channels in _IMAGE_CHANNELS


def input_specs(model: ir.Model) -> list[InputSpec]:
    """The inputs of ``model`` that a caller must feed, in graph order.

    Inputs with an initializer (all of them, in files of IR version 3) have a default and are left
    out.

    Raises:
        InputError: An input is no tensor, declares no shape, an axis of size 0 or more than
            `_MOST_NUMBERS` numbers, or has a type NumPy cannot hold.
    """
    import onnx_ir as ir  # not needed by those who only look at arrays

    specs = []
    for value in model.graph.inputs:
        name = value.name or ""
        if name in model.graph.initializers:
            continue
        if not isinstance(value.type, ir.TensorType) or value.shape is None:
            raise InputError(
                f"the model's input '{name}' declares no tensor type and shape; "
                "export the model again with typed inputs"
            )
        dtype = _feedable_dtype(value.type.dtype, name)
        spec = InputSpec(name, tuple(_axis(axis) for axis in value.shape), dtype)
        if 0 in spec.shape:
            raise InputError(
                f"the model's input {spec.describe()} has an axis of size 0: it takes no data"
            )
        if math.prod(axis for axis in spec.shape if isinstance(axis, int)) > _MOST_NUMBERS:
            raise InputError(
                f"the model's input {spec.describe()} takes more than {_MOST_NUMBERS} numbers at "
                "once; export the model for smaller data or a smaller batch"
            )
        specs.append(spec)
    return specs


def static_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch size a model insists on, or None if its batch axis is dynamic.

    The batch axis is the first axis of the leading input (see `leading_input`).
    """
    if not specs:
        return None
    shape = leading_input(specs).shape
    return shape[0] if shape and isinstance(shape[0], int) else None


def leading_input(specs: Sequence[InputSpec]) -> InputSpec:
    """The input that decides what the batch axis is: the first of the highest rank.

    Raises:
        InputError: There is no input at all.
    """
    if not specs:
        raise InputError("the model has no inputs, so there is nothing to feed it with")
    return max(specs, key=lambda spec: len(spec.shape))  # max keeps the first of equals


def unbatched_inputs(specs: Sequence[InputSpec]) -> frozenset[str]:
    """Names of the inputs whose first axis does not count samples.

    A single value (rank 0) has no batch axis. Any other input has one if its first axis is like
    the leading input's: the same static number, or both dynamic (under any name: exporters name
    one and the same axis differently).
    """
    if not specs:
        return frozenset()
    batch = static_batch(specs)
    return frozenset(
        spec.name
        for spec in specs
        if not spec.shape or (spec.shape[0] if isinstance(spec.shape[0], int) else None) != batch
    )


def image_geometry(spec: InputSpec) -> ImageGeometry | None:
    """The image axes of ``spec``, or None if it is no float or uint8 input of rank 4.

    Channels stand where there are 1 or 3 of them; if that is so in both places, or in neither, the
    layout is ONNX's own, NCHW.
    """
    if len(spec.shape) != _IMAGE_RANK or not (spec.dtype.kind == "f" or spec.dtype == np.uint8):
        return None
    _, second, third, last = (axis if isinstance(axis, int) else None for axis in spec.shape)
    if last in _IMAGE_CHANNELS and second not in _IMAGE_CHANNELS:
        return ImageGeometry("NHWC", second, third, last)
    return ImageGeometry("NCHW", third, last, 3 if second is None else second)


def image_input(specs: Sequence[InputSpec]) -> InputSpec | None:
    """The first input that can be an image (rank 4, one or three channels), or None."""
    for spec in specs:
        geometry = image_geometry(spec)
        if geometry is not None and geometry.has_image_channels:
            return spec
    return None


def _axis(axis: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(axis, int):
        return axis if axis >= 0 else None  # some exporters write -1 for a dynamic axis
    return None if axis.value is None else str(axis.value)


def _feedable_dtype(dtype: ir.DataType, name: str) -> np.dtype:
    try:
        array_type = np.dtype(dtype.numpy())
    except TypeError:
        array_type = np.dtype(object)
    if array_type.kind not in _FEEDABLE_KINDS or array_type.type.__module__ != "numpy":
        raise InputError(
            f"the model's input '{name}' has type {dtype.name}, which cannot be fed from arrays"
        )
    return array_type
