"""The Python API: one function for each command, with its options as typed keywords.

Everything here is a door: arguments become the settings of the library behind it, and nothing is
decided. Messages of errors name options as the command line writes them.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import onnx_ir as ir

from onnxsep import comparison, doctor, eligibility, inspection, pipeline
from onnxsep.bench.cells import expand, select
from onnxsep.bench.gate import compare_records, parse_allowance
from onnxsep.bench.matrix import check_files, load_matrix
from onnxsep.bench.record import BenchRecord
from onnxsep.bench.run import Request, run_bench
from onnxsep.bench.storage import load_record
from onnxsep.comparison import CompareOptions, ComparisonRecord
from onnxsep.data import PRESETS, Preprocessing
from onnxsep.decision import DEFAULT_FORM, check_form
from onnxsep.doctor import Diagnosis
from onnxsep.eligibility import Eligibility
from onnxsep.eligibility.reach import TargetRow
from onnxsep.eligibility.reach import list_targets as _list_targets
from onnxsep.eligibility.rule import DEFAULT_API_LEVEL
from onnxsep.errors import ConfigurationError
from onnxsep.inspection import Inspection
from onnxsep.inspection.inspect import DEFAULT_ERROR
from onnxsep.model import load_model
from onnxsep.options import Options
from onnxsep.passes import PASS_NAMES
from onnxsep.pipeline import Result
from onnxsep.progress import Progress, Silence
from onnxsep.quality import Metric, load_metric

_IN_MEMORY = "(in memory)"


def optimize(
    model: str | Path,
    *,
    data: str | Path | None = None,
    test_data: str | Path | None = None,
    samples: int | None = None,
    preset: str | None = None,
    preprocessing: Preprocessing | None = None,
    target: str = "cpu",
    max_drop: float | None = None,
    min_snr: float | None = None,
    metric: Metric | str | None = None,
    label_offset: int = 0,
    precision: str = "auto",
    min_speedup: float | None = None,
    passes: Sequence[str] = PASS_NAMES,
    rank: float | None = None,
    form: str = DEFAULT_FORM,
    plan: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    pareto: str | Path | None = None,
    time_limit: float | None = None,
    timing_cache: bool = True,
    calibration_cache: str | Path | None = None,
    threads: int = 1,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster within a budget, and prove it: ``onnxsep optimize``.

    Unlike the command, it writes nothing unless ``output`` or ``pareto`` is given.

    Args:
        model: The ONNX file; never changed.
        data: Folder of images, .npz, .npy or ``package.module:function``; None draws images.
        test_data: The same, for verification only; None verifies on a part of ``data`` that no fit
            sees.
        samples: Most images to use, 2 or more; None for a sensible number.
        preset: Name of a preprocessing of images; None finds or assumes one.
        preprocessing: A preprocessing that no preset names; excludes ``preset``.
        target: Where the model will run: cpu, cpu-arm, xnnpack, nnapi, cuda, tensorrt, or
            ``ssh://USER@HOST`` for a machine to measure on.
        max_drop: Points of accuracy (or of agreement, or dB of PSNR) that may be lost; None for
            1.0.
        min_snr: Least signal-to-noise against the original in dB; None for no limit, and for 20
            where outputs are no scores.
        metric: The user's own measure, larger for better: a function of the outputs by name, the
            labels or None and the targets or None; or its ``package.module:function``.
        label_offset: Added to each label to give the class index.
        precision: fp32, int8, fp16, or auto for whichever is fastest within the budget.
        min_speedup: Take the best quality at this speed-up, whatever is lost; above 1.
        passes: Names of the passes to run.
        rank: Rewrite every convolution at this rank, depthwise filters per channel; None chooses.
        form: The form that ``rank`` forces: depthwise-pointwise, pointwise-depthwise or cp.
        plan: Repeat the plan of an earlier run instead of searching.
        output: Where to write the model, with its plan beside it; None writes neither.
        force: Allow ``output`` to be ``model``.
        pareto: Folder for models from careful to daring, a table and a plot; None writes none.
        time_limit: Seconds that the search may take; None for as long as it needs.
        timing_cache: Whether layer times measured earlier on this machine are used.
        calibration_cache: Folder, or .json file, where activation statistics are kept and found.
        threads: Threads of the latency measurement; 0 for all cores.
        seed: Of every random choice.
        executor: Where fits run: processes of this machine, or a cluster; None fits here.
        progress: Told how far the work has come.

    Returns:
        The model, the record of the run, and ``save``.

    Raises:
        ConfigurationError: An argument, or a combination of arguments, has no meaning.
        InputError: The model or the data cannot be used.
        BudgetError: ``rank`` costs more quality than the budget allows.
        VerificationError: A lossless pass changed the numbers, or images that nothing had seen
            show a larger loss than the budget.
        OutputError: The result cannot be written.
    """
    options = Options(
        data=_text(data),
        test_data=_text(test_data),
        samples=samples,
        preprocessing=_preprocessing(preset, preprocessing),
        target=target,
        passes=tuple(passes),
        rank=int(rank) if rank is not None and float(rank).is_integer() else rank,
        form=check_form(form),
        max_drop=max_drop,
        min_snr_db=min_snr,
        precision=precision,
        min_speedup=min_speedup,
        time_limit=time_limit,
        timing_cache=timing_cache,
        calibration_cache=None if calibration_cache is None else Path(calibration_cache),
        plan=None if plan is None else Path(plan),
        metric=load_metric(metric) if isinstance(metric, str) else metric,
        label_offset=label_offset,
        threads=threads,
        seed=seed,
    )
    return pipeline.optimize(
        model,
        options,
        output=output,
        force=force,
        pareto=pareto,
        executor=executor,
        progress=progress,
    )


