"""Conditions that rules of several targets share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxsep.eligibility.rule import Circumstances, Condition
from onnxsep.eligibility.unit import Unit

IMAGE_RANK = 4
BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


def always(unit: Unit, circumstances: Circumstances) -> bool:
    """Whatever the unit is."""
    del unit, circumstances
    return True


def type_other_than(*allowed: ir.DataType) -> Condition:
    """The first input is of another type, or of none that is known."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        port = unit.input(0)
        return port is None or port.dtype not in allowed

    return refuses


def rank_other_than(*allowed: int) -> Condition:
    """The first input has another number of dimensions, or none that is known."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        port = unit.input(0)
        return port is None or port.rank not in allowed

    return refuses


def older_than(opset: int) -> Condition:
    """The operator is of an older version."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        return unit.opset < opset

    return refuses


def integer_is_set(name: str) -> Condition:
    """An attribute is there and not 0."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        return unit.integer(name, 0) != 0

    return refuses


def input_changes(*indices: int) -> Condition:
    """One of these inputs is there and no constant."""

    def refuses(unit: Unit, _: Circumstances) -> bool:
        ports = [unit.input(index) for index in indices]
        return any(port is not None and not port.constant for port in ports)

    return refuses


def dilated(unit: Unit, _: Circumstances) -> bool:
    """The taps are not neighbours."""
    return any(step != 1 for step in unit.integers("dilations"))


def divides(factor: float, size: int) -> bool:
    """Whether ``factor`` is a whole number that divides ``size``."""
    whole = round(factor)
    return float(whole) == factor and whole > 0 and size % whole == 0


def resize_amounts(unit: Unit) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Constant scales and constant sizes of a Resize; None for what is left out or computed."""
    oldest = 10  # had scales only, one input earlier
    places = (1, None) if unit.opset == oldest else (2, 3)
    found: list[np.ndarray | None] = []
    for place in places:
        port = None if place is None else unit.operand(place)
        array = None if port is None else port.array()
        found.append(array if array is not None and array.size >= IMAGE_RANK else None)
    return found[0], found[1]


def resize_unknown(unit: Unit, _: Circumstances) -> bool:
    """Neither scales nor sizes are constant."""
    return all(amount is None for amount in resize_amounts(unit))


def resizes_channels(unit: Unit, _: Circumstances) -> bool:
    """More than height and width would change."""
    scales, sizes = resize_amounts(unit)
    port = unit.input(0)
    shape = None if port is None else port.shape
    if scales is not None and float(scales[1]) != 1.0:
        return True
    return sizes is not None and shape is not None and int(sizes[1]) != shape[1]


def shrinks_unevenly(unit: Unit, _: Circumstances) -> bool:
    """The image gets smaller by something else than a whole number that divides its size."""
    scales, _sizes = resize_amounts(unit)
    port = unit.input(0)
    if scales is None or port is None or port.shape is None or min(scales[2:4]) >= 1:
        return False
    return any(
        size is None or not divides(1 / float(scale), size)
        for size, scale in zip(port.shape[2:4], scales[2:4], strict=False)
    )


def resize_option(unit: Unit, _: Circumstances) -> bool:
    """One of the options that came with later opsets is used."""
    return bool(
        unit.integer("antialias", 0)
        or unit.integers("axes")
        or unit.text("keep_aspect_ratio_policy", "stretch") != "stretch"
        or unit.integer("exclude_outside", 0)
    )
