"""What a comparison can be told, with the checks that need no model."""

from __future__ import annotations

import dataclasses
import math
import os

from onnxsep.data import Preprocessing
from onnxsep.errors import ConfigurationError

_MOST_SAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Settings of one comparison.

    Attributes:
        data: Folder, .npz, .npy or ``package.module:function``; None draws images.
        samples: Most samples taken of ``data``, or drawn; None for all, or a sensible number.
        preprocessing: For uint8 images; None finds or assumes one.
        label_offset: Added to each label to give the class index.
        threads: Threads of the latency measurement; 0 for all cores.
        seed: Of every random choice.
        measure_latency: Whether to time both models.
        compare_layers: Whether to compare inner values of the same name.
        fail_below_db: Least signal-to-noise of every output in dB; None for no such gate.
        max_drop: Most points of the measure (or dB of PSNR) that may be lost; None for no gate.
    """

    data: str | None = None
    samples: int | None = None
    preprocessing: Preprocessing | None = None
    label_offset: int = 0
    threads: int = 1
    seed: int = 0
    measure_latency: bool = True
    compare_layers: bool = True
    fail_below_db: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ConfigurationError: Names the option and what it takes.
        """
        _require(self.data != "", "--data takes a name")
        _require(
            self.samples is None or 1 <= self.samples <= _MOST_SAMPLES,
            f"--samples takes 1 or more, up to {_MOST_SAMPLES}",
        )
        cores = os.cpu_count() or 1
        _require(
            0 <= self.threads <= cores,
            f"--threads takes 0 (all cores) to {cores}, the cores of this machine",
        )
        _require(self.seed >= 0, "--seed takes 0 or more")
        _require(
            self.fail_below_db is None or math.isfinite(self.fail_below_db),
            "--fail-below-db takes a number, such as 30",
        )
        _require(
            self.max_drop is None or 0 <= self.max_drop < math.inf, "--max-drop takes 0 or more"
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigurationError(message)
