"""The story of ``inspect``: load, size, count, save on paper, profile, advise."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from onnxsep.bench.work import count_work
from onnxsep.data import (
    PRESETS,
    InputSpec,
    Preprocessing,
    find_normalisation,
    input_specs,
    load_dataset,
    static_batch,
)
from onnxsep.errors import ConfigurationError, InputError
from onnxsep.evaluation import Batches, batches_of
from onnxsep.inspection.activation_memory import find_activation_memory
from onnxsep.inspection.advice import give_advice
from onnxsep.inspection.facts import Facts, plural
from onnxsep.inspection.layers import find_layers
from onnxsep.inspection.profile import Profile, profile_layers
from onnxsep.inspection.record import Inspection, Layer
from onnxsep.inspection.savings import WEIGHTS_FORMS, checked_error, forms_on_data, with_savings
from onnxsep.inspection.sizes import Sizes, example_feeds, find_sizes
from onnxsep.inspection.totals import kind_rows, totals_of, weight_bytes_of
from onnxsep.model import load_model
from onnxsep.passes.equalize import ChannelStatistics, collect_channel_statistics
from onnxsep.passes.fold_batchnorm import FoldBatchNorm
from onnxsep.passes.normalize import Normalize
from onnxsep.passes.separate import Calibration
from onnxsep.progress import Progress, Silence
from onnxsep.targets import get_target

DEFAULT_ERROR = 0.01
DEFAULT_SAMPLES = 64
_SEED = 0
_MEMORY_MODEL = "(in memory)"
_PRODUCTS = ("Gemm", "MatMul")


def inspect(
    model: str | Path | ir.Model,
    *,
    data: str | None = None,
    preset: str | None = None,
    samples: int | None = None,
    profile: bool = False,
    measure: bool = True,
    threads: int = 1,
    error: float = DEFAULT_ERROR,
    target: str = "cpu",
    progress: Progress | None = None,
) -> Inspection:
    """Count a model's work layer by layer, say what could be saved, and advise.

    Args:
        model: An ONNX file, or a model in memory; never changed.
        data: Images to judge errors and ranges on: folder, .npz, .npy or
            ``package.module:function``; None judges by the weights alone.
        preset: Name of a preprocessing of `onnxsep.data.PRESETS`; None finds or assumes one.
        samples: At most so many images; None for 64.
        profile: Whether to run the model under onnxruntime's profiler.
        measure: Whether to time layers whose channel counts miss the fast kernels, some seconds.
        threads: Threads inside one operator for whatever is timed; 0 for all cores.
        error: Relative output error allowed per layer, above 0 and below 1.
        target: Name of the target that the advice is for.
        progress: Told how far the work has come.

    Raises:
        InputError: The model or the data cannot be used.
        ConfigurationError: An argument has no meaning.
        OutputError: There is no room for the files of the profile.
    """
    started = time.perf_counter()
    progress = progress or Silence()
    place = get_target(target)
    checked_error(error)
    preprocessing = _preset(preset)
    if threads < 0:
        raise ConfigurationError(f"--threads takes 0 (all cores) or more, not {threads}")
    if data is None and (samples is not None or preset is not None):
        raise ConfigurationError("--samples and --preset describe --data; give it too")
    source = _MEMORY_MODEL
    if not isinstance(model, ir.Model):
        progress.stage(f"loading {Path(model).name}")
        source, model = str(model), load_model(model)
    normal = model.clone()
    Normalize()(normal)
    folded = normal.clone()
    folding = FoldBatchNorm()(folded)

    notes: list[str] = []
    specs = input_specs(normal)
    batches = None if data is None else _load(normal, specs, data, preprocessing, samples, notes)
    feeds = example_feeds(normal) if batches is None else next(batches.dataset.batches(1))
    if batches is not None and static_batch(specs) not in (None, 1):
        feeds = next(iter(batches))
    sizes = find_sizes(normal, feeds, given=batches is not None)
    layers, unread = find_layers(normal, sizes)
    notes += [*sizes.notes, *unread]
    calibration = None if batches is None else _calibration(batches, threads)
    layers = with_savings(layers, folded, error, calibration, progress)
    products = _products(normal, sizes, notes)
    layers = _with_shares(layers, products)
    timed: Profile | None = None
    if profile:
        progress.stage("profiling")
        timed = profile_layers(normal, sizes, layers, threads)
        layers = _with_times(layers, timed)
        if timed.unattributed_ms:
            notes.append(
                f"{timed.unattributed_ms:.3g} ms of convolutions belong to no layer by name"
            )
    memory = find_activation_memory(normal, sizes)
    statistics: Mapping[str, ChannelStatistics] = {}
    if batches is not None:
        progress.stage("measuring the ranges of channels")
        statistics = _statistics(folded, batches, layers, threads)
    facts = Facts(
        original=model,
        model=normal,
        folded=folded,
        folding=folding,
        layers=tuple(layers),
        sizes=sizes,
        memory=memory,
        target=place,
        threads=threads,
        measure=measure,
        statistics=statistics,
        weights_bytes=weight_bytes_of(normal),
        progress=progress,
    )
    advice, said = give_advice(facts)
    notes += [*_remarks(layers, memory.unknown), *said]
    return Inspection(
        model=source,
        target=target,
        error=error,
        basis=_basis(batches, layers),
        batch=sizes.batch,
        inputs=sizes.inputs,
        totals=totals_of(normal, layers, products, memory, timed),
        kinds=tuple(kind_rows(layers, products, timed)),
        layers=tuple(layers),
        memory=memory,
        advice=advice,
        notes=tuple(notes),
        seconds=round(time.perf_counter() - started, 2),
        onnxsep_version=importlib.metadata.version("onnxsep"),
    )


def _preset(name: str | None) -> Preprocessing | None:
    if name is None or name in PRESETS:
        return None if name is None else PRESETS[name]
    raise ConfigurationError(f"unknown preset {name!r}; known are {', '.join(sorted(PRESETS))}")


def _load(
    model: ir.Model,
    specs: list[InputSpec],
    data: str,
    preprocessing: Preprocessing | None,
    samples: int | None,
    notes: list[str],
) -> Batches:
    if preprocessing is None:
        preprocessing, how = find_normalisation(model, specs, seed=_SEED)
        notes.append(how)
    dataset = load_dataset(
        data,
        specs,
        outputs=[value.name or "" for value in model.graph.outputs],
        preprocessing=preprocessing,
        samples=DEFAULT_SAMPLES if samples is None else samples,
        seed=_SEED,
    )
    return batches_of(dataset, static_batch(specs))


def _calibration(batches: Batches, threads: int) -> Calibration:
    return Calibration(batches, len(batches.dataset), threads)


def _basis(batches: Batches | None, layers: list[Layer]) -> str:
    if batches is not None:
        return f"{batches.dataset.source} ({', '.join(forms_on_data(layers))}, up to 5 ranks each)"
    return f"the weights alone ({', '.join(WEIGHTS_FORMS)}, up to 8 ranks each)"


def _products(model: ir.Model, sizes: Sizes, notes: list[str]) -> dict[str, int]:
    """Multiplications of matrix products for one image, by kind."""
    shapes = {name: array.shape for name, array in sizes.feeds.items()}
    try:
        _, by_kind = count_work(model, shapes)
    except InputError as error:
        notes.append(f"matrix products were not counted: {error}")
        return {}
    return {kind: by_kind[kind] // sizes.batch for kind in _PRODUCTS if by_kind.get(kind)}


def _with_shares(layers: list[Layer], products: Mapping[str, int]) -> list[Layer]:
    whole = sum(layer.macs or 0 for layer in layers if layer.counted) + sum(products.values())
    return [
        dataclasses.replace(layer, share=(layer.macs or 0) / whole)
        if whole and layer.counted
        else layer
        for layer in layers
    ]


def _with_times(layers: list[Layer], timed: Profile) -> list[Layer]:
    whole = timed.total_ms or 1.0
    return [
        dataclasses.replace(
            layer, time_ms=timed.layers[layer.name], time_share=timed.layers[layer.name] / whole
        )
        if layer.name in timed.layers
        else layer
        for layer in layers
    ]


def _statistics(
    folded: ir.Model, batches: Batches, layers: list[Layer], threads: int
) -> dict[str, ChannelStatistics]:
    """What the channels of each convolution's result do on the data, activation included."""
    names = {layer.name for layer in layers if not layer.inside and layer.precision != "int8"}
    values = []
    for node in folded.graph:
        if node.name in names:
            result = node.outputs[0]
            readers = list(result.consumers())
            if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip", "LeakyRelu"):
                result = readers[0].outputs[0]
            values.append(result.name or "")
    return collect_channel_statistics(folded, batches, values, threads=threads)


