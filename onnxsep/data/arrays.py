"""Arrays as a data set: checked against the model's inputs, whoever delivers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsep.data.dataset import ArrayColumn, Column, ConstantColumn, Dataset, spread
from onnxsep.data.image_column import ArrayImages, ImageColumn
from onnxsep.data.inputs import (
    ImageGeometry,
    InputSpec,
    image_geometry,
    image_input,
    leading_input,
    unbatched_inputs,
)
from onnxsep.data.preprocessing import Preprocessing, assume_preprocessing
from onnxsep.errors import InputError

#: Reserved names of arrays that are no inputs: images to preprocess, class numbers, outputs as
#: they should be (``targets`` for a model of one output, ``targets_NAME`` for several).
IMAGES, LABELS, TARGETS = "images", "labels", "targets"

# Scanning for NaN works on pieces of this many elements, so that mapped files stay on disk.
_SCANNED_AT_ONCE = 2**24
# Ranks of an array of images: (N, H, W) and (N, H, W, C).
_GRAY_RANK, _COLOR_RANK = 3, 4


@dataclass(frozen=True)
class ModelSide:
    """What arrays are checked against: the model's inputs, the names of its outputs."""

    inputs: Sequence[InputSpec]
    outputs: Sequence[str]
    preprocessing: Preprocessing | None


def dataset_from_arrays(
    arrays: Mapping[str, np.ndarray],
    model: ModelSide,
    *,
    origin: str,
    source: str,
    samples: int | None,
    seed: int,
) -> Dataset:
    """A data set of named arrays.

    An array with the name of an input is fed as it is, samples along its first axis. An input
    without a batch axis takes an array of its own shape, or one such value per sample. ``images``
    (uint8) stands for the image input and is preprocessed. ``labels``, ``targets`` and
    ``targets_NAME`` (or arrays with the names of outputs) become the data set's labels and targets.

    Args:
        arrays: The arrays by name; other names are ignored.
        model: What they must fit.
        origin: What error messages call their source.
        source: What the report calls their source; the number of samples is added.
        samples: Take this many, spread over all of them, or all.
        seed: Decides which.

    Raises:
        InputError: An array is missing, or has a wrong shape, type or value.
        ConfigurationError: ``samples`` is below 1, or the preprocessing does not fit the model.
    """
    images_for = _images_input(arrays, model, origin)
    count = _count(arrays, model, images_for, origin)
    rows = np.arange(count) if samples is None else spread(count, samples, seed)
    columns: dict[str, Column] = {}
    preprocessing = None
    unbatched = unbatched_inputs(model.inputs)
    for spec in model.inputs:
        if images_for is not None and spec.name == images_for.name:
            column = _image_column(arrays[IMAGES], spec, model.preprocessing, origin)
            columns[spec.name], preprocessing = column, column.preprocessing
        else:
            columns[spec.name] = _array_column(
                arrays[spec.name], spec, count, origin, batched=spec.name not in unbatched
            )
    labels = None
    if LABELS in arrays and LABELS not in columns:
        labels = _labels(arrays[LABELS], count, origin)
    targets = _targets(arrays, model, count, origin)
    dataset = Dataset(
        columns=columns,
        source=f"{source}, {len(rows)} samples",
        indices=np.arange(count),
        preprocessing=preprocessing,
        labels=labels,
        targets=targets or None,
        unbatched=unbatched,
    )
    return dataset.subset(rows.tolist())


