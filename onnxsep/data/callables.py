"""``package.module:function`` as a source of data: the user's own loader."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from onnxsep.data.arrays import IMAGES, LABELS, TARGETS, ModelSide, dataset_from_arrays
from onnxsep.data.dataset import Dataset, check_samples
from onnxsep.data.inputs import unbatched_inputs
from onnxsep.errors import InputError

#: What a source of this kind looks like.
PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

#: Taken from a function when no number of samples is asked for: generators may never end.
DEFAULT_SAMPLES = 1000
# The samples stay in memory, since a generator cannot be asked again.
_MAX_BYTES = 4 * 2**30


def dataset_from_callable(source: str, model: ModelSide, *, samples: int | None) -> Dataset:
    """Call the user's function and keep what it yields, up to ``samples`` samples.

    The function takes no arguments and returns (or yields) dicts of arrays by input name, samples
    along the first axis, optionally with ``labels``, ``targets`` and ``targets_OUTPUT``; ``images``
    (uint8, N×H×W×C) stands for the image input. Modules
    are looked for in the current directory too. An input without a batch axis takes an array of
    its own shape, or one value per sample.

    Args:
        source: ``package.module:function``.
        model: What the arrays must fit.
        samples: Take this many, or up to `DEFAULT_SAMPLES`.

    Raises:
        InputError: The function cannot be found or fails, or yields what does not fit the model.
        ConfigurationError: ``samples`` is below 1.
    """
    check_samples(samples)
    limit = DEFAULT_SAMPLES if samples is None else samples
    with _current_directory_importable():
        parts = _collect(source, model, limit)
    arrays = {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}
    return dataset_from_arrays(
        arrays, model, origin=source, source=f"function {source}", samples=None, seed=0
    )


def _collect(source: str, model: ModelSide, limit: int) -> list[dict[str, np.ndarray]]:
    known = {spec.name for spec in model.inputs} | {IMAGES, LABELS, TARGETS}
    known |= {f"{TARGETS}_{output}" for output in model.outputs} | set(model.outputs)
    parts: list[dict[str, np.ndarray]] = []
    taken = size = 0
    for number, item in enumerate(_yielded(source), start=1):
        origin = f"{source} (batch {number})"
        part, count = _part(item, model, known, origin)
        if parts:
            _check_alike(part, parts[0], origin)
        taken += count
        size += sum(array.nbytes for array in part.values())
        if size > _MAX_BYTES:
            raise InputError(
                f"{origin}: more than {_MAX_BYTES // 2**30} GiB so far; ask for fewer than "
                f"{limit} samples"
            )
        parts.append(part)
        if taken >= limit:
            break
    if not parts:
        raise InputError(f"{source}: yielded nothing; it must yield dicts of arrays")
    return parts


def _part(
    item: object, model: ModelSide, known: set[str], origin: str
) -> tuple[dict[str, np.ndarray], int]:
    """One yielded dict, checked on its own, every array with one row per sample."""
    if not isinstance(item, Mapping):
        raise InputError(f"{origin}: yielded {type(item).__name__}, not a dict of arrays")
    strange = [name for name in item if name not in known]
    if strange:
        wanted = ", ".join(spec.describe() for spec in model.inputs)
        raise InputError(
            f"{origin}: '{strange[0]}' is no input of the model; it wants {wanted}, and allows "
            f"'{LABELS}' and '{TARGETS}'"
        )
    part = {str(name): _array(value, str(name), origin) for name, value in item.items()}
    checked = dataset_from_arrays(part, model, origin=origin, source=origin, samples=None, seed=0)
    unbatched = unbatched_inputs(model.inputs)
    for spec in model.inputs:
        if spec.name in unbatched and part[spec.name].ndim == len(spec.shape):
            part[spec.name] = np.repeat(part[spec.name][None], len(checked), axis=0)
    return part, len(checked)


def _array(value: object, name: str, origin: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{origin}: '{name}' is no array ({error})") from error
    if array.dtype.hasobject:
        raise InputError(f"{origin}: '{name}' is no array of numbers, but of Python objects")
    return array


def _check_alike(part: dict[str, np.ndarray], first: dict[str, np.ndarray], origin: str) -> None:
    if part.keys() != first.keys():
        odd = sorted(part.keys() ^ first.keys())[0]
        raise InputError(f"{origin}: '{odd}' is not in every dict that was yielded")
    for name, array in part.items():
        if array.shape[1:] != first[name].shape[1:]:
            raise InputError(
                f"{origin}: '{name}' has samples of shape {array.shape[1:]}, the first batch had "
                f"{first[name].shape[1:]}; all samples must have one shape"
            )


def _yielded(source: str) -> Iterator[object]:
    """What the function yields; its own failures become one sentence, with the cause attached."""
    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module can fail with anything
        raise InputError(
            f"{source}: cannot import '{module_name}' ({_said(error)}); modules are looked for in "
            f"the installed packages and in {os.getcwd()}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{source}: '{module_name}' has no function '{function_name}'")
    try:
        result = function()
        yield from [result] if isinstance(result, Mapping) else result
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{source}: failed ({_said(error)})") from error


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Let the user's modules be found in the current directory, as ``python -m`` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
