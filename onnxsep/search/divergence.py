"""What replacing one convolution alone does to the whole network's outputs.

Each candidate's dense equivalent takes the layer's place on held-out images while the rest of the
network stays as it is. Only what lies behind the layer is run: the values that cross the border are
met once, on one walk from the inputs to the outputs, and one session of the network behind the
layer serves all its candidates, which differ in nothing but the values of one tensor.

Of a layer's candidates a few are measured; the others follow from their relative output error: in
between, divergence is close to a power of it (a small error e shifts the outputs by √e, and both a
squared error and a Kullback-Leibler divergence are quadratic in small shifts).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxsep.calibrate import ActivationWalk
from onnxsep.convolution import ConvSite
from onnxsep.data import input_specs, static_batch
from onnxsep.data.dataset import spread
from onnxsep.decision import Decision
from onnxsep.evaluation import Batches, batches_of
from onnxsep.progress import Progress, Silence
from onnxsep.quality import Measure
from onnxsep.runtime import cut_model, make_session, run
from onnxsep.search.output_distance import OutputDistance

# Multiplications that all measurements together may take: 5 to 12 seconds on two cores.
DEFAULT_WORK = 4e11
# On 64 images the allocations of ResNet20 and SimpNet-300k are as good as on 250. The order of five
# networks' candidates is that of 250 images up to a rank correlation of 0.98 on 16, 0.95 on 4.
_MOST_IMAGES = 96
_ENOUGH_IMAGES = 48
_FEW_IMAGES = 16
_FEWEST_IMAGES = 4
# All candidates are measured where that leaves enough images, else fewer of each layer; three say
# where between the extremes the power of the error changes. Two where even three leave too few.
_SPARSE = 3
_SPARSEST = 2
# A divergence below this is rounding; the logarithm needs something above zero.
_LEAST_DIVERGENCE = 1e-12
_LEAST_ERROR = 1e-9


class CandidateLike(Protocol):
    """What is needed to know of a candidate; see `onnxsep.search.candidates.Candidate`."""

    @property
    def decision(self) -> Decision:
        """Form and rank."""

    @property
    def error(self) -> float:
        """Relative output error on the original's inputs."""

    @property
    def rounding(self) -> float:
        """What rounding to int8 between its convolutions adds to the error."""

    @property
    def weight(self) -> np.ndarray:
        """(N, C, *kernel), the dense equivalent."""

    @property
    def bias(self) -> np.ndarray:
        """(N,)."""


class ChoicesLike(Protocol):
    """What is needed to know of a layer; see `onnxsep.search.candidates.LayerChoices`."""

    @property
    def site(self) -> ConvSite:
        """The convolution."""

    @property
    def output_size(self) -> tuple[int, ...]:
        """Its spatial output size."""

    @property
    def candidates(self) -> Sequence[CandidateLike]:
        """What may take its place; empty if nothing."""


class Divergence(NamedTuple):
    """What one candidate does to the network's outputs.

    Attributes:
        exact: In float.
        rounded: With the results between its convolutions rounded to int8.
    """

    exact: float
    rounded: float


Divergences = dict[tuple[str, Decision], Divergence]


