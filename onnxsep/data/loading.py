"""The door to data: one word from the user becomes a data set that fits the model."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxsep.data.arrays import (
    IMAGES,
    LABELS,
    TARGETS,
    ModelSide,
    dataset_from_arrays,
    sole_image_input,
)
from onnxsep.data.callables import PATTERN, dataset_from_callable
from onnxsep.data.dataset import Dataset, check_samples, spread
from onnxsep.data.files import map_npy, read_npz
from onnxsep.data.image_column import ImageColumn
from onnxsep.data.image_folder import FolderImages, common_size, find_images
from onnxsep.data.inputs import InputSpec
from onnxsep.data.labels import read_labels
from onnxsep.data.preprocessing import Preprocessing, assume_preprocessing
from onnxsep.errors import InputError

_NAMES_SHOWN = 8
_KINDS = "a folder of images, an .npz or .npy file, or package.module:function"


def load_dataset(
    source: str,
    model_inputs: Sequence[InputSpec],
    *,
    outputs: Sequence[str],
    preprocessing: Preprocessing | None,
    samples: int | None,
    seed: int,
) -> Dataset:
    """The user's data.

    Args:
        source: One of

            - a folder of images (sub-folders too), with labels.csv or not;
            - an .npz with arrays named like the model's inputs, used as they are, or ``images``
              (uint8, N×H×W×C or N×H×W), preprocessed like files; optionally ``labels`` and
              ``targets``, or ``targets_NAME`` for each of several outputs;
            - an .npy for a model of one input: uint8 images, or anything else used as it is;
            - ``package.module:function``, see `callables.dataset_from_callable`.
        model_inputs: What the model wants.
        outputs: Names of the model's outputs.
        preprocessing: How images become inputs; None takes what custom suggests (the data set
            then says ``assumed``). Arrays that are used as they are ignore it.
        samples: How many to take, spread over the source by ``seed``; None takes all (of a
            function, up to 1,000).
        seed: Decides which samples are taken.

    Raises:
        InputError: The source does not exist, cannot be read or does not fit the model.
        ConfigurationError: ``samples`` is below 1, or the preprocessing does not fit the model.
    """
    check_samples(samples)
    model = ModelSide(tuple(model_inputs), tuple(outputs), preprocessing)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, model, samples, seed)
    if path.is_file():
        return _from_file(path, model, samples, seed)
    if PATTERN.fullmatch(source):
        return dataset_from_callable(source, model, samples=samples)
    raise InputError(f"{source}: no such file or folder; data are {_KINDS}")


def _from_folder(folder: Path, model: ModelSide, samples: int | None, seed: int) -> Dataset:
    spec, geometry = sole_image_input(model, str(folder))
    paths = find_images(folder)
    labels = read_labels(folder, paths)
    rows = np.arange(len(paths)) if samples is None else spread(len(paths), samples, seed)
    paths = [paths[row] for row in rows]
    preprocessing = model.preprocessing or assume_preprocessing(geometry)[0]
    preprocessing = preprocessing.resolve(geometry, spec.name)
    height, width, note = common_size(paths, geometry)
    images = FolderImages(paths, height, width, geometry.channels, preprocessing)
    return Dataset(
        columns={spec.name: ImageColumn(images, preprocessing, spec.dtype)},
        source=f"folder {folder.name or folder}, {len(paths)} images{note}",
        indices=np.arange(len(paths)),
        preprocessing=preprocessing,
        labels=None if labels is None else labels[rows],
    )


def _from_file(path: Path, model: ModelSide, samples: int | None, seed: int) -> Dataset:
    if path.suffix.lower() == ".npz":
        wanted = {spec.name for spec in model.inputs} | {IMAGES, LABELS, TARGETS}
        wanted |= set(model.outputs) | {f"{TARGETS}_{output}" for output in model.outputs}
        arrays = read_npz(path, wanted.__contains__)
        if not arrays:
            raise InputError(
                f"{path}: none of its arrays ({_names_in(path)}) is an input of the model "
                f"({', '.join(spec.describe() for spec in model.inputs)}) or '{IMAGES}' "
                "(uint8, N×H×W×C)"
            )
    elif path.suffix.lower() == ".npy":
        arrays = {_lone_name(path, model): map_npy(path)}
    else:
        raise InputError(f"{path}: not a supported kind of data; give {_KINDS}")
    return dataset_from_arrays(
        arrays, model, origin=str(path), source=path.name, samples=samples, seed=seed
    )


def _names_in(path: Path) -> str:
    """Names of the arrays in an .npz, a few of them."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
    return shown + (", ..." if len(names) > _NAMES_SHOWN else "") or "it has none"


def _lone_name(path: Path, model: ModelSide) -> str:
    """What the only array of an .npy file stands for."""
    if len(model.inputs) != 1:
        names = ", ".join(spec.describe() for spec in model.inputs)
        raise InputError(
            f"{path}: one array cannot feed the model's {len(model.inputs)} inputs {names}; "
            "give an .npz with arrays of these names"
        )
    spec = model.inputs[0]
    as_it_is = map_npy(path).dtype != np.uint8 or spec.dtype == np.uint8
    return spec.name if as_it_is else IMAGES
