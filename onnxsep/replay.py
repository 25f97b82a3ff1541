"""A run's plan as a file, and a run that repeats one."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from onnxsep.calibrate.cache import fingerprint
from onnxsep.convolution import find_convolutions
from onnxsep.errors import ConfigurationError
from onnxsep.material import Material
from onnxsep.options import Options
from onnxsep.passes.base import Refusal
from onnxsep.passes.quantize import Quantize
from onnxsep.plan import Plan
from onnxsep.search.build import Builder, Built, Precision
from onnxsep.search.plan_file import SavedLayer, SavedPlan, load_plan, model_fingerprint, save_plan


def plan_path(output: Path) -> Path:
    """Where the plan of a result goes: beside it."""
    return output.with_suffix(".plan.json")


def write_plan(
    built: Built, source: Path, cleaned: ir.Model, material: Material, options: Options, path: Path
) -> None:
    """Write what was decided for every convolution of a result.

    Raises:
        OutputError: It cannot be written.
    """
    quantized = {
        change.node
        for rewrite_pass, result in built.accounts
        if rewrite_pass is Quantize
        for change in result.changes
    }
    layers = []
    for site in find_convolutions(cleaned.graph)[0]:
        decision = built.plan.decisions.get(site.name)
        parts = f"{site.name}/"
        integers = site.name in quantized or any(name.startswith(parts) for name in quantized)
        precision: Precision = "int8" if integers else "fp32"
        if decision is not None:
            layers.append(SavedLayer.chosen(site.name, decision, precision, "chosen by the run"))
        else:
            refusal = built.plan.refusals.get(site.name) or Refusal(
                site.name, "not-chosen", "not chosen"
            )
            layers.append(SavedLayer.kept(refusal, precision))
    save_plan(
        SavedPlan(
            model=source.name,
            model_sha256=model_fingerprint(source),
            data=material.fit.dataset.source,
            data_sha256=fingerprint(material.fit),
            target=options.target,
            seed=options.seed,
            layers=tuple(layers),
            alignment=dict(built.alignment),
            keep_float=tuple(sorted(built.keep_float)),
            settings={"precision": built.precision, "passes": ",".join(options.passes)},
        ),
        path,
    )


def repeat_plan(
    path: Path,
    source: Path,
    cleaned: ir.Model,
    material: Material,
    options: Options,
    builder: Builder,
) -> tuple[Built, list[str]]:
    """Carry a saved plan out.

    Returns:
        The result, and why it may differ from the first one, in clauses.

    Raises:
        InputError: The plan cannot be read, or is for another model.
        ConfigurationError: It is for another target or precision.
    """
    saved = load_plan(path)
    names = [site.name for site in find_convolutions(cleaned.graph)[0]]
    saved.require_nodes(names, source.name)
    if saved.target != options.target:
        raise ConfigurationError(
            f"{path} is a plan for the target {saved.target!r}; give --target {saved.target}"
        )
    notes = saved.differences(
        model_sha256=model_fingerprint(source), data_sha256=fingerprint(material.fit)
    )
    if saved.seed != options.seed:
        notes.append(f"the plan was made with --seed {saved.seed}")
    precision: Precision = "int8" if saved.settings.get("precision") == "int8" else "fp32"
    if (precision == "int8") != (options.precision == "int8") and options.precision != "auto":
        raise ConfigurationError(
            f"{path} is a plan for {precision}, which --precision {options.precision} rules out; "
            "leave that out"
        )
    plan = Plan(saved.decisions, 1.0, saved.refusals)
    alignment = {name: multiple for name, multiple in saved.alignment.items() if multiple > 0}
    built = builder.build(
        plan, precision, alignment, frozenset(saved.keep_float), corrects_bias=True
    )
    return built, notes