def divergences(
    model: ir.Model,
    choices: Sequence[ChoicesLike],
    batches: Batches,
    measure: Measure,
    *,
    work: float = DEFAULT_WORK,
    threads: int = 0,
    progress: Progress | None = None,
) -> Divergences:
    """Divergence of the network's outputs when one layer alone is replaced, for every candidate.

    How many images and candidates are measured follows from ``work``, never from a clock: the same
    call gives the same numbers.

    Args:
        model: The cleaned network.
        choices: Every convolution of its main graph, in graph order.
        batches: Images that no fit sees.
        measure: What the budget is about; see `OutputDistance.choose`.
        work: Multiplications that all measurements together may take.
        threads: Of onnxruntime, 0 for all cores.
        progress: Told about every layer.

    Returns:
        (name of the convolution, decision) → divergence, 0 or more; infinite where outputs become
        NaN. In nats per image (or pixel) for class scores; relative to the outputs' variance over
        the images otherwise. What rounding to int8 adds is not measured: it is what a fit with so
        much more error would do.

    Raises:
        InputError: The model fails on the data.
    """
    progress = progress or Silence()
    worthwhile = [layer for layer in choices if layer.candidates]
    if not worthwhile:
        return {}
    progress.stage("measuring what each convolution's error does to the outputs", len(worthwhile))
    effort = Effort.for_work(choices, work)
    batches = _few_images(model, batches, effort.images)
    suffixes = _Suffixes(model, batches, measure, threads)
    found: Divergences = {}
    for layer in worthwhile:
        progress.step(layer.site.name)
        chosen = informative([candidate.error for candidate in layer.candidates], effort.measured)
        values = suffixes.measure(layer.site, [layer.candidates[index] for index in chosen])
        curve = Curve(
            [candidate.error for candidate in layer.candidates],
            dict(zip(chosen, values, strict=True)),
        )
        for place, candidate in enumerate(layer.candidates):
            exact = curve.of(place)
            rounded = max(exact, curve.at(candidate.error + candidate.rounding))
            found[layer.site.name, candidate.decision] = Divergence(exact, rounded)
    return found


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        images: Images that every measurement sees.
        measured: Most candidates measured per layer; the others are interpolated.
    """

    images: int
    measured: int

    @classmethod
    def for_work(cls, choices: Sequence[ChoicesLike], work: float) -> Effort:
        """What ``work`` multiplications pay for: all candidates if that leaves enough images."""
        measured = max((len(layer.candidates) for layer in choices), default=0)
        while True:
            images = int(work / max(_multiplications_per_image(choices, measured), 1.0))
            wanted = _ENOUGH_IMAGES if measured > _SPARSE else _FEW_IMAGES
            if images >= wanted or measured <= _SPARSEST:
                break
            measured -= 1
        return cls(min(max(images, _FEWEST_IMAGES), _MOST_IMAGES), measured)


def _multiplications_per_image(choices: Sequence[ChoicesLike], measured: int) -> float:
    """Of the networks behind all layers, run once for each measured candidate."""
    behind = total = 0.0
    for layer in reversed(choices):
        behind += math.prod(layer.output_size) * layer.site.multiplications_per_pixel
        total += min(len(layer.candidates), measured) * behind
    return total


def informative(errors: Sequence[float], most: int) -> list[int]:
    """Positions of the candidates to measure: the extremes, and evenly between in log error."""
    order = sorted(range(len(errors)), key=lambda index: (errors[index], index))
    if len(order) <= most:
        return order
    logs = np.log(np.maximum([errors[index] for index in order], _LEAST_ERROR))
    chosen = {0, len(order) - 1}
    for target in np.linspace(logs[0], logs[-1], most)[1:-1]:
        free = [place for place in range(len(order)) if place not in chosen]
        chosen.add(min(free, key=lambda place: abs(logs[place] - target)))
    return [order[place] for place in sorted(chosen)]


class Curve:
    """Divergence of one layer's candidates by their error, from those that were measured.

    Between two measured errors divergence is a power of the error, a straight line between
    logarithms; outside it is proportional to the error, as for all small ones. Measured values
    stay as they are, infinite ones too; the error of a candidate that made the outputs NaN, or a
    larger one, counts as infinite.
    """

    def __init__(self, errors: Sequence[float], measured: Mapping[int, float]) -> None:
        """Prepare.

        Args:
            errors: Relative output error of every candidate.
            measured: Position → measured divergence; at least one.
        """
        self._errors = errors
        self._measured = measured
        infinite = [errors[place] for place, value in measured.items() if not math.isfinite(value)]
        self._fatal = min(infinite, default=math.inf)
        self._points = sorted(
            (math.log(max(errors[place], _LEAST_ERROR)), math.log(max(value, _LEAST_DIVERGENCE)))
            for place, value in measured.items()
            if math.isfinite(value)
        )

    def of(self, place: int) -> float:
        """Divergence of the candidate at a position."""
        known = self._measured.get(place)
        return self.at(self._errors[place]) if known is None else known

    def at(self, error: float) -> float:
        """Divergence at an error, whether or not a candidate has it."""
        if error >= self._fatal or not self._points:
            return math.inf
        at = math.log(max(error, _LEAST_ERROR))
        x, y = np.array(self._points).T
        # Outside, where there is no other to draw a line to, in proportion to the error.
        outside = min(at - x[0], 0.0) + max(at - x[-1], 0.0)
        return math.exp(float(np.interp(at, x, y) + outside))


def _few_images(model: ir.Model, batches: Batches, images: int) -> Batches:
    """Evenly spread over the data; whole batches where the model insists on their size."""
    static = static_batch(input_specs(model))
    images = max(images, static or 1)
    count = len(batches.dataset)
    if images >= count:
        return batches
    return batches_of(batches.dataset.subset(spread(count, images, seed=0).tolist()), static)


@dataclasses.dataclass(frozen=True, eq=False)
class _Border:
    """Where the network behind a convolution begins.

    Attributes:
        inputs: Names of the values that it reads, the convolution's own output left out.
        outputs: Names of the graph outputs that depend on the convolution, and are not its output.
    """

    inputs: list[str]
    outputs: list[str]


class _Suffixes:
    """Measures candidates layer by layer, in graph order."""

    def __init__(self, model: ir.Model, batches: Batches, measure: Measure, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._walk = ActivationWalk(model, batches, threads=threads)
        names = [value.name or "" for value in model.graph.outputs]
        parts = [
            [np.atleast_1d(values[name]) for name in names]
            for values in ActivationWalk(model, batches, threads=threads).step(
                names, cut_before=None
            )
        ]
        self._reference = {
            name: np.concatenate(arrays)
            for name, arrays in zip(names, zip(*parts, strict=True), strict=True)
        }
        self._distance = OutputDistance.choose(model, measure, self._reference)

    def measure(self, site: ConvSite, candidates: Sequence[CandidateLike]) -> list[float]:
        """Divergence of each candidate for ``site``, which lies behind the last one asked for."""
        border = find_border(self._model.graph, site.node)
        wanted = [name for name in border.outputs if name in self._distance.scales]
        # Outputs of the convolution itself come without a session.
        own = [site.output_name] if site.output_name in self._distance.scales else []
        if not wanted and not own:
            return [0.0] * len(candidates)
        convolution: onnxruntime.InferenceSession | None = None
        behind: onnxruntime.InferenceSession | None = None
        parts: list[dict[str, list[np.ndarray]]] = [
            {name: [] for name in (*wanted, *own)} for _ in candidates
        ]
        # Asked for once: a candidate may compute its weight anew each time.
        tensors = [_tensors(site, candidate) for candidate in candidates]
        for values in self._walk.step([site.input_name, *border.inputs], cut_before=site.node):
            source = values[site.input_name]
            crossing = {name: values[name] for name in border.inputs}
            if convolution is None:
                convolution = make_session(
                    _convolution_model(self._model, site), threads=self._threads
                )
            for tensor, outputs in zip(tensors, parts, strict=True):
                (crossing[site.output_name],) = run(
                    convolution, {"input": source, **tensor}, label=f"node {site.name!r}"
                )
                if behind is None and wanted:
                    part = cut_model(self._model, [crossing], wanted)
                    behind = make_session(part, threads=self._threads)
                for name in own:
                    outputs[name].append(crossing[name])
                if behind is not None:
                    results = run(behind, crossing, label="the model")
                    for name, value in zip(wanted, results, strict=True):
                        outputs[name].append(np.atleast_1d(value))
        return [
            self._distance.of(
                self._reference,
                {name: np.concatenate(arrays) for name, arrays in outputs.items()},
            )
            for outputs in parts
        ]


def find_border(graph: ir.Graph, node: ir.Node) -> _Border:
    """What has to be known to compute the outputs from the result of ``node``."""
    changed = set(node.outputs)
    computed: set[ir.Value] = {
        value for value in graph.inputs if value.name not in graph.initializers
    }
    crossing: dict[ir.Value, None] = {}
    for current in graph:
        if current is node:
            computed.update(current.outputs)
            continue
        reads = list(_reads(current, graph))
        if any(value in changed for value in reads):
            changed.update(current.outputs)
            crossing.update(
                dict.fromkeys(
                    value for value in reads if value in computed and value not in changed
                )
            )
        if any(value in computed for value in reads):
            computed.update(current.outputs)
    return _Border(
        [value.name or "" for value in crossing],
        [
            value.name or ""
            for value in graph.outputs
            if value in changed and value not in node.outputs
        ],
    )


def _reads(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of ``graph`` that a node reads, those read inside its subgraphs included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        else:
            continue
        for subgraph in subgraphs:
            for inner in ir.traversal.RecursiveGraphIterator(subgraph):
                yield from (
                    value for value in inner.inputs if value is not None and value.graph is graph
                )


def _convolution_model(model: ir.Model, site: ConvSite) -> ir.Model:
    """The convolution alone, its weight and bias fed like its input: one session for all."""
    dtype = ir.DataType.from_numpy(site.weight.dtype)
    rank = site.weight.ndim

    def value(name: str, shape: ir.Shape) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)

    inputs = [
        value("input", ir.Shape([None] * rank)),
        value("weight", ir.Shape(site.weight.shape)),
        value("bias", ir.Shape([site.out_channels])),
    ]
    output = value("output", ir.Shape([None] * rank))
    node = ir.Node(
        "",
        "Conv",
        inputs,
        attributes=list(site.node.attributes.values()),
        outputs=[output],
        name=site.name,
    )
    graph = ir.Graph(
        inputs, [output], nodes=[node], opset_imports=dict(model.graph.opset_imports), name="layer"
    )
    return ir.Model(graph, ir_version=model.ir_version)


def _tensors(site: ConvSite, candidate: CandidateLike) -> dict[str, np.ndarray]:
    dtype = site.weight.dtype
    return {
        "weight": candidate.weight.reshape(site.weight.shape).astype(dtype, copy=False),
        "bias": candidate.bias.astype(dtype, copy=False),
    }
