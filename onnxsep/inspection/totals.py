"""A model as a whole: sums over its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxsep.inspection.profile import Profile
from onnxsep.inspection.record import ActivationMemory, KindRow, Layer, Totals
from onnxsep.model import weight_bytes

OTHER = "other"
# What the runtime makes of a matrix product.
_KERNELS = {
    "Gemm": ("Gemm", "FusedGemm", "QGemm"),
    "MatMul": (
        "MatMul",
        "FusedMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
    ),
}


def weight_bytes_of(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return weight_bytes(model)


def totals_of(
    model: ir.Model,
    layers: Sequence[Layer],
    products: Mapping[str, int],
    memory: ActivationMemory,
    timed: Profile | None,
) -> Totals:
    """Sums over everything that counts.

    Args:
        model: Normalized.
        layers: With savings.
        products: Multiplications of matrix products by kind.
        memory: Activations in memory.
        timed: The profile, if there is one.
    """
    macs = formula_macs = achievable_macs = sum(products.values())
    weights = formula_parameters = achievable_parameters = 0
    for layer in layers:
        if not layer.shared_with:
            weights += layer.parameters
            formula = layer.formula
            formula_parameters += layer.parameters if formula is None else formula.parameters
            best = layer.achievable
            achievable_parameters += layer.parameters if best is None else best.parameters
        if not layer.counted or layer.macs is None:
            continue
        macs += layer.macs
        after = None if layer.formula is None else layer.formula.macs
        formula_macs += layer.macs if after is None else after
        after = None if layer.achievable is None else layer.achievable.macs
        achievable_macs += layer.macs if after is None else after
    peak = memory.peak_step
    return Totals(
        layers=len(layers),
        parameters=sum(
            value.const_value.size
            for graph in model.graphs()
            for value in graph.initializers.values()
            if value.const_value is not None
        ),
        bytes=weight_bytes(model),
        macs=macs,
        unsized=sum(layer.macs is None for layer in layers),
        formula_macs=formula_macs,
        formula_parameters=formula_parameters,
        weights=weights,
        achievable_macs=achievable_macs,
        achievable_parameters=achievable_parameters,
        achievable_layers=sum(layer.achievable is not None for layer in layers),
        peak_bytes=0 if peak is None else peak.bytes,
        peak_node="" if peak is None else peak.node,
        time_ms=None if timed is None else timed.total_ms,
    )


def kind_rows(
    layers: Sequence[Layer], products: Mapping[str, int], timed: Profile | None
) -> list[KindRow]:
    """One row per kind, most multiplications first; with a profile also one for all the rest."""
    whole = sum(layer.macs or 0 for layer in layers if layer.counted) + sum(products.values())
    rows = []
    attributed = 0.0
    for kind in dict.fromkeys(layer.kind for layer in layers):
        some = [layer for layer in layers if layer.kind == kind]
        macs = sum(layer.macs or 0 for layer in some if layer.counted)
        milliseconds = None
        if timed is not None:
            milliseconds = sum(layer.time_ms or 0.0 for layer in some)
            attributed += milliseconds
        rows.append(
            KindRow(
                kind,
                len(some),
                sum(layer.parameters for layer in some if not layer.shared_with),
                macs,
                macs / whole if whole else 0.0,
                milliseconds,
                _share(milliseconds, timed),
            )
        )
    for kind, macs in products.items():
        milliseconds = None
        if timed is not None:
            milliseconds = sum(timed.others.get(name, 0.0) for name in _KERNELS[kind])
            attributed += milliseconds
        share = macs / whole if whole else 0.0
        rows.append(KindRow(kind, 0, 0, macs, share, milliseconds, _share(milliseconds, timed)))
    rows.sort(key=lambda row: -row.macs)
    if timed is not None:
        rest = max(timed.total_ms - attributed, 0.0)
        rows.append(KindRow(OTHER, 0, 0, 0, 0.0, rest, _share(rest, timed)))
    return rows


def _share(milliseconds: float | None, timed: Profile | None) -> float | None:
    if milliseconds is None or timed is None or not timed.total_ms:
        return None
    return milliseconds / timed.total_ms
