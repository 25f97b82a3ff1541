"""Facts gathered along a run become its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxsep.convolution import ConvSite, find_convolutions
from onnxsep.fusion import FusionReport
from onnxsep.latency import Comparison
from onnxsep.model import model_bytes, serialized_bytes
from onnxsep.options import Options
from onnxsep.passes.base import Change, LosslessPass, LossyPass, Refusal, RewriteResult
from onnxsep.report.head import now, onnxsep_version, package_versions
from onnxsep.report.record import (
    SCHEMA_VERSION,
    UNREAD,
    FusionRow,
    LayerRow,
    PassRow,
    QualityRow,
    Record,
    TrialRow,
)

_SEPARATE = "separate"
_QUANTIZE = "quantize"
_ALIGN = "align_channels"


@dataclasses.dataclass
class RunFacts:
    """What becomes known along a run, in the order in which it does."""

    source: Path
    options: Options
    bytes_before: int
    parameters_before: int
    calibration: str = ""
    budget: str = ""
    latency: Comparison | None = None
    latency_note: str = ""
    lossless_difference: float = 0.0
    warnings: list[str] = dataclasses.field(default_factory=list)
    quality: list[QualityRow] = dataclasses.field(default_factory=list)
    passes: list[PassRow] = dataclasses.field(default_factory=list)
    sites: list[ConvSite] = dataclasses.field(default_factory=list)
    pixels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    precision: str = "fp32"
    trials: list[TrialRow] = dataclasses.field(default_factory=list)
    fusion: FusionReport | None = None
    plan: Path | None = None
    created: str = dataclasses.field(default_factory=now)

    @classmethod
    def of_input(cls, source: Path, model: ir.Model, options: Options) -> RunFacts:
        """Begin with the input."""
        return cls(source, options, model_bytes(source), count_parameters(model))

    def add(self, rewrite: type[LosslessPass] | type[LossyPass], result: RewriteResult) -> None:
        """Note what a pass did."""
        kind = "lossy" if issubclass(rewrite, LossyPass) else "lossless"
        self.passes.append(
            PassRow(
                rewrite.name,
                kind,
                [_plain(change) for change in result.changes],
                [_plain(refusal) for refusal in result.refusals],
            )
        )

    def has_changes(self, rewrite: type[LosslessPass] | type[LossyPass]) -> bool:
        """Whether a pass changed anything."""
        return any(row.name == rewrite.name and row.changes for row in self.passes)

    def forget_rewrites(self) -> None:
        """Take back what was noted of passes that ran after cleaning."""
        names = (_SEPARATE, "equalize", _ALIGN, _QUANTIZE, "correct_bias")
        self.passes = [row for row in self.passes if row.name not in names]
        self.precision = "fp32"

    def withdraw(self, name: str, reason: Refusal) -> None:
        """Turn every change of a pass that was taken back into a refusal with ``reason``."""
        for index, row in enumerate(self.passes):
            if row.name != name:
                continue
            refusals = [
                _plain(dataclasses.replace(reason, node=change["node"])) for change in row.changes
            ]
            self.passes[index] = PassRow(row.name, row.kind, [], [*row.refusals, *refusals])

    def note_layers(self, model: ir.Model, pixels: Mapping[str, int]) -> None:
        """Remember the convolutions before they are rewritten.

        Args:
            model: The cleaned network.
            pixels: Output positions for one image, by name of the convolution's output.
        """
        self.sites = find_convolutions(model.graph)[0]
        self.pixels = pixels


def build_record(facts: RunFacts, model: ir.Model, output: Path | None, seconds: float) -> Record:
    """The record of a run that ended well."""
    return Record(
        schema=SCHEMA_VERSION,
        onnxsep_version=onnxsep_version(),
        versions=package_versions(),
        input=str(facts.source),
        output="" if output is None else str(output),
        target=facts.options.target,
        budget=facts.budget,
        calibration=facts.calibration,
        passes=facts.passes,
        layers=_layer_rows(facts),
        parameters_before=facts.parameters_before,
        parameters_after=count_parameters(model),
        bytes_before=facts.bytes_before,
        bytes_after=serialized_bytes(model),
        lossless_difference=facts.lossless_difference,
        latency=facts.latency,
        latency_note=facts.latency_note,
        quality=facts.quality,
        warnings=facts.warnings,
        settings=_settings(facts.options),
        seconds=round(seconds, 2),
        precision=facts.precision,
        trials=facts.trials,
        fusion=_fusion_row(facts.fusion),
        created=facts.created,
        plan="" if facts.plan is None else str(facts.plan),
    )


def count_parameters(model: ir.Model) -> int:
    """Floating-point and integer numbers held in initializers and large constants."""
    return sum(
        value.const_value.size
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _fusion_row(report: FusionReport | None) -> FusionRow | None:
    if report is None:
        return None
    return FusionRow(
        provider=report.provider,
        convolutions=report.convolutions,
        integer=len(report.fused),
        in_float=list(report.in_float),
        unfused=[dataclasses.asdict(one) for one in report.unfused],
    )


def _layer_rows(facts: RunFacts) -> list[LayerRow]:
    changes: dict[str, dict[str, Any]] = {}
    refusals: dict[str, dict[str, Any]] = {}
    ran = False
    for row in facts.passes:
        if row.name == _SEPARATE:
            ran = True
            changes = {change["node"]: change for change in row.changes}
            refusals = {refusal["node"]: refusal for refusal in row.refusals}
    rows = [_layer_row(site, facts.pixels, changes, refusals, ran) for site in facts.sites]
    integers = {
        change["node"] for row in facts.passes if row.name == _QUANTIZE for change in row.changes
    }
    rows = [
        dataclasses.replace(row, precision="int8") if _is_among(row, integers) else row
        for row in rows
    ]
    known = {site.name for site in facts.sites}
    # Convolutions that could not even be read have a reason and no figures.
    rows.extend(
        LayerRow(
            name=name,
            kind=UNREAD,
            shape="",
            action="kept",
            detail=refusal["reason"],
            code=refusal["code"],
            rank=0,
            error=0.0,
            parameters_before=0,
            parameters_after=0,
            multiplications_before=0,
            multiplications_after=0,
        )
        for name, refusal in refusals.items()
        if name not in known
    )
    return rows


def _is_among(row: LayerRow, nodes: set[str]) -> bool:
    """Whether a layer, or a convolution that it became, is among ``nodes``."""
    return row.name in nodes or (
        row.action == "separated" and any(name.startswith(f"{row.name}/") for name in nodes)
    )


def _layer_row(
    site: ConvSite,
    pixels: Mapping[str, int],
    changes: Mapping[str, dict[str, Any]],
    refusals: Mapping[str, dict[str, Any]],
    ran: bool,
) -> LayerRow:
    area = pixels.get(site.output_name, 0)
    kernel = "x".join(str(extent) for extent in site.geometry.kernel)
    shape = f"{site.in_channels}x{site.out_channels} {kernel}"
    before, multiplications = site.parameters, area * site.multiplications_per_pixel
    if site.name in changes:
        change = changes[site.name]
        figures = change["figures"]
        return LayerRow(
            site.name,
            site.kind,
            shape,
            "separated",
            change["detail"],
            change["code"],
            int(figures["rank"]),
            float(figures["error"]),
            before,
            int(figures["parameters_after"]),
            multiplications,
            area * int(figures["multiplications_after"]),
        )
    refusal = refusals.get(
        site.name,
        {
            "code": "not-chosen" if ran else "pass-not-run",
            "reason": "not chosen" if ran else "the pass 'separate' was not asked for",
        },
    )
    return LayerRow(
        site.name,
        site.kind,
        shape,
        "kept",
        refusal["reason"],
        refusal["code"],
        0,
        0.0,
        before,
        before,
        multiplications,
        multiplications,
    )


def _plain(entry: Change | Refusal) -> dict[str, Any]:
    plain = dataclasses.asdict(entry)
    plain["figures"] = {name: float(value) for name, value in entry.figures.items()}
    return plain


def _settings(options: Options) -> dict[str, Any]:
    settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    metric = settings.pop("metric")
    settings["metric"] = None if metric is None else f"{metric.__module__}:{metric.__qualname__}"
    preprocessing = settings.pop("preprocessing")
    settings["preprocessing"] = None if preprocessing is None else dataclasses.asdict(preprocessing)
    settings["passes"] = list(options.passes)
    settings["plan"] = None if options.plan is None else str(options.plan)
    return settings
