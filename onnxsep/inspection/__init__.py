"""Looks at a model and changes nothing: where the work is, what could be saved, what to mend."""

from onnxsep.inspection.inspect import inspect
from onnxsep.inspection.record import (
    ActivationMemory,
    Advice,
    CurvePoint,
    FormulaSaving,
    Inspection,
    KindRow,
    Layer,
    MemoryStep,
    Totals,
)

__all__ = [
    "ActivationMemory",
    "Advice",
    "CurvePoint",
    "FormulaSaving",
    "Inspection",
    "KindRow",
    "Layer",
    "MemoryStep",
    "Totals",
    "inspect",
]
