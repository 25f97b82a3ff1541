"""What a run of ``optimize`` can be told, with the defaults and the checks that need no model."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

from onnxsep.data import Preprocessing
from onnxsep.decision import DEFAULT_FORM, Form, check_form
from onnxsep.errors import ConfigurationError
from onnxsep.passes import PASS_NAMES
from onnxsep.quality import Metric
from onnxsep.report.files import check_report_path, require_writable
from onnxsep.targets import get_target, is_url

DEFAULT_MAX_DROP = 1.0
# Where outputs are no scores: the error has a hundredth of the signal's power.
DEFAULT_MIN_SNR_DB = 20.0
# Beside agreement, which a network that always says the same reaches without being right: the
# error has at most a tenth of the power with which the outputs differ from image to image.
AGREEMENT_MIN_SNR_DB = 10.0
_MOST_SAMPLES = 1_000_000
# No layer's costs fall at a larger one; the bound keeps counts within whole numbers.
_LARGEST_RANK = 1_000_000
_MOST_THREADS = 1024
PRECISIONS = ("auto", "fp32", "int8", "fp16")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one run.

    Attributes:
        data: Folder, .npz, .npy or ``package.module:function``; None draws images.
        test_data: The same for verification; None verifies on a part of ``data`` that no fit sees.
        samples: Most samples taken of ``data``, or drawn; None for a sensible number.
        preprocessing: For uint8 images; None finds or assumes one.
        target: Name of a target, or ``ssh://[user@]host[:port][/path/to/python]`` for a machine on
            which latency is measured.
        passes: Names of passes to run, in the order of `PASS_NAMES`.
        rank: Every convolution at this rank, depthwise filters per input channel; None chooses
            ranks within the budget. In the other forms, see ``form``, filters per output channel
            (pointwise-depthwise) or per channel of the smaller side (cp, where 1.5 is possible).
        form: The form that ``rank`` forces.
        max_drop: Points of the measure that may be lost; None for the default.
        min_snr_db: Least signal-to-noise in dB; None for the default.
        precision: ``fp32``, ``int8``, ``fp16``, or ``auto`` for whichever is fastest within the
            budget on a target that is measured here, and fp32 elsewhere.
        min_speedup: Least speed-up against the cleaned input; the best quality at that speed is
            handed out. None hands out the fastest within the budget.
        time_limit: Seconds that the search may take; None for as long as it needs.
        timing_cache: Whether layer times measured earlier on this machine are used.
        plan: A plan of an earlier run to repeat; None decides anew.
        calibration_cache: File (.json) or folder of activation statistics of earlier runs, used
            where model, data and settings are the same; None measures anew.
        weight_bits: Of int8 weights, 8 or 7; None for what the processor needs that latency is
            measured on.
        front: Whether the search also finishes the plans beside the best one.
        metric: The user's own measure.
        label_offset: Added to each label to give the class index.
        threads: Threads of the latency measurement.
        seed: Of every random choice.
        measure_latency: Whether to time input and result.
    """

    data: str | None = None
    test_data: str | None = None
    samples: int | None = None
    preprocessing: Preprocessing | None = None
    target: str = "cpu"
    passes: tuple[str, ...] = PASS_NAMES
    rank: float | None = None
    form: Form = DEFAULT_FORM
    max_drop: float | None = None
    min_snr_db: float | None = None
    precision: str = "auto"
    min_speedup: float | None = None
    time_limit: float | None = None
    timing_cache: bool = True
    calibration_cache: Path | None = None
    weight_bits: int | None = None
    front: bool = False
    plan: Path | None = None
    metric: Metric | None = None
    label_offset: int = 0
    threads: int = 1
    seed: int = 0
    measure_latency: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ConfigurationError: Names the option and what it takes.
        """
        self._check_target()
        _require(self.weight_bits in (None, 7, 8), "weights have 7 or 8 bits")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(
                f"unknown precision {self.precision!r}; known are {', '.join(PRECISIONS)}"
            )
        _require(
            self.min_speedup is None or 1 < self.min_speedup < math.inf,
            "--min-speedup takes a number above 1, such as 2",
        )
        _require(
            self.min_speedup is None or self.rank is None,
            "--min-speedup and --rank exclude each other: one of them decides the ranks",
        )
        _require(
            self.plan is None or (self.rank is None and self.min_speedup is None),
            "--plan says what becomes of every convolution: leave out --rank and --min-speedup",
        )
        _require(
            self.time_limit is None or 0 < self.time_limit < math.inf,
            "--time-limit takes seconds above 0",
        )
        for name in self.passes:
            if name not in PASS_NAMES:
                raise ConfigurationError(
                    f"unknown pass {name!r}; known passes are {', '.join(PASS_NAMES)}"
                )
        _require(bool(self.passes), "--passes names no pass; leave it out to run all")
        self._check_contradictions()
        _require(self.data != "" and self.test_data != "", "--data and --test-data take a name")
        _require(
            self.samples is None or 2 <= self.samples <= _MOST_SAMPLES,
            f"--samples takes 2 or more, up to {_MOST_SAMPLES}",
        )
        check_form(self.form)
        _require(
            self.rank is not None or self.form == DEFAULT_FORM,
            "--form says which form --rank forces; give --rank too",
        )
        self._check_rank()
        _require(
            self.max_drop is None or 0 <= self.max_drop < math.inf, "--max-drop takes 0 or more"
        )
        _require(
            self.min_snr_db is None or math.isfinite(self.min_snr_db), "--min-snr takes a number"
        )
        # How many cores another machine has is its business.
        cores = _MOST_THREADS if is_url(self.target) else os.cpu_count() or 1
        _require(
            0 <= self.threads <= cores,
            f"--threads takes 0 (all cores) to {cores}, the cores of this machine",
        )
        _require(self.seed >= 0, "--seed takes 0 or more")

    def _check_contradictions(self) -> None:
        """Passes, precision and plan that rule each other out; silence would be misread."""
        _require(len(set(self.passes)) == len(self.passes), "--passes names a pass twice")
        quantizes = "quantize" in self.passes
        _require(
            quantizes or self.precision != "int8",
            "--precision int8 needs the pass quantize, which --passes leaves out; name it there",
        )
        _require(
            not quantizes or "separate" in self.passes or self.precision in ("auto", "int8"),
            f"--passes names quantize, which --precision {self.precision} rules out; leave out one "
            "of them",
        )

    def _check_target(self) -> None:
        if not is_url(self.target):
            get_target(self.target)
            return
        # Most runs measure here, and need none of it.
        from onnxsep.bench.ssh import parse_url

        parse_url(self.target)

    def _check_rank(self) -> None:
        if self.rank is None:
            return
        if self.form == "cp":
            _require(
                0 < self.rank <= _LARGEST_RANK,
                "--rank takes a number above 0 with --form cp, such as 1.5",
            )
            return
        _require(
            1 <= self.rank <= _LARGEST_RANK and self.rank == int(self.rank),
            "--rank takes 1 or more, and fractions only with --form cp",
        )


def check_output(source: Path, output: Path, *, force: bool) -> None:
    """Refuse to write over the input, or over anything that is no model, without ``force``.

    Raises:
        ConfigurationError: Says which file is in the way.
    """
    if output.is_dir():
        raise ConfigurationError(f"{output} is a folder; give a file name to --output")
    if not output.parent.is_dir():
        raise ConfigurationError(f"the folder {output.parent} does not exist; make it first")
    require_writable(output.parent)
    if output.exists() and not output.is_file():
        raise ConfigurationError(f"{output} is no regular file; choose another --output")
    if output.is_file() and output.suffix != ".onnx" and not force:
        raise ConfigurationError(
            f"{output} exists and is no .onnx file; choose another --output, or say --force"
        )
    if output.exists() and source.exists() and output.samefile(source) and not force:
        raise ConfigurationError(
            f"{output} is the input itself; choose another --output, or say --force to replace it"
        )


def check_front(folder: Path) -> None:
    """Refuse a folder that could not be made or filled after the run.

    Raises:
        ConfigurationError: A file is in its way.
        OutputError: It is, or would lie, in a folder that is not writable.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"--pareto {folder}: that is a file; give a folder")
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    if there is not None:
        require_writable(there)


def check_report(report: Path, source: Path, output: Path) -> None:
    """Refuse a report that would overwrite a model or cannot be written.

    Raises:
        ConfigurationError: Says what is in the way.
    """
    check_report_path(report, taken=(source, output))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigurationError(message)
