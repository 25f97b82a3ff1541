"""Which layers to leave in float: those whose quantization costs most, and no more than needed.

The errors of the layers of a quantized network are nearly independent, so their powers at the
output nearly add up. That makes each layer's part measurable alone, with all other layers in float,
and lets parts of groups be measured where there are many layers.

Measured the other way, by what is gained with one layer in float and all others quantized, a part
drowns in how the other errors happen to add up: of a separable network of 26 layers, the three
layers that rank first that way gained 1.2 dB together, the three that rank first alone 2.9.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxsep.constants import constant_array
from onnxsep.errors import BudgetError, ConfigurationError, InputError
from onnxsep.progress import Progress, Silence
from onnxsep.quality import signal_to_noise_db
from onnxsep.runtime import Feeds, make_session, run
from onnxsep.targets.quantization import WEIGHTED

Outputs = Mapping[str, Sequence[np.ndarray]]
# Of the float network's outputs to another's: 0 where they are equal, larger for worse, and such
# that independent errors add up.
Distance = Callable[[Outputs, Outputs], float]
# Gives the model with all layers quantized but those named.
Quantizer = Callable[[frozenset[str]], ir.Model]

DEFAULT_EVALUATIONS = 64
# Layers dropped again from the float ones, one by one, where the budget holds without them.
_MOST_PRUNED = 8


def noise_to_signal(reference: Outputs, found: Outputs) -> float:
    """Power of the difference over that of the reference, of the output with the largest ratio."""
    return max(
        10 ** (-signal_to_noise_db(_joined(reference[name]), _joined(found[name])) / 10)
        for name in reference
    )


def rank_sensitivity(
    model: ir.Model,
    quantize: Quantizer,
    batches: Iterable[Feeds],
    distance: Distance = noise_to_signal,
    *,
    candidates: Sequence[str] | None = None,
    most_evaluations: int = DEFAULT_EVALUATIONS,
    threads: int = 0,
    progress: Progress | None = None,
) -> list[tuple[str, float]]:
    """Layers with what their quantization alone costs at the outputs, the worst first.

    Where there are more layers than evaluations allowed, neighbours are measured together, and
    the groups that cost most are divided further; members of a group that was not count alike.

    Args:
        model: In float; left unchanged.
        quantize: Gives the quantized model, the layers named left in float.
        batches: Iterated once for each evaluation.
        distance: See `Distance`.
        candidates: Names of nodes; None for all Conv, Gemm and MatMul with constant weights in the
            main graph.
        most_evaluations: Quantized models to make and run, at least 1.
        threads: Of onnxruntime, 0 for all cores.
        progress: Told of every evaluation.

    Raises:
        ConfigurationError: ``most_evaluations`` is less than 1, or a candidate does not exist.
        InputError: There are no batches, or a model fails on them.
    """
    if most_evaluations < 1:
        raise ConfigurationError("sensitivity needs at least one evaluation")
    names = _layers(model) if candidates is None else list(dict.fromkeys(candidates))
    known = {node.name for node in model.graph}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"there is no node '{name}' in the model's main graph")
    if not names:
        return []
    listener = progress or Silence()
    listener.stage("measuring what each layer costs", min(len(names), most_evaluations))
    reference = _outputs(model, batches, threads)
    every = frozenset(names)

    def cost(group: Sequence[str]) -> float:
        listener.step(group[0])
        quantized = quantize(every - set(group))
        return distance(reference, _outputs(quantized, batches, threads))

    # A third of the evaluations finds the groups worth dividing; to divide one takes two.
    enough = len(names) <= most_evaluations
    count = len(names) if enough else max(most_evaluations // 3, 1)
    edges = np.linspace(0, len(names), count + 1).astype(int).tolist()
    groups = [names[first:end] for first, end in itertools.pairwise(edges)]
    left = most_evaluations - len(groups)
    heap = [(-cost(group), position, group) for position, group in enumerate(groups)]
    heapq.heapify(heap)
    done: list[tuple[float, list[str]]] = []
    position = len(groups)
    while heap:
        negative, _, group = heapq.heappop(heap)
        if len(group) == 1 or left < 2:
            done.append((-negative, group))
            continue
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            heapq.heappush(heap, (-cost(half), position, half))
            position += 1
        left -= 2
    order = {name: place for place, name in enumerate(names)}
    ranked = [(name, value / len(group)) for value, group in done for name in group]
    return sorted(ranked, key=lambda each: (-each[1], order[each[0]]))


def keep_worst_in_float(
    ranked: Sequence[tuple[str, float]],
    quantize: Quantizer,
    holds: Callable[[ir.Model], bool],
    *,
    progress: Progress | None = None,
) -> tuple[ir.Model, list[str]]:
    """The quantized model with the fewest of the worst layers in float that is good enough.

    The number is doubled until the model is good enough, then halved into; at last layers are taken
    out again, the least costly first, as long as it stays so. About 2·log₂(n) + 8 models are made.

    Args:
        ranked: See `rank_sensitivity`.
        quantize: Gives the quantized model, the layers named left in float.
        holds: Whether a model is good enough; best asked on images that no range was found on.
        progress: Told of every model.

    Returns:
        The model and the names left in float, the worst first; none where all may be quantized.

    Raises:
        BudgetError: Not even with all of ``ranked`` in float.
    """
    names = [name for name, _ in ranked]
    listener = progress or Silence()
    listener.stage("leaving layers in float")

    def tried(kept: Sequence[str]) -> ir.Model | None:
        listener.step(f"{len(kept)} layers in float")
        candidate = quantize(frozenset(kept))
        return candidate if holds(candidate) else None

    low, high = -1, 0  # so many in float are too few, so many are tried next
    found = tried([])
    while found is None:
        if high >= len(names):
            raise BudgetError(
                f"quantization does not hold the budget even with all {len(names)} layers in "
                "float that may stay so; allow more loss, or use --precision fp32"
            )
        low, high = high, min(max(2 * high, 1), len(names))
        found = tried(names[:high])
    while high - low > 1:
        middle = (low + high) // 2
        better = tried(names[:middle])
        if better is None:
            low = middle
        else:
            high, found = middle, better
    kept = names[:high]
    # The last one is needed, or the search would have ended earlier.
    for name in kept[-2 : -2 - _MOST_PRUNED : -1]:
        fewer = [other for other in kept if other != name]
        better = tried(fewer)
        if better is not None:
            kept, found = fewer, better
    return found, kept


def _layers(model: ir.Model) -> list[str]:
    return [
        node.name
        for node in model.graph
        if node.op_type in WEIGHTED and node.name and constant_array(node.inputs[1]) is not None
    ]


def _outputs(
    model: ir.Model, batches: Iterable[Feeds], threads: int
) -> dict[str, list[np.ndarray]]:
    """All outputs, batch by batch."""
    session = make_session(model, threads=threads)
    names = [output.name for output in session.get_outputs()]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feeds in batches:
        for name, value in zip(names, run(session, feeds, label="the model"), strict=True):
            parts[name].append(np.asarray(value))
    if not all(parts.values()):
        raise InputError("there are no images to measure the cost of layers on")
    return parts


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All samples; images of several sizes end to end."""
    if len({part.shape[1:] for part in parts}) > 1:
        return np.concatenate([part.reshape(-1) for part in parts])[None]
    return np.concatenate(parts)