def inspect(
    model: str | Path | ir.Model,
    *,
    data: str | Path | None = None,
    preset: str | None = None,
    samples: int | None = None,
    error: float = DEFAULT_ERROR,
    target: str = "cpu",
    profile: bool = False,
    measure: bool = True,
    threads: int = 1,
    progress: Progress | None = None,
) -> Inspection:
    """Look at a model layer by layer and change nothing: ``onnxsep inspect``.

    Args:
        model: An ONNX file, or a model in memory; never changed.
        data: Folder of images, .npz, .npy or ``package.module:function``; None judges what could be
            saved by the weights alone.
        preset: Name of a preprocessing of images; None finds or assumes one.
        samples: Most images to use; None for 64.
        error: Relative output error that a layer may have when it is separated; 0.01 is 1 %.
        target: Where the model will run.
        profile: Whether to run the model and say where the time goes, on this CPU.
        measure: Whether to time layers whose channel counts miss the fast kernels, some seconds.
        threads: Threads of whatever is timed; 0 for all cores.
        progress: Told how far the work has come.

    Returns:
        Layers, totals, activation memory and advice.

    Raises:
        ConfigurationError: An argument has no meaning.
        InputError: The model or the data cannot be used.
        OutputError: There is no room for the files of the profile.
    """
    return inspection.inspect(
        model,
        data=_text(data),
        preset=preset,
        samples=samples,
        profile=profile,
        measure=measure,
        threads=threads,
        error=error,
        target=target,
        progress=progress,
    )


