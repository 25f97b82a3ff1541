"""Second moments of one convolution's inputs, met on a walk through the network."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from onnxsep.calibrate.patches import PatchSampler
from onnxsep.calibrate.walk import ActivationWalk
from onnxsep.convolution import ConvSite
from onnxsep.factorize import MomentAccumulator, Moments

# Output positions looked at per weight of a filter: a covariance of n features is known to a few
# per cent from a few times n independent rows, and neighbouring positions are far from independent.
_ROWS_PER_FEATURE = 12
_FEWEST_ROWS = 16_384
_MOST_ROWS = 49_152


def rows_per_sample(site: ConvSite, samples: int) -> int:
    """Output positions to take from each of ``samples`` images."""
    features = site.in_channels * site.taps
    rows = min(max(_ROWS_PER_FEATURE * features, _FEWEST_ROWS), _MOST_ROWS)
    return max(1, math.ceil(rows / samples))


def node_after(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """The node that follows ``node`` in the graph's order, or None at the end."""
    found = False
    for current in graph:
        if found:
            return current
        found = current is node
    return None


def own_moments(walk: ActivationWalk, site: ConvSite, *, samples: int, seed: int) -> Moments:
    """Moments of the inputs of ``site`` in the network that ``walk`` goes through.

    Args:
        walk: Stands somewhere before the site; afterwards directly in front of it.
        site: A convolution of it.
        samples: Number of images.
        seed: Of the choice of output positions.
    """
    sampler = PatchSampler(site.geometry, rows_per_sample=rows_per_sample(site, samples), seed=seed)
    accumulator = MomentAccumulator(site.in_channels * site.taps)
    for values in walk.step([site.input_name], cut_before=site.node):
        source = values[site.input_name]
        chosen = sampler.choose(len(source), site.geometry.output_size(source.shape[2:]))
        accumulator.update(sampler.patches(source, *chosen))
    return accumulator.result()


def shifted_moments(
    original: ActivationWalk,
    rewritten: ActivationWalk,
    original_site: ConvSite,
    site: ConvSite,
    original_graph: ir.Graph,
    *,
    shortcut: str = "",
    kept_rows: int = 0,
    samples: int,
    seed: int,
) -> tuple[Moments, Rows]:
    """Moments of what ``site`` meets in the rewritten network against what is wanted from it.

    Wanted is what the original gave; in front of the sum of a residual block, what the original
    sum was less the shortcut as the *rewritten* network has it, so that the layer repairs what came
    through there too.

    Args:
        original: Walk through the original network, afterwards behind the site.
        rewritten: Walk through the rewritten network, afterwards in front of the site.
        original_site: The convolution in the original network.
        site: The same convolution, not rewritten yet, in the rewritten network.
        original_graph: The original's graph.
        shortcut: Name of the value that is added to the output in both networks, or empty.
        kept_rows: About how many rows to return beside the moments.
        samples: Number of images.
        seed: Of the choice of output positions.
    """
    per_sample = rows_per_sample(site, samples)
    sampler = PatchSampler(site.geometry, rows_per_sample=per_sample, seed=seed)
    accumulator = MomentAccumulator(site.in_channels * site.taps, site.out_channels)
    extra = [shortcut] if shortcut else []
    kept = _RowKeeper(kept_rows, seed)
    # strict=True runs both walks to their end, where each keeps its cut.
    pairs = zip(
        original.step(
            [original_site.output_name, *extra],
            cut_before=node_after(original_graph, original_site.node),
        ),
        rewritten.step([site.input_name, *extra], cut_before=site.node),
        strict=True,
    )
    for wanted, given in pairs:
        target, source = wanted[original_site.output_name], given[site.input_name]
        chosen = sampler.choose(len(source), target.shape[2:])
        patches = sampler.patches(source, *chosen)
        outputs = PatchSampler.outputs(target, *chosen)
        offsets = None
        # A shortcut that is broadcast is no residual block's.
        if shortcut and wanted[shortcut].shape == target.shape == given[shortcut].shape:
            offsets = PatchSampler.outputs(given[shortcut], *chosen)
            outputs = outputs + PatchSampler.outputs(wanted[shortcut], *chosen) - offsets
        accumulator.update(patches, outputs)
        if kept_rows:
            # A small map has fewer positions than rows were asked for.
            expected = samples * min(per_sample, math.prod(target.shape[2:]))
            kept.update(patches, outputs, offsets, expected)
    return accumulator.result(), kept.rows()


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Sampled rows of one layer, for fits that moments cannot express.

    Attributes:
        patches: (rows, C·K) float32, what the rewritten network feeds the layer.
        wanted: (rows, N) float32, the output that is wanted from the layer itself.
        offsets: (rows, N) float32, the rewritten shortcut that is added to it, or None.
    """

    patches: np.ndarray
    wanted: np.ndarray
    offsets: np.ndarray | None


class _RowKeeper:
    """Keeps the same share of every batch."""

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._generator = np.random.default_rng((seed, most))
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def update(
        self, patches: np.ndarray, wanted: np.ndarray, offsets: np.ndarray | None, expected: int
    ) -> None:
        share = min(1.0, self._most / max(expected, 1))
        count = math.ceil(share * len(patches))
        rows = np.sort(self._generator.choice(len(patches), count, replace=False))
        self._parts.append(
            (patches[rows], wanted[rows], None if offsets is None else offsets[rows])
        )

    def rows(self) -> Rows:
        if not self._parts:
            empty = np.zeros((0, 0), np.float32)
            return Rows(empty, empty, None)
        patches, wanted, offsets = zip(*self._parts, strict=True)
        together = None
        if all(part is not None for part in offsets):
            together = np.concatenate([part for part in offsets if part is not None])
        return Rows(np.concatenate(patches), np.concatenate(wanted), together)
