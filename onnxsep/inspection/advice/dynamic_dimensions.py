"""Free dimensions, which some targets do not take."""

from __future__ import annotations

from onnxsep.inspection.facts import Facts, percent
from onnxsep.inspection.record import Advice
from onnxsep.inspection.sizes import free_axes
from onnxsep.targets.quantization import SCHEMES


def advise_on_dynamic_dimensions(facts: Facts) -> tuple[list[Advice], list[str]]:
    """One piece for the batch, one for the sizes of images, with the targets that each bars."""
    batch: dict[str, list[str]] = {}
    sizes: dict[str, list[str]] = {}
    for name, axes in free_axes(facts.original).items():
        value = next(each for each in facts.original.graph.inputs if each.name == name)
        for axis in axes:
            dimension = None if value.shape is None else value.shape[axis]
            title = getattr(dimension, "value", None) or f"axis {axis}"
            (sizes if axis > 0 else batch).setdefault(name, []).append(str(title))
    advice = []
    if batch:
        advice.append(_advice(facts, "dynamic-batch", batch, _barred("free_batch")))
    if sizes:
        advice.append(_advice(facts, "dynamic-size", sizes, _barred("free_size")))
    return advice, []


def _barred(attribute: str) -> list[str]:
    return [name for name, scheme in SCHEMES.items() if not getattr(scheme, attribute)]


def _advice(facts: Facts, code: str, found: dict[str, list[str]], barred: list[str]) -> Advice:
    concerned = facts.target.name in barred
    words = ", ".join(f"{' and '.join(axes)} of '{name}'" for name, axes in found.items())
    count = sum(map(len, found.values()))
    layers = [layer for layer in facts.layers if layer.counted]
    share = sum(layer.share for layer in layers)
    first = next(iter(found.values()))[0]
    fix = (
        f"python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param {first} --dim_value 1"
        if not first.startswith("axis ") and code == "dynamic-batch"
        else "fix the sizes when you export, or with "
        "python -m onnxruntime.tools.make_dynamic_shape_fixed"
    )
    bars = " and ".join(barred)
    return Advice(
        code,
        "high" if concerned else "low",
        "the batch is a free dimension" if code == "dynamic-batch" else "image sizes are free",
        tuple(found),
        f"{words} {'has' if count == 1 else 'have'} no fixed size, which bars "
        f"{bars}: the {len(layers)} convolutions with {percent(min(share, 1.0))} of the "
        "multiplications stay on the CPU provider there",
        fix,
        {"axes": count, "layers": len(layers), "share": share},
    )