def _remarks(layers: list[Layer], unknown: int) -> list[str]:
    notes = []
    inside = [layer for layer in layers if layer.inside]
    if not layers:
        notes.append("there is no convolution in this model: nothing to separate")
    if inside:
        places = sorted({layer.inside for layer in inside})
        notes.append(
            f"{plural(len(inside), 'convolution')} inside {', '.join(places)}: of the branches of "
            "an If the heaviest counts, of a loop one turn; only the main graph can be rewritten, "
            "and only its activations are in the memory"
        )
    if any(layer.macs is None for layer in layers):
        count = sum(layer.macs is None for layer in layers)
        notes.append(f"not counted: {plural(count, 'convolution')} of unknown size")
    if unknown:
        notes.append(f"not in the activation memory: {plural(unknown, 'value')} of unknown size")
    if any(layer.precision == "int8" for layer in layers):
        notes.append(
            "the model is quantized: what could be saved is said of float convolutions only; "
            "inspect the float model for the rest"
        )
        notes.append(
            "activations are counted as the graph has them, in float between DequantizeLinear and "
            "QuantizeLinear; a runtime that fuses these needs about a quarter"
        )
    if any(layer.precision == "fp16" for layer in layers):
        notes.append("fp16 weights: rank curves are of the weights as stored")
    return notes
