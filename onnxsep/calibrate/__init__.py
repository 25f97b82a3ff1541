"""What the data say about a network: its inner values, met once, in batches, in graph order."""

from onnxsep.calibrate.layers import own_moments, shifted_moments
from onnxsep.calibrate.patches import PatchSampler
from onnxsep.calibrate.walk import ActivationWalk

__all__ = ["ActivationWalk", "PatchSampler", "own_moments", "shifted_moments"]
