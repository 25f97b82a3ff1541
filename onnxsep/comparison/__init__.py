"""Two models on the same data: outputs, layers, latency, size, work."""

from onnxsep.comparison.options import CompareOptions
from onnxsep.comparison.record import ComparisonRecord
from onnxsep.comparison.story import compare

__all__ = ["CompareOptions", "ComparisonRecord", "compare"]