def check_finite(array: np.ndarray, name: str, origin: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        InputError: There is one; the message names the first index.
    """
    if array.dtype.kind != "f" or array.size == 0:
        return
    step = max(_SCANNED_AT_ONCE * len(array) // array.size, 1) if array.ndim else 1
    pieces = np.atleast_1d(array)
    for first in range(0, len(pieces), step):
        bad = np.argwhere(~np.isfinite(pieces[first : first + step]))
        if len(bad):
            index = ", ".join(str(i) for i in (bad[0][0] + first, *bad[0][1:]))
            raise InputError(
                f"{origin}: array '{name}' holds a NaN or infinity, first at index [{index}]; "
                "remove that sample"
            )


def sole_image_input(model: ModelSide, origin: str) -> tuple[InputSpec, ImageGeometry]:
    """The input a lone array or folder of images is for.

    Raises:
        InputError: No input takes images, or there are further inputs that images cannot fill.
    """
    image = image_input(model.inputs)
    geometry = None if image is None else image_geometry(image)
    if image is None or geometry is None:
        wanted = ", ".join(spec.describe() for spec in model.inputs)
        raise InputError(
            f"{origin}: images do not fit the model's inputs: {wanted}; give an .npz with "
            "arrays of these names, or package.module:function"
        )
    others = [spec.describe() for spec in model.inputs if spec != image]
    if others:
        raise InputError(
            f"{origin}: holds images only, but the model also wants {', '.join(others)}; give "
            "an .npz with arrays of these names, or package.module:function"
        )
    return image, geometry


def _images_input(
    arrays: Mapping[str, np.ndarray], model: ModelSide, origin: str
) -> InputSpec | None:
    """The input that ``images`` stands for, after a check that every input has its array."""
    image = image_input(model.inputs)
    stands_in = IMAGES in arrays and image is not None and image.name not in arrays
    if image is not None and image.name == IMAGES and IMAGES in arrays:
        # An input that bears the reserved name itself: the type tells what the array holds.
        stands_in = arrays[IMAGES].dtype == np.uint8 and image.dtype.kind == "f"
    for spec in model.inputs:
        if spec.name not in arrays and not (stands_in and spec == image):
            hint = f", or '{IMAGES}' (uint8, N×H×W×C)" if spec == image else ""
            raise InputError(
                f"{origin}: no array for the model's input {spec.describe()}{hint}; "
                f"it has {_listed(arrays)}"
            )
    return image if stands_in else None


def _count(
    arrays: Mapping[str, np.ndarray], model: ModelSide, images_for: InputSpec | None, origin: str
) -> int:
    """The number of samples, which the leading input's array decides."""
    leading = leading_input(model.inputs)
    name = IMAGES if leading == images_for else leading.name
    shape = arrays[name].shape
    if not leading.shape:
        return int(shape[0]) if shape else 1
    if not shape or shape[0] == 0:
        raise InputError(f"{origin}: array '{name}' holds no samples")
    return int(shape[0])


def _array_column(
    array: np.ndarray, spec: InputSpec, count: int, origin: str, *, batched: bool
) -> Column:
    wanted = spec.shape[1:] if batched else spec.shape
    if not batched and _fits(array.shape, wanted):
        return ConstantColumn(_checked(array, spec, origin).astype(spec.dtype), count)
    if not array.ndim or not _fits(array.shape[1:], wanted):
        shape = "×".join(["N", *("?" if not isinstance(a, int) else str(a) for a in wanted)])
        raise InputError(
            f"{origin}: array '{spec.name}' has shape {_shape(array)}, but the model's input "
            f"{spec.describe()} wants {shape}"
        )
    _check_count(array, spec.name, count, origin)
    return ArrayColumn(_checked(array, spec, origin), spec.dtype)


def _checked(array: np.ndarray, spec: InputSpec, origin: str) -> np.ndarray:
    """``array``, if its values can be fed as the input's type without loss of meaning.

    Conversion itself is left to the column, sample by sample.
    """
    if array.dtype.kind != spec.dtype.kind and {array.dtype.kind, spec.dtype.kind} != {"i", "u"}:
        raise InputError(
            f"{origin}: array '{spec.name}' is {array.dtype}, but the model's input is "
            f"{spec.dtype}; save it as {spec.dtype}, already preprocessed (8-bit images that "
            f"need preprocessing are called '{IMAGES}')"
        )
    check_finite(array, spec.name, origin)
    if array.size and array.dtype != spec.dtype and array.dtype.kind in "iuf":
        limits = np.iinfo(spec.dtype) if spec.dtype.kind in "iu" else np.finfo(spec.dtype)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise InputError(
                f"{origin}: array '{spec.name}' ranges from {low} to {high}, more than the "
                f"model's {spec.dtype} input can hold"
            )
    return array


def _image_column(
    array: np.ndarray, spec: InputSpec, preprocessing: Preprocessing | None, origin: str
) -> ImageColumn:
    if (
        array.dtype != np.uint8
        or array.ndim not in (_GRAY_RANK, _COLOR_RANK)
        or 0 in array.shape
        or (array.ndim == _COLOR_RANK and array.shape[-1] not in (1, 3))
    ):
        raise InputError(
            f"{origin}: '{IMAGES}' must be uint8 of shape N×H×W, N×H×W×1 or N×H×W×3, not "
            f"{array.dtype} {_shape(array)}; an array that is preprocessed already must be called "
            f"'{spec.name}', like the model's input"
        )
    geometry = image_geometry(spec)
    if geometry is None:
        raise InputError(f"{origin}: the model's input {spec.describe()} takes no images")
    if preprocessing is None:
        preprocessing, _ = assume_preprocessing(geometry)
    preprocessing = preprocessing.resolve(geometry, spec.name)
    images = ArrayImages(
        array,
        geometry.height or array.shape[1],
        geometry.width or array.shape[2],
        geometry.channels,
        preprocessing,
    )
    return ImageColumn(images, preprocessing, spec.dtype)


def _labels(array: np.ndarray, count: int, origin: str) -> np.ndarray:
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.dtype.kind not in "iu" or flat.ndim != 1:
        raise InputError(
            f"{origin}: '{LABELS}' must be whole class numbers of shape (N,), "
            f"not {array.dtype} {_shape(array)}"
        )
    _check_count(flat, LABELS, count, origin)
    if int(flat.min()) < 0 or int(flat.max()) > np.iinfo(np.int64).max:
        wrong = flat.min() if int(flat.min()) < 0 else flat.max()
        raise InputError(f"{origin}: '{LABELS}' holds {wrong}, which is no class number from 0")
    return flat.astype(np.int64)


def _targets(
    arrays: Mapping[str, np.ndarray], model: ModelSide, count: int, origin: str
) -> dict[str, np.ndarray]:
    inputs = {spec.name for spec in model.inputs}
    keys = {name: name for name in model.outputs if name in arrays}
    keys |= {f"{TARGETS}_{name}": name for name in model.outputs}
    if len(model.outputs) == 1:
        keys[TARGETS] = model.outputs[0]
    elif TARGETS in arrays and TARGETS not in inputs and TARGETS not in keys:
        raise InputError(
            f"{origin}: '{TARGETS}' does not say which of the {len(model.outputs)} outputs it is "
            f"for; call it {TARGETS}_{model.outputs[0] if model.outputs else 'OUTPUT'}"
        )
    targets = {}
    for key, output in keys.items():
        if key not in arrays or key in inputs:
            continue
        _check_count(arrays[key], key, count, origin)
        check_finite(arrays[key], key, origin)
        targets[output] = arrays[key]
    return targets


def _check_count(array: np.ndarray, name: str, count: int, origin: str) -> None:
    if not array.ndim or len(array) != count:
        raise InputError(
            f"{origin}: array '{name}' has shape {_shape(array)}, but there are {count} samples; "
            "all arrays need one entry per sample along their first axis"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        found > 0 and (not isinstance(axis, int) or found == axis)
        for found, axis in zip(shape, wanted, strict=True)
    )


def _shape(array: np.ndarray) -> str:
    return "×".join(str(axis) for axis in array.shape) or "() (a single value)"


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(arrays)) or "no arrays"
