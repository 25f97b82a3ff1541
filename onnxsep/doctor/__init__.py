"""What this machine has, what is missing, and what helps."""

from onnxsep.doctor.diagnosis import diagnose
from onnxsep.doctor.record import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