def compare(
    first: str | Path | ir.Model,
    second: str | Path | ir.Model,
    *,
    data: str | Path | None = None,
    samples: int | None = None,
    preset: str | None = None,
    preprocessing: Preprocessing | None = None,
    label_offset: int = 0,
    max_drop: float | None = None,
    fail_below_db: float | None = None,
    latency: bool = True,
    layers: bool = True,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> ComparisonRecord:
    """Compare two models on the same data: ``onnxsep compare``.

    Args:
        first: The model to compare with: an ONNX file, or a model in memory.
        second: The other one.
        data: Folder of images, .npz, .npy or ``package.module:function``; None draws images.
        samples: Most samples to use; None for all, or a sensible number.
        preset: Name of a preprocessing of images; None finds or assumes one.
        preprocessing: A preprocessing that no preset names; excludes ``preset``.
        label_offset: Added to each label to give the class index.
        max_drop: Most points of accuracy (of agreement, dB of PSNR) that may be lost; None for no
            limit.
        fail_below_db: Least signal-to-noise of every output in dB; None for no limit.
        latency: Whether to time both models in turn.
        layers: Whether to compare inner values of the same name.
        threads: Threads of the latency measurement; 0 for all cores.
        seed: Of every random choice.
        progress: Told how far the work has come.

    Returns:
        The record. A limit that is not kept raises nothing: ``record.holds`` is False, and
        ``record.gates`` says which.

    Raises:
        ConfigurationError: An argument has no meaning for these models.
        InputError: A model or the data cannot be used, or inputs or outputs do not match.
    """
    options = CompareOptions(
        data=_text(data),
        samples=samples,
        preprocessing=_preprocessing(preset, preprocessing),
        label_offset=label_offset,
        threads=threads,
        seed=seed,
        measure_latency=latency,
        compare_layers=layers,
        fail_below_db=fail_below_db,
        max_drop=max_drop,
    )
    return comparison.compare(first, second, options, progress=progress)


def check(
    model: str | Path | ir.Model,
    target: str,
    *,
    fix_shape: Mapping[str, int] | None = None,
    api_level: int = DEFAULT_API_LEVEL,
) -> Eligibility:
    """Predict what a target would take of a model, and what would fall back: ``onnxsep check``.

    Args:
        model: An ONNX file, or a model in memory; never changed.
        target: cpu, cpu-arm, xnnpack, nnapi, cuda or tensorrt.
        fix_shape: Sizes for free dimensions, by their name or by ``input:axis``.
        api_level: Of Android, 27 to 31, for NNAPI.

    Returns:
        One row per operator, with the rule behind every refusal.

    Raises:
        ConfigurationError: The target or a dimension is unknown, or the API level has no NNAPI.
        InputError: The model cannot be used.
    """
    loaded = model if isinstance(model, ir.Model) else load_model(model)
    path = _IN_MEMORY if isinstance(model, ir.Model) else str(model)
    return eligibility.check(loaded, target, fix_shape=fix_shape, api_level=api_level, path=path)


def benchmark(
    matrix: str | Path = "bench.yaml",
    *,
    only: Sequence[str] = (),
    assignments: Sequence[str] = (),
    checks: bool = True,
    resume: str | Path | None = None,
    baseline: str | Path | None = None,
    fail_if_slower: str | None = None,
    strict_placement: bool = False,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> BenchRecord:
    """Measure models over providers, batch sizes, threads and precisions: ``onnxsep bench``.

    Args:
        matrix: The YAML file that says what to measure.
        only: Run only these cells: part of a cell's name, or ``axis=value[,axis=value]``.
        assignments: Changes to the matrix, ``key=value``, as ``--set`` takes them.
        checks: Whether placement and outputs are looked at before timing.
        resume: Go on with an interrupted run: its result file, which is written again.
        baseline: Result file of an earlier run to judge by, cell by cell.
        fail_if_slower: With ``baseline``: how much slower a cell may be, such as ``5%``.
        strict_placement: A cell of which any node ran on another provider fails.
        output: Result file, kept up to date during the run; None keeps none.
        progress: Told which round of which cell is running.

    Returns:
        The record. Failed and slower cells raise nothing: see ``status`` and ``judgement`` of its
        ``cells``.

    Raises:
        ConfigurationError: An argument, or something in the matrix, has no meaning.
        InputError: The matrix, a model or its data cannot be read.
        OutputError: The result file cannot be written.
    """
    if fail_if_slower is not None and baseline is None:
        raise ConfigurationError("--fail-if-slower compares with --baseline; give one")
    if resume is not None and output is not None and Path(resume) != Path(output):
        raise ConfigurationError("--resume goes on in its own file; leave --output out")
    allowance = None if fail_if_slower is None else parse_allowance(fail_if_slower)
    loaded = load_matrix(Path(matrix), assignments)
    cells = expand(loaded)
    if only:
        cells = select(cells, only)
    check_files(loaded, cells)
    old = None if baseline is None else load_record(Path(baseline))
    with tempfile.TemporaryDirectory(prefix="onnxsep-") as folder:
        request = Request(
            loaded,
            cells,
            Path(resume or output or Path(folder, "bench.json")),
            strict_placement=strict_placement,
            checks=checks,
            earlier=None if resume is None else load_record(Path(resume)),
            finish=lambda record: (
                record if old is None else compare_records(record, old, allowance, str(baseline))
            ),
        )
        return run_bench(request, _Watcher(progress or Silence()))


def list_targets() -> tuple[TargetRow, ...]:
    """The targets, what they accept, and whether they can be reached from here.

    As ``onnxsep targets`` prints them.
    """
    return _list_targets()


def diagnose() -> Diagnosis:
    """What this machine has, what is missing, and what would disturb a benchmark.

    As ``onnxsep doctor`` prints it.
    """
    return doctor.diagnose()


@dataclasses.dataclass(frozen=True)
class _Watcher:
    """What a benchmark tells, passed on to a listener."""

    progress: Progress

    def step(self, what: str) -> None:
        self.progress.stage(what)

    def changed(self, record: BenchRecord) -> None:
        del record


def _text(path: str | Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _preprocessing(preset: str | None, preprocessing: Preprocessing | None) -> Preprocessing | None:
    if preset is None:
        return preprocessing
    if preprocessing is not None:
        raise ConfigurationError("preset and preprocessing exclude each other; leave out one")
    if preset not in PRESETS:
        raise ConfigurationError(
            f"unknown preset {preset!r}; known are {', '.join(sorted(PRESETS))}"
        )
    return PRESETS[preset]
