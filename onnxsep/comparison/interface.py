"""Whether two models can be compared: what both want to be fed, which outputs belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsep.comparison.subjects import Subject
from onnxsep.data import InputSpec
from onnxsep.errors import InputError

# What onnxruntime calls the types that NumPy can hold.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_NAMES_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Outputs that belong together.

    Attributes:
        pairs: Positions in the first and in the second model.
        how: ``name`` or ``position``.
        warnings: Which outputs were left out, in sentences.
    """

    pairs: tuple[tuple[int, int], ...]
    how: str
    warnings: tuple[str, ...]


def common_inputs(first: Subject, second: Subject) -> list[InputSpec]:
    """What both models are fed with, every axis as fixed as the stricter of the two has it.

    Raises:
        InputError: Names, types or shapes do not fit each other; names the first that does not.
    """
    ones, others = first.session.get_inputs(), second.session.get_inputs()
    by_name = {node.name: node for node in others}
    for names, known, subject, other in (
        ([node.name for node in ones], set(by_name), first, second),
        (list(by_name), {node.name for node in ones}, second, first),
    ):
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(
                f"{subject.title} has the input {_listed(missing)}, which {other.title} has not "
                f"(it has {_listed(sorted(known))}); compare needs two models with the same inputs"
            )
    return [_merged(node, by_name[node.name], first, second) for node in ones]


def pair_outputs(first: Subject, second: Subject) -> Pairing:
    """Outputs of the same name; where no name is the same, those in the same place.

    Raises:
        InputError: Nothing can be paired; says what does not match.
    """
    ones, others = first.session.get_outputs(), second.session.get_outputs()
    places = {node.name: place for place, node in enumerate(others)}
    by_name = [(place, places[node.name]) for place, node in enumerate(ones) if node.name in places]
    if not by_name:
        reason = "" if len(ones) == len(others) else f"{len(ones)} against {len(others)} outputs"
        for one, other in zip(ones, others, strict=False):
            reason = reason or _difference(one, other)
        if reason:
            raise InputError(
                f"no output of {first.title} ({_listed([node.name for node in ones])}) has the "
                f"name of one of {second.title} ({_listed([node.name for node in others])}), and "
                f"by position they do not fit: {reason}"
            )
        return Pairing(tuple((place, place) for place in range(len(ones))), "position", ())
    warnings = []
    fitting = []
    for place, counterpart in by_name:
        reason = _difference(ones[place], others[counterpart])
        if reason:
            warnings.append(f"the output '{ones[place].name}' was left out: {reason}")
        else:
            fitting.append((place, counterpart))
    if not fitting:
        raise InputError(f"the outputs of the two models cannot be compared: {warnings[0]}")
    for subject, nodes, taken in (
        (first, ones, {place for place, _ in by_name}),
        (second, others, {place for _, place in by_name}),
    ):
        alone = [node.name for place, node in enumerate(nodes) if place not in taken]
        if alone:
            warnings.append(f"only {subject.title} has the output {_listed(alone)}: left out")
    return Pairing(tuple(fitting), "name", tuple(warnings))


def _merged(one: Any, other: Any, first: Subject, second: Subject) -> InputSpec:
    if one.type != other.type:
        raise InputError(
            f"the input '{one.name}' is {one.type} in {first.title}, but {other.type} in "
            f"{second.title}; convert one of them so that both take the same data"
        )
    if one.type not in _DTYPES:
        raise InputError(f"the input '{one.name}' is {one.type}, which cannot be fed from arrays")
    reason = _shape_difference(one.shape, other.shape)
    if reason:
        raise InputError(
            f"the input '{one.name}' has the shape {reason} in {second.title}; compare needs two "
            "models that take the same data"
        )
    # An unknown rank is an empty shape as well; the other model may know better.
    long, short = (one.shape, other.shape) if one.shape else (other.shape, one.shape)
    axes = [
        other_axis if isinstance(other_axis, int) and not isinstance(axis, int) else axis
        for axis, other_axis in zip(long, short or long, strict=True)
    ]
    return InputSpec(one.name, tuple(axes), np.dtype(_DTYPES[one.type]))


def _difference(one: Any, other: Any) -> str:
    """What keeps two outputs from being compared, a clause; empty if nothing does."""
    for node in (one, other):
        if not node.type.startswith("tensor("):
            return f"'{node.name}' is {node.type}, no tensor"
    if _is_float(one.type) != _is_float(other.type) or (
        not _is_float(one.type) and one.type != other.type
    ):
        return f"'{one.name}' is {one.type}, but '{other.name}' is {other.type}"
    reason = _shape_difference(one.shape, other.shape)
    return f"'{one.name}' has the shape {reason}" if reason else ""


def _shape_difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    if not one or not other:
        return ""
    clash = len(one) != len(other) or any(
        isinstance(axis, int) and isinstance(counterpart, int) and axis != counterpart
        for axis, counterpart in zip(one, other, strict=True)
    )
    return f"{_shape(one)}, against {_shape(other)}" if clash else ""


def _is_float(kind: str) -> bool:
    return kind in ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")


def _shape(shape: Sequence[Any]) -> str:
    return "x".join(str(axis) if axis is not None else "?" for axis in shape)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
