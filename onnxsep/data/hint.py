"""The preprocessing that a model's exporter wrote into its metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onnxsep.data.inputs import ImageGeometry
from onnxsep.data.preprocessing import Preprocessing
from onnxsep.errors import ConfigurationError

if TYPE_CHECKING:
    import onnx_ir as ir

#: Key of the hint. Its value is JSON, for example
#: ``{"scale": 0.00392157, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}``; besides,
#: ``color`` is rgb, bgr or gray. What is absent keeps the default of `Preprocessing`.
METADATA_KEY = "onnxsep.preprocessing"

_FIELDS = ("scale", "mean", "std", "color")
# Four fields with a number per channel need less; the parser never sees more.
_MAX_LENGTH = 2000


def read_hint(
    model: ir.Model, geometry: ImageGeometry, input_name: str
) -> tuple[Preprocessing | None, str]:
    """The hint in ``model``'s metadata, and a complaint about one that is of no use.

    Returns:
        The preprocessing, or None if there is no valid hint; and the beginning of a sentence,
        empty unless a hint is there and not valid.
    """
    text = model.metadata_props.get(METADATA_KEY)
    if text is None:
        return None, ""
    try:
        return _parse(text).resolve(geometry, input_name), ""
    except (ValueError, TypeError, RecursionError, ConfigurationError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, f"the model's metadata '{METADATA_KEY}' is of no use ({said}); "


def _parse(text: str) -> Preprocessing:
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"longer than {_MAX_LENGTH} characters")
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise TypeError("not a JSON object")
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(f"unknown field '{unknown[0]}'")
    default = Preprocessing()
    return Preprocessing(
        mean=_numbers(fields.get("mean", list(default.mean)), "mean"),
        std=_numbers(fields.get("std", list(default.std)), "std"),
        scale=_numbers(fields.get("scale", default.scale), "scale")[0],
        color=fields.get("color", default.color),
        name="metadata",
    )


def _numbers(value: object, field: str) -> tuple[float, ...]:
    numbers = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, int | float) or isinstance(entry, bool):
            raise TypeError(f"'{field}' is no number or list of numbers")
        numbers.append(float(entry))
    if not numbers:
        raise ValueError(f"'{field}' is empty")
    return tuple(numbers)
