"""The images of a run: those that are fitted on, chosen on and verified on, never the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from onnxsep.convolution import find_convolutions
from onnxsep.data import (
    PRESETS,
    Dataset,
    InputSpec,
    Preprocessing,
    draw_dataset,
    find_normalisation,
    input_specs,
    load_dataset,
    split,
    static_batch,
)
from onnxsep.data.image_column import ArrayImages, ImageColumn
from onnxsep.data.inputs import image_input
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.evaluation import Batches, batches_of
from onnxsep.options import Options
from onnxsep.passes.separate import Calibration
from onnxsep.plan import output_sizes
from onnxsep.progress import Progress
from onnxsep.runtime import Feeds

# Of the user's data; the rest chooses the ranks.
_FIT_SHARE = 0.75
# Drawn images for choosing cost nothing but time, and agreement needs many.
_DRAWN_FIT_SHARE = 0.6
# How many images are taken if nobody says: as many as so many multiplications pay for in one sweep
# (about ten seconds on two cores; a run makes ten to thirty sweeps), within these bounds.
_WORK = 4e11
_FEWEST, _MOST = 200, 1000
_FEWEST_DRAWN, _MOST_DRAWN = 24, 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """Data by purpose.

    Attributes:
        fit: Every fit sees these.
        selection: No fit sees these; the ranks are chosen on them.
        verification: Test data that nothing sees before the end, or None.
        single: One sample, for timing.
        description: Source and preprocessing of the calibration images.
        warnings: What the report must say about them.
    """

    fit: Batches
    selection: Batches
    verification: Batches | None
    single: Feeds
    description: str
    warnings: list[str]


def gather_material(model: ir.Model, options: Options, progress: Progress) -> Material:
    """Load or draw what the run needs.

    Args:
        model: As loaded, BatchNormalization nodes still there: they betray the normalisation.
        options: Settings of the run.
        progress: Told about drawing, which takes time.

    Raises:
        InputError: The data do not fit the model, or are too few.
    """
    specs = input_specs(model)
    outputs = [value.name or "" for value in model.graph.outputs]
    warnings: list[str] = []
    preprocessing, how = _preprocessing(model, specs, options)
    if options.data is not None:
        progress.stage(f"loading {options.data}")
        dataset = load_dataset(
            options.data,
            specs,
            outputs=outputs,
            preprocessing=preprocessing,
            samples=options.samples
            or _default_samples(model, specs, drawn=False, seed=options.seed),
            seed=options.seed,
        )
        share = _FIT_SHARE
    else:
        count = options.samples or _default_samples(model, specs, drawn=True, seed=options.seed)
        progress.stage(f"drawing {count} images")
        dataset = draw_dataset(specs, preprocessing=preprocessing, samples=count, seed=options.seed)
        share = _DRAWN_FIT_SHARE
        warnings.append(
            "no --data was given: images were drawn, and quality was measured on drawn images only"
        )
    if dataset.preprocessing is not None and dataset.preprocessing.assumed:
        warnings.append(how)
    if options.preprocessing is not None and dataset.preprocessing is None:
        warnings.append(
            f"the preprocessing '{options.preprocessing.name}' has no meaning: {dataset.source} "
            "holds no pixels (uint8), so its numbers were used as they are"
        )
    warnings.extend(_resized(dataset))
    static = static_batch(specs)
    if len(dataset) < 2 * (static or 1):
        raise InputError(
            f"{len(dataset)} of {dataset.source} are too few: at least {2 * (static or 1)} are "
            "needed, to fit on some and verify on others"
        )
    fit, selection = split(dataset, share, options.seed)
    verification = None
    if options.test_data is not None:
        tests = load_dataset(
            options.test_data,
            specs,
            outputs=outputs,
            preprocessing=preprocessing,
            samples=None,
            seed=options.seed,
        )
        verification = batches_of(tests, static)
        if _is_same(options.data, options.test_data):
            warnings.append(
                "--test-data names the same images as --data, which the fits saw: what they show "
                "proves little"
            )
    return Material(
        fit=batches_of(fit, static),
        selection=batches_of(selection, static),
        verification=verification,
        single=next(dataset.batches(static or 1)),
        description=_describe(dataset, how),
        warnings=warnings,
    )


def _resized(dataset: Dataset) -> list[str]:
    """A sentence for every input whose images came in another size than it takes."""
    found = []
    for name, column in dataset.columns.items():
        if not isinstance(column, ImageColumn) or not isinstance(column.images, ArrayImages):
            continue
        images = column.images
        height, width = images.array.shape[1:3]
        if (height, width) != (images.height, images.width):
            found.append(
                f"images of {height}x{width} were brought to the {images.height}x{images.width} "
                f"of the input '{name}' (docs/python-api.md: resize, crop)"
            )
    return found


def _is_same(data: str | None, other: str) -> bool:
    """Whether two sources are one file or folder, or are called alike."""
    if data is None:
        return False
    here, there = Path(data), Path(other)
    return data == other or (here.exists() and there.exists() and here.samefile(there))


def _preprocessing(
    model: ir.Model, specs: list[InputSpec], options: Options
) -> tuple[Preprocessing | None, str]:
    image = image_input(specs)
    takes_pixels = image is not None and image.dtype.kind in "ui"
    if options.preprocessing is not None:
        if takes_pixels and not options.preprocessing.keeps_pixels:
            raise ConfigurationError(
                f"the input {image.describe() if image else ''} takes whole numbers, which "
                f"'{options.preprocessing.name}' does not give; use --preset raw"
            )
        return options.preprocessing, "preprocessing as given"
    if takes_pixels:
        # The network does the rest itself.
        raw = dataclasses.replace(PRESETS["raw"], assumed=True)
        return raw, "the input takes whole numbers: pixels were fed as they are, 0 to 255"
    return find_normalisation(model, specs, seed=options.seed)


def _default_samples(model: ir.Model, specs: list[InputSpec], *, drawn: bool, seed: int) -> int:
    """As many images as the network's size lets one sweep afford."""
    trial = draw_dataset(specs, preprocessing=None, samples=static_batch(specs) or 1, seed=seed)
    pixels = output_sizes(model, Calibration(batches_of(trial, static_batch(specs)), len(trial)))
    work = sum(
        pixels[site.output_name] * site.multiplications_per_pixel
        for site in find_convolutions(model.graph)[0]
    )
    fewest, most = (_FEWEST_DRAWN, _MOST_DRAWN) if drawn else (_FEWEST, _MOST)
    return int(min(max(_WORK / max(work, 1), fewest), most))


def _describe(dataset: Dataset, how: str) -> str:
    if dataset.preprocessing is None:
        return f"{dataset.source}, used as they are"
    return f"{dataset.source}; {how}"
