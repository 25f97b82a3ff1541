"""The data of a comparison: the user's own, or drawn where there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxsep.comparison.options import CompareOptions
from onnxsep.comparison.subjects import Subject
from onnxsep.data import (
    PRESETS,
    Dataset,
    InputSpec,
    Preprocessing,
    draw_dataset,
    find_normalisation,
    load_dataset,
    static_batch,
)
from onnxsep.data.inputs import image_geometry, image_input
from onnxsep.data.preprocessing import assume_preprocessing
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.evaluation import Batches, batches_of
from onnxsep.progress import Progress
from onnxsep.runtime import Feeds

# Agreement needs many images; drawing and running so many takes seconds on small networks.
_DRAWN_SAMPLES = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What both models are fed with.

    Attributes:
        batches: Everything.
        single: One sample (or one static batch), for timing.
        static: The batch that a model insists on, or None.
        description: Source and preprocessing.
        warnings: What the report must say about them.
    """

    batches: Batches
    single: Feeds
    static: int | None
    description: str
    warnings: list[str]


def gather(
    first: Subject,
    second: Subject,
    specs: Sequence[InputSpec],
    outputs: Sequence[str],
    options: CompareOptions,
    progress: Progress,
) -> Material:
    """Load or draw the data.

    Args:
        first: The models, whose BatchNormalization may betray the normalisation.
        second: The other one.
        specs: What both are fed with.
        outputs: Names of the first model's outputs, which targets may be given for.
        options: Settings of the run.
        progress: Told about loading and drawing.

    Raises:
        InputError: The data do not fit the models.
        ConfigurationError: The preprocessing does not.
    """
    warnings: list[str] = []
    preprocessing, how = _preprocessing(first, second, specs, options)
    dataset: Dataset
    if options.data is not None:
        progress.stage(f"loading {options.data}")
        dataset = load_dataset(
            options.data,
            specs,
            outputs=outputs,
            preprocessing=preprocessing,
            samples=options.samples,
            seed=options.seed,
        )
    else:
        count = options.samples or _whole(_DRAWN_SAMPLES, static_batch(specs))
        progress.stage(f"drawing {count} images")
        dataset = draw_dataset(specs, preprocessing=preprocessing, samples=count, seed=options.seed)
        warnings.append("no --data was given: images were drawn, and real quality was not measured")
    if dataset.preprocessing is not None and dataset.preprocessing.assumed:
        warnings.append(how)
    static = static_batch(specs)
    batches = batches_of(dataset, static)
    left_out = len(dataset) - len(batches.dataset)
    if left_out:
        warnings.append(f"{left_out} samples were left out: a model takes batches of {static} only")
    used = dataset.preprocessing is not None
    description = f"{dataset.source}; {how}" if used else f"{dataset.source}, used as they are"
    return Material(batches, next(dataset.batches(static or 1)), static, description, warnings)


def _whole(count: int, batch: int | None) -> int:
    """``count``, rounded up to whole batches."""
    return count if batch is None else -(-count // batch) * batch


def _preprocessing(
    first: Subject, second: Subject, specs: Sequence[InputSpec], options: CompareOptions
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
        raw = dataclasses.replace(PRESETS["raw"], assumed=True)
        return raw, "the input takes whole numbers: pixels were fed as they are, 0 to 255"
    found = assume_preprocessing(None if image is None else image_geometry(image))
    # Where one model has its BatchNormalization folded, the other may still have it.
    for subject in (first, second):
        if subject.graph is None:
            continue
        try:
            found = find_normalisation(subject.graph, specs, seed=options.seed)
        except InputError:
            continue
        if not found[0].assumed:
            break
    return found
