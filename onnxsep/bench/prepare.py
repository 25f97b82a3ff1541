"""What cells need before they can run: the right file of a model, its inputs, images to judge it.

Everything is made once and shared by the cells that need the same thing, in a folder that lives as
long as the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxsep.bench.matrix import Matrix, ModelEntry
from onnxsep.bench.providers import provider_of
from onnxsep.bench.record import Cell, ModelFacts
from onnxsep.bench.variants import (
    DEFAULT_TARGET,
    fix_dimensions,
    int8_target,
    make_fp16,
    make_int8,
)
from onnxsep.bench.work import count_work
from onnxsep.data import (
    Dataset,
    InputSpec,
    draw_dataset,
    find_normalisation,
    input_specs,
    load_dataset,
    static_batch,
)
from onnxsep.data.files import write_npz
from onnxsep.data.inputs import unbatched_inputs
from onnxsep.errors import InputError
from onnxsep.model import external_files, load_model, model_bytes
from onnxsep.runtime import Feeds

MODEL_FILE = "model.onnx"
INPUTS_FILE = "inputs.npz"
IMAGES_FILE = "images.npz"
# Outputs are compared on so many images where nothing is labelled; accuracy needs as many as it
# can get, bounded by what a sweep on one core can do in about ten seconds.
_DRAWN_IMAGES = 16
_MOST_IMAGES = 500
_FEWEST_IMAGES = 16
_WORK = 1e11
_CALIBRATION_IMAGES = 64
_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One model of the matrix, read once.

    Attributes:
        entry: As in the matrix.
        path: Of the float model.
        specs: What it wants to be fed, dynamic dimensions as the matrix fixes them.
        batch: The batch it insists on, None if free.
        unbatched: Inputs without a batch axis.
        dataset: Images, the user's or drawn.
        multiplications: For one image.
    """

    entry: ModelEntry
    path: Path
    specs: tuple[InputSpec, ...]
    batch: int | None
    unbatched: frozenset[str]
    dataset: Dataset
    multiplications: int


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What one cell runs.

    Attributes:
        key: Of the model file among those of the run: ``digits/fp32``.
        facts: Of the model file.
        files: By their name in the job folder.
        images: Number of images in the file of images.
    """

    key: str
    facts: ModelFacts
    files: Mapping[str, Path]
    images: int


class Workshop:
    """Makes and keeps the files of a run."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        """Prepare nothing yet.

        Args:
            matrix: Names the models.
            folder: An existing folder for what is made.
        """
        self._entries = {entry.name: entry for entry in matrix.models}
        self._base = matrix.folder
        self._folder = folder
        self._sources: dict[str, Source] = {}
        self._files: dict[str, tuple[Path, ModelFacts]] = {}

    def source(self, name: str) -> Source:
        """The model called ``name``.

        Raises:
            InputError: It, or its data, cannot be read.
        """
        if name not in self._sources:
            self._sources[name] = self._read(self._entries[name])
        return self._sources[name]

    def prepare(self, cell: Cell) -> Prepared:
        """The files of a cell.

        Raises:
            InputError: The model cannot run at this batch size or be made in this precision.
        """
        source = self.source(cell.model)
        if source.batch is not None and source.batch != cell.batch:
            raise InputError(
                f"the batch of {source.path.name} is fixed at {source.batch}; export it with a "
                "dynamic batch, or leave this cell out"
            )
        key, path, facts = self._file_for(source, cell)
        files = {MODEL_FILE: path, **external_files(path)}
        files[INPUTS_FILE] = self._inputs(source, cell.batch)
        images, count = self._images(source)
        files[IMAGES_FILE] = images
        return Prepared(key, facts, files, count)

    def float_files(self, name: str) -> Mapping[str, Path]:
        """The files for the reference outputs: the float model as it came, and the images."""
        source = self.source(name)
        images, _ = self._images(source)
        return {MODEL_FILE: source.path, **external_files(source.path), IMAGES_FILE: images}

    def judged(self, name: str) -> Dataset:
        """The images on which outputs are compared."""
        return _judged(self.source(name))

    def _read(self, entry: ModelEntry) -> Source:
        path = self._base / entry.path
        model = load_model(path)
        found = input_specs(model)
        specs = tuple(_fixed(spec, entry.inputs.get(spec.name)) for spec in found)
        unknown = sorted(set(entry.inputs) - {spec.name for spec in found})
        if unknown:
            raise InputError(
                f"{path}: the matrix gives a shape for '{unknown[0]}', which is no input; "
                f"its inputs are {', '.join(spec.describe() for spec in found)}"
            )
        preprocessing, _ = find_normalisation(model, list(specs), seed=_SEED)
        if entry.data is not None:
            dataset = load_dataset(
                str(self._base / entry.data) if (self._base / entry.data).exists() else entry.data,
                specs,
                outputs=[value.name or "" for value in model.graph.outputs],
                preprocessing=preprocessing,
                samples=None,
                seed=_SEED,
            )
        else:
            count = max(_DRAWN_IMAGES, 2 * (static_batch(specs) or 1))
            dataset = draw_dataset(specs, preprocessing=preprocessing, samples=count, seed=_SEED)
        multiplications, _ = count_work(model, _shapes(next(dataset.batches(1))))
        return Source(
            entry,
            path,
            specs,
            static_batch(found),
            unbatched_inputs(specs),
            dataset,
            multiplications,
        )

    def _file_for(self, source: Source, cell: Cell) -> tuple[str, Path, ModelFacts]:
        target = int8_target(cell.provider)
        given = _variant(source.entry, cell.precision)
        parts = [cell.model, cell.precision]
        if cell.precision == "int8" and given is None and target != DEFAULT_TARGET:
            parts.append(target)
        if provider_of(cell.provider).static_shapes:
            parts.append(f"b{cell.batch}")
        key = "/".join(parts)
        if key not in self._files:
            path, origin = self._made(source, cell, self._folder / f"{_safe(key)}.onnx")
            facts = self._describe(source, path, cell.precision, origin)
            self._files[key] = path, facts
        return key, *self._files[key]

    def _made(self, source: Source, cell: Cell, destination: Path) -> tuple[Path, str]:
        """The file that a cell runs, and where it comes from."""
        given = _variant(source.entry, cell.precision)
        path, origin = source.path, "file"
        if given is not None:
            path = self._base / given
        elif cell.precision == "fp16":
            feeds = [self._feeds(source, source.batch or 1)]
            origin, path = make_fp16(source.path, destination, feeds), destination
        elif cell.precision == "int8":
            shapes, batch = None, source.batch or 1
            if provider_of(cell.provider).static_shapes:
                # What is to be fixed must be so before: with a free batch nothing is quantized.
                batch = cell.batch
                shapes = _shapes(self._feeds(source, batch))
            # No batch may be smaller than the others where its size is fixed.
            images = _first(source, _CALIBRATION_IMAGES)
            usable = max(len(images) - len(images) % batch, batch)
            feeds = list(
                source.dataset.subset([i % len(images) for i in range(usable)]).batches(batch)
            )
            origin = make_int8(source.path, destination, feeds, int8_target(cell.provider), shapes)
            path = destination
        if provider_of(cell.provider).static_shapes and _is_dynamic(load_model(path)):
            static = destination.with_suffix(".static.onnx")
            fix_dimensions(path, static, _shapes(self._feeds(source, cell.batch)))
            return static, f"{origin}, all dimensions fixed"
        return path, origin

    def _describe(self, source: Source, path: Path, precision: str, origin: str) -> ModelFacts:
        model = load_model(path)
        total, by_kind = count_work(model, _shapes(next(source.dataset.batches(source.batch or 1))))
        images = source.batch or 1
        digest = hashlib.sha256()
        for file in (path, *external_files(path).values()):
            digest.update(file.read_bytes())
        return ModelFacts(
            name=source.entry.name,
            path=str(_variant(source.entry, precision) or source.entry.path),
            precision=precision,
            origin=origin,
            sha256=digest.hexdigest(),
            bytes=model_bytes(path),
            parameters=_parameters(model),
            multiplications=total // images,
            multiplications_by_kind={kind: count // images for kind, count in by_kind.items()},
        )

    def _feeds(self, source: Source, batch: int) -> Feeds:
        count = len(source.dataset)
        chosen = source.dataset.subset([index % count for index in range(batch)])
        feeds = list(chosen.batches(batch))
        if len(feeds) != 1:
            raise InputError(
                f"{source.path.name}: its inputs without a batch axis differ from sample to sample "
                f"in {source.dataset.source}, so that no batch of {batch} can be made of them"
            )
        return feeds[0]

    def _inputs(self, source: Source, batch: int) -> Path:
        path = self._folder / f"{_safe(source.entry.name)}-b{batch}.npz"
        if not path.exists():
            write_npz(path, self._feeds(source, batch))
        return path

    def _images(self, source: Source) -> tuple[Path, int]:
        dataset = _judged(source)
        path = self._folder / f"{_safe(source.entry.name)}-images.npz"
        if not path.exists():
            feeds = list(dataset.batches(len(dataset)))
            write_npz(path, feeds[0])
        return path, len(dataset)


def _variant(entry: ModelEntry, precision: str) -> str | None:
    """The file that the matrix names for a precision."""
    return next((path for name, path in entry.variants.items() if name == precision), None)


def _judged(source: Source) -> Dataset:
    if source.unbatched:
        # Only samples that agree on these inputs can travel together.
        count = len(next(iter(next(source.dataset.batches(len(source.dataset))).values())))
        return source.dataset.subset(range(min(count, _DRAWN_IMAGES)))
    if source.dataset.labels is None and source.dataset.targets is None:
        return _first(source, _DRAWN_IMAGES)
    affordable = int(_WORK / max(source.multiplications, 1))
    return _first(source, min(max(affordable, _FEWEST_IMAGES), _MOST_IMAGES))


def _first(source: Source, count: int) -> Dataset:
    """The first images, in whole batches of a model that insists on a batch size."""
    count = min(count, len(source.dataset))
    if source.batch is not None:
        count -= count % source.batch
    return source.dataset.subset(range(max(count, 1)))


def _fixed(spec: InputSpec, shape: Sequence[int] | None) -> InputSpec:
    """The input with the dimensions that the matrix gives; the batch axis stays as it is."""
    if shape is None:
        return spec
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(axis, int) or axis == size
        for axis, size in zip(spec.shape[1:], shape[1:], strict=False)
    )
    if not fits:
        raise InputError(f"the shape {list(shape)} of the matrix does not fit {spec.describe()}")
    return dataclasses.replace(spec, shape=(spec.shape[0], *shape[1:]))


def _shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in feeds.items()}


def _is_dynamic(model: ir.Model) -> bool:
    return any(
        not isinstance(axis, int)
        for value in model.graph.inputs
        if value.name not in model.graph.initializers and value.shape is not None
        for axis in value.shape
    )


def _parameters(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(int(tensor.size) for tensor in tensors if tensor is not None)


def _safe(name: str) -> str:
    """A file name that nobody's model name can lead out of the folder."""
    plain = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
