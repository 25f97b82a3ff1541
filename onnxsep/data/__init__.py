"""Calibration and evaluation data: the user's own, or drawn where there are none."""

from onnxsep.data.dataset import Dataset, split
from onnxsep.data.drawn import draw_dataset
from onnxsep.data.inputs import InputSpec, input_specs, static_batch
from onnxsep.data.loading import load_dataset
from onnxsep.data.normalisation import find_normalisation
from onnxsep.data.preprocessing import PRESETS, Preprocessing

__all__ = [
    "PRESETS",
    "Dataset",
    "InputSpec",
    "Preprocessing",
    "draw_dataset",
    "find_normalisation",
    "input_specs",
    "load_dataset",
    "split",
    "static_batch",
]
